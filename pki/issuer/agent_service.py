"""AgentService: who is where in its life, and the ways back for those that need an operator."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from google.protobuf import duration_pb2
from sqlalchemy.orm import Session

from pki.issuer import answers, checks, ledger, quarantine
from pki.issuer.config import Config
from pki.models import Certificate
from pki.store import Store, agents, audit, authorities, certificates, denials, subjects, tokens
from trove_grpc.context import caller as present_caller
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError
from trove_grpc.gen.issuer.v1 import agent_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import agent_service_pb2_grpc as rpc

_PAGE = 100
_MAX_PAGE = 1000
# Agents looked at for one page, at most: a filter that fits few must not read the whole fleet.
_MAX_SEEN = 10_000
_MAX_CERTIFICATES = 100
_RECOVERY_LIFETIME = dt.timedelta(hours=24)
_MAX_RECOVERY_LIFETIME = dt.timedelta(days=30)
_REISSUED = "reissued: its key may exist twice"
# What an operator may take back. A serial or a key that was denied is burnt: a token is the way.
_LIFTABLE = frozenset({denials.INSTANCE, denials.TENANT, denials.GENERATION})


class AgentServicer(rpc.AgentServiceServicer):
    """Serves AgentService on the internal listener and on the operator socket."""

    def __init__(
        self,
        store: Store,
        config: Config,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._store = store
        self._config = config
        self._now = now

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> Any:
        if request.page_size < 0:
            raise InvalidRequestError("page_size must not be negative")
        size = min(request.page_size or _PAGE, _MAX_PAGE)
        after = checks.instance_id(request.page_token) if request.page_token else ""
        if request.tenant_id:
            checks.tenant_id(request.tenant_id)
        wanted = _wanted(request.state)
        now = self._now()
        found, following = await self._store.run(
            lambda session: self._list(session, request, wanted, after=after, size=size, now=now)
        )
        return pb.ListAgentsResponse(
            agents=[_message(each) for each in found], next_page_token=following
        )

    async def GetAgent(self, request: pb.GetAgentRequest, context: Any) -> Any:
        instance_id = checks.instance_id(request.instance_id)
        now = self._now()
        agent, issued = await self._store.run(
            lambda session: (
                self._get(session, instance_id, now),
                agents.certificates_of(session, instance_id, _MAX_CERTIFICATES),
            )
        )
        return pb.GetAgentResponse(
            agent=_message(agent), certificates=[_certificate(row) for row in issued]
        )

    async def AllowRecovery(self, request: pb.AllowRecoveryRequest, context: Any) -> Any:
        instance_id = checks.instance_id(request.instance_id)
        reason = checks.reason(request.reason)
        lifetime = _lifetime(request)
        actor, now = present_caller().uri, self._now()

        def work(session: Session) -> agents.Agent:
            subject = subjects.lock_active(session, instance_id)
            subject.recovery_until_time = now + lifetime
            session.flush()
            audit.append(
                session,
                now=now,
                actor=actor,
                action="allow-recovery",
                subject=instance_id,
                detail={
                    "reason": reason,
                    "until": subject.recovery_until_time.isoformat(timespec="seconds"),
                },
            )
            return self._get(session, instance_id, now)

        return pb.AllowRecoveryResponse(agent=_message(await self._store.run(work)))

    async def LiftDenial(self, request: pb.LiftDenialRequest, context: Any) -> Any:
        kind, value = checks.denied(request.kind, request.value)
        reason = checks.reason(request.reason)
        actor, now = present_caller().uri, self._now()
        was_lifted = await self._store.run(
            lambda session: _lift(session, kind, value, reason, actor=actor, now=now)
        )
        return pb.LiftDenialResponse(was_lifted=was_lifted)

    async def ResolveClone(self, request: pb.ResolveCloneRequest, context: Any) -> Any:
        instance_id = checks.instance_id(request.instance_id)
        reason = checks.reason(request.reason)
        resolution = request.resolution
        if resolution not in {pb.CLONE_RESOLUTION_KEEP, pb.CLONE_RESOLUTION_REISSUE}:
            raise InvalidRequestError("resolution must be KEEP or REISSUE")
        actor, now = present_caller().uri, self._now()

        def work(session: Session) -> tuple[agents.Agent, int]:
            subject = subjects.lock_active(session, instance_id)
            ended = 0
            if resolution == pb.CLONE_RESOLUTION_KEEP:
                quarantine.end(session, subject)
            else:
                ended = _end_all(session, instance_id, now)
                subject.enrol_epoch += bool(ended)
            session.flush()
            audit.append(
                session,
                now=now,
                actor=actor,
                action="resolve-clone",
                subject=instance_id,
                detail={
                    "resolution": pb.CloneResolution.Name(resolution).rpartition("_")[2],
                    "reason": reason,
                    "ended": ended,
                },
            )
            return self._get(session, instance_id, now), ended

        agent, ended = await self._store.run(work)
        return pb.ResolveCloneResponse(agent=_message(agent), ended_certificates=ended)

    def _get(self, session: Session, instance_id: str, now: dt.datetime) -> agents.Agent:
        agent = agents.find(session, instance_id, now, self._config.recovery_grace)
        if agent is None:
            raise NotFoundError(
                f"instance {instance_id} is not registered with the issuer",
                reason="UNKNOWN_INSTANCE",
                subject=instance_id,
            )
        return agent

    def _list(
        self,
        session: Session,
        request: pb.ListAgentsRequest,
        wanted: agents.State | None,
        *,
        after: str,
        size: int,
        now: dt.datetime,
    ) -> tuple[list[agents.Agent], str]:
        found: list[agents.Agent] = []
        for _ in range(_MAX_SEEN // _MAX_PAGE):
            page = agents.page(
                session,
                after=after,
                size=_MAX_PAGE,
                tenant_id=request.tenant_id,
                is_online=request.is_online if request.HasField("is_online") else None,
                is_retired=wanted is agents.State.RETIRED,
                now=now,
                grace=self._config.recovery_grace,
            )
            for agent in page:
                if len(found) == size:
                    return found, after
                after = agent.subject.instance_id
                if wanted in {None, agent.state}:
                    found.append(agent)
            if len(page) < _MAX_PAGE:
                return found, ""
        return found, after


def _lift(
    session: Session, kind: str, value: str, reason: str, *, actor: str, now: dt.datetime
) -> bool:
    if kind not in _LIFTABLE:
        raise ConflictError(
            f"a {kind.lower()} that was denied stays denied: its certificate has ended; let the "
            "agent enrol anew (`trove-pki token create --instance ID`)",
            reason="DENIAL_STAYS",
            subject=value,
        )
    if kind == denials.INSTANCE and subjects.find(session, value) is not None:
        subjects.lock_active(session, value)
    if kind == denials.GENERATION:
        _refuse_tainted(session, value)
    if not audit.has(session, "create-denial", f"{kind.lower()} {value}"):
        if denials.stands(session, kind, value, now):
            raise ConflictError(
                f"the issuer itself denied {kind.lower()} {value}; that stays",
                reason="DENIAL_STAYS",
                subject=value,
            )
        return False
    if not denials.lift(session, kind, value, now):
        return False
    if kind == denials.INSTANCE:
        _keep_ended(session, value, now)
    audit.append(
        session,
        now=now,
        actor=actor,
        action="lift-denial",
        subject=f"{kind.lower()} {value}",
        detail={"reason": reason},
    )
    return True


def _refuse_tainted(session: Session, value: str) -> None:
    """The denial is all that refuses a tainted generation's leaves, whoever wrote it first."""
    authority, _, generation = value.partition("/")
    row = authorities.find(session, authority, int(generation))
    if row is not None and row.state == authorities.TAINTED:
        raise ConflictError(
            f"{authority} g{generation} is tainted: what it signed stays refused; rotate, and let "
            "its holders enrol anew (`trove-pki token create --instance ID`)",
            reason="DENIAL_STAYS",
            subject=value,
        )


