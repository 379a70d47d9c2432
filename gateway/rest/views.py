"""Messages of the control plane in Trove's JSON shapes.

Keys that Trove leaves out when there is nothing to say are left out here, never null. Keys of
our own: `operating_status_reason`, `deletion_protection` and `engine` of an instance, operations.
"""

from __future__ import annotations

import ipaddress

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.rest.links import Json, Links
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import instance_service_pb2, resources_pb2
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2

_GIB = 1 << 30
# Trove does not ask a guest how full its volume is in these states.
_WITHOUT_USAGE = ("BUILD", "SHUTDOWN")


def instance_summary(instance: resources_pb2.InstanceView, links: Links) -> dict[str, Json]:
    """An instance in a list."""
    version = instance.datastore_version
    view: dict[str, Json] = {
        "id": instance.id,
        "name": instance.name,
        "status": instance.status,
        "operating_status": instance.operating_status,
        "links": links.of("instances", instance.id),
        "flavor": {
            "id": instance.flavor.id,
            "links": links.of("flavors", instance.flavor.id),
        },
        "datastore": {"type": version.datastore_name, "version": version.name},
        "region": instance.region,
        "access": _access(instance),
        "volume": {"size": instance.volume_size_gib},
    }
    if instance.hostname:
        view["hostname"] = instance.hostname
    if instance.addresses:
        view["ip"] = list(instance.addresses)
        view["addresses"] = [
            {"address": address, "type": _address_type(address)} for address in instance.addresses
        ]
    return view


def instance_detail(instance: resources_pb2.InstanceView, links: Links) -> dict[str, Json]:
    """An instance in a detailed list or as the answer to its creation."""
    version = instance.datastore_version
    reported = instance.last_report_time if instance.HasField("last_report_time") else None
    view = instance_summary(instance, links) | {
        "datastore": {
            "type": version.datastore_name,
            "version": version.name,
            "version_number": version.version or version.name,
        },
        "created": moment(instance.create_time),
        "updated": moment(instance.update_time),
        "service_status_updated": moment(reported or instance.update_time),
    }
    if instance.HasField("configuration"):
        group = instance.configuration
        view["configuration"] = {
            "id": group.id,
            "name": group.name,
            "links": links.of("configurations", group.id),
        }
    if instance.operating_status_reason:
        view["operating_status_reason"] = instance.operating_status_reason
    if instance.deletion_protection:
        view["deletion_protection"] = True
    if instance.HasField("fault"):
        view["fault"] = fault(instance.fault)
    return view


def instance_shown(instance: resources_pb2.InstanceView, links: Links) -> dict[str, Json]:
    """An instance asked for alone: with what its agent last reported."""
    view = instance_detail(instance, links)
    if not instance.HasField("observation"):
        return view
    observation = instance.observation
    if observation.volume.used_bytes and instance.status not in _WITHOUT_USAGE:
        used = round(observation.volume.used_bytes / _GIB, 2)
        view["volume"] = {"size": instance.volume_size_gib, "used": used}
    state = engine_pb2.EngineState.Name(observation.state).removeprefix("ENGINE_STATE_")
    view["engine"] = {
        "state": state,
        "version": observation.engine_version,
        "start_count": observation.start_count,
    }
    return view


def datastore(item: resources_pb2.Datastore, links: Links) -> dict[str, Json]:
    view: dict[str, Json] = {
        "id": item.id,
        "name": item.name,
        "links": links.of("datastores", item.id),
        "versions": [
            version_summary(version, links) for version in item.versions if version.is_active
        ],
    }
    if item.default_version_id:
        view["default_version"] = item.default_version_id
    return view


def version_summary(item: resources_pb2.DatastoreVersion, links: Links) -> dict[str, Json]:
    """A version in a datastore's list."""
    return {
        "id": item.id,
        "name": item.name,
        "version": item.version or item.name,
        "links": links.of("datastores/versions", item.id),
    }


def datastore_version(item: resources_pb2.DatastoreVersion, links: Links) -> dict[str, Json]:
    return version_summary(item, links) | {"datastore": item.datastore_id}


def flavor(item: task_manager_service_pb2.Flavor, links: Links) -> dict[str, Json]:
    return {
        # Trove's integer id of old; null for an id that is no number.
        "id": int(item.id) if item.id.isascii() and item.id.isdigit() else None,
        "links": links.of("flavors", item.id),
        "name": item.name,
        "ram": item.ram_mib,
        "vcpus": item.vcpus,
        "disk": item.disk_gib,
        "ephemeral": item.ephemeral_gib,
        "str_id": item.id,
    }


def quota(item: instance_service_pb2.QuotaResource) -> dict[str, Json]:
    return {
        "resource": item.resource,
        "in_use": item.in_use,
        "reserved": item.reserved,
        "limit": item.limit,
    }


def operation(item: resources_pb2.Operation, links: Links) -> dict[str, Json]:
    """An operation with its steps; ours, Trove has none."""
    view: dict[str, Json] = {
        "id": item.id,
        "kind": item.kind,
        "instance_id": item.instance_id,
        "state": resources_pb2.OperationState.Name(item.state).removeprefix("OPERATION_STATE_"),
        "created": moment(item.create_time),
        "steps": [step(each) for each in item.steps],
        "links": links.of("operations", item.id),
    }
    if item.HasField("end_time"):
        view["ended"] = moment(item.end_time)
    if item.HasField("fault"):
        view["fault"] = fault(item.fault)
    return view


def step(item: resources_pb2.Step) -> dict[str, Json]:
    view: dict[str, Json] = {
        "name": item.name,
        "state": resources_pb2.StepState.Name(item.state).removeprefix("STEP_STATE_"),
    }
    if item.HasField("start_time"):
        view["started"] = moment(item.start_time)
    if item.HasField("end_time"):
        view["ended"] = moment(item.end_time)
    if item.detail:
        view["detail"] = item.detail
    return view


def fault(item: resources_pb2.Fault) -> dict[str, Json]:
    """Why something failed. Trove hides its details, a traceback; ours say what to do."""
    view: dict[str, Json] = {"message": item.message, "created": moment(item.create_time)}
    if item.details:
        view["details"] = item.details
    return view


def moment(time: Timestamp) -> str:
    """UTC without zone and fraction, as Trove writes it."""
    return time.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S")


def _access(instance: resources_pb2.InstanceView) -> dict[str, Json]:
    if not instance.HasField("access"):
        return {}
    view: dict[str, Json] = {"is_public": instance.access.is_public}
    if instance.access.allowed_cidrs:
        view["allowed_cidrs"] = list(instance.access.allowed_cidrs)
    return view


def _address_type(address: str) -> str:
    try:
        return "public" if ipaddress.ip_address(address).is_global else "private"
    except ValueError:
        return "private"
