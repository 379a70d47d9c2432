// What Terraform's openstack_db_instance_v1 does with gophercloud: create, wait, read, delete, wait.
// Usage: clients ENDPOINT VERSION. Prints the states it saw; ends with 1 at one Terraform does not know.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/databases"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/instances"
	"github.com/gophercloud/gophercloud/v2/openstack/db/v1/users"
)

const (
	pause = time.Second
	limit = 2 * time.Minute
	// A state once the instance is gone, as Terraform calls it.
	deleted = "DELETED"
)

func main() {
	log.SetFlags(0)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	client := &gophercloud.ServiceClient{
		ProviderClient: &gophercloud.ProviderClient{TokenID: "none"},
		Endpoint:       strings.TrimRight(os.Args[1], "/") + "/",
		Type:           "database",
	}
	if err := run(ctx, client); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, client *gophercloud.ServiceClient) error {
	made, err := instances.Create(ctx, client, instances.CreateOpts{
		FlavorRef: "1",
		Size:      1,
		Name:      "terraform",
		Datastore: &instances.DatastoreOpts{Type: "postgresql", Version: os.Args[2]},
		Databases: databases.BatchCreateOpts{{Name: "app"}},
		Users: users.BatchCreateOpts{{
			Name:      "ada",
			Password:  "s3cret-Pass",
			Databases: databases.BatchCreateOpts{{Name: "app"}},
		}},
	}).Extract()
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := await(ctx, client, made.ID, []string{"BUILD"}, "ACTIVE"); err != nil {
		return err
	}
	if err := read(ctx, client, made.ID); err != nil {
		return err
	}
	if err := instances.Delete(ctx, client, made.ID).ExtractErr(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return await(ctx, client, made.ID, []string{"ACTIVE", "SHUTDOWN"}, deleted)
}

// await is Terraform's StateChangeConf: any state that is neither pending nor the target fails.
func await(
	ctx context.Context, client *gophercloud.ServiceClient, id string, pending []string, target string,
) error {
	last := ""
	for {
		state := deleted
		found, err := instances.Get(ctx, client, id).Extract()
		if err != nil && !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			return fmt.Errorf("get: %w", err)
		}
		if err == nil {
			state = found.Status
		}
		if state != last {
			fmt.Println(state)
			last = state
		}
		if state == target {
			return nil
		}
		if !slices.Contains(pending, state) {
			return fmt.Errorf("unexpected state %s, wanted target %s", state, target)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still %s: %w", state, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// read checks what Terraform keeps of an instance.
func read(ctx context.Context, client *gophercloud.ServiceClient, id string) error {
	found, err := instances.Get(ctx, client, id).Extract()
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if found.Name != "terraform" || found.Flavor.ID != "1" || found.Volume.Size != 1 ||
		found.Datastore.Type != "postgresql" || len(found.Addresses) == 0 || found.Created.IsZero() {
		return fmt.Errorf("read: not what was created: %+v", found)
	}
	pages, err := instances.List(client).AllPages(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	listed, err := instances.ExtractInstances(pages)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if !slices.ContainsFunc(listed, func(each instances.Instance) bool { return each.ID == id }) {
		return fmt.Errorf("list: %s is not in it", id)
	}
	return nil
}
