"""Numbers that make a recovery fresh: handed out to anybody, good once.

A number carries its own time and a seal over both and over the instance it is for, so handing
out costs no memory. Used ones are remembered until they would have run out anyway. When more are
in use than are remembered, further ones are refused for a while: forgetting one early would let
it be used twice. The seal's key lives as long as the process; a guest whose number a restart made
worthless asks for another.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
import time
from collections import OrderedDict
from collections.abc import Callable

from trove_grpc.errors import OverloadedError, UnauthenticatedError

_RANDOM = 16
_TIME = struct.Struct(">d")
_SEAL = 32
LENGTH = _RANDOM + _TIME.size + _SEAL
_MOST_USED = 100_000


class Nonces:
    """Hands out numbers and takes each back once."""

    def __init__(
        self,
        lifetime: float,
        *,
        most_used: int = _MOST_USED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifetime = lifetime
        self._most_used = most_used
        self._clock = clock  # not the time of day: that may jump
        self._key = secrets.token_bytes(32)
        self._used: OrderedDict[bytes, float] = OrderedDict()  # -> when it is forgotten

    def issue(self, instance_id: str) -> bytes:
        head = secrets.token_bytes(_RANDOM) + _TIME.pack(self._clock())
        return head + self._seal(head, instance_id)

    def redeem(self, nonce: bytes, instance_id: str) -> None:
        """Use a number up.

        Raises UnauthenticatedError: NONCE_UNKNOWN (not ours, or another instance's),
        NONCE_EXPIRED or NONCE_USED; OverloadedError when too many are remembered.
        """
        head, seal = nonce[:-_SEAL], nonce[-_SEAL:]
        if len(nonce) != LENGTH or not hmac.compare_digest(seal, self._seal(head, instance_id)):
            raise _refused("NONCE_UNKNOWN", "is none of ours for this instance")
        now = self._clock()
        ends = _TIME.unpack(head[_RANDOM:])[0] + self._lifetime
        if now >= ends:
            raise _refused("NONCE_EXPIRED", f"is older than {self._lifetime:g} s")
        while self._used and next(iter(self._used.values())) <= now:
            self._used.popitem(last=False)
        if nonce in self._used:
            raise _refused("NONCE_USED", "was used before")
        if len(self._used) >= self._most_used:
            raise OverloadedError("too many recoveries at once", retry_after=self._lifetime)
        # Forgotten in order of use, so none earlier than the life of the one used last.
        self._used[nonce] = now + self._lifetime

    def _seal(self, head: bytes, instance_id: str) -> bytes:
        return hmac.digest(self._key, head + instance_id.encode(), hashlib.sha256)


def _refused(reason: str, problem: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"the recovery's number {problem}; ask for one", reason=reason)
