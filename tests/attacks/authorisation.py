"""Calls that the caller may not make, and reports about somebody else."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Callable

from tests.attacks.case import CLOSED, HARMLESS, PD, REFUSED, Attack, Trail
from tests.attacks.scene import BUNDLE, CONNECT, ISSUER, SEND, AttackerSession, Guest, Scene
from tests.attacks.wire import Answer
from trove_grpc import authorization
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2 as dispatch_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.identity import Role

_CONDUCTOR = "/trove.conductor.v1"
_SESSION = "/trove.guest.v1.GuestSessionService"
INTERNAL = ("issuer", "conductor", "taskmanager", "gateway")


def _calls(method: str) -> Callable[[Scene], Answer]:
    return lambda scene: scene.call(method, b"")


def _calls_unnamed(method: str) -> Callable[[Scene], Answer]:
    """Without any certificate, where none is asked for."""
    return lambda scene: scene.call(method, b"", listener="enrolment", source=scene.source())


def _shows_itself_to(listener: str) -> Callable[[Scene], Answer]:
    return lambda scene: scene.call(BUNDLE, b"", listener=listener)


def _as(service: str, listener: str, method: str) -> Callable[[Scene], Answer]:
    """A stolen service or operator identity, at a door that it may knock at."""

    def run(scene: Scene) -> Answer:
        material = scene.operator if service == "operator" else scene.service(service)
        return scene.call(method, b"", material, listener=listener)

    return run


def _may_not(role: str, listener: str, method: str) -> Attack:
    return Attack(
        name=f"the {role}'s identity calls {method.rpartition('/')[2]} of the {listener}",
        threat=f"one stolen identity, the {role}'s, is as good as all of them",
        run=_as(role, listener, method),
        expect=(PD,),
        reason="PERMISSION_DENIED",
        listener=listener,
        cases=(34,),
    )


def unknown_fields(**texts: str) -> bytes:
    """Protobuf fields no message of ours has: 100, 101, … as text."""
    data = b""
    for number, text in enumerate(texts.values(), start=100):
        key = (number << 3) | 2
        value = text.encode()
        assert len(value) < 128
        data += bytes([(key & 0x7F) | 0x80, key >> 7, len(value)]) + value
    return data


def _reports_for(guest: Callable[[Scene], Guest]) -> Callable[[Scene], Answer]:
    """Heartbeats that name another instance in fields an older API may have had."""

    def run(scene: Scene) -> Answer:
        victim = guest(scene)
        with scene.session() as session:
            observation = engine_pb2.Observation(state=engine_pb2.ENGINE_STATE_CRASHED)
            heartbeat = guest_pb2.Heartbeat(observation=observation).SerializeToString()
            heartbeat += unknown_fields(instance_id=victim.id, tenant_id=victim.tenant, epoch="9")
            message = guest_pb2.ConnectRequest(
                sequence=2, heartbeat=guest_pb2.Heartbeat.FromString(heartbeat)
            )
            data = message.SerializeToString() + unknown_fields(
                instance_id=victim.id, session_epoch="999"
            )
            session.connection.write(session.stream, data)
            return session.outcome()

    return run


def _backup(scene: Scene, guest: Guest, state: str) -> str:
    """A backup in the conductor's own tables: its services come with backups."""
    backup_id = str(uuid.uuid4())
    path = scene.plane.state / "conductor" / "conductor.db"
    columns = [row[1:4] for row in scene.read("conductor", "PRAGMA table_info(backups)")]
    known = {
        "id": backup_id,
        "tenant_id": guest.tenant,
        "instance_id": guest.id,
        "name": "nightly",
        "state": state,
        "location": "object-store/here",
    }
    now = "2026-01-01 00:00:00.000000"
    row = {
        name: known.get(name, now if "time" in name else (0 if "INT" in kind else ""))
        for name, kind, _ in columns
        if name not in ("delete_time", "parent_id")
    }
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as database, database:
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        database.execute(
            f"INSERT INTO backups ({names}) VALUES ({marks})",  # noqa: S608  our own names
            list(row.values()),
        )
    return backup_id


def _updates_backup(
    whose: Callable[[Scene], Guest], state: str, told: int = guest_pb2.BACKUP_STATE_FAILED
) -> Callable[[Scene], Answer]:
    def run(scene: Scene) -> Answer:
        backup_id = _backup(scene, whose(scene), state)
        scene.mark()
        with scene.session() as session:
            return _send_update(session, backup_id, told)

    return run


def _updates_no_backup(backup_id: str) -> Callable[[Scene], Answer]:
    def run(scene: Scene) -> Answer:
        with scene.session() as session:
            return _send_update(session, backup_id, guest_pb2.BACKUP_STATE_COMPLETED)

    return run


