"""An installation with a fleet and whole databases beside it, for a rotation to happen to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from tests.acceptance.engine_clients import DATABASE, PASSWORD, USER
from tests.acceptance.installation import Installation, installation
from tests.fakes.engine import FakeEngine
from tests.fleet.fleet import ControlPlane, agent_config, until
from tests.rotation.streams import WatchedAgent, observe_sessions
from trove_grpc.client import call, open_local_channel
from trove_grpc.errors import TroveError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import authority_service_pb2_grpc as rpc
from trove_grpc.tls import IdentityDirectory, anchors
from trovectl.layout import Layout

_TIMEOUT = 10.0
ENGINES = ("postgresql", "mariadb", "redis")
# Times that fit a test; the lives of certificates are real ones.
SETTINGS = {
    "conductor__heartbeat_interval": "2",
    "taskmanager__sweep_interval": "86400",
    "issuer__rotation_poll": "1",  # one step each: time enough to kill its worker in it
    "issuer__rotation_lease": "3",
    "issuer__rotation_bundle_poll": "1",
    "issuer__rotation_soak": "2",
    "issuer__rotation_spread": "20",
    "issuer__rotation_canary_wait": "60",
    # A rotation drains when the last certificate of the old generation has ended; people's are
    # short-lived and not waited for in any other way.
    "issuer__operator_lifetime": "120",
}


@contextlib.contextmanager
def short_lived_installation(**settings: str) -> Iterator[Installation]:
    with installation(**{**SETTINGS, **settings}) as plane:
        yield plane


def create_databases(plane: Installation, engines: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """One healthy instance of each engine with a user; REST's view by engine."""
    ids = {}
    for engine in engines:
        instance = {
            "name": f"whole-{engine}",
            "flavorRef": "1",
            "volume": {"size": 1},
            "datastore": {"type": engine},
        }
        databases = [] if engine == "redis" else [{"name": DATABASE}]
        user = {"name": USER, "password": PASSWORD, "databases": databases}
        body = {**instance, "users": [user], **({"databases": databases} if databases else {})}
        status, answer = plane.request("POST", "/instances", {"instance": body})
        assert status == 200, answer
        ids[engine] = str(answer["instance"]["id"])
    return {engine: plane.await_healthy(instance_id) for engine, instance_id in ids.items()}


class Issuer:
    """The issuer as an operator on its host reaches it; it may be killed at any moment."""

    def __init__(self, plane: Installation) -> None:
        self._plane = plane
        self._socket = Layout(plane.state).operator_socket
        self.kills = 0

    async def start_rotation(
        self, kind: pb.RotationKind.ValueType, authority: trust_pb2.AuthorityKind.ValueType
    ) -> str:
        request = pb.StartRotationRequest(
            request_id=str(uuid.uuid4()),
            kind=kind,
            authority=authority,
            is_automatic=True,
            reason="drill",
        )
        answer = await self._ask("StartRotation", request)
        return str(answer.rotation.rotation_id)

    async def rotation(self, rotation_id: str) -> pb.GetRotationResponse:
        answer: pb.GetRotationResponse = await self._ask(
            "GetRotation", pb.GetRotationRequest(rotation_id=rotation_id)
        )
        return answer

    async def kill(self) -> None:
        """kill -9; the supervisor starts it again."""
        pid = await asyncio.to_thread(self._plane.pid_of, "issuer")
        os.kill(pid, signal.SIGKILL)
        self.kills += 1

    async def _ask(self, method: str, request: Any) -> Any:
        """Ask until somebody answers: being away for a moment is what is tested."""
        while True:
            try:
                async with open_local_channel(self._socket) as channel:
                    stub = getattr(rpc.AuthorityServiceStub(channel), method)
                    return await call(stub, request, timeout=_TIMEOUT, retry=True)
            except TroveError as error:
                if error.reason not in ("UNAVAILABLE", "DEADLINE"):
                    raise
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def fleet(plane: Installation, count: int) -> AsyncIterator[list[WatchedAgent]]:
    """`count` agents with open sessions, each with its own key over real TLS."""
    observe_sessions()
    control = ControlPlane(plane)
    registered = await control.register(count)
    stop = asyncio.Event()
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        async with asyncio.TaskGroup() as group:
            agents = [
                WatchedAgent(
                    agent_config(control, Path(folder), name, tenant, token), FakeEngine()
                )
                for name, (tenant, token) in registered.items()
            ]
            for agent in agents:
                group.create_task(agent.run(stop))
            try:
                await until(
                    lambda: all(agent.watch.live for agent in agents),
                    "a first session for each",
                    within=60 + count * 0.2,
                )
                yield agents
            finally:
                stop.set()


def database_roots(plane: Installation) -> bytes:
    """What tenants are told to trust now, PEM."""
    bundle = IdentityDirectory(Layout(plane.state).operator).bundle()
    return anchors(bundle, {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT})


async def every(seconds: float, stop: asyncio.Event, act: Callable[[], Awaitable[None]]) -> None:
    """Call `act` again and again until `stop`."""
    while not stop.is_set():
        await act()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
