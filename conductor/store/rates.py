"""Windows of rates in the database: a row for each (tenant, rate), changed under its lock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor import rates
from conductor.models import RateWindow
from conductor.rates import Ended, Lease, Window
from conductor.store.dialects import insert_if_absent


@dataclass(frozen=True, slots=True)
class Granted:
    """What became of a wish for a slice."""

    amount: int
    retry_after: float


def lease(
    session: Session,
    *,
    tenant_id: str,
    rate: str,
    lease_id: str,
    ended: Sequence[Ended],
    limit: int,
    slice_size: int,
    lifetime: dt.timedelta,
    now: dt.datetime,
) -> Granted:
    """Take back what ended and lease a slice, in one transaction."""
    row = _lock(session, tenant_id, rate)
    window = rates.take_back(rates.advance(_window(row), now.timestamp()), ended)
    window, amount = rates.grant(
        window,
        lease_id,
        limit=limit,
        slice_size=slice_size,
        lifetime=lifetime.total_seconds(),
    )
    _store(row, window)
    return Granted(amount, 0.0 if amount else rates.free_in(window))


def read_windows(session: Session, *, tenant_id: str, now: dt.datetime) -> dict[str, Window]:
    """A tenant's windows by the name of their rate; none for a rate that was not used."""
    rows = session.scalars(sa.select(RateWindow).where(RateWindow.tenant_id == tenant_id))
    return {row.rate: rates.advance(_window(row), now.timestamp()) for row in rows}


def forget_windows(session: Session, *, before: dt.datetime) -> None:
    """Drop the windows that nobody asked of since `before`."""
    session.execute(sa.delete(RateWindow).where(RateWindow.update_time < before))


def _lock(session: Session, tenant_id: str, rate: str) -> RateWindow:
    query = (
        sa.select(RateWindow)
        .where(RateWindow.tenant_id == tenant_id, RateWindow.rate == rate)
        .with_for_update()
    )
    # Not inserted first: on MariaDB an insert that finds the row takes a shared lock, and two
    # that both want to update it next are a deadlock.
    row = session.scalar(query)
    if row is None:
        insert_if_absent(
            session,
            RateWindow,
            {
                "tenant_id": tenant_id,
                "rate": rate,
                "leases": [],
                "spent": [],
                "update_time": dt.datetime.fromtimestamp(0, dt.UTC),
            },
        )
        row = session.scalars(query).one()
    return row


def _window(row: RateWindow) -> Window:
    return Window(
        leases=tuple(Lease(*item) for item in row.leases),
        spent=dict(row.spent),
        update_time=row.update_time.timestamp(),
    )


def _store(row: RateWindow, window: Window) -> None:
    row.leases = [[item.id, item.amount, item.expire_time] for item in window.leases]
    row.spent = [[second, used] for second, used in window.spent.items()]
    row.update_time = dt.datetime.fromtimestamp(window.update_time, dt.UTC)
