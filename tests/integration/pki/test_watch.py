"""What the issuer tells at once, and what it notes of guests that gateways see."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import time
import uuid

import grpc
import pytest
from google.protobuf import timestamp_pb2
from grpc import aio

from pki.issuer import inventory, watch_service
from pki.models import Subject
from pki.store import Store, denials, sightings
from tests.integration.pki.conftest import NOW, TENANT, Desk, RunningIssuer
from trove_grpc import errors
from trove_grpc.client import call
from trove_grpc.errors import InvalidRequestError, PermissionDeniedError
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb
from trove_grpc.gen.issuer.v1 import watch_service_pb2_grpc as watch_rpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory

NEVER = dt.timedelta(hours=1)
SECOND = dt.timedelta(seconds=1)


class Watcher:
    """One Watch stream."""

    def __init__(self, issuer: RunningIssuer, identity: IdentityDirectory, after: int) -> None:
        stub = issuer.channel(identity).stub(watch_rpc.WatchServiceStub)
        self.call = stub.Watch(watch_pb.WatchRequest(gateway_id="gw", after_sequence=after))

    async def next(self) -> watch_pb.WatchResponse:
        async with asyncio.timeout(10):
            return await self.call.read()

    async def until(self, claim) -> watch_pb.WatchResponse:
        while True:
            response = await self.next()
            if claim(response):
                return response

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(aio.AioRpcError) as caught:
            await self.until(lambda response: response is aio.EOF)
        return caught.value.code(), errors.from_rpc(caught.value).reason


async def watcher(
    issuer: RunningIssuer, role: Role = Role.GATEWAY, after: int = 0, host: str = "localhost"
) -> Watcher:
    return Watcher(issuer, await issuer.identity(role, host), after)


async def operator(issuer: RunningIssuer) -> rpc.IssuerServiceStub:
    from pki.enrolment import issue_operator

    identity = IdentityDirectory(issuer.root / "operator")
    if not identity.exists():
        await issue_operator(issuer.config.operator_socket, "ada", identity)
    return issuer.channel(identity).stub(rpc.IssuerServiceStub)


async def deny(issuer: RunningIssuer, kind: str, value: str) -> None:
    request = pb.CreateDenialRequest(
        kind=pb.DenialKind.Value(f"DENIAL_KIND_{kind}"), value=value, reason="told so"
    )
    await call((await operator(issuer)).CreateDenial, request, timeout=10)


async def register(issuer: RunningIssuer) -> str:
    instance_id = str(uuid.uuid4())
    tasks = await issuer.stub(Role.TASKMANAGER)
    request = pb.RegisterSubjectRequest(instance_id=instance_id, tenant_id=TENANT)
    await call(tasks.RegisterSubject, request, timeout=10)
    return instance_id


async def test_watcher_is_told_how_things_stand_and_then_of_each_denial_at_once(start_issuer):
    issuer = await start_issuer(denial_poll=NEVER, watch_interval=NEVER)
    await deny(issuer, "TENANT", "tenant-a")
    watching = await watcher(issuer)
    first = await watching.until(lambda response: response.denials)
    assert [each.value for each in first.denials] == ["tenant-a"]
    assert first.head_sequence == first.denials[0].sequence
    assert first.bundle_version > 0

    await deny(issuer, "TENANT", "tenant-b")
    second = await watching.next()
    assert [each.value for each in second.denials] == ["tenant-b"]


async def test_retirement_by_the_task_manager_is_told_at_once(start_issuer):
    issuer = await start_issuer(denial_poll=NEVER, watch_interval=NEVER)
    instance_id = await register(issuer)
    watching = await watcher(issuer)
    await watching.next()
    tasks = await issuer.stub(Role.TASKMANAGER)
    await call(tasks.RetireSubject, pb.RetireSubjectRequest(instance_id=instance_id), timeout=10)
    (denial,) = (await watching.next()).denials
    assert (denial.kind, denial.value) == (pb.DENIAL_KIND_INSTANCE, instance_id)


async def test_what_another_issuer_wrote_is_told_within_the_poll(start_issuer):
    issuer = await start_issuer(denial_poll=SECOND / 20, watch_interval=NEVER)
    watching = await watcher(issuer)
    await watching.next()
    other = Store(issuer.config.database_url)
    await asyncio.to_thread(
        other.run_now,
        lambda s: inventory.create_denial(
            s, denials.TENANT, "tenant-b", "stolen", actor="other", now=dt.datetime.now(dt.UTC)
        ),
    )
    other.close()
    assert [each.value for each in (await watching.next()).denials] == ["tenant-b"]


async def test_watcher_hears_signs_of_life_without_news(start_issuer):
    issuer = await start_issuer(watch_interval=SECOND / 20)
    watching = await watcher(issuer)
    first = await watching.next()
    for _ in range(3):
        assert await watching.next() == first


async def test_denials_beyond_a_page_follow_in_order(start_issuer, monkeypatch):
    monkeypatch.setattr(watch_service, "_PAGE", 2)
    issuer = await start_issuer(denial_poll=NEVER, watch_interval=NEVER)
    for number in range(5):
        await deny(issuer, "TENANT", f"tenant-{number}")
    watching = await watcher(issuer)
    pages: list[list[str]] = []
    while sum(map(len, pages)) < 5:
        pages.append([each.value for each in (await watching.next()).denials])
        assert len(pages[-1]) <= 2
    assert list(itertools.chain(*pages)) == [f"tenant-{number}" for number in range(5)]


async def test_watcher_that_knows_more_than_there_is_gets_everything(start_issuer):
    issuer = await start_issuer(denial_poll=NEVER, watch_interval=NEVER)
    await deny(issuer, "TENANT", "tenant-a")
    watching = await watcher(issuer, after=1000)
    everything = await watching.until(lambda response: response.denials)
    assert [each.value for each in everything.denials] == ["tenant-a"]


async def test_watchers_beyond_the_limit_are_told_to_ask(start_issuer):
    issuer = await start_issuer(watchers_limit=1, watch_interval=SECOND / 20)
    first = await watcher(issuer)
    await first.next()
    second = await watcher(issuer)
    assert await second.refusal() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    first.call.cancel()


async def test_one_service_does_not_take_the_place_of_all_others(start_issuer, monkeypatch):
    monkeypatch.setattr(watch_service, "_STREAMS_OF_ONE", 1)
    issuer = await start_issuer(watch_interval=SECOND / 20)
    first = await watcher(issuer)
    await first.next()
    again = await watcher(issuer)
    assert await again.refusal() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    await (await watcher(issuer, host="elsewhere")).next()
    first.call.cancel()


async def test_stream_of_a_service_ends_when_its_certificate_is_denied(start_issuer):
    issuer = await start_issuer(denial_poll=NEVER, watch_interval=NEVER)
    stolen = await issuer.identity(Role.CONDUCTOR, "stolen")
    watching = Watcher(issuer, stolen, 0)
    await watching.next()
    await deny(issuer, "SERIAL", stolen.load().facts.serial)
    refused = (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_DENIED")
    assert await watching.refusal() == refused
    assert await Watcher(issuer, stolen, 0).refusal() == refused


async def test_only_gateways_report_guests(issuer):
    conductor = issuer.channel(await issuer.identity(Role.CONDUCTOR))
    with pytest.raises(PermissionDeniedError):
        await call(
            conductor.stub(watch_rpc.WatchServiceStub).ReportGuests,
            watch_pb.ReportGuestsRequest(gateway_id="gw"),
            timeout=10,
        )


async def test_issuer_with_watchers_stops_without_waiting_for_them(issuer):
    watching = await watcher(issuer)
    await watching.next()
    began = time.monotonic()
    await issuer.stop()
    assert await watching.refusal() == (grpc.StatusCode.UNAVAILABLE, "NO_NEWS")
    assert time.monotonic() - began < 4  # the grace that streams are given is 5 s


async def report(issuer: RunningIssuer, gateway_id: str = "gw1", **fields) -> None:
    gateway = issuer.channel(await issuer.identity(Role.GATEWAY))
    request = watch_pb.ReportGuestsRequest(gateway_id=gateway_id, **fields)
    await call(gateway.stub(watch_rpc.WatchServiceStub).ReportGuests, request, timeout=10)


def sight(instance_id: str, *, at: dt.datetime | None = None, **fields) -> watch_pb.GuestSighting:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(at or dt.datetime.now(dt.UTC))
    return watch_pb.GuestSighting(instance_id=instance_id, seen_time=stamp, **fields)


def subject(issuer: RunningIssuer, instance_id: str) -> Subject:
    store = Store(issuer.config.database_url)
    try:
        row = store.run_now(lambda s: s.get(Subject, instance_id))
        assert row is not None
        return row
    finally:
        store.close()


async def test_sighting_is_noted_beside_its_subject(issuer):
    instance_id = await register(issuer)
    seen = sight(instance_id, serial="a1", engine_serial="e1", bundle_version=4)
    seen.clock_skew.FromTimedelta(dt.timedelta(milliseconds=-1500))
    await report(issuer, sightings=[seen, sight(str(uuid.uuid4()))])
    row = subject(issuer, instance_id)
    assert (row.is_online, row.gateway_id, row.seen_serial) == (True, "gw1", "a1")
    assert (row.engine_serial, row.held_bundle_version, row.clock_skew_ms) == ("e1", 4, -1500)


async def test_sighting_from_the_future_counts_as_of_now(issuer):
    instance_id = await register(issuer)
    await report(issuer, sightings=[sight(instance_id, at=dt.datetime.now(dt.UTC) + NEVER)])
    row = subject(issuer, instance_id)
    assert row.last_seen_time is not None
    assert row.last_seen_time <= dt.datetime.now(dt.UTC)


@pytest.mark.parametrize(
    "fields",
    [
        {"gateway_id": "../x"},
        {"sightings": [watch_pb.GuestSighting(instance_id="no uuid")]},
        {"sightings": [watch_pb.GuestSighting(instance_id=str(uuid.uuid4()), serial="' OR 1=1")]},
        {"sightings": [sight(str(uuid.uuid4()))] * 1001},
    ],
)
async def test_malformed_report_is_refused_as_a_whole(issuer, fields):
    with pytest.raises(InvalidRequestError):
        await report(issuer, **fields)


async def test_suspicion_quarantines_once_and_is_told_to_gateways(start_issuer):
    issuer = await start_issuer(denial_poll=NEVER, watch_interval=NEVER)
    instance_id = await register(issuer)
    watching = await watcher(issuer)
    await watching.next()
    suspicion = watch_pb.CloneSuspicion(
        instance_id=instance_id, serial="a1", newcomer_serial="a2", detail="boots 'x' and 'y'"
    )
    for _ in range(3):
        await report(issuer, suspicions=[suspicion])
    assert list((await watching.next()).quarantined_instance_ids) == [instance_id]
    row = subject(issuer, instance_id)
    assert row.quarantine_time is not None
    assert row.quarantine_reason


class Seen:
    """Sightings on a real database, at chosen times."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.instance_id = desk.register()

    def record(self, gateway_id: str, minute: int, *, is_gone: bool = False) -> int:
        sighting = sightings.Sighting(
            instance_id=self.instance_id,
            serial="a1",
            engine_serial="",
            bundle_version=1,
            is_gone=is_gone,
            clock_skew_ms=None,
            seen_time=NOW + dt.timedelta(minutes=minute),
        )
        return self.desk.store.run_now(lambda s: sightings.record(s, gateway_id, [sighting]))

    @property
    def where(self) -> str | None:
        row = self.desk.store.run_now(lambda s: s.get(Subject, self.instance_id))
        assert row is not None
        return row.gateway_id if row.is_online else None


def test_reports_of_two_gateways_may_cross(desk):
    seen = Seen(desk)
    seen.record("one", 1)
    assert seen.where == "one"
    seen.record("two", 3)
    seen.record("one", 4, is_gone=True)  # it found its stream dead only now
    assert seen.where == "two"
    seen.record("one", 2)  # sent again after an outage
    assert seen.where == "two"
    seen.record("two", 5, is_gone=True)
    assert seen.where is None
    seen.record("two", 3)
    assert seen.where is None


def test_guest_of_a_gateway_that_died_counts_as_gone_after_a_while(desk):
    seen = Seen(desk)
    seen.record("one", 1)
    lifetime = desk.config.sighting_lifetime
    for late, where in ((-SECOND, "one"), (SECOND, None)):
        now = NOW + dt.timedelta(minutes=1) + lifetime + late
        desk.store.run_now(lambda s, now=now: inventory.prune(s, desk.config, now))
        assert seen.where == where


def test_sightings_of_unknown_instances_are_counted_and_ignored(desk):
    seen = Seen(desk)
    seen.instance_id = str(uuid.uuid4())
    assert seen.record("one", 1) == 1
