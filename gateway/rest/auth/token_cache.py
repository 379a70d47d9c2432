"""What Keystone said lately about tokens, by a digest of each: never the token itself."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Fact = TypeVar("Fact")

Key = tuple[bytes, bool]


class Digests:
    """Keyed by a secret of this process, so that a dump of its memory tells no token apart."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def of(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode(), key=self._secret, digest_size=32).digest()


class TokenCache(Generic[Fact]):
    """Bounded, the least recently used goes first; each entry lives `seconds`.

    The clock is a monotonic one: setting the machine's clock back prolongs nothing.
    """

    def __init__(
        self, *, size: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._entries: OrderedDict[Key, tuple[float, Fact]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Fact | None:
        found = self._entries.get(key)
        if found is None:
            return None
        ends, fact = found
        if self._clock() >= ends:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return fact

    def put(self, key: Key, fact: Fact, *, asked_at: float) -> None:
        """Remember what was asked for at `asked_at`: from then on it may have changed."""
        self._entries[key] = (asked_at + self._seconds, fact)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
