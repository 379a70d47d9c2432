"""What every server does around every call, of all four kinds, known method or not.

Outermost first: log and measure, turn errors into statuses, say who calls and whether they may,
bind the deadline. An interceptor for unary calls alone would let streams pass unguarded.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc
from grpc import aio

from trove_grpc import authorization, context, errors, identity, metrics
from trove_grpc.gen.common.v1 import trust_pb2

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # generic in the stubs only
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
    Context: TypeAlias = aio.ServicerContext[Any, Any]
else:
    Handler = grpc.RpcMethodHandler
    Context = aio.ServicerContext
Guard = Callable[[Context, str], AbstractAsyncContextManager[None]]
# Hears of every call that ended in an error of ours: the error, the caller where one was
# identified, and the peer's address.
Refused = Callable[[errors.TroveError, identity.Identity | None, str], None]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]

# Left for reporting a lost deadline to the caller, seconds.
DEADLINE_MARGIN = 0.05
_CACHE_SIZE = 4096


class Denials(Protocol):
    """Knows which identities are refused although their certificates verify."""

    def refusal(self, caller: identity.Identity) -> errors.TroveError | None: ...


class Authenticator:
    """Reads the peer's identity from the connection, once for each certificate and bundle.

    `federates`: whether services of other regions are anybody here.
    """

    def __init__(
        self,
        bundle: Callable[[], trust_pb2.TrustBundle],
        *,
        denials: Denials | None = None,
        federates: bool = False,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._bundle = bundle
        self._denials = denials
        self._federates = federates
        self._now = now
        self._cache: dict[tuple[bytes, int], identity.Identity] = {}

    def identify(self, peer: Context) -> identity.Identity:
        """The caller; raises UnauthenticatedError for a bad, expired or denied certificate."""
        properties = peer.auth_context()
        if properties.get("transport_security_type") == [b"local"]:
            return identity.LOCAL
        if properties.get("ssl_tls_version") != [b"TLSv1.3"]:
            raise errors.UnauthenticatedError("TLS 1.3 is required", reason="TLS_VERSION")
        pems = list(properties.get("x509_pem_cert") or ())
        if not pems:
            return identity.ANONYMOUS
        chain = b"".join(properties.get("x509_pem_cert_chain") or ())
        caller = self._identify_pem(pems[0], chain)
        try:
            identity.check_validity(caller, self._now())
            if self._denials is not None and (refusal := self._denials.refusal(caller)):
                raise refusal
        except errors.TroveError as error:
            metrics.DENIED_RPCS.labels(error.reason, str(caller.role)).inc()
            raise
        return caller

    def _identify_pem(self, pem: bytes, chain_pem: bytes) -> identity.Identity:
        bundle = self._bundle()
        key = (hashlib.sha256(pem).digest(), bundle.version)
        caller = self._cache.get(key)
        if caller is None:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            caller = (
                identity.identify_peer(pem, chain_pem, bundle)
                if self._federates
                else identity.identify(pem, bundle)
            )
            self._cache[key] = caller
        return caller


class Interceptor(aio.ServerInterceptor):
    """Applies the guards, outermost first, around the handler of every call."""

    def __init__(self, *guards: Guard) -> None:
        self._guards = guards

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            # Behind the guards an unknown method is refused like a forbidden one; as a stream, so
            # that the answer does not wait for a first message.
            handler = grpc.stream_stream_rpc_method_handler(_unimplemented)
        return _wrap(handler, lambda peer: _around(self._guards, peer, method))


def guards(authenticator: Authenticator, *, refused: Refused | None = None) -> tuple[Guard, ...]:
    """The guards of every server, outermost first."""
    return (observe, translate_errors, authenticate(authenticator, refused), bind_deadline)


@contextlib.asynccontextmanager
async def observe(peer: Context, method: str) -> AsyncIterator[None]:
    """Bind the request id; measure; log failures. Messages are never logged."""
    metadata = dict(peer.invocation_metadata() or ())
    request_id = context.accept_request_id(str(metadata.get(context.REQUEST_ID_KEY, "")))
    # An unknown method must not become a new time series for each name somebody tries.
    label = method if method in authorization.CALLERS else "unknown"
    started = time.perf_counter()
    in_progress = metrics.RPC_IN_PROGRESS.labels(label).track_inprogress()
    with context.bound(request_id=request_id), in_progress:
        try:
            yield
        finally:
            code = peer.code() or grpc.StatusCode.OK
            name = code.name if isinstance(code, grpc.StatusCode) else str(code)
            metrics.RPC_SECONDS.labels(label, name).observe(time.perf_counter() - started)
            log.debug("%s %s", method, name)


@contextlib.asynccontextmanager
async def translate_errors(peer: Context, method: str) -> AsyncIterator[None]:
    """Turn TroveError into a status with detail, anything else into a bare INTERNAL."""
    try:
        yield
    except errors.TroveError as error:
        log.info("%s refused: %s: %s", method, error.reason, error.message)
        await peer.abort(error.status, error.message, (errors.to_trailer(error),))
    except aio.AbortError:
        raise
    except Exception:
        # One of the three places for it: nothing of an unforeseen failure may leak to a peer.
        log.exception("unhandled error in %s", method)
        await peer.abort(
            grpc.StatusCode.INTERNAL,
            f"internal error; look for {context.request_id()} in the log",
            (errors.to_trailer(errors.TroveError("internal error")),),
        )


def authenticate(authenticator: Authenticator, refused: Refused | None = None) -> Guard:
    """Identify the caller and ask the table; `refused` hears of what then fails."""

    @contextlib.asynccontextmanager
    async def guard(peer: Context, method: str) -> AsyncIterator[None]:
        caller = None
        try:
            try:
                caller = authenticator.identify(peer)
                authorization.authorize(caller, method)
            except errors.TroveError as error:
                metrics.RPC_REFUSED.labels(error.reason).inc()
                raise
            with context.calling(caller):
                yield
        except errors.TroveError as error:
            if refused is not None:
                refused(error, caller, peer.peer())
            raise

    return guard


@contextlib.asynccontextmanager
async def bind_deadline(peer: Context, method: str) -> AsyncIterator[None]:
    """Bind what is left of the caller's deadline, less a margin to report in."""
    remaining = peer.time_remaining()
    if remaining is not None and remaining <= DEADLINE_MARGIN:
        raise errors.DeadlineError(f"no time left for {method}")
    with context.deadline_in(None if remaining is None else remaining - DEADLINE_MARGIN):
        yield


