"""`trovectl demo`: a database of each engine through the real client, one broken and brought back.

Everything a newcomer would do by hand, with the commands they would type.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trove_grpc.errors import DeadlineError, TroveError, UnavailableError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import IdentityDirectory, anchors, write_atomically
from trovectl import demo_engines, down, lock, ports, procfs, up
from trovectl.client import Installation
from trovectl.demo_engines import Engine
from trovectl.layout import Layout

_PROJECT = "demo"
_NAME_PREFIX = "demo-"
_POLL_SECONDS = 0.2
_UP_SECONDS = 180.0
_CREATE_SECONDS = 300.0
_RECOVER_SECONDS = 120.0
_DELETE_SECONDS = 180.0


def run(state: Path, *, keep: bool) -> int:
    """Run the demo in `state`; what it started is stopped unless `keep`."""
    # Asked to end: as Ctrl-C, so that what was started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _installation(state, keep=keep) as rest:
        name = Demo(state, rest).play()
        _title("What runs now")
        _command([*_trovectl(state, "status")])
    _title("Three things to try")
    _say(_suggestions(state, rest, name, keep=keep))
    return 0


@contextlib.contextmanager
def _installation(state: Path, *, keep: bool) -> Iterator[str]:
    """The address of the REST API of a running installation."""
    state.mkdir(mode=0o711, parents=True, exist_ok=True)
    try:
        if lock.holder_of(Layout(state).lock):
            _title(f"Using what runs in {state} already")
            rest = _running_rest_address(state)
        else:
            _title("trovectl up: the PKI, then five processes, each with its own certificate")
            rest = _rest_address(state)
            _start(state, rest)
        yield rest
    except BaseException:
        _say(f"  logs are in {Layout(state).log('supervisor').parent}")
        if not keep:
            _say(f"  {down.stop(state)}")
        raise
    if not keep:
        _title("trovectl down: everything stops, in order")
        _say(f"  {down.stop(state)}")


def _running_rest_address(state: Path) -> str:
    processes = asyncio.run(Installation(state).processes())
    endpoints = {
        name: address
        for process in processes
        for name, _, address in (pair.partition("=") for pair in process.endpoints)
    }
    return endpoints["rest"]


def _rest_address(state: Path) -> str:
    """Trove's port when it is free, else another; the same one in later runs."""
    saved = state / "demo.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(saved.read_text())["rest"])
    preferred = int(up.REST_LISTEN.rpartition(":")[2])
    free = ports.is_free(ports.LOOPBACK, preferred)
    port = preferred if free else ports.choose(taken=set())
    rest = f"{ports.LOOPBACK}:{port}"
    write_atomically(saved, json.dumps({"rest": rest}).encode(), mode=0o600)
    return rest


def _trovectl(state: Path, verb: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "trovectl", verb, "--state-dir", str(state), *arguments]


