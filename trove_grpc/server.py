"""Servers. There is no way to open a plaintext port here, and nothing else may add a port."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from trove_grpc import metrics
from trove_grpc.errors import UnavailableError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.interceptors import Authenticator, Denials, Interceptor, Refused, guards
from trove_grpc.tls import IdentityDirectory, enrolment_server_credentials, server_credentials

Options = Sequence[tuple[str, int]]
Register = Callable[[aio.Server], None]
Begun = Callable[[], None]  # called for each TLS handshake, by any thread

INTERNAL_TRUSTS = frozenset({trust_pb2.AUTHORITY_KIND_SERVICE, trust_pb2.AUTHORITY_KIND_OPERATOR})
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
GUEST_TRUSTS = frozenset({trust_pb2.AUTHORITY_KIND_GUEST})

# Each value was seen to act (design: performance §6); keepalive_timeout was seen not to.
_COMMON: Options = (
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
INTERNAL_OPTIONS: Options = (*_COMMON, ("grpc.max_receive_message_length", 4 * 1024 * 1024))
GUEST_OPTIONS: Options = (
    *_COMMON,
    ("grpc.http2.bdp_probe", 0),  # else a flood buffers 4 MB a stream
    ("grpc.max_concurrent_streams", 4),
    ("grpc.max_receive_message_length", 256 * 1024),
    ("grpc.max_connection_idle_ms", 60_000),
    ("grpc.max_connection_age_ms", 24 * 3600 * 1000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.max_allowed_incoming_connections", 16_000),
)
ENROLMENT_OPTIONS: Options = (
    *_COMMON,
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_concurrent_streams", 2),
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.max_allowed_incoming_connections", 2_000),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """A server with the port it listens on; start and stop it through `server`."""

    server: aio.Server
    port: int  # 0 for a UNIX socket
    health: health.aio.HealthServicer | None = None

    async def start(self) -> None:
        await self.server.start()
        await self.set_serving(True)

    async def set_serving(self, is_serving: bool) -> None:  # noqa: FBT001  one value, one meaning
        """Tell grpc.health; has no effect once `stop` was called."""
        if self.health is not None:
            states = health_pb2.HealthCheckResponse
            await self.health.set("", states.SERVING if is_serving else states.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Say NOT_SERVING, let calls end for `grace` seconds, then cut them."""
        if self.health is not None:
            await self.health.enter_graceful_shutdown()
        await self.server.stop(grace)


def build_internal_server(
    listen: str,
    *,
    identity: IdentityDirectory,
    register: Register,
    services: Collection[str],
    denials: Denials | None = None,
    refused: Refused | None = None,
    options: Options = (),
) -> Server:
    """Mutual TLS for services and operators, with grpc.health and, for operators, reflection.

    Services of other regions that the bundle names finish a handshake here, and only here.

    `listen` is "address:port" (port 0: any); `services` are full service names for reflection.
    Raises UnavailableError when the port cannot be had or there is no identity.
    """
    server = _aio_server(identity, denials, (*INTERNAL_OPTIONS, *options), refused, federates=True)
    register(server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    _enable_reflection(server, [*services, health.SERVICE_NAME, reflection.SERVICE_NAME])
    credentials = server_credentials(
        identity, INTERNAL_TRUSTS, federates=True, begun=_counted("internal")
    )
    port = _listen(server, listen, credentials)
    return Server(server, port, servicer)


def _enable_reflection(server: aio.Server, services: Collection[str]) -> None:
    """Reflection under both of its names.

    Clients ask for v1 first, which grpcio does not have; they ask for v1alpha after UNIMPLEMENTED
    alone, and here an unknown method is forbidden. v1 is v1alpha renamed: the messages are equal.
    """
    reflection.enable_server_reflection(services, server)
    servicer = reflection.aio.ReflectionServicer(services)
    info = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": info}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_REFLECTION_V1, handlers),)
    )


def build_guest_server(
    listen: str,
    *,
    identity: IdentityDirectory,
    register: Register,
    denials: Denials | None = None,
    refused: Refused | None = None,
    begun: Begun = lambda: None,
    options: Options = (),
) -> Server:
    """Mutual TLS for guest agents alone: no health, no reflection, nothing to explore."""
    server = _aio_server(identity, denials, (*GUEST_OPTIONS, *options), refused)
    register(server)
    credentials = server_credentials(identity, GUEST_TRUSTS, begun=_counted("guest", begun))
    return Server(server, _listen(server, listen, credentials))


def build_enrolment_server(
    listen: str,
    *,
    identity: IdentityDirectory,
    register: Register,
    refused: Refused | None = None,
    begun: Begun = lambda: None,
    options: Options = (),
) -> Server:
    """Server-authenticated TLS; a server object of its own, since ports of one share handlers."""
    server = _aio_server(identity, None, (*ENROLMENT_OPTIONS, *options), refused)
    register(server)
    credentials = enrolment_server_credentials(identity, begun=_counted("enrolment", begun))
    return Server(server, _listen(server, listen, credentials))


def build_local_server(
    socket: Path, *, register: Register, refused: Refused | None = None
) -> Server:
    """A UNIX socket whose callers are Role.LOCAL: the directory's permissions say who they are.

    The caller makes that directory private before. A dead process's socket file is replaced.
    """
    socket.unlink(missing_ok=True)
    server = aio.server(
        interceptors=[Interceptor(*guards(Authenticator(trust_pb2.TrustBundle), refused=refused))]
    )
    register(server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    credentials = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
    _listen(server, f"unix:{socket}", credentials)
    return Server(server, 0, servicer)


def _aio_server(
    identity: IdentityDirectory,
    denials: Denials | None,
    options: Options,
    refused: Refused | None = None,
    *,
    federates: bool = False,
) -> aio.Server:
    authenticator = Authenticator(identity.bundle, denials=denials, federates=federates)
    interceptor = Interceptor(*guards(authenticator, refused=refused))
    return aio.server(interceptors=[interceptor], options=options)


def _counted(listener: str, begun: Begun = lambda: None) -> Begun:
    handshakes = metrics.TLS_HANDSHAKES.labels(listener)

    def count() -> None:
        handshakes.inc()
        begun()

    return count


def _listen(server: aio.Server, listen: str, credentials: grpc.ServerCredentials) -> int:
    try:
        return server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise UnavailableError(
            f"cannot listen on {listen}: is another process there? (`ss -ltnp` names it)",
            reason="PORT_TAKEN",
            subject=listen,
        ) from error
