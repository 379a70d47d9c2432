"""Instances: created with topology, member, operation and quota; read as one record; removed."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from conductor.config import Quotas
from conductor.models import (
    Backup,
    Configuration,
    Datastore,
    DatastoreVersion,
    GuestPresence,
    GuestSession,
    Instance,
    InstanceConfiguration,
    Member,
    Operation,
    OperationSecret,
    Topology,
)
from conductor.status import Task
from conductor.store import datastores, guests, operations, quotas, requests
from conductor.store.requests import RequestId
from trove_grpc.errors import ConflictError, NotFoundError, StaleError

RUNNING_BACKUP_STATES = ("NEW", "BUILDING", "SAVING")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInstance:
    """What a create asks for, checked for meaning."""

    tenant_id: str
    request_id: str  # empty: never a repeat
    fingerprint: str
    name: str
    datastore: str
    datastore_version: str
    flavor_id: str
    flavor_name: str
    flavor_ram_mib: int
    flavor_vcpus: int
    flavor_disk_gib: int
    volume_size_gib: int
    volume_type: str
    region: str
    availability_zone: str
    is_public: bool
    allowed_cidrs: list[str]
    databases: list[dict[str, str]]
    deletion_protection: bool = False


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One instance with all that its view needs."""

    instance: Instance
    version: DatastoreVersion
    datastore: Datastore
    presence: GuestPresence | None
    has_running_backup: bool
    configuration: Configuration | None
    members: list[Member] = field(default_factory=list)


def create_instance(
    session: Session,
    new: NewInstance,
    *,
    operation: Operation,
    sealed_secrets: bytes,
    quota_defaults: Quotas,
    default_datastore: str,
    now: dt.datetime,
) -> tuple[InstanceRecord, str]:
    """Write everything of a new instance, or find what an equal request wrote before.

    Returns the record and the id of its create operation.
    """
    if earlier := _claim_request(session, new, operation, now):
        return earlier
    version = datastores.choose_version(
        session,
        datastore=new.datastore,
        version=new.datastore_version,
        default_datastore=default_datastore,
    )
    instance = Instance(
        id=operation.instance_id,
        tenant_id=new.tenant_id,
        name=new.name,
        task=Task.BUILDING.value,
        datastore_version_id=version.id,
        flavor_id=new.flavor_id,
        flavor_name=new.flavor_name,
        flavor_ram_mib=new.flavor_ram_mib,
        flavor_vcpus=new.flavor_vcpus,
        flavor_disk_gib=new.flavor_disk_gib,
        volume_size_gib=new.volume_size_gib,
        volume_type=new.volume_type,
        region=new.region,
        availability_zone=new.availability_zone,
        is_public=new.is_public,
        allowed_cidrs=new.allowed_cidrs,
        databases=new.databases,
        create_time=now,
        update_time=now,
        last_operation_id=operation.id,
        deletion_protection=new.deletion_protection,
    )
    topology = Topology(
        id=str(uuid.uuid4()), tenant_id=new.tenant_id, kind="single", create_time=now
    )
    session.add_all([topology, instance])
    session.flush()
    quotas.reserve(
        session,
        tenant_id=new.tenant_id,
        instance_id=instance.id,
        amounts={
            "instances": 1,
            "volumes": new.volume_size_gib,
            "ram": new.flavor_ram_mib,
        },
        defaults=quota_defaults,
    )
    session.add_all(
        [
            Member(
                id=str(uuid.uuid4()),
                topology_id=topology.id,
                instance_id=instance.id,
                role="primary",
            ),
            GuestPresence(instance_id=instance.id),
            GuestSession(instance_id=instance.id),
            operation,
        ]
    )
    session.flush()
    if sealed_secrets:
        session.add(OperationSecret(operation_id=operation.id, sealed=sealed_secrets))
        session.flush()
    return get_instance(session, instance_id=instance.id), operation.id


def _claim_request(
    session: Session, new: NewInstance, operation: Operation, now: dt.datetime
) -> tuple[InstanceRecord, str] | None:
    """Take the request id for this create; if it is taken, find what the earlier one made."""
    request = RequestId(tenant_id=new.tenant_id, id=new.request_id, fingerprint=new.fingerprint)
    done = requests.claim(
        session,
        request,
        resource_id=operation.instance_id,
        operation_id=operation.id,
        now=now,
    )
    if done is None:
        return None
    try:
        return get_instance(session, instance_id=done.resource_id), done.operation_id
    except NotFoundError as error:
        raise requests.retired(request, done) from error


