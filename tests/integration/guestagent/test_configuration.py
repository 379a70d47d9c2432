"""Tenants' settings on real engines: at once where they can, at the next start where not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from guestagent.engines import EngineSpec
from guestagent.engines.catalogue import build_engine
from guestagent.record import RecordFile
from guestagent.watcher import Patience, Watcher
from tests.fakes.engine import FakeDatabaseAuthority
from trove_grpc.errors import ConflictError, InvalidRequestError
from trove_grpc.gen.common.v1 import engine_pb2

Parameter = engine_pb2.Parameter
PATIENCE = Patience(
    health_interval=0.2, restart_limit=3, stable_after=60, backoff=0.1, backoff_limit=0.5
)


@dataclass(frozen=True)
class Case:
    """One engine: something it takes at once, something it does not, something deadly."""

    version: str
    port: int
    dynamic: Parameter
    dynamic_shown: str
    default_shown: str
    static: Parameter
    refused: Parameter
    refusal: str
    deadly: Parameter
    forbidden: str


CASES = {
    "mariadb": Case(
        version="10.11",
        port=3306,
        dynamic=Parameter(name="max_connections", integer=77),
        dynamic_shown="77",
        default_shown="50",
        static=Parameter(name="performance_schema", boolean=True),
        refused=Parameter(name="wait_timeout", integer=99_999_999),
        refusal="wait_timeout",
        deadly=Parameter(name="thread_handling", text="never"),
        forbidden="bind_address",
    ),
    "postgresql": Case(
        version="15",
        port=5432,
        dynamic=Parameter(name="work_mem", integer=8192),
        dynamic_shown="8MB",
        default_shown="4MB",
        static=Parameter(name="max_connections", integer=77),
        refused=Parameter(name="work_mem", integer=1),
        refusal="outside the valid range",
        deadly=Parameter(name="huge_pages", text="on"),
        forbidden="listen_addresses",
    ),
    "redis": Case(
        version="7.0",
        port=6379,
        dynamic=Parameter(name="hz", integer=77),
        dynamic_shown="77",
        default_shown="10",
        static=Parameter(name="databases", integer=32),
        refused=Parameter(name="maxmemory-policy", text="never"),
        refusal="maxmemory-policy",
        deadly=Parameter(name="databases", integer=0),
        forbidden="bind",
    ),
}


@pytest.fixture(params=sorted(CASES))
def manager(request) -> str:
    return request.param


@pytest.fixture
def case(manager) -> Case:
    return CASES[manager]


@pytest.fixture
def engine(manager, machine) -> Any:
    return build_engine(machine.config(manager=manager))


@pytest.fixture
def spec(case, machine) -> EngineSpec:
    return EngineSpec(
        version=case.version,
        listen_addresses=(machine.address,),
        port=case.port,
        memory_mib=256,
    )


@pytest.fixture
def build(engine, machine, authority):
    def build_watcher() -> Watcher:
        return Watcher(
            engine,
            RecordFile(machine.root / "agent/record.json"),
            patience=PATIENCE,
            authority=FakeDatabaseAuthority(authority, [machine.address]),
            on_change=lambda: None,
        )

    return build_watcher


@pytest.fixture
async def watcher(build, spec) -> Watcher:
    watcher = build()
    await watcher.prepare(spec, [], [])
    return watcher


async def shown(engine: Any, spec: EngineSpec, name: str) -> str:
    """What the running engine says of a setting."""
    if spec.port == 5432:
        return (await engine._must_sql(spec, f"SHOW {name};\n")).decode().strip("\0\n")
    if spec.port == 3306:
        return (await engine._must_sql(f"SELECT @@global.{name};\n")).decode().strip()
    return (await engine._say(f"CONFIG GET {name}", timeout=5))[1]


def starts(watcher: Watcher) -> int:
    return watcher.observation().start_count


async def test_dynamic_value_is_in_force_at_once_and_gone_with_the_group(
    watcher, engine, spec, case
):
    name = case.dynamic.name
    assert await shown(engine, spec, name) == case.default_shown
    await watcher.configure([case.dynamic])
    assert await shown(engine, spec, name) == case.dynamic_shown
    assert watcher.pending_restart == ()
    assert watcher.observation().reason == ""

    await watcher.restart()
    assert await shown(engine, spec, name) == case.dynamic_shown

    await watcher.configure([])
    assert await shown(engine, spec, name) == case.default_shown
    assert starts(watcher) == 2


async def test_static_value_waits_for_a_restart_and_says_so(watcher, build, engine, spec, case):
    name = case.static.name
    before = await shown(engine, spec, name)
    await watcher.configure([case.static])
    assert watcher.pending_restart == (name,)
    assert await shown(engine, spec, name) == before
    assert build().pending_restart == (name,)
    assert watcher.observation().reason == f"restart_required: {name}"

    await watcher.restart()
    assert await shown(engine, spec, name) != before
    assert watcher.pending_restart == ()
    assert watcher.observation().reason == ""


async def test_pending_value_taken_back_needs_no_restart(watcher, case):
    await watcher.configure([case.static])
    await watcher.configure([])
    assert watcher.pending_restart == ()


async def test_refused_value_leaves_every_earlier_one_in_force(watcher, engine, spec, case):
    await watcher.configure([case.dynamic])
    with pytest.raises(ConflictError) as caught:
        await watcher.configure([case.refused])
    assert case.refusal in caught.value.message
    assert await shown(engine, spec, case.dynamic.name) == case.dynamic_shown
    await watcher.restart()
    assert await shown(engine, spec, case.dynamic.name) == case.dynamic_shown


async def test_settings_with_which_it_does_not_start_are_given_up(
    watcher, build, engine, spec, case
):
    await watcher.configure([case.dynamic])
    await watcher.restart()
    with_deadly = {p.name: p for p in (case.dynamic, case.deadly)}
    await watcher.configure(list(with_deadly.values()))
    assert watcher.pending_restart == (case.deadly.name,)
    await watcher.restart()

    reason = watcher.observation().reason
    assert reason.startswith("configuration_reverted: ")
    assert "does not start" in reason
    assert watcher.pending_restart == ()
    assert await shown(engine, spec, case.dynamic.name) == case.dynamic_shown
    # The next agent knows it too, and a good group ends it.
    await asyncio.sleep(0)
    second = build()
    await second.look()
    assert second.observation().reason == reason
    await second.configure([case.dynamic])
    assert second.observation().reason == ""


@pytest.mark.parametrize(
    "text", ["x\nport = 1", "a'b", 'a"b', "a\\b", "a\0b", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_value_that_could_become_another_setting_is_refused(engine, spec, case, text):
    with pytest.raises(InvalidRequestError):
        asyncio.run(engine.configure(spec, [Parameter(name=case.dynamic.name, text=text)]))


def test_name_of_the_agents_own_and_no_name_at_all_are_refused(engine, spec, case):
    for name in (case.forbidden, "x y", "hz\nport", "", "foo.bar", "INCLUDE"):
        with pytest.raises(InvalidRequestError):
            asyncio.run(engine.configure(spec, [Parameter(name=name, text="1")]))


async def test_unknown_name_is_refused_and_nothing_is_written(watcher, engine, case):
    with pytest.raises((ConflictError, InvalidRequestError)):
        await watcher.configure([Parameter(name="no_such_thing", integer=1), case.dynamic])
    assert not await engine.include.is_on_trial()
