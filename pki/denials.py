"""Which identities are refused although their certificates verify: a view in memory."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable

from trove_grpc.errors import UnauthenticatedError
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.identity import Identity, Role

Key = tuple[pb.DenialKind.ValueType, str]

# How an identity's authority is called in a denial of its generation.
_AUTHORITY_NAMES = {Role.GUEST: "guest", Role.OPERATOR: "operator"}


class DenialList:
    """Denials by what they name; fits trove_grpc.interceptors.Denials.

    Its size is that of the issuer's list, from which what expired by itself is dropped.
    """

    def __init__(self, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        self._now = now
        self._denials: dict[Key, pb.Denial] = {}
        self.sequence = 0  # of the last one applied: poll after it

    def __len__(self) -> int:
        return len(self._denials)

    def apply(self, denials: Iterable[pb.Denial]) -> None:
        """Take in a page of ListDenials."""
        for denial in denials:
            self._denials[denial.kind, denial.value] = denial
            self.sequence = max(self.sequence, denial.sequence)

    def forget_expired(self) -> None:
        now = self._now()
        self._denials = {
            key: denial
            for key, denial in self._denials.items()
            if not denial.HasField("expire_time") or _time(denial.expire_time) > now
        }

    def refusal(self, caller: Identity) -> UnauthenticatedError | None:
        """The error to give this caller, or None."""
        authority = _AUTHORITY_NAMES.get(caller.role, "service")
        keys: tuple[Key, ...] = (
            (pb.DENIAL_KIND_SERIAL, caller.serial),
            (pb.DENIAL_KIND_KEY, caller.key_hash),
            (pb.DENIAL_KIND_INSTANCE, caller.instance_id),
            (pb.DENIAL_KIND_TENANT, caller.tenant_id),
            (pb.DENIAL_KIND_GENERATION, f"{authority}/{caller.generation}"),
        )
        for key in keys:
            denial = self._denials.get(key)
            if denial is not None and self._acts(denial):
                return UnauthenticatedError(
                    f"{caller.uri} is denied: {denial.reason}",
                    reason="CERTIFICATE_DENIED",
                    subject=caller.uri,
                )
        return None

    def _acts(self, denial: pb.Denial) -> bool:
        return not denial.HasField("effective_time") or _time(denial.effective_time) <= self._now()


def _time(stamp: object) -> dt.datetime:
    return stamp.ToDatetime(tzinfo=dt.UTC)  # type: ignore[attr-defined,no-any-return]
