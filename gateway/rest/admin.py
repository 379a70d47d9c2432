"""What only administrators may ask, and what they see beyond others."""

from __future__ import annotations

from gateway.rest import views
from gateway.rest.links import Json, Links
from gateway.rest.router import Call
from trove_grpc.errors import PermissionDeniedError
from trove_grpc.gen.conductor.v1 import management_service_pb2, resources_pb2

_GIB = 1 << 30


def require_admin(call: Call) -> None:
    """Trove answers 401 here, where every other refusal of a known caller is 403."""
    if not call.caller.is_admin:
        raise PermissionDeniedError("User does not have admin privileges.", reason="NOT_ADMIN")


def datastore(item: resources_pb2.Datastore, links: Links) -> dict[str, Json]:
    """A datastore with its inactive versions."""
    return views.datastore(item, links) | {
        "versions": [
            _version_listed(version, views.version_summary(version, links))
            for version in item.versions
        ]
    }


def datastore_version(item: resources_pb2.DatastoreVersion, links: Links) -> dict[str, Json]:
    """A version among what everybody may read."""
    return _version_listed(item, views.datastore_version(item, links))


def managed_version(item: resources_pb2.DatastoreVersion) -> dict[str, Json]:
    """A version below /mgmt, where Trove splits an empty text into [""]."""
    return {
        "id": item.id,
        "name": item.name,
        "version": item.version or item.name,
        "datastore_id": item.datastore_id,
        "datastore_name": item.datastore_name,
        "datastore_manager": item.manager,
        "image": item.image_id or None,
        "image_tags": list(item.image_tags) or [""],
        "packages": list(item.packages) or [""],
        "active": item.is_active,
        "registry_ext": item.registry_ext,
        "repl_strategy": item.repl_strategy,
        "default": item.is_default,
    }


def managed_instance(
    item: management_service_pb2.ManagedInstance, links: Links
) -> dict[str, Json]:
    """An instance in the list of every project's."""
    view = views.instance_detail(item.instance, links) | instance_extras(item)
    deleted = item.delete_time if item.HasField("delete_time") else None
    return view | {
        "server": _server(item),
        "service_status": item.service_status,
        "deleted": deleted is not None,
        "deleted_at": views.moment(deleted) if deleted else None,
        "task_description": item.task_description,
    }


def managed_instance_shown(
    item: management_service_pb2.ManagedInstance, links: Links
) -> dict[str, Json]:
    """An instance asked for alone: with its volume and what its agent said."""
    view = managed_instance(item, links)
    volume: dict[str, Json] = {"id": None, "size": item.instance.volume_size_gib}
    if item.instance.observation.volume.total_bytes:
        usage = item.instance.observation.volume
        volume |= {
            "used": round(usage.used_bytes / _GIB, 2),
            "total": round(usage.total_bytes / _GIB, 2),
        }
    server = view["server"]
    if isinstance(server, dict):
        view["server"] = server | {"addresses": {}}
    return view | {
        "volume": volume,
        "guest_status": {"state_description": item.service_status_description},
    }


def instance_extras(item: management_service_pb2.ManagedInstance) -> dict[str, Json]:
    """What an administrator sees of an instance wherever he reads it."""
    return {
        "tenant_id": item.instance.tenant_id,
        "server_id": item.compute_id or None,
        "volume_id": None,  # the disk comes with the machine
        "encrypted_rpc_messaging": True,  # mutual TLS, always
    }


def _server(item: management_service_pb2.ManagedInstance) -> Json:
    """The machine, as far as it is known without asking the compute driver."""
    if not item.compute_id or item.HasField("delete_time"):
        return None
    return {
        "id": item.compute_id,
        "name": item.instance.name,
        "status": item.instance.status,
        "tenant_id": item.instance.tenant_id,
        "host": item.instance.hostname or None,
    }


def _version_listed(
    item: resources_pb2.DatastoreVersion, view: dict[str, Json]
) -> dict[str, Json]:
    return view | {
        "active": item.is_active,
        "packages": ",".join(item.packages) or None,
        "image": item.image_id or None,
        "image_tags": list(item.image_tags),
        "registry_ext": item.registry_ext,
        "repl_strategy": item.repl_strategy,
    }
