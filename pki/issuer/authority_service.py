"""RPC face of authorities and rotations: check the shape, run one transaction, answer."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.orm import Session

from pki.authority import Authorities
from pki.issuer import answers, checks, compromise, progress, rotation_answers, rotations
from pki.issuer.config import Config
from pki.issuer.rotator import Rotator
from pki.models import Authority, Rotation
from pki.profiles import KIND_NAMES
from pki.store import Store, audit, authorities, leaves, services
from pki.store import rotations as rows
from trove_grpc import context as call_context
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import authority_service_pb2_grpc as rpc

_PAGE = 100
_MAX_PAGE = 1000
_MAX_INSTANCES = 10_000
_TARGETS = {
    pb.ROTATION_PHASE_SWITCHED: rows.SWITCHED,
    pb.ROTATION_PHASE_RETIRED: rows.RETIRED,
}


class AuthorityServicer(rpc.AuthorityServiceServicer):
    """Serves AuthorityService on the internal listener and on the operator socket."""

    def __init__(
        self,
        store: Store,
        signers: Authorities,
        rotator: Rotator,
        config: Config,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._store = store
        self._signers = signers
        self._rotator = rotator
        self._config = config
        self._now = now

    async def ListAuthorities(self, request: pb.ListAuthoritiesRequest, context: Any) -> Any:
        now = self._now()

        def work(session: Session) -> pb.ListAuthoritiesResponse:
            return pb.ListAuthoritiesResponse(
                authorities=[
                    _authority(session, row, now) for row in authorities.list_all(session)
                ],
                bundle_version=authorities.bundle_version(session),
            )

        return await self._store.run(work)

    async def PlanRotation(self, request: pb.PlanRotationRequest, context: Any) -> Any:
        wanted, now = _wanted(request), self._now()

        def work(session: Session) -> pb.PlanRotationResponse:
            plan = rotations.plan(session, wanted, self._config, now)
            return pb.PlanRotationResponse(
                steps=plan.steps,
                rotation=self._rotation(session, plan.rotation, now),
                offline=[rotation_answers.stranded(each) for each in plan.offline.named],
                offline_total=plan.offline.total,
                obstacles=plan.obstacles,
            )

        return await self._store.run(work)

    async def StartRotation(self, request: pb.StartRotationRequest, context: Any) -> Any:
        request_id = checks.request_id(request.request_id)
        wanted = _wanted(request)
        spread = request.spread.ToTimedelta() if request.HasField("spread") else None
        if spread is not None and spread < dt.timedelta(0):
            raise InvalidRequestError("spread must not be negative")
        reason = checks.reason(request.reason or "planned")
        actor, now = _actor(), self._now()

        def work(session: Session) -> pb.Rotation:
            rotation = rotations.start(
                session,
                wanted,
                self._config,
                request_id=request_id,
                is_automatic=request.is_automatic,
                spread=spread,
                actor=actor,
                reason=reason,
                now=now,
            )
            return self._rotation(session, rotation, now)

        return pb.StartRotationResponse(rotation=await self._change(work))

    async def GetRotation(self, request: pb.GetRotationRequest, context: Any) -> Any:
        now = self._now()

        def work(session: Session) -> pb.GetRotationResponse:
            rotation = rows.find(session, request.rotation_id)
            behind = (
                progress.behind(session, rotation, self._config, now)
                if rotation.phase in rows.OPEN
                else progress.NOBODY
            )
            return pb.GetRotationResponse(
                rotation=self._rotation(session, rotation, now),
                behind=[rotation_answers.stranded(each) for each in behind.named],
                behind_total=behind.total,
            )

        return await self._store.run(work)

    async def ListRotations(self, request: pb.ListRotationsRequest, context: Any) -> Any:
        if request.page_size < 0:
            raise InvalidRequestError("page_size must not be negative")
        if request.page_token and not request.page_token.isdecimal():
            raise InvalidRequestError("page_token is not one of ours; begin again without it")
        size = min(request.page_size or _PAGE, _MAX_PAGE)
        before = int(request.page_token) if request.page_token else None
        now = self._now()

        def work(session: Session) -> pb.ListRotationsResponse:
            found = rows.page(session, open_only=request.open_only, before=before, size=size)
            return pb.ListRotationsResponse(
                rotations=[self._rotation(session, each, now) for each in found],
                next_page_token=str(found[-1].number) if len(found) == size else "",
            )

        return await self._store.run(work)

    async def AdvanceRotation(self, request: pb.AdvanceRotationRequest, context: Any) -> Any:
        target = _TARGETS.get(request.target)
        if target is None:
            raise InvalidRequestError("target must be SWITCHED or RETIRED")
        strand = _instance_ids(request.strand_instance_ids)
        actor, now = _actor(), self._now()

        def work(session: Session) -> pb.AdvanceRotationResponse:
            rotation, left = rotations.advance(
                session,
                request.rotation_id,
                target,
                self._config,
                strand=strand,
                actor=actor,
                now=now,
            )
            return pb.AdvanceRotationResponse(
                rotation=self._rotation(session, rotation, now),
                stranded=[rotation_answers.stranded(each) for each in left.named],
                stranded_total=left.total,
            )

        return await self._change(work)

    async def PauseRotation(self, request: pb.PauseRotationRequest, context: Any) -> Any:
        reason = checks.reason(request.reason or "asked for")
        actor, now = _actor(), self._now()

        def work(session: Session) -> pb.Rotation:
            rotation = rotations.set_paused(
                session,
                request.rotation_id,
                is_paused=request.is_paused,
                reason=reason,
                actor=actor,
                now=now,
            )
            return self._rotation(session, rotation, now)

        return pb.PauseRotationResponse(rotation=await self._change(work))

    async def RollBackRotation(self, request: pb.RollBackRotationRequest, context: Any) -> Any:
        reason = checks.reason(request.reason or "asked for")
        actor, now = _actor(), self._now()

        def work(session: Session) -> pb.Rotation:
            rotation = rotations.roll_back(
                session, request.rotation_id, self._config, reason=reason, actor=actor, now=now
            )
            return self._rotation(session, rotation, now)

        return pb.RollBackRotationResponse(rotation=await self._change(work))

    async def TaintAuthority(self, request: pb.TaintAuthorityRequest, context: Any) -> Any:
        kind, reason = _kind(request.kind), checks.reason(request.reason)
        if request.generation < 1:
            raise InvalidRequestError("generation must be named: it counts from 1")
        actor, now = _actor(), self._now()

        def work(session: Session) -> pb.TaintAuthorityResponse:
            row, left = compromise.taint(
                session,
                kind,
                request.generation,
                self._config,
                reason=reason,
                without_successor=request.without_successor,
                actor=actor,
                now=now,
            )
            return pb.TaintAuthorityResponse(
                authority=_authority(session, row, now),
                stranded=[rotation_answers.stranded(each) for each in left.named],
                stranded_total=left.total,
            )

        return await self._change(work)

    async def ExportCrl(self, request: pb.ExportCrlRequest, context: Any) -> Any:
        kind = _kind(request.kind)
        if request.generation < 0:
            raise InvalidRequestError("generation must not be negative; 0 is the one that signs")
        actor, now = _actor(), self._now()

        def work(session: Session) -> tuple[Authority, list[tuple[int, dt.datetime]]]:
            row = compromise.find(session, kind, request.generation)
            audit.append(session, now=now, actor=actor, action="export-crl", subject=row.key_name)
            return row, compromise.revoked(session, row, now)

        row, serials = await self._store.run(work)
        crl = await asyncio.to_thread(compromise.sign_crl, self._signers, row, serials, now)
        return pb.ExportCrlResponse(crl_der=crl, revoked=len(serials))

    async def ListServices(self, request: pb.ListServicesRequest, context: Any) -> Any:
        found = await self._store.run(services.with_certificates)
        return pb.ListServicesResponse(
            services=[
                pb.Service(
                    name=service.name,
                    serial=service.serial,
                    generation=0 if certificate is None else certificate.generation,
                    expire_time=None
                    if certificate is None
                    else answers.timestamp(certificate.expire_time),
                    held_bundle_version=service.held_bundle_version,
                    last_seen_time=answers.timestamp(service.last_seen_time),
                )
                for service, certificate in found
            ]
        )

    async def _change(self, work: Callable[[Session], Any]) -> Any:
        answer = await self._store.run(work)
        self._rotator.wake()
        return answer

    def _rotation(self, session: Session, rotation: Rotation, now: dt.datetime) -> pb.Rotation:
        return rotation_answers.rotation(
            rotation,
            progress.measure(session, rotation, self._config, now),
            self._config,
            trouble=self._rotator.troubles.get(rotation.number or 0, ""),
        )


def _authority(session: Session, row: Authority, now: dt.datetime) -> pb.Authority:
    which = leaves.of_generation(row.generation)
    is_issuing = row.kind in leaves.KINDS
    latest = leaves.latest_expiry(session, row.kind, row.generation)
    return rotation_answers.authority(
        row,
        live_leaves=leaves.count(session, row.kind, which, now) if is_issuing else 0,
        last_expiry=latest,
    )


def _wanted(request: pb.PlanRotationRequest | pb.StartRotationRequest) -> rotations.Wanted:
    if not request.kind:
        raise InvalidRequestError("kind must be LEAF, SERVICE, INTERMEDIATE or ROOT")
    try:
        kind = pb.RotationKind.Name(request.kind).removeprefix("ROTATION_KIND_")
    except ValueError as error:
        raise InvalidRequestError(f"kind {request.kind} is unknown here") from error
    return rotations.Wanted(
        kind=kind,
        authority=_kind(request.authority) if request.authority else "",
        instance_ids=_instance_ids(request.instance_ids),
    )


def _kind(kind: Any) -> str:
    try:
        return KIND_NAMES[kind]
    except KeyError:
        raise InvalidRequestError(
            f"authority must be one of {', '.join(KIND_NAMES.values())}"
        ) from None


def _instance_ids(values: Sequence[str]) -> tuple[str, ...]:
    if len(values) > _MAX_INSTANCES:
        raise InvalidRequestError(f"more than {_MAX_INSTANCES} instances; leave them out for all")
    return tuple(sorted({checks.instance_id(value) for value in values}))


def _actor() -> str:
    return call_context.caller().uri
