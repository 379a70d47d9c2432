"""What administrators alone may do over REST, and what their word is worth."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, removed

_REST = "tests/integration/gateway_rest"
_MANAGEMENT = f"{_REST}/test_management.py"
_ACTIONS = f"{_REST}/test_actions.py"
_VERSIONS = f"{_REST}/test_datastore_administration.py"
# On the database that needs no server.
_STORE = (
    "tests/integration/conductor/test_datastore_administration.py "
    "-k 'not postgresql and not mariadb'"
)
_ADMINISTRATION = "conductor/store/datastore_administration.py"

MUTATIONS: tuple[Mutation, ...] = (
    removed(
        "management is for administrators",
        "gateway/rest/admin.py",
        "    if not call.caller.is_admin:\n",
        f"{_REST}/test_keystone.py -k no_policy_file_opens_management",
        new="    if call.caller is None:\n",
    ),
    removed(
        "datastores are deleted by administrators",
        "gateway/rest/policy/defaults.py",
        '**dict.fromkeys(_names(_ADMINS), f"rule:{ADMIN}")',
        _VERSIONS,
        new='**dict.fromkeys(_names(_ADMINS), f"rule:{OWNER}")',
    ),
    removed(
        "an administrator alone reads another project's instance",
        "gateway/rest/routes/instances.py",
        "        if call.caller.is_admin:  # of whichever project it is\n",
        _MANAGEMENT,
        new="        if call.caller:\n",
    ),
    removed(
        "an administrator alone resets an instance's status",
        "gateway/rest/routes/actions.py",
        "        if not call.caller.is_admin:\n            rule =",
        _ACTIONS,
        new="        if call.caller is None:\n            rule =",
    ),
    removed(
        "an owner's action is on an instance of the owner's project",
        "conductor/store/actions.py",
        '        tenant_id="" if action.any_tenant else action.request.tenant_id,\n',
        "tests/integration/conductor/test_actions.py -k 'not postgresql and not mariadb'",
        new='        tenant_id="",\n',
    ),
    removed(
        "inactive versions are hidden from tenants",
        "gateway/rest/routes/catalog.py",
        "        if call.caller.is_admin:\n            return await",
        _VERSIONS,
        new="        if call.caller:\n            return await",
    ),
    removed(
        "a version in use stays",
        _ADMINISTRATION,
        '(("instance", _LIVING_INSTANCE), ("backup", _LIVING_BACKUP))',
        _STORE,
        new='(("backup", _LIVING_BACKUP),)',
    ),
    removed(
        "the settings leave alone what an administrator changed",
        "conductor/store/datastores.py",
        "    if row.managed_by == ManagedBy.SETTINGS:\n",
        _STORE,
        new="    if row.managed_by:\n",
    ),
    removed(
        "the settings leave alone what an administrator made",
        "conductor/store/datastores.py",
        "not_in(kept), DatastoreVersion.managed_by == ManagedBy.SETTINGS)",
        _STORE,
        new="not_in(kept))",
    ),
)
