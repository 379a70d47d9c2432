"""What an attack is, and what must be true after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.attacks.wire import Answer

if TYPE_CHECKING:
    from tests.attacks.scene import Scene

# Verdicts that no gRPC status stands for.
REFUSED = "REFUSED"  # the TLS handshake failed
CLOSED = "CLOSED"  # the connection or the stream was ended without a status
DISTRUSTED = "DISTRUSTED"  # an agent refused the attacker as its gateway
FORBIDDEN = "FORBIDDEN"  # the kernel said no
ABSENT = "ABSENT"  # there was nothing to find
HARMLESS = "HARMLESS"  # accepted, to no effect beyond the attacker's own instance

UA, PD, IA = "UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"
RE, FP, AE = "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ALREADY_EXISTS"
UN, IN, NF = "UNIMPLEMENTED", "INTERNAL", "NOT_FOUND"


@dataclass(frozen=True, kw_only=True)
class Trail:
    """What an attack must leave behind. Empty fields are not asked for."""

    process: str = "gateway"
    metric: str = ""  # name of a sample that must grow
    labels: tuple[tuple[str, str], ...] = ()
    audit: str = ""  # action of a row that must appear
    why: str = ""  # what that row must say


NO_TRAIL = Trail()  # the kernel refuses, or there was nothing to refuse


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One thing root in a guest (or a broken issuer) might do."""

    name: str  # a sentence
    threat: str  # what it would give them, in one line
    run: Callable[[Scene], Answer] = field(repr=False)
    expect: tuple[str, ...]  # any of these verdicts
    reason: str = ""  # of the refusal, where there is one
    listener: str = "guest"  # where it was tried, for the usual trail
    trail: Trail | None = None  # None: the usual one, by listener and verdict
    cases: tuple[int, ...] = ()  # of the design's list (pki E.3)
    own: bool = False  # the attacker's own session and presence may change
    changes: tuple[str, ...] = ()  # tables that a refused attempt may change, "tokens.attempts"
    smoke: bool = False  # also in `make test`
    needs_root: bool = False  # several users

    def usual_trail(self, verdict: str) -> Trail:
        """Handshakes are counted; a call's refusal is counted and in the audit."""
        if self.trail is not None:
            return self.trail
        process = {"guest": "gateway", "enrolment": "gateway"}.get(self.listener, self.listener)
        if verdict in (REFUSED, CLOSED):
            name = "guest" if self.listener == "guest" else self.listener
            label = name if name in ("guest", "enrolment") else "internal"
            return Trail(
                process=process,
                metric="trove_tls_handshakes_total",
                labels=(("listener", label),),
            )
        is_told = self.listener in ("guest", "enrolment") and verdict in (UA, PD, IA, RE, FP, AE)
        return Trail(
            process=process,
            metric="trove_rpc_seconds_count",
            labels=(("code", verdict),),
            audit="refuse-call" if is_told else "",
            why=self.reason,
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one attack; a row of the report."""

    theme: str
    name: str
    threat: str
    cases: tuple[int, ...]
    verdict: str
    reason: str
    seconds: float
    trail: str
    failure: str = ""
