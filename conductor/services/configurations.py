"""ConfigurationService: groups of tenants, and the parameters that may stand in them."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy.orm import Session

from conductor import views
from conductor.default_configuration import default_configuration
from conductor.executor import Database
from conductor.parameters import TYPES, Rule
from conductor.services import checks
from conductor.store import configurations, datastores, instances, parameters
from conductor.store.parameters import Value
from trove_grpc import context
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import configuration_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import configuration_service_pb2_grpc

log = logging.getLogger(__name__)

_MAX_DESCRIPTION = 256  # Trove's
_MAX_PARAMETER_NAME = 64


class ConfigurationService(configuration_service_pb2_grpc.ConfigurationServiceServicer):
    """Everything is checked in the transaction that writes it."""

    def __init__(
        self, *, database: Database, default_datastore: str, now: Callable[[], dt.datetime]
    ) -> None:
        self._database = database
        self._default_datastore = default_datastore
        self._now = now

    async def ListParameters(
        self, request: pb2.ListParametersRequest, _context: Any
    ) -> pb2.ListParametersResponse:
        version_id, rules = await self._database.read(
            _read_rules,
            datastore=_text(request.datastore, "datastore", may_be_empty=True),
            version=_text(request.datastore_version, "datastore_version"),
            name=_text(request.name, "name", may_be_empty=True),
        )
        return pb2.ListParametersResponse(
            datastore_version_id=version_id, rules=[_rule_message(rule) for rule in rules]
        )

    async def WriteParameter(
        self, request: pb2.WriteParameterRequest, _context: Any
    ) -> pb2.WriteParameterResponse:
        rule = await self._database.write(
            parameters.write_rule,
            _text(request.datastore_version_id, "datastore_version_id"),
            _rule(request.rule),
            is_new=request.is_new,
        )
        return pb2.WriteParameterResponse(rule=_rule_message(rule))

    async def DeleteParameter(
        self, request: pb2.DeleteParameterRequest, _context: Any
    ) -> pb2.DeleteParameterResponse:
        await self._database.write(
            parameters.delete_rule,
            _text(request.datastore_version_id, "datastore_version_id"),
            _text(request.name, "name"),
        )
        return pb2.DeleteParameterResponse()

    async def CreateConfiguration(
        self, request: pb2.CreateConfigurationRequest, _context: Any
    ) -> pb2.CreateConfigurationResponse:
        new = configurations.NewConfiguration(
            tenant_id=checks.require_tenant(request.tenant_id),
            name=_text(request.name, "name"),
            description=_description(request),
            datastore=_text(request.datastore, "datastore", may_be_empty=True),
            datastore_version=_text(
                request.datastore_version, "datastore_version", may_be_empty=True
            ),
            values=_values(request.values),
        )
        record = await self._database.write(
            configurations.create,
            new,
            default_datastore=self._default_datastore,
            now=self._now(),
        )
        return pb2.CreateConfigurationResponse(configuration=_message(record))

    async def GetConfiguration(
        self, request: pb2.GetConfigurationRequest, _context: Any
    ) -> pb2.GetConfigurationResponse:
        record = await self._database.read(
            configurations.get,
            checks.require_tenant(request.tenant_id),
            _text(request.configuration_id, "configuration_id"),
        )
        return pb2.GetConfigurationResponse(configuration=_message(record))

    async def ListConfigurations(
        self, request: pb2.ListConfigurationsRequest, _context: Any
    ) -> pb2.ListConfigurationsResponse:
        size = checks.page_size(request.page_size)
        records = await self._database.read(
            configurations.list_page,
            checks.require_tenant(request.tenant_id),
            after=_text(request.page_token, "page_token", may_be_empty=True),
            limit=size + 1,
        )
        page = records[:size]
        return pb2.ListConfigurationsResponse(
            configurations=[_message(record) for record in page],
            next_page_token=page[-1].configuration.id if len(records) > size else "",
        )

    async def UpdateConfiguration(
        self, request: pb2.UpdateConfigurationRequest, _context: Any
    ) -> pb2.UpdateConfigurationResponse:
        change = configurations.Change(
            name=_text(request.name, "name") if request.HasField("name") else None,
            description=_description(request),
            values=_values(request.values),
            replaces_values=request.replaces_values,
        )
        record, begun = await self._database.write(
            configurations.update,
            checks.require_tenant(request.tenant_id),
            _text(request.configuration_id, "configuration_id"),
            change,
            request_id=context.request_id(),
            now=self._now(),
        )
        log.info("configuration %s changed, for %d instances", record.configuration.id, len(begun))
        return pb2.UpdateConfigurationResponse(configuration=_message(record), operation_ids=begun)

    async def DeleteConfiguration(
        self, request: pb2.DeleteConfigurationRequest, _context: Any
    ) -> pb2.DeleteConfigurationResponse:
        await self._database.write(
            configurations.delete,
            checks.require_tenant(request.tenant_id),
            _text(request.configuration_id, "configuration_id"),
        )
        return pb2.DeleteConfigurationResponse()

    async def ListConfiguredInstances(
        self, request: pb2.ListConfiguredInstancesRequest, _context: Any
    ) -> pb2.ListConfiguredInstancesResponse:
        size = checks.page_size(request.page_size)
        found = await self._database.read(
            configurations.list_instances,
            checks.require_tenant(request.tenant_id),
            _text(request.configuration_id, "configuration_id"),
            after=_text(request.page_token, "page_token", may_be_empty=True),
            limit=size + 1,
        )
        page = found[:size]
        return pb2.ListConfiguredInstancesResponse(
            instances=[
                pb2.ConfiguredInstance(id=instance.id, name=instance.name) for instance in page
            ],
            next_page_token=page[-1].id if len(found) > size else "",
        )

    async def AttachConfiguration(
        self, request: pb2.AttachConfigurationRequest, _context: Any
    ) -> pb2.AttachConfigurationResponse:
        operation_id = await self._database.write(
            configurations.attach,
            checks.require_tenant(request.tenant_id),
            _text(request.instance_id, "instance_id"),
            _text(request.configuration_id, "configuration_id"),
            request_id=context.request_id(),
            now=self._now(),
        )
        return pb2.AttachConfigurationResponse(operation_id=operation_id)

    async def DetachConfiguration(
        self, request: pb2.DetachConfigurationRequest, _context: Any
    ) -> pb2.DetachConfigurationResponse:
        operation_id = await self._database.write(
            configurations.detach,
            checks.require_tenant(request.tenant_id),
            _text(request.instance_id, "instance_id"),
            request_id=context.request_id(),
            now=self._now(),
        )
        return pb2.DetachConfigurationResponse(operation_id=operation_id)

    async def GetDefaultConfiguration(
        self, request: pb2.GetDefaultConfigurationRequest, _context: Any
    ) -> pb2.GetDefaultConfigurationResponse:
        record = await self._database.read(
            instances.get_instance,
            instance_id=_text(request.instance_id, "instance_id"),
            tenant_id=checks.require_tenant(request.tenant_id),
        )
        values = default_configuration(record.datastore.manager, record.instance.flavor_ram_mib)
        return pb2.GetDefaultConfigurationResponse(values=views.parameter_messages(values))


def _read_rules(
    session: Session, *, datastore: str, version: str, name: str
) -> tuple[str, list[Rule]]:
    found, _ = datastores.get_version(session, datastore=datastore, version=version)
    if name:
        return found.id, [parameters.get_rule(session, found.id, name)]
    return found.id, parameters.list_rules(session, found.id)


def _text(value: str, field: str, *, may_be_empty: bool = False) -> str:
    return checks.require_text(value, field, may_be_empty=may_be_empty)


def _description(
    request: pb2.CreateConfigurationRequest | pb2.UpdateConfigurationRequest,
) -> str | None:
    if not request.HasField("description"):
        return None
    return checks.require_text(
        request.description, "description", longest=_MAX_DESCRIPTION, may_be_empty=True
    )


def _values(messages: Iterable[engine_pb2.Parameter]) -> Mapping[str, Value]:
    values: dict[str, Value] = {}
    for message in messages:
        kind = message.WhichOneof("value")
        if kind is None:
            raise InvalidRequestError(f"{message.name} has no value", subject=message.name)
        values[checks.require_text(message.name, "values")] = getattr(message, kind)
    return values


def _rule(message: pb2.ParameterRule) -> Rule:
    kind = pb2.ParameterType.Name(message.type).removeprefix("PARAMETER_TYPE_").lower()
    if kind not in TYPES:
        raise InvalidRequestError(f"type must be one of {', '.join(TYPES)}", subject="type")
    return Rule(
        name=checks.require_text(message.name, "name", longest=_MAX_PARAMETER_NAME),
        type=kind,
        min=message.min_value if message.HasField("min_value") else None,
        max=message.max_value if message.HasField("max_value") else None,
        restart_required=message.restart_required,
    )


def _rule_message(rule: Rule) -> pb2.ParameterRule:
    return pb2.ParameterRule(
        name=rule.name,
        type=pb2.ParameterType.Value(f"PARAMETER_TYPE_{rule.type.upper()}"),
        min_value=rule.min,
        max_value=rule.max,
        restart_required=rule.restart_required,
    )


def _message(record: configurations.ConfigurationRecord) -> pb2.Configuration:
    configuration = record.configuration
    return pb2.Configuration(
        id=configuration.id,
        tenant_id=configuration.tenant_id,
        name=configuration.name,
        description=configuration.description,
        datastore_version=views.version_message(record.version, record.datastore),
        values=views.parameter_messages(configuration.values),
        create_time=views.timestamp(configuration.create_time),
        update_time=views.timestamp(configuration.update_time),
        instance_count=record.instance_count,
    )
