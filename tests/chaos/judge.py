"""Whether an operation ended as if nothing had happened. Every check names what it found."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.acceptance.engine_clients import CLIENTS
from tests.acceptance.installation import eventually
from tests.chaos.lane import Lane, NotAsPromisedError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.tls import IdentityDirectory, anchors
from trovectl import procfs
from trovectl.records import Records

_SETTLES_SECONDS = 30.0


def succeeded(operation: resources_pb2.Operation, names: Sequence[str]) -> None:
    """It ended well, and its public record reads like an undisturbed one's."""
    state = resources_pb2.OperationState.Name(operation.state)
    if operation.state != resources_pb2.OPERATION_STATE_SUCCEEDED:
        raise NotAsPromisedError(
            f"the operation ended as {state}: {operation.fault.message}\n{operation.fault.details}"
        )
    expect("faults", operation.HasField("fault"), False)
    expect("steps", [step.name for step in operation.steps], list(names))
    for step in operation.steps:
        name = resources_pb2.StepState.Name(step.state)
        expect(f"state of {step.name}", name, "STEP_STATE_SUCCEEDED")
        expect(f"{step.name} has an end", step.HasField("end_time"), True)
        expect(f"detail of {step.name}", step.detail, "")


def unharmed(statuses: Sequence[str], codes: Sequence[int]) -> None:
    """Nobody who looked saw an error, whichever process was dead."""
    if "ERROR" in statuses:
        raise NotAsPromisedError(f"REST showed ERROR in between: {statuses}")
    if 500 in codes:
        raise NotAsPromisedError(f"REST answered 500 in between: {codes}")


def alive(lane: Lane, instance_id: str) -> None:
    """One whole instance: connectable, and exactly one of everything it consists of."""
    lane.await_rest(instance_id)
    found = lane.plane.await_healthy(instance_id, within=_SETTLES_SECONDS)
    eventually(
        lambda: all(process.is_ready for process in lane.processes().values()),
        "every process ready",
        within=_SETTLES_SECONDS,
    )
    guests = lane.guests()
    expect("guests", [guest.instance_id for guest in guests], [instance_id])
    expect("addresses in REST", list(found["ip"]), [guests[0].address])
    expect("the guest has an identity", guests[0].has_identity, True)
    folders = sorted(path.name for path in lane.places.guests.iterdir())
    expect("guest directories", folders, [instance_id])
    agents = _running(lane, instance_id, "guestagent")
    expect("agents", agents, [guests[0].agent_pid])
    launchers = _running(lane, instance_id, "guestagent.launcher")
    if len(launchers) > 1:
        raise NotAsPromisedError(f"several launchers: {launchers}")
    connect(lane, guests[0].address)
    expect("engines", len(_engines(lane, instance_id)), 1)
    held = {"instances": (1, 0), "volumes": (found["volume"]["size"], 0)}
    expect("quota", _used(lane), held)
    with _issuer(lane) as issuer:
        expect("subject", _subject(issuer, instance_id), "ACTIVE")
        expect("guest certificates in force", _live(issuer, instance_id, "GUEST"), ["CURRENT"])
        expect("usable tokens", _tokens(issuer, instance_id), 0)


def connect(lane: Lane, address: str) -> None:
    """As a tenant, with the engine's own client and full verification."""
    client = CLIENTS[lane.datastore]
    statement = "SELECT 1" if client.has_databases else "PING"
    bundle = IdentityDirectory(lane.places.operator).bundle()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root.pem"
        root.write_bytes(anchors(bundle, {trust_pb2.AUTHORITY_KIND_DATABASE_ROOT}))
        said = client.ask(address, statement, Path(folder), root=str(root))
    if not said.is_in:
        raise NotAsPromisedError(f"the tenant is not let in: {said.text}")


def gone(lane: Lane, instance_id: str, address: str) -> None:
    """Nothing is left but the records of what was."""
    expect("GET of the deleted instance", lane.await_rest(instance_id), 404)
    expect("quota", _used(lane), {"instances": (0, 0), "volumes": (0, 0)})
    nothing_left(lane, instance_id, address)


