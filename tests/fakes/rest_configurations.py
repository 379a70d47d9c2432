"""Configuration groups in memory; tests/integration/gateway_rest holds them to the conductor's
contract."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from conductor.parameters import Rule, shipped
from conductor.store.parameters import check_values
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import configuration_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import resources_pb2

if TYPE_CHECKING:
    from tests.fakes.rest_control_plane import FakeControlPlane

DEFAULTS = [engine_pb2.Parameter(name="max_connections", integer=64)]


class FakeConfigurations:
    """Groups, parameters and who has what; operations end when a test says so."""

    def __init__(self, control_plane: FakeControlPlane) -> None:
        self._control_plane = control_plane
        self.rules: dict[str, dict[str, Rule]] = {}
        self.groups: dict[str, pb2.Configuration] = {}

    def seed(self, version_id: str, manager: str) -> None:
        """Give a version what ships for the engine."""
        self.rules[version_id] = {rule.name: rule for rule in shipped(manager)}

    async def list_parameters(
        self, datastore: str, version: str, name: str = ""
    ) -> pb2.ListParametersResponse:
        found = await self._control_plane.get_datastore_version(datastore, version)
        rules = self.rules.get(found.id, {})
        if name and name not in rules:
            raise NotFoundError(f"Resource {name} cannot be found.", reason="PARAMETER_NOT_FOUND")
        chosen = [rules[name]] if name else [rules[key] for key in sorted(rules)]
        return pb2.ListParametersResponse(
            datastore_version_id=found.id, rules=[_message(rule) for rule in chosen]
        )

    async def write_parameter(
        self, version_id: str, rule: pb2.ParameterRule, *, is_new: bool
    ) -> pb2.ParameterRule:
        rules = self.rules.setdefault(version_id, {})
        if is_new and rule.name in rules:
            raise ConflictError(
                f"{rule.name} parameter already exists for datastore version {version_id}.",
                reason="PARAMETER_EXISTS",
            )
        if not is_new and rule.name not in rules:
            raise _absent(rule.name)
        rules[rule.name] = Rule(
            name=rule.name,
            type=pb2.ParameterType.Name(rule.type).removeprefix("PARAMETER_TYPE_").lower(),
            min=rule.min_value if rule.HasField("min_value") else None,
            max=rule.max_value if rule.HasField("max_value") else None,
            restart_required=rule.restart_required,
        )
        return _message(rules[rule.name])

    async def delete_parameter(self, version_id: str, name: str) -> None:
        if self.rules.get(version_id, {}).pop(name, None) is None:
            raise _absent(name)

    async def create(self, request: pb2.CreateConfigurationRequest) -> pb2.Configuration:
        version = await self._control_plane.get_datastore_version(
            request.datastore, request.datastore_version
        )
        self._check(version, request.values)
        group = pb2.Configuration(
            id=str(uuid.uuid4()),
            tenant_id=request.tenant_id,
            name=request.name,
            datastore_version=version,
            values=request.values,
        )
        if request.HasField("description"):
            group.description = request.description
        group.create_time.GetCurrentTime()
        group.update_time.CopyFrom(group.create_time)
        self.groups[group.id] = group
        return group

    async def get(self, tenant_id: str, configuration_id: str) -> pb2.Configuration:
        group = self.groups.get(configuration_id)
        if group is None or group.tenant_id != tenant_id:
            raise NotFoundError(
                f"Configuration group with ID {configuration_id} could not be found.",
                reason="CONFIGURATION_NOT_FOUND",
            )
        group.instance_count = len(self._having(group))
        return group

    async def list_page(
        self, tenant_id: str, *, page_size: int, page_token: str
    ) -> pb2.ListConfigurationsResponse:
        found = [
            group
            for key, group in sorted(self.groups.items())
            if group.tenant_id == tenant_id and key > page_token
        ]
        return pb2.ListConfigurationsResponse(
            configurations=found[:page_size],
            next_page_token=found[page_size - 1].id if len(found) > page_size else "",
        )

    async def update(self, request: pb2.UpdateConfigurationRequest) -> Sequence[str]:
        group = await self.get(request.tenant_id, request.configuration_id)
        self._check(group.datastore_version, request.values)
        if request.HasField("name"):
            group.name = request.name
        if request.HasField("description"):
            group.description = request.description
        kept = [] if request.replaces_values else list(group.values)
        values = {value.name: value for value in [*kept, *request.values]}
        del group.values[:]
        group.values.extend(values[name] for name in sorted(values))
        return [self._begin(instance) for instance in self._having(group)]

    async def delete(self, tenant_id: str, configuration_id: str) -> None:
        group = await self.get(tenant_id, configuration_id)
        if group.instance_count:
            raise ConflictError(
                "A configuration group cannot be deleted if it is associated with one or more "
                "non-terminated instances. Detach the configuration group from all "
                "non-terminated instances and please try again.",
                reason="CONFIGURATION_IN_USE",
            )
        del self.groups[configuration_id]

    async def list_instances(
        self, tenant_id: str, configuration_id: str, *, page_size: int, page_token: str
    ) -> pb2.ListConfiguredInstancesResponse:
        group = await self.get(tenant_id, configuration_id)
        found = [instance for instance in self._having(group) if instance.id > page_token]
        return pb2.ListConfiguredInstancesResponse(
            instances=[
                pb2.ConfiguredInstance(id=instance.id, name=instance.name)
                for instance in found[:page_size]
            ],
            next_page_token=found[page_size - 1].id if len(found) > page_size else "",
        )

    async def attach(self, tenant_id: str, instance_id: str, configuration_id: str) -> str:
        instance = await self._control_plane.get_instance(tenant_id, instance_id)
        group = await self.get(tenant_id, configuration_id)
        if instance.HasField("configuration"):
            raise ConflictError(
                f"Instance {instance_id} already has a Configuration Group attached: "
                f"{instance.configuration.id}.",
                reason="CONFIGURATION_ATTACHED",
            )
        if group.datastore_version.id != instance.datastore_version.id:
            raise InvalidRequestError(
                f"Datastore Version on Configuration Group {group.datastore_version.id} does not "
                f"match the Datastore Version on instance {instance.datastore_version.id}.",
                reason="CONFIGURATION_MISMATCH",
            )
        if instance.status == "BUILD":
            raise ConflictError(f"Instance {instance_id} is busy.", reason="INSTANCE_BUSY")
        instance.configuration.CopyFrom(
            resources_pb2.ConfigurationName(id=group.id, name=group.name)
        )
        return self._begin(instance)

    async def detach(self, tenant_id: str, instance_id: str) -> str:
        instance = await self._control_plane.get_instance(tenant_id, instance_id)
        if not instance.HasField("configuration"):
            return ""
        instance.ClearField("configuration")
        return self._begin(instance)

    async def defaults(self, tenant_id: str, instance_id: str) -> Sequence[engine_pb2.Parameter]:
        await self._control_plane.get_instance(tenant_id, instance_id)
        return DEFAULTS

    def _begin(self, instance: resources_pb2.InstanceView) -> str:
        return self._control_plane.begin("apply_configuration", instance).id

    def _having(self, group: pb2.Configuration) -> list[resources_pb2.InstanceView]:
        return [
            instance
            for _, instance in sorted(self._control_plane.instances.items())
            if instance.configuration.id == group.id
        ]

    def _check(
        self,
        version: resources_pb2.DatastoreVersion,
        values: Sequence[engine_pb2.Parameter],
    ) -> None:
        given = {value.name: getattr(value, value.WhichOneof("value")) for value in values}
        rules = list(self.rules.get(version.id, {}).values())
        check_values(given, rules, datastore=f"{version.datastore_name} {version.name}")


def _absent(name: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Parameter {name} does not exist in the database.", reason="PARAMETER_ABSENT"
    )


def _message(rule: Rule) -> pb2.ParameterRule:
    return pb2.ParameterRule(
        name=rule.name,
        type=pb2.ParameterType.Value(f"PARAMETER_TYPE_{rule.type.upper()}"),
        min_value=rule.min,
        max_value=rule.max,
        restart_required=rule.restart_required,
    )
