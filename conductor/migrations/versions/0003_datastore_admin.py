"""What administrators say of datastores and versions; their pages of every instance."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"

INSTANT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    for table in ("datastores", "datastore_versions"):
        op.add_column(
            table,
            sa.Column("managed_by", sa.String(32), nullable=False, server_default="SETTINGS"),
        )
        op.add_column(table, sa.Column("delete_time", INSTANT, nullable=True))
    for name, kind, default in (
        ("manager", sa.String(32), ""),
        ("image_id", sa.String(255), ""),
        ("image_tags", sa.JSON(), "[]"),
        ("packages", sa.JSON(), "[]"),
        ("registry_ext", sa.String(255), ""),
        ("repl_strategy", sa.String(255), ""),
    ):
        op.add_column(
            "datastore_versions", sa.Column(name, kind, nullable=False, server_default=default)
        )
    op.execute(
        "UPDATE datastore_versions SET manager = (SELECT datastores.manager FROM datastores "
        "WHERE datastores.id = datastore_versions.datastore_id)"
    )
    op.create_index(op.f("ix_instances_create_time_id"), "instances", ["create_time", "id"])
