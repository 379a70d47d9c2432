"""One contract for each peer, held by the fake and by the gRPC adapter alike."""

import pytest

from taskmanager.compute import Flavor, GuestSpec
from taskmanager.compute.local import LocalCompute
from taskmanager.grpc_peers import GrpcConductor, GrpcIssuer
from tests.fakes.taskmanager_peers import INSTANCE, OPERATION, TENANT, VERIFIER
from trove_grpc.client import PeerChannel
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError, UnavailableError
from trove_grpc.gen.common.v1 import engine_pb2, trust_pb2
from trove_grpc.gen.conductor.v1 import operation_service_pb2 as operations_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.guests import GrpcGateways, SessionGuests
from trove_grpc.identity import Role
from trove_grpc.redaction import Secret


@pytest.fixture(params=["fake", "grpc"])
async def clients(request, peers):
    """(conductor, issuer, compute, guests), direct or over real sockets."""
    if request.param == "fake":
        yield peers.conductor, peers.issuer, peers.compute, peers.guests
        return
    async with peers.serving() as addresses:
        identity = peers.identity(Role.TASKMANAGER)
        gateways = GrpcGateways(identity)
        compute = LocalCompute(
            addresses.supervisor,
            [Flavor(id="1", name="db.tiny", ram_mib=512, vcpus=1, disk_gib=0)],
        )
        peers.conductor.sessions[INSTANCE] = addresses.gateway
        async with (
            PeerChannel(
                [addresses.conductor], identity=identity, server_role=Role.CONDUCTOR
            ) as conductor,
            PeerChannel([addresses.issuer], identity=identity, server_role=Role.ISSUER) as issuer,
        ):
            grpc_conductor = GrpcConductor(conductor)
            guests = SessionGuests(grpc_conductor.lookup_session, gateways)
            yield grpc_conductor, GrpcIssuer(issuer), compute, guests
        await gateways.close()
        await compute.close()


@pytest.fixture
def conductor(clients, peers):
    peers.conductor.add_operation()
    return clients[0]


def spec(secret="t1", instance_id=INSTANCE) -> GuestSpec:
    return GuestSpec(
        instance_id=instance_id,
        tenant_id=TENANT,
        manager="postgresql",
        enrolment_token=Secret(secret),
        trust_bundle=trust_pb2.TrustBundle(trust_domain="local.trove", version=3),
        enrolment_endpoints=("127.0.0.1:1",),
        guest_endpoints=("127.0.0.1:2",),
    )


# --- conductor


async def test_open_operations_are_listed_over_every_page(conductor, peers):
    names = [OPERATION, *(f"operation-{number}" for number in range(4))]
    for name in names[1:]:
        peers.conductor.add_operation(name)
    listed = await conductor.list_open_operations()
    assert [operation.id for operation in listed] == names


async def test_an_operations_input_holds_no_verifier(conductor):
    given = await conductor.get_input(OPERATION)
    assert given.operation.instance_id == INSTANCE
    assert given.engine_port == 5432
    assert VERIFIER.encode() not in given.SerializeToString()


async def test_users_come_with_their_verifiers(conductor):
    (user,) = await conductor.get_users(OPERATION)
    assert (user.name, user.verifier) == ("alice", VERIFIER)


async def test_an_unknown_operation_is_not_found(conductor):
    with pytest.raises(NotFoundError):
        await conductor.get_input("nothing")


async def test_a_step_is_recorded_and_recorded_again(conductor, peers):
    for state in (resources_pb2.STEP_STATE_RUNNING, resources_pb2.STEP_STATE_SUCCEEDED) * 2:
        await conductor.record_step(OPERATION, "boot_guest", state, "detail")
    assert peers.conductor.steps() == {"boot_guest": "SUCCEEDED"}


async def test_an_operation_ends_once_and_takes_no_more_steps(conductor):
    fault = resources_pb2.Fault(message="m", details="d")
    for _ in range(2):
        await conductor.finish_operation(OPERATION, resources_pb2.OPERATION_STATE_FAILED, fault)
    with pytest.raises(ConflictError):
        await conductor.finish_operation(OPERATION, resources_pb2.OPERATION_STATE_SUCCEEDED)
    with pytest.raises(ConflictError):
        await conductor.record_step(OPERATION, "late", resources_pb2.STEP_STATE_RUNNING)
    assert (await conductor.get_input(OPERATION)).operation.fault.details == "d"
    assert not await conductor.list_open_operations()


async def test_a_placement_is_recorded(conductor, peers):
    placement = operations_pb2.Placement(compute_id="c", addresses=["127.0.0.9"])
    await conductor.record_placement(INSTANCE, placement)
    assert peers.conductor.placements[INSTANCE] == placement


