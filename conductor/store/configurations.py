"""Configuration groups, and which instances have them.

What an instance is meant to have stands here; whether its engine could take it is the business of
an operation `apply_configuration`, begun in the transaction that changed what is meant.
Locks are taken group first, then instances by id.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor.models import (
    Configuration,
    Datastore,
    DatastoreVersion,
    Instance,
    InstanceConfiguration,
    Operation,
)
from conductor.status import Task
from conductor.store import datastores, instances, operations, parameters
from conductor.store.parameters import Value
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError

APPLY_CONFIGURATION = "apply_configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConfiguration:
    """What a create asks for."""

    tenant_id: str
    name: str
    description: str | None
    datastore: str
    datastore_version: str
    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an update asks for; None keeps what is there."""

    name: str | None = None
    description: str | None = None
    values: Mapping[str, Value]
    replaces_values: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationRecord:
    """A group with its datastore version and how many instances have it."""

    configuration: Configuration
    version: DatastoreVersion
    datastore: Datastore
    instance_count: int


def create(
    session: Session, new: NewConfiguration, *, default_datastore: str, now: dt.datetime
) -> ConfigurationRecord:
    version, datastore = datastores.resolve_version(
        session,
        datastore=new.datastore,
        version=new.datastore_version,
        default_datastore=default_datastore,
    )
    _check(session, new.values, version, datastore)
    configuration = Configuration(
        id=str(uuid.uuid4()),
        tenant_id=new.tenant_id,
        name=new.name,
        datastore_version_id=version.id,
        values=dict(new.values),
        create_time=now,
        update_time=now,
        description=new.description,
    )
    session.add(configuration)
    session.flush()
    return ConfigurationRecord(
        configuration=configuration, version=version, datastore=datastore, instance_count=0
    )


def get(session: Session, tenant_id: str, configuration_id: str) -> ConfigurationRecord:
    """Raise NotFoundError for another tenant's too."""
    row = session.execute(_query(tenant_id).where(Configuration.id == configuration_id)).first()
    if row is None:
        raise configuration_not_found(configuration_id)
    return _record(row)


def list_page(
    session: Session, tenant_id: str, *, after: str, limit: int
) -> list[ConfigurationRecord]:
    """By id."""
    query = (
        _query(tenant_id).where(Configuration.id > after).order_by(Configuration.id).limit(limit)
    )
    return [_record(row) for row in session.execute(query)]


def list_instances(
    session: Session, tenant_id: str, configuration_id: str, *, after: str, limit: int
) -> list[Instance]:
    """Living instances that have the group, by id."""
    get(session, tenant_id, configuration_id)
    query = _having(configuration_id).where(Instance.id > after).limit(limit)
    return list(session.scalars(query))


def update(
    session: Session,
    tenant_id: str,
    configuration_id: str,
    change: Change,
    *,
    request_id: str,
    now: dt.datetime,
) -> tuple[ConfigurationRecord, list[str]]:
    """Change a group; returns it and the operations that bring its instances after it.

    Raises ConflictError when one of them is busy: nothing is changed then.
    """
    _lock(session, tenant_id, configuration_id)
    record = get(session, tenant_id, configuration_id)
    configuration = record.configuration
    _check(session, change.values, record.version, record.datastore)
    if change.name is not None:
        configuration.name = change.name
    if change.description is not None:
        configuration.description = change.description
    kept = {} if change.replaces_values else configuration.values
    values = {**kept, **change.values}
    configuration.update_time = now
    begun = []
    if values != configuration.values:
        configuration.values = values
        for found in session.scalars(_having(configuration_id)).all():
            instance = instances.lock_instance(session, instance_id=found.id)
            begun.append(_begin(session, instance, request_id=request_id, now=now))
    session.flush()
    return record, [operation_id for operation_id in begun if operation_id]


def delete(session: Session, tenant_id: str, configuration_id: str) -> None:
    _lock(session, tenant_id, configuration_id)
    record = get(session, tenant_id, configuration_id)
    if record.instance_count:
        raise ConflictError(
            "A configuration group cannot be deleted if it is associated with one or more "
            "non-terminated instances. Detach the configuration group from all non-terminated "
            "instances and please try again.",
            reason="CONFIGURATION_IN_USE",
            subject=configuration_id,
        )
    # What deleted instances had keeps nobody from it.
    session.execute(
        sa.delete(InstanceConfiguration).where(
            InstanceConfiguration.configuration_id == configuration_id
        )
    )
    session.delete(record.configuration)
    session.flush()


def create_instance(
    session: Session, /, new: instances.NewInstance, configuration_id: str, **options: Any
) -> tuple[instances.InstanceRecord, str]:
    """`instances.create_instance` with a group from the start; the create operation applies it."""
    if configuration_id:
        _lock(session, new.tenant_id, configuration_id)
    record, operation_id = instances.create_instance(session, new, **options)
    instance = record.instance
    if not configuration_id or session.get(InstanceConfiguration, instance.id) is not None:
        return record, operation_id
    _check_fits(get(session, new.tenant_id, configuration_id), instance)
    _mean(session, instance.id, configuration_id)
    return instances.get_instance(session, instance_id=instance.id), operation_id


