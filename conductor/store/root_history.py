"""Who was let into an engine as root: one row for each instance, the last time."""

from __future__ import annotations

import datetime as dt

from sqlalchemy.orm import Session

from conductor.models import RootEnabling
from conductor.store import instances
from trove_grpc.errors import NotFoundError


def record_enabled(
    session: Session, *, tenant_id: str, instance_id: str, user_id: str, now: dt.datetime
) -> bool:
    """Record it before it is done; returns whether it was enabled already, and by whom stays."""
    instances.lock_instance(session, instance_id=instance_id, tenant_id=tenant_id)
    row = session.get(RootEnabling, instance_id)
    if row is None:
        session.add(RootEnabling(instance_id=instance_id, user_id=user_id, enable_time=now))
        return False
    if row.disable_time is None:
        return True
    row.user_id, row.enable_time, row.disable_time = user_id, now, None
    return False


def record_disabled(
    session: Session, *, tenant_id: str, instance_id: str, now: dt.datetime
) -> None:
    """Raises NotFoundError (ROOT_NEVER_ENABLED) when it is not enabled."""
    instances.lock_instance(session, instance_id=instance_id, tenant_id=tenant_id)
    row = session.get(RootEnabling, instance_id)
    if row is None or row.disable_time is not None:
        raise NotFoundError(
            "Root user has never been enabled on the instance.",
            reason="ROOT_NEVER_ENABLED",
            subject=instance_id,
        )
    row.disable_time = now


def is_enabled(session: Session, *, tenant_id: str, instance_id: str) -> bool:
    instances.get_instance(session, instance_id=instance_id, tenant_id=tenant_id)
    row = session.get(RootEnabling, instance_id)
    return row is not None and row.disable_time is None


def last_enabling(session: Session, *, instance_id: str) -> RootEnabling | None:
    """Of any tenant's instance, removed ones too; disabled since or not."""
    instances.get_instance(session, instance_id=instance_id, include_deleted=True)
    return session.get(RootEnabling, instance_id)
