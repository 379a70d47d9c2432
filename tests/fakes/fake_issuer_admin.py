"""An issuer's operator side in memory: real servers, real signatures, a rotation that moves.

A rotation takes one step each time somebody looks at it, and stops at its gates.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import uuid
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import timestamp_pb2

from pki import profiles
from tests.fakes.certificates import TestAuthority
from trove_grpc import errors
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    audit_service_pb2,
    audit_service_pb2_grpc,
    breakglass_service_pb2,
    breakglass_service_pb2_grpc,
    federation_service_pb2,
    federation_service_pb2_grpc,
    issuer_service_pb2,
    issuer_service_pb2_grpc,
)
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as ca
from trove_grpc.gen.issuer.v1 import authority_service_pb2_grpc as ca_rpc
from trove_grpc.identity import Role
from trove_grpc.server import build_internal_server, build_local_server

_HOUR = dt.timedelta(hours=1)
_GENERATION = 2  # of the authority a rotation makes
_ECDSA = ec.ECDSA(hashes.SHA256())


def stamp(moment: dt.datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message


class State:
    """What all its services share; a test changes it before it asks."""

    def __init__(self, authority: TestAuthority) -> None:
        now = dt.datetime.now(dt.UTC)
        self.authority = authority
        self.bundle_version = 1
        self.is_push_heard = True
        self.agents: dict[str, agent_service_pb2.Agent] = {}
        self.services: list[ca.Service] = []
        self.certificates: list[issuer_service_pb2.IssuedCertificate] = []
        self.tokens: dict[str, issuer_service_pb2.TokenView] = {}
        self.denials: dict[tuple[int, str], issuer_service_pb2.Denial] = {}
        self.rotations: dict[str, ca.Rotation] = {}
        self.stranded: list[ca.Stranded] = []
        self.unnamed = 0  # stranded ones that the answer only counts
        self.obstacles: list[str] = []
        self.federations: dict[str, federation_service_pb2.Federation] = {}
        self.records: list[audit_service_pb2.AuditRecord] = []
        self.first_bad_sequence = 0
        self.checkpoint: audit_service_pb2.Checkpoint | None = None
        self.breakglass: list[str] = []
        self.clock_error = dt.timedelta(0)
        self.start = now
        self.record("init", "create-authority", "guest-g1")

    @property
    def stranded_total(self) -> int:
        return len(self.stranded) + self.unnamed

    def record(self, actor: str, action: str, subject: str) -> None:
        number = len(self.records) + 1
        self.records.append(
            audit_service_pb2.AuditRecord(
                sequence=number,
                time=dt.datetime.now(dt.UTC).isoformat(timespec="microseconds"),
                actor=actor,
                action=action,
                subject=subject,
                detail="{}",
                previous_hash=f"{number - 1:064x}",
                hash=f"{number:064x}",
            )
        )

    def add_agent(self, state: str = "CURRENT", **fields: Any) -> agent_service_pb2.Agent:
        number = len(self.agents) + 1
        agent = agent_service_pb2.Agent(
            instance_id=f"{number:08x}-0000-4000-8000-000000000000",
            tenant_id="t",
            state=agent_service_pb2.AgentState.Value(f"AGENT_STATE_{state}"),
            serial=f"{number:x}",
            generation=1,
            held_bundle_version=self.bundle_version,
            expire_time=stamp(self.start + 48 * _HOUR),
            last_seen_time=stamp(self.start),
        )
        agent.MergeFrom(agent_service_pb2.Agent(**fields))
        self.agents[agent.instance_id] = agent
        return agent

    def add_service(
        self, role: str, *, age: dt.timedelta = _HOUR, life: dt.timedelta = 168 * _HOUR
    ) -> ca.Service:
        serial = f"{len(self.services) + 0xA0:x}"
        service = ca.Service(
            name=f"spiffe://{self.authority.trust_domain}/service/{role}/h",
            serial=serial,
            generation=1,
            expire_time=stamp(self.start - age + life),
            held_bundle_version=self.bundle_version,
            last_seen_time=stamp(self.start),
        )
        self.services.append(service)
        self.certificates.append(
            issuer_service_pb2.IssuedCertificate(
                serial=serial,
                spiffe_id=service.name,
                authority=trust_pb2.AUTHORITY_KIND_SERVICE,
                generation=1,
                state=issuer_service_pb2.CERTIFICATE_STATE_CURRENT,
                issue_time=stamp(self.start - age),
                expire_time=service.expire_time,
            )
        )
        return service

    def agent(self, instance_id: str) -> agent_service_pb2.Agent:
        if instance_id not in self.agents:
            raise errors.NotFoundError(f"instance {instance_id} is not registered")
        return self.agents[instance_id]

    def rotation(self, rotation_id: str) -> ca.Rotation:
        if rotation_id not in self.rotations:
            raise errors.NotFoundError(f"there is no rotation {rotation_id}")
        return self.rotations[rotation_id]

    def enter(self, rotation: ca.Rotation, phase: ca.RotationPhase.ValueType) -> None:
        rotation.phase = phase
        rotation.phase_time.CopyFrom(stamp(dt.datetime.now(dt.UTC)))


class Issuer(issuer_service_pb2_grpc.IssuerServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    async def GetTrustBundle(self, request: Any, context: Any) -> Any:
        return issuer_service_pb2.GetTrustBundleResponse(
            bundle=self.state.authority.bundle(self.state.bundle_version),
            server_time=stamp(dt.datetime.now(dt.UTC) + self.state.clock_error),
        )

    async def PushTrustBundle(self, request: Any, context: Any) -> Any:
        self.state.bundle_version += 1
        if not self.state.is_push_heard:
            version = self.state.bundle_version
            return issuer_service_pb2.PushTrustBundleResponse(bundle_version=version)
        for agent in self.state.agents.values():
            if agent.is_online:
                agent.held_bundle_version = self.state.bundle_version
        for service in self.state.services:
            service.held_bundle_version = self.state.bundle_version
        return issuer_service_pb2.PushTrustBundleResponse(bundle_version=self.state.bundle_version)

    async def ListCertificates(self, request: Any, context: Any) -> Any:
        return issuer_service_pb2.ListCertificatesResponse(
            certificates=[
                each for each in self.state.certificates if request.subject in ("", each.spiffe_id)
            ]
        )

    async def MintToken(self, request: Any, context: Any) -> Any:
        for view in self.state.tokens.values():
            if view.instance_id == request.instance_id:
                view.state = issuer_service_pb2.TOKEN_STATE_VOID
        view = issuer_service_pb2.TokenView(
            token_id=str(uuid.uuid4()),
            instance_id=self.state.agent(request.instance_id).instance_id,
            state=issuer_service_pb2.TOKEN_STATE_OPEN,
            actor="local",
            create_time=stamp(dt.datetime.now(dt.UTC)),
            expire_time=stamp(dt.datetime.now(dt.UTC) + _HOUR),
        )
        self.state.tokens[view.token_id] = view
        return issuer_service_pb2.MintTokenResponse(
            token_id=view.token_id,
            token=f"trv1.{'l' * 11}.{'s' * 43}",
            expire_time=view.expire_time,
        )

    async def ListTokens(self, request: Any, context: Any) -> Any:
        return issuer_service_pb2.ListTokensResponse(tokens=list(self.state.tokens.values()))

    async def RevokeToken(self, request: Any, context: Any) -> Any:
        view = self.state.tokens.get(request.token_id)
        if view is None:
            raise errors.NotFoundError(f"there is no token {request.token_id}")
        was_open = view.state == issuer_service_pb2.TOKEN_STATE_OPEN
        if was_open:
            view.state = issuer_service_pb2.TOKEN_STATE_VOID
        return issuer_service_pb2.RevokeTokenResponse(was_revoked=was_open)

    async def CreateDenial(self, request: Any, context: Any) -> Any:
        key = (request.kind, request.value)
        denial = self.state.denials.setdefault(
            key,
            issuer_service_pb2.Denial(
                sequence=len(self.state.denials) + 1,
                kind=request.kind,
                value=request.value,
                reason=request.reason,
                effective_time=stamp(dt.datetime.now(dt.UTC)),
            ),
        )
        if request.value in self.state.agents:
            self.state.agents[request.value].state = agent_service_pb2.AGENT_STATE_DENIED
        return issuer_service_pb2.CreateDenialResponse(denial=denial)

    async def EnrolService(self, request: Any, context: Any) -> Any:
        signer = self.state.authority.signers[trust_pb2.AUTHORITY_KIND_SERVICE]
        builder = profiles.service(
            x509.load_der_x509_csr(request.csr_der).public_key(),
            signer.certificate,
            trust_domain=self.state.authority.trust_domain,
            role=Role(request.role),
            host=request.host,
            lifetime=_HOUR,
            now=dt.datetime.now(dt.UTC),
        )
        return issuer_service_pb2.EnrolServiceResponse(
            chain_pem=_pem(signer.sign(builder)) + signer.pem,
            bundle=self.state.authority.bundle(self.state.bundle_version),
        )

    async def IssueOperatorCertificate(self, request: Any, context: Any) -> Any:
        signer = self.state.authority.signers[trust_pb2.AUTHORITY_KIND_OPERATOR]
        builder = profiles.operator(
            x509.load_der_x509_csr(request.csr_der).public_key(),
            signer.certificate,
            trust_domain=self.state.authority.trust_domain,
            name=request.name,
            lifetime=_HOUR,
            now=dt.datetime.now(dt.UTC),
        )
        return issuer_service_pb2.IssueOperatorCertificateResponse(
            chain_pem=_pem(signer.sign(builder)) + signer.pem,
            bundle=self.state.authority.bundle(self.state.bundle_version),
        )


class Agents(agent_service_pb2_grpc.AgentServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    async def ListAgents(self, request: Any, context: Any) -> Any:
        found = [
            agent
            for agent in self.state.agents.values()
            if request.state in (0, agent.state)
            and request.tenant_id in ("", agent.tenant_id)
            and (not request.HasField("is_online") or request.is_online == agent.is_online)
        ]
        return agent_service_pb2.ListAgentsResponse(agents=found)

    async def GetAgent(self, request: Any, context: Any) -> Any:
        agent = self.state.agent(request.instance_id)
        certificate = agent_service_pb2.AgentCertificate(
            serial=agent.serial, authority="guest", generation=1, state="CURRENT"
        )
        certificate.expire_time.CopyFrom(agent.expire_time)
        return agent_service_pb2.GetAgentResponse(agent=agent, certificates=[certificate])

    async def AllowRecovery(self, request: Any, context: Any) -> Any:
        agent = self.state.agent(request.instance_id)
        life = request.lifetime.ToTimedelta() if request.HasField("lifetime") else 24 * _HOUR
        agent.recovery_until_time.CopyFrom(stamp(dt.datetime.now(dt.UTC) + life))
        return agent_service_pb2.AllowRecoveryResponse(agent=agent)

    async def LiftDenial(self, request: Any, context: Any) -> Any:
        lifted = self.state.denials.pop((request.kind, request.value), None)
        return agent_service_pb2.LiftDenialResponse(was_lifted=lifted is not None)

    async def ResolveClone(self, request: Any, context: Any) -> Any:
        agent = self.state.agent(request.instance_id)
        agent.state = agent_service_pb2.AGENT_STATE_CURRENT
        ended = request.resolution == agent_service_pb2.CLONE_RESOLUTION_REISSUE
        return agent_service_pb2.ResolveCloneResponse(agent=agent, ended_certificates=int(ended))


class Authorities(ca_rpc.AuthorityServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    async def ListAuthorities(self, request: Any, context: Any) -> Any:
        return ca.ListAuthoritiesResponse(
            authorities=[
                self._authority(each) for each in self.state.authority.bundle().authorities
            ],
            bundle_version=self.state.bundle_version,
        )

    @staticmethod
    def _authority(certificate: trust_pb2.AuthorityCertificate) -> ca.Authority:
        return ca.Authority(certificate=certificate, signed_by_generation=1, live_leaves=3)

    async def PlanRotation(self, request: Any, context: Any) -> Any:
        return ca.PlanRotationResponse(
            steps=["create key", "sign with root g1", "switch"],
            rotation=self._new(request),
            offline=self.state.stranded,
            offline_total=self.state.stranded_total,
            obstacles=self.state.obstacles,
        )

    def _new(self, request: Any) -> ca.Rotation:
        rotation = ca.Rotation(
            kind=request.kind,
            instance_ids=request.instance_ids,
            phase=ca.ROTATION_PHASE_PLANNED,
            next="KEY_CREATED",
            bundle_version=self.state.bundle_version + 1,
            progress=ca.RotationProgress(
                guests=4, guests_online=3, services=2, renewals=10, errors=0
            ),
        )
        if request.authority:
            rotation.authorities.add(kind=request.authority, old_generation=1)
        return rotation

    async def StartRotation(self, request: Any, context: Any) -> Any:
        rotation = self._new(request)
        rotation.rotation_id = f"rot-{len(self.state.rotations) + 1:04}"
        rotation.is_automatic = request.is_automatic
        self.state.enter(rotation, ca.ROTATION_PHASE_PLANNED)
        self.state.rotations[rotation.rotation_id] = rotation
        return ca.StartRotationResponse(rotation=rotation)

    async def GetRotation(self, request: Any, context: Any) -> Any:
        rotation = self.state.rotation(request.rotation_id)
        self._step(rotation)
        return ca.GetRotationResponse(
            rotation=rotation,
            behind=self.state.stranded,
            behind_total=self.state.stranded_total,
        )

    def _step(self, rotation: ca.Rotation) -> None:
        phase, progress = rotation.phase, rotation.progress
        at_gate = phase in (ca.ROTATION_PHASE_READY, ca.ROTATION_PHASE_DRAINED)
        is_over = phase >= ca.ROTATION_PHASE_RETIRED
        if rotation.is_paused or is_over or (at_gate and not rotation.is_automatic):
            return
        if phase == ca.ROTATION_PHASE_REISSUING and progress.guests_reissued < 3:
            progress.guests_reissued += 1
            return
        if phase == ca.ROTATION_PHASE_PLANNED:
            for each in rotation.authorities:
                each.new_generation = _GENERATION
        if phase == ca.ROTATION_PHASE_DISTRIBUTING:
            progress.guests_acknowledged, progress.services_acknowledged = 3, 2
        self.state.enter(rotation, ca.RotationPhase.values()[phase + 1])

    async def ListRotations(self, request: Any, context: Any) -> Any:
        found = [
            rotation
            for rotation in self.state.rotations.values()
            if not request.open_only or rotation.phase < ca.ROTATION_PHASE_RETIRED
        ]
        return ca.ListRotationsResponse(rotations=found)

    async def AdvanceRotation(self, request: Any, context: Any) -> Any:
        rotation = self.state.rotation(request.rotation_id)
        if rotation.phase != request.target - 1:
            raise errors.ConflictError(f"{rotation.rotation_id} does not wait at that gate")
        left = [
            each
            for each in self.state.stranded
            if each.instance_id not in request.strand_instance_ids
        ]
        if request.target == ca.ROTATION_PHASE_RETIRED and left:
            return ca.AdvanceRotationResponse(
                rotation=rotation, stranded=left, stranded_total=len(left)
            )
        self.state.enter(rotation, request.target)
        return ca.AdvanceRotationResponse(rotation=rotation)

    async def PauseRotation(self, request: Any, context: Any) -> Any:
        rotation = self.state.rotation(request.rotation_id)
        rotation.is_paused, rotation.pause_reason = request.is_paused, request.reason
        return ca.PauseRotationResponse(rotation=rotation)

    async def RollBackRotation(self, request: Any, context: Any) -> Any:
        rotation = self.state.rotation(request.rotation_id)
        is_early = rotation.phase < ca.ROTATION_PHASE_SWITCHED
        self.state.enter(
            rotation, ca.ROTATION_PHASE_ABORTED if is_early else ca.ROTATION_PHASE_ROLLED_BACK
        )
        return ca.RollBackRotationResponse(rotation=rotation)

    async def TaintAuthority(self, request: Any, context: Any) -> Any:
        if not request.without_successor:
            raise errors.ConflictError("it signs, and nothing can take its place")
        for each in self.state.authority.bundle().authorities:
            if each.kind == request.kind:
                each.state = trust_pb2.AUTHORITY_STATE_TAINTED
                return ca.TaintAuthorityResponse(
                    authority=self._authority(each),
                    stranded=self.state.stranded,
                    stranded_total=self.state.stranded_total,
                )
        raise errors.NotFoundError("there is no such authority")

    async def ExportCrl(self, request: Any, context: Any) -> Any:
        signer = self.state.authority.signers[request.kind]
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(signer.certificate.subject)
        crl = builder.last_update(now).next_update(now + _HOUR).sign(signer.key, hashes.SHA256())
        return ca.ExportCrlResponse(
            crl_der=crl.public_bytes(serialization.Encoding.DER), revoked=0
        )

    async def ListServices(self, request: Any, context: Any) -> Any:
        return ca.ListServicesResponse(services=self.state.services)


class Audit(audit_service_pb2_grpc.AuditServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    async def ListAuditRecords(self, request: Any, context: Any) -> Any:
        size = request.page_size or 100
        found = [
            record
            for record in self.state.records
            if record.sequence > request.after_sequence
            and request.subject in ("", record.subject)
            and request.action in ("", record.action)
        ]
        page = found[::-1][:size] if request.from_end else found[:size]
        return audit_service_pb2.ListAuditRecordsResponse(
            records=page, head_sequence=len(self.state.records)
        )

    async def VerifyAudit(self, request: Any, context: Any) -> Any:
        bad = self.state.first_bad_sequence
        return audit_service_pb2.VerifyAuditResponse(
            checked_records=len(self.state.records),
            head_sequence=len(self.state.records),
            head_hash=self.state.records[-1].hash,
            first_bad_sequence=bad,
            problem=f"row {bad} was edited" if bad else "",
            last_checkpoint=self.state.checkpoint,
        )

    async def CreateCheckpoint(self, request: Any, context: Any) -> Any:
        last = self.state.records[-1]
        self.state.checkpoint = audit_service_pb2.Checkpoint(
            sequence=last.sequence,
            hash=last.hash,
            create_time=stamp(dt.datetime.now(dt.UTC)),
            trust_domain=self.state.authority.trust_domain,
            epoch=1,
            signature=b"signed",
        )
        return audit_service_pb2.CreateCheckpointResponse(checkpoint=self.state.checkpoint)


class Federation(federation_service_pb2_grpc.FederationServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    async def PutFederatedBundle(self, request: Any, context: Any) -> Any:
        name = request.federation.bundle.trust_domain
        known = self.state.federations.get(name)
        if known is not None and known.bundle.sequence > request.federation.bundle.sequence:
            raise errors.ConflictError("that bundle is older than the one at hand")
        request.federation.bundle.refresh_time.CopyFrom(stamp(dt.datetime.now(dt.UTC)))
        self.state.federations[name] = request.federation
        return federation_service_pb2.PutFederatedBundleResponse(federation=request.federation)

    async def ListFederatedBundles(self, request: Any, context: Any) -> Any:
        return federation_service_pb2.ListFederatedBundlesResponse(
            federations=list(self.state.federations.values())
        )

    async def RemoveFederatedBundle(self, request: Any, context: Any) -> Any:
        removed = self.state.federations.pop(request.trust_domain, None)
        return federation_service_pb2.RemoveFederatedBundleResponse(
            was_removed=removed is not None
        )


class Breakglass(breakglass_service_pb2_grpc.BreakglassServiceServicer):
    def __init__(self, state: State) -> None:
        self.state = state

    async def IssueBreakglass(self, request: Any, context: Any) -> Any:
        if len({approval.chain_pem for approval in request.approvals}) < 2:
            raise errors.PermissionDeniedError("two different operators must approve")
        claim = breakglass_service_pb2.BreakglassClaim.FromString(request.claim)
        signer = self.state.authority.signers[trust_pb2.AUTHORITY_KIND_OPERATOR]
        for approval in request.approvals:
            key = x509.load_pem_x509_certificate(approval.chain_pem).public_key()
            key.verify(approval.signature, request.claim, _ECDSA)
        builder = profiles.operator(
            x509.load_der_x509_csr(claim.csr_der).public_key(),
            signer.certificate,
            trust_domain=self.state.authority.trust_domain,
            name=claim.incident,
            lifetime=_HOUR,
            now=dt.datetime.now(dt.UTC),
        )
        self.state.breakglass.append(claim.incident)
        return breakglass_service_pb2.IssueBreakglassResponse(
            chain_pem=_pem(signer.sign(builder)) + signer.pem,
            expire_time=stamp(dt.datetime.now(dt.UTC) + _HOUR),
        )

    async def EndBreakglass(self, request: Any, context: Any) -> Any:
        count = self.state.breakglass.count(request.incident)
        self.state.breakglass = [x for x in self.state.breakglass if x != request.incident]
        return breakglass_service_pb2.EndBreakglassResponse(ended_certificates=count)


class FakeIssuerAdmin:
    """The servers, in a thread with its own loop, so that commands run as they do for real."""

    def __init__(self, root: Path) -> None:
        self.authority = TestAuthority()
        self.state = State(self.authority)
        self.socket = root / "run" / "operator.sock"
        self.identity = self.authority.identity_for_service(Role.ISSUER, root / "issuer")
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-issuer")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.socket.parent.mkdir(mode=0o700, parents=True)
        self._thread.start()
        self._run(self._start())

    def stop(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _register(self, server: Any) -> None:
        issuer_service_pb2_grpc.add_IssuerServiceServicer_to_server(Issuer(self.state), server)
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(Agents(self.state), server)
        ca_rpc.add_AuthorityServiceServicer_to_server(Authorities(self.state), server)
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(Audit(self.state), server)
        federation_service_pb2_grpc.add_FederationServiceServicer_to_server(
            Federation(self.state), server
        )
        breakglass_service_pb2_grpc.add_BreakglassServiceServicer_to_server(
            Breakglass(self.state), server
        )

    async def _start(self) -> None:
        self._local = build_local_server(self.socket, register=self._register)
        self._internal = build_internal_server(
            "127.0.0.1:0", identity=self.identity, register=self._register, services=[]
        )
        self.port = self._internal.port
        await self._local.start()
        await self._internal.start()

    async def _stop(self) -> None:
        await self._local.stop(0)
        await self._internal.stop(0)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
