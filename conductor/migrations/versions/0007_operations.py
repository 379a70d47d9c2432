"""What an operation is to arrive at, and what it holds of the quota until then."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("operations", sa.Column("target", sa.JSON(), nullable=True))
    op.create_table(
        "operation_reservations",
        sa.Column("operation_id", sa.String(length=36), nullable=False),
        sa.Column("resource", sa.String(length=32), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["operation_id"],
            ["operations.id"],
            name=op.f("fk_operation_reservations_operation_id"),
        ),
        sa.PrimaryKeyConstraint(
            "operation_id", "resource", name=op.f("pk_operation_reservations")
        ),
    )


def downgrade() -> None:
    op.drop_table("operation_reservations")
    op.drop_column("operations", "target")