def nothing_left(lane: Lane, instance_id: str, address: str) -> None:
    """No process, port, address, file or identity; the record may still be there."""
    expect("guests", [guest.instance_id for guest in lane.guests()], [])
    expect("guest directories", [path.name for path in lane.places.guests.iterdir()], [])
    expect("run directory", lane.places.guest_run(instance_id).exists(), False)
    expect("logs", [path.name for path in lane.places.log("x").parent.glob("guest-*")], [])
    left = [procfs.arguments(each.pid) for each in procfs.under(lane.places.guest(instance_id))]
    expect("processes", left, [])
    records = Records(lane.places.records)
    records.load()
    expect("records", [name for name in records.names() if name.startswith("guest-")], [])
    if address:
        port = CLIENTS[lane.datastore].port
        with socket.socket() as probe:
            probe.settimeout(2)
            expect(f"{address}:{port} refuses", probe.connect_ex((address, port)) != 0, True)
    with _issuer(lane) as issuer:
        if _subject(issuer, instance_id) not in ("RETIRED", "unknown"):
            raise NotAsPromisedError("the subject was not retired")
        expect("usable tokens", _tokens(issuer, instance_id), 0)
        expect("guest certificates in force", _live(issuer, instance_id, "GUEST"), [])


def comes_to_nothing(lane: Lane, instance_id: str, address: str) -> None:
    """As `nothing_left`, once what was away is back and has been tidied after."""
    last = ""

    def nothing() -> bool:
        nonlocal last
        try:
            nothing_left(lane, instance_id, address)
        except NotAsPromisedError as error:
            last = str(error)
            return False
        return True

    try:
        eventually(nothing, "nothing left", within=_SETTLES_SECONDS)
    except AssertionError as error:
        raise NotAsPromisedError(f"{error}: {last}") from None


def failed_with_reason(
    lane: Lane, instance_id: str, operation: resources_pb2.Operation, *, status: str
) -> None:
    """Failed, and every place a person looks at says why and what to do."""
    expect(
        "operation state",
        resources_pb2.OperationState.Name(operation.state),
        "OPERATION_STATE_FAILED",
    )
    lane.await_rest(instance_id)
    found = lane.plane.instance(instance_id)
    expect("status", found["status"], status)
    for part in ("Step: ", "Cause: ", "Next: "):
        if part not in operation.fault.details:
            raise NotAsPromisedError(f"the fault does not say {part!r}: {operation.fault}")
    expect("fault in REST", found["fault"]["message"], operation.fault.message)


def expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise NotAsPromisedError(f"{what}: {found!r}, wanted {wanted!r}")


def _used(lane: Lane) -> dict[str, tuple[int, int]]:
    return {
        name: value for name, value in lane.quota().items() if name in ("instances", "volumes")
    }


def _running(lane: Lane, instance_id: str, module: str) -> list[int]:
    return _first(lane, instance_id, lambda argv: module in argv)


def _engines(lane: Lane, instance_id: str) -> list[int]:
    program = CLIENTS[lane.datastore].program
    return _first(
        lane,
        instance_id,
        # Redis shows its address in the same word.
        lambda argv: bool(argv) and argv[0].partition(" ")[0].endswith(program),
    )


def _first(lane: Lane, instance_id: str, is_meant: Callable[[list[str]], bool]) -> list[int]:
    """The guest's processes that are meant, without the forks they make of themselves."""
    found = {
        each.pid: procfs.parent(each.pid)
        for each in procfs.under(lane.places.guest(instance_id))
        if is_meant(procfs.arguments(each.pid))
    }
    return [pid for pid, parent in found.items() if parent not in found]


@contextlib.contextmanager
def _issuer(lane: Lane) -> Iterator[sqlite3.Connection]:
    """Read-only: the issuer has no call that lists subjects or tokens."""
    path = lane.places.process("issuer") / "issuer.db"
    with contextlib.closing(
        sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    ) as open_:
        yield open_


def _subject(issuer: sqlite3.Connection, instance_id: str) -> str:
    row = issuer.execute(
        "SELECT state FROM subjects WHERE instance_id = ?", (instance_id,)
    ).fetchone()
    return str(row[0]) if row else "unknown"


def _live(issuer: sqlite3.Connection, instance_id: str, kind: str) -> list[str]:
    rows = issuer.execute(
        "SELECT state FROM certificates WHERE instance_id = ? AND upper(kind) = ? "
        "AND state IN ('PENDING', 'CURRENT')",
        (instance_id, kind),
    )
    return [row[0] for row in rows]


def _tokens(issuer: sqlite3.Connection, instance_id: str) -> int:
    """How many a stranger could still enrol with."""
    row = issuer.execute(
        "SELECT count(*) FROM tokens WHERE instance_id = ? AND used_at IS NULL "
        "AND void_time IS NULL",
        (instance_id,),
    ).fetchone()
    return int(row[0])