def get_instance(
    session: Session, *, instance_id: str, tenant_id: str = "", include_deleted: bool = False
) -> InstanceRecord:
    """One instance; a foreign or deleted one does not exist. Empty `tenant_id`: any tenant."""
    query = _records(include_deleted=include_deleted).where(Instance.id == instance_id)
    if tenant_id:
        query = query.where(Instance.tenant_id == tenant_id)
    found = _load(session, query)
    if not found:
        raise instance_not_found(instance_id)
    return found[0]


def list_instances(
    session: Session, *, tenant_id: str, after: str, limit: int
) -> list[InstanceRecord]:
    """At most `limit` instances by id, after the id `after`. Empty `tenant_id`: every tenant."""
    query = _records().where(Instance.id > after).order_by(Instance.id).limit(limit)
    if tenant_id:
        query = query.where(Instance.tenant_id == tenant_id)
    return _load(session, query)


def list_managed_instances(
    session: Session, *, tenant_id: str, is_deleted: bool | None, offset: int, limit: int
) -> list[InstanceRecord]:
    """At most `limit` instances, newest first, after `offset` others; deleted ones too.

    Empty `tenant_id`: every tenant. `is_deleted` None: deleted or not.
    """
    query = _records(include_deleted=True)
    if tenant_id:
        query = query.where(Instance.tenant_id == tenant_id)
    if is_deleted is not None:
        query = query.where(Instance.delete_time.is_not(None) == is_deleted)
    newest_first = query.order_by(Instance.create_time.desc(), Instance.id.desc())
    return _load(session, newest_first.offset(offset).limit(limit))


def update_instance(
    session: Session,
    *,
    tenant_id: str,
    instance_id: str,
    name: str = "",
    deletion_protection: bool | None = None,
    expected_row_versions: Collection[int] = (),
    now: dt.datetime,
) -> InstanceRecord:
    """Change what is no part of the spec a flow realises, so `generation` stays.

    An empty name and a protection of None stay as they are. What is so already is not refused for
    an unexpected version: the request may be a repeat whose answer was lost.
    """
    instance = lock_instance(session, instance_id=instance_id, tenant_id=tenant_id)
    name = name or instance.name
    protection = instance.deletion_protection
    if deletion_protection is not None:
        protection = deletion_protection
    if (instance.name, instance.deletion_protection) != (name, protection):
        _check_row_version(instance, expected_row_versions)
        if instance.task == Task.DELETING and protection and not instance.deletion_protection:
            raise ConflictError(
                f"Instance {instance.id} is being deleted; it is too late to protect it.",
                reason="INSTANCE_DELETING",
                subject=instance.id,
            )
        instance.name, instance.deletion_protection = name, protection
        instance.update_time = now
        session.flush()
    return get_instance(session, instance_id=instance_id)


def _check_row_version(instance: Instance, expected: Collection[int]) -> None:
    if expected and instance.row_version not in expected:
        raise StaleError(
            f"Instance {instance.id} was changed since it was read. Read it again.",
            reason="PRECONDITION_FAILED",
            subject=instance.id,
        )


def record_placement(
    session: Session,
    *,
    instance_id: str,
    compute_id: str,
    addresses: list[str],
    dns_names: list[str],
    now: dt.datetime,
) -> None:
    """Write where an instance lives; equal values change nothing."""
    instance = lock_instance(session, instance_id=instance_id)
    place = (compute_id, addresses, dns_names)
    if (instance.compute_id, instance.addresses, instance.dns_names) != place:
        instance.compute_id, instance.addresses, instance.dns_names = place
        instance.update_time = now


def begin_delete(
    session: Session,
    operation: Operation,
    *,
    request_id: str = "",
    expected_row_versions: Collection[int] = (),
    is_forced: bool = False,
    now: dt.datetime,
) -> str:
    """Start deleting, or find the delete that runs; returns its operation's id.

    A repeat with the request's id finds it even when it has ended. Every delete begins here, also
    one by force: protection binds them all. What else runs is cancelled by the task manager, and
    undone before the delete begins. A forced one is an administrator's: of any tenant, and of an
    instance that is being built.
    """
    request = RequestId(
        tenant_id=operation.tenant_id,
        id=request_id,
        fingerprint=requests.fingerprint("delete_instance", operation.instance_id),
    )
    if done := requests.find(session, request):
        return done.operation_id
    instance = lock_instance(
        session,
        instance_id=operation.instance_id,
        tenant_id="" if is_forced else operation.tenant_id,
    )
    if instance.task == Task.DELETING:
        _remember_delete(session, request, instance, now)
        return instance.last_operation_id
    _check_row_version(instance, expected_row_versions)
    if instance.deletion_protection:
        raise ConflictError(
            f"Instance {instance.id} is protected from deletion. Lift that first: "
            'PUT {"instance": {"deletion_protection": false}}.',
            reason="DELETION_PROTECTED",
            subject=instance.id,
        )
    is_building = instance.task == Task.BUILDING
    if is_building and not is_forced and operations.has_open(session, instance_id=instance.id):
        raise ConflictError(
            f"Instance {instance.id} is not ready. (Status is BUILD). "
            "Wait until its operation has ended.",
            reason="INSTANCE_NOT_READY",
            subject=instance.id,
        )
    operation.tenant_id = instance.tenant_id
    session.add(operation)
    instance.task = Task.DELETING.value
    instance.last_operation_id = operation.id
    instance.update_time = now
    instance.generation += 1
    instance.fault_message = instance.fault_details = ""
    instance.fault_time = None
    session.flush()
    _remember_delete(session, request, instance, now)
    return operation.id