def attach(
    session: Session,
    tenant_id: str,
    instance_id: str,
    configuration_id: str,
    *,
    request_id: str,
    now: dt.datetime,
) -> str:
    """Give an instance a group; returns the id of the operation that applies it."""
    # An instance that is not the tenant's is told first, as Trove does.
    instances.get_instance(session, instance_id=instance_id, tenant_id=tenant_id)
    _lock(session, tenant_id, configuration_id)
    instance = instances.lock_instance(session, instance_id=instance_id, tenant_id=tenant_id)
    row = session.get(InstanceConfiguration, instance_id)
    if row is not None and row.configuration_id is not None:
        raise ConflictError(
            f"Instance {instance_id} already has a Configuration Group attached: "
            f"{row.configuration_id}.",
            reason="CONFIGURATION_ATTACHED",
            subject=instance_id,
        )
    _check_fits(get(session, tenant_id, configuration_id), instance)
    _require_idle(session, instance)
    _mean(session, instance_id, configuration_id)
    return _begin(session, instance, request_id=request_id, now=now)


def detach(
    session: Session, tenant_id: str, instance_id: str, *, request_id: str, now: dt.datetime
) -> str:
    """Take an instance's group away; returns the operation's id, or nothing if none is needed."""
    instance = instances.lock_instance(session, instance_id=instance_id, tenant_id=tenant_id)
    row = session.get(InstanceConfiguration, instance_id)
    # A detach that failed on its way to the guest may be repeated.
    if row is None or (row.configuration_id is None and row.is_applied):
        return ""
    _mean(session, instance_id, None)
    return _begin(session, instance, request_id=request_id, now=now)


def values_of(session: Session, instance_id: str) -> Mapping[str, Value]:
    """What an instance's engine is meant to be set to."""
    values: dict[str, Value] | None = session.scalar(
        sa.select(Configuration.values)
        .join(InstanceConfiguration, InstanceConfiguration.configuration_id == Configuration.id)
        .where(InstanceConfiguration.instance_id == instance_id)
    )
    return values or {}


def configuration_not_found(configuration_id: str) -> NotFoundError:
    return NotFoundError(
        f"Configuration group with ID {configuration_id} could not be found.",
        reason="CONFIGURATION_NOT_FOUND",
        subject=configuration_id,
    )


def _mean(session: Session, instance_id: str, configuration_id: str | None) -> None:
    session.merge(
        InstanceConfiguration(
            instance_id=instance_id, configuration_id=configuration_id, is_applied=False
        )
    )
    session.flush()


def _begin(session: Session, instance: Instance, *, request_id: str, now: dt.datetime) -> str:
    """Begin to apply what an instance is meant to have.

    Returns nothing for one that is broken: it is meant to have it, and no engine is there to take
    it.
    """
    session.get_one(InstanceConfiguration, instance.id).is_applied = False
    if Task(instance.task).is_error and not operations.has_open(session, instance_id=instance.id):
        session.flush()
        return ""
    _require_idle(session, instance)
    operation = Operation(
        id=str(uuid.uuid4()),
        kind=APPLY_CONFIGURATION,
        tenant_id=instance.tenant_id,
        instance_id=instance.id,
        state="PENDING",
        request_id=request_id,
        create_time=now,
    )
    session.add(operation)
    instance.task = Task.UPDATING.value
    instance.last_operation_id = operation.id
    instance.update_time = now
    instance.generation += 1
    session.flush()
    return operation.id


def _require_idle(session: Session, instance: Instance) -> None:
    if instance.task != Task.NONE or operations.has_open(session, instance_id=instance.id):
        shown = "BUILD" if instance.task == Task.BUILDING else instance.task
        raise ConflictError(
            f"Instance {instance.id} is not currently available for an action to be performed "
            f"(status was {shown}). Wait until its operation has ended.",
            reason="INSTANCE_BUSY",
            subject=instance.id,
        )


def _check(
    session: Session, values: Mapping[str, Value], version: DatastoreVersion, datastore: Datastore
) -> None:
    rules = parameters.list_rules(session, version.id)
    parameters.check_values(values, rules, datastore=f"{datastore.name} {version.name}")


def _check_fits(record: ConfigurationRecord, instance: Instance) -> None:
    if record.version.id != instance.datastore_version_id:
        raise InvalidRequestError(
            f"Datastore Version on Configuration Group {record.version.id} does not match the "
            f"Datastore Version on instance {instance.datastore_version_id}.",
            reason="CONFIGURATION_MISMATCH",
            subject=record.configuration.id,
        )


def _lock(session: Session, tenant_id: str, configuration_id: str) -> None:
    found = session.scalar(
        sa.select(Configuration.id)
        .where(Configuration.id == configuration_id, Configuration.tenant_id == tenant_id)
        .with_for_update()
    )
    if found is None:
        raise configuration_not_found(configuration_id)


def _having(configuration_id: str) -> sa.Select[Instance]:
    return (
        sa.select(Instance)
        .join(InstanceConfiguration, InstanceConfiguration.instance_id == Instance.id)
        .where(
            InstanceConfiguration.configuration_id == configuration_id,
            Instance.delete_time.is_(None),
        )
        .order_by(Instance.id)
    )


def _query(tenant_id: str) -> sa.Select[Any]:
    count = (
        sa.select(sa.func.count())
        .select_from(InstanceConfiguration)
        .join(Instance, Instance.id == InstanceConfiguration.instance_id)
        .where(
            InstanceConfiguration.configuration_id == Configuration.id,
            Instance.delete_time.is_(None),
        )
        .correlate(Configuration)
        .scalar_subquery()
    )
    return (
        sa.select(Configuration, DatastoreVersion, Datastore, count)
        .join(DatastoreVersion, DatastoreVersion.id == Configuration.datastore_version_id)
        .join(Datastore, Datastore.id == DatastoreVersion.datastore_id)
        .where(Configuration.tenant_id == tenant_id)
    )


def _record(row: Any) -> ConfigurationRecord:
    configuration, version, datastore, count = row
    return ConfigurationRecord(
        configuration=configuration, version=version, datastore=datastore, instance_count=count
    )
