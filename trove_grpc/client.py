"""Channels and calls: mutual TLS, one deadline rule, one retry rule, errors of our vocabulary."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from grpc import aio

from trove_grpc import context, errors
from trove_grpc.names import Role
from trove_grpc.tls import IdentityDirectory, channel_credentials, expected_server

Stub = TypeVar("Stub")

# A new channel is a new connection, and a silent peer is noticed (design: performance §6).
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    # Despite its name: how long one attempt may take, handshake included. A fleet that comes back
    # at once makes handshakes slow, and one that is cut off has cost both sides for nothing.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
)
# A replaced channel takes calls for so long, from stubs that were made before, seconds: a call may
# still be repeated. Then those under way may go on; both together end before the issuer denies the
# superseded certificate (15 min).
_LINGER_SECONDS = 60.0
_DRAIN_SECONDS = 600.0
_ATTEMPTS = 4
_BACKOFF_SECONDS = 0.1


def target(addresses: Sequence[str]) -> str:
    """A gRPC target for "host:port" addresses; several must be IP addresses."""
    if len(addresses) == 1:
        host = addresses[0].rpartition(":")[0]
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host.strip("[]"))
            return addresses[0]
        return f"dns:///{addresses[0]}"
    kinds = {ipaddress.ip_address(a.rpartition(":")[0].strip("[]")).version for a in addresses}
    return f"{'ipv4' if kinds == {4} else 'ipv6'}:{','.join(addresses)}"


class PeerChannel:
    """A channel to one service, by its addresses; follows our identity as it rotates.

    Credentials are static in a gRPC channel, so a new certificate or bundle means a new channel;
    calls in progress on the old one go on.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        identity: IdentityDirectory,
        server_role: Role,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        if not addresses:
            raise errors.InvalidRequestError(f"no address of the {server_role} is configured")
        self._target = target(addresses)
        self._identity = identity
        self._server_role = server_role
        self._options = options
        self._channel: aio.Channel | None = None
        self._version: tuple[str, int] = ("", 0)
        self._closing: set[asyncio.Task[None]] = set()

    def stub(self, stub: type[Stub]) -> Stub:
        """A stub on the present channel; take a new one for each call."""
        return stub(self.channel())  # type: ignore[call-arg]

    def channel(self) -> aio.Channel:
        material, bundle = self._identity.load(), self._identity.bundle()
        version = (material.facts.serial, bundle.version)
        if self._channel is None or version != self._version:
            if self._channel is not None:
                task = asyncio.create_task(_drain(self._channel), name="drain-channel")
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            self._channel = aio.secure_channel(
                self._target,
                channel_credentials(bundle, material),
                options=(
                    *_OPTIONS,
                    *self._options,
                    expected_server(bundle, self._server_role),
                ),
            )
            self._version = version
        return self._channel

    async def close(self) -> None:
        closing = tuple(self._closing)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


async def _drain(channel: aio.Channel) -> None:
    try:
        await asyncio.sleep(_LINGER_SECONDS)
        await channel.close(_DRAIN_SECONDS)
    except asyncio.CancelledError:
        await channel.close()
        raise


def open_channel(
    addresses: Sequence[str],
    identity: IdentityDirectory,
    *,
    server_role: Role,
    slot: str = "current",
) -> aio.Channel:
    """One channel with what `slot` holds now; it does not follow a rotation.

    For a stream that must outlive one, and for a certificate that is still to be confirmed.
    """
    bundle = identity.bundle()
    return aio.secure_channel(
        target(addresses),
        channel_credentials(bundle, identity.load(slot)),
        options=(*_OPTIONS, expected_server(bundle, server_role)),
    )


def open_enrolment_channel(addresses: Sequence[str], identity: IdentityDirectory) -> aio.Channel:
    """A channel that verifies the gateway and shows no certificate: there is none yet."""
    bundle = identity.bundle()
    return aio.secure_channel(
        target(addresses),
        channel_credentials(bundle, None),
        options=(*_OPTIONS, expected_server(bundle, Role.GATEWAY)),
    )


def open_local_channel(socket: Path) -> aio.Channel:
    """A channel to a UNIX socket of this machine."""
    return aio.secure_channel(
        f"unix:{socket}",
        grpc.local_channel_credentials(grpc.LocalConnectionType.UDS),
        options=_OPTIONS,
    )


async def call(method: Any, request: Any, *, timeout: float, retry: bool = False) -> Any:
    """Make one unary call with a deadline and decode its error.

    The deadline is the shorter of `timeout` (seconds) and what the call being served has left.
    `retry` repeats UNAVAILABLE with jitter within that deadline: for idempotent calls only.
    Raises the peer's TroveError; DeadlineError or UnavailableError when it gave none.
    """
    left = context.time_left()
    ends = asyncio.get_running_loop().time() + (timeout if left is None else min(timeout, left))
    metadata = ((context.REQUEST_ID_KEY, context.request_id() or context.new_request_id()),)
    for attempt in range(1, _ATTEMPTS + 1):
        remaining = ends - asyncio.get_running_loop().time()
        if remaining <= 0:
            raise errors.DeadlineError(f"no time left to call {_name(method)}")
        try:
            return await method(request, timeout=remaining, metadata=metadata)
        except aio.AioRpcError as error:
            if (
                not retry
                or error.code() is not grpc.StatusCode.UNAVAILABLE
                or attempt == _ATTEMPTS
            ):
                raise errors.from_rpc(error) from error
        pause = _BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311  jitter
        await asyncio.sleep(min(pause, max(0.0, ends - asyncio.get_running_loop().time())))
    raise AssertionError("unreachable: the last attempt raises")


def _name(method: Any) -> str:
    path = getattr(method, "_method", b"")
    return path.decode() if isinstance(path, bytes) else str(path)