def _keep_ended(session: Session, instance_id: str, now: dt.datetime) -> None:
    """Certificates that a denial of their instance ended stay ended without it."""
    for certificate in certificates.denied_of_instance(session, instance_id, now):
        denials.write(
            session,
            kind=denials.SERIAL,
            value=certificate.serial,
            reason="ended while its instance was denied",
            now=now,
            expire_time=certificate.expire_time,
        )


def _end_all(session: Session, instance_id: str, now: dt.datetime) -> int:
    """Supersede every certificate of the agent, and void tokens that nobody has used."""
    tokens.void(session, instance_id, now)
    live = certificates.live_of_instance(session, instance_id, "guest")
    for certificate in live:
        ledger.supersede(session, certificate, reason=_REISSUED, now=now)
    return len(live)


def _wanted(state: pb.AgentState.ValueType) -> agents.State | None:
    if state == pb.AGENT_STATE_UNSPECIFIED:
        return None
    if state not in pb.AgentState.values():
        raise InvalidRequestError(f"state {state} is none that there is")
    return agents.State(pb.AgentState.Name(state).removeprefix("AGENT_STATE_"))


def _lifetime(request: pb.AllowRecoveryRequest) -> dt.timedelta:
    if not request.HasField("lifetime"):
        return _RECOVERY_LIFETIME
    lifetime = request.lifetime.ToTimedelta()
    if not dt.timedelta(0) < lifetime <= _MAX_RECOVERY_LIFETIME:
        raise InvalidRequestError(
            f"lifetime must be more than 0 and at most {_MAX_RECOVERY_LIFETIME.days} days"
        )
    return lifetime


