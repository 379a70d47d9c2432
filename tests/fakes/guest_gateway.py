"""A guest gateway for agents under test: real gRPC, real TLS, real certificates, no conductor.

It enrols, renews and confirms, signs engine certificates, opens sessions, sends commands and
records what it hears. Tests spoil it on purpose: lose a reply, refuse a serial, keep silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc import aio

from pki import proof
from tests.fakes.certificates import HOUR, TestAuthority
from trove_grpc import context, errors
from trove_grpc.gen.common.v1 import engine_pb2, trust_pb2
from trove_grpc.gen.guest.v1 import (
    enrolment_service_pb2,
    enrolment_service_pb2_grpc,
    guest_session_service_pb2,
    guest_session_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
)
from trove_grpc.identity import Role, identify, serial_hex
from trove_grpc.server import Server, build_enrolment_server, build_guest_server
from trove_grpc.tls import anchors

pb = guest_session_service_pb2


async def eventually(condition: Callable[[], Any], *, within: float = 20.0) -> Any:
    """The condition's value as soon as it is true; fails after `within` seconds."""
    ends = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > ends:
            raise AssertionError(f"not within {within:g} s: {condition}")
        await asyncio.sleep(0.02)
    return value


@dataclass
class OpenSession:
    """One stream as the gateway sees it."""

    instance_id: str
    serial: str
    epoch: int
    hello: guest_session_service_pb2.Hello
    outgoing: asyncio.Queue[guest_session_service_pb2.ConnectResponse | None] = field(
        default_factory=asyncio.Queue
    )
    sequences: list[int] = field(default_factory=list)

    def send(self, **message: Any) -> None:
        self.outgoing.put_nowait(pb.ConnectResponse(**message))

    def end(self) -> None:
        self.outgoing.put_nowait(None)


class FakeGateway:
    """Two listeners on loopback, everything it heard in lists."""

    def __init__(self, authority: TestAuthority, directory: Path) -> None:
        self.authority = authority
        self.identity = authority.identity_for_service(Role.GATEWAY, directory)
        self.tokens: dict[str, tuple[str, str]] = {}  # token -> (tenant, instance)
        self.guest_lifetime: dt.timedelta = HOUR
        self.engine_addresses: Sequence[str] = ()
        self.renewal_window: trust_pb2.RenewalWindow | None = None
        self.heartbeat_interval = dt.timedelta(seconds=0.2)
        self.acknowledges = True
        self.welcome_window = dt.timedelta()
        self.bundle_version = 1
        # How many replies are lost: the work is done, the caller hears UNAVAILABLE.
        self.lose: dict[str, int] = {}
        # Serials that may not open sessions.
        self.refused_serials: set[str] = set()
        self.refuses_engine_certificates = False

        self.clock_offset = dt.timedelta()  # of our clock, at enrolment and recovery
        self.recovery_refusal: errors.TroveError | None = None

        self.enrolments: list[bytes] = []  # CSRs
        self.nonces: list[bytes] = []  # given out, not used
        self.recoveries: list[enrolment_service_pb2.RecoverRequest] = []
        self.renewals: list[bytes] = []
        self.confirmed: list[str] = []
        self.engine_requests: list[bytes] = []
        self.sessions: list[OpenSession] = []
        self.open: list[OpenSession] = []
        self.heartbeats: list[guest_session_service_pb2.Heartbeat] = []
        self.changes: list[guest_session_service_pb2.Change] = []
        self.results: list[guest_session_service_pb2.CommandResult] = []
        self._chains: dict[bytes, bytes] = {}
        self._epoch = 0
        self._guest_server: Server | None = None
        self._enrolment_server: Server | None = None

    # What tests do with it.

    @property
    def session(self) -> OpenSession:
        return self.open[-1]

    @property
    def guest_endpoint(self) -> str:
        assert self._guest_server is not None
        return f"127.0.0.1:{self._guest_server.port}"

    @property
    def enrolment_endpoint(self) -> str:
        assert self._enrolment_server is not None
        return f"127.0.0.1:{self._enrolment_server.port}"

    def states(self) -> list[str]:
        """The engine's states as changes told them."""
        return [_state(change.observation) for change in self.changes]

    async def connected(self, *, more_than: int = 0, within: float = 20.0) -> OpenSession:
        await eventually(lambda: len(self.sessions) > more_than and self.open, within=within)
        return self.session

    async def state(self, name: str, *, within: float = 20.0) -> engine_pb2.Observation:
        """The latest heartbeat, once it says `name`."""
        await eventually(
            lambda: self.heartbeats and _state(self.heartbeats[-1].observation) == name,
            within=within,
        )
        return self.heartbeats[-1].observation

    async def command(
        self, command_id: str, *, within: float = 60.0, **action: Any
    ) -> guest_session_service_pb2.CommandResult:
        """Send a command and wait for its (next) result."""
        heard = len(self.results_of(command_id))
        self.send_command(command_id, within=within, **action)
        await eventually(lambda: len(self.results_of(command_id)) > heard, within=within)
        return self.results_of(command_id)[-1]

    def send_command(self, command_id: str, *, within: float = 60.0, **action: Any) -> None:
        command = pb.Command(command_id=command_id, request_id="req-test", **action)
        command.timeout.FromTimedelta(dt.timedelta(seconds=within))
        self.session.send(command=command)

    def results_of(self, command_id: str) -> list[guest_session_service_pb2.CommandResult]:
        return [result for result in self.results if result.command_id == command_id]

    async def stop_guest_server(self) -> None:
        assert self._guest_server is not None
        await self._guest_server.stop(0)

    async def restart_guest_server(self) -> None:
        """On the same port, as a restarted gateway."""
        assert self._guest_server is not None
        self._guest_server = self._build_guest_server(self._guest_server.port)
        await self._guest_server.start()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeGateway]:
        self._guest_server = self._build_guest_server(0)
        self._enrolment_server = build_enrolment_server(
            "127.0.0.1:0", identity=self.identity, register=self._register_enrolment
        )
        await self._guest_server.start()
        await self._enrolment_server.start()
        try:
            yield self
        finally:
            await self._guest_server.stop(0)
            await self._enrolment_server.stop(0)

    # What its services do.

    def sign_guest(self, csr_der: bytes, tenant_id: str, instance_id: str) -> bytes:
        """The same chain for the same CSR key, as the issuer's idempotency demands."""
        key = public_key(csr_der)
        if key not in self._chains:
            self._chains[key] = self.authority.guest_chain(
                tenant_id, instance_id, csr_der, lifetime=self.guest_lifetime
            )
        return self._chains[key]

    def lost(self, name: str) -> None:
        if self.lose.get(name, 0):
            self.lose[name] -= 1
            raise errors.UnavailableError(f"the reply to {name} was lost")

    def next_epoch(self) -> int:
        self._epoch += 1
        return self._epoch

    def _build_guest_server(self, port: int) -> Server:
        return build_guest_server(
            f"127.0.0.1:{port}", identity=self.identity, register=self._register_guest
        )

    def _register_guest(self, server: aio.Server) -> None:
        guest_session_service_pb2_grpc.add_GuestSessionServiceServicer_to_server(
            _Sessions(self), server
        )
        identity_service_pb2_grpc.add_IdentityServiceServicer_to_server(_Identity(self), server)

    def _register_enrolment(self, server: aio.Server) -> None:
        enrolment_service_pb2_grpc.add_EnrolmentServiceServicer_to_server(_Enrolment(self), server)


