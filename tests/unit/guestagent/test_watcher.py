from __future__ import annotations

import asyncio
import contextlib

import pytest

from guestagent.engines import EngineSpec
from guestagent.record import RecordFile
from guestagent.watcher import Patience, Watcher
from tests.fakes.engine import FakeDatabaseAuthority, FakeEngine
from tests.fakes.guest_gateway import eventually
from trove_grpc.errors import ConflictError, InvalidRequestError, UnavailableError
from trove_grpc.gen.common.v1 import engine_pb2

SPEC = EngineSpec(version="1", listen_addresses=("127.0.0.9",), port=5432, memory_mib=512)
PATIENCE = Patience(
    health_interval=0.005, restart_limit=3, stable_after=60, backoff=0.001, backoff_limit=0.01
)


class Told(list):
    """States as changes told them."""

    watcher: Watcher

    def __call__(self):
        self.append(state(self.watcher))


def state(watcher):
    name = engine_pb2.EngineState.Name(watcher.observation().state)
    return name.removeprefix("ENGINE_STATE_")


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def build(engine, told, tmp_path):
    def build_watcher():
        told.watcher = Watcher(
            engine,
            RecordFile(tmp_path / "engine.json"),
            patience=PATIENCE,
            authority=FakeDatabaseAuthority(None, []),
            on_change=told,
        )
        return told.watcher

    return build_watcher


@contextlib.asynccontextmanager
async def running(watcher):
    stop = asyncio.Event()
    task = asyncio.create_task(watcher.run(stop))
    yield
    stop.set()
    await task


async def test_new_guest_has_nothing_to_look_after(build, engine):
    watcher = build()
    async with running(watcher):
        pass
    assert state(watcher) == "NEW"
    assert engine.log == []


async def test_prepare_ends_healthy_and_counts_one_start(build, engine, told):
    watcher = build()
    await watcher.prepare(SPEC, [engine_pb2.DatabaseSpec(name="shop")], [])
    assert told == ["PREPARING", "HEALTHY"]
    assert engine.databases == {"shop"}
    observation = watcher.observation()
    assert (observation.start_count, observation.reason) == (1, "")
    assert observation.engine_version == "1.0"


async def test_failed_prepare_can_be_repeated(build, engine):
    watcher = build()
    engine.failing_starts = 1
    with pytest.raises(ConflictError):
        await watcher.prepare(SPEC, [], [])
    assert state(watcher) == "NEW"
    await watcher.prepare(SPEC, [], [])
    assert state(watcher) == "HEALTHY"


async def test_prepare_otherwise_than_before_is_refused(build):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    other = EngineSpec(version="2", listen_addresses=("127.0.0.9",), port=1, memory_mib=512)
    with pytest.raises(ConflictError, match="prepared otherwise"):
        await watcher.prepare(other, [], [])


async def test_bad_request_touches_nothing(build, engine):
    with pytest.raises(InvalidRequestError):
        await build().prepare(SPEC, [engine_pb2.DatabaseSpec(name="")], [])
    assert engine.log == []


async def test_crashed_engine_is_started_again_and_both_are_told(build, engine, told):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    told.clear()
    async with running(watcher):
        engine.is_running = False
        await eventually(lambda: told == ["CRASHED", "HEALTHY"])
    assert watcher.observation().start_count == 2


async def test_engine_that_dies_after_each_start_is_given_up_until_someone_starts_it(
    build, engine, told
):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    async with running(watcher):
        engine.dies_at_start = True
        engine.is_running = False
        await eventually(lambda: state(watcher) == "FAILED")
        assert engine.starts == 1 + PATIENCE.restart_limit
        assert "given up after 3 starts" in watcher.observation().reason
        engine.dies_at_start = False
        await watcher.start()
        assert state(watcher) == "HEALTHY"
    assert told.count("FAILED") == 1


async def test_start_that_fails_is_tried_again(build, engine):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    async with running(watcher):
        engine.failing_starts = 2
        engine.is_running = False
        await eventually(lambda: state(watcher) == "HEALTHY" and engine.starts == 2)


async def test_restarted_agent_adopts_a_running_engine(build, engine):
    await build().prepare(SPEC, [], [])
    watcher = build()
    async with running(watcher):
        await eventually(lambda: state(watcher) == "HEALTHY")
    assert engine.starts == 1