def _message(agent: agents.Agent) -> pb.Agent:
    subject, leaf = agent.subject, agent.newest
    return pb.Agent(
        instance_id=subject.instance_id,
        tenant_id=subject.tenant_id,
        state=pb.AgentState.Value(f"AGENT_STATE_{agent.state}"),
        serial=leaf.serial if leaf is not None else "",
        generation=leaf.generation if leaf is not None else 0,
        expire_time=answers.timestamp(leaf.expire_time) if leaf is not None else None,
        is_online=subject.is_online,
        gateway_id=subject.gateway_id,
        last_seen_time=_optional(subject.last_seen_time),
        held_bundle_version=subject.held_bundle_version,
        clock_skew=_skew(subject.clock_skew_ms),
        engine_generation=agent.engine_generation,
        quarantine_time=_optional(subject.quarantine_time),
        quarantine_reason=subject.quarantine_reason,
        recovery_until_time=_optional(subject.recovery_until_time),
        command=_command(agent),
    )


def _command(agent: agents.Agent) -> str:
    """What brings it back; empty where it comes by itself, or must not come."""
    instance_id = agent.subject.instance_id
    mint = f"trove-pki token create --instance {instance_id}"
    match agent.state:
        case agents.State.NEVER:
            return mint
        case agents.State.LOST if agent.is_only_late:
            return f"trove-pki agents allow-recovery {instance_id} --reason REASON"
        case agents.State.LOST:
            return mint
        case agents.State.QUARANTINED:
            has_ended = agent.newest is None or agent.newest.state not in certificates.LIVE
            return mint if has_ended else quarantine.command(instance_id)
        case agents.State.DENIED:
            return _undo(agent.denied_by, mint)
        case _:
            return ""


def _undo(denied_by: tuple[str, str] | None, mint: str) -> str:
    """A denial of a tenant or an instance can be lifted; what names a certificate has ended it."""
    if denied_by is None or denied_by[0] not in _LIFTABLE:
        return mint
    kind, value = denied_by
    return f"trove-pki agents allow {value} --kind {kind.lower()} --reason REASON"


def _certificate(row: Certificate) -> pb.AgentCertificate:
    return pb.AgentCertificate(
        serial=row.serial,
        authority=row.kind,
        generation=row.generation,
        state=row.state,
        issue_time=answers.timestamp(row.issue_time),
        expire_time=answers.timestamp(row.expire_time),
    )


def _optional(moment: dt.datetime | None) -> Any:
    return None if moment is None else answers.timestamp(moment)


def _skew(milliseconds: int | None) -> duration_pb2.Duration | None:
    if milliseconds is None:
        return None
    skew = duration_pb2.Duration()
    skew.FromMilliseconds(milliseconds)
    return skew
