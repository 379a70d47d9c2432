"""Requests of the store, with every field filled in."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from conductor.config import Quotas
from conductor.executor import Database
from conductor.models import Operation
from conductor.store import instances, settlement
from conductor.store.instances import NewInstance

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def a_new_instance(**changes: Any) -> NewInstance:
    values: dict[str, Any] = {
        "tenant_id": "demo",
        "request_id": "",
        "fingerprint": "f",
        "name": "db",
        "datastore": "postgresql",
        "datastore_version": "",
        "flavor_id": "1",
        "flavor_name": "db.tiny",
        "flavor_ram_mib": 512,
        "flavor_vcpus": 1,
        "flavor_disk_gib": 0,
        "volume_size_gib": 2,
        "volume_type": "",
        "region": "RegionOne",
        "availability_zone": "",
        "is_public": False,
        "allowed_cidrs": [],
        "databases": [],
    }
    return NewInstance(**{**values, **changes})


def an_operation(kind: str, *, instance_id: str = "", **changes: Any) -> Operation:
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "kind": kind,
        "tenant_id": "demo",
        "instance_id": instance_id or str(uuid.uuid4()),
        "state": "PENDING",
        "request_id": "req-1",
        "create_time": NOW,
    }
    return Operation(**{**values, **changes})


async def create(
    database: Database, *, quotas: Quotas | None = None, now: dt.datetime = NOW, **changes: Any
) -> tuple[str, str]:
    """Create an instance; returns its id and its operation's."""
    new = a_new_instance(**changes)
    record, operation_id = await database.write(
        instances.create_instance,
        new,
        operation=an_operation(
            settlement.CREATE_INSTANCE, tenant_id=new.tenant_id, create_time=now
        ),
        sealed_secrets=b"sealed",
        quota_defaults=quotas or Quotas(),
        default_datastore="postgresql",
        now=now,
    )
    return record.instance.id, operation_id


async def begin_delete(database: Database, instance_id: str, tenant_id: str = "demo") -> str:
    return await database.write(
        instances.begin_delete,
        an_operation(settlement.DELETE_INSTANCE, instance_id=instance_id, tenant_id=tenant_id),
        now=NOW,
    )


async def finish(
    database: Database, operation_id: str, state: str = "SUCCEEDED", message: str = ""
) -> None:
    await database.write(
        settlement.finish_operation,
        operation_id=operation_id,
        state=state,
        fault_message=message,
        fault_details="",
        now=NOW,
    )
