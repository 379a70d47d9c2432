"""What the gateway does with the issuer's word, and what it tells the issuer of guests."""

from __future__ import annotations

import datetime as dt

import grpc
import pytest
from google.protobuf import duration_pb2, timestamp_pb2
from grpc import aio

from tests.fakes.fake_conductor import until
from trove_grpc import errors
from trove_grpc.client import call
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2 as dispatch_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb2
from trove_grpc.identity import serial_hex

AGENT, ENGINE = watch_pb2.RENEWAL_TARGET_AGENT, watch_pb2.RENEWAL_TARGET_ENGINE
# What a test relies on must not be the other way's doing.
NEVER = dt.timedelta(hours=1)


def stamp(moment):
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message


def window(start_in=600):
    start = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=start_in)
    return trust_pb2.RenewalWindow(
        start_time=stamp(start),
        end_time=stamp(start + dt.timedelta(seconds=600)),
        reason="rotation 1",
    )


def directive(target=AGENT, **fields):
    return watch_pb2.RenewalDirective(
        rotation_id="1", target=target, window=fields.pop("window", None) or window(), **fields
    )


async def denied(guest):
    with pytest.raises(aio.AioRpcError) as caught:
        await guest.ended()
    return caught.value.code(), errors.from_rpc(caught.value).reason


def deny(world, instance_id):
    world.issuer.deny(issuer_pb2.DENIAL_KIND_INSTANCE, instance_id)


async def watched(world, **settings):
    await world.start(**settings)
    await until(lambda: world.issuer.watchers)


