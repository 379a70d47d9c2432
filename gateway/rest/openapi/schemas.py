"""JSON schemas of what is sent and answered.

They describe; `fields` and its users validate. A schema of a request may allow more than they do,
never less, and bounds come from the same constants: tests/integration/gateway_rest/test_openapi.py
replays every recorded body against both. Answers may have more keys than are named here.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.rest import accounts, new_instance
from gateway.rest.fields import MAX_TEXT
from gateway.rest.links import Json

Schema = dict[str, Json]

_NUMBER_AS_TEXT = r"^0*[1-9][0-9]*$"


def _text(*, longest: int = MAX_TEXT, least: int = 0) -> Schema:
    return {"type": "string", "minLength": least, "maxLength": longest}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _positive(*, most: int | None = None) -> Schema:
    """A number of at least 1, or one as decimal digits."""
    number: Schema = {"type": "integer", "minimum": 1}
    return {
        "anyOf": [
            number if most is None else number | {"maximum": most},
            {"type": "string", "pattern": _NUMBER_AS_TEXT, "maxLength": 40},
        ]
    }


def _array(items: Schema, *, most: int | None = None) -> Schema:
    schema: Schema = {"type": "array", "items": items}
    return schema if most is None else schema | {"maxItems": most}


def _object(
    required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None
) -> Schema:
    schema: Schema = {"type": "object", "properties": {**required, **(optional or {})}}
    return schema | {"required": list(required)} if required else schema


def _under(root: str, schema: Schema) -> Schema:
    return _object({root: schema})


def _closed(schema: Schema) -> Schema:
    return schema | {"additionalProperties": False}


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}
_BOOLEAN: Schema = {"type": "boolean"}
_NAMED = _object({"name": _text(least=1)})
_MOMENT: Schema = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$"}
_LINKS = _array(_object({"href": _STRING, "rel": _STRING}))
_PAGES = {"links": _LINKS}

_ACCESS = _object(
    {}, {"is_public": _BOOLEAN, "allowed_cidrs": _array(_STRING, most=new_instance.MAX_CIDRS)}
)
_NEW_DATABASE = _object(
    {"name": _text(least=1)},
    {"character_set": _nullable(_text()), "collate": _nullable(_text())},
)
_NEW_USER = _object(
    {"name": _text(least=1), "password": _text(least=1)},
    {
        "host": _nullable(_text()),
        "databases": _array(_NAMED, most=accounts.MAX_DATABASES),
    },
)
_USER = _object({"name": _STRING, "host": _STRING, "databases": _array(_NAMED)})
_NEW_INSTANCE = _object(
    {"name": _text(least=1)},
    {
        "flavorRef": {"type": ["string", "integer", "null"]},
        # What openstacksdk sends in its place.
        "flavor": {},
        "volume": _object({"size": _positive()}, {"type": _nullable(_text())}),
        "datastore": _object(
            {},
            {
                "type": _nullable(_text()),
                "version": _nullable(_text()),
                "version_number": _nullable(_text()),
            },
        ),
        "databases": _array(_NEW_DATABASE, most=accounts.MAX_DATABASES),
        "users": _array(_NEW_USER, most=accounts.MAX_USERS),
        "access": _ACCESS,
        "availability_zone": _nullable(_text()),
        "region_name": _nullable(_text()),
        "nics": _array(
            _closed(_object({}, {key: _text() for key in new_instance.NIC_KEYS})), most=1
        ),
        "modules": _array({"type": "object"}, most=new_instance.MAX_MODULES),
        "replica_of": _nullable(_text()),
        "replica_count": _positive(most=new_instance.MAX_REPLICAS),
        "locality": {},
        "configuration": _nullable(_text()),
        "restorePoint": {"type": "object"},
        "deletion_protection": _BOOLEAN,
    },
)
_CHANGES: dict[str, Schema] = {
    "name": _text(least=1),
    "replica_of": _nullable(_text()),
    "configuration": _nullable(_text()),
    "datastore_version": _text(),
    "deletion_protection": _BOOLEAN,
}
_MODULE_SWITCHES: dict[str, Schema] = {
    name: {}
    for name in (
        *("auto_apply", "all_tenants", "visible", "live_update", "priority_apply"),
        "full_access",
    )
}
_MODULE_DATASTORE = _object({}, {"type": _nullable(_text()), "version": _nullable(_text())})

_VERSION = _object({"id": _STRING, "name": _STRING, "version": _STRING, "links": _LINKS})
_MANAGED_VERSION = _object(
    {
        "id": _STRING,
        "name": _STRING,
        "version": _STRING,
        "datastore_id": _STRING,
        "datastore_name": _STRING,
        "datastore_manager": _STRING,
        "image": _nullable(_STRING),
        "image_tags": _array(_STRING),
        "packages": _array(_STRING),
        "active": _BOOLEAN,
        "default": _BOOLEAN,
    }
)
_FAULT = _object({"message": _STRING, "created": _MOMENT}, {"details": _STRING})
_INSTANCE = _object(
    {
        "id": _STRING,
        "name": _STRING,
        "status": _STRING,
        "operating_status": _STRING,
        "links": _LINKS,
        "flavor": _object({"id": _STRING, "links": _LINKS}),
        "datastore": _object({"type": _STRING, "version": _STRING}),
        "region": _STRING,
        "access": _ACCESS,
        "volume": _object({"size": _INTEGER}, {"used": {"type": "number"}}),
    },
    {
        "hostname": _STRING,
        "ip": _array(_STRING),
        "addresses": _array(_object({"address": _STRING, "type": _STRING})),
        "created": _MOMENT,
        "updated": _MOMENT,
        "service_status_updated": _MOMENT,
        "operating_status_reason": _STRING,
        "fault": _FAULT,
        "deletion_protection": _BOOLEAN,
        "engine": _object({"state": _STRING, "version": _STRING, "start_count": _INTEGER}),
    },
)
_STEP = _object(
    {"name": _STRING, "state": {"enum": ["RUNNING", "SUCCEEDED", "FAILED", "UNDONE"]}},
    {"started": _MOMENT, "ended": _MOMENT, "detail": _STRING},
)
_OPERATION = _object(
    {
        "id": _STRING,
        "kind": _STRING,
        "instance_id": _STRING,
        "state": {"enum": ["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STUCK"]},
        "created": _MOMENT,
        "steps": _array(_STEP),
        "links": _LINKS,
    },
    {"ended": _MOMENT, "fault": _FAULT},
)
_DATASTORE = _object(
    {"id": _STRING, "name": _STRING, "links": _LINKS, "versions": _array(_VERSION)},
    {"default_version": _STRING},
)
_FLAVOR = _object(
    {
        "id": {"type": ["integer", "null"]},
        "str_id": _STRING,
        "name": _STRING,
        "ram": _INTEGER,
        "vcpus": _INTEGER,
        "disk": _INTEGER,
        "ephemeral": _INTEGER,
        "links": _LINKS,
    }
)
_MODULE = _object(
    {
        "id": _STRING,
        "name": _STRING,
        "type": _STRING,
        "description": _nullable(_STRING),
        "tenant_id": _nullable(_STRING),
        "datastore_id": _nullable(_STRING),
        "datastore_version_id": _nullable(_STRING),
        "auto_apply": _BOOLEAN,
        "priority_apply": _BOOLEAN,
        "apply_order": _INTEGER,
        "is_admin": _BOOLEAN,
        "md5": _STRING,
        "visible": _BOOLEAN,
        "created": _MOMENT,
        "updated": _MOMENT,
    },
    {"live_update": _BOOLEAN, "instance_count": _INTEGER},
)
_QUOTA = _object(
    {"resource": _STRING, "in_use": _INTEGER, "reserved": _INTEGER, "limit": _INTEGER}
)

# Each by the name it has in the document.
SCHEMAS: dict[str, Schema] = {
    "Problem": {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": _object({"code": _INTEGER, "message": _STRING}),
    },
    "InstanceCreate": _under("instance", _NEW_INSTANCE),
    "InstanceReplace": _under("instance", _closed(_object({}, _CHANGES | {"access": _ACCESS}))),
    "InstanceEdit": _under(
        "instance", _closed(_object({}, _CHANGES | {"slave_of": _nullable(_text())}))
    ),
    # Exactly one of them.
    "InstanceAction": _object(
        {},
        {
            "restart": _nullable({"type": "object"}),
            "resize": _object({}, {"volume": {}, "flavorRef": {}}),
            "reset_status": _object({}, {"force_delete": _BOOLEAN}),
            "promote_to_replica_source": {"type": "object"},
            "eject_replica_source": {"type": "object"},
        },
    ),
    "Instance": _under("instance", _INSTANCE),
    "Instances": _object({"instances": _array(_INSTANCE)}, _PAGES),
    "Operation": _under("operation", _OPERATION),
    "Operations": _object({"operations": _array(_OPERATION)}, _PAGES),
    # The singular is openstacksdk's.
    "DatabasesCreate": _object(
        {},
        {
            "databases": _array(_NEW_DATABASE, most=accounts.MAX_DATABASES),
            "database": {},
        },
    ),
    "Databases": _object({"databases": _array(_NAMED)}, _PAGES),
    "UsersCreate": _object({"users": _array(_NEW_USER, most=accounts.MAX_USERS)}),
    "Users": _object({"users": _array(_USER)}, _PAGES),
    "User": _under("user", _USER),
    "UserUpdate": _under(
        "user",
        _object(
            {},
            {
                "name": _nullable(_text()),
                "password": _nullable(_text()),
                "host": _nullable(_text()),
            },
        ),
    ),
    "AccessGrant": _object({"databases": _array(_NAMED, most=accounts.MAX_DATABASES)}),
    "RootEnabled": _object({"rootEnabled": _BOOLEAN}),
    "Root": _under("user", _object({"name": _STRING, "password": _STRING})),
    "ConfigurationCreate": _under(
        "configuration",
        _object(
            {"name": _text(least=1), "values": {"type": "object"}},
            {"description": _nullable({"type": "string"}), "datastore": {"type": "object"}},
        ),
    ),
    "ConfigurationUpdate": _under("configuration", {"type": "object"}),
    "Configuration": _under("configuration", {"type": "object"}),
    "Configurations": _object({"configurations": _array({"type": "object"})}, _PAGES),
    "ConfigurationInstances": _object({"instances": _array({"type": "object"})}, _PAGES),
    "Limits": _under("limits", _array(_object({"verb": _STRING}))),
    "Quotas": _under("quotas", _array(_QUOTA)),
    "QuotasUpdate": _object({"quotas": {}}),
    "Flavor": _under("flavor", _FLAVOR),
    "Flavors": _under("flavors", _array(_FLAVOR)),
    "Datastore": _under("datastore", _DATASTORE),
    "Datastores": _under("datastores", _array(_DATASTORE)),
    "DatastoreVersion": _under("version", _VERSION),
    "DatastoreVersions": _under("versions", _array(_VERSION)),
    "VolumeTypes": _under("volume_types", _array({"type": "object"})),
    "Parameters": _under("configuration-parameters", _array({"type": "object"})),
    "ModuleCreate": _under(
        "module",
        _object(
            {
                "name": _text(least=1),
                "module_type": _text(least=1),
                "contents": {"type": "string", "minLength": 1},
            },
            {
                "description": _nullable({"type": "string"}),
                "apply_order": {},
                "datastore": _MODULE_DATASTORE,
                **_MODULE_SWITCHES,
            },
        ),
    ),
    "ModuleUpdate": _under(
        "module",
        _object(
            {},
            {
                "name": _text(least=1),
                "contents": {"type": "string", "minLength": 1},
                "description": _nullable({"type": "string"}),
                "apply_order": {},
                "datastore": _MODULE_DATASTORE,
                "all_datastores": {},
                "all_datastore_versions": {},
                **_MODULE_SWITCHES,
            },
        ),
    ),
    "Module": _under("module", _MODULE),
    "Modules": _object({"modules": _array(_MODULE)}, _PAGES),
    "ManagedVersionCreate": _under(
        "version",
        _object(
            {
                "datastore_name": _text(least=1),
                "name": _text(least=1),
                "datastore_manager": _text(least=1),
                "active": {},
            }
        ),
    ),
    "ManagedVersion": _under("version", _MANAGED_VERSION),
    "ManagedVersions": _under("versions", _array(_MANAGED_VERSION)),
    # One of a stream. Its data is, as text, the operation or the step that its name says.
    "Event": _object(
        {"id": _STRING, "event": {"enum": ["operation", "step"]}, "data": _STRING},
    ),
    "Any": {"type": "object"},
}
