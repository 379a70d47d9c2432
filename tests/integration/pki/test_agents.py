"""Agents as operators see them, and the verbs that bring back those that cannot return alone."""

from __future__ import annotations

import datetime as dt
import shlex

import pytest

from pki.cli.program import build_parser
from pki.issuer import inventory, quarantine
from pki.issuer.agent_service import AgentServicer
from pki.models import Authority, Certificate, Subject
from pki.store import agents, denials
from tests.integration.pki.conftest import TENANT, Desk
from trove_grpc import context
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError
from trove_grpc.gen.issuer.v1 import agent_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb
from trove_grpc.identity import Identity, Role

OPERATOR = Identity(role=Role.OPERATOR, trust_domain="local.trove", name="ada")
HOUR = dt.timedelta(hours=1)


class Operator:
    """Asks the service at the desk's time."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.service = AgentServicer(desk.store, desk.config, now=lambda: desk.now)

    async def ask(self, method: str, request):
        with context.calling(OPERATOR):
            return await getattr(self.service, method)(request, None)

    async def agent(self, instance_id: str) -> pb.Agent:
        answer = await self.ask("GetAgent", pb.GetAgentRequest(instance_id=instance_id))
        agent: pb.Agent = answer.agent
        if agent.command:  # whatever its state: the command is one that there is
            build_parser().parse_args(shlex.split(agent.command)[1:])
        return agent

    async def state(self, instance_id: str) -> str:
        state = (await self.agent(instance_id)).state
        return pb.AgentState.Name(state).removeprefix("AGENT_STATE_")

    async def resolve(self, instance_id: str, how: str) -> pb.ResolveCloneResponse:
        request = pb.ResolveCloneRequest(
            instance_id=instance_id,
            resolution=pb.CloneResolution.Value(f"CLONE_RESOLUTION_{how}"),
            reason="looked",
        )
        answer: pb.ResolveCloneResponse = await self.ask("ResolveClone", request)
        return answer

    async def lift(self, kind: str, value: str) -> bool:
        request = pb.LiftDenialRequest(
            kind=issuer_pb.DenialKind.Value(f"DENIAL_KIND_{kind}"), value=value, reason="mistaken"
        )
        was_lifted: bool = (await self.ask("LiftDenial", request)).was_lifted
        return was_lifted


@pytest.fixture
def operator(desk: Desk) -> Operator:
    return Operator(desk)


def deny(desk: Desk, kind: str, value: str) -> None:
    desk.store.run_now(
        lambda s: inventory.create_denial(s, kind, value, "told so", actor="ada", now=desk.now)
    )


def quarantine_now(desk: Desk, instance_id: str) -> None:
    desk.store.run_now(
        lambda s: quarantine.begin(s, instance_id, quarantine.CLONE, actor="test", now=desk.now)
    )


async def test_agent_goes_through_its_life(desk: Desk, operator: Operator) -> None:
    instance_id = desk.register()
    assert await operator.state(instance_id) == "NEVER"
    assert "token create" in (await operator.agent(instance_id)).command
    present = desk.enrol(desk.mint(instance_id), instance_id)
    assert isinstance(present, Certificate)
    assert await operator.state(instance_id) == "CURRENT"
    desk.now += 50 * HOUR  # of 72
    assert await operator.state(instance_id) == "OVERDUE"
    desk.now += 23 * HOUR
    agent = await operator.agent(instance_id)
    assert await operator.state(instance_id) == "EXPIRED"
    assert not agent.command  # it comes by itself
    desk.now += desk.config.recovery_grace
    assert await operator.state(instance_id) == "LOST"
    command = (await operator.agent(instance_id)).command
    assert command == f"trove-pki agents allow-recovery {instance_id} --reason REASON"

    request = pb.AllowRecoveryRequest(instance_id=instance_id, reason="was in a drawer")
    allowed = await operator.ask("AllowRecovery", request)
    assert allowed.agent.state == pb.AGENT_STATE_EXPIRED
    until = allowed.agent.recovery_until_time.ToDatetime(dt.UTC)
    assert until == desk.now + 24 * HOUR
    desk.now += 25 * HOUR
    assert await operator.state(instance_id) == "LOST"

    desk.retire(instance_id)
    assert await operator.state(instance_id) == "RETIRED"


async def test_agent_of_a_tainted_generation_needs_a_token(desk: Desk, operator: Operator) -> None:
    instance_id, _ = desk.enrolled()

    def taint(session) -> None:
        session.query(Authority).filter_by(kind="guest").update({"state": "TAINTED"})

    desk.store.run_now(taint)
    agent = await operator.agent(instance_id)
    assert agent.state == pb.AGENT_STATE_LOST
    assert agent.command == f"trove-pki token create --instance {instance_id}"


@pytest.mark.parametrize("kind", ["INSTANCE", "TENANT", "SERIAL", "KEY"])
async def test_agent_that_a_person_denied_shows_as_denied(
    desk: Desk, operator: Operator, kind: str
) -> None:
    instance_id, present = desk.enrolled()
    values = {
        "INSTANCE": instance_id,
        "TENANT": TENANT,
        "SERIAL": present.serial,
        "KEY": present.key_hash,
    }
    deny(desk, kind, values[kind])
    agent = await operator.agent(instance_id)
    assert agent.state == pb.AGENT_STATE_DENIED
    if kind in {"INSTANCE", "TENANT"}:
        assert agent.command.startswith(f"trove-pki agents allow {values[kind]} ")
    else:
        assert agent.command == f"trove-pki token create --instance {instance_id}"


async def test_agents_are_listed_page_by_page_and_by_state(desk: Desk, operator: Operator) -> None:
    enrolled = sorted(desk.enrolled()[0] for _ in range(5))
    never, retired = desk.register(), desk.register()
    desk.retire(retired)
    elsewhere = desk.register(tenant_id="tenant-2")

    async def listed(**fields) -> list[str]:
        found: list[str] = []
        request = pb.ListAgentsRequest(page_size=2, **fields)
        while True:
            page = await operator.ask("ListAgents", request)
            assert len(page.agents) <= 2
            found += [each.instance_id for each in page.agents]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    assert await listed() == sorted([*enrolled, never, elsewhere])
    assert await listed(state=pb.AGENT_STATE_CURRENT) == enrolled
    assert await listed(state=pb.AGENT_STATE_RETIRED) == [retired]
    assert await listed(tenant_id="tenant-2") == [elsewhere]
    assert await listed(is_online=True) == []

    def see(session) -> None:
        session.get(Subject, never).is_online = True

    desk.store.run_now(see)
    assert await listed(is_online=True) == [never]
    with pytest.raises(InvalidRequestError):
        await listed(state=99)


async def test_engine_generation_is_that_of_the_instances_own_certificate(
    desk: Desk, operator: Operator
) -> None:
    (first, leaf), (second, _) = desk.enrolled(), desk.enrolled()
    engine = desk.engine(leaf)

    def claim(session) -> None:
        for name in (first, second):
            session.get(Subject, name).engine_serial = engine.serial

    desk.store.run_now(claim)
    assert (await operator.agent(first)).engine_generation == 1
    assert (await operator.agent(second)).engine_generation == 0  # it names a neighbour's
    answer = await operator.ask("GetAgent", pb.GetAgentRequest(instance_id=first))
    assert {each.authority for each in answer.certificates} == {"guest", "database"}


async def test_false_alarm_is_ended_and_everything_goes_on(desk: Desk, operator: Operator) -> None:
    instance_id, present = desk.enrolled()
    quarantine_now(desk, instance_id)
    agent = await operator.agent(instance_id)
    assert agent.state == pb.AGENT_STATE_QUARANTINED
    assert "resolve-clone" in agent.command
    for _ in range(2):
        assert (await operator.resolve(instance_id, "KEEP")).ended_certificates == 0
    assert await operator.state(instance_id) == "CURRENT"
    desk.renew(present)


async def test_reissue_refuses_every_key_and_waits_for_a_new_token(
    desk: Desk, operator: Operator
) -> None:
    instance_id, present = desk.enrolled()
    desk.confirm(present)
    pending = desk.renew(present)
    stolen = desk.mint(instance_id)
    quarantine_now(desk, instance_id)
    assert (await operator.resolve(instance_id, "REISSUE")).ended_certificates == 2
    assert (await operator.resolve(instance_id, "REISSUE")).ended_certificates == 0
    assert set(desk.denied_serials()) == {present.serial, pending.serial}
    agent = await operator.agent(instance_id)
    assert agent.state == pb.AGENT_STATE_QUARANTINED
    assert agent.command == f"trove-pki token create --instance {instance_id}"
    assert not isinstance(desk.enrol(stolen, instance_id), Certificate)

    assert isinstance(desk.enrol(desk.mint(instance_id), instance_id), Certificate)
    assert await operator.state(instance_id) == "CURRENT"


async def test_lifted_denial_lets_a_token_work_but_no_ended_certificate(
    desk: Desk, operator: Operator
) -> None:
    instance_id, present = desk.enrolled()
    deny(desk, denials.INSTANCE, instance_id)
    assert await operator.lift("INSTANCE", instance_id)
    assert not await operator.lift("INSTANCE", instance_id)
    assert await operator.state(instance_id) in {"DENIED", "LOST"}
    assert present.serial in desk.denied_serials()
    assert isinstance(desk.enrol(desk.mint(instance_id), instance_id), Certificate)
    assert await operator.state(instance_id) == "CURRENT"


async def test_what_the_issuer_denied_by_itself_cannot_be_lifted(
    desk: Desk, operator: Operator
) -> None:
    instance_id, present = desk.enrolled()
    with pytest.raises(ConflictError) as caught:
        await operator.lift("SERIAL", present.serial)
    assert caught.value.reason == "DENIAL_STAYS"
    desk.retire(instance_id)
    with pytest.raises(ConflictError) as caught:
        await operator.lift("INSTANCE", instance_id)
    assert caught.value.reason == "INSTANCE_RETIRED"
    assert not await operator.lift("TENANT", "nobody-denied-it")


async def test_denial_of_a_generation_that_is_tainted_since_cannot_be_lifted(
    desk: Desk, operator: Operator
) -> None:
    deny(desk, denials.GENERATION, "guest/1")

    def taint(session) -> None:
        session.query(Authority).filter_by(kind="guest").update({"state": "TAINTED"})

    desk.store.run_now(taint)
    with pytest.raises(ConflictError) as caught:
        await operator.lift("GENERATION", "guest/1")
    assert caught.value.reason == "DENIAL_STAYS"


async def test_unknown_agent_is_not_found(operator: Operator) -> None:
    with pytest.raises(NotFoundError):
        await operator.agent("00000000-0000-0000-0000-000000000000")


def test_states_are_those_of_the_proto() -> None:
    named = {name.removeprefix("AGENT_STATE_") for name in pb.AgentState.keys()}  # noqa: SIM118  no dict
    assert named - {"UNSPECIFIED"} == {str(each) for each in agents.State}
