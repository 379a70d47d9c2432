"""What a user of openstacksdk does, run with the clients' own interpreter: endpoint, then verbs.

Prints a line of JSON for each verb; ends with 1 at the first that did not do what it should.
"""

from __future__ import annotations

import json
import sys

import openstack


def main() -> int:
    endpoint, *verbs = sys.argv[1:]
    database = openstack.connect(
        auth_type="none", endpoint=endpoint, database_endpoint_override=endpoint
    ).database
    for verb in verbs:
        sys.stdout.write(json.dumps({verb: VERBS[verb](database)}) + "\n")
    return 0


def flavors(database):
    found = list(database.flavors())
    return [database.get_flavor(found[0].id).name, *(each.name for each in found)]


def instances(database):
    return [each.name for each in database.instances()]


def life(database):
    """An instance from its creation to its end, as the SDK waits for both."""
    made = database.create_instance(
        name="sdk", flavor="1", volume={"size": 1}, datastore={"type": "postgresql"}
    )
    active = database.wait_for_status(
        made, status="ACTIVE", failures=["ERROR"], interval=1, wait=120
    )
    found = database.find_instance("sdk")
    database.update_instance(active, name="sdk-renamed")
    renamed = database.get_instance(made.id).name
    database.delete_instance(made.id)
    database.wait_for_delete(active, interval=1, wait=120)
    return [found.id == made.id, renamed, database.find_instance("sdk-renamed")]


VERBS = {"flavors": flavors, "instances": instances, "life": life}

if __name__ == "__main__":
    sys.exit(main())
