"""What the control plane says of the engine's certificate: signs it, and when it is superseded.

When the trust bundle names another active generation of the database authority than the one that
signed, the certificate is replaced at a moment within the window the gateway gave, or soon: not
the whole fleet at once. The moment is picked once and kept:

    <state>/engine-renewal.json
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from guestagent.engines import EngineCertificate
from guestagent.identity import GuestIdentity
from trove_grpc import leaves
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import anchors, write_atomically

log = logging.getLogger(__name__)

# A new certificate of the old generation (a repeat of an old request) is replaced after so long.
_AGAIN_SECONDS = 600.0


class BundledAuthority:
    """The database authority as this agent's trust bundle describes it."""

    def __init__(
        self,
        identity: GuestIdentity,
        issue: Callable[[bytes], Awaitable[EngineCertificate]],
        record: Path,
        *,
        spread: dt.timedelta,
        on_due: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._issue = issue
        self._record = record
        self._spread = spread
        self._on_due = on_due
        self._window = trust_pb2.RenewalWindow()
        self._pick: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._asked = (0, float("-inf"))  # bundle's version, loop time

    def note_window(self, window: trust_pb2.RenewalWindow) -> None:
        """Superseded certificates are to be replaced within this window."""
        self._window = window
        self._on_due()

    async def issue(self, csr_der: bytes) -> EngineCertificate:
        issued = await self._issue(csr_der)
        self._asked = self._identity.directory.bundle().version, _now()
        return issued

    def roots(self) -> bytes:
        bundle = self._identity.directory.bundle()
        return anchors(bundle, {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT})

    def is_superseded(self, chain_pem: bytes) -> bool:
        bundle = self._identity.directory.bundle()
        chain, active = leaves.certificates(chain_pem), _active(bundle)
        if len(chain) < 2 or not active or active == chain[1]:  # noqa: PLR2004  leaf, signer
            return False
        version, asked_at = self._asked
        if bundle.version == version and _now() < asked_at + _AGAIN_SECONDS:
            return False
        left = (self._moment(chain[0], active) - self._identity.now()).total_seconds()
        if left > 0:
            self._wake_in(left)
        return left <= 0

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wake_in(self, seconds: float) -> None:
        self.close()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._on_due)

    def _moment(self, leaf: bytes, active: bytes) -> dt.datetime:
        """When to replace this leaf; the same answer until the window or the authority changes."""
        label = ""
        if self._window.HasField("start_time"):
            label = (
                f"{self._window.start_time.ToJsonString()}/{self._window.end_time.ToJsonString()}"
            )
        about = hashlib.sha256(leaf + active).hexdigest()
        known = self._known()
        if known.get("about") != about or label not in ("", known.get("window")):
            known = self._picked(about, label)
        return dt.datetime.fromisoformat(known["at"])

    def _picked(self, about: str, label: str) -> dict[str, str]:
        first = last = now = self._identity.now()
        if label:
            first = self._window.start_time.ToDatetime(dt.UTC)
            last = max(first, self._window.end_time.ToDatetime(dt.UTC))
        if last <= now:  # none, or one that is over
            first, last = now, now + self._spread
        at = first + (last - first) * random.random()  # noqa: S311  a spread, not a secret
        self._pick = {"about": about, "window": label, "at": at.isoformat()}
        log.info(
            "the engine's certificate is superseded; it will be replaced at %s", f"{at:%FT%TZ}"
        )
        try:
            self._record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._record, json.dumps(self._pick).encode(), mode=0o600)
        except OSError as error:
            log.warning("that is remembered until a restart only: %s", error)
        return self._pick

    def _known(self) -> dict[str, str]:
        if not self._pick:
            try:
                self._pick = dict(json.loads(self._record.read_bytes()))
            except (OSError, ValueError):
                return {}
        return self._pick


def _active(bundle: trust_pb2.TrustBundle) -> bytes:
    """The certificate (DER) of the database authority that signs; empty when none does."""
    for authority in bundle.authorities:
        if (
            authority.kind == trust_pb2.AUTHORITY_KIND_DATABASE
            and authority.state == trust_pb2.AUTHORITY_STATE_ACTIVE
        ):
            return leaves.certificates(authority.certificate_pem)[0]
    return b""


def _now() -> float:
    return asyncio.get_running_loop().time()
