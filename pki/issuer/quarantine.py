"""Quarantine: an instance whose key may exist twice gets nothing until somebody has looked.

It begins where a key shows up that should not be there: another boot beside a live stream, a
superseded certificate in use, an enrolment token that a second key presents. Each of the three
takes a key or a token secret of that very instance, so nobody can quarantine a neighbour.
A session that is open stays open, and so does the database. A person ends it
(`trove-pki agents resolve-clone`), and so does a new token once it has been used: whoever could
have it minted has rebuilt the guest.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from sqlalchemy.orm import Session

from pki import metrics, shared_metrics
from pki.models import Subject
from pki.store import audit, news, subjects
from trove_grpc.errors import ConflictError

CLONE = "another boot of it was connected at the same time"
STALE = "a superseded certificate of it was used"
TOKEN = "its enrolment token was used with another key"  # noqa: S105  a reason, not a secret


def begin(
    session: Session,
    instance_id: str,
    reason: str,
    *,
    actor: str,
    now: dt.datetime,
    detail: Mapping[str, str] | None = None,
) -> bool:
    """Quarantine a live instance; False when it is already, or unknown.

    One audit row for each quarantine, however often the cause repeats: root in a guest can
    repeat it at will.
    """
    subject = subjects.find_locked(session, instance_id)
    if subject is None or subject.state != subjects.ACTIVE or subject.quarantine_time is not None:
        return False
    subject.quarantine_time = now
    subject.quarantine_reason = reason
    session.flush()
    audit.append(
        session,
        now=now,
        actor=actor,
        action="quarantine",
        subject=instance_id,
        detail={**(detail or {}), "why": reason},
    )
    news.mark(session)
    metrics.QUARANTINES.inc()
    if reason != CLONE:  # which its gateway has counted
        shared_metrics.CLONES_SUSPECTED.inc()
    return True


def end(session: Session, subject: Subject) -> None:
    """Let the instance be served again; the caller writes why."""
    if subject.quarantine_time is None:
        return
    subject.quarantine_time = None
    subject.quarantine_reason = ""
    session.flush()
    news.mark(session)


def refuse(subject: Subject) -> None:
    """Raise ConflictError (QUARANTINED) while the instance is in quarantine."""
    if subject.quarantine_time is None:
        return
    raise ConflictError(
        f"instance {subject.instance_id} is in quarantine since "
        f"{subject.quarantine_time:%FT%TZ}: {subject.quarantine_reason}; an operator ends it: "
        f"`{command(subject.instance_id)}`, or `--keep` where it was a false alarm",
        reason="QUARANTINED",
        subject=subject.instance_id,
    )


def command(instance_id: str) -> str:
    """What an operator types who does not know which of the two is the guest."""
    return f"trove-pki agents resolve-clone {instance_id} --reissue --reason REASON"
