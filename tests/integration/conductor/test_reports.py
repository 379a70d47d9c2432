"""Sessions, heartbeats, changes and backup updates, over mutual TLS."""

from __future__ import annotations

import asyncio
import datetime as dt
import sqlite3
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from conductor.executor import Database
from conductor.models import Backup
from tests.fakes.certificates import TestAuthority
from tests.fakes.conductor_client import (
    ConductorClient,
    backup_update,
    change,
    client_of,
    heartbeat,
)
from tests.fakes.control_plane import RunningConductor, running_conductor
from tests.fakes.database_servers import KINDS
from tests.fakes.state_databases import ServerOf
from trove_grpc.client import call
from trove_grpc.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import instance_service_pb2, report_service_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

CRASHED = engine_pb2.ENGINE_STATE_CRASHED
COMPLETED = guest_pb2.BACKUP_STATE_COMPLETED


class Clock:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.time = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += dt.timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def conductor(
    tmp_path: Path, authority: TestAuthority, clock: Clock
) -> AsyncIterator[RunningConductor]:
    async with running_conductor(tmp_path, authority, now=clock) as running:
        yield running


@pytest.fixture
async def client(conductor: RunningConductor) -> AsyncIterator[ConductorClient]:
    async with client_of(conductor) as client:
        yield client


def stored(conductor: RunningConductor, instance_id: str) -> tuple[str, int]:
    """(engine state, sequence) in the file."""
    connection = sqlite3.connect(conductor.folder / "conductor.db")
    try:
        row: tuple[str, int] = connection.execute(
            "select engine_state, sequence from guest_presence where instance_id = ?",
            (instance_id,),
        ).fetchone()
        return row
    finally:
        connection.close()


async def test_heartbeats_keep_an_instance_healthy_with_few_writes(
    client: ConductorClient, conductor: RunningConductor, clock: Clock
) -> None:
    instance = await client.create_active()
    epoch = await client.open_session(instance)
    async with client.reporting() as uplink:
        for sequence in range(1, 30):
            clock.advance(10)
            await uplink.send(heartbeat(instance, epoch, sequence))
            await uplink.settle()
    shown = await client.view(instance)
    assert (shown.status, shown.operating_status) == ("ACTIVE", "HEALTHY")
    assert shown.last_report_time.ToDatetime(dt.UTC) == clock.time
    assert stored(conductor, instance) == ("HEALTHY", 27)


async def test_silent_agent_shows_and_says_why_until_it_reports_again(
    client: ConductorClient, clock: Clock
) -> None:
    instance = await client.create_active()
    await client.lease()
    epoch = await client.open_session(instance)
    clock.advance(14)
    assert (await client.guest_state(instance)).is_present
    clock.advance(110)
    shown = await client.view(instance)
    assert (shown.status, shown.operating_status) == ("ACTIVE", "ERROR")
    assert "no report from its guest agent for 2 min 4 s" in shown.operating_status_reason
    assert not (await client.guest_state(instance)).is_present
    async with client.reporting() as uplink:
        await uplink.send(heartbeat(instance, epoch, 1))
        await uplink.settle()
    shown = await client.view(instance)
    assert (shown.operating_status, shown.operating_status_reason) == ("HEALTHY", "")


async def test_change_shows_at_once_and_is_acknowledged(client: ConductorClient) -> None:
    instance = await client.create_active()
    epoch = await client.open_session(instance)
    async with client.reporting() as uplink:
        await uplink.send(change(instance, epoch, 1, CRASHED, reason="signal 9"))
        assert await uplink.acknowledgements() == [("c1", "")]
        shown = await client.view(instance)
        assert (shown.operating_status, shown.operating_status_reason) == ("SHUTDOWN", "signal 9")
        await uplink.send(change(instance, epoch, 2, change_id="c2", start_count=2))
        assert await uplink.acknowledgements() == [("c2", "")]
    shown = await client.view(instance)
    assert (shown.operating_status, shown.observation.start_count) == ("HEALTHY", 2)


