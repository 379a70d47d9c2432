"""Tables of the issuer's own small schema; nobody else reads them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

# Constraint names are part of the schema: migrations on another engine must find them.
_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(sa.types.TypeDecorator[dt.datetime]):
    """An instant, to the microsecond. SQLite and MariaDB keep no time zone: all is UTC there."""

    impl = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(
        self, value: dt.datetime | None, dialect: sa.engine.Dialect
    ) -> dt.datetime | None:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(
        self, value: Any | None, dialect: sa.engine.Dialect
    ) -> dt.datetime | None:
        if value is None:
            return None
        moment: dt.datetime = value
        return (
            moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
        )


_HASH = sa.LargeBinary(32).with_variant(mysql.TINYBLOB(), "mysql", "mariadb")


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """Common to all tables."""

    metadata = sa.MetaData(naming_convention=_NAMING)
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy's own declaration
        dt.datetime: UtcDateTime(),
        str: sa.String(255),
        # SQLite counts rows by INTEGER alone.
        int: sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
    }


class Counter(Base):
    """A number handed out in commit order: its row stays locked until the transaction ends.

    Auto-increment ids become visible out of order, and whoever polls "after N" misses one.
    """

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


class Domain(Base):
    """The one row that says whose PKI this is and which trust bundle is in force."""

    __tablename__ = "domains"

    trust_domain: Mapped[str] = mapped_column(primary_key=True)
    bundle_version: Mapped[int]
    bundle_time: Mapped[dt.datetime]
    # Counts rebuilds from the keys; what was issued before the last one is unknown here.
    epoch: Mapped[int] = mapped_column(default=1, server_default="1")
    # Services whose certificate is older renew it now.
    services_renew_before: Mapped[dt.datetime | None] = mapped_column(default=None)


class Authority(Base):
    """One generation of one authority; the key lies in custody under `key_name`."""

    __tablename__ = "authorities"
    __table_args__ = (sa.UniqueConstraint("kind", "generation"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    kind: Mapped[str]
    generation: Mapped[int]
    state: Mapped[str]
    key_name: Mapped[str]
    certificate_pem: Mapped[bytes] = mapped_column(sa.LargeBinary(16_384))
    create_time: Mapped[dt.datetime]
    # Of the parent authority that signed it; its own for a root.
    signed_by_generation: Mapped[int] = mapped_column(default=1, server_default="1")
    # Of a root: its key, certified by the root before it.
    cross_certificate_pem: Mapped[bytes | None] = mapped_column(
        sa.LargeBinary(16_384), default=None
    )
    # Since when it is in its state.
    state_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class Rotation(Base):
    """One rotation; a worker that holds its lease moves it from phase to phase."""

    __tablename__ = "rotations"
    __table_args__ = (sa.UniqueConstraint("request_id"),)

    number: Mapped[int] = mapped_column(primary_key=True, init=False)
    request_id: Mapped[str]
    kind: Mapped[str]
    # Name of the authority asked for; empty where none is rotated.
    authority: Mapped[str]
    # [{"kind", "old", "new"}], parents first; "new" is 0 before its key is made.
    authorities: Mapped[list[dict[str, Any]]] = mapped_column(sa.JSON)
    # Of LEAF: the instances meant. Of others, between switch and re-issue: who renews first.
    instance_ids: Mapped[list[str]] = mapped_column(sa.JSON)
    phase: Mapped[str]
    phase_time: Mapped[dt.datetime]
    is_automatic: Mapped[bool]
    actor: Mapped[str]
    reason: Mapped[str]
    create_time: Mapped[dt.datetime]
    spread_seconds: Mapped[int | None] = mapped_column(default=None)
    is_paused: Mapped[bool] = mapped_column(default=False)
    pause_reason: Mapped[str] = mapped_column(default="")
    # The phase an operator has consented to; the worker goes there.
    consented_phase: Mapped[str | None] = mapped_column(default=None)
    stranded_ids: Mapped[list[str]] = mapped_column(sa.JSON, default_factory=list)
    # Bundle version that holds the new generations.
    bundle_version: Mapped[int | None] = mapped_column(default=None)
    switch_time: Mapped[dt.datetime | None] = mapped_column(default=None)
    window_start: Mapped[dt.datetime | None] = mapped_column(default=None)
    window_end: Mapped[dt.datetime | None] = mapped_column(default=None)
    renewals: Mapped[int] = mapped_column(default=0)
    errors: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str] = mapped_column(default="")
    lease_until: Mapped[dt.datetime | None] = mapped_column(default=None)
    lease_fence: Mapped[int] = mapped_column(default=0)


class Service(Base):
    """A control-plane service as the issuer saw it last."""

    __tablename__ = "services"

    name: Mapped[str] = mapped_column(primary_key=True)  # SPIFFE ID
    serial: Mapped[str]
    held_bundle_version: Mapped[int]
    last_seen_time: Mapped[dt.datetime]


class FederatedBundle(Base):
    """What an operator trusts of another trust domain."""

    __tablename__ = "federated_bundles"

    trust_domain: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int]
    root_pems: Mapped[list[str]] = mapped_column(sa.JSON)
    endpoint_url: Mapped[str]
    pin: Mapped[str]
    refresh_time: Mapped[dt.datetime]


class Checkpoint(Base):
    """A signed statement about the audit chain; a copy lies outside of this database."""

    __tablename__ = "checkpoints"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hash: Mapped[str]
    create_time: Mapped[str]  # as signed
    epoch: Mapped[int]
    signature: Mapped[bytes] = mapped_column(sa.LargeBinary(1024))


class Subject(Base):
    """An instance the issuer may sign for, as the flow steps told it."""

    __tablename__ = "subjects"

    instance_id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    state: Mapped[str]
    enrol_epoch: Mapped[int]
    engine_dns_names: Mapped[list[str]] = mapped_column(sa.JSON)
    engine_ip_addresses: Mapped[list[str]] = mapped_column(sa.JSON)
    create_time: Mapped[dt.datetime]
    retire_time: Mapped[dt.datetime | None] = mapped_column(default=None)
    # As its gateways told last; for rotations and operators, never for a decision of identity.
    is_online: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    gateway_id: Mapped[str] = mapped_column(default="", server_default="")
    last_seen_time: Mapped[dt.datetime | None] = mapped_column(default=None)
    seen_serial: Mapped[str] = mapped_column(default="", server_default="")
    engine_serial: Mapped[str] = mapped_column(default="", server_default="")
    held_bundle_version: Mapped[int] = mapped_column(default=0, server_default="0")
    clock_skew_ms: Mapped[int | None] = mapped_column(default=None)
    # While set, nothing is issued to it.
    quarantine_time: Mapped[dt.datetime | None] = mapped_column(default=None)
    quarantine_reason: Mapped[str] = mapped_column(default="", server_default="")
    # Recovery is open until then, however long ago its certificate expired.
    recovery_until_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class Token(Base):
    """A one-time enrolment token; of its secret only the SHA-256 is here."""

    __tablename__ = "tokens"
    __table_args__ = (
        sa.UniqueConstraint("lookup"),
        sa.Index(None, "instance_id"),
    )

    token_id: Mapped[str] = mapped_column(primary_key=True)  # public, for records
    lookup: Mapped[str]  # part of the token: who knows it could burn it
    secret_hash: Mapped[bytes] = mapped_column(_HASH)
    instance_id: Mapped[str]
    actor: Mapped[str]
    create_time: Mapped[dt.datetime]
    expire_time: Mapped[dt.datetime]
    attempts: Mapped[int] = mapped_column(default=0)  # that failed
    void_time: Mapped[dt.datetime | None] = mapped_column(default=None)
    used_at: Mapped[dt.datetime | None] = mapped_column(default=None)
    used_by_key: Mapped[str | None] = mapped_column(default=None)


class Certificate(Base):
    """One issued leaf. A key has one certificate, whoever asks."""

    __tablename__ = "certificates"
    __table_args__ = (
        sa.UniqueConstraint("serial"),
        sa.UniqueConstraint("key_hash"),
        sa.Index(None, "instance_id", "kind", "state"),
        sa.Index(None, "kind", "generation", "state"),
    )

    number: Mapped[int] = mapped_column(primary_key=True, init=False)
    serial: Mapped[str]
    key_hash: Mapped[str]
    kind: Mapped[str]
    generation: Mapped[int]
    name: Mapped[str]  # SPIFFE ID, or engine/<instance>
    state: Mapped[str]
    chain_pem: Mapped[bytes] = mapped_column(sa.LargeBinary(16_384))
    issue_time: Mapped[dt.datetime]
    expire_time: Mapped[dt.datetime]
    instance_id: Mapped[str | None] = mapped_column(default=None)
    enrol_epoch: Mapped[int | None] = mapped_column(default=None)
    replaces: Mapped[str | None] = mapped_column(default=None)  # serial
    confirm_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class Denial(Base):
    """One refusal of identity, in the order gateways must learn of it."""

    __tablename__ = "denials"
    __table_args__ = (
        sa.UniqueConstraint("sequence"),
        sa.UniqueConstraint("kind", "value"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    sequence: Mapped[int]
    kind: Mapped[str]
    value: Mapped[str]
    reason: Mapped[str]
    create_time: Mapped[dt.datetime]
    effective_time: Mapped[dt.datetime]
    expire_time: Mapped[dt.datetime | None] = mapped_column(default=None)


class AuditRecord(Base):
    """Who did what; each row carries the hash of the one before."""

    __tablename__ = "audit"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    time: Mapped[str]  # as hashed: text has one form on every engine
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[str] = mapped_column(sa.Text)
    previous_hash: Mapped[str]
    hash: Mapped[str]