async def test_a_guests_state_is_told(conductor, peers):
    assert not (await conductor.get_guest_state(INSTANCE)).is_present
    peers.conductor.set_guest(engine_pb2.ENGINE_STATE_FAILED, "disk")
    state = await conductor.get_guest_state(INSTANCE)
    assert (state.is_present, state.observation.reason) == (True, "disk")


async def test_a_guest_without_session_is_not_found(conductor):
    with pytest.raises(NotFoundError):
        await conductor.lookup_session("nobody")


# --- issuer


async def test_a_subject_is_registered_and_retired_as_often_as_one_likes(clients, peers):
    issuer = clients[1]
    for _ in range(2):
        await issuer.register_subject(
            INSTANCE, TENANT, dns_names=["a.db"], ip_addresses=["127.0.0.9"]
        )
        await issuer.retire_subject(INSTANCE, "because")
    assert peers.issuer.subjects[INSTANCE] == (TENANT, ("a.db",), ("127.0.0.9",))
    assert peers.issuer.retired[INSTANCE] == "because"


async def test_each_token_is_new_and_does_not_show_itself(clients):
    issuer = clients[1]
    first, second = [await issuer.mint_token(INSTANCE) for _ in range(2)]
    assert first.id != second.id
    assert first.secret.reveal() != second.secret.reveal()
    assert first.secret.reveal() not in repr(first)


async def test_tokens_are_voided_as_often_as_one_likes(clients, peers):
    issuer = clients[1]
    await issuer.mint_token(INSTANCE)
    for _ in range(2):
        await issuer.void_tokens(INSTANCE)
    assert peers.issuer.usable == set()


# --- guests


async def test_a_command_is_carried_out_once_however_often_it_is_sent(clients, peers):
    guests = clients[3]
    command = guest_pb2.Command(command_id="c1", ping=guest_pb2.PingAction())
    command.timeout.seconds = 5
    for _ in range(2):
        assert (await guests.send_command(INSTANCE, command)).command_id == "c1"
    assert (peers.guests.received, len(peers.guests.commands)) == (2, 1)


async def test_a_command_the_guest_refuses_is_its_error(clients, peers):
    guests = clients[3]
    peers.guests.failures["send_command"] = [InvalidRequestError("reserved name")]
    command = guest_pb2.Command(command_id="c2", ping=guest_pb2.PingAction())
    command.timeout.seconds = 5
    with pytest.raises(InvalidRequestError, match="reserved name"):
        await guests.send_command(INSTANCE, command)


# --- compute: the conformance suite of every driver


async def test_an_address_stays_the_same_and_belongs_to_one_instance(clients):
    compute = clients[2]
    first = await compute.allocate_address("i1", 5432)
    assert await compute.allocate_address("i1", 5432) == first
    assert await compute.allocate_address("i2", 5432) != first


async def test_a_guest_exists_after_ensure_and_ensuring_again_changes_nothing(clients):
    compute = clients[2]
    address = await compute.allocate_address(INSTANCE, 5432)
    first = await compute.ensure_guest(spec())
    again = await compute.ensure_guest(spec("t2"))
    assert first == again == await compute.find_guest(INSTANCE)
    assert (first.address, first.is_running) == (address, True)


async def test_a_guest_gets_all_it_needs_to_call_home(clients, peers):
    await clients[2].ensure_guest(spec())
    received = peers.compute.guests[INSTANCE]
    assert received.enrolment_token.reveal() == "t1"
    assert received.trust_bundle == spec().trust_bundle
    assert received.enrolment_endpoints == ("127.0.0.1:1",)
    assert received.guest_endpoints == ("127.0.0.1:2",)
    assert (received.tenant_id, received.manager) == (TENANT, "postgresql")


async def test_a_removed_guest_is_gone_and_may_be_removed_again(clients):
    compute = clients[2]
    await compute.ensure_guest(spec())
    for _ in range(2):
        await compute.remove_guest(INSTANCE)
    assert await compute.find_guest(INSTANCE) is None


async def test_a_guest_that_was_never_there_is_none(clients):
    assert await clients[2].find_guest("nobody") is None


async def test_flavors_are_listed(clients):
    assert [flavor.id for flavor in await clients[2].list_flavors()] == ["1"]


async def test_a_refusal_of_the_driver_keeps_its_kind(clients, peers):
    peers.compute.failures["ensure_guest"] = [ConflictError("no user left")]
    with pytest.raises(ConflictError, match="no user left"):
        await clients[2].ensure_guest(spec())


async def test_a_supervisor_that_is_away_is_unavailable(folder):
    compute = LocalCompute(folder / "nobody.sock", [])
    with pytest.raises(UnavailableError):
        await compute.remove_guest(INSTANCE)
    await compute.close()