async def test_change_sent_again_in_a_new_session_is_acknowledged_and_not_applied(
    client: ConductorClient,
) -> None:
    instance = await client.create_active()
    epoch = await client.open_session(instance)
    async with client.reporting() as uplink:
        await uplink.send(change(instance, epoch, 1, CRASHED))
        await uplink.acknowledgements()  # lost on its way to the agent
        epoch = await client.open_session(instance)
        await uplink.send(change(instance, epoch, 1, CRASHED))
        assert await uplink.acknowledgements() == [("c1", "")]
    assert (await client.view(instance)).operating_status == "HEALTHY"


async def test_report_of_an_older_session_is_dropped_without_an_answer(
    client: ConductorClient,
) -> None:
    instance = await client.create_active()
    old = await client.open_session(instance)
    new = await client.open_session(instance)
    assert new == old + 1
    async with client.reporting() as uplink:
        await uplink.send(
            heartbeat(instance, old, 100, CRASHED), change(instance, old, 101, CRASHED)
        )
        await uplink.send(change(instance, new, 1, change_id="c2"))
        assert await uplink.acknowledgements() == [("c2", "")]
        # Not forgotten: its agent sends it again in the session it has now.
        await uplink.send(change(instance, new, 2, CRASHED))
        assert await uplink.acknowledgements() == [("c1", "")]
    assert (await client.view(instance)).operating_status == "SHUTDOWN"


async def test_change_overtaken_by_a_heartbeat_is_committed_and_changes_nothing(
    client: ConductorClient,
) -> None:
    instance = await client.create_active()
    epoch = await client.open_session(instance)
    async with client.reporting() as uplink:
        await uplink.send(
            heartbeat(instance, epoch, 8), change(instance, epoch, 7, CRASHED, change_id="c7")
        )
        assert await uplink.acknowledgements() == [("c7", "")]
        assert (await client.view(instance)).operating_status == "HEALTHY"
        await uplink.send(heartbeat(instance, epoch, 9))
        await uplink.settle()
    assert (await client.view(instance)).operating_status == "HEALTHY"


async def test_heartbeats_go_on_in_a_restarted_conductor(
    tmp_path: Path, authority: TestAuthority, clock: Clock
) -> None:
    async with (
        running_conductor(tmp_path, authority, now=clock) as first,
        client_of(first) as client,
    ):
        instance = await client.create_active()
        epoch = await client.open_session(instance)
        await client.lease()
    async with (
        running_conductor(tmp_path, authority, now=clock) as second,
        client_of(second) as client,
    ):
        assert (await client.view(instance)).operating_status == "HEALTHY"
        clock.advance(1000)
        assert (await client.view(instance)).operating_status == "ERROR"
        async with client.reporting() as uplink:
            await uplink.send(heartbeat(instance, epoch, 5))
            await uplink.settle()
        assert (await client.view(instance)).operating_status == "HEALTHY"
        # The gateway was not restarted: with its lease renewed its sessions are there again.
        with pytest.raises(NotFoundError):
            await client.lookup(instance)
        await client.lease()
        assert (await client.lookup(instance)).session_epoch == epoch
        assert await client.open_session(instance) == epoch + 1


@pytest.mark.parametrize("kind", KINDS)
async def test_two_conductors_show_one_guest_alike(
    tmp_path: Path,
    authority: TestAuthority,
    clock: Clock,
    database_servers: ServerOf,
    kind: str,
) -> None:
    url = database_servers(kind).new_database()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    key = tmp_path / "sealing.key"
    shared = {"database_url": url, "sealing_key_file": key, "now": clock}
    async with (
        running_conductor(tmp_path / "a", authority, **shared) as one,
        running_conductor(tmp_path / "b", authority, **shared) as two,
        client_of(one) as here,
        client_of(two) as there,
    ):
        instance = await here.create_active()
        epoch = await there.open_session(instance)  # granted there, reported here
        async with here.reporting() as uplink, there.reporting() as other:
            for sequence in range(1, 20):
                clock.advance(10)
                await uplink.send(heartbeat(instance, epoch, sequence))
                await uplink.settle()
            for each in (here, there):
                assert (await each.view(instance)).operating_status == "HEALTHY"
            await uplink.send(change(instance, epoch, 20, CRASHED))
            await uplink.acknowledgements()
            for each in (here, there):
                assert (await each.view(instance)).operating_status == "SHUTDOWN"
            # The agent reconnects to a gateway that reports to the other one.
            epoch = await here.open_session(instance, state=CRASHED)
            await other.send(heartbeat(instance, epoch, 1))
            await other.settle()
            await uplink.send(heartbeat(instance, epoch - 1, 21, CRASHED))
            await uplink.settle()
            for each in (here, there):
                assert (await each.view(instance)).operating_status == "HEALTHY"


