"""Configuration groups, the parameters that may stand in them, and which instances have them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0008"
down_revision = "0007"

INSTANT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "configuration_parameters",
        sa.Column("datastore_version_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("restart_required", sa.Boolean(), nullable=False),
        sa.Column("min_value", sa.BigInteger(), nullable=True),
        sa.Column("max_value", sa.BigInteger(), nullable=True),
        sa.Column("is_removed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["datastore_version_id"],
            ["datastore_versions.id"],
            name=op.f("fk_configuration_parameters_datastore_version_id"),
        ),
        sa.PrimaryKeyConstraint(
            "datastore_version_id", "name", name=op.f("pk_configuration_parameters")
        ),
    )
    op.create_table(
        "configurations",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("datastore_version_id", sa.String(length=36), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("create_time", INSTANT, nullable=False),
        sa.Column("update_time", INSTANT, nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["datastore_version_id"],
            ["datastore_versions.id"],
            name=op.f("fk_configurations_datastore_version_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_configurations")),
    )
    op.create_index(op.f("ix_configurations_tenant_id_id"), "configurations", ["tenant_id", "id"])
    op.create_table(
        "instance_configurations",
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("configuration_id", sa.String(length=36), nullable=True),
        sa.Column("is_applied", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_instance_configurations_instance_id")
        ),
        sa.ForeignKeyConstraint(
            ["configuration_id"],
            ["configurations.id"],
            name=op.f("fk_instance_configurations_configuration_id"),
        ),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_instance_configurations")),
    )
    op.create_index(
        op.f("ix_instance_configurations_configuration_id"),
        "instance_configurations",
        ["configuration_id"],
    )


def downgrade() -> None:
    op.drop_table("instance_configurations")
    op.drop_table("configurations")
    op.drop_table("configuration_parameters")
