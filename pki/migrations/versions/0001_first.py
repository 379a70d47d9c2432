"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_TEXT = sa.String(255)
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_HASH = sa.LargeBinary(length=32).with_variant(mysql.TINYBLOB(), "mysql", "mariadb")
_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column(
            "sequence",
            _INTEGER,
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("time", _TEXT, nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("action", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous_hash", _TEXT, nullable=False),
        sa.Column("hash", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit")),
    )
    op.create_table(
        "authorities",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("generation", _INTEGER, nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("key_name", _TEXT, nullable=False),
        sa.Column("certificate_pem", sa.LargeBinary(length=16384), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authorities")),
        sa.UniqueConstraint("kind", "generation", name=op.f("uq_authorities_kind_generation")),
    )
    op.create_table(
        "certificates",
        sa.Column("number", _INTEGER, nullable=False),
        sa.Column("serial", _TEXT, nullable=False),
        sa.Column("key_hash", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("generation", _INTEGER, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("chain_pem", sa.LargeBinary(length=16384), nullable=False),
        sa.Column("issue_time", _TIME, nullable=False),
        sa.Column("expire_time", _TIME, nullable=False),
        sa.Column("instance_id", _TEXT, nullable=True),
        sa.Column("enrol_epoch", _INTEGER, nullable=True),
        sa.Column("replaces", _TEXT, nullable=True),
        sa.Column("confirm_time", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_certificates")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_certificates_key_hash")),
        sa.UniqueConstraint("serial", name=op.f("uq_certificates_serial")),
    )
    op.create_index(
        "ix_certificates_instance_id_kind_state", "certificates", ["instance_id", "kind", "state"]
    )

    op.create_table(
        "counters",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("value", _INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "denials",
        sa.Column("id", _INTEGER, nullable=False),
        sa.Column("sequence", _INTEGER, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("value", _TEXT, nullable=False),
        sa.Column("reason", _TEXT, nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("effective_time", _TIME, nullable=False),
        sa.Column("expire_time", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_denials")),
        sa.UniqueConstraint("kind", "value", name=op.f("uq_denials_kind_value")),
        sa.UniqueConstraint("sequence", name=op.f("uq_denials_sequence")),
    )
    op.create_table(
        "domains",
        sa.Column("trust_domain", _TEXT, nullable=False),
        sa.Column("bundle_version", _INTEGER, nullable=False),
        sa.Column("bundle_time", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("trust_domain", name=op.f("pk_domains")),
    )
    op.create_table(
        "subjects",
        sa.Column("instance_id", _TEXT, nullable=False),
        sa.Column("tenant_id", _TEXT, nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("enrol_epoch", _INTEGER, nullable=False),
        sa.Column("engine_dns_names", sa.JSON(), nullable=False),
        sa.Column("engine_ip_addresses", sa.JSON(), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("retire_time", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_subjects")),
    )
    op.create_table(
        "tokens",
        sa.Column("token_id", _TEXT, nullable=False),
        sa.Column("lookup", _TEXT, nullable=False),
        sa.Column("secret_hash", _HASH, nullable=False),
        sa.Column("instance_id", _TEXT, nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("expire_time", _TIME, nullable=False),
        sa.Column("attempts", _INTEGER, nullable=False),
        sa.Column("void_time", _TIME, nullable=True),
        sa.Column("used_at", _TIME, nullable=True),
        sa.Column("used_by_key", _TEXT, nullable=True),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("lookup", name=op.f("uq_tokens_lookup")),
    )
    op.create_index("ix_tokens_instance_id", "tokens", ["instance_id"])
