"""Tables of the database of record. Nothing here leaves the conductor; views.py makes messages.

Times are timezone-aware UTC. Enumerations of the contracts are stored by their short names
("HEALTHY"), so that a person can read the table and a renumbering cannot change its meaning.
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column


class Instant(TypeDecorator[dt.datetime]):
    """A moment in UTC with microseconds; aware in Python on every database."""

    impl = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(
        self, value: dt.datetime | None, dialect: Dialect
    ) -> dt.datetime | None:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(
        self, value: dt.datetime | None, dialect: Dialect
    ) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


# MariaDB's BLOB ends at 64 KiB.
Sealed = LargeBinary(4 * 1024 * 1024).with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
Id = String(36)
TenantId = String(64)
Name = String(255)
State = String(32)


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """Naming constraints once lets a later migration drop them by name on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dt.datetime: Instant(),
        int: BigInteger(),
        list[str]: JSON(),
        list[dict[str, str]]: JSON(),
        dict[str, str | int]: JSON(none_as_null=True),
    }


class ManagedBy(enum.StrEnum):
    """Whose word stands for a datastore or a version."""

    SETTINGS = "SETTINGS"  # rewritten at each start of a conductor
    ADMINISTRATOR = "ADMINISTRATOR"  # the settings leave it alone


class Datastore(Base):
    """A kind of database. A deleted one stays a row: versions refer to it."""

    __tablename__ = "datastores"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    # Of its first version; each version has its own. The port goes with it.
    manager: Mapped[str] = mapped_column(State)
    port: Mapped[int]
    # No foreign key: it would be a circle, which MySQL and SQLite migrate badly.
    default_version_id: Mapped[str | None] = mapped_column(Id, default=None)
    managed_by: Mapped[str] = mapped_column(State, default=ManagedBy.SETTINGS.value)
    delete_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class DatastoreVersion(Base):
    """An installable version of a datastore. A deleted one stays a row: instances refer to it."""

    __tablename__ = "datastore_versions"
    __table_args__ = (UniqueConstraint("datastore_id", "name", "version"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    datastore_id: Mapped[str] = mapped_column(Id, ForeignKey("datastores.id"))
    name: Mapped[str] = mapped_column(String(100))
    version: Mapped[str] = mapped_column(String(64))
    is_active: Mapped[bool]
    manager: Mapped[str] = mapped_column(State)
    managed_by: Mapped[str] = mapped_column(State, default=ManagedBy.SETTINGS.value)
    image_id: Mapped[str] = mapped_column(Name, default="")
    image_tags: Mapped[list[str]] = mapped_column(default_factory=list)
    packages: Mapped[list[str]] = mapped_column(default_factory=list)
    registry_ext: Mapped[str] = mapped_column(Name, default="")
    repl_strategy: Mapped[str] = mapped_column(Name, default="")
    delete_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class Topology(Base):
    """What instances form together; kind "single" has one member."""

    __tablename__ = "topologies"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(TenantId, index=True)
    kind: Mapped[str] = mapped_column(State)
    create_time: Mapped[dt.datetime]
    delete_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class Instance(Base):
    """The desired instance and where it was placed. What is observed is in GuestPresence."""

    __tablename__ = "instances"
    __table_args__ = (
        Index(None, "tenant_id", "delete_time", "id"),
        Index(None, "create_time", "id"),  # administrators' pages, newest first
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(TenantId)
    name: Mapped[str] = mapped_column(Name)
    task: Mapped[str] = mapped_column(State)
    datastore_version_id: Mapped[str] = mapped_column(Id, ForeignKey("datastore_versions.id"))
    flavor_id: Mapped[str] = mapped_column(Name)
    flavor_name: Mapped[str] = mapped_column(Name)
    flavor_ram_mib: Mapped[int]
    flavor_vcpus: Mapped[int]
    flavor_disk_gib: Mapped[int]
    volume_size_gib: Mapped[int]
    volume_type: Mapped[str] = mapped_column(Name)
    region: Mapped[str] = mapped_column(Name)
    availability_zone: Mapped[str] = mapped_column(Name)
    is_public: Mapped[bool]
    allowed_cidrs: Mapped[list[str]]
    databases: Mapped[list[dict[str, str]]]  # DatabaseSpec fields, as wished for at create
    create_time: Mapped[dt.datetime]
    update_time: Mapped[dt.datetime]
    last_operation_id: Mapped[str] = mapped_column(Id)
    compute_id: Mapped[str] = mapped_column(Name, default="")
    addresses: Mapped[list[str]] = mapped_column(default_factory=list)
    dns_names: Mapped[list[str]] = mapped_column(default_factory=list)
    fault_message: Mapped[str] = mapped_column(Text, default="")
    fault_details: Mapped[str] = mapped_column(Text, default="")
    fault_time: Mapped[dt.datetime | None] = mapped_column(default=None)
    delete_time: Mapped[dt.datetime | None] = mapped_column(default=None)
    generation: Mapped[int] = mapped_column(default=1)  # changes of the desired spec
    deletion_protection: Mapped[bool] = mapped_column(default=False)
    row_version: Mapped[int] = mapped_column(init=False)  # the optimistic lock

    __mapper_args__ = {"version_id_col": row_version}  # noqa: RUF012  as declared by SQLAlchemy


class Member(Base):
    """An instance's part in a topology."""

    __tablename__ = "members"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    topology_id: Mapped[str] = mapped_column(Id, ForeignKey("topologies.id"), index=True)
    instance_id: Mapped[str] = mapped_column(Id, ForeignKey("instances.id"), unique=True)
    role: Mapped[str] = mapped_column(State)


class Operation(Base):
    """Public projection of a flow of the task manager; the id is the flow's."""

    __tablename__ = "operations"
    __table_args__ = (
        Index(None, "end_time", "create_time", "id"),  # the sweep of open operations
        Index(None, "tenant_id", "create_time", "id"),
        Index(None, "instance_id", "create_time", "id"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    kind: Mapped[str] = mapped_column(State)
    tenant_id: Mapped[str] = mapped_column(TenantId)
    instance_id: Mapped[str] = mapped_column(Id, ForeignKey("instances.id"))
    state: Mapped[str] = mapped_column(State)
    request_id: Mapped[str] = mapped_column(Name)
    create_time: Mapped[dt.datetime]
    # Columns of the instance and the values a success gives them.
    target: Mapped[dict[str, str | int] | None] = mapped_column(default=None)
    fault_message: Mapped[str] = mapped_column(Text, default="")
    fault_details: Mapped[str] = mapped_column(Text, default="")
    fault_time: Mapped[dt.datetime | None] = mapped_column(default=None)
    end_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class OperationStep(Base):
    """One step of an operation, in the order in which steps first began."""

    __tablename__ = "operation_steps"

    operation_id: Mapped[str] = mapped_column(Id, ForeignKey("operations.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    position: Mapped[int]
    state: Mapped[str] = mapped_column(State)
    detail: Mapped[str] = mapped_column(Text)
    start_time: Mapped[dt.datetime]
    end_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class OperationSecret(Base):
    """What a flow needs and no record may show: sealed, and gone when the operation ends."""

    __tablename__ = "operation_secrets"

    operation_id: Mapped[str] = mapped_column(Id, ForeignKey("operations.id"), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(Sealed)


class CreateRequest(Base):
    """What was carried out for an id of its caller's: a repeat finds the same (AIP-155)."""

    __tablename__ = "create_requests"

    tenant_id: Mapped[str] = mapped_column(TenantId, primary_key=True)
    request_id: Mapped[str] = mapped_column(Name, primary_key=True)
    # SHA-256 of the request without verifiers; a repeat salts them anew.
    fingerprint: Mapped[str] = mapped_column(String(64))
    instance_id: Mapped[str] = mapped_column(Id)  # or a module's
    operation_id: Mapped[str] = mapped_column(Id)
    create_time: Mapped[dt.datetime] = mapped_column(index=True)


class GuestPresence(Base):
    """Latest observation of a guest. Narrow: every heartbeat batch is one upsert here.

    The row is written when the instance is created and never removed: the epoch of a deleted
    instance must go on refusing its late reports.
    """

    __tablename__ = "guest_presence"

    instance_id: Mapped[str] = mapped_column(Id, primary_key=True)
    session_epoch: Mapped[int] = mapped_column(default=0)
    sequence: Mapped[int] = mapped_column(default=0)
    engine_state: Mapped[str] = mapped_column(State, default="")
    reason: Mapped[str] = mapped_column(String(1024), default="")
    engine_version: Mapped[str] = mapped_column(String(64), default="")
    start_count: Mapped[int] = mapped_column(default=0)
    volume_total_bytes: Mapped[int] = mapped_column(default=0)
    volume_used_bytes: Mapped[int] = mapped_column(default=0)
    last_report_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class GuestSession(Base):
    """The newest session of a guest; its epoch only grows."""

    __tablename__ = "guest_sessions"

    instance_id: Mapped[str] = mapped_column(Id, ForeignKey("instances.id"), primary_key=True)
    session_epoch: Mapped[int] = mapped_column(default=0)
    gateway_id: Mapped[str] = mapped_column(Name, default="")
    incarnation: Mapped[str] = mapped_column(String(64), default="")
    certificate_serial: Mapped[str] = mapped_column(String(64), default="")
    boot_id: Mapped[str] = mapped_column(Name, default="")
    agent_version: Mapped[str] = mapped_column(String(64), default="")
    open_time: Mapped[dt.datetime | None] = mapped_column(default=None)
    close_time: Mapped[dt.datetime | None] = mapped_column(default=None)
    close_reason: Mapped[str] = mapped_column(Name, default="")


class Gateway(Base):
    """A guest gateway and its lease. A session lives while its gateway's lease does."""

    __tablename__ = "gateways"

    id: Mapped[str] = mapped_column(Name, primary_key=True)
    incarnation: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(Name)
    lease_expire_time: Mapped[dt.datetime]


class GuestReport(Base):
    """A change or backup update that was applied, so that its resend is harmless."""

    __tablename__ = "guest_reports"

    instance_id: Mapped[str] = mapped_column(Id, primary_key=True)
    report_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    apply_time: Mapped[dt.datetime] = mapped_column(index=True)


class Quota(Base):
    """A limit of one tenant, where it differs from the configured one."""

    __tablename__ = "quotas"

    tenant_id: Mapped[str] = mapped_column(TenantId, primary_key=True)
    resource: Mapped[str] = mapped_column(State, primary_key=True)
    hard_limit: Mapped[int]


class QuotaUsage(Base):
    """What a tenant holds: counters changed only by conditional updates."""

    __tablename__ = "quota_usages"

    tenant_id: Mapped[str] = mapped_column(TenantId, primary_key=True)
    resource: Mapped[str] = mapped_column(State, primary_key=True)
    in_use: Mapped[int] = mapped_column(default=0)
    reserved: Mapped[int] = mapped_column(default=0)


class QuotaReservation(Base):
    """An instance's share of a counter. Removing the row is what releases it, so only once."""

    __tablename__ = "quota_reservations"

    instance_id: Mapped[str] = mapped_column(Id, ForeignKey("instances.id"), primary_key=True)
    resource: Mapped[str] = mapped_column(State, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(TenantId)
    amount: Mapped[int]
    is_committed: Mapped[bool] = mapped_column(default=False)


class OperationReservation(Base):
    """What an open operation adds to a counter; gone when it ends, however that is."""

    __tablename__ = "operation_reservations"

    operation_id: Mapped[str] = mapped_column(Id, ForeignKey("operations.id"), primary_key=True)
    resource: Mapped[str] = mapped_column(State, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(TenantId)
    amount: Mapped[int]


class Backup(Base):
    """A backup of an instance."""

    __tablename__ = "backups"
    __table_args__ = (Index(None, "instance_id", "state"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(TenantId, index=True)
    instance_id: Mapped[str] = mapped_column(Id, ForeignKey("instances.id"))
    name: Mapped[str] = mapped_column(Name)
    state: Mapped[str] = mapped_column(State)
    create_time: Mapped[dt.datetime]
    update_time: Mapped[dt.datetime]
    description: Mapped[str] = mapped_column(String(512), default="")
    parent_id: Mapped[str | None] = mapped_column(Id, default=None)
    location: Mapped[str] = mapped_column(String(1024), default="")
    size_bytes: Mapped[int] = mapped_column(default=0)
    checksum: Mapped[str] = mapped_column(String(128), default="")
    reason: Mapped[str] = mapped_column(String(1024), default="")
    delete_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class Module(Base):
    """A piece of configuration that a tenant keeps and gives to instances."""

    __tablename__ = "modules"
    # `scope` spells what makes a name unique where columns may be NULL, which are never equal.
    __table_args__ = (UniqueConstraint("scope", "type", "name"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    scope: Mapped[str] = mapped_column(Name)
    type: Mapped[str] = mapped_column(State)
    name: Mapped[str] = mapped_column(Name)
    sealed_contents: Mapped[bytes] = mapped_column(Sealed)
    md5: Mapped[str] = mapped_column(String(32))
    create_time: Mapped[dt.datetime]
    update_time: Mapped[dt.datetime]
    tenant_id: Mapped[str | None] = mapped_column(TenantId, index=True)
    datastore_id: Mapped[str | None] = mapped_column(Id, ForeignKey("datastores.id"))
    datastore_version_id: Mapped[str | None] = mapped_column(
        Id, ForeignKey("datastore_versions.id")
    )
    description: Mapped[str | None] = mapped_column(Text)
    auto_apply: Mapped[bool]
    is_visible: Mapped[bool]
    live_update: Mapped[bool]
    priority_apply: Mapped[bool]
    apply_order: Mapped[int]
    is_admin: Mapped[bool]
    row_version: Mapped[int] = mapped_column(init=False)

    __mapper_args__ = {"version_id_col": row_version}  # noqa: RUF012  as declared by SQLAlchemy


class InstanceModule(Base):
    """That an instance has a module, and which contents of it."""

    __tablename__ = "instance_modules"

    instance_id: Mapped[str] = mapped_column(Id, ForeignKey("instances.id"), primary_key=True)
    module_id: Mapped[str] = mapped_column(
        Id, ForeignKey("modules.id"), primary_key=True, index=True
    )
    md5: Mapped[str] = mapped_column(String(32))
    apply_time: Mapped[dt.datetime]


class RateWindow(Base):
    """What API processes were leased of one of a tenant's rates, over the last minute.

    Narrow and short-lived: one row for each rate that was used, read and written as a whole.
    """

    __tablename__ = "rate_windows"

    tenant_id: Mapped[str] = mapped_column(TenantId, primary_key=True)
    rate: Mapped[str] = mapped_column(State, primary_key=True)
    leases: Mapped[list[Any]] = mapped_column(JSON)  # [id, amount, expiry] of each
    spent: Mapped[list[Any]] = mapped_column(JSON)  # [second, amount] of each
    update_time: Mapped[dt.datetime] = mapped_column(index=True)


class RootEnabling(Base):
    """The last time root was let into an instance's engine; bounded, the log has the others."""

    __tablename__ = "root_history"

    instance_id: Mapped[str] = mapped_column(Id, ForeignKey("instances.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(Name)
    enable_time: Mapped[dt.datetime]
    disable_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class ParameterRow(Base):
    """What may stand in a configuration group of a datastore version under one name."""

    __tablename__ = "configuration_parameters"

    datastore_version_id: Mapped[str] = mapped_column(
        Id, ForeignKey("datastore_versions.id"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    type: Mapped[str] = mapped_column(State)
    restart_required: Mapped[bool]
    min_value: Mapped[int | None] = mapped_column(default=None)
    max_value: Mapped[int | None] = mapped_column(default=None)
    # Removed by an administrator; the row stays, or the shipped one would come back.
    is_removed: Mapped[bool] = mapped_column(default=False)


class Configuration(Base):
    """A tenant's group of values for the engines of one datastore version."""

    __tablename__ = "configurations"
    __table_args__ = (Index(None, "tenant_id", "id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(TenantId)
    name: Mapped[str] = mapped_column(Name)
    datastore_version_id: Mapped[str] = mapped_column(Id, ForeignKey("datastore_versions.id"))
    values: Mapped[dict[str, Any]] = mapped_column(JSON)
    create_time: Mapped[dt.datetime]
    update_time: Mapped[dt.datetime]
    description: Mapped[str | None] = mapped_column(Text, default=None)


class InstanceConfiguration(Base):
    """The group an instance is meant to have; none once it was detached."""

    __tablename__ = "instance_configurations"

    instance_id: Mapped[str] = mapped_column(Id, ForeignKey("instances.id"), primary_key=True)
    configuration_id: Mapped[str | None] = mapped_column(
        Id, ForeignKey("configurations.id"), index=True
    )
    # Whether its agent has taken over what is meant; an operation that failed leaves it false.
    is_applied: Mapped[bool] = mapped_column(default=False)
