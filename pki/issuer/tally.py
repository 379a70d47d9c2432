"""Renewals since somebody last asked: what a rotation watches in order to stop itself."""

from __future__ import annotations

from trove_grpc.errors import InvalidRequestError, OverloadedError, TroveError

# What a guest brings about by itself, and therefore says nothing about a rotation.
_ITS_OWN_FAULT = frozenset(
    {"STALE_SERIAL", "CSR_KEY_REUSED", "CERTIFICATE_DENIED", "INSTANCE_RETIRED", "QUARANTINED"}
)
# A hash of what was shown names a guest, and a gateway may show anything: about 1 MiB of names.
MOST_NAMES = 10_000


class RenewalTally:
    """Counts of one issuer. A guest's failures count once: one guest must not stop a rotation."""

    def __init__(self) -> None:
        self._renewals = 0
        self._failed: set[str] = set()
        self._reported: set[str] = set()

    def renewed(self) -> None:
        self._renewals += 1

    def failed(self, holder: str, error: TroveError) -> None:
        """`holder` names the guest; an error that is the guest's own is not counted."""
        if error.reason in _ITS_OWN_FAULT or isinstance(
            error, (InvalidRequestError, OverloadedError)
        ):
            return
        if len(self._failed) < MOST_NAMES:
            self._failed.add(holder)

    def take(self) -> tuple[int, int]:
        """Renewals, and guests that failed for the first time, since the last call."""
        renewals, new = self._renewals, self._failed - self._reported
        self._renewals = 0
        self._reported |= new
        return renewals, len(new)

    def reset(self) -> None:
        """No rotation is open: the next one begins with a clean sheet."""
        self._renewals = 0
        self._failed.clear()
        self._reported.clear()
