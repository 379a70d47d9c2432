"""The engines this agent has, by the name of their manager.

A module for each: its class, and a function below that builds it from the agent's settings.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from guestagent.config import Config
from guestagent.engines import Engine
from guestagent.engines.mariadb import MariaDB
from guestagent.engines.postgresql import PostgreSQL
from guestagent.engines.redis import Redis
from guestagent.system import DirectSystem, LauncherSystem, System
from trove_grpc.errors import InvalidRequestError


def build_engine(config: Config) -> Engine:
    """The engine this guest is for; raises InvalidRequestError for an unknown manager."""
    build = _BUILDERS.get(config.manager)
    if build is None:
        raise InvalidRequestError(
            f"manager {config.manager!r} is unknown; known: {', '.join(sorted(_BUILDERS))}"
        )
    system: System = (
        LauncherSystem(Path(config.launcher_socket)) if config.launcher_socket else DirectSystem()
    )
    return build(config, system)


def _mariadb(config: Config, system: System) -> Engine:
    return MariaDB(
        system,
        data_directory=config.data_directory,
        run_directory=config.run_directory,
        prefix=config.mariadb_prefix,
    )


def _postgresql(config: Config, system: System) -> Engine:
    return PostgreSQL(
        system,
        data_directory=config.data_directory,
        run_directory=config.run_directory,
        programs_directory=config.postgresql_directory,
    )


def _redis(config: Config, system: System) -> Engine:
    return Redis(
        system,
        data_directory=config.data_directory,
        run_directory=config.run_directory,
        programs_directory=config.redis_directory,
    )


_BUILDERS: dict[str, Callable[[Config, System], Engine]] = {
    "mariadb": _mariadb,
    "postgresql": _postgresql,
    "redis": _redis,
}
