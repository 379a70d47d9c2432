"""What a listener lets in: real TLS, real certificates, good and bad."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import uuid
from pathlib import Path

import grpc
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc import aio

from pki.denials import DenialList
from tests.fakes.certificates import TestAuthority
from trove_grpc import authorization, client, context, errors, metrics
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2_grpc, identity_service_pb2
from trove_grpc.gen.guest.v1 import identity_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.identity import Role
from trove_grpc.server import (
    build_enrolment_server,
    build_guest_server,
    build_internal_server,
    build_local_server,
)
from trove_grpc.tls import IdentityDirectory, anchors

TENANT = "tenant-a"
INSTANCE = str(uuid.uuid4())
KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")


class Identity(rpc.IdentityServiceServicer):
    """Answers GetTrustBundle and remembers who asked."""

    def __init__(self) -> None:
        self.callers = []

    async def GetTrustBundle(self, request, context_):
        self.callers.append(context.caller())
        return identity_service_pb2.GetTrustBundleResponse()


class Kinds(grpc.GenericRpcHandler):
    """One method of each call kind, counting the handlers that ran."""

    def __init__(self) -> None:
        self.ran = 0

    def service(self, details):
        async def answer(_request, _context):
            self.ran += 1
            return b"done"

        async def stream(_request, _context):
            self.ran += 1
            yield b"done"

        async def consume(requests, _context):
            async for _ in requests:
                pass
            self.ran += 1
            return b"done"

        async def converse(_requests, context_):
            self.ran += 1
            await context_.write(b"done")

        handlers = {
            "UnaryUnary": grpc.unary_unary_rpc_method_handler(answer),
            "UnaryStream": grpc.unary_stream_rpc_method_handler(stream),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(consume),
            "StreamStream": grpc.stream_stream_rpc_method_handler(converse),
        }
        return handlers.get(details.method.rpartition("/")[2])


@pytest.fixture(scope="module")
def authority():
    return TestAuthority()


@pytest.fixture
def gateway_identity(authority, tmp_path):
    return authority.identity_for_service(Role.GATEWAY, tmp_path / "gateway")


@contextlib.asynccontextmanager
async def running(server):
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


@pytest.fixture
async def guest_listener(gateway_identity):
    servicer = Identity()

    def register(server):
        rpc.add_IdentityServiceServicer_to_server(servicer, server)

    server = build_guest_server("127.0.0.1:0", identity=gateway_identity, register=register)
    async with running(server) as address:
        yield address, servicer


async def ask(address: str, identity: IdentityDirectory, timeout: float = 5):
    async with client.PeerChannel([address], identity=identity, server_role=Role.GATEWAY) as peer:
        return await client.call(
            peer.stub(rpc.IdentityServiceStub).GetTrustBundle,
            identity_service_pb2.GetTrustBundleRequest(),
            timeout=timeout,
        )


async def test_a_guest_is_known_by_its_certificate(authority, guest_listener, tmp_path):
    address, servicer = guest_listener
    await ask(address, authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g"))
    (caller,) = servicer.callers
    assert (caller.role, caller.tenant_id, caller.instance_id) == (Role.GUEST, TENANT, INSTANCE)


SPOILT = {
    "no EKU": {"purposes": None},
    "a second purpose": {
        "purposes": (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.CODE_SIGNING)
    },
    "a CA flag": {"certificate_authority": True},
    "no name": {"without_names": True},
    "two URIs": {"extra_uris": ("spiffe://local.trove/operator/eve",)},
    "a DNS name": {"dns_names": ("gateway.local.trove",)},
    "no authority key id": {"without_authority_key_id": True},
    "a NUL in the URI": {"uri": f"spiffe://local.trove/tenant/t/instance/{INSTANCE}\x00/x"},
    "a trailing newline": {"uri": f"spiffe://local.trove/tenant/t/instance/{INSTANCE}\n"},
    "another trust domain": {"uri": f"spiffe://evil.trove/tenant/t/instance/{INSTANCE}"},
    "a service's name": {"uri": "spiffe://local.trove/service/conductor/host"},
    "an operator's name": {"uri": "spiffe://local.trove/operator/eve"},
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
async def test_a_malformed_certificate_is_refused_before_any_handler(
    authority, guest_listener, tmp_path, spoil
):
    address, servicer = guest_listener
    identity = authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g", **spoil)
    with pytest.raises(errors.UnauthenticatedError) as caught:
        await ask(address, identity)
    assert caught.value.reason in {"BAD_PROFILE", "BAD_IDENTITY"}
    assert servicer.callers == []


UNVERIFIABLE = {
    "expired": {"expired": True},
    "not yet valid": {"not_yet_valid": True},
    "foreign root": {"foreign_root": True},
    "serverAuth only": {"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)},
    "signed by the service intermediate": {"signed_by": trust_pb2.AUTHORITY_KIND_SERVICE},
    "signed by the database intermediate": {"signed_by": trust_pb2.AUTHORITY_KIND_DATABASE},
}


@pytest.mark.parametrize("spoil", UNVERIFIABLE.values(), ids=UNVERIFIABLE.keys())
async def test_an_unverifiable_certificate_fails_in_the_handshake(
    authority, guest_listener, tmp_path, spoil
):
    address, servicer = guest_listener
    identity = authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g", **spoil)
    with pytest.raises(errors.UnavailableError):
        await ask(address, identity, timeout=3)
    assert servicer.callers == []


async def test_a_handshake_is_counted_though_it_fails(authority, guest_listener, tmp_path):
    counted = metrics.TLS_HANDSHAKES.labels("guest")._value
    before = counted.get()
    address, _ = guest_listener
    identity = authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g", foreign_root=True)
    with pytest.raises(errors.UnavailableError):
        await ask(address, identity, timeout=3)
    assert counted.get() > before


async def test_a_service_and_an_operator_cannot_reach_the_guest_listener(
    authority, guest_listener, tmp_path
):
    address, servicer = guest_listener
    for identity in (
        authority.identity_for_service(Role.CONDUCTOR, tmp_path / "c"),
        authority.identity_for_operator("ada", tmp_path / "o"),
    ):
        with pytest.raises(errors.UnavailableError):
            await ask(address, identity, timeout=3)
    assert servicer.callers == []


async def test_a_guest_cannot_reach_an_internal_listener(
    authority, gateway_identity, tmp_path, monkeypatch
):
    handler = Kinds()
    monkeypatch.setitem(authorization.CALLERS, "/t.Kinds/UnaryUnary", frozenset(Role))
    server = build_internal_server(
        "127.0.0.1:0",
        identity=gateway_identity,
        register=lambda server: server.add_generic_rpc_handlers((handler,)),
        services=[],
    )
    guest = authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g")
    async with running(server) as address:
        with pytest.raises(errors.UnavailableError):
            await call_kind(address, guest, "UnaryUnary")
        operator = authority.identity_for_operator("ada", tmp_path / "o")
        assert await call_kind(address, operator, "UnaryUnary") == b"done"
    assert handler.ran == 1


@contextlib.contextmanager
def translated():
    try:
        yield
    except aio.AioRpcError as error:
        raise errors.from_rpc(error) from error


async def call_kind(address: str, identity: IdentityDirectory, kind: str):
    async with client.PeerChannel([address], identity=identity, server_role=Role.GATEWAY) as peer:
        channel, method = peer.channel(), f"/t.Kinds/{kind}"
        with translated():
            if kind == "UnaryUnary":
                return await channel.unary_unary(method)(b"x", timeout=3)
            if kind == "UnaryStream":
                return await channel.unary_stream(method)(b"x", timeout=3).read()
            if kind == "StreamUnary":
                return await channel.stream_unary(method)(iter([b"x"]), timeout=3)
            return await channel.stream_stream(method)(iter([b"x"]), timeout=3).read()


@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_kind_is_guarded(
    authority, gateway_identity, tmp_path, monkeypatch, kind
):
    handler = Kinds()
    server = build_internal_server(
        "127.0.0.1:0",
        identity=gateway_identity,
        register=lambda server: server.add_generic_rpc_handlers((handler,)),
        services=[],
    )
    conductor = authority.identity_for_service(Role.CONDUCTOR, tmp_path / "c")
    async with running(server) as address:
        with pytest.raises(errors.PermissionDeniedError):
            await call_kind(address, conductor, kind)
        assert handler.ran == 0
        monkeypatch.setitem(authorization.CALLERS, f"/t.Kinds/{kind}", frozenset({Role.CONDUCTOR}))
        assert await call_kind(address, conductor, kind) == b"done"
    assert handler.ran == 1


async def test_an_expired_leaf_is_refused_on_a_connection_that_is_still_open(
    authority, guest_listener, tmp_path, monkeypatch
):
    from trove_grpc import identity as identities

    address, servicer = guest_listener
    guest = authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g")
    expires = guest.load().leaf.not_valid_after_utc
    async with client.PeerChannel([address], identity=guest, server_role=Role.GATEWAY) as peer:
        stub = peer.stub(rpc.IdentityServiceStub)
        request = identity_service_pb2.GetTrustBundleRequest()
        await client.call(stub.GetTrustBundle, request, timeout=5)
        real = identities.check_validity
        late = expires + dt.timedelta(seconds=1)
        monkeypatch.setattr(identities, "check_validity", lambda who, _now: real(who, late))
        with pytest.raises(errors.UnauthenticatedError) as caught:
            await client.call(stub.GetTrustBundle, request, timeout=5)
    assert caught.value.reason == "CERTIFICATE_EXPIRED"
    assert len(servicer.callers) == 1


async def test_a_denied_identity_is_refused_with_the_reason_given(
    authority, gateway_identity, tmp_path
):
    class Everyone:
        def refusal(self, caller):
            return errors.UnauthenticatedError("instance deleted", reason="DENIED")

    servicer = Identity()
    server = build_guest_server(
        "127.0.0.1:0",
        identity=gateway_identity,
        register=lambda s: rpc.add_IdentityServiceServicer_to_server(servicer, s),
        denials=Everyone(),
    )
    guest = authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g")
    async with running(server) as address:
        with pytest.raises(errors.UnauthenticatedError) as caught:
            await ask(address, guest)
    assert caught.value.reason == "DENIED"
    assert servicer.callers == []


async def test_the_guest_listener_answers_unknown_methods_like_forbidden_ones(
    authority, guest_listener, tmp_path
):
    address, _ = guest_listener
    guest = authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g")
    async with client.PeerChannel([address], identity=guest, server_role=Role.GATEWAY) as peer:
        for method in (
            "/no.such.Service/Method",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "/trove.issuer.v1.IssuerService/MintToken",
        ):
            with pytest.raises(aio.AioRpcError) as caught:
                await peer.channel().unary_unary(method)(b"", timeout=3)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, method


async def test_plaintext_and_certificate_free_peers_get_nothing(guest_listener, gateway_identity):
    address, servicer = guest_listener
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    await writer.drain()
    received = await asyncio.wait_for(reader.read(1024), 15)
    assert b"SETTINGS" not in received
    assert received[:1] != b"\x00"  # no HTTP/2 frame
    writer.close()

    credentials = grpc.ssl_channel_credentials(
        anchors(gateway_identity.bundle(), {trust_pb2.AUTHORITY_KIND_ROOT})
    )
    options = [("grpc.ssl_target_name_override", "gateway.local.trove")]
    async with aio.secure_channel(address, credentials, options) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await rpc.IdentityServiceStub(channel).GetTrustBundle(
                identity_service_pb2.GetTrustBundleRequest(), timeout=3
            )
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert servicer.callers == []


def raw_tls(slot: Path) -> ssl.SSLContext:
    """A client below gRPC, which can do what grpcio's own client refuses to."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols(["h2"])
    made.load_cert_chain(slot / "chain.pem", slot / "key.pem")
    return made


