"""`trovectl up`: the whole installation on one machine, from the first start to the last stop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2_grpc as rpc_grpc
from trove_grpc.server import Server, build_local_server
from trovectl import accounts, children, engines, layout, lock, procfs, runtime
from trovectl.accounts import Accounts
from trovectl.children import Account, Backoff
from trovectl.guests import Guests
from trovectl.layout import Layout
from trovectl.plane import NAMES, ControlPlane
from trovectl.records import Records
from trovectl.service import SupervisorService
from trovectl.state_databases import StateDatabase

log = logging.getLogger(__name__)

REST_LISTEN = "127.0.0.1:8779"  # Trove's own port
_STRAY_GRACE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `trovectl up` was asked for."""

    state: Path
    rest_listen: str = REST_LISTEN
    # "auto": system users as root, ourselves otherwise. "single": ourselves.
    users: str = "auto"
    # Settings of processes, by process ("agent": of every local guest).
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # Databases of processes that do not keep their state in SQLite, by process.
    state_databases: Mapping[str, StateDatabase] = field(default_factory=dict)
    # How many guest gateways; agents know them all.
    gateways: int = 1
    backoff: Backoff = field(default_factory=Backoff)
    identity_check: dt.timedelta = dt.timedelta(minutes=1)


Say = Callable[[str], None]


async def serve(options: Options, stop: asyncio.Event, *, say: Say) -> None:
    """Run everything until `stop`; raises TroveError when the start fails. Leaves nothing.

    The caller holds the lock of the state directory.
    """
    places = Layout(options.state)
    users = accounts.choose(options.users)
    if users.are_separate:
        layout.check_reachable(options.state)
    # 0711: other users pass through to what is theirs, and see nothing else.
    for path in (places.state, places.run, places.guests):
        layout.make_directory(path, mode=0o711)
    for path in (places.operator.parent, places.log("supervisor").parent):
        layout.make_directory(path, mode=0o700)
    children.become_subreaper()
    collector = asyncio.create_task(children.collect_orphans(stop), name="collect-orphans")
    start = asyncio.create_task(_run(options, places, users, stop, say), name="installation")
    try:
        await start
    finally:
        stop.set()
        await collector


async def _run(
    options: Options, places: Layout, users: Accounts, stop: asyncio.Event, say: Say
) -> None:
    records = Records(places.records)
    records.load()
    runtimes = await asyncio.to_thread(_runtimes, places, users, say)
    installed = await asyncio.to_thread(engines.find)
    _say_engines(installed, say)
    plane = ControlPlane(
        places,
        accounts=users,
        runtime=runtimes.services,
        records=records,
        backoff=options.backoff,
        rest_listen=options.rest_listen,
        overrides=options.overrides,
        state_databases=options.state_databases,
        datastores=engines.datastores(installed),
        gateways=options.gateways,
    )
    await _reap(plane, places)
    plane.prepare()
    guests = Guests(
        places,
        accounts=users,
        runtime=runtimes.guests,
        records=records,
        backoff=options.backoff,
        settings=options.overrides.get("agent", {}),
        enrolment_endpoints=plane.enrolment_endpoints,
        guest_endpoints=plane.guest_endpoints,
    )
    guests.load()
    async with _socket(places, users, guests, plane):
        try:
            starting = asyncio.create_task(_start(plane, guests, say), name="start")
            if not await _done_before(starting, stop):
                say("stopping before everything was up")
                return
            if users.are_separate:
                runtime.prune(places.runtimes, runtimes)
            say(f"ready: REST API on http://{options.rest_listen}, state in {places.state}")
            keep = plane.keep_identities(stop, every=options.identity_check.total_seconds())
            await keep
        finally:
            await _stop(plane, guests, say)


def _runtimes(places: Layout, users: Accounts, say: Say) -> runtime.Runtimes:
    if not users.are_separate:
        return runtime.own()
    say(f"packages for the system users: {places.runtimes}")
    layout.make_directory(places.runtimes, mode=0o755)
    return runtime.stage(places.runtimes)


def _say_engines(installed: list[engines.Installed], say: Say) -> None:
    offered = [f"{engine.manager} {', '.join(engine.versions)}" for engine in installed]
    say(f"engines: {'; '.join(offered) or 'none is installed; `make setup` installs them'}")


async def _reap(plane: ControlPlane, places: Layout) -> None:
    """End what a killed supervisor's control plane left; guests are adopted later."""
    await plane.reap()
    guests = {process.pid for process in procfs.under(places.guests)}
    strays = [process for process in procfs.under(places.state) if process.pid not in guests]
    await children.terminate_all(strays, number=signal.SIGTERM, grace=_STRAY_GRACE)


async def _done_before(work: asyncio.Task[None], stop: asyncio.Event) -> bool:
    """Wait for `work` (its error is raised); False when `stop` came first and it was cancelled."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            return False
        work.result()
        return True
    finally:
        stopping.cancel()


async def _start(plane: ControlPlane, guests: Guests, say: Say) -> None:
    await plane.start(say)
    await guests.recover()
    if count := len(guests.list()):
        say(f"{count} local guest{'s' if count > 1 else ''} brought back")


async def _stop(plane: ControlPlane, guests: Guests, say: Say) -> None:
    """Stop all of it, in this order.

    REST and the task manager first, so that nothing new begins; then the guests, while the
    gateway still hears their last words.
    """
    say("stopping: no new work")
    await plane.stop(["api", "taskmanager"])
    if guests.list():
        say("stopping: databases")
    try:
        await guests.stop()
    finally:
        say("stopping: control plane")
        await plane.stop(NAMES)
    say("stopped")


@contextlib.asynccontextmanager
async def _socket(
    places: Layout, users: Accounts, guests: Guests, plane: ControlPlane
) -> AsyncIterator[None]:
    """Serve SupervisorService to the task manager's group, and to ourselves."""
    socket = places.supervisor_socket
    owner = users.service("taskmanager")
    group = Account("", os.geteuid(), owner.gid) if users.are_separate else owner
    layout.make_directory(socket.parent, mode=0o750, account=group)
    service = SupervisorService(guests, plane)
    server: Server = build_local_server(
        socket,
        register=lambda into: rpc_grpc.add_SupervisorServiceServicer_to_server(service, into),
    )
    if group.uid is not None and group.gid is not None:
        os.chown(socket, group.uid, group.gid)
    socket.chmod(0o660)
    await server.start()
    try:
        yield
    finally:
        await server.stop(1.0)
        layout.remove_tree(places.run)


def held_lock(state: Path) -> contextlib.AbstractContextManager[None]:
    """The lock of a state directory, which is made when it is not there."""
    state.mkdir(mode=0o711, parents=True, exist_ok=True)
    return lock.held(Layout(state).lock)
