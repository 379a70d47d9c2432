"""One installation with an observer: begins operations, kills at boundaries, brings back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import grpc

from pki.enrolment import enrol_service
from tests.acceptance.engine_clients import CLIENTS, DATABASE, PASSWORD, USER
from tests.acceptance.installation import PROJECT, Installation, eventually, installation
from tests.chaos.observer import FINISH, Moment, Observer, Point, Trap, boundaries, identity_below
from trove_grpc.gen.conductor.v1 import instance_service_pb2 as views
from trove_grpc.gen.conductor.v1 import instance_service_pb2_grpc as views_rpc
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2 as supervisor
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2_grpc as supervisor_rpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory, channel_credentials, expected_server
from trovectl import ports, procfs
from trovectl.layout import Layout

_BOUNDARY_SECONDS = 90.0
_RESTART_SECONDS = 10.0
_POLL_SECONDS = 0.1
_AWAY = 503
_BUSY = 422
# Each cell of resize_volume makes one instance larger by 1 GiB.
_MOST_GIB = 10_000
# Of a configuration group: what each engine takes while it runs.
_VALUES = {
    "postgresql": {"work_mem": 8192},
    "mariadb": {"wait_timeout": 1000},
    "redis": {"timeout": 1000},
}
_OPEN = (resources_pb2.OPERATION_STATE_PENDING, resources_pb2.OPERATION_STATE_RUNNING)


class NotAsPromisedError(AssertionError):
    """A cell's outcome differs from an undisturbed operation's."""


@dataclasses.dataclass(slots=True)
class Lane:
    """An installation, its observer and the operator's view of it."""

    plane: Installation
    observer: Observer
    places: Layout
    datastore: str
    conductor: views_rpc.InstanceServiceStub

    # What the operator asks.

    def operations(self, instance_id: str) -> list[resources_pb2.Operation]:
        """Newest first; waits while the conductor is away."""
        request = views.ListOperationsRequest(instance_id=instance_id, page_size=100)
        answer = self._asked(lambda: self.conductor.ListOperations(request, timeout=5))
        return list(answer.operations)

    def quota(self) -> dict[str, tuple[int, int]]:
        """Of the test's project: resource -> (in use, reserved)."""
        request = views.GetQuotaRequest(tenant_id=PROJECT)
        answer = self._asked(lambda: self.conductor.GetQuota(request, timeout=5))
        return {each.resource: (each.in_use, each.reserved) for each in answer.resources}

    def _asked(self, question: Any) -> Any:
        def answer() -> Any:
            try:
                return question()
            except grpc.RpcError as error:
                if error.code() not in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                ):
                    raise
                return None

        return eventually(answer, "the conductor answers", within=60)

    def processes(self) -> dict[str, supervisor.Process]:
        with self._supervisor() as stub:
            answer = stub.ListProcesses(supervisor.ListProcessesRequest(), timeout=10)
            return {process.name: process for process in answer.processes}

    def guests(self) -> list[supervisor.Guest]:
        with self._supervisor() as stub:
            return list(stub.ListGuests(supervisor.ListGuestsRequest(), timeout=10).guests)

    def address_of(self, instance_id: str) -> str:
        return next((g.address for g in self.guests() if g.instance_id == instance_id), "")

    @contextlib.contextmanager
    def _supervisor(self) -> Iterator[supervisor_rpc.SupervisorServiceStub]:
        with grpc.secure_channel(
            f"unix:{self.places.supervisor_socket}",
            grpc.local_channel_credentials(grpc.LocalConnectionType.UDS),
        ) as channel:
            yield supervisor_rpc.SupervisorServiceStub(channel)

    def pid_of(self, process: str, instance_id: str) -> int:
        """0 while it does not run."""
        if process == "agent":
            return next((g.agent_pid for g in self.guests() if g.instance_id == instance_id), 0)
        return self.processes()[process].pid

    # What the harness does to it.

    def kill(self, process: str, instance_id: str) -> int:
        """kill -9; returns the pid that is dead now."""
        pid = eventually(lambda: self.pid_of(process, instance_id), f"{process} runs", within=60)
        target = procfs.identify(pid)
        assert target is not None, f"{process} {pid} died by itself"
        assert procfs.send(target, signal.SIGKILL)
        eventually(lambda: not procfs.is_alive(target), f"{process} {pid} dead", within=10)
        return int(pid)

    def await_restart(
        self, process: str, instance_id: str, dead: int, killed_at: float, *, pause: float = 0.0
    ) -> float:
        """Seconds from `killed_at` to readiness; fails when it took too long.

        `pause`: how long the supervisor may wait before its next try.
        """
        if process == "agent":

            def is_back() -> bool:
                # Removed with its guest before it came back: nothing to wait for.
                if all(guest.instance_id != instance_id for guest in self.guests()):
                    return True
                return self.pid_of(process, instance_id) not in (0, dead)
        else:

            def is_back() -> bool:
                found = self.processes()[process]
                return found.is_ready and found.pid != dead

        eventually(
            is_back, f"{process} restarted by the supervisor", within=_RESTART_SECONDS + pause
        )
        return time.monotonic() - killed_at

    @contextlib.contextmanager
    def kept_down(self, process: str, instance_id: str) -> Iterator[None]:
        """Take its settings away, so that every restart ends at once; then give them back."""
        if process == "agent":
            settings = self.places.guest(instance_id) / "agent.toml"
        else:
            settings = self.places.process(process) / "config.toml"
        aside = settings.with_name(f"{settings.name}.aside")
        settings.rename(aside)
        try:
            yield
        finally:
            if aside.exists() and not settings.exists():
                aside.rename(settings)
            else:  # the guest is gone, or was built anew
                aside.unlink(missing_ok=True)

    def await_rest(self, instance_id: str) -> int:
        """What REST answers about the instance once its own peers are back for it, too.

        A channel to a process that has just come back may pause a few seconds before it looks.
        """

        def code() -> int | None:
            try:
                found, _ = self.plane.request("GET", f"/instances/{instance_id}")
            except OSError:
                return None
            return None if found == _AWAY else found

        return int(eventually(code, "REST answers about the instance", within=15))

    # Operations, begun as users begin them.

    def begin(self, operation: str, instance_id: str) -> str:
        """Start it through REST; the instance's id. A new kind of operation needs a line here."""
        if operation == "create_instance":
            status, body = self.plane.request("POST", "/instances", new_instance(self.datastore))
            assert status == 200, body
            return str(body["instance"]["id"])
        if operation == "delete_instance":
            status, body = self.plane.request("DELETE", f"/instances/{instance_id}")
            assert status == 202, body
            return instance_id
        if operation in ("restart_instance", "resize_volume", "resize_flavor"):
            self._act(instance_id, self._action(operation, instance_id))
            return instance_id
        if operation == "apply_configuration":
            self._change(instance_id, {"configuration": self._other_group(instance_id)})
            return instance_id
        raise NotAsPromisedError(
            f"the task manager has an operation {operation!r} that tests/chaos cannot begin: "
            "add it to Lane.begin, and to MAKES or ENDS in matrix.py if it makes or ends instances"
        )

    def _act(self, instance_id: str, action: dict[str, Any]) -> None:
        self._ask("POST", f"/instances/{instance_id}/action", action)

    def _change(self, instance_id: str, change: dict[str, Any]) -> None:
        self._ask("PUT", f"/instances/{instance_id}", {"instance": change})

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> None:
        """As soon as it may begin: an agent that has just come back knows no engine yet."""

        def is_begun() -> bool:
            status, answer = self.plane.request(method, path, body)
            assert status in (202, _BUSY), answer
            return status == 202

        eventually(is_begun, f"{body} is accepted", within=15)

    def _other_group(self, instance_id: str) -> str | None:
        """None for an instance that has a configuration group, a new group for one without."""
        if "configuration" in self.plane.instance(instance_id):
            return None
        group = {
            "name": "chaos",
            "values": _VALUES[self.datastore],
            "datastore": {"type": self.datastore},
        }
        status, body = self.plane.request("POST", "/configurations", {"configuration": group})
        assert status == 200, body
        return str(body["configuration"]["id"])

    def _action(self, operation: str, instance_id: str) -> dict[str, Any]:
        """A volume one larger, a flavor that is the other of two."""
        if operation == "restart_instance":
            return {"restart": {}}
        found = self.plane.instance(instance_id)
        if operation == "resize_volume":
            return {"resize": {"volume": {"size": found["volume"]["size"] + 1}}}
        return {"resize": {"flavorRef": "2" if found["flavor"]["id"] == "1" else "1"}}

    def await_end(
        self, instance_id: str, kind: str, *, within: float = 180
    ) -> resources_pb2.Operation:
        def ended() -> resources_pb2.Operation | None:
            newest = self.operations(instance_id)[0]
            return newest if newest.kind == kind and newest.state not in _OPEN else None

        found: resources_pb2.Operation = eventually(ended, f"{kind} ended", within=within)
        return found

    def undisturbed(self, kind: str, instance_id: str) -> tuple[str, list[tuple[str, Point]]]:
        """Run one operation in peace; its instance and the boundaries it has."""
        instance_id = self.begin(kind, instance_id)
        operation = self.await_end(instance_id, kind)
        if operation.state != resources_pb2.OPERATION_STATE_SUCCEEDED:
            raise NotAsPromisedError(f"{kind} fails undisturbed: {operation}")
        # The conductor knew of the end before its answer passed the observer.
        eventually(
            lambda: any(each.step == FINISH for each in self.journal_of(operation.id)),
            "the end of the operation passed",
            within=10,
        )
        return instance_id, list(boundaries(self.observer.journal, operation.id))

    def journal_of(self, operation_id: str) -> list[Moment]:
        return [each for each in self.observer.journal if each.operation_id == operation_id]

    @contextlib.contextmanager
    def trap(self, step: str, point: Point) -> Iterator[Trap]:
        trap = Trap(step, point)
        self.observer.set_trap(trap)
        try:
            yield trap
        finally:
            self.observer.set_trap(None)
            trap.release()

    def await_boundary(self, trap: Trap) -> None:
        if not trap.reached.wait(_BOUNDARY_SECONDS):
            raise NotAsPromisedError(f"{trap.step}/{trap.point} was never reached")