def raw_call(path: bytes) -> bytes:
    """Preface, SETTINGS and one unary request of raw HPACK: literal fields, never indexed."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", path),
        (b":authority", b"gateway.local.trove"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    block = b"".join(
        b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields
    )
    stream, body = (1).to_bytes(4, "big"), b"\x00\x00\x00\x00\x00"
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        + len(block).to_bytes(3, "big")
        + b"\x01\x04"
        + stream
        + block
        + len(body).to_bytes(3, "big")
        + b"\x00\x01"
        + stream
        + body
    )


GET_BUNDLE = b"/trove.guest.v1.IdentityService/GetTrustBundle"


def converse(address: str, tls: ssl.SSLContext, until: bytes, session=None):
    """Connect, make the call, read until `until`; what came, the session, whether resumed."""
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        tls.wrap_socket(plain, session=session) as secure,
    ):
        secure.sendall(raw_call(GET_BUNDLE))
        received = b""
        with contextlib.suppress(TimeoutError, ssl.SSLError):
            while until not in received and (data := secure.recv(4096)):
                received += data
        return received, secure.session, secure.session_reused


async def test_tls_1_2_is_refused(authority, guest_listener, tmp_path):
    address, servicer = guest_listener
    authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g")
    tls = raw_tls(tmp_path / "g" / "current")
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    received, _, _ = await asyncio.to_thread(converse, address, tls, b"TLS 1.3")
    assert b"TLS 1.3" in received  # the refusal's message, in the trailers
    assert servicer.callers == []


async def test_a_resumed_session_gets_nothing_once_its_certificate_has_expired(
    authority, guest_listener, tmp_path
):
    address, servicer = guest_listener
    guest = authority.identity_for_guest(
        TENANT, INSTANCE, tmp_path / "g", lifetime=dt.timedelta(seconds=3)
    )
    tls = raw_tls(tmp_path / "g" / "current")
    answer, session, _ = await asyncio.to_thread(converse, address, tls, b"grpc-status")
    assert b"expired" not in answer
    assert len(servicer.callers) == 1
    expires = guest.load().leaf.not_valid_after_utc
    # A real life, really over: there is no event to wait for.
    while dt.datetime.now(dt.UTC) <= expires:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    refusal, _, resumed = await asyncio.to_thread(converse, address, tls, b"expired", session)
    assert resumed  # else this proves nothing: the handshake itself would have refused it
    assert b"expired" in refusal
    assert len(servicer.callers) == 1


async def test_a_resumed_session_gets_nothing_once_its_certificate_is_denied(
    authority, gateway_identity, tmp_path
):
    servicer, denials = Identity(), DenialList()
    server = build_guest_server(
        "127.0.0.1:0",
        identity=gateway_identity,
        register=lambda built: rpc.add_IdentityServiceServicer_to_server(servicer, built),
        denials=denials,
    )
    authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g")
    tls = raw_tls(tmp_path / "g" / "current")
    async with running(server) as address:
        answer, session, _ = await asyncio.to_thread(converse, address, tls, b"grpc-status")
        assert b"denied" not in answer
        assert len(servicer.callers) == 1
        denial = issuer_pb2.Denial(kind=issuer_pb2.DENIAL_KIND_INSTANCE, value=INSTANCE)
        denials.apply([denial])
        refusal, _, resumed = await asyncio.to_thread(converse, address, tls, b"denied", session)
    assert resumed  # else this proves nothing: a new handshake shows the certificate again
    assert b"denied" in refusal
    assert len(servicer.callers) == 1


async def test_the_enrolment_listener_serves_nothing_else(gateway_identity):
    server = build_enrolment_server(
        "127.0.0.1:0", identity=gateway_identity, register=lambda _server: None
    )
    async with (
        running(server) as address,
        client.open_enrolment_channel([address], gateway_identity) as channel,
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await rpc.IdentityServiceStub(channel).GetTrustBundle(
                identity_service_pb2.GetTrustBundleRequest(), timeout=3
            )
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        call = guest_session_service_pb2_grpc.GuestSessionServiceStub(channel).Connect(timeout=3)
        assert await call.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_client_refuses_a_server_of_another_role(authority, guest_listener, tmp_path):
    address, servicer = guest_listener
    guest = authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g")
    async with client.PeerChannel([address], identity=guest, server_role=Role.CONDUCTOR) as peer:
        with pytest.raises(errors.UnavailableError):
            await client.call(
                peer.stub(rpc.IdentityServiceStub).GetTrustBundle,
                identity_service_pb2.GetTrustBundleRequest(),
                timeout=3,
            )
    assert servicer.callers == []


async def test_a_taken_port_is_named(gateway_identity, guest_listener):
    address, _ = guest_listener
    with pytest.raises(errors.UnavailableError, match=address) as caught:
        build_guest_server(address, identity=gateway_identity, register=lambda _server: None)
    assert caught.value.reason == "PORT_TAKEN"


async def test_a_rotated_identity_is_served_and_shown_without_a_restart(
    authority, guest_listener, tmp_path
):
    address, servicer = guest_listener
    guest = authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g")
    async with client.PeerChannel([address], identity=guest, server_role=Role.GATEWAY) as peer:
        request = identity_service_pb2.GetTrustBundleRequest()
        await client.call(peer.stub(rpc.IdentityServiceStub).GetTrustBundle, request, timeout=5)
        authority.identity_for_service(Role.GATEWAY, tmp_path / "gateway")
        authority.identity_for_guest(TENANT, INSTANCE, tmp_path / "g")
        await client.call(peer.stub(rpc.IdentityServiceStub).GetTrustBundle, request, timeout=5)
    before, after = servicer.callers
    assert before.serial != after.serial


async def test_a_unix_socket_knows_its_callers_as_local(tmp_path, monkeypatch):
    handler = Kinds()
    monkeypatch.setitem(authorization.CALLERS, "/t.Kinds/UnaryUnary", frozenset({Role.LOCAL}))
    server = build_local_server(
        tmp_path / "s.sock", register=lambda s: s.add_generic_rpc_handlers((handler,))
    )
    async with running(server), client.open_local_channel(tmp_path / "s.sock") as channel:
        assert await channel.unary_unary("/t.Kinds/UnaryUnary")(b"", timeout=3) == b"done"
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary("/t.Kinds/UnaryStream")(b"", timeout=3)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
