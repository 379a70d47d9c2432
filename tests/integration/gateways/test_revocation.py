"""Denials act everywhere: on streams at every gateway, on those who dial again, on services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.fakes.guest_stream import GuestStream
from tests.integration.gateways.conftest import Guest, Region, eventually
from trove_grpc import errors
from trove_grpc.client import PeerChannel, call, open_local_channel
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb
from trove_grpc.gen.issuer.v1 import watch_service_pb2_grpc as watch_rpc
from trove_grpc.identity import Role, identify

# Asking would find a denial too, much later: what acts here was told.
PUSH_ALONE = {"denial_poll": 60, "denial_backstop": 3600}


@pytest.fixture
async def pair(region: Region) -> Region:
    await region.start()
    for name in ("one", "two"):
        await region.start_gateway(name, **PUSH_ALONE)
    return region


async def deny(region: Region, kind: pb.DenialKind.ValueType, value: str) -> None:
    async with open_local_channel(region.issuer_config.operator_socket) as channel:
        request = pb.CreateDenialRequest(kind=kind, value=value, reason="told so")
        await call(rpc.IssuerServiceStub(channel).CreateDenial, request, timeout=10)


async def refusal_at(address: str, guest: Guest) -> str:
    """The reason a gateway gives to the guest's certificate."""
    stream = GuestStream(address, guest.identity)
    try:
        await stream.begin_silently()
        with pytest.raises(Exception) as caught:  # noqa: PT011  the reason is compared
            await stream.ended()
        return errors.from_rpc(caught.value).reason  # type: ignore[arg-type]
    finally:
        await stream.close()


def gateway_of(region: Region, guest: Guest) -> str:
    """Where the conductor holds its session to be."""
    ((name,),) = region.query(
        "SELECT gateway_id FROM guest_sessions WHERE instance_id = ? AND close_time IS NULL",
        guest.instance_id,
    )
    return str(name)


async def refused_everywhere(region: Region, guest: Guest) -> None:
    await guest.stop()
    for gateway in region.gateways.values():
        assert await refusal_at(gateway.guest, guest) == "CERTIFICATE_DENIED"


async def test_each_kind_of_denial_ends_the_stream_and_every_gateway_refuses_another(
    pair: Region,
) -> None:
    by_serial, by_key, by_instance, retired, bystander = [
        await pair.started_guest() for _ in range(5)
    ]

    def shown(guest: Guest):
        return identify(guest.identity.load().chain_pem, guest.identity.bundle())

    async def retire() -> None:
        issuer = await pair.issuer()
        request = pb.RetireSubjectRequest(instance_id=retired.instance_id)
        await call(issuer.RetireSubject, request, timeout=10)

    denials: list[tuple[Guest, Callable[[], Awaitable[None]]]] = [
        (by_serial, lambda: deny(pair, pb.DENIAL_KIND_SERIAL, shown(by_serial).serial)),
        (by_key, lambda: deny(pair, pb.DENIAL_KIND_KEY, shown(by_key).key_hash)),
        (by_instance, lambda: deny(pair, pb.DENIAL_KIND_INSTANCE, by_instance.instance_id)),
        (retired, retire),
    ]
    for guest, act in denials:
        await act()
        await eventually(lambda guest=guest: not guest.is_connected, "the stream ended")
        await refused_everywhere(pair, guest)
    assert bystander.is_connected
    await deny(pair, pb.DENIAL_KIND_GENERATION, "guest/1")
    await eventually(lambda: not bystander.is_connected, "its generation is denied")
    await refused_everywhere(pair, bystander)


async def test_denied_service_is_refused_by_every_internal_listener(pair: Region) -> None:
    stolen = await pair.identity(Role.TASKMANAGER, "stolen")
    honest = await pair.identity(Role.TASKMANAGER, "honest")
    listeners = {
        Role.CONDUCTOR: f"127.0.0.1:{pair.conductor_port}",
        Role.ISSUER: f"127.0.0.1:{pair.issuer_port}",
        Role.GATEWAY: pair.gateways["one"].internal,
    }

    async def answer(role: Role, address: str, identity) -> str:
        async with PeerChannel([address], identity=identity, server_role=role) as channel:
            health = channel.stub(health_pb2_grpc.HealthStub)
            try:
                await call(health.Check, health_pb2.HealthCheckRequest(), timeout=10)
            except errors.TroveError as error:
                return error.reason
            return "served"

    for role, address in listeners.items():
        assert await answer(role, address, stolen) == "served"
    await deny(pair, pb.DENIAL_KIND_SERIAL, stolen.load().facts.serial)
    for role, address in listeners.items():

        async def is_denied(role: Role = role, address: str = address) -> bool:
            return await answer(role, address, stolen) == "CERTIFICATE_DENIED"

        await eventually(is_denied, f"the {role} refuses it")
        assert await answer(role, address, honest) == "served"


async def test_report_stream_of_a_denied_gateway_ends_with_its_next_batch(pair: Region) -> None:
    guest = await pair.started_guest()
    await pair.prepare(guest)
    serials = [
        (await pair.identity(Role.GATEWAY, name)).load().facts.serial for name in pair.gateways
    ]
    for serial in serials:
        await deny(pair, pb.DENIAL_KIND_SERIAL, serial)

    def is_told(name: str) -> bool:
        lines = pair.gateways[name].log.read_text().splitlines()
        return any("the report stream ended" in line and "is denied" in line for line in lines)

    # Heartbeats go on twice a second; none of them is taken any more.
    where = gateway_of(pair, guest)
    await eventually(lambda: is_told(where), "its reports are refused")


async def test_issuer_hears_from_both_gateways_who_is_where(pair: Region) -> None:
    guests = [await pair.started_guest() for _ in range(6)]

    def noted() -> set[tuple[str, int, str]]:
        rows = pair.query(
            "SELECT instance_id, is_online, seen_serial FROM subjects",
            database=pair.root / "pki.db",
        )
        return {tuple(row) for row in rows}

    expected = {(each.instance_id, 1, each.identity.load().facts.serial) for each in guests}
    await eventually(lambda: noted() == expected, "everybody is noted as online")
    await guests[0].stop()
    gone = (guests[0].instance_id, 0, guests[0].identity.load().facts.serial)
    await eventually(lambda: gone in noted(), "who left is noted as gone")


async def test_suspicion_at_one_gateway_holds_back_changes_at_the_other(pair: Region) -> None:
    """Quarantine is the issuer's to say, so that no gateway decides alone."""
    guest = await pair.started_guest()
    await pair.prepare(guest)
    channel = await pair.channel(Role.GATEWAY, Role.ISSUER, pair.issuer_port)
    suspicion = watch_pb.CloneSuspicion(instance_id=guest.instance_id, serial="a1")
    await call(
        channel.stub(watch_rpc.WatchServiceStub).ReportGuests,
        watch_pb.ReportGuestsRequest(gateway_id="elsewhere", suspicions=[suspicion]),
        timeout=10,
    )
    assert [subject for subject, _ in pair.audit("quarantine")] == [guest.instance_id]

    from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb

    taskmanager = await pair.guests()
    numbers = iter(range(1000))

    async def is_held_back() -> bool:
        command = guest_pb.Command(
            command_id=f"restart-{next(numbers)}", restart=guest_pb.RestartAction()
        )
        command.timeout.FromSeconds(10)
        try:
            await taskmanager.send_command(guest.instance_id, command)
        except errors.ConflictError as error:
            return error.reason == "CLONE_SUSPECTED"
        return False

    await eventually(is_held_back, "commands that change it are refused")
    assert guest.is_connected
