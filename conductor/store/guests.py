"""Gateways, sessions and presence of guests."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor.models import Gateway, GuestPresence, GuestSession, Instance
from conductor.presence import Presence, clean
from conductor.store.dialects import dialect_name, upsert
from trove_grpc.errors import ConflictError, NotFoundError, PermissionDeniedError

# SQLite takes 32,766 values a statement; a row has ten.
_ROWS_PER_UPSERT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Who wants a session, as the gateway read it from certificate and Hello."""

    instance_id: str
    tenant_id: str
    gateway_id: str
    incarnation: str
    certificate_serial: str
    boot_id: str
    agent_version: str


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session whose gateway's lease runs."""

    session: GuestSession
    gateway: Gateway


def renew_lease(
    session: Session,
    *,
    gateway_id: str,
    incarnation: str,
    address: str,
    expire_time: dt.datetime,
) -> None:
    """Announce a gateway. A new incarnation ends the sessions of the one before: they name it."""
    row = {
        "id": gateway_id,
        "incarnation": incarnation,
        "address": address,
        "lease_expire_time": expire_time,
    }
    session.execute(
        upsert(
            dialect_name(session),
            Gateway,
            [row],
            key=["id"],
            is_newer=lambda _new, _old: sa.true(),
        )
    )


def open_session(
    session: Session, opening: Opening, presence: Presence, *, now: dt.datetime
) -> Presence:
    """Grant the next epoch; `presence` is what Hello said, whatever its epoch.

    Raises NotFoundError (UNKNOWN_INSTANCE), ConflictError (INSTANCE_RETIRED) or
    PermissionDeniedError (TENANT_MISMATCH).
    """
    instance = session.get(Instance, opening.instance_id)
    if instance is None:
        raise NotFoundError(
            f"no instance {opening.instance_id}",
            reason="UNKNOWN_INSTANCE",
            subject=opening.instance_id,
        )
    if instance.tenant_id != opening.tenant_id:
        raise PermissionDeniedError(
            f"instance {opening.instance_id} is not one of tenant {opening.tenant_id}",
            reason="TENANT_MISMATCH",
            subject=opening.instance_id,
        )
    if instance.delete_time is not None:
        raise ConflictError(
            f"instance {opening.instance_id} is deleted",
            reason="INSTANCE_RETIRED",
            subject=opening.instance_id,
        )
    # The update locks the row, so two openings at once get two epochs, in order.
    session.execute(
        sa.update(GuestSession)
        .where(GuestSession.instance_id == opening.instance_id)
        .values(
            session_epoch=GuestSession.session_epoch + 1,
            gateway_id=opening.gateway_id,
            incarnation=opening.incarnation,
            certificate_serial=opening.certificate_serial,
            boot_id=opening.boot_id,
            agent_version=opening.agent_version,
            open_time=now,
            close_time=None,
            close_reason="",
        )
    )
    epoch = session.scalar(
        sa.select(GuestSession.session_epoch).where(
            GuestSession.instance_id == opening.instance_id
        )
    )
    assert epoch is not None  # noqa: S101  the row is written with its instance
    granted = Presence(
        **{
            name: getattr(presence, name)
            for name in Presence.__slots__
            if name not in ("session_epoch", "sequence")
        },
        session_epoch=epoch,
    )
    write_presence(session, {opening.instance_id: granted})
    return granted


def close_session(
    session: Session, *, instance_id: str, session_epoch: int, reason: str, now: dt.datetime
) -> None:
    """End this session; a later one of the same guest goes on."""
    session.execute(
        sa.update(GuestSession)
        .where(
            GuestSession.instance_id == instance_id,
            GuestSession.session_epoch == session_epoch,
            GuestSession.close_time.is_(None),
        )
        .values(close_time=now, close_reason=reason)
        .execution_options(synchronize_session=False)
    )


def retire_sessions(session: Session, *, instance_id: str, now: dt.datetime) -> None:
    """Refuse whatever the guest of a deleted instance still reports: its epoch is over."""
    session.execute(
        sa.update(GuestSession)
        .where(GuestSession.instance_id == instance_id)
        .values(
            session_epoch=GuestSession.session_epoch + 1,
            close_time=now,
            close_reason="instance deleted",
        )
        .execution_options(synchronize_session=False)
    )
    session.execute(
        sa.update(GuestPresence)
        .where(GuestPresence.instance_id == instance_id)
        .values(session_epoch=GuestPresence.session_epoch + 1)
        .execution_options(synchronize_session=False)
    )


def live_session(session: Session, *, instance_id: str, now: dt.datetime) -> LiveSession | None:
    """The guest's session, if it is open and its gateway still renews its lease.

    Nothing is written when a lease runs out: a conductor that was away must not find that it
    closed sessions which gateways hold all the time.
    """
    row = session.execute(
        sa.select(GuestSession, Gateway)
        .join(
            Gateway,
            sa.and_(
                Gateway.id == GuestSession.gateway_id,
                Gateway.incarnation == GuestSession.incarnation,
            ),
        )
        .where(
            GuestSession.instance_id == instance_id,
            GuestSession.open_time.is_not(None),
            GuestSession.close_time.is_(None),
            Gateway.lease_expire_time > now,
        )
    ).first()
    return LiveSession(row[0], row[1]) if row else None


def read_presence(session: Session, instance_ids: Collection[str]) -> dict[str, Presence]:
    """What is persisted of these guests; unknown ones are left out."""
    storable = [clean(instance_id, 36) for instance_id in instance_ids]
    rows = session.scalars(sa.select(GuestPresence).where(GuestPresence.instance_id.in_(storable)))
    return {row.instance_id: Presence.from_row(row) for row in rows}


def write_presence(session: Session, reports: Mapping[str, Presence]) -> None:
    """One upsert for many guests; a row that is newer already stays.

    Whoever is in `reports` has a row: it was written with the instance.
    """
    rows = [presence.row(instance_id) for instance_id, presence in sorted(reports.items())]
    for start in range(0, len(rows), _ROWS_PER_UPSERT):
        session.execute(
            upsert(
                dialect_name(session),
                GuestPresence,
                rows[start : start + _ROWS_PER_UPSERT],
                key=["instance_id"],
                is_newer=is_newer,
                # The epoch last: with it assigned, the sequence would be compared in vain.
                decides=["sequence", "session_epoch"],
            )
        )


def is_newer(new: object, old: object) -> sa.ColumnElement[bool]:
    return sa.or_(
        new.session_epoch > old.session_epoch,  # type: ignore[attr-defined]
        sa.and_(
            new.session_epoch == old.session_epoch,  # type: ignore[attr-defined]
            new.sequence > old.sequence,  # type: ignore[attr-defined]
        ),
    )
