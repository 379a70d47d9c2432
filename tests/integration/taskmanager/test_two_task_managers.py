"""Two real task managers on one flow log: an operation runs at one of them, once."""

from __future__ import annotations

import asyncio
import signal

import pytest

from taskmanager.flows import Flows
from tests.fakes.taskmanager_peers import INSTANCE
from tests.integration.taskmanager.test_process import (
    OPEN,
    Process,
    eventually,
    settings,
)
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2

LEASE = 3


@pytest.fixture
async def both(peers, folder, database_servers):
    url = database_servers("postgresql").new_database()
    async with peers.serving() as addresses:
        peers.conductor.sessions[INSTANCE] = addresses.gateway
        made = []
        for name in ("tm-1", "tm-2"):
            home = folder / name
            home.mkdir()
            values = settings(peers, addresses, folder) | {
                "flow_database_url": url,
                "flow_lease": LEASE,
                "executor_id": name,
                "agent_deadline": 60,
            }
            made.append(Process(home, values))
        yield made
        for process in made:
            if process.process is not None:
                await process.end(signal.SIGKILL)


async def test_the_other_one_goes_on_when_the_one_at_work_is_killed(both, peers):
    first, second = both
    await first.start()
    await eventually(lambda: "serving on port" in first.log.read_text())
    peers.conductor.add_operation()
    await eventually(lambda: peers.conductor.steps().get("await_agent") == "RUNNING")
    await second.start()
    await eventually(lambda: "serving on port" in second.log.read_text())
    await first.end(signal.SIGKILL)
    await eventually(lambda: "executor tm-1 is dead" in second.log.read_text())
    peers.conductor.set_guest(engine_pb2.ENGINE_STATE_NEW)
    await eventually(lambda: peers.conductor.operation().state not in OPEN)
    await first.start()  # and finds nothing left to do
    await eventually(lambda: first.log.read_text().count("serving on port") == 2)
    for process in both:
        assert await process.end(signal.SIGTERM) == 0
    assert peers.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED
    assert set(peers.conductor.steps().values()) == {"SUCCEEDED"}
    assert peers.compute.boots == 1
    assert len(peers.guests.commands) == 1
    assert len(peers.issuer.tokens) == 1


async def test_an_operation_both_sweep_for_runs_once(both, peers):
    peers.conductor.add_operation()
    peers.conductor.set_guest(engine_pb2.ENGINE_STATE_NEW)
    for process in both:
        await process.start()
    await eventually(lambda: peers.conductor.operation().state not in OPEN)
    for process in both:
        await eventually(lambda p=process: "serving on port" in p.log.read_text())
        assert await process.end(signal.SIGTERM) == 0
    assert peers.conductor.operation().state == resources_pb2.OPERATION_STATE_SUCCEEDED
    assert peers.compute.boots == 1
    assert len(peers.guests.commands) == 1
    assert len(peers.issuer.tokens) == 1


async def test_a_flow_that_stopped_without_an_end_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr("taskmanager.flows._STRANDED_SECONDS", 0.5)
    runs = []

    async def once_lost(flow):
        runs.append(flow.id)
        if len(runs) == 1:
            flows._running[flow.id].cancel()  # as an end that could not be written leaves it
        await flow.step("one", note)

    async def note():
        return "id"

    async with Flows(
        database_url=f"sqlite:///{tmp_path}/flows.sqlite",
        executor_id="e1",
        functions={"once_lost": once_lost},
    ) as flows:
        await flows.submit("once_lost", "flow-1", key="k")
        await eventually(lambda: bool(runs))
        async with asyncio.timeout(30):
            while len(runs) < 2:
                await flows.adopt_abandoned()
                await asyncio.sleep(0.05)
    assert runs == ["flow-1", "flow-1"]