def _remember_delete(
    session: Session, request: RequestId, instance: Instance, now: dt.datetime
) -> None:
    """Claim the id last, under the instance's lock: only now its operation is known."""
    requests.claim(
        session,
        request,
        resource_id=instance.id,
        operation_id=instance.last_operation_id,
        now=now,
    )


def remove_instance(session: Session, instance: Instance, *, now: dt.datetime) -> None:
    """Mark as deleted; members, placement and quota go; its guest is refused from now on."""
    if instance.delete_time is not None:
        return
    instance.delete_time = now
    instance.update_time = now
    instance.task = Task.NONE.value
    instance.databases = []
    topologies = session.scalars(
        sa.select(Member.topology_id).where(Member.instance_id == instance.id)
    ).all()
    session.execute(sa.delete(Member).where(Member.instance_id == instance.id))
    for topology_id in topologies:
        if not session.scalar(sa.select(sa.func.count()).where(Member.topology_id == topology_id)):
            session.get_one(Topology, topology_id).delete_time = now
    quotas.release(session, instance_id=instance.id)
    guests.retire_sessions(session, instance_id=instance.id, now=now)
    session.flush()


def lock_instance(session: Session, *, instance_id: str, tenant_id: str = "") -> Instance:
    """The living instance, locked until the transaction ends."""
    query = (
        sa.select(Instance)
        .where(Instance.id == instance_id, Instance.delete_time.is_(None))
        .with_for_update()
    )
    if tenant_id:
        query = query.where(Instance.tenant_id == tenant_id)
    instance = session.scalar(query)
    if instance is None:
        raise instance_not_found(instance_id)
    return instance


def has_running_backup(session: Session, *, instance_id: str) -> bool:
    return bool(session.scalar(sa.select(_running_backup(instance_id))))


def instance_not_found(instance_id: str) -> NotFoundError:
    # Trove's words: clients show them, and some compare them.
    return NotFoundError(
        f"Resource {instance_id} cannot be found.",
        reason="INSTANCE_NOT_FOUND",
        subject=instance_id,
    )


Records: TypeAlias = sa.Select[
    Instance, DatastoreVersion, Datastore, GuestPresence, bool, Configuration
]


def _records(*, include_deleted: bool = False) -> Records:
    query = (
        sa.select(
            Instance,
            DatastoreVersion,
            Datastore,
            GuestPresence,
            _running_backup(Instance.id),
            Configuration,
        )
        .join(DatastoreVersion, DatastoreVersion.id == Instance.datastore_version_id)
        .join(Datastore, Datastore.id == DatastoreVersion.datastore_id)
        .join(GuestPresence, GuestPresence.instance_id == Instance.id, isouter=True)
        .join(
            InstanceConfiguration, InstanceConfiguration.instance_id == Instance.id, isouter=True
        )
        .join(
            Configuration,
            Configuration.id == InstanceConfiguration.configuration_id,
            isouter=True,
        )
    )
    return query if include_deleted else query.where(Instance.delete_time.is_(None))


def _running_backup(instance_id: str | InstrumentedAttribute[str]) -> sa.Exists:
    return sa.exists().where(
        Backup.instance_id == instance_id,
        Backup.state.in_(RUNNING_BACKUP_STATES),
        Backup.delete_time.is_(None),
    )


def _load(session: Session, query: Records) -> list[InstanceRecord]:
    records = [InstanceRecord(*row) for row in session.execute(query)]
    members: dict[str, list[Member]] = {}
    for owner, member in session.execute(_members_of([record.instance.id for record in records])):
        members.setdefault(owner, []).append(member)
    for record in records:
        record.members.extend(members.get(record.instance.id, []))
    return records


def _members_of(instance_ids: Sequence[str]) -> sa.Select[str, Member]:
    """Every member of the topologies these instances belong to, in the primary's favour."""
    own = aliased(Member)
    return (
        sa.select(own.instance_id, Member)
        .join(Member, Member.topology_id == own.topology_id)
        .where(own.instance_id.in_(instance_ids))
        .order_by(Member.role, Member.id)
    )