async def _unimplemented(_request: Any, _context: Context) -> None:
    raise errors.PermissionDeniedError("no such method")


@contextlib.asynccontextmanager
async def _around(
    all_guards: tuple[Guard, ...], peer: Context, method: str
) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for guard in all_guards:
            await stack.enter_async_context(guard(peer, method))
        yield


def _wrap(
    handler: Handler, around: Callable[[Context], AbstractAsyncContextManager[None]]
) -> Handler:
    coders = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(
            _returning(handler.unary_unary, around), **coders
        )
    if handler.stream_unary:
        return grpc.stream_unary_rpc_method_handler(
            _returning(handler.stream_unary, around), **coders
        )
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(
            _streaming(handler.unary_stream, around), **coders
        )
    return grpc.stream_stream_rpc_method_handler(
        _streaming(handler.stream_stream, around), **coders
    )


def _returning(inner: Any, around: Callable[[Context], AbstractAsyncContextManager[None]]) -> Any:
    async def call(request: Any, peer: Context) -> Any:
        async with around(peer):
            result = inner(request, peer)
            return await result if inspect.isawaitable(result) else result

    return call


def _streaming(inner: Any, around: Callable[[Context], AbstractAsyncContextManager[None]]) -> Any:
    if inspect.isasyncgenfunction(inner):

        async def generate(request: Any, peer: Context) -> AsyncIterator[Any]:
            async with around(peer):
                async for response in inner(request, peer):
                    yield response

        return generate

    async def write(request: Any, peer: Context) -> None:
        async with around(peer):
            await inner(request, peer)

    return write
