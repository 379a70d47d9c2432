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
