"""A resize runs the engine with other memory, or leaves it with what it had."""

from __future__ import annotations

import asyncio

import pytest

from guestagent.record import RecordFile
from guestagent.watcher import Watcher
from tests.fakes.engine import FakeDatabaseAuthority, FakeEngine
from tests.unit.guestagent.test_watcher import PATIENCE, SPEC, state
from trove_grpc.errors import ConflictError, InvalidRequestError, UnavailableError


class NeverReady(FakeEngine):
    """With much memory it starts and never answers."""

    async def start(self, spec):
        if self.memory_mib > 2048:
            await asyncio.Event().wait()
        await super().start(spec)


def build(engine, tmp_path):
    return Watcher(
        engine,
        RecordFile(tmp_path / "engine.json"),
        patience=PATIENCE,
        authority=FakeDatabaseAuthority(None, []),
        on_change=lambda: None,
    )


async def prepared(engine, tmp_path):
    watcher = build(engine, tmp_path)
    await watcher.prepare(SPEC, [], [])
    return watcher


async def test_engine_runs_with_the_new_memory_and_so_after_a_restart(tmp_path):
    engine = FakeEngine()
    watcher = await prepared(engine, tmp_path)
    await watcher.resize(1024, previous_mib=512, patience=5)
    assert (engine.memory_mib, engine.starts, state(watcher)) == (1024, 2, "HEALTHY")
    assert RecordFile(tmp_path / "engine.json").load().spec.memory_mib == 1024
    await watcher.restart()
    assert (engine.memory_mib, engine.starts) == (1024, 3)


async def test_engine_that_does_not_start_gets_its_memory_back_and_says_why(tmp_path):
    engine = FakeEngine()
    engine.most_memory_mib = 2048
    watcher = await prepared(engine, tmp_path)
    with pytest.raises(ConflictError, match="out of memory") as caught:
        await watcher.resize(4096, previous_mib=512, patience=5)
    assert caught.value.reason == "ENGINE_RESIZE_FAILED"
    assert (engine.memory_mib, engine.is_running, state(watcher)) == (512, True, "HEALTHY")
    assert RecordFile(tmp_path / "engine.json").load().is_applied


async def test_engine_that_never_answers_gets_its_memory_back_after_its_time(tmp_path):
    engine = NeverReady()
    watcher = await prepared(engine, tmp_path)
    with pytest.raises(ConflictError, match=r"did not answer within 0\.05 s"):
        await watcher.resize(4096, previous_mib=512, patience=0.05)
    assert (engine.memory_mib, engine.is_running, state(watcher)) == (512, True, "HEALTHY")


async def test_what_runs_already_is_left_alone(tmp_path):
    engine = FakeEngine()
    watcher = await prepared(engine, tmp_path)
    await watcher.resize(512, previous_mib=512, patience=5)
    assert (engine.starts, engine.stops) == (1, 0)


async def test_engine_that_refuses_the_size_is_not_stopped(tmp_path):
    class Picky(FakeEngine):
        def check(self, spec, databases, users):
            if spec.memory_mib > 1024:
                raise InvalidRequestError("too much")

    engine = Picky()
    watcher = await prepared(engine, tmp_path)
    with pytest.raises(ConflictError, match="too much"):
        await watcher.resize(4096, previous_mib=512, patience=5)
    assert (engine.starts, engine.stops) == (1, 0)


async def test_resize_that_a_kill_cut_off_is_finished_by_its_repeat(tmp_path):
    engine = FakeEngine()
    watcher = await prepared(engine, tmp_path)
    engine.is_out_of_reach = True
    with pytest.raises(UnavailableError):
        await watcher.resize(1024, previous_mib=512, patience=5)
    assert not RecordFile(tmp_path / "engine.json").load().is_applied
    engine.is_out_of_reach = False
    again = build(engine, tmp_path)
    await again.resize(1024, previous_mib=512, patience=5)
    assert (engine.memory_mib, engine.starts) == (1024, 2)
    assert RecordFile(tmp_path / "engine.json").load().is_applied


async def test_resize_starts_an_engine_that_was_stopped(tmp_path):
    engine = FakeEngine()
    watcher = await prepared(engine, tmp_path)
    await watcher.stop()
    await watcher.resize(1024, previous_mib=512, patience=5)
    assert (engine.is_running, state(watcher)) == (True, "HEALTHY")