class _Enrolment(enrolment_service_pb2_grpc.EnrolmentServiceServicer):
    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway

    async def Enrol(self, request, _):
        gateway = self._gateway
        owner = gateway.tokens.get(request.token)
        gateway.enrolments.append(request.csr_der)
        if owner is None or owner[1] != request.instance_id:
            raise errors.UnauthenticatedError("the token is refused", reason="TOKEN_REFUSED")
        response = enrolment_service_pb2.EnrolResponse(
            chain_pem=gateway.sign_guest(request.csr_der, *owner),
            bundle=gateway.authority.bundle(gateway.bundle_version),
            renewal_window=gateway.renewal_window,
        )
        response.server_time.GetCurrentTime()
        gateway.lost("enrol")
        return response

    async def GetNonce(self, request, _):
        gateway = self._gateway
        gateway.nonces.append(secrets.token_bytes(16))
        response = enrolment_service_pb2.GetNonceResponse(nonce=gateway.nonces[-1])
        response.server_time.FromDatetime(dt.datetime.now(dt.UTC) + gateway.clock_offset)
        return response

    async def Recover(self, request, _):
        gateway = self._gateway
        gateway.recoveries.append(request)
        expired = identify(request.expired_chain_pem, gateway.authority.bundle())
        leaf = x509.load_pem_x509_certificate(request.expired_chain_pem)
        gateway.nonces.remove(request.nonce)
        assert expired.instance_id == request.instance_id
        assert proof.holds(
            leaf.public_key(),
            request.signature,
            nonce=request.nonce,
            csr_der=request.csr_der,
            instance_id=request.instance_id,
        )
        if gateway.recovery_refusal is not None:
            raise gateway.recovery_refusal
        if expired.serial in gateway.refused_serials:
            raise errors.ConflictError("it has a successor", reason="STALE_SERIAL")
        response = enrolment_service_pb2.RecoverResponse(
            chain_pem=gateway.sign_guest(request.csr_der, expired.tenant_id, expired.instance_id),
            bundle=gateway.authority.bundle(gateway.bundle_version),
            renewal_window=gateway.renewal_window,
        )
        response.server_time.FromDatetime(dt.datetime.now(dt.UTC) + gateway.clock_offset)
        gateway.lost("recover")
        return response