REFUSED = (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_DENIED")


async def test_denial_is_told_by_the_watch_alone(world):
    await watched(world, denial_poll=dt.timedelta(seconds=60), denial_backstop=NEVER)
    instance_id, guest = await world.guest()
    deny(world, instance_id)
    assert await denied(guest) == REFUSED


async def test_denial_is_found_by_asking_while_nobody_may_watch(world):
    world.issuer.may_watch = False
    await world.start()
    instance_id, guest = await world.guest()
    deny(world, instance_id)
    assert await denied(guest) == REFUSED


async def test_denial_is_found_by_asking_beside_a_watch_that_says_nothing(world):
    await watched(world, watch_silence=NEVER)
    instance_id, guest = await world.guest()
    world.issuer.is_silent = True
    deny(world, instance_id)
    assert await denied(guest) == REFUSED


async def test_silent_watch_is_given_up_and_begun_anew(world):
    await watched(world, watch_silence=dt.timedelta(seconds=0.3), denial_backstop=NEVER)
    instance_id, guest = await world.guest()
    world.issuer.is_silent = True
    await until(lambda: not world.issuer.watchers)
    world.issuer.is_silent = False
    deny(world, instance_id)
    assert await denied(guest) == REFUSED
    await until(lambda: world.issuer.watchers)


async def test_watch_goes_on_after_the_gateways_own_certificate_was_replaced(world, monkeypatch):
    monkeypatch.setattr("trove_grpc.client._LINGER_SECONDS", 0.0)
    monkeypatch.setattr("trove_grpc.client._DRAIN_SECONDS", 0.1)
    await watched(world, denial_backstop=NEVER)
    instance_id, guest = await world.guest()
    before = world.issuer.watches
    world.renew_gateway()
    await world.guest()  # its report makes the gateway dial the issuer anew
    await until(lambda: world.issuer.watches > before)
    deny(world, instance_id)
    assert await denied(guest) == REFUSED


async def test_newer_bundle_is_fetched_and_announced_at_once(world):
    await watched(world)
    _, guest = await world.guest()
    world.issuer.held_versions.clear()
    world.issuer.bundle_version = 7
    world.issuer.tell()
    assert (await guest.expect("bundle_notice")).bundle_version == 7
    # The second question is the acknowledgement that rotations wait for.
    await until(lambda: world.issuer.held_versions[:2] == [1, 7])


async def test_directive_is_told_once_to_a_session_and_to_new_ones_in_their_welcome(world):
    await watched(world)
    _, guest = await world.guest()
    meant = directive(below_generation=2)
    world.issuer.directives = [meant]
    world.issuer.tell()
    assert (await guest.expect("settings")).renewal_window == meant.window

    _, newcomer = await world.guest()
    assert newcomer.welcomed.settings.renewal_window == meant.window
    # Another directive beside it, for nobody here: the window is not told again.
    world.issuer.directives = [meant, directive(instance_ids=["somebody else"])]
    world.issuer.tell()
    # Lifted: nothing is taken back. The next word is a marker that comes after all of it.
    world.issuer.directives = []
    world.issuer.tell()
    marker = directive(window=window(3600))
    world.issuer.directives = [marker]
    world.issuer.tell()
    assert (await guest.expect("settings")).renewal_window == marker.window
    assert len([each for each in guest.received if each.HasField("settings")]) == 2


async def test_engine_window_is_a_setting_of_its_own(world):
    await watched(world)
    instance_id, guest = await world.guest()
    agent, engine = directive(), directive(ENGINE, instance_ids=[instance_id])
    world.issuer.directives = [agent, engine]
    world.issuer.tell()
    told = await guest.expect("settings")
    assert told.renewal_window == agent.window
    assert told.engine_renewal_window == engine.window


@pytest.mark.parametrize(
    "fields",
    [
        {"below_generation": 1},  # the test authority's generation is 1
        {"instance_ids": ["another"]},
        {"issued_before": stamp(dt.datetime.now(dt.UTC) - dt.timedelta(days=1))},
        {"target": watch_pb2.RENEWAL_TARGET_UNSPECIFIED},
    ],
    ids=["generation", "instance", "age", "target"],
)
async def test_directive_for_others_is_not_told(world, fields):
    world.issuer.directives = [directive(**fields)]
    await watched(world)
    _, guest = await world.guest()
    assert not guest.welcomed.settings.HasField("renewal_window")
    assert not guest.welcomed.settings.HasField("engine_renewal_window")


async def test_directive_by_age_means_whoever_is_older(world):
    world.issuer.directives = [
        directive(issued_before=stamp(dt.datetime.now(dt.UTC) + dt.timedelta(days=1)))
    ]
    await watched(world)
    _, guest = await world.guest()
    await until(lambda: world.issuer.watchers)
    assert guest.welcomed.settings.renewal_window == world.issuer.directives[0].window


async def test_commands_that_change_a_quarantined_guest_are_refused_until_it_is_resolved(world):
    await watched(world)
    instance_id, guest = await world.guest()
    dispatch = world.dispatch()

    async def send(**action):
        command = pb2.Command(command_id="command-1", **action)
        request = dispatch_pb2.SendCommandRequest(instance_id=instance_id, command=command)
        return await call(dispatch.SendCommand, request, timeout=0.3)

    async def is_refused():
        try:
            await send(stop=pb2.StopAction())
        except errors.ConflictError as error:
            return error.reason == "CLONE_SUSPECTED"
        except errors.DeadlineError:
            return False  # sent; this guest answers pings alone
        raise AssertionError("somebody answered")

    world.issuer.quarantined = [instance_id]
    world.issuer.tell()
    while not await is_refused():
        pass
    await send(ping=pb2.PingAction())  # its stream stays
    world.issuer.quarantined = []
    world.issuer.tell()
    while await is_refused():
        pass
    guest.call.cancel()


async def test_guests_are_reported_with_what_they_hold(world):
    await watched(world)
    instance_id, identity = world.guest_identity()
    guest = world.stream(identity)
    guest.hello.bundle_version = 3
    guest.hello.engine_serial = "ab12"
    guest.hello.guest_time.FromDatetime(dt.datetime.now(dt.UTC) + dt.timedelta(hours=2))
    await guest.open()
    await until(lambda: world.issuer.sightings(instance_id))
    seen = world.issuer.sightings(instance_id)[-1]
    assert seen.serial == serial_hex(identity.load().leaf)
    assert (seen.bundle_version, seen.engine_serial, seen.is_gone) == (3, "ab12", False)
    assert 7190 < seen.clock_skew.seconds < 7210
    assert world.issuer.reports[-1].gateway_id == "gw1"

    await guest.send(heartbeat=pb2.Heartbeat(bundle_version=4, engine_serial="ab13"))
    await until(lambda: world.issuer.sightings(instance_id)[-1].bundle_version == 4)
    assert world.issuer.sightings(instance_id)[-1].engine_serial == "ab13"

    await guest.close()
    await until(lambda: world.issuer.sightings(instance_id)[-1].is_gone)


async def test_nonsense_of_a_guest_about_itself_is_cut_to_shape(world):
    await watched(world)
    instance_id, identity = world.guest_identity()
    guest = world.stream(identity)
    guest.hello.bundle_version = -(2**63)
    guest.hello.engine_serial = "../../etc/passwd" * 20
    guest.hello.guest_time.seconds = 2**62
    await guest.open()
    await until(lambda: world.issuer.sightings(instance_id))
    (seen,) = world.issuer.sightings(instance_id)
    assert (seen.bundle_version, seen.engine_serial) == (0, "")
    assert seen.clock_skew == duration_pb2.Duration()


async def test_what_was_not_told_during_an_outage_is_told_after_it(world):
    await watched(world, issuer_timeout=dt.timedelta(seconds=0.3))
    stays_id, _ = await world.guest()
    leaves_id, leaving = await world.guest()
    await until(lambda: world.issuer.sightings(stays_id) and world.issuer.sightings(leaves_id))
    await world.issuer.stop()
    comes_id, _ = await world.guest()
    await leaving.close()
    world.issuer.reports.clear()
    await world.issuer.start()
    await until(lambda: world.issuer.sightings(comes_id))
    # A new issuer may have forgotten everybody.
    await until(lambda: world.issuer.sightings(stays_id))
    await until(lambda: world.issuer.sightings(leaves_id)[-1].is_gone)


async def test_suspected_clone_is_reported_with_both_certificates(world):
    await watched(world)
    instance_id, first = await world.guest()
    _, other_identity = world.guest_identity(instance_id)
    with pytest.raises(aio.AioRpcError):
        await world.stream(other_identity, boot_id="boot-2").open()
    await until(lambda: any(report.suspicions for report in world.issuer.reports))
    (suspicion,) = [each for report in world.issuer.reports for each in report.suspicions]
    assert suspicion.instance_id == instance_id
    assert suspicion.newcomer_serial == serial_hex(other_identity.load().leaf)
    assert "boot-1" in suspicion.detail
    assert "boot-2" in suspicion.detail
    first.call.cancel()
