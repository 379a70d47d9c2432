"""The parameters that ship are the engines' own: known by name, static or not as we say."""

from __future__ import annotations

import os
import subprocess

import pytest

from conductor.parameters import shipped
from guestagent.engines import EngineSpec
from guestagent.engines.catalogue import build_engine
from guestagent.engines.mariadb import variables
from guestagent.engines.redis.settings import DEFAULTS
from tests.fakes.engine import FakeDatabaseAuthority
from tests.integration.guestagent.conftest import ENGINE_USER, as_user

KINDS = {"boolean": {"BOOLEAN"}, "integer": {"INTEGER"}, "float": {"REAL"}}


def test_every_postgresql_parameter_is_known_with_its_kind_and_bounds():
    prefix = as_user(ENGINE_USER) if os.geteuid() == 0 else []
    done = subprocess.run(
        [*prefix, "/usr/lib/postgresql/15/bin/postgres", "--describe-config"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    known = {}
    for line in done.stdout.splitlines():
        name, context, _, kind, _, least, most = line.split("\t")[:7]
        known[name.lower()] = (context, kind, least, most)
    for rule in shipped("postgresql"):
        context, kind, least, most = known[rule.name]
        assert context != "internal", rule.name
        assert (context == "postmaster") is rule.restart_required, rule.name
        assert kind in KINDS.get(rule.type, {"STRING", "ENUM"}), rule.name
        if rule.type == "integer":
            assert (str(rule.min), str(rule.max)) == (least, most), rule.name


@pytest.fixture
def start(machine, authority):
    async def start_engine(manager: str, version: str, port: int):
        engine = build_engine(machine.config(manager=manager))
        spec = EngineSpec(
            version=version, listen_addresses=(machine.address,), port=port, memory_mib=256
        )
        await engine.create(spec, FakeDatabaseAuthority(authority, [machine.address]))
        await engine.start(spec)
        return engine

    return start_engine


async def test_every_mariadb_parameter_is_a_global_variable_static_as_we_say(start):
    engine = await start("mariadb", "10.11", 3306)
    rules = {rule.name: rule for rule in shipped("mariadb")}
    known = variables.parse(await engine._must_sql(variables.query(rules)))
    assert set(known) == set(rules)
    for name, variable in known.items():
        assert variable.is_static is rules[name].restart_required, name


async def test_every_redis_parameter_has_the_default_that_the_agent_goes_back_to(start):
    engine = await start("redis", "7.0", 6379)
    for rule in shipped("redis"):
        shown = await engine._say(f"CONFIG GET {rule.name}", timeout=5)
        assert shown[0] == rule.name
        if rule.name != "maxmemory":
            assert (shown[1:] or [""])[0] == DEFAULTS[rule.name], rule.name
