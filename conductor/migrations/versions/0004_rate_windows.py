"""What API processes were leased of tenants' rates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"

INSTANT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "rate_windows",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("rate", sa.String(length=32), nullable=False),
        sa.Column("leases", sa.JSON(), nullable=False),
        sa.Column("spent", sa.JSON(), nullable=False),
        sa.Column("update_time", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "rate", name=op.f("pk_rate_windows")),
    )
    op.create_index(op.f("ix_rate_windows_update_time"), "rate_windows", ["update_time"])


def downgrade() -> None:
    op.drop_table("rate_windows")