async def test_unknown_retired_and_foreign_guests_get_no_session(client: ConductorClient) -> None:
    instance = await client.create_active()
    with pytest.raises(NotFoundError) as unknown:
        await client.open_session(str(uuid.uuid4()))
    assert unknown.value.reason == "UNKNOWN_INSTANCE"
    with pytest.raises(PermissionDeniedError) as foreign:
        await client.open_session(instance, tenant_id="other")
    assert foreign.value.reason == "TENANT_MISMATCH"
    await client.finish(await client.delete(instance))
    with pytest.raises(ConflictError) as retired:
        await client.open_session(instance)
    assert retired.value.reason == "INSTANCE_RETIRED"


async def test_concurrent_sessions_of_a_guest_get_different_epochs(
    client: ConductorClient,
) -> None:
    instance = await client.create_active()
    epochs = await asyncio.gather(*(client.open_session(instance) for _ in range(10)))
    assert sorted(epochs) == list(range(1, 11))


async def test_reports_of_a_deleted_instance_are_dropped(client: ConductorClient) -> None:
    instance = await client.create_active()
    epoch = await client.open_session(instance)
    await client.finish(await client.delete(instance))
    async with client.reporting() as uplink:
        await uplink.send(
            heartbeat(instance, epoch, 1),
            change(instance, epoch, 2),
            change("nobody", 1, 1, change_id="c9"),
            change("a\x00b", 1, 1, change_id="c8"),
        )
        assert await uplink.acknowledgements() == [
            ("c9", "UNKNOWN_INSTANCE"),
            ("c8", "UNKNOWN_INSTANCE"),
        ]


async def test_lookup_finds_the_gateway_while_its_lease_runs(
    client: ConductorClient, clock: Clock
) -> None:
    instance = await client.create_active()
    await client.lease("g1")
    await client.open_session(instance, gateway_id="g1")
    found = await client.lookup(instance)
    assert (found.gateway_id, found.gateway_address, found.session_epoch) == ("g1", "g1:1", 1)
    clock.advance(14)
    await client.lease("g1")
    clock.advance(14)
    await client.lookup(instance)
    clock.advance(2)
    with pytest.raises(NotFoundError) as caught:
        await client.lookup(instance)
    assert caught.value.reason == "NO_SESSION"
    assert not (await client.guest_state(instance)).is_present


async def test_restarted_gateway_has_lost_the_sessions_it_held(client: ConductorClient) -> None:
    instance = await client.create_active()
    await client.lease("g1", "i1")
    await client.open_session(instance, incarnation="i1")
    await client.lease("g1", "i2")
    with pytest.raises(NotFoundError):
        await client.lookup(instance)
    await client.open_session(instance, incarnation="i2")
    assert (await client.lookup(instance)).incarnation == "i2"


async def test_close_of_an_older_session_leaves_the_newer_one(client: ConductorClient) -> None:
    instance = await client.create_active()
    await client.lease()
    old = await client.open_session(instance)
    new = await client.open_session(instance)
    await client.close_session(instance, old)
    assert (await client.lookup(instance)).session_epoch == new
    await client.close_session(instance, new)
    await client.close_session(instance, new)
    with pytest.raises(NotFoundError):
        await client.lookup(instance)