class _Identity(identity_service_pb2_grpc.IdentityServiceServicer):
    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway

    async def Renew(self, request, _):
        gateway, caller = self._gateway, context.caller()
        gateway.renewals.append(request.csr_der)
        chain = gateway.sign_guest(request.csr_der, caller.tenant_id, caller.instance_id)
        gateway.lost("renew")
        response = identity_service_pb2.RenewResponse(
            chain_pem=chain,
            bundle=gateway.authority.bundle(gateway.bundle_version),
            renewal_window=gateway.renewal_window,
        )
        response.server_time.GetCurrentTime()
        return response

    async def Confirm(self, _request, _):
        gateway, caller = self._gateway, context.caller()
        gateway.confirmed.append(caller.serial)
        for session in gateway.open:
            if session.instance_id == caller.instance_id and session.serial != caller.serial:
                session.send(goodbye=pb.Goodbye(reason=pb.GOODBYE_REASON_HANDOVER))
                session.end()
        gateway.lost("confirm")
        return identity_service_pb2.ConfirmResponse()

    async def GetTrustBundle(self, _request, _):
        return identity_service_pb2.GetTrustBundleResponse(
            bundle=self._gateway.authority.bundle(self._gateway.bundle_version)
        )

    async def IssueEngineCertificate(self, request, _):
        gateway = self._gateway
        gateway.engine_requests.append(request.csr_der)
        if gateway.refuses_engine_certificates:
            raise errors.UnavailableError("the issuer is away")
        key = b"engine" + public_key(request.csr_der)
        if key not in gateway._chains:
            gateway._chains[key] = gateway.authority.engine_chain(
                request.csr_der, ip_addresses=gateway.engine_addresses
            )
        roots = anchors(gateway.authority.bundle(), {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT})
        response = identity_service_pb2.IssueEngineCertificateResponse(
            chain_pem=gateway._chains[key], root_pem=roots
        )
        gateway.lost("engine")
        return response


class _Sessions(guest_session_service_pb2_grpc.GuestSessionServiceServicer):
    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway

    async def Connect(self, requests, stream):
        gateway, caller = self._gateway, context.caller()
        if caller.serial in gateway.refused_serials:
            raise errors.UnauthenticatedError("certificate revoked", reason="DENIED")
        first = await anext(requests)
        assert first.WhichOneof("message") == "hello"
        session = OpenSession(caller.instance_id, caller.serial, gateway.next_epoch(), first.hello)
        session.sequences.append(first.sequence)
        welcome = pb.Welcome(session_epoch=session.epoch, bundle_version=gateway.bundle_version)
        welcome.server_time.GetCurrentTime()
        welcome.settings.heartbeat_interval.FromTimedelta(gateway.heartbeat_interval)
        welcome.settings.reconnect_window.FromTimedelta(gateway.welcome_window)
        await stream.write(pb.ConnectResponse(welcome=welcome))
        gateway.sessions.append(session)
        gateway.open.append(session)
        listening = asyncio.create_task(self._listen(requests, session))
        try:
            while True:
                sending = asyncio.create_task(session.outgoing.get())
                await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    sending.cancel()
                    return
                response = sending.result()
                if response is None:
                    return
                await stream.write(response)
        finally:
            gateway.open.remove(session)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, requests, session):
        gateway = self._gateway
        async for request in requests:
            session.sequences.append(request.sequence)
            match request.WhichOneof("message"):
                case "heartbeat":
                    gateway.heartbeats.append(request.heartbeat)
                case "change":
                    gateway.changes.append(request.change)
                    if gateway.acknowledges:
                        identifier = request.change.change_id
                        session.send(acknowledgement=pb.Acknowledgement(id=identifier))
                case "command_result":
                    gateway.results.append(request.command_result)


def public_key(csr_der: bytes) -> bytes:
    """What makes two requests the same."""
    return (
        x509.load_der_x509_csr(csr_der)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )


def serial_of(path: Path) -> str:
    """Serial of the certificate in `<path>/chain.pem`."""
    pem = (path / "chain.pem").read_bytes()
    return serial_hex(x509.load_pem_x509_certificate(pem))


def _state(observation: engine_pb2.Observation) -> str:
    return engine_pb2.EngineState.Name(observation.state).removeprefix("ENGINE_STATE_")
