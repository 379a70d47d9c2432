"""Which database engines this machine can run, found by their programs.

What is found becomes the conductor's datastores at each `trovectl up`: install another engine,
start again, and it is offered. A version is what tenants write: PostgreSQL's major version, of
the others major and minor.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Debian's places; the agents' defaults are the same.
_POSTGRESQL = Path("/usr/lib/postgresql")
_MARIADB = Path("/usr/sbin/mariadbd")
_REDIS = Path("/usr/bin/redis-server")
_VERSION_SECONDS = 30.0
_MAJOR_MINOR = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An engine whose programs are here."""

    manager: str
    port: int  # the standard one: clients expect it
    versions: tuple[str, ...]  # newest first
    package: str  # what to install when it is not here


def find(
    *, postgresql: Path = _POSTGRESQL, mariadb: Path = _MARIADB, redis: Path = _REDIS
) -> list[Installed]:
    """Every engine there is one version of, the default one first."""
    majors = sorted(
        (path.parent.parent.name for path in postgresql.glob("*/bin/postgres")),
        key=lambda name: (name.isdigit(), int(name) if name.isdigit() else 0),
        reverse=True,
    )
    candidates = [
        Installed(manager="postgresql", port=5432, versions=tuple(majors), package="postgresql"),
        Installed(
            manager="mariadb",
            port=3306,
            versions=_version_of(mariadb),
            package="mariadb-server-core mariadb-client",
        ),
        Installed(
            manager="redis",
            port=6379,
            versions=_version_of(redis),
            package="redis-server redis-tools",
        ),
    ]
    return [candidate for candidate in candidates if candidate.versions]


def datastores(installed: list[Installed]) -> dict[str, Any]:
    """The conductor's settings that offer these engines."""
    return {
        "datastores": [
            {
                "name": engine.manager,
                "manager": engine.manager,
                "port": engine.port,
                "versions": [{"name": version} for version in engine.versions],
                "default_version": engine.versions[0],
            }
            for engine in installed
        ],
        "default_datastore": installed[0].manager if installed else "",
    }


def _version_of(program: Path) -> tuple[str, ...]:
    """The version a program says it has, such as ("10.11",); nothing when it cannot be run."""
    try:
        done = subprocess.run(
            [str(program), "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = _MAJOR_MINOR.search(done.stdout)
    return (found[0],) if found and not done.returncode else ()