def _send_update(session: AttackerSession, backup_id: str, told: int) -> Answer:
    update_id = f"update-{uuid.uuid4()}"
    session.send(
        backup_update=guest_pb2.BackupUpdate(
            update_id=update_id,
            backup_id=backup_id,
            state=told,
            size_bytes=-1,
            checksum="x" * 500,
            reason="\x00" + "r" * 5000,
        )
    )
    acknowledged = session.expect("acknowledgement")
    assert acknowledged is not None, session.answer
    assert acknowledged.id == update_id
    return session.outcome(seconds=0.2)


def _extra_backup_fields(scene: Scene) -> Answer:
    """Its own running backup, with the fields upstream let a guest set."""
    backup_id = _backup(scene, scene.attacked, "BUILDING")
    before = scene.read(
        "conductor", "SELECT tenant_id, location FROM backups WHERE id = ?", backup_id
    )
    with scene.session() as session:
        session.send()
        update = guest_pb2.BackupUpdate(
            update_id=f"u-{uuid.uuid4()}",
            backup_id=backup_id,
            state=guest_pb2.BACKUP_STATE_COMPLETED,
        ).SerializeToString()
        update += unknown_fields(tenant_id="other", location="elsewhere", deleted="1")
        message = guest_pb2.ConnectRequest(
            sequence=9, backup_update=guest_pb2.BackupUpdate.FromString(update)
        )
        session.connection.write(session.stream, message.SerializeToString())
        assert session.expect("acknowledgement") is not None, session.answer
        answer = session.outcome(seconds=0.2)
    after = scene.read(
        "conductor", "SELECT tenant_id, location FROM backups WHERE id = ?", backup_id
    )
    assert before == after
    return answer


REFUSED_REPORT = Trail(metric="trove_gateway_dropped_total", labels=(("what", "refused_report"),))
TAKEN = Trail(process="conductor", metric="trove_conductor_reports_total")

