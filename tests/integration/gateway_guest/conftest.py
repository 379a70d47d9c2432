"""A running gateway between a fake conductor and a fake issuer, all over real mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import uuid
from pathlib import Path

import pytest

from gateway.guest.__main__ import Endpoints, serve
from gateway.guest.config import Config
from tests.fakes.certificates import TestAuthority
from tests.fakes.fake_conductor import FakeConductor
from tests.fakes.fake_issuer import FakeIssuer
from tests.fakes.guest_stream import GuestStream
from trove_grpc.client import PeerChannel
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2_grpc as dispatch_rpc
from trove_grpc.identity import Role

TENANT = "tenant-a"


def seconds(value: float) -> dt.timedelta:
    return dt.timedelta(seconds=value)


class World:
    """The gateway under test and everything around it."""

    def __init__(self, root: Path, authority: TestAuthority) -> None:
        self.root = root
        self.authority = authority
        self.conductor = FakeConductor(
            authority.identity_for_service(Role.CONDUCTOR, root / "conductor")
        )
        self.issuer = FakeIssuer(
            authority, authority.identity_for_service(Role.ISSUER, root / "issuer")
        )
        self.identity = authority.identity_for_service(Role.GATEWAY, root / "gateway", host="gw1")
        self.endpoints: Endpoints | None = None
        self.stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._cleanup = contextlib.AsyncExitStack()

    async def start(self, **settings) -> None:
        await self.conductor.start()
        if not self.issuer.port:
            await self.issuer.start()
        config = Config(
            identity=self.identity.root,
            enrolment_listen="127.0.0.1:0",
            guest_listen="127.0.0.1:0",
            internal_listen="127.0.0.1:0",
            conductor=(self.conductor.address,),
            issuer=(self.issuer.address,),
        )
        quick = {
            "heartbeat_flush": seconds(0.05),
            "denial_poll": seconds(0.05),
            "denial_backstop": seconds(0.2),
            "sighting_flush": seconds(0.02),
            "uplink_retry": seconds(0.3),
            "clone_ping": seconds(0.3),
            "conductor_timeout": seconds(2),
            "issuer_timeout": seconds(2),
            "drain_grace": seconds(1),
        }
        config = dataclasses.replace(config, **{**quick, **settings})
        ready: asyncio.Future[Endpoints] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(serve(config, self.stop, started=ready.set_result))
        await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task
        self.endpoints = ready.result()

    def guest_identity(self, instance_id=None, *, known=True, tenant=TENANT, **spoiled):
        instance_id = instance_id or str(uuid.uuid4())
        if known:
            self.conductor.tenants.setdefault(instance_id, TENANT)
        path = self.root / f"guest-{uuid.uuid4().hex}"
        return instance_id, self.authority.identity_for_guest(tenant, instance_id, path, **spoiled)

    def stream(self, identity, *, boot_id="boot-1") -> GuestStream:
        stream = GuestStream(self.endpoints.guest, identity, boot_id=boot_id)
        self._cleanup.push_async_callback(stream.close)
        return stream

    async def guest(self, **spoiled):
        """A connected guest."""
        instance_id, identity = self.guest_identity(**spoiled)
        stream = self.stream(identity)
        stream.welcomed = await stream.open()
        return instance_id, stream

    def renew_gateway(self) -> None:
        """Give the running gateway a new certificate, as its renewer would."""
        path = self.root / f"renewed-{uuid.uuid4().hex}"
        renewed = self.authority.identity_for_service(Role.GATEWAY, path, host="gw1")
        self.identity.install(renewed.load(), self.authority.bundle())

    def peer(self, role: Role, address: str) -> PeerChannel:
        """A channel of a service or operator to one of the gateway's listeners."""
        path = self.root / f"peer-{uuid.uuid4().hex}"
        identity = (
            self.authority.identity_for_operator("ada", path)
            if role is Role.OPERATOR
            else self.authority.identity_for_service(role, path)
        )
        channel = PeerChannel([address], identity=identity, server_role=Role.GATEWAY)
        self._cleanup.push_async_callback(channel.close)
        return channel

    def dispatch(self, role: Role = Role.TASKMANAGER) -> dispatch_rpc.DispatchServiceStub:
        return self.peer(role, self.endpoints.internal).stub(dispatch_rpc.DispatchServiceStub)

    async def leave(self) -> None:
        self.stop.set()
        if self._task is not None:
            await self._task

    async def close(self) -> None:
        await self._cleanup.aclose()
        await self.leave()
        await self.conductor.stop()
        await self.issuer.stop()


@pytest.fixture(scope="session")
def authority():
    return TestAuthority()


@pytest.fixture
async def world(tmp_path, authority):
    world = World(tmp_path, authority)
    try:
        yield world
    finally:
        await world.close()
