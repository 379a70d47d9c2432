"""Who is refused, where, with which reason; and how a live stream ends when its time has come."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid

import grpc
import pytest
from google.protobuf import timestamp_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.fakes.fake_conductor import until
from tests.integration.gateway_guest.conftest import TENANT
from trove_grpc import errors
from trove_grpc.client import PeerChannel, call, open_enrolment_channel
from trove_grpc.gen.common.v1 import engine_pb2, trust_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2 as dispatch_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2_grpc as dispatch_rpc
from trove_grpc.gen.guest.v1 import accounts_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2_grpc as guest_rpc
from trove_grpc.gen.guest.v1 import identity_service_pb2 as identity_pb2
from trove_grpc.gen.guest.v1 import identity_service_pb2_grpc as identity_rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.identity import Role, serial_hex

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


def seconds(value):
    return dt.timedelta(seconds=value)


async def refusal(awaitable):
    """(status, reason) of a call that must be refused."""
    with pytest.raises(aio.AioRpcError) as caught:
        await awaitable
    return caught.value.code(), errors.from_rpc(caught.value).reason


def serial(identity):
    return serial_hex(identity.load().leaf)


async def test_guest_the_conductor_does_not_know_is_refused_at_open(world):
    await world.start()
    _, identity = world.guest_identity(known=False)
    assert await refusal(world.stream(identity).open()) == (PERMISSION_DENIED, "UNKNOWN_INSTANCE")


async def test_guest_of_a_deleted_instance_is_refused_at_open(world):
    await world.start()
    instance_id, identity = world.guest_identity()
    world.conductor.retired.add(instance_id)
    assert await refusal(world.stream(identity).open()) == (PERMISSION_DENIED, "INSTANCE_RETIRED")


async def test_guest_with_another_tenants_name_is_refused_at_open(world):
    await world.start()
    instance_id = str(uuid.uuid4())
    world.conductor.tenants[instance_id] = "tenant-a"
    _, identity = world.guest_identity(instance_id, tenant="tenant-b")
    assert await refusal(world.stream(identity).open()) == (PERMISSION_DENIED, "TENANT_MISMATCH")


async def test_a_false_tenant_casts_no_doubt_on_the_guest_that_is_there(world):
    await world.start()
    instance_id, _ = await world.guest()
    _, identity = world.guest_identity(instance_id, tenant="tenant-b")
    stranger = world.stream(identity, boot_id="boot-2")
    assert await refusal(stranger.open()) == (PERMISSION_DENIED, "TENANT_MISMATCH")
    command = pb2.Command(command_id="stop-1", stop=pb2.StopAction())
    request = dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=command)
    with pytest.raises(errors.DeadlineError):  # sent, not refused as a clone's
        await call(world.dispatch().SendCommand, request, timeout=0.3)


@pytest.mark.parametrize(
    "kind",
    [
        issuer_pb2.DENIAL_KIND_SERIAL,
        issuer_pb2.DENIAL_KIND_INSTANCE,
        issuer_pb2.DENIAL_KIND_TENANT,
        issuer_pb2.DENIAL_KIND_GENERATION,
    ],
)
async def test_denied_guest_is_refused_at_open(world, kind):
    instance_id, identity = world.guest_identity()
    value = {
        issuer_pb2.DENIAL_KIND_SERIAL: serial(identity),
        issuer_pb2.DENIAL_KIND_INSTANCE: instance_id,
        issuer_pb2.DENIAL_KIND_TENANT: "tenant-a",
        issuer_pb2.DENIAL_KIND_GENERATION: "guest/1",
    }[kind]
    world.issuer.deny(kind, value)
    await world.start()
    assert await refusal(world.stream(identity).open()) == (UNAUTHENTICATED, "CERTIFICATE_DENIED")
    assert world.conductor.opened == []


async def test_refusals_are_told_to_the_issuers_audit(world):
    await world.start(refusal_report=seconds(0.05))
    instance_id, identity = world.guest_identity(known=False)
    for _ in range(2):
        await refusal(world.stream(identity).open())
    await until(lambda: sum(each.count for each in world.issuer.refusals) == 2)
    told = world.issuer.refusals[0]
    assert (told.reason, told.peer_address) == ("UNKNOWN_INSTANCE", "127.0.0.1")
    assert told.caller.endswith(f"/instance/{instance_id}")


async def test_a_gateway_that_leaves_tells_what_it_refused(world):
    await world.start(refusal_report=seconds(3600))
    _, identity = world.guest_identity(known=False)
    await refusal(world.stream(identity).open())
    await world.leave()
    assert [each.count for each in world.issuer.refusals] == [1]


async def test_denial_ends_a_live_stream_and_the_guest_hears_why(world):
    await world.start()
    instance_id, guest = await world.guest()
    _, other = await world.guest()
    world.issuer.deny(issuer_pb2.DENIAL_KIND_INSTANCE, instance_id, reason="stolen")
    assert await refusal(guest.ended(seconds=5)) == (UNAUTHENTICATED, "CERTIFICATE_DENIED")
    await other.send(heartbeat=pb2.Heartbeat())
    await until(lambda: world.conductor.reports)
    await until(lambda: [c.reason for c in world.conductor.closed] == ["CERTIFICATE_DENIED"])
    again = world.stream(guest_identity_of(guest))
    assert await refusal(again.open()) == (UNAUTHENTICATED, "CERTIFICATE_DENIED")


async def test_denial_that_comes_while_the_conductor_is_asked_refuses_the_stream(world):
    await world.start()
    instance_id, identity = world.guest_identity()
    world.conductor.lets_open.clear()
    opening = asyncio.create_task(refusal(world.stream(identity).open()))
    await until(lambda: world.conductor.opened)
    world.issuer.deny(issuer_pb2.DENIAL_KIND_INSTANCE, instance_id)
    polls = world.issuer.polls
    await until(lambda: world.issuer.polls > polls + 2)
    world.conductor.lets_open.set()
    assert await opening == (UNAUTHENTICATED, "CERTIFICATE_DENIED")
    await until(lambda: [c.reason for c in world.conductor.closed] == ["CERTIFICATE_DENIED"])


async def test_denial_acts_on_a_live_stream_from_its_effective_time(world):
    await world.start()
    _, guest = await world.guest()
    effective = timestamp_pb2.Timestamp()
    effective.FromDatetime(dt.datetime.now(dt.UTC) + seconds(1.5))
    world.issuer.deny(
        issuer_pb2.DENIAL_KIND_SERIAL,
        serial(guest_identity_of(guest)),
        effective_time=effective,
    )
    polls = world.issuer.polls
    await until(lambda: world.issuer.polls > polls + 2)
    await guest.send(heartbeat=pb2.Heartbeat())
    await until(lambda: world.conductor.reports)
    assert await refusal(guest.ended(seconds=5)) == (UNAUTHENTICATED, "CERTIFICATE_DENIED")
    assert dt.datetime.now(dt.UTC) >= effective.ToDatetime(dt.UTC)


async def test_guest_that_does_not_read_is_let_go(world):
    await world.start(write_stall=seconds(0.5))
    instance_id, identity = world.guest_identity()
    guest = world.stream(identity)
    guest.call = guest.channel.stub(guest_rpc.GuestSessionServiceStub).Connect()
    await guest.send(hello=guest.hello)
    await until(lambda: world.conductor.opened)
    dispatch = world.dispatch()
    prepare = pb2.PrepareAction(manager="x" * 1_000_000)
    sending = [
        call(
            dispatch.SendCommand,
            dispatch_pb2.SendCommandRequest(
                instance_id=instance_id,
                command=pb2.Command(command_id=f"big-{number}", prepare=prepare),
            ),
            timeout=20,
        )
        for number in range(16)
    ]
    answers = await asyncio.gather(*sending, return_exceptions=True)
    assert {type(answer) for answer in answers} == {errors.SessionMovedError}
    await until(lambda: [c.reason for c in world.conductor.closed] == ["SLOW_GUEST"])
    await world.guest()


async def test_streams_of_one_instance_are_bounded_until_they_end(world):
    await world.start(streams_per_instance=2)
    instance_id, identity = world.guest_identity()
    first = world.stream(identity)
    await first.open()
    _, renewed = world.guest_identity(instance_id)
    second = world.stream(renewed)
    await second.open()
    code, reason = await refusal(world.stream(identity).open())
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    await second.close()
    await until(lambda: world.conductor.closed)

    async def opens():
        again = world.stream(identity)
        try:
            await again.open()
        except aio.AioRpcError:
            await again.close()
            return False
        return True

    async with asyncio.timeout(10):
        while not await opens():
            pass


async def test_stream_ends_with_its_certificate(world):
    await world.start()
    _, identity = world.guest_identity(lifetime=seconds(2))
    guest = world.stream(identity)
    await guest.open()
    assert await refusal(guest.ended(seconds=5)) == (UNAUTHENTICATED, "CERTIFICATE_EXPIRED")
    assert identity.load().leaf.not_valid_after_utc <= dt.datetime.now(dt.UTC)
    # The connection is still open; its certificate is judged again for every call.
    assert await refusal(
        guest.identity.GetTrustBundle(identity_pb2.GetTrustBundleRequest(), timeout=5)
    ) == (UNAUTHENTICATED, "CERTIFICATE_EXPIRED")


async def test_expired_guest_does_not_finish_the_handshake(world):
    await world.start()
    _, identity = world.guest_identity(expired=True)
    code, _ = await refusal(world.stream(identity).open())
    assert code is grpc.StatusCode.UNAVAILABLE
    assert world.conductor.opened == []


@pytest.mark.parametrize("role", [Role.TASKMANAGER, Role.GATEWAY, Role.OPERATOR])
async def test_service_and_operator_certificates_are_refused_on_the_guest_listener(world, role):
    await world.start()
    channel = world.peer(role, world.endpoints.guest)
    code, _ = await refusal(
        channel.stub(identity_rpc.IdentityServiceStub).GetTrustBundle(
            identity_pb2.GetTrustBundleRequest(), timeout=5
        )
    )
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_guest_certificate_is_refused_on_the_internal_listener(world):
    await world.start()
    instance_id, identity = world.guest_identity()
    async with PeerChannel(
        [world.endpoints.internal], identity=identity, server_role=Role.GATEWAY
    ) as channel:
        code, _ = await refusal(
            channel.stub(dispatch_rpc.DispatchServiceStub).SendCommand(
                dispatch_pb2.SendCommandRequest(instance_id=instance_id), timeout=5
            )
        )
    assert code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("role", [Role.CONDUCTOR, Role.GATEWAY, Role.ISSUER, Role.OPERATOR])
async def test_only_the_task_manager_and_the_api_may_send_commands(world, role):
    await world.start()
    code, _ = await refusal(
        world.dispatch(role).SendCommand(dispatch_pb2.SendCommandRequest(), timeout=5)
    )
    assert code is PERMISSION_DENIED


def commands_to(guest):
    return [message for message in guest.received if message.HasField("command")]


def from_api(instance_id, command_id="api/1", tenant=TENANT, **action):
    action = action or {"enable_root": accounts_pb2.EnableRootAction()}
    command = pb2.Command(command_id=command_id, **action)
    return dispatch_pb2.SendCommandRequest(
        instance_id=instance_id, tenant_id=tenant, command=command
    )


@pytest.mark.parametrize("action", ["prepare", "start", "stop", "restart"])
async def test_api_may_not_send_what_is_done_to_the_engine_itself(world, action):
    await world.start()
    instance_id, guest = await world.guest()
    request = from_api(instance_id)
    getattr(request.command, action).SetInParent()
    code, reason = await refusal(world.dispatch(Role.API).SendCommand(request, timeout=5))
    assert (code, reason) == (PERMISSION_DENIED, "ACTION_NOT_ALLOWED")
    assert not commands_to(guest)


async def test_api_must_say_whose_instance_it_means(world):
    await world.start()
    instance_id, guest = await world.guest()
    dispatch = world.dispatch(Role.API)
    code, _ = await refusal(dispatch.SendCommand(from_api(instance_id, tenant=""), timeout=5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    code, reason = await refusal(
        dispatch.SendCommand(from_api(instance_id, tenant="another"), timeout=5)
    )
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "INSTANCE_NOT_FOUND")
    assert not commands_to(guest)


async def test_api_cannot_take_the_id_of_an_operations_command(world):
    await world.start()
    instance_id, guest = await world.guest()
    request = from_api(instance_id, command_id=f"{uuid.uuid4()}/prepare")
    code, _ = await refusal(world.dispatch(Role.API).SendCommand(request, timeout=5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert not commands_to(guest)


async def test_guest_cannot_answer_for_another_guest(world):
    await world.start()
    instance_id, guest = await world.guest()
    _, other = await world.guest()
    request = from_api(instance_id, list_users=accounts_pb2.ListUsersAction(page_size=1))
    sending = asyncio.ensure_future(call(world.dispatch(Role.API).SendCommand, request, timeout=9))
    await guest.expect("command")
    for stream, name in ((other, "forged"), (guest, "ann")):
        users = accounts_pb2.UsersResult(users=[engine_pb2.UserSpec(name=name)])
        result = pb2.CommandResult(command_id="api/1", users=users)
        await stream.send(command_result=result)
    assert [user.name for user in (await sending).result.users.users] == ["ann"]


async def test_denied_operator_is_refused_on_the_internal_listener(world):
    world.issuer.deny(issuer_pb2.DENIAL_KIND_GENERATION, "operator/1")
    await world.start()
    code, reason = await refusal(
        world.dispatch(Role.OPERATOR).ListSessions(dispatch_pb2.ListSessionsRequest(), timeout=5)
    )
    assert (code, reason) == (UNAUTHENTICATED, "CERTIFICATE_DENIED")


@pytest.mark.parametrize("listener", ["guest", "enrolment"])
async def test_health_and_reflection_are_refused_to_guests(world, listener):
    await world.start()
    async with edge_channel(world, listener) as channel:
        assert await refusal(
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        ) == (PERMISSION_DENIED, "PERMISSION_DENIED")
        asking = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
        )
        assert (await refusal(asking.read()))[0] is PERMISSION_DENIED


@pytest.mark.parametrize("listener", ["guest", "enrolment"])
@pytest.mark.parametrize(
    "method",
    [
        "/trove.guest.v1.GuestSessionService/Nothing",
        "/trove.issuer.v1.IssuerService/EnrolService",
        "/trove.dispatch.v1.DispatchService/SendCommand",
        "/no.such.Service/Method",
    ],
)
async def test_unknown_and_foreign_methods_are_refused_alike(world, listener, method):
    await world.start()
    async with edge_channel(world, listener) as channel:
        code, _ = await refusal(channel.unary_unary(method)(b"", timeout=5))
    assert code is PERMISSION_DENIED


async def test_enrolment_listener_serves_no_guest_method_even_with_a_certificate(world):
    await world.start()
    _, identity = world.guest_identity()
    async with PeerChannel(
        [world.endpoints.enrolment], identity=identity, server_role=Role.GATEWAY
    ) as channel:
        code, _ = await refusal(
            channel.stub(identity_rpc.IdentityServiceStub).GetTrustBundle(
                identity_pb2.GetTrustBundleRequest(), timeout=5
            )
        )
    assert code is PERMISSION_DENIED


async def test_internal_listener_answers_health_and_operators_reflection(world):
    await world.start()
    channel = world.peer(Role.OPERATOR, world.endpoints.internal)
    answer = await channel.stub(health_pb2_grpc.HealthStub).Check(
        health_pb2.HealthCheckRequest(), timeout=5
    )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    asking = channel.stub(reflection_pb2_grpc.ServerReflectionStub).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
    )
    listed = (await asking.read()).list_services_response.service
    assert "trove.dispatch.v1.DispatchService" in [service.name for service in listed]


async def test_instance_that_opens_streams_too_often_is_slowed_down(world):
    await world.start(connects_per_minute=2)
    _, identity = world.guest_identity()
    for _ in range(2):
        guest = world.stream(identity)
        await guest.open()
        await guest.close()
    code, reason = await refusal(world.stream(identity).open())
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    await world.guest()


async def test_guest_is_told_of_a_newer_trust_bundle(world, authority):
    await world.start()
    _, guest = await world.guest()
    world.identity.store_bundle(authority.bundle(version=2))
    assert (await guest.expect("bundle_notice")).bundle_version == 2
    response = await guest.identity.GetTrustBundle(identity_pb2.GetTrustBundleRequest(), timeout=5)
    assert response.bundle.version == 2
    assert any(a.kind == trust_pb2.AUTHORITY_KIND_ROOT for a in response.bundle.authorities)


async def test_stale_denials_stop_identity_work_and_destructive_commands_only(world):
    await world.start(denial_stale=seconds(0.5), issuer_timeout=seconds(0.3))
    instance_id, guest = await world.guest()
    await world.issuer.stop()
    dispatch = world.dispatch()
    stop = pb2.Command(command_id="stop-1", stop=pb2.StopAction())

    async def is_stale():
        try:
            await call(
                dispatch.SendCommand,
                dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=stop),
                timeout=0.3,
            )
        except errors.UnavailableError as error:
            return error.reason == "DENIALS_STALE"
        except errors.DeadlineError:
            return False
        raise AssertionError("nobody answered the command")

    async with asyncio.timeout(10):
        while not await is_stale():
            pass
    ping = pb2.Command(command_id="ping-1", ping=pb2.PingAction())
    await call(
        dispatch.SendCommand,
        dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=ping),
        timeout=5,
    )
    assert await refusal(
        guest.identity.Renew(identity_pb2.RenewRequest(csr_der=b"csr"), timeout=5)
    ) == (grpc.StatusCode.UNAVAILABLE, "DENIALS_STALE")
    await world.guest()  # a new stream is judged by the last known list
    await world.issuer.start()
    async with asyncio.timeout(10):
        while await is_stale():
            pass


async def test_no_stream_opens_before_the_denials_were_read_once(world):
    await world.issuer.start()
    await world.issuer.stop()
    await world.start(issuer_timeout=seconds(0.5))
    _, identity = world.guest_identity()
    assert await refusal(world.stream(identity).open()) == (
        grpc.StatusCode.UNAVAILABLE,
        "DENIALS_STALE",
    )
    polls = world.issuer.polls
    await world.issuer.start()
    await until(lambda: world.issuer.polls > polls + 1)
    await world.stream(identity).open()


def edge_channel(world, listener):
    if listener == "enrolment":
        return open_enrolment_channel([world.endpoints.enrolment], world.identity)
    _, identity = world.guest_identity()
    guest = world.stream(identity)
    return guest.channel.channel()


def guest_identity_of(guest):
    return guest.channel._identity