FORBIDDEN_METHODS = tuple(
    Attack(
        name=f"the guest's identity calls {method} on the guest port",
        threat="a guest reaches what services and operators may do",
        run=_calls(method),
        expect=(PD,),
        reason="PERMISSION_DENIED",
        cases=(27, 29) if method.startswith("/grpc.") else (27,),
        smoke=method.endswith(("/SendCommand", "/MintToken")),
    )
    for method, roles in authorization.CALLERS.items()
    if Role.GUEST not in roles
)
UNKNOWN_METHODS = tuple(
    Attack(
        name=f"an unknown method: {what}",
        threat="another answer would tell what exists, or reach a handler unguarded",
        run=_calls(method),
        expect=expect,
        cases=(28,),
    )
    for what, method, expect in (
        ("of our service", f"{_SESSION}/Nope", (PD,)),
        ("of no service", "/x/y", (PD,)),
        ("channelz", "/grpc.channelz.v1.Channelz/GetTopChannels", (PD,)),
        ("in other capitals", CONNECT.upper(), (PD,)),
        ("with a slash at the end", f"{CONNECT}/", (PD,)),
        ("with a step up", f"{_SESSION}/../IssuerService/MintToken", (PD,)),
        ("escaped", CONNECT.replace("Connect", "%43onnect"), (PD,)),
        ("of 7 KiB", "/" + "a" * 7000 + "/b", (PD,)),
        ("without a slash", "Connect", (PD, "UNIMPLEMENTED", "UNKNOWN", "NOT_FOUND", CLOSED)),
        ("empty", "", (PD, "UNIMPLEMENTED", "INTERNAL", "UNKNOWN", CLOSED)),
    )
)
INTERNAL_PORTS = tuple(
    Attack(
        name=f"the guest's certificate on the {listener}'s internal port",
        threat="a guest drives the control plane",
        run=_shows_itself_to(listener),
        expect=(REFUSED,),
        listener=listener,
        cases=(9, 27),
        smoke=listener == "issuer",
    )
    for listener in INTERNAL
)
ENROLMENT_PORT = tuple(
    Attack(
        name=f"anybody calls {method} on the enrolment port",
        threat="the port that asks for no certificate serves more than first identities",
        run=_calls_unnamed(method),
        expect=(PD,),
        reason="PERMISSION_DENIED",
        listener="enrolment",
        cases=(30,),
    )
    for method in (
        CONNECT,
        BUNDLE,
        "/trove.guest.v1.IdentityService/Renew",
        f"{ISSUER}/MintToken",
        f"{ISSUER}/EnrolService",
        f"{ISSUER}/CreateDenial",
        SEND,
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/x/y",
    )
)
STOLEN_SERVICES = (
    _may_not("conductor", "gateway", SEND),
    _may_not("api", "gateway", SEND),
    _may_not("operator", "gateway", SEND),
    _may_not("api", "issuer", f"{ISSUER}/MintToken"),
    _may_not("api", "issuer", f"{ISSUER}/RegisterSubject"),
    _may_not("conductor", "issuer", f"{ISSUER}/EnrolGuest"),
    _may_not("conductor", "issuer", f"{ISSUER}/CreateDenial"),
    _may_not("gateway", "issuer", f"{ISSUER}/MintToken"),
    _may_not("gateway", "issuer", f"{ISSUER}/RetireSubject"),
    _may_not("gateway", "issuer", f"{ISSUER}/CreateDenial"),
    _may_not("gateway", "issuer", f"{ISSUER}/EnrolService"),
    _may_not("taskmanager", "issuer", f"{ISSUER}/IssueOperatorCertificate"),
    _may_not("taskmanager", "issuer", f"{ISSUER}/RecordRefusals"),
    _may_not("operator", "issuer", f"{ISSUER}/EnrolService"),
    _may_not("operator", "issuer", f"{ISSUER}/IssueOperatorCertificate"),
    _may_not("taskmanager", "conductor", f"{_CONDUCTOR}.ReportService/OpenSession"),
    _may_not("gateway", "conductor", f"{_CONDUCTOR}.OperationService/GetOperationSecrets"),
    _may_not("api", "conductor", f"{_CONDUCTOR}.OperationService/GetOperationSecrets"),
    _may_not("operator", "conductor", f"{_CONDUCTOR}.OperationService/GetOperationSecrets"),
    _may_not("gateway", "conductor", f"{_CONDUCTOR}.InstanceService/DeleteInstance"),
    _may_not("operator", "conductor", f"{_CONDUCTOR}.InstanceService/CreateInstance"),
)
REPORTS = (
    Attack(
        name="heartbeats that name the neighbour in fields of an older API",
        threat="the attacker makes the neighbour look dead",
        run=_reports_for(lambda scene: scene.neighbour),
        expect=(HARMLESS,),
        trail=TAKEN,
        cases=(26,),
        own=True,
        smoke=True,
    ),
    Attack(
        name="an update of the neighbour's running backup",
        threat="the attacker breaks, or names as complete, a backup of another tenant",
        run=_updates_backup(lambda scene: scene.neighbour, "BUILDING"),
        expect=(HARMLESS,),
        trail=REFUSED_REPORT,
        cases=(31,),
        own=True,
    ),
    Attack(
        name="an update of the attacker's own finished backup",
        threat="a good backup is declared failed, a bad one good",
        run=_updates_backup(lambda scene: scene.attacked, "COMPLETED"),
        expect=(HARMLESS,),
        trail=REFUSED_REPORT,
        cases=(31,),
        own=True,
    ),
    Attack(
        name="an update of the attacker's own running backup to an unknown state",
        threat="a state no reader knows",
        run=_updates_backup(lambda scene: scene.attacked, "BUILDING", told=99),
        expect=(HARMLESS,),
        trail=REFUSED_REPORT,
        cases=(31,),
        own=True,
    ),
    Attack(
        name="an update of the attacker's own backup with fields that are not a guest's",
        threat="a backup moves to another tenant or place",
        run=_extra_backup_fields,
        expect=(HARMLESS,),
        trail=TAKEN,
        cases=(31,),
        own=True,
        changes=("backups",),
    ),
    Attack(
        name="an update of a backup whose id is SQL",
        threat="every backup is updated",
        run=_updates_no_backup("' OR '1'='1"),
        expect=(HARMLESS,),
        trail=REFUSED_REPORT,
        cases=(62,),
        own=True,
    ),
    Attack(
        name="an update of a backup whose id is a wildcard",
        threat="every backup is updated",
        run=_updates_no_backup("%"),
        expect=(HARMLESS,),
        trail=REFUSED_REPORT,
        cases=(62,),
        own=True,
    ),
)


def _commands_another(scene: Scene) -> Answer:
    """A whole, well-formed command to the neighbour, on the only port the guest reaches."""
    command = guest_pb2.Command(command_id="stop-it", stop=guest_pb2.StopAction())
    request = dispatch_pb2.SendCommandRequest(instance_id=scene.neighbour.id, command=command)
    return scene.call(SEND, request)


COMMANDS = (
    Attack(
        name="a whole command to stop the neighbour's engine",
        threat="the attacker stops another tenant's database",
        run=_commands_another,
        expect=(PD,),
        reason="PERMISSION_DENIED",
        cases=(27,),
        smoke=True,
    ),
)

ATTACKS = (
    *FORBIDDEN_METHODS,
    *UNKNOWN_METHODS,
    *INTERNAL_PORTS,
    *ENROLMENT_PORT,
    *STOLEN_SERVICES,
    *REPORTS,
    *COMMANDS,
)
