"""What ships: read whole, let through by the agents, and like the engines' own defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from conductor.default_configuration import default_configuration
from conductor.parameters import TYPES, shipped
from guestagent.engines import EngineSpec
from guestagent.engines.mariadb import settings as mariadb
from guestagent.engines.postgresql import settings as postgresql
from guestagent.engines.redis import settings as redis

FORBIDDEN = {
    "mariadb": mariadb.FORBIDDEN,
    "postgresql": postgresql.FORBIDDEN,
    "redis": redis.FORBIDDEN,
}
P = Path("/p")


def files(manager: str, ram_mib: int) -> str:
    spec = EngineSpec(version="1", listen_addresses=("127.1.1.1",), port=1, memory_mib=ram_mib)
    if manager == "mariadb":
        return mariadb.server_options(
            spec,
            data_directory=P,
            temporary_directory=P,
            socket=P,
            certificate=P,
            include=P,
        ).decode()
    if manager == "postgresql":
        return postgresql.postgresql_conf(spec, P).decode()
    return redis.redis_conf(
        spec, directory=P, certificate=P, acl_file=P, socket=P, include=P
    ).decode()


@pytest.mark.parametrize("manager", sorted(FORBIDDEN))
def test_shipped_parameters_are_well_formed_and_the_agent_lets_them_through(manager):
    rules = shipped(manager)
    assert len(rules) > 30
    for rule in rules:
        assert rule.type in TYPES
        assert not FORBIDDEN[manager].search(rule.name), rule.name
        if rule.type == "integer":
            assert rule.min is not None, rule.name
            assert rule.max is not None, rule.name
            assert -(2**63) <= rule.min < rule.max < 2**63, rule.name
    assert any(rule.restart_required for rule in rules)


def test_an_engine_without_a_file_has_no_parameters():
    assert shipped("percona") == ()


@pytest.mark.parametrize("ram_mib", [16, 512, 65536])
@pytest.mark.parametrize("manager", sorted(FORBIDDEN))
def test_default_configuration_is_what_the_agent_writes(manager, ram_mib):
    text = files(manager, ram_mib)
    values = default_configuration(manager, ram_mib)
    assert values
    for name, value in values.items():
        assert f"{name} = {value}\n" in text or f"{name} {value}\n" in text, name


def test_default_configuration_of_an_unknown_engine_is_empty():
    assert default_configuration("percona", 512) == {}
