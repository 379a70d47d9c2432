"""The first tables: instances, operations, guests, datastores, quotas, backups."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

# As conductor.models.Instant was when this was written; a migration follows no later change.
INSTANT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

SEALED = sa.LargeBinary(length=4194304).with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "create_requests",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("operation_id", sa.String(length=36), nullable=False),
        sa.Column("create_time", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "request_id", name=op.f("pk_create_requests")),
    )
    op.create_index(op.f("ix_create_requests_create_time"), "create_requests", ["create_time"])

    op.create_table(
        "datastores",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("manager", sa.String(length=32), nullable=False),
        sa.Column("port", sa.BigInteger(), nullable=False),
        sa.Column("default_version_id", sa.String(length=36), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datastores")),
        sa.UniqueConstraint("name", name=op.f("uq_datastores_name")),
    )
    op.create_table(
        "gateways",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("incarnation", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=255), nullable=False),
        sa.Column("lease_expire_time", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gateways")),
    )
    op.create_table(
        "guest_presence",
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("session_epoch", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("engine_state", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.String(length=1024), nullable=False),
        sa.Column("engine_version", sa.String(length=64), nullable=False),
        sa.Column("start_count", sa.BigInteger(), nullable=False),
        sa.Column("volume_total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("volume_used_bytes", sa.BigInteger(), nullable=False),
        sa.Column("last_report_time", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_guest_presence")),
    )
    op.create_table(
        "guest_reports",
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("report_id", sa.String(length=128), nullable=False),
        sa.Column("apply_time", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("instance_id", "report_id", name=op.f("pk_guest_reports")),
    )
    op.create_index(op.f("ix_guest_reports_apply_time"), "guest_reports", ["apply_time"])

    op.create_table(
        "quota_usages",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=32), nullable=False),
        sa.Column("in_use", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "resource", name=op.f("pk_quota_usages")),
    )
    op.create_table(
        "quotas",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("resource", sa.String(length=32), nullable=False),
        sa.Column("hard_limit", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "resource", name=op.f("pk_quotas")),
    )
    op.create_table(
        "topologies",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("create_time", INSTANT, nullable=False),
        sa.Column("delete_time", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_topologies")),
    )
    op.create_index(op.f("ix_topologies_tenant_id"), "topologies", ["tenant_id"])

    op.create_table(
        "datastore_versions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("datastore_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["datastore_id"], ["datastores.id"], name=op.f("fk_datastore_versions_datastore_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datastore_versions")),
        sa.UniqueConstraint(
            "datastore_id",
            "name",
            "version",
            name=op.f("uq_datastore_versions_datastore_id_name_version"),
        ),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("task", sa.String(length=32), nullable=False),
        sa.Column("datastore_version_id", sa.String(length=36), nullable=False),
        sa.Column("flavor_id", sa.String(length=255), nullable=False),
        sa.Column("flavor_name", sa.String(length=255), nullable=False),
        sa.Column("flavor_ram_mib", sa.BigInteger(), nullable=False),
        sa.Column("flavor_vcpus", sa.BigInteger(), nullable=False),
        sa.Column("flavor_disk_gib", sa.BigInteger(), nullable=False),
        sa.Column("volume_size_gib", sa.BigInteger(), nullable=False),
        sa.Column("volume_type", sa.String(length=255), nullable=False),
        sa.Column("region", sa.String(length=255), nullable=False),
        sa.Column("availability_zone", sa.String(length=255), nullable=False),
        sa.Column("is_public", sa.Boolean(), nullable=False),
        sa.Column("allowed_cidrs", sa.JSON(), nullable=False),
        sa.Column("databases", sa.JSON(), nullable=False),
        sa.Column("create_time", INSTANT, nullable=False),
        sa.Column("update_time", INSTANT, nullable=False),
        sa.Column("last_operation_id", sa.String(length=36), nullable=False),
        sa.Column("compute_id", sa.String(length=255), nullable=False),
        sa.Column("addresses", sa.JSON(), nullable=False),
        sa.Column("dns_names", sa.JSON(), nullable=False),
        sa.Column("fault_message", sa.Text(), nullable=False),
        sa.Column("fault_details", sa.Text(), nullable=False),
        sa.Column("fault_time", INSTANT, nullable=True),
        sa.Column("delete_time", INSTANT, nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("row_version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["datastore_version_id"],
            ["datastore_versions.id"],
            name=op.f("fk_instances_datastore_version_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
    )
    op.create_index(
        op.f("ix_instances_tenant_id_delete_time_id"),
        "instances",
        ["tenant_id", "delete_time", "id"],
    )

    op.create_table(
        "backups",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("create_time", INSTANT, nullable=False),
        sa.Column("update_time", INSTANT, nullable=False),
        sa.Column("description", sa.String(length=512), nullable=False),
        sa.Column("parent_id", sa.String(length=36), nullable=True),
        sa.Column("location", sa.String(length=1024), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.String(length=1024), nullable=False),
        sa.Column("delete_time", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_backups_instance_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backups")),
    )
    op.create_index(op.f("ix_backups_instance_id_state"), "backups", ["instance_id", "state"])
    op.create_index(op.f("ix_backups_tenant_id"), "backups", ["tenant_id"])

    op.create_table(
        "guest_sessions",
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("session_epoch", sa.BigInteger(), nullable=False),
        sa.Column("gateway_id", sa.String(length=255), nullable=False),
        sa.Column("incarnation", sa.String(length=64), nullable=False),
        sa.Column("certificate_serial", sa.String(length=64), nullable=False),
        sa.Column("boot_id", sa.String(length=255), nullable=False),
        sa.Column("agent_version", sa.String(length=64), nullable=False),
        sa.Column("open_time", INSTANT, nullable=True),
        sa.Column("close_time", INSTANT, nullable=True),
        sa.Column("close_reason", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_guest_sessions_instance_id")
        ),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_guest_sessions")),
    )
    op.create_table(
        "members",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("topology_id", sa.String(length=36), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_members_instance_id")
        ),
        sa.ForeignKeyConstraint(
            ["topology_id"], ["topologies.id"], name=op.f("fk_members_topology_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_members")),
        sa.UniqueConstraint("instance_id", name=op.f("uq_members_instance_id")),
    )
    op.create_index(op.f("ix_members_topology_id"), "members", ["topology_id"])

    op.create_table(
        "operations",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("request_id", sa.String(length=255), nullable=False),
        sa.Column("create_time", INSTANT, nullable=False),
        sa.Column("fault_message", sa.Text(), nullable=False),
        sa.Column("fault_details", sa.Text(), nullable=False),
        sa.Column("fault_time", INSTANT, nullable=True),
        sa.Column("end_time", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_operations_instance_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index(
        op.f("ix_operations_end_time_create_time_id"),
        "operations",
        ["end_time", "create_time", "id"],
    )
    op.create_index(
        op.f("ix_operations_instance_id_create_time_id"),
        "operations",
        ["instance_id", "create_time", "id"],
    )
    op.create_index(
        op.f("ix_operations_tenant_id_create_time_id"),
        "operations",
        ["tenant_id", "create_time", "id"],
    )

    op.create_table(
        "quota_reservations",
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("resource", sa.String(length=32), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("is_committed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_quota_reservations_instance_id")
        ),
        sa.PrimaryKeyConstraint("instance_id", "resource", name=op.f("pk_quota_reservations")),
    )
    op.create_table(
        "operation_secrets",
        sa.Column("operation_id", sa.String(length=36), nullable=False),
        sa.Column("sealed", SEALED, nullable=False),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_operation_secrets_operation_id")
        ),
        sa.PrimaryKeyConstraint("operation_id", name=op.f("pk_operation_secrets")),
    )
    op.create_table(
        "operation_steps",
        sa.Column("operation_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("start_time", INSTANT, nullable=False),
        sa.Column("end_time", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name=op.f("fk_operation_steps_operation_id")
        ),
        sa.PrimaryKeyConstraint("operation_id", "name", name=op.f("pk_operation_steps")),
    )


def downgrade() -> None:
    for table in (
        "operation_steps",
        "operation_secrets",
        "quota_reservations",
        "operations",
        "members",
        "guest_sessions",
        "backups",
        "instances",
        "datastore_versions",
        "topologies",
        "quotas",
        "quota_usages",
        "guest_reports",
        "guest_presence",
        "gateways",
        "datastores",
        "create_requests",
    ):
        op.drop_table(table)
