"""The Python that processes are started with.

As one user: ours, as it is. As several users the checkout and its virtual environment may be
unreadable for them (/root, a private temporary directory), so the packages are copied once into
the state directory, by content, and the base interpreter runs them. Guests get a copy of their
own, without the control plane.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from trove_grpc.errors import UnavailableError

_DISTRIBUTION = "trove-grpc"
_SERVICE_EXTRAS = ("issuer", "conductor", "taskmanager", "gateway")
_SERVICE_PACKAGES = ("trove_grpc", "pki", "conductor", "taskmanager", "gateway")
_GUEST_EXTRAS = ("guest",)
_GUEST_PACKAGES = ("trove_grpc", "pki", "guestagent")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_REQUIREMENT = re.compile(rf"(?P<name>{_NAME.pattern})\s*(\[(?P<extras>[^\]]*)\])?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_COMPILE_SECONDS = 300.0
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Agents start programs while gRPC runs; its fork handlers are for forks that stay Python.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # gRPC's core writes lines of its own, not JSON, for anybody's failed handshake.
    "GRPC_VERBOSITY": "NONE",
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """An interpreter and where it finds its packages."""

    interpreter: tuple[str, ...]
    environment: Mapping[str, str]

    def command(self, module: str, *arguments: str) -> tuple[str, ...]:
        return (*self.interpreter, "-m", module, *arguments)


@dataclass(frozen=True, slots=True)
class Runtimes:
    """One for the control plane, one for guests."""

    services: Runtime
    guests: Runtime


def own() -> Runtimes:
    """Our interpreter and packages."""
    runtime = Runtime((sys.executable, "-P"), _ENVIRONMENT)
    return Runtimes(runtime, runtime)


def stage(root: Path) -> Runtimes:
    """Copy what processes of other users need below `root`; nothing is done twice.

    Raises UnavailableError when the interpreter cannot be run by other users.
    """
    interpreter = _base_interpreter()
    services = _staged(root, "services", _SERVICE_EXTRAS, _SERVICE_PACKAGES)
    guests = _staged(root, "guests", _GUEST_EXTRAS, _GUEST_PACKAGES)
    # -S: nothing of the system's own site-packages; -P, -s: nothing of the directory or the home.
    prefix = (interpreter, "-S", "-P", "-s")
    return Runtimes(
        Runtime(prefix, {**_ENVIRONMENT, "PYTHONPATH": str(services)}),
        Runtime(prefix, {**_ENVIRONMENT, "PYTHONPATH": str(guests)}),
    )


def prune(root: Path, used: Runtimes) -> None:
    """Remove copies nobody uses any more; call when nothing of an earlier start runs."""
    kept = {
        Path(runtime.environment["PYTHONPATH"]).name
        for runtime in (used.services, used.guests)
        if "PYTHONPATH" in runtime.environment
    }
    for path in root.iterdir() if root.exists() else ():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _base_interpreter() -> str:
    path = Path(os.path.realpath(sys.executable))
    for part in (path, *path.parents):
        if not part.stat().st_mode & 0o001:
            raise UnavailableError(
                f"{path} cannot be run by other users ({part} is private); "
                "make the environment from Debian's /usr/bin/python3 (`make setup` does)"
            )
    return str(path)


def _staged(root: Path, kind: str, extras: Sequence[str], packages: Sequence[str]) -> Path:
    distributions = _closure(extras)
    sources = [(name, _source(name)) for name in packages]
    digest = _digest(distributions, sources)
    target = root / f"{kind}-{digest}"
    if target.exists():
        return target
    temporary = root / f".{kind}-{digest}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o755, parents=True)
    for distribution in distributions:
        _copy_distribution(distribution, temporary)
    for name, source in sources:
        shutil.copytree(source, temporary / name, ignore=shutil.ignore_patterns("*.tmp"))
    _compile(temporary, target)
    _make_readable(temporary)
    temporary.rename(target)
    return target


def _source(package: str) -> Path:
    # trovectl and the others come from one distribution, so they lie side by side.
    return Path(__file__).resolve().parent.parent / package


def _closure(extras: Sequence[str]) -> list[metadata.Distribution]:
    """Our requirements with these extras and theirs, without ourselves, by name."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = _requirements(metadata.distribution(_DISTRIBUTION), frozenset(extras))
    while waiting:
        requirement = waiting.pop()
        name = requirement[0]
        if requirement in seen or name == _DISTRIBUTION:
            continue
        seen.add(requirement)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            # A requirement of another platform or Python version: not installed, not needed.
            continue
        found[name] = distribution
        waiting += _requirements(distribution, requirement[1])
    return [found[name] for name in sorted(found)]


def _requirements(
    distribution: metadata.Distribution, extras: frozenset[str]
) -> list[tuple[str, frozenset[str]]]:
    """Names and extras asked for, such as ("sqlalchemy", {"asyncio"})."""
    asked = []
    for line in distribution.requires or []:
        requirement, _, marker = line.partition(";")
        wanted = _EXTRA.findall(marker)
        match = _REQUIREMENT.match(requirement.strip())
        if match and (not wanted or extras.intersection(wanted)):
            theirs = frozenset(_NAME.findall(match["extras"] or ""))
            asked.append((_normal(match["name"]), theirs))
    return asked


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _digest(
    distributions: Sequence[metadata.Distribution], sources: Sequence[tuple[str, Path]]
) -> str:
    content = hashlib.sha256(sys.version.encode())
    for distribution in distributions:
        content.update(f"{distribution.name} {distribution.version}\n".encode())
    for name, source in sources:
        for path in sorted(source.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content.update(f"{name}/{path.relative_to(source)}\n".encode())
                content.update(path.read_bytes())
    return content.hexdigest()[:16]


def _copy_distribution(distribution: metadata.Distribution, target: Path) -> None:
    for file in distribution.files or []:
        # Scripts and data lie outside of site-packages.
        if ".." in file.parts:
            continue
        source = Path(str(file.locate()))
        if source.is_file():
            destination = target / file
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, destination)


def _compile(root: Path, final: Path) -> None:
    """Write the bytecode that the processes' users cannot.

    Compiling at each start would cost them a second, and 5 MiB that an agent never gives back
    (docs/reference/agent-footprint.md). A file that does not compile is one that nobody imports.
    """
    paths = ("-s", str(root), "-p", str(final), str(root))
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-q", "-j", "0", *paths],
        check=False,
        timeout=_COMPILE_SECONDS,
    )


def _make_readable(root: Path) -> None:
    for folder, _, files in os.walk(root):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder) / name
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