async def test_engine_found_stopped_after_a_reboot_is_started_without_being_called_crashed(
    build, engine, told
):
    await build().prepare(SPEC, [], [])
    engine.is_running = False
    told.clear()
    watcher = build()
    async with running(watcher):
        await eventually(lambda: state(watcher) == "HEALTHY")
    assert told == ["STARTING", "HEALTHY"]
    assert watcher.observation().start_count == 2


async def test_stopped_engine_stays_stopped_in_the_next_agent_too(build, engine):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    await watcher.stop()
    watcher = build()
    async with running(watcher):
        await eventually(lambda: state(watcher) == "STOPPED")
    assert engine.starts == 1


async def test_engine_out_of_reach_is_not_taken_for_crashed(build, engine, told):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    told.clear()
    async with running(watcher):
        engine.is_out_of_reach = True
        await eventually(lambda: state(watcher) == "BLOCKED")
        engine.is_out_of_reach = False
        await eventually(lambda: state(watcher) == "HEALTHY")
    assert told == ["BLOCKED", "HEALTHY"]
    assert engine.starts == 1


async def test_housekeeping_is_done_at_the_next_look_when_somebody_asks_for_it(build, engine):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    async with running(watcher):
        await eventually(lambda: engine.log.count("tend") == 1)
        watcher.tend_soon()
        await eventually(lambda: engine.log.count("tend") == 2)


async def test_cut_off_prepare_leaves_the_guest_new(build, engine):
    watcher = build()
    engine.is_out_of_reach = True
    with pytest.raises(UnavailableError):
        await watcher.prepare(SPEC, [], [])
    assert state(watcher) == "NEW"


async def test_shut_down_stops_the_engine_and_the_next_agent_starts_it(build, engine):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    await watcher.shut_down()
    assert not engine.is_running
    watcher = build()
    async with running(watcher):
        await eventually(lambda: state(watcher) == "HEALTHY")


async def test_engine_that_does_not_come_back_goes_back_to_its_last_good_settings(engine, build):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    await watcher.configure([engine_pb2.Parameter(name="good", integer=1)])
    await watcher.restart()
    await watcher.configure([engine_pb2.Parameter(name="deadly", integer=1)])
    assert watcher.observation().reason == "restart_required: deadly"
    await watcher.restart()
    assert engine.is_running
    assert engine.include.present == {"good": "1"}
    assert watcher.observation().reason.startswith("configuration_reverted: ")
    assert "it does not start: deadly" in watcher.observation().reason


async def test_crash_with_settings_on_trial_is_recovered_with_the_last_good_ones(engine, build):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    await watcher.configure([engine_pb2.Parameter(name="deadly", integer=1)])
    engine.is_running = False
    await watcher.look()
    assert state(watcher) == "HEALTHY"
    assert build().observation().start_count == 2
    assert watcher.observation().reason.startswith("configuration_reverted: ")


async def test_settings_that_start_are_kept_whatever_happens_later(engine, build):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    await watcher.configure([engine_pb2.Parameter(name="static", integer=1)])
    await watcher.restart()
    engine.failing_starts = 1
    with pytest.raises(ConflictError):
        await watcher.restart()
    await watcher.start()
    assert engine.include.present == {"static": "1"}
    assert watcher.observation().reason == ""


async def test_engine_that_does_not_answer_takes_no_settings(engine, build):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    engine.is_running = False
    with pytest.raises(UnavailableError):
        await watcher.configure([])
    assert "configure" not in engine.log


async def test_change_of_what_waits_for_a_restart_is_told_at_once(build, told):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    told.clear()
    await watcher.configure([engine_pb2.Parameter(name="static", integer=1)])
    await watcher.configure([])
    assert told == ["HEALTHY", "HEALTHY"]


async def test_one_failed_start_is_no_proof_against_new_settings(engine, build):
    watcher = build()
    await watcher.prepare(SPEC, [], [])
    await watcher.configure([engine_pb2.Parameter(name="static", integer=1)])
    engine.failing_starts = 2
    await watcher.restart()
    assert engine.include.present == {"static": "1"}
    assert watcher.observation().reason == ""
