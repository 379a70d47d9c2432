"""Changes and backup updates of guests: applied once, answered for good."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor.models import Backup, CreateRequest, GuestReport
from conductor.presence import Presence
from conductor.store import guests
from conductor.store.dialects import changed_rows, insert_if_absent
from conductor.store.instances import RUNNING_BACKUP_STATES

_REPORT_ID_LENGTH = 128
_FINAL_BACKUP_STATES = ("COMPLETED", "FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupChange:
    """The fields a guest may set; everything else of a backup is the control plane's."""

    backup_id: str
    state: str
    size_bytes: int
    checksum: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UrgentReport:
    """A change or a backup update."""

    instance_id: str
    session_epoch: int
    report_id: str
    change: Presence | None = None
    backup: BackupChange | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of an urgent report.

    A dropped one is not answered, so its agent sends it again; a repeat is, and changes nothing.
    """

    report: UrgentReport
    is_dropped: bool = False
    is_repeat: bool = False
    refusal_reason: str = ""

    @property
    def new_change(self) -> Presence | None:
        """The change, if it took effect now."""
        has_effect = not (self.is_dropped or self.is_repeat or self.refusal_reason)
        return self.report.change if has_effect else None


def apply_reports(
    session: Session, reports: Sequence[UrgentReport], *, now: dt.datetime
) -> list[Applied]:
    """Apply reports in order, in one transaction."""
    known = guests.read_presence(session, {report.instance_id for report in reports})
    outcomes = []
    for report in reports:
        present = known.get(report.instance_id)
        if present is None:
            outcomes.append(Applied(report, refusal_reason="UNKNOWN_INSTANCE"))
        elif not _is_storable(report.report_id):
            outcomes.append(Applied(report, refusal_reason="BAD_REPORT_ID"))
        elif report.session_epoch != present.session_epoch:
            # A session that is over. Its agent sends again in the session it has now.
            outcomes.append(Applied(report, is_dropped=True))
        else:
            outcomes.append(_apply(session, report, present, known, now))
    return outcomes


def _is_storable(report_id: str) -> bool:
    return 0 < len(report_id) <= _REPORT_ID_LENGTH and "\x00" not in report_id


def _apply(
    session: Session,
    report: UrgentReport,
    present: Presence,
    known: dict[str, Presence],
    now: dt.datetime,
) -> Applied:
    row = {
        "instance_id": report.instance_id,
        "report_id": report.report_id,
        "apply_time": now,
    }
    if not insert_if_absent(session, GuestReport, row):
        return Applied(report, is_repeat=True)
    if report.change is not None and report.change.order() > present.order():
        # One that is older than what is known already is committed, and changes nothing.
        guests.write_presence(session, {report.instance_id: report.change})
        known[report.instance_id] = report.change
    if report.backup is not None:
        return Applied(report, refusal_reason=_update_backup(session, report, report.backup, now))
    return Applied(report)


def _update_backup(
    session: Session, report: UrgentReport, change: BackupChange, now: dt.datetime
) -> str:
    """Move one of the instance's own backups forward; returns why it never will be moved."""
    if change.state not in RUNNING_BACKUP_STATES + _FINAL_BACKUP_STATES:
        return "BAD_BACKUP_STATE"
    moved = changed_rows(
        session,
        sa.update(Backup)
        .where(
            Backup.id == change.backup_id,
            Backup.instance_id == report.instance_id,
            Backup.state.in_(RUNNING_BACKUP_STATES),
            Backup.delete_time.is_(None),
        )
        .values(
            state=change.state,
            size_bytes=change.size_bytes,
            checksum=change.checksum,
            reason=change.reason,
            update_time=now,
        ),
    )
    if moved:
        return ""
    state = session.scalar(
        sa.select(Backup.state).where(
            Backup.id == change.backup_id,
            Backup.instance_id == report.instance_id,
            Backup.delete_time.is_(None),
        )
    )
    # Another tenant's backup and none at all give the same answer.
    return "UNKNOWN_BACKUP" if state is None else "BACKUP_FINAL"


def forget_requests(session: Session, *, before: dt.datetime) -> None:
    """Drop ids that nobody repeats any more."""
    session.execute(sa.delete(GuestReport).where(GuestReport.apply_time < before))
    session.execute(sa.delete(CreateRequest).where(CreateRequest.create_time < before))
