"""The agent and a gateway, over real TLS, without an engine."""

from __future__ import annotations

import datetime as dt

from guestagent.engines import LIFE_ACTIONS
from guestagent.engines.accounts import ACTIONS
from tests.fakes.guest_gateway import FakeGateway, eventually, public_key, serial_of
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb


async def test_agent_enrols_with_its_token_and_deletes_it(machine, gateway: FakeGateway):
    machine.give_token()
    async with machine.agent():
        session = await gateway.connected()
        assert session.instance_id == machine.instance_id
        assert session.hello.capabilities == sorted(LIFE_ACTIONS | ACTIONS)
        await gateway.state("NEW")
        await eventually(lambda: not (machine.root / "agent/token").exists())
    assert not list((machine.root / "agent/identity").glob("enrol-*"))
    assert session.sequences == list(range(1, len(session.sequences) + 1))


async def test_lost_enrolment_reply_is_asked_for_again_with_the_same_key(
    machine, gateway: FakeGateway
):
    machine.give_token()
    gateway.lose["enrol"] = 2
    async with machine.agent():
        await gateway.connected()
    assert len(gateway.enrolments) == 3
    assert len({public_key(csr) for csr in gateway.enrolments}) == 1


async def test_refused_token_is_not_sent_again_and_a_new_one_is(machine, gateway: FakeGateway):
    machine.give_token()
    gateway.tokens.clear()
    async with machine.agent():
        await eventually(lambda: gateway.enrolments)
        assert len(gateway.enrolments) == 1
        machine.give_token()
        await gateway.connected()
    assert len(gateway.enrolments) == 2


async def test_restarted_agent_needs_no_token(machine, gateway: FakeGateway):
    machine.give_token()
    async with machine.agent():
        await gateway.connected()
        await eventually(lambda: not (machine.root / "agent/token").exists())
    async with machine.agent():
        await gateway.connected(more_than=1)
    first, second = gateway.sessions
    assert first.serial == second.serial
    assert first.hello.boot_id != second.hello.boot_id


async def test_agent_reconnects_when_the_gateway_comes_back(machine, gateway: FakeGateway):
    machine.enrol_at_once()
    async with machine.agent():
        await gateway.connected()
        await gateway.stop_guest_server()
        await eventually(lambda: not gateway.open)
        await gateway.restart_guest_server()
        await gateway.connected(more_than=1)
    assert gateway.sessions[0].hello.boot_id == gateway.sessions[1].hello.boot_id


async def test_renewal_makes_before_it_breaks(machine, gateway: FakeGateway):
    machine.give_token()
    gateway.guest_lifetime = dt.timedelta(seconds=6)
    async with machine.agent():
        first = await gateway.connected()
        gateway.guest_lifetime = dt.timedelta(hours=1)
        second = await gateway.connected(more_than=1)
        assert second.serial != first.serial
        assert first in gateway.open or first.outgoing.empty()
        await eventually(lambda: gateway.confirmed == [second.serial])
        await eventually(lambda: gateway.open == [second])
        identity = machine.root / "agent/identity"
        await eventually(lambda: serial_of(identity / "current") == second.serial)
        assert first.hello.boot_id == second.hello.boot_id
        # Commands reach the agent on the new stream.
        result = await gateway.command("ping-1", ping=pb.PingAction())
        assert result.error_reason == ""
    assert len(gateway.sessions) == 2


async def test_lost_renewal_reply_is_asked_for_again_with_the_same_key(
    machine, gateway: FakeGateway
):
    machine.give_token()
    gateway.guest_lifetime = dt.timedelta(seconds=15)
    gateway.lose["renew"] = 5  # more than one call's own retries
    async with machine.agent():
        await gateway.connected()
        gateway.guest_lifetime = dt.timedelta(hours=1)
        await eventually(lambda: gateway.confirmed, within=30)
    assert len(gateway.renewals) > 5
    assert len({public_key(csr) for csr in gateway.renewals}) == 1


async def test_lost_confirmation_is_repeated_after_a_restart(machine, gateway: FakeGateway):
    machine.give_token()
    gateway.guest_lifetime = dt.timedelta(seconds=6)
    gateway.lose["confirm"] = 1000
    async with machine.agent():
        first = await gateway.connected()
        gateway.guest_lifetime = dt.timedelta(hours=1)
        await eventually(lambda: gateway.confirmed)
    staged = serial_of(machine.root / "agent/identity/next")
    gateway.lose.clear()
    gateway.refused_serials.add(first.serial)  # the old one is superseded meanwhile
    async with machine.agent():
        await eventually(lambda: gateway.open and gateway.open[-1].serial == staged)
        await eventually(lambda: not (machine.root / "agent/identity/next").is_symlink())
    assert serial_of(machine.root / "agent/identity/current") == staged


async def test_expired_identity_heals_with_a_new_token(machine, gateway: FakeGateway):
    machine.give_token()
    gateway.guest_lifetime = dt.timedelta(seconds=3)
    gateway.lose["renew"] = 1000
    async with machine.agent():
        first = await gateway.connected()
        await eventually(lambda: not gateway.open)
        gateway.guest_lifetime = dt.timedelta(hours=1)
        machine.give_token()
        second = await gateway.connected(more_than=1)
    assert first.serial != second.serial


async def test_refused_identity_heals_with_a_new_token(machine, gateway: FakeGateway):
    machine.enrol_at_once()
    gateway.refused_serials.add(serial_of(machine.root / "agent/identity/current"))
    async with machine.agent():
        machine.give_token()
        session = await gateway.connected()
    assert session.serial not in gateway.refused_serials


async def test_newer_bundle_is_fetched_when_noticed(machine, gateway: FakeGateway):
    machine.enrol_at_once()
    async with machine.agent() as agent:
        session = await gateway.connected()
        gateway.bundle_version = 7
        session.send(bundle_notice=pb.BundleNotice(bundle_version=7))
        await eventually(lambda: agent.identity.directory.bundle().version == 7)
        await eventually(lambda: any(b.bundle_version == 7 for b in gateway.heartbeats))


async def test_unknown_command_and_unprepared_engine_are_refused_with_reasons(
    machine, gateway: FakeGateway
):
    machine.enrol_at_once()
    async with machine.agent():
        await gateway.connected()
        assert (await gateway.command("c-1")).error_reason == "UNSUPPORTED"
        refused = await gateway.command("c-2", start=pb.StartAction())
        assert refused.error_reason == "ENGINE_NOT_PREPARED"
        action = machine.prepare_action()
        action.version = "99"
        missing = await gateway.command("c-3", prepare=action)
        assert missing.error_reason == "UNSUPPORTED"
        assert "installed: 15" in missing.error_message
        action.version = "../../etc"
        assert (await gateway.command("c-4", prepare=action)).error_reason == "INVALID_REQUEST"
