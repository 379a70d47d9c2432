"""The gateway between the real issuer and the real conductor: one guest's whole life."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import tempfile
import uuid
from pathlib import Path

import grpc
import pytest
from grpc import aio

from conductor.config import Config as ConductorConfig
from conductor.server import serve as serve_conductor
from gateway.guest.__main__ import serve as serve_gateway
from gateway.guest.config import Config as GatewayConfig
from pki import enrolment
from pki.custody import FileCustody
from pki.issuer import bootstrap
from pki.issuer.config import Config as IssuerConfig
from pki.issuer.process import serve as serve_issuer
from pki.requests import new_request
from pki.store import Store
from tests.fakes.guest_stream import GuestStream
from trove_grpc import errors
from trove_grpc.client import PeerChannel, call, open_enrolment_channel
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import instance_service_pb2 as instance_pb2
from trove_grpc.gen.conductor.v1 import instance_service_pb2_grpc as instance_rpc
from trove_grpc.gen.conductor.v1 import report_service_pb2 as report_pb2
from trove_grpc.gen.conductor.v1 import report_service_pb2_grpc as report_rpc
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2 as dispatch_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2_grpc as dispatch_rpc
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as enrolment_pb2
from trove_grpc.gen.guest.v1 import enrolment_service_pb2_grpc as enrolment_rpc
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.gen.guest.v1 import identity_service_pb2 as identity_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as issuer_rpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory, KeyMaterial

TENANT = "tenant-a"


class ControlPlane:
    """Issuer, conductor and gateway in this process, each with its own certificate."""

    def __init__(self, root: Path, stack: contextlib.AsyncExitStack) -> None:
        self.root = root
        self.stack = stack
        self.stop = asyncio.Event()
        self.issuer_config = IssuerConfig(
            identity=root / "issuer" / "identity",
            operator_socket=root / "issuer" / "run" / "operator.sock",
            database_url=f"sqlite:///{root}/pki.db",
            custody_directory=root / "custody",
            passphrase_file=root / "secret" / "passphrase",
        )

    async def start(self) -> None:
        custody = FileCustody(
            self.issuer_config.custody_directory, self.issuer_config.passphrase_file
        )
        custody.prepare()
        store = Store(self.issuer_config.database_url)
        store.migrate()
        store.run_now(
            lambda session: bootstrap.initialise(
                session, custody, self.issuer_config, dt.datetime.now(dt.UTC)
            )
        )
        store.close()
        self.issuer = await self._run(
            lambda stop, ready: serve_issuer(self.issuer_config, stop, ready)
        )
        self.conductor = await self._run(self._conductor)
        config = GatewayConfig(
            identity=(await self.identity(Role.GATEWAY)).root,
            enrolment_listen="127.0.0.1:0",
            guest_listen="127.0.0.1:0",
            internal_listen="127.0.0.1:0",
            conductor=(f"127.0.0.1:{self.conductor}",),
            issuer=(f"127.0.0.1:{self.issuer}",),
            denial_poll=dt.timedelta(seconds=0.1),
        )
        self.endpoints = await self._run(
            lambda stop, ready: serve_gateway(config, stop, started=ready)
        )

    async def _conductor(self, stop, ready):
        (self.root / "conductor").mkdir()
        started = asyncio.get_running_loop().create_future()
        started.add_done_callback(lambda port: None if port.cancelled() else ready(port.result()))
        await serve_conductor(
            ConductorConfig(
                identity=(await self.identity(Role.CONDUCTOR)).root,
                database_url=f"sqlite:///{self.root}/conductor/conductor.db",
                sealing_key_file=self.root / "conductor" / "sealing.key",
                issuer=(f"127.0.0.1:{self.issuer}",),
                drain_timeout=dt.timedelta(seconds=0.5),
            ),
            stop,
            started=started,
        )

    async def _run(self, serve):
        stop = asyncio.Event()
        ready = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(stop, ready.set_result))

        async def end():
            stop.set()
            await task

        self.stack.push_async_callback(end)
        await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        return ready.result()

    async def identity(self, role: Role) -> IdentityDirectory:
        identity = IdentityDirectory(self.root / "identities" / role)
        if not identity.exists():
            await enrolment.enrol_service(
                self.issuer_config.operator_socket, role, "localhost", identity
            )
        return identity

    async def stub(self, caller: Role, server: Role, address, stub):
        channel = PeerChannel([address], identity=await self.identity(caller), server_role=server)
        self.stack.push_async_callback(channel.close)
        return channel.stub(stub)

    async def as_taskmanager_at_issuer(self):
        return await self.stub(
            Role.TASKMANAGER,
            Role.ISSUER,
            f"127.0.0.1:{self.issuer}",
            issuer_rpc.IssuerServiceStub,
        )

    async def create_instance(self) -> str:
        api = await self.stub(
            Role.API,
            Role.CONDUCTOR,
            f"127.0.0.1:{self.conductor}",
            instance_rpc.InstanceServiceStub,
        )
        created = await call(
            api.CreateInstance,
            instance_pb2.CreateInstanceRequest(
                request_id=str(uuid.uuid4()),
                tenant_id=TENANT,
                name="first",
                volume_size_gib=1,
                flavor=resources_pb2.Flavor(id="1", ram_mib=512),
            ),
            timeout=10,
        )
        return created.instance.id

    async def enrol(self, instance_id: str) -> IdentityDirectory:
        issuer = await self.as_taskmanager_at_issuer()
        await call(
            issuer.RegisterSubject,
            issuer_pb2.RegisterSubjectRequest(instance_id=instance_id, tenant_id=TENANT),
            timeout=10,
        )
        minted = await call(
            issuer.MintToken, issuer_pb2.MintTokenRequest(instance_id=instance_id), timeout=10
        )
        key, csr = new_request()
        async with open_enrolment_channel(
            [self.endpoints.enrolment], await self.identity(Role.GATEWAY)
        ) as channel:
            response = await call(
                enrolment_rpc.EnrolmentServiceStub(channel).Enrol,
                enrolment_pb2.EnrolRequest(
                    token=minted.token, instance_id=instance_id, csr_der=csr, boot_id="boot-1"
                ),
                timeout=10,
            )
        guest = IdentityDirectory(self.root / f"guest-{uuid.uuid4().hex}")
        guest.install(KeyMaterial(key_pem=key, chain_pem=response.chain_pem), response.bundle)
        return guest

    def stream(self, identity: IdentityDirectory) -> GuestStream:
        stream = GuestStream(self.endpoints.guest, identity)
        self.stack.push_async_callback(stream.close)
        return stream


@pytest.fixture
async def plane():
    # pytest's own paths are too long for a UNIX socket.
    with tempfile.TemporaryDirectory(prefix="trove-gw-") as name:
        async with contextlib.AsyncExitStack() as stack:
            plane = ControlPlane(Path(name), stack)
            await plane.start()
            yield plane


async def test_one_guest_from_enrolment_to_retirement(plane):
    instance_id = await plane.create_instance()
    identity = await plane.enrol(instance_id)
    guest = plane.stream(identity)
    welcome = await guest.open()
    assert welcome.session_epoch == 1

    await guest.send(
        change=guest_pb2.Change(
            change_id="change-1",
            observation=engine_pb2.Observation(
                state=engine_pb2.ENGINE_STATE_HEALTHY, start_count=3
            ),
        )
    )
    assert (await guest.expect("acknowledgement")).id == "change-1"
    api = await plane.stub(
        Role.API,
        Role.CONDUCTOR,
        f"127.0.0.1:{plane.conductor}",
        instance_rpc.InstanceServiceStub,
    )
    view = await call(
        api.GetInstanceView,
        instance_pb2.GetInstanceViewRequest(tenant_id=TENANT, instance_id=instance_id),
        timeout=10,
    )
    assert view.instance.id == instance_id

    directory = await plane.stub(
        Role.TASKMANAGER,
        Role.CONDUCTOR,
        f"127.0.0.1:{plane.conductor}",
        report_rpc.ReportServiceStub,
    )
    where = await call(
        directory.LookupSession,
        report_pb2.LookupSessionRequest(instance_id=instance_id),
        timeout=10,
    )
    assert where.gateway_address == plane.endpoints.internal
    dispatch = await plane.stub(
        Role.TASKMANAGER, Role.GATEWAY, where.gateway_address, dispatch_rpc.DispatchServiceStub
    )

    async def ping(command_id):
        return await call(
            dispatch.SendCommand,
            dispatch_pb2.SendCommandRequest(
                instance_id=instance_id,
                command=guest_pb2.Command(command_id=command_id, ping=guest_pb2.PingAction()),
            ),
            timeout=10,
        )

    assert (await ping("p-1")).result.command_id == "p-1"

    key, csr = new_request()
    renewed = await guest.identity.Renew(identity_pb2.RenewRequest(csr_der=csr), timeout=10)
    following = IdentityDirectory(plane.root / "guest-renewed")
    following.install(KeyMaterial(key_pem=key, chain_pem=renewed.chain_pem), renewed.bundle)
    successor = plane.stream(following)
    assert (await successor.open()).session_epoch == 2
    await successor.identity.Confirm(identity_pb2.ConfirmRequest(), timeout=10)
    assert (await guest.expect("goodbye")).reason == guest_pb2.GOODBYE_REASON_HANDOVER
    assert (await ping("p-2")).result.command_id == "p-2"
    assert (await successor.expect("command")).command_id == "p-2"

    issuer = await plane.as_taskmanager_at_issuer()
    await call(
        issuer.RetireSubject,
        issuer_pb2.RetireSubjectRequest(instance_id=instance_id, reason="instance deleted"),
        timeout=10,
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await successor.ended(seconds=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert errors.from_rpc(caught.value).reason == "CERTIFICATE_DENIED"
    with pytest.raises(aio.AioRpcError) as caught:
        await plane.stream(following).open()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_guest_the_conductor_never_heard_of_is_refused(plane):
    identity = await plane.enrol(str(uuid.uuid4()))
    with pytest.raises(aio.AioRpcError) as caught:
        await plane.stream(identity).open()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert errors.from_rpc(caught.value).reason == "UNKNOWN_INSTANCE"
