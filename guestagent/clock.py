"""Whether it is our clock that keeps us from the gateway.

With a wrong clock TLS refuses the gateway's certificate as expired or not yet valid, and gRPC
says no more than that. So we look at that certificate once without judging its dates, still
demanding our root and the gateway's name; its dates are the control plane's time, roughly.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import Sequence

from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.names import Role, service_dns_name
from trove_grpc.tls import IdentityDirectory, anchors

_SECONDS = 5.0
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, for which Python has no name
# Beyond what networks and slow machines explain; certificates are set back for less.
SKEW = dt.timedelta(seconds=60)


def describe(offset: dt.timedelta) -> str:
    """What a clock is said to be that must be moved by `offset`; empty when it is right."""
    if abs(offset) <= SKEW:
        return ""
    word = "behind" if offset > dt.timedelta() else "ahead of"
    return f"clock_skew: this guest's clock is {_span(abs(offset))} {word} the control plane's"


async def explain(endpoints: Sequence[str], identity: IdentityDirectory) -> str:
    """Why our clock is in the way of the gateway's certificate; empty when it is not."""
    for endpoint in endpoints:
        try:
            async with asyncio.timeout(_SECONDS):
                start, end = await _validity(endpoint, identity)
        except (OSError, TimeoutError, ssl.SSLError):
            continue
        now = dt.datetime.now(dt.UTC)
        if now < start:
            return (
                f"clock_skew: this guest's clock says {now:%FT%TZ}, but the gateway's "
                f"certificate begins at {start:%FT%TZ}: the clock is at least "
                f"{_span(start - now)} behind"
            )
        if now > end:
            return (
                f"clock_skew: this guest's clock says {now:%FT%TZ}, but the gateway's "
                f"certificate ended at {end:%FT%TZ}: the clock is ahead, or that gateway has not "
                "renewed"
            )
        return ""
    return ""


async def _validity(endpoint: str, identity: IdentityDirectory) -> tuple[dt.datetime, dt.datetime]:
    bundle = identity.bundle()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    roots = anchors(bundle, {trust_pb2.AUTHORITY_KIND_ROOT})
    context.load_verify_locations(cadata=roots.decode())
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.set_alpn_protocols(["h2"])
    host, _, port = endpoint.rpartition(":")
    _, writer = await asyncio.open_connection(
        host.strip("[]"),
        int(port),
        ssl=context,
        server_hostname=service_dns_name(bundle.trust_domain, Role.GATEWAY),
    )
    try:
        shown = writer.get_extra_info("peercert")
    finally:
        writer.transport.abort()
    start, end = (
        dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(shown[name]), dt.UTC)
        for name in ("notBefore", "notAfter")
    )
    return start, end


def _span(duration: dt.timedelta) -> str:
    minutes = round(duration.total_seconds() / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
