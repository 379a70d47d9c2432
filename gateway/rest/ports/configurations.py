"""Configuration groups and parameters, as the REST API asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from gateway.rest.peers import call_peer
from trove_grpc.client import PeerChannel
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import configuration_service_pb2 as pb2
from trove_grpc.gen.conductor.v1 import configuration_service_pb2_grpc


class Configurations(Protocol):
    """All raise `trove_grpc.errors`; NotFoundError for another tenant's too."""

    async def list_parameters(
        self, datastore: str, version: str, name: str = ""
    ) -> pb2.ListParametersResponse:
        """Those of a datastore version by name or id, or the one named."""

    async def write_parameter(
        self, version_id: str, rule: pb2.ParameterRule, *, is_new: bool
    ) -> pb2.ParameterRule: ...

    async def delete_parameter(self, version_id: str, name: str) -> None: ...

    async def create(self, request: pb2.CreateConfigurationRequest) -> pb2.Configuration: ...

    async def get(self, tenant_id: str, configuration_id: str) -> pb2.Configuration: ...

    async def list_page(
        self, tenant_id: str, *, page_size: int, page_token: str
    ) -> pb2.ListConfigurationsResponse: ...

    async def update(self, request: pb2.UpdateConfigurationRequest) -> Sequence[str]:
        """The ids of the operations that bring its instances after it."""

    async def delete(self, tenant_id: str, configuration_id: str) -> None: ...

    async def list_instances(
        self, tenant_id: str, configuration_id: str, *, page_size: int, page_token: str
    ) -> pb2.ListConfiguredInstancesResponse: ...

    async def attach(self, tenant_id: str, instance_id: str, configuration_id: str) -> str:
        """The id of the operation that applies it."""

    async def detach(self, tenant_id: str, instance_id: str) -> str:
        """The id of the operation that brings back the defaults; empty where none is needed."""

    async def defaults(
        self, tenant_id: str, instance_id: str
    ) -> Sequence[engine_pb2.Parameter]: ...


class GrpcConfigurations:
    """Asks the conductor. Only reads are sent again when an answer is lost."""

    def __init__(self, conductor: PeerChannel) -> None:
        self._conductor = conductor

    async def list_parameters(
        self, datastore: str, version: str, name: str = ""
    ) -> pb2.ListParametersResponse:
        request = pb2.ListParametersRequest(
            datastore=datastore, datastore_version=version, name=name
        )
        response = await call_peer(self._stub().ListParameters, request)
        return cast(pb2.ListParametersResponse, response)

    async def write_parameter(
        self, version_id: str, rule: pb2.ParameterRule, *, is_new: bool
    ) -> pb2.ParameterRule:
        request = pb2.WriteParameterRequest(
            datastore_version_id=version_id, rule=rule, is_new=is_new
        )
        response = await call_peer(self._stub().WriteParameter, request, retry=False)
        return cast(pb2.ParameterRule, response.rule)

    async def delete_parameter(self, version_id: str, name: str) -> None:
        request = pb2.DeleteParameterRequest(datastore_version_id=version_id, name=name)
        await call_peer(self._stub().DeleteParameter, request, retry=False)

    async def create(self, request: pb2.CreateConfigurationRequest) -> pb2.Configuration:
        response = await call_peer(self._stub().CreateConfiguration, request, retry=False)
        return cast(pb2.Configuration, response.configuration)

    async def get(self, tenant_id: str, configuration_id: str) -> pb2.Configuration:
        request = pb2.GetConfigurationRequest(
            tenant_id=tenant_id, configuration_id=configuration_id
        )
        response = await call_peer(self._stub().GetConfiguration, request)
        return cast(pb2.Configuration, response.configuration)

    async def list_page(
        self, tenant_id: str, *, page_size: int, page_token: str
    ) -> pb2.ListConfigurationsResponse:
        request = pb2.ListConfigurationsRequest(
            tenant_id=tenant_id, page_size=page_size, page_token=page_token
        )
        response = await call_peer(self._stub().ListConfigurations, request)
        return cast(pb2.ListConfigurationsResponse, response)

    async def update(self, request: pb2.UpdateConfigurationRequest) -> Sequence[str]:
        response = await call_peer(self._stub().UpdateConfiguration, request, retry=False)
        return cast(Sequence[str], response.operation_ids)

    async def delete(self, tenant_id: str, configuration_id: str) -> None:
        request = pb2.DeleteConfigurationRequest(
            tenant_id=tenant_id, configuration_id=configuration_id
        )
        await call_peer(self._stub().DeleteConfiguration, request, retry=False)

    async def list_instances(
        self, tenant_id: str, configuration_id: str, *, page_size: int, page_token: str
    ) -> pb2.ListConfiguredInstancesResponse:
        request = pb2.ListConfiguredInstancesRequest(
            tenant_id=tenant_id,
            configuration_id=configuration_id,
            page_size=page_size,
            page_token=page_token,
        )
        response = await call_peer(self._stub().ListConfiguredInstances, request)
        return cast(pb2.ListConfiguredInstancesResponse, response)

    async def attach(self, tenant_id: str, instance_id: str, configuration_id: str) -> str:
        request = pb2.AttachConfigurationRequest(
            tenant_id=tenant_id, instance_id=instance_id, configuration_id=configuration_id
        )
        response = await call_peer(self._stub().AttachConfiguration, request, retry=False)
        return cast(str, response.operation_id)

    async def detach(self, tenant_id: str, instance_id: str) -> str:
        request = pb2.DetachConfigurationRequest(tenant_id=tenant_id, instance_id=instance_id)
        response = await call_peer(self._stub().DetachConfiguration, request, retry=False)
        return cast(str, response.operation_id)

    async def defaults(self, tenant_id: str, instance_id: str) -> Sequence[engine_pb2.Parameter]:
        request = pb2.GetDefaultConfigurationRequest(tenant_id=tenant_id, instance_id=instance_id)
        response = await call_peer(self._stub().GetDefaultConfiguration, request)
        return cast(Sequence[engine_pb2.Parameter], response.values)

    def _stub(self) -> configuration_service_pb2_grpc.ConfigurationServiceStub:
        return self._conductor.stub(configuration_service_pb2_grpc.ConfigurationServiceStub)
