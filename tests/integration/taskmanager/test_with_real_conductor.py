"""The task manager against the real conductor; the guest stays silent, then is deleted."""

import asyncio

import pytest

from conductor.config import Config as ConductorConfig
from conductor.server import serve as serve_conductor
from taskmanager.__main__ import serve
from taskmanager.config import Config
from tests.fakes.taskmanager_peers import VERIFIER
from trove_grpc.client import PeerChannel, call
from trove_grpc.config import load
from trove_grpc.errors import NotFoundError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import instance_service_pb2 as pb
from trove_grpc.gen.conductor.v1 import instance_service_pb2_grpc as rpc
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.identity import Role

OPEN = (resources_pb2.OPERATION_STATE_PENDING, resources_pb2.OPERATION_STATE_RUNNING)


class Api:
    """What REST would ask, as the API's role."""

    def __init__(self, channel: PeerChannel) -> None:
        self._channel = channel

    async def call(self, method: str, request):
        stub = self._channel.stub(rpc.InstanceServiceStub)
        return await call(getattr(stub, method), request, timeout=10)

    async def ended(self, operation_id: str) -> resources_pb2.Operation:
        async with asyncio.timeout(60):
            while True:
                request = pb.GetOperationRequest(operation_id=operation_id)
                operation = (await self.call("GetOperation", request)).operation
                if operation.state not in OPEN:
                    return operation
                await asyncio.sleep(0.1)


@pytest.fixture
async def api(peers, folder):
    stop = asyncio.Event()
    conductor_config = ConductorConfig(
        identity=folder / f"identity-{Role.CONDUCTOR}",
        database_url=f"sqlite:///{folder}/conductor.db",
        sealing_key_file=folder / "sealing.key",
    )
    peers.identity(Role.TASKMANAGER)
    async with peers.serving() as addresses, asyncio.TaskGroup() as group:
        conductor_port = asyncio.get_running_loop().create_future()
        group.create_task(serve_conductor(conductor_config, stop, started=conductor_port))
        conductor = f"127.0.0.1:{await conductor_port}"
        config = load(
            Config,
            overrides={
                "identity": folder / f"identity-{Role.TASKMANAGER}",
                "listen": "127.0.0.1:0",
                "issuer": [addresses.issuer],
                "conductor": [conductor],
                "flow_database_url": f"sqlite:///{folder}/flows.sqlite",
                "supervisor_socket": addresses.supervisor,
                "enrolment_endpoints": ["127.0.0.1:1"],
                "guest_endpoints": ["127.0.0.1:2"],
                "agent_deadline": 1,
                "sweep_interval": 0.2,
            },
        )
        group.create_task(serve(config, stop))
        async with PeerChannel(
            [conductor], identity=peers.identity(Role.API), server_role=Role.CONDUCTOR
        ) as channel:
            yield Api(channel)
        stop.set()


async def test_a_silent_guest_becomes_a_fault_and_the_instance_can_be_deleted(api, peers):
    created = await api.call(
        "CreateInstance",
        pb.CreateInstanceRequest(
            request_id="r1",
            tenant_id="demo",
            name="shop",
            flavor=resources_pb2.Flavor(id="1", name="db.tiny", ram_mib=512),
            volume_size_gib=1,
            users=[engine_pb2.UserSpec(name="alice", verifier=VERIFIER)],
        ),
    )
    operation = await api.ended(created.operation_id)
    assert operation.state == resources_pb2.OPERATION_STATE_FAILED
    assert {step.name: resources_pb2.StepState.Name(step.state) for step in operation.steps} == {
        "allocate_address": "STEP_STATE_UNDONE",
        "register_identity": "STEP_STATE_UNDONE",
        "boot_guest": "STEP_STATE_UNDONE",
        "await_agent": "STEP_STATE_FAILED",
    }
    view_request = pb.GetInstanceViewRequest(instance_id=created.instance.id)
    instance = (await api.call("GetInstanceView", view_request)).instance
    assert instance.status == "ERROR"
    assert "the guest never called home within 1 s" in instance.fault.message
    assert peers.issuer.subjects[instance.id][0] == "demo"

    deleted = await api.call(
        "DeleteInstance",
        pb.DeleteInstanceRequest(tenant_id="demo", instance_id=instance.id, request_id="r2"),
    )
    operation = await api.ended(deleted.operation_id)
    assert operation.state == resources_pb2.OPERATION_STATE_SUCCEEDED
    assert [step.name for step in operation.steps] == [
        "remove_guest",
        "retire_identity",
        "finish",
    ]
    with pytest.raises(NotFoundError):
        await api.call("GetInstanceView", view_request)
