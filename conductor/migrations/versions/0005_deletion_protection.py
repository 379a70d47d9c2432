"""Instances that refuse to be deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # With a default of the server's: a conductor of the release before writes rows without it.
    op.add_column(
        "instances",
        sa.Column("deletion_protection", sa.Boolean(), nullable=False, server_default=sa.false()),
    )


def downgrade() -> None:
    op.drop_column("instances", "deletion_protection")
