"""Many agents in one process: nothing of an agent is global."""

from __future__ import annotations

import asyncio
import uuid

from guestagent.agent import Agent
from tests.fakes.engine import FakeEngine
from tests.fakes.guest_gateway import FakeGateway, eventually
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb

AGENTS = 25


async def test_many_agents_share_a_process_and_nothing_else(
    machine, gateway: FakeGateway, tmp_path
):
    stop = asyncio.Event()
    names = [str(uuid.uuid4()) for _ in range(AGENTS)]
    async with asyncio.TaskGroup() as group:
        for name in names:
            home = tmp_path / name
            gateway.authority.identity_for_guest("demo", name, home / "identity")
            config = machine.config(
                instance_id=name,
                identity=home / "identity",
                token_file=home / "token",
                state_directory=home / "state",
            )
            group.create_task(Agent(config, FakeEngine()).run(stop))
        await eventually(lambda: len(gateway.open) == AGENTS, within=60)
        assert {session.instance_id for session in gateway.open} == set(names)
        assert len({session.hello.boot_id for session in gateway.open}) == AGENTS
        action = pb.PrepareAction(manager="fake", version="1", listen_addresses=["127.0.0.9"])
        for session in gateway.open:
            command = pb.Command(command_id="same-for-all", prepare=action)
            session.send(command=command)
        await eventually(lambda: len(gateway.results) == AGENTS, within=60)
        assert {result.error_reason for result in gateway.results} == {""}
        stop.set()