async def test_guest_moves_only_its_own_backups_and_only_forward(
    client: ConductorClient, conductor: RunningConductor, clock: Clock
) -> None:
    instance, other = await client.create_active(), await client.create_active()
    with Database(conductor.config.database_url) as database:
        await database.write(
            lambda session: session.add_all(
                Backup(
                    id=name,
                    tenant_id="demo",
                    instance_id=owner,
                    name=name,
                    state="NEW",
                    create_time=clock(),
                    update_time=clock(),
                )
                for name, owner in (("mine", instance), ("theirs", other))
            )
        )
        epoch = await client.open_session(instance)
        assert (await client.view(instance)).status == "BACKUP"
        async with client.reporting() as uplink:
            done = {"state": COMPLETED, "size_bytes": 7, "checksum": "abc"}
            failed = {"state": guest_pb2.BACKUP_STATE_FAILED, "reason": "disk full"}
            for sequence, (update, expected) in enumerate(
                [
                    ({"update_id": "u1", "backup_id": "mine", **done}, ""),
                    ({"update_id": "u1", "backup_id": "mine", **done}, ""),
                    ({"update_id": "u2", "backup_id": "mine", **failed}, "BACKUP_FINAL"),
                    ({"update_id": "u3", "backup_id": "theirs", **done}, "UNKNOWN_BACKUP"),
                    ({"update_id": "u4", "backup_id": "nope", **done}, "UNKNOWN_BACKUP"),
                    ({"update_id": "u5", "backup_id": "mine", "state": 0}, "BAD_BACKUP_STATE"),
                    ({"update_id": "u6", "backup_id": "mine", "state": 99}, "BAD_BACKUP_STATE"),
                    ({"update_id": "", "backup_id": "mine", **done}, "BAD_REPORT_ID"),
                    ({"update_id": "x" * 129, "backup_id": "mine", **done}, "BAD_REPORT_ID"),
                ],
                start=1,
            ):
                await uplink.send(backup_update(instance, epoch, sequence, **update))
                assert await uplink.acknowledgements() == [(update["update_id"], expected)]
        mine = await database.read(lambda session: session.get_one(Backup, "mine"))
        theirs = await database.read(lambda session: session.get_one(Backup, "theirs"))
    assert (mine.state, mine.size_bytes, mine.checksum, mine.reason) == ("COMPLETED", 7, "abc", "")
    assert (theirs.state, theirs.size_bytes) == ("NEW", 0)
    assert (await client.view(instance)).status == "ACTIVE"


async def test_stop_ends_a_gateway_s_idle_stream_at_once(
    tmp_path: Path, authority: TestAuthority
) -> None:
    patience = dt.timedelta(seconds=60)
    async with asyncio.timeout(30):
        async with running_conductor(tmp_path, authority, drain_timeout=patience) as running:
            clients = client_of(running)
            client = await clients.__aenter__()
            uplink = client.reports.Report()
            await uplink.write(report_service_pb2.ReportRequest())
            await uplink.wait_for_connection()
        assert await uplink.code() is grpc.StatusCode.UNAVAILABLE
        await clients.__aexit__(None, None, None)


@pytest.mark.parametrize("token", ["", "zzz", "a\x00b", "ffff"])
async def test_any_text_is_a_place_among_instances(client: ConductorClient, token: str) -> None:
    await client.create()
    request = {"tenant_id": "demo", "page_token": token, "page_size": 1_000}
    response = await call(
        client.instances.ListInstanceViews,
        instance_service_pb2.ListInstanceViewsRequest(**request),
        timeout=5,
    )
    assert response.next_page_token == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": ""},
        {"tenant_id": "UPPER"},
        {"tenant_id": "a/../b"},
        {"name": ""},
        {"name": "x" * 256},
        {"name": "a\x00b"},
        {"volume_size_gib": 0},
        {"volume_size_gib": -5},
        {"databases": [engine_pb2.DatabaseSpec(name="a")] * 2},
        {"databases": [engine_pb2.DatabaseSpec()]},
        {"users": [engine_pb2.UserSpec(name="u", databases=["none"])]},
        {"users": [engine_pb2.UserSpec(name="u"), engine_pb2.UserSpec(name="u", host="%")]},
    ],
)
async def test_create_that_cannot_be_meant_is_refused(
    client: ConductorClient, changes: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequestError):
        await client.create(**changes)
