"""The unmodified `openstack` command against the REST API and a real conductor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.certificates import TestAuthority
from tests.fakes.control_plane import running_conductor
from tests.fakes.rest_admin import running_rest_with_admins
from tests.fakes.rest_server import RestClient, running_rest
from tests.integration.gateway_rest.test_control_plane import connected, running_task_manager
from trove_grpc.client import call
from trove_grpc.gen.conductor.v1 import (
    operation_service_pb2,
    operation_service_pb2_grpc,
    resources_pb2,
)
from trove_grpc.identity import Role

OPENSTACK = Path(sys.executable).with_name("openstack")
COMMAND_SECONDS = 60


class CommandError(Exception):
    """The command failed; its text is what a person would see."""


@contextlib.asynccontextmanager
async def deployed(tmp_path: Path, serve: Any) -> AsyncIterator[tuple[Any, ...]]:
    authority = TestAuthority()
    async with (
        running_conductor(tmp_path, authority) as conductor,
        running_task_manager(tmp_path / "taskmanager", authority) as (task_manager, address),
        connected(authority, tmp_path / "api", conductor.address, address) as control_plane,
        serve(control_plane) as client,
    ):
        yield client, conductor, task_manager, tmp_path


@pytest.fixture
async def deployment(tmp_path):
    async with deployed(tmp_path, running_rest) as deployment:
        yield deployment


@pytest.fixture
async def administered(tmp_path):
    async with deployed(tmp_path, running_rest_with_admins) as deployment:
        yield deployment


async def openstack(client: RestClient, home: Path, *arguments: str, read: bool = True) -> Any:
    """Run one command; its JSON output, or "" for commands that print none."""
    environment = {
        "HOME": str(home),  # the client keeps a cache there
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
    }
    process = await asyncio.create_subprocess_exec(
        OPENSTACK,
        *("--os-auth-type", "none", "--os-endpoint", client.endpoint),
        *arguments,
        *(("-f", "json") if read else ()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    async with asyncio.timeout(COMMAND_SECONDS):
        output, problems = await process.communicate()
    if process.returncode != 0:
        raise CommandError((output + problems).decode())
    return json.loads(output) if read else ""


async def test_client_creates_lists_shows_renames_and_deletes(deployment):
    client, conductor, task_manager, home = deployment

    created = await openstack(
        client,
        home,
        *("database", "instance", "create", "データ", "--flavor", "db.tiny", "--size", "1"),
        *("--datastore", "postgresql", "--databases", "app", "--users", "ada:Pa55word"),
    )
    listed = await openstack(client, home, "database", "instance", "list")
    with pytest.raises(CommandError, match=r"is not ready"):
        await openstack(client, home, "database", "instance", "delete", "データ", read=False)
    (operation_id,) = task_manager.woken
    await finish(conductor, operation_id)
    await openstack(
        client, home, "database", "instance", "update", "データ", "--name", "second", read=False
    )
    shown = await openstack(client, home, "database", "instance", "show", "second")
    await openstack(client, home, "database", "instance", "delete", "second", read=False)
    gone = await client.send("GET", f"/instances/{created['id']}")

    assert (created["status"], created["datastore"]) == ("BUILD", "postgresql")
    assert [row["ID"] for row in listed] == [created["id"]]
    assert (shown["id"], shown["name"]) == (created["id"], "second")
    assert gone.json["instance"]["status"] == "SHUTDOWN"
    assert len(task_manager.woken) == 2


async def test_client_lists_what_may_be_chosen(deployment):
    client, _conductor, _task_manager, home = deployment

    flavors = await openstack(client, home, "database", "flavor", "list")
    datastores = await openstack(client, home, "datastore", "list")
    versions = await openstack(client, home, "datastore", "version", "list", "postgresql")

    assert flavors[0]["Name"] == "db.tiny"
    assert [row["Name"] for row in datastores] == ["postgresql"]
    assert [row["Version"] for row in versions] == ["15"]


async def test_administrator_makes_changes_and_removes_versions(administered):
    client, _conductor, _task_manager, home = administered

    async def run(*arguments: str, read: bool = False) -> Any:
        return await openstack(client, home, *arguments, read=read)

    created = ("mysql", "mysql", "", "--image-tags", "trove,mysql", "--active", "--default")
    await run("datastore", "version", "create", "8.0", *created)
    (version,) = await run("datastore", "version", "list", "mysql", read=True)
    with pytest.raises(CommandError, match=r"Datastore versions exist for datastore mysql"):
        await run("datastore", "delete", "mysql")
    await run("datastore", "version", "set", version["ID"], "--version-name", "8.0-lts")
    (renamed,) = await run("datastore", "version", "list", "mysql", read=True)
    await run("datastore", "version", "delete", version["ID"])
    await run("datastore", "delete", "mysql")

    assert renamed["Name"] == "8.0-lts"
    assert [row["Name"] for row in await run("datastore", "list", read=True)] == ["postgresql"]


async def test_administrator_lists_every_projects_instances(administered):
    client, _conductor, _task_manager, home = administered
    for project in ("alpha", "beta"):
        body = {"instance": {"name": project, "flavorRef": "1", "volume": {"size": 1}}}
        await client.for_project(project).send("POST", "/instances", body)
    listed = await openstack(client, home, "database", "instance", "list", "--all-projects")
    one = await openstack(client, home, "database", "instance", "list", "--project", "beta")

    assert [(row["Name"], row["Tenant ID"]) for row in listed] == [
        ("beta", "beta"),
        ("alpha", "alpha"),
    ]
    assert [row["Name"] for row in one] == ["beta"]


async def finish(conductor, operation_id: str) -> None:
    """End an operation well, as the task manager would."""
    async with conductor.channel(Role.TASKMANAGER) as channel:
        stub = channel.stub(operation_service_pb2_grpc.OperationServiceStub)
        request = operation_service_pb2.FinishOperationRequest(
            operation_id=operation_id, state=resources_pb2.OPERATION_STATE_SUCCEEDED
        )
        await call(stub.FinishOperation, request, timeout=5)
