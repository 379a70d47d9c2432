"""Which identities are refused although their certificates verify: a view in memory."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trove_grpc.errors import UnauthenticatedError
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.identity import Identity, Role

Key = tuple[pb.DenialKind.ValueType, str]

# How an identity's authority is called in a denial of its generation.
_AUTHORITY_NAMES = {Role.GUEST: "guest", Role.OPERATOR: "operator", Role.BREAKGLASS: "operator"}
_ALWAYS = dt.datetime.min.replace(tzinfo=dt.UTC)
_NEVER = dt.datetime.max.replace(tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class _Span:
    """When something is denied, why, and by which number."""

    starts: dt.datetime
    ends: dt.datetime
    reason: str
    sequence: int


class DenialList:
    """Denials by what they name; fits trove_grpc.interceptors.Denials.

    Of two denials of one thing the earlier start counts: that a stolen certificate is also
    superseded, from tomorrow on, must not free it until then. The end is that of the higher
    number, for the issuer ends one early only where it was lifted: by its clock, which may be a
    little ahead of ours. The list's size is that of the issuer's, from which what expired by
    itself is dropped.
    """

    def __init__(self, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        self._now = now
        self._spans: dict[Key, _Span] = {}
        self.sequence = 0  # of the last one applied: poll after it

    def __len__(self) -> int:
        return len(self._spans)

    def apply(self, denials: Iterable[pb.Denial]) -> None:
        """Take in a page of ListDenials."""
        for denial in denials:
            key = (denial.kind, _normal(denial.kind, denial.value))
            span = _span(denial)
            known = self._spans.get(key)
            has_ended = known is not None and known.ends <= self._now()
            if known is None or (has_ended and span.sequence > known.sequence):
                self._spans[key] = span
            else:
                self._spans[key] = _Span(
                    min(known.starts, span.starts),
                    max(known, span, key=_sequence).ends,
                    known.reason if known.starts <= span.starts else span.reason,
                    max(known.sequence, span.sequence),
                )
            self.sequence = max(self.sequence, denial.sequence)

    def forget_expired(self) -> None:
        now = self._now()
        self._spans = {key: span for key, span in self._spans.items() if span.ends > now}

    def starts_between(self, after: dt.datetime, until: dt.datetime) -> bool:
        """Whether a denial begins to act in (after, until]."""
        return any(after < span.starts <= until for span in self._spans.values())

    def refusal(self, caller: Identity) -> UnauthenticatedError | None:
        """The error to give this caller, or None."""
        now = self._now()
        for key in _keys(caller):
            span = self._spans.get(key)
            if span is not None and span.starts <= now < span.ends:
                return UnauthenticatedError(
                    f"{caller.uri} is denied: {span.reason}",
                    reason="CERTIFICATE_DENIED",
                    subject=caller.uri,
                )
        return None


def _keys(caller: Identity) -> list[Key]:
    authority = _AUTHORITY_NAMES.get(caller.role, "service")
    keys: list[Key] = [
        (pb.DENIAL_KIND_SERIAL, caller.serial),
        (pb.DENIAL_KIND_KEY, caller.key_hash),
        (pb.DENIAL_KIND_GENERATION, f"{authority}/{caller.generation}"),
    ]
    if caller.role is Role.GUEST:
        keys.append((pb.DENIAL_KIND_INSTANCE, caller.instance_id))
        keys.append((pb.DENIAL_KIND_TENANT, caller.tenant_id))
    return keys


def _sequence(span: _Span) -> int:
    return span.sequence


def _normal(kind: pb.DenialKind.ValueType, value: str) -> str:
    """People type hexadecimal in their own ways."""
    if kind == pb.DENIAL_KIND_SERIAL:
        return value.lower().lstrip("0")
    return value.lower() if kind == pb.DENIAL_KIND_KEY else value


def _span(denial: pb.Denial) -> _Span:
    return _Span(
        denial.effective_time.ToDatetime(dt.UTC) if denial.HasField("effective_time") else _ALWAYS,
        denial.expire_time.ToDatetime(dt.UTC) if denial.HasField("expire_time") else _NEVER,
        denial.reason,
        denial.sequence,
    )
