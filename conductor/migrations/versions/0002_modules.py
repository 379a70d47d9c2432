"""Modules, and which instances have them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"

INSTANT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
SEALED = sa.LargeBinary(length=4194304).with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "modules",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("scope", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("sealed_contents", SEALED, nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=False),
        sa.Column("create_time", INSTANT, nullable=False),
        sa.Column("update_time", INSTANT, nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=True),
        sa.Column("datastore_id", sa.String(length=36), nullable=True),
        sa.Column("datastore_version_id", sa.String(length=36), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("auto_apply", sa.Boolean(), nullable=False),
        sa.Column("is_visible", sa.Boolean(), nullable=False),
        sa.Column("live_update", sa.Boolean(), nullable=False),
        sa.Column("priority_apply", sa.Boolean(), nullable=False),
        sa.Column("apply_order", sa.BigInteger(), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("row_version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["datastore_id"], ["datastores.id"], name=op.f("fk_modules_datastore_id")
        ),
        sa.ForeignKeyConstraint(
            ["datastore_version_id"],
            ["datastore_versions.id"],
            name=op.f("fk_modules_datastore_version_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_modules")),
        sa.UniqueConstraint("scope", "type", "name", name=op.f("uq_modules_scope_type_name")),
    )
    op.create_index(op.f("ix_modules_tenant_id"), "modules", ["tenant_id"])
    op.create_table(
        "instance_modules",
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("module_id", sa.String(length=36), nullable=False),
        sa.Column("md5", sa.String(length=32), nullable=False),
        sa.Column("apply_time", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_instance_modules_instance_id")
        ),
        sa.ForeignKeyConstraint(
            ["module_id"], ["modules.id"], name=op.f("fk_instance_modules_module_id")
        ),
        sa.PrimaryKeyConstraint("instance_id", "module_id", name=op.f("pk_instance_modules")),
    )
    op.create_index(op.f("ix_instance_modules_module_id"), "instance_modules", ["module_id"])


def downgrade() -> None:
    op.drop_table("instance_modules")
    op.drop_table("modules")