def _start(state: Path, rest: str) -> None:
    """Start `trovectl up` apart from our terminal, and show what it says until it is ready."""
    output = state / "up.out"
    with output.open("wb") as file:
        child = subprocess.Popen(
            _trovectl(state, "up", "--rest-listen", rest),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            cwd="/",
        )
    shown = 0
    ends = time.monotonic() + _UP_SECONDS
    while True:
        lines = output.read_text(errors="replace").splitlines(keepends=True)
        lines = [line for line in lines if line.endswith("\n")]
        for line in lines[shown:]:
            _say(f"  {line.rstrip()}")
        shown = len(lines)
        if any(line.startswith("ready:") for line in lines):
            return
        if child.poll() is not None:
            raise UnavailableError(f"trovectl up ended with status {child.returncode}; see above")
        if time.monotonic() > ends:
            raise DeadlineError(f"trovectl up was not ready within {_UP_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Made:
    """An instance of the play."""

    engine: Engine
    id: str


class Demo:
    """One play against a running installation."""

    def __init__(self, state: Path, rest: str) -> None:
        self._state = state
        self._places = Layout(state)
        self._endpoint = f"http://{rest}/v1.0/{_PROJECT}"
        self._password = secrets.token_urlsafe(12)

    def play(self) -> str:
        """Create, connect, kill, connect again; answers the name of the first instance."""
        self._clear()
        made = self._create_all()
        self._watch(made)
        _title("Connecting as the new users with each engine's own client, servers verified")
        for each in made:
            self._run(each, each.engine.write)
            self._run(each, each.engine.read)
        victim = made[0]
        before = self._show(victim.id)
        self._kill(victim)
        self._await_recovery(victim.id, before)
        self._run(victim, victim.engine.read)
        return str(self._get(f"instances/{victim.id}")["instance"]["name"])

    def _clear(self) -> None:
        """Databases of earlier plays would use up the quota."""
        old = [
            each
            for each in self._get("instances?limit=100")["instances"]
            if each["name"].startswith(_NAME_PREFIX)
        ]
        if not old:
            return
        _title("Removing the databases of an earlier demo")
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._delete, old))

        def gone() -> bool:
            left = {each["id"] for each in self._get("instances?limit=100")["instances"]}
            return not left.intersection(each["id"] for each in old)

        _await(gone, _DELETE_SECONDS, "the old demo databases to be removed")

    def _delete(self, instance: dict[str, Any]) -> None:
        # One that was being built when its demo was killed is finished first.
        _await(
            lambda: self._show(instance["id"])[0].split()[0] != "BUILD",
            _CREATE_SECONDS,
            f"{instance['name']} to leave BUILD",
        )
        self._openstack("delete", instance["id"])

    def _create_all(self) -> list[Made]:
        """One instance of each engine that is installed, all at once."""
        offered = {each["name"] for each in self._get("datastores")["datastores"]}
        engines = [engine for engine in demo_engines.ENGINES if engine.datastore in offered]
        if not engines:
            raise UnavailableError("no engine is installed; run `make setup`")
        titles = ", ".join(engine.title for engine in engines)
        _title(f"Creating {titles} at once, through REST with OpenStack's own client")
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self._create, engines))

    def _create(self, engine: Engine) -> Made:
        name = f"{_NAME_PREFIX}{engine.datastore}-{time.strftime('%H%M%S')}"
        output = self._openstack(
            *("create", name, "--flavor", "db.tiny", "--size", "1"),
            *("--datastore", engine.datastore, *engine.create),
            *("--users", f"{demo_engines.USER}:{self._password}"),
            *("-f", "json"),
        )
        created = json.loads(output)
        _say(f"  {created['id']}  {created['status']}  {engine.title}")
        return Made(engine, str(created["id"]))

    def _openstack(self, *arguments: str) -> str:
        """Run `openstack database instance …`; raises UnavailableError with what it says."""
        program = Path(sys.executable).with_name("openstack")
        if not program.exists():
            raise UnavailableError(f"there is no {program}; run `make setup`")
        argv = [
            *("--os-auth-type", "none", "--os-endpoint", self._endpoint),
            *("database", "instance", *arguments),
        ]
        # The client takes a user's password as an argument only; it is shown to nobody else.
        _say("  $ openstack " + " ".join(argv).replace(self._password, "********"))
        done = subprocess.run(
            [str(program), *argv],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={name: value for name, value in os.environ.items() if not name.startswith("OS_")},
        )
        if done.returncode:
            problem = done.stderr.strip().replace(self._password, "********")
            raise UnavailableError(f"openstack {arguments[0]} failed: {problem}")
        return done.stdout

    def _get(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._endpoint}/{path}")  # noqa: S310  ours, http
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                content: dict[str, Any] = json.load(response)
                return content
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:500]
            raise UnavailableError(f"GET {path} answered {error.code}: {text}") from error
        except (OSError, ValueError) as error:
            raise UnavailableError(f"GET {path}: {error}") from error

    def _watch(self, made: Sequence[Made]) -> None:
        """Print each step of every creation as it ends, until all have ended well."""
        shown: set[tuple[str, str, str]] = set()
        ends = time.monotonic() + _CREATE_SECONDS
        open_ones = list(made)
        while open_ones:
            open_ones = [each for each in open_ones if not self._is_built(each, shown)]
            if time.monotonic() > ends:
                raise DeadlineError(f"the instances were not built within {_CREATE_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
        for each in made:
            _await(
                lambda each=each: self._show(each.id)[0] == "ACTIVE / HEALTHY",  # type: ignore[misc]
                60,
                f"{each.engine.title} to be ACTIVE and HEALTHY",
            )
        _say(f"  ACTIVE and HEALTHY: {', '.join(each.engine.title for each in made)}")

    def _is_built(self, made: Made, shown: set[tuple[str, str, str]]) -> bool:
        operation = self._get(f"instances/{made.id}/operations")["operations"][0]
        for step in operation["steps"]:
            key = (made.id, step["name"], step["state"])
            if key not in shown:
                shown.add(key)
                detail = f"  {step['detail']}" if step.get("detail") else ""
                _say(
                    f"  {time.strftime('%T')}  {made.engine.title:<10}  {step['name']:<18} "
                    f"{step['state']}{detail}"
                )
        if operation["state"] in ("FAILED", "STUCK"):
            fault = operation.get("fault", {})
            raise UnavailableError(
                f"create_instance of {made.engine.title} {operation['state']}: "
                f"{fault.get('message', '')}\n{fault.get('details', '')}"
            )
        return bool(operation["state"] == "SUCCEEDED")

    def _show(self, instance_id: str) -> tuple[str, int]:
        """Status and operating status as REST has them, and how often the engine was started."""
        instance = self._get(f"instances/{instance_id}")["instance"]
        state = f"{instance['status']} / {instance['operating_status'] or '-'}"
        return state, int(instance.get("engine", {}).get("start_count", 0))

    def _run(self, made: Made, statement: str) -> None:
        """Run a statement as the demo's user with the engine's own client."""
        bundle = IdentityDirectory(self._places.operator).bundle()
        authority = self._state / "database-ca.pem"
        roots = anchors(bundle, {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT})
        write_atomically(authority, roots, mode=0o644)
        host = self._get(f"instances/{made.id}")["instance"]["ip"][0]
        access = demo_engines.Access(host=host, password=self._password, authority=authority)
        typed, printed = demo_engines.run(made.engine, access, statement)
        _say(f"  $ {typed}")
        for line in printed.splitlines():
            _say(f"  {line}")

    def _kill(self, made: Made) -> None:
        _title(f"Killing {made.engine.title} with kill -9")
        server = demo_engines.server_of(made.engine, self._places.guest(made.id))
        if server is None:
            raise UnavailableError("no running engine was found")
        procfs.send(server, signal.SIGKILL)
        _say(f"  $ kill -9 {server.pid}")

    def _await_recovery(self, instance_id: str, before: tuple[str, int]) -> None:
        """Print what REST shows, whenever it changes, until the engine is healthy again."""
        last = before
        _say(f"  {time.strftime('%T')}  REST: {last[0]}, engine started {last[1]} time(s)")

        def recovered() -> bool:
            nonlocal last
            now = self._show(instance_id)
            if now != last:
                last = now
                _say(f"  {time.strftime('%T')}  REST: {now[0]}, engine started {now[1]} time(s)")
            return now[0] == "ACTIVE / HEALTHY" and now[1] > before[1]

        _await(recovered, _RECOVER_SECONDS, "the agent to bring the engine back")


def _await(claim: Callable[[], bool], seconds: float, what: str) -> None:
    ends = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > ends:
            raise DeadlineError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(_POLL_SECONDS)


def _command(argv: list[str]) -> None:
    done = subprocess.run(argv, check=False, timeout=60)
    if done.returncode:
        raise TroveError(f"{argv[4]} ended with status {done.returncode}")


def _suggestions(state: Path, rest: str, name: str, *, keep: bool) -> str:
    program = Path(sys.executable).with_name("trovectl")
    client = Path(sys.executable).with_name("openstack")
    endpoint = f"http://{rest}/v1.0/{_PROJECT}"
    shown = (
        f"  {client} --os-auth-type none --os-endpoint {endpoint} database instance show {name}"
    )
    events = f"  {program} events --state-dir {state} {name}"
    if keep:
        return "\n".join((shown, events, f"  {program} down --state-dir {state}"))
    again = f"  {program} up --state-dir {state} --rest-listen {rest}"
    introduction = "bring the database back, and look at it from another terminal:"
    return f"{introduction}\n{again}\n{shown}\n{events}"


def _title(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _say(text: str) -> None:
    print(text, flush=True)