class StatusWatch:
    """What REST showed of an instance while an operation ran."""

    def __init__(self, plane: Installation, instance_id: str) -> None:
        self.statuses: list[str] = []
        self.answers: list[int] = []
        self._plane = plane
        self._instance_id = instance_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(_POLL_SECONDS * 3):
            try:
                code, body = self._plane.request("GET", f"/instances/{self._instance_id}")
            except (OSError, http.client.HTTPException, json.JSONDecodeError):
                continue  # REST itself may be the dead one
            if code not in self.answers:
                self.answers.append(code)
            if code == 200:
                status = body["instance"]["status"]
                if [status] != self.statuses[-1:]:
                    self.statuses.append(status)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)


def new_instance(datastore: str) -> dict[str, Any]:
    user: dict[str, Any] = {"name": USER, "password": PASSWORD}
    instance = {
        "name": "chaos",
        "flavorRef": "1",
        "volume": {"size": 1},
        "datastore": {"type": datastore},
        "users": [user],
    }
    if CLIENTS[datastore].has_databases:
        instance["databases"] = user["databases"] = [{"name": DATABASE}]
    return {"instance": instance}


@contextlib.contextmanager
def lane(datastore: str = "postgresql", **settings: str) -> Iterator[Lane]:
    """An installation whose task manager reaches its conductor through an observer."""
    listen = f"127.0.0.1:{ports.choose(taken=set())}"
    folder = Path(tempfile.mkdtemp(prefix="trove-chaos-"))
    settings["taskmanager__conductor"] = f'["{listen}"]'
    settings["conductor__max_volume_size"] = str(_MOST_GIB)
    settings["conductor__quotas"] = f"{{ volumes = {_MOST_GIB} }}"
    try:
        with installation(**settings) as plane, contextlib.ExitStack() as stack:
            places = Layout(plane.state)
            conductor = f"127.0.0.1:{json.loads(places.ports.read_text())['conductor']}"
            as_conductor = identity_below(folder, "conductor")
            as_taskmanager = identity_below(folder, "taskmanager")
            for role, identity in (
                (Role.CONDUCTOR, as_conductor),
                (Role.TASKMANAGER, as_taskmanager),
            ):
                asyncio.run(enrol_service(places.operator_socket, role, "observer", identity))
            observer = Observer(
                listen, conductor, as_conductor=as_conductor, as_taskmanager=as_taskmanager
            )
            stack.callback(observer.close)
            operator = IdentityDirectory(places.operator)
            channel = grpc.secure_channel(
                conductor,
                channel_credentials(operator.bundle(), operator.load()),
                options=(
                    ("grpc.enable_http_proxy", 0),
                    ("grpc.max_reconnect_backoff_ms", 500),
                    expected_server(operator.bundle(), Role.CONDUCTOR),
                ),
            )
            stack.callback(channel.close)
            yield Lane(plane, observer, places, datastore, views_rpc.InstanceServiceStub(channel))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def step_names(points: Sequence[tuple[str, Point]]) -> list[str]:
    """The steps among boundaries, in order, without the operation's own end."""
    return list(dict.fromkeys(step for step, _ in points if step != FINISH))
