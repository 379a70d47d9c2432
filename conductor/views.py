"""Rows to messages: the only place where what a caller sees of a record is decided."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from conductor.models import Configuration, Datastore, DatastoreVersion, Operation
from conductor.presence import Presence
from conductor.status import derive_status
from conductor.store.datastores import Offer
from conductor.store.instances import InstanceRecord
from conductor.store.operations import OperationRecord
from conductor.store.quotas import Usage
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.common.v1.engine_pb2 import Parameter
from trove_grpc.gen.conductor.v1 import instance_service_pb2, resources_pb2

Merge = Callable[[str, Presence], Presence]


def timestamp(moment: dt.datetime | None) -> Timestamp | None:
    """None leaves a message field unset."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def stored_presence(record: InstanceRecord) -> Presence:
    return Presence() if record.presence is None else Presence.from_row(record.presence)


def instance_view(
    record: InstanceRecord, *, merge: Merge, presence_deadline: dt.timedelta, now: dt.datetime
) -> resources_pb2.InstanceView:
    """An instance as REST shows it. `merge` adds what is known beyond the database."""
    instance = record.instance
    presence = merge(instance.id, stored_presence(record))
    observation = presence.observation()
    status = derive_status(
        task=instance.task,
        observation=observation,
        silence=presence.silence(now),
        presence_deadline=presence_deadline,
        has_running_backup=record.has_running_backup,
    )
    return resources_pb2.InstanceView(
        id=instance.id,
        tenant_id=instance.tenant_id,
        name=instance.name,
        status=status.status,
        operating_status=status.operating_status,
        operating_status_reason=status.reason,
        datastore_version=version_message(record.version, record.datastore),
        flavor=resources_pb2.Flavor(
            id=instance.flavor_id,
            name=instance.flavor_name,
            ram_mib=instance.flavor_ram_mib,
            vcpus=instance.flavor_vcpus,
            disk_gib=instance.flavor_disk_gib,
        ),
        volume_size_gib=instance.volume_size_gib,
        volume_type=instance.volume_type,
        region=instance.region,
        availability_zone=instance.availability_zone,
        addresses=instance.addresses,
        access=resources_pb2.Access(
            is_public=instance.is_public, allowed_cidrs=instance.allowed_cidrs
        ),
        create_time=timestamp(instance.create_time),
        update_time=timestamp(instance.update_time),
        last_report_time=timestamp(presence.last_report_time),
        observation=observation,
        fault=_fault(instance.fault_message, instance.fault_details, instance.fault_time),
        operation_id=instance.last_operation_id,
        generation=instance.generation,
        deletion_protection=instance.deletion_protection,
        row_version=instance.row_version,
        configuration=_configuration_name(record.configuration),
        members=[
            resources_pb2.Member(id=member.id, role=member.role) for member in record.members
        ],
    )


def operation_message(record: OperationRecord) -> resources_pb2.Operation:
    operation = record.operation
    return resources_pb2.Operation(
        id=operation.id,
        kind=operation.kind,
        tenant_id=operation.tenant_id,
        instance_id=operation.instance_id,
        state=resources_pb2.OperationState.Value(f"OPERATION_STATE_{operation.state}"),
        steps=[
            resources_pb2.Step(
                name=step.name,
                state=resources_pb2.StepState.Value(f"STEP_STATE_{step.state}"),
                start_time=timestamp(step.start_time),
                end_time=timestamp(step.end_time),
                detail=step.detail,
            )
            for step in record.steps
        ],
        fault=_fault(operation.fault_message, operation.fault_details, operation.fault_time),
        create_time=timestamp(operation.create_time),
        end_time=timestamp(operation.end_time),
        request_id=operation.request_id,
    )


def target_flavor(operation: Operation) -> resources_pb2.Flavor | None:
    """The flavor a resize is to arrive at; None leaves a message field unset."""
    target = operation.target or {}
    if "flavor_id" not in target:
        return None
    return resources_pb2.Flavor(
        id=str(target["flavor_id"]),
        name=str(target["flavor_name"]),
        ram_mib=int(target["flavor_ram_mib"]),
        vcpus=int(target["flavor_vcpus"]),
        disk_gib=int(target["flavor_disk_gib"]),
    )


def version_message(
    version: DatastoreVersion, datastore: Datastore
) -> resources_pb2.DatastoreVersion:
    return resources_pb2.DatastoreVersion(
        id=version.id,
        name=version.name,
        version=version.version,
        datastore_id=datastore.id,
        datastore_name=datastore.name,
        manager=version.manager,
        is_active=version.is_active,
        packages=version.packages,
        image_id=version.image_id,
        image_tags=version.image_tags,
        registry_ext=version.registry_ext,
        repl_strategy=version.repl_strategy,
        is_default=version.id == datastore.default_version_id,
    )


def datastore_message(offer: Offer) -> resources_pb2.Datastore:
    return resources_pb2.Datastore(
        id=offer.datastore.id,
        name=offer.datastore.name,
        default_version_id=offer.datastore.default_version_id or "",
        versions=[version_message(version, offer.datastore) for version in offer.versions],
    )


def quota_message(usage: Usage) -> instance_service_pb2.QuotaResource:
    return instance_service_pb2.QuotaResource(
        resource=usage.resource, limit=usage.limit, in_use=usage.in_use, reserved=usage.reserved
    )


def database_messages(specs: list[dict[str, str]]) -> list[engine_pb2.DatabaseSpec]:
    return [engine_pb2.DatabaseSpec(**spec) for spec in specs]


def parameter_messages(values: Mapping[str, int | float | str | bool]) -> list[Parameter]:
    """Typed values, by name."""
    return [_parameter(name, value) for name, value in sorted(values.items())]


def _parameter(name: str, value: float | str | bool) -> Parameter:  # noqa: FBT001  a value
    if isinstance(value, bool):
        return Parameter(name=name, boolean=value)
    if isinstance(value, int):
        return Parameter(name=name, integer=value)
    if isinstance(value, float):
        return Parameter(name=name, number=value)
    return Parameter(name=name, text=value)


def _configuration_name(
    configuration: Configuration | None,
) -> resources_pb2.ConfigurationName | None:
    if configuration is None:
        return None
    return resources_pb2.ConfigurationName(id=configuration.id, name=configuration.name)


def _fault(
    message: str, details: str, create_time: dt.datetime | None
) -> resources_pb2.Fault | None:
    if create_time is None:
        return None
    return resources_pb2.Fault(
        message=message, details=details, create_time=timestamp(create_time)
    )
