"""Rotations, what holders hold, checkpoints of the audit, other trust domains."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"

_TEXT = sa.String(255)
_TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for table, column in (
        ("domains", sa.Column("epoch", _INTEGER, nullable=False, server_default="1")),
        ("domains", sa.Column("services_renew_before", _TIME, nullable=True)),
        (
            "authorities",
            sa.Column("signed_by_generation", _INTEGER, nullable=False, server_default="1"),
        ),
        ("authorities", sa.Column("cross_certificate_pem", sa.LargeBinary(16_384))),
        ("authorities", sa.Column("state_time", _TIME, nullable=True)),
        (
            "subjects",
            sa.Column("is_online", sa.Boolean(), nullable=False, server_default=sa.false()),
        ),
        ("subjects", sa.Column("gateway_id", _TEXT, nullable=False, server_default="")),
        ("subjects", sa.Column("last_seen_time", _TIME, nullable=True)),
        ("subjects", sa.Column("seen_serial", _TEXT, nullable=False, server_default="")),
        ("subjects", sa.Column("engine_serial", _TEXT, nullable=False, server_default="")),
        (
            "subjects",
            sa.Column("held_bundle_version", _INTEGER, nullable=False, server_default="0"),
        ),
        ("subjects", sa.Column("clock_skew_ms", _INTEGER, nullable=True)),
        ("subjects", sa.Column("quarantine_time", _TIME, nullable=True)),
        ("subjects", sa.Column("quarantine_reason", _TEXT, nullable=False, server_default="")),
        ("subjects", sa.Column("recovery_until_time", _TIME, nullable=True)),
    ):
        op.add_column(table, column)
    op.create_index(
        "ix_certificates_kind_generation_state", "certificates", ["kind", "generation", "state"]
    )
    op.create_table(
        "rotations",
        sa.Column("number", _INTEGER, nullable=False),
        sa.Column("request_id", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("authority", _TEXT, nullable=False),
        sa.Column("authorities", sa.JSON(), nullable=False),
        sa.Column("instance_ids", sa.JSON(), nullable=False),
        sa.Column("phase", _TEXT, nullable=False),
        sa.Column("phase_time", _TIME, nullable=False),
        sa.Column("is_automatic", sa.Boolean(), nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("reason", _TEXT, nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("spread_seconds", _INTEGER, nullable=True),
        sa.Column("is_paused", sa.Boolean(), nullable=False),
        sa.Column("pause_reason", _TEXT, nullable=False),
        sa.Column("consented_phase", _TEXT, nullable=True),
        sa.Column("stranded_ids", sa.JSON(), nullable=False),
        sa.Column("bundle_version", _INTEGER, nullable=True),
        sa.Column("switch_time", _TIME, nullable=True),
        sa.Column("window_start", _TIME, nullable=True),
        sa.Column("window_end", _TIME, nullable=True),
        sa.Column("renewals", _INTEGER, nullable=False),
        sa.Column("errors", _INTEGER, nullable=False),
        sa.Column("lease_owner", _TEXT, nullable=False),
        sa.Column("lease_until", _TIME, nullable=True),
        sa.Column("lease_fence", _INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_rotations")),
        sa.UniqueConstraint("request_id", name=op.f("uq_rotations_request_id")),
    )
    op.create_table(
        "services",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("serial", _TEXT, nullable=False),
        sa.Column("held_bundle_version", _INTEGER, nullable=False),
        sa.Column("last_seen_time", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_services")),
    )
    op.create_table(
        "federated_bundles",
        sa.Column("trust_domain", _TEXT, nullable=False),
        sa.Column("sequence", _INTEGER, nullable=False),
        sa.Column("root_pems", sa.JSON(), nullable=False),
        sa.Column("endpoint_url", _TEXT, nullable=False),
        sa.Column("pin", _TEXT, nullable=False),
        sa.Column("refresh_time", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("trust_domain", name=op.f("pk_federated_bundles")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("sequence", _INTEGER, autoincrement=False, nullable=False),
        sa.Column("hash", _TEXT, nullable=False),
        sa.Column("create_time", _TEXT, nullable=False),
        sa.Column("epoch", _INTEGER, nullable=False),
        sa.Column("signature", sa.LargeBinary(1024), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_checkpoints")),
    )
