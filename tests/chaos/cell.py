"""One cell of the matrix: hold an operation at a boundary, kill, release, judge the outcome."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from tests.acceptance.installation import eventually
from tests.chaos import judge
from tests.chaos.lane import Lane, StatusWatch
from tests.chaos.matrix import ENDS, MAKES, Cell
from tests.chaos.observer import FINISH, Trap
from trove_grpc.gen.conductor.v1 import resources_pb2
from trovectl.children import Backoff

# Who holds one of the two ends of the call that waits: with them dead, the call is lost.
_HOLDERS = frozenset({"conductor", "taskmanager"})
# Every deadline so short that a process can stay down past it, and long enough for a busy machine.
DOWN_SETTINGS = {
    "taskmanager__agent_deadline": "10",
    "taskmanager__engine_deadline": "15",
    "taskmanager__outage_deadline": "6",
    "conductor__presence_deadline": "5",
    "conductor__heartbeat_interval": "1",
}
# Past the longest of them, and past an outage's of a step and of its undo.
_DOWN_SECONDS = 20.0
_END_SECONDS = 180.0


@dataclasses.dataclass(slots=True)
class Outcome:
    """What a cell came to; `failure` is empty when it kept the promise."""

    cell: Cell
    failure: str = ""
    seconds: float = 0.0
    # From the kill to readiness; of a process that stayed down, from the end of its cause.
    restart_seconds: float = 0.0
    note: str = ""
    statuses: list[str] = dataclasses.field(default_factory=list)


def run(lane: Lane, cell: Cell, instance_id: str, names: Sequence[str]) -> tuple[str, Outcome]:
    """Run a cell on the lane's instance ("" when it has none); returns the instance after it.

    `names` are the operation's steps as an undisturbed one shows them.
    """
    running = _Run(lane, cell, instance_id, names)
    began = time.monotonic()
    try:
        running.run()
    except Exception as error:  # a cell's failure is a line of the report, whatever it is
        running.outcome.failure = f"{type(error).__name__}: {error}"[:4000]
    running.outcome.seconds = time.monotonic() - began
    return running.instance_id, running.outcome


class _Run:
    """A cell being run."""

    def __init__(self, lane: Lane, cell: Cell, instance_id: str, names: Sequence[str]) -> None:
        self.outcome = Outcome(cell)
        self.instance_id = instance_id
        self._lane = lane
        self._cell = cell
        self._names = names
        self._address = ""

    def run(self) -> None:
        lane, cell = self._lane, self._cell
        self._address = lane.address_of(self.instance_id)
        with lane.trap(cell.step, cell.point) as trap:
            self.instance_id = lane.begin(cell.operation, self.instance_id)
            with StatusWatch(lane.plane, self.instance_id) as watch:
                self.outcome.statuses = watch.statuses
                lane.await_boundary(trap)
                self._address = lane.address_of(self.instance_id) or self._address
                if cell.stays_down:
                    self._keep_down(trap)
                else:
                    self._kill(trap)
                ended = lane.await_end(self.instance_id, cell.operation, within=_END_SECONDS)
        failed = ended.state != resources_pb2.OPERATION_STATE_SUCCEEDED
        if cell.stays_down and failed:
            self._judge_failed(ended)
            return
        judge.succeeded(ended, self._names)
        judge.unharmed(watch.statuses, watch.answers)
        if cell.operation in ENDS:
            self._judge_gone()
        else:
            judge.alive(lane, self.instance_id)

    def _kill(self, trap: Trap) -> None:
        lane, process = self._lane, self._cell.process
        killed_at = time.monotonic()
        dead = lane.kill(process, self.instance_id)
        trap.release(lost=process in _HOLDERS)
        self.outcome.restart_seconds = lane.await_restart(
            process, self.instance_id, dead, killed_at
        )

    def _keep_down(self, trap: Trap) -> None:
        """Down until the operation has ended, or past every deadline; then brought back."""
        lane, process = self._lane, self._cell.process
        with lane.kept_down(process, self.instance_id):
            dead = lane.kill(process, self.instance_id)
            killed_at = time.monotonic()
            trap.release(lost=process in _HOLDERS)

            def has_given_up() -> bool:
                seen = lane.journal_of(trap.operation_id)
                return time.monotonic() - killed_at > _DOWN_SECONDS or any(
                    moment.step == FINISH for moment in seen
                )

            eventually(has_given_up, "the operation ended or every deadline passed", within=60)
        given_back = time.monotonic()
        self.outcome.restart_seconds = lane.await_restart(
            process, self.instance_id, dead, given_back, pause=Backoff().longest
        )

    def _judge_failed(self, ended: resources_pb2.Operation) -> None:
        lane = self._lane
        self.outcome.note = f"ERROR: {ended.fault.message}"
        if self._cell.operation not in MAKES | ENDS:
            # It was undone: the instance serves as before, and says why it is no other.
            judge.failed_with_reason(lane, self.instance_id, ended, status="ACTIVE")
            judge.alive(lane, self.instance_id)
            return
        judge.failed_with_reason(lane, self.instance_id, ended, status="ERROR")
        if self._cell.operation in MAKES:
            judge.comes_to_nothing(lane, self.instance_id, self._address)
        # The record and its quota go when its owner deletes it, and that works.
        lane.undisturbed("delete_instance", self.instance_id)
        self._judge_gone()

    def _judge_gone(self) -> None:
        judge.gone(self._lane, self.instance_id, self._address)
        self.instance_id = ""


def clean(lane: Lane, instance_id: str) -> None:
    """Delete what a cell left, so that the next begins with nothing."""
    address = lane.address_of(instance_id)
    lane.undisturbed("delete_instance", instance_id)
    judge.gone(lane, instance_id, address)
