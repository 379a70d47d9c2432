"""The rules where the policy file says nothing: Trove's, and ours for what Trove does not name.

As in Trove a project's readers may do what its members may; an operator who wants them to read
only says so in the policy file (docs/how-to/keystone.md).
"""

from __future__ import annotations

from collections.abc import Iterator

ADMIN = "admin"
OWNER = "admin_or_owner"
# Below /mgmt, where Trove has no rule but asks for an administrator.
MANAGEMENT = "mgmt"

_BASE = {
    ADMIN: "role:admin or is_admin:True",
    OWNER: "rule:admin or project_id:%(tenant)s",
}

# Names by prefix.
_OWNERS = {
    "instance": (
        "create delete force_delete index detail show update edit restart resize_volume "
        "resize_flavor promote_to_replica_source eject_replica_source configuration "
        "guest_log_list backups module_list module_apply module_remove"
    ),
    "instance:extension:user": "create delete index show update update_all",
    "instance:extension:user_access": "update delete index",
    "instance:extension:database": "create delete index show",
    "instance:extension:root": "create delete index",
    "cluster": "create delete force_delete index show show_instance action",
    "cluster:extension:root": "create delete index",
    "backup": "create delete index show",
    "backup_strategy": "create index delete",
    "configuration": "create delete index show instances update edit",
    "configuration-parameter": "index show index_by_version show_by_version",
    "module": "create delete index show instances update reapply",
    "limits": "index",
    # Trove has no names for these.
    "instance:guest_log": "action",
    "instance:ssl": "index create delete",
    "operation": "index show",
    "quota": "show",
}
_ADMINS = {
    "instance": "reset_status",
    "cluster": "reset-status",
    "datastore": "delete",
    "backup:index": "all_projects",
}
_ANYBODY = {
    "datastore": (
        "index show version_show version_show_by_uuid version_index list_associated_flavors "
        "list_associated_volume_types"
    ),
    "flavor": "index show",
}


def rules() -> dict[str, str]:
    """Every rule there is, by name."""
    return {
        **_BASE,
        MANAGEMENT: f"rule:{ADMIN}",
        **dict.fromkeys(_names(_OWNERS), f"rule:{OWNER}"),
        **dict.fromkeys(_names(_ADMINS), f"rule:{ADMIN}"),
        # Empty: whoever has a token of the project in the path.
        **dict.fromkeys(_names(_ANYBODY), ""),
    }


def _names(groups: dict[str, str]) -> Iterator[str]:
    for prefix, verbs in groups.items():
        for verb in verbs.split():
            yield f"{prefix}:{verb}"
