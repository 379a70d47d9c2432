"""What the attacker says on a stream of its own: clones, replays, forged answers, floods.

The stream is the attacker's by right, so most of this is accepted and comes to nothing: what is
checked is that nothing but its own instance changes, and that the session goes on or ends as it
should.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.attacks.case import (
    AE,
    HARMLESS,
    IA,
    PD,
    RE,
    UA,
    Attack,
    Trail,
)
from tests.attacks.scene import CONNECT, SEND, AttackerSession, Scene, serial_of
from tests.attacks.wire import Answer
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2 as dispatch_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.identity import key_hash
from trove_grpc.tls import KeyMaterial

_HEALTHY = engine_pb2.ENGINE_STATE_HEALTHY
_LARGEST = 2**63 - 1
DROPPED_RESULT = Trail(
    metric="trove_gateway_dropped_total", labels=(("what", "late_command_result"),)
)
DROPPED_LOG = Trail(metric="trove_gateway_dropped_total", labels=(("what", "log_chunk"),))
# What the caller of such a command hears is counted where it asked.
ANSWERED = Trail(metric="trove_rpc_seconds_count", labels=(("method", SEND),))
# gRPC ends the call before any code of ours has the message.
ENDED = Trail(metric="trove_gateway_sessions_ended_total")
TAKEN = Trail(process="conductor", metric="trove_conductor_reports_total")


def _observed(**fields: object) -> engine_pb2.Observation:
    return engine_pb2.Observation(**{"state": _HEALTHY, **fields})


def _acknowledged(session: AttackerSession) -> bool:
    """Whether an honest change still goes through on this session."""
    change = guest_pb2.Change(change_id=f"c-{uuid.uuid4()}", observation=_observed())
    session.send(change=change)
    told = session.expect("acknowledgement")
    return told is not None and told.id == change.change_id


# Who may have a stream.


def _second_boot(scene: Scene) -> Answer:
    """The same identity from another boot, while the first answers."""
    with scene.session() as first:
        assert first.is_open, first.answer
        with scene.connect() as second:
            stream = second.begin(CONNECT, deadline="")
            hello = guest_pb2.Hello(boot_id="another", machine_id_hash="copy")
            second.write(
                stream, guest_pb2.ConnectRequest(sequence=1, hello=hello).SerializeToString()
            )
            command = first.expect("command")
            assert command is not None, "the gateway asks the first one whether it lives"
            first.send(
                command_result=guest_pb2.CommandResult(
                    command_id=command.command_id, ping=guest_pb2.PingResult()
                )
            )
            answer = second.result(stream)
        assert first.outcome(seconds=0.2).verdict == HARMLESS, "the first one lives on"
        return answer


def _takeover(scene: Scene) -> Answer:
    """The same boot again: the half-dead stream gives way, exactly one is left."""
    with scene.session() as first, scene.session() as second:
        assert second.is_open, second.answer
        goodbye = first.expect("goodbye")
        assert goodbye is not None
        assert goodbye.reason == guest_pb2.GOODBYE_REASON_HANDOVER
        return second.outcome(seconds=0.2)


def _many_streams(scene: Scene) -> Answer:
    """A dozen streams over several connections, none of which ever reads its status."""
    connections = [scene.connect() for _ in range(4)]
    try:
        streams = [
            (connection, connection.begin(CONNECT, deadline=""))
            for connection in connections
            for _ in range(4)
        ]
        answers = [connection.result(stream, seconds=0.3) for connection, stream in streams]
        return next(each for each in answers if each.verdict == RE)
    finally:
        for connection in connections:
            connection.close()


def _for_instance(instance: Callable[[Scene], tuple[str, str]]) -> Callable[[Scene], Answer]:
    """A well-made certificate that the conductor's records do not back."""

    def run(scene: Scene) -> Answer:
        material = scene.forge.sign(scene.forge.guest(*instance(scene)))
        with scene.session(material) as session:
            return session.answer if session.stream == 0 else session.ended()

    return run


def _deleted(scene: Scene) -> Answer:
    doomed = scene.doomed("deleted", is_silent=False)
    stolen = scene.identity_of(doomed)
    status, _ = scene.plane.request("DELETE", f"/instances/{doomed.id}")
    assert status == 202
    scene.plane.await_gone(doomed.id)
    scene.mark()
    with scene.session(stolen) as session:
        return session.ended()


# Revocation.


def _revoked(kind: int, *, tenant: str = "") -> Callable[[Scene], Answer]:
    """Deny a guest with an open stream; it must end, and nothing may open again."""

    def run(scene: Scene) -> Answer:
        if kind in (issuer_pb2.DENIAL_KIND_INSTANCE, issuer_pb2.DENIAL_KIND_TENANT):
            guest = scene.doomed("denied", tenant=tenant or "acceptance")
            material = scene.identity_of(guest)
        else:
            guest = scene.attacked
            material = scene.forge.sign(scene.forge.guest(guest.tenant, guest.id))
        value = {
            issuer_pb2.DENIAL_KIND_SERIAL: lambda: serial_of(material),
            issuer_pb2.DENIAL_KIND_KEY: lambda: _key_hash(material),
            issuer_pb2.DENIAL_KIND_INSTANCE: lambda: guest.id,
            issuer_pb2.DENIAL_KIND_TENANT: lambda: guest.tenant,
        }[kind]()
        with scene.session(material) as session:
            assert session.is_open, session.answer
            scene.deny(kind, value)
            began = time.monotonic()
            scene.mark()
            answer = session.ended(seconds=5)
            name = issuer_pb2.DenialKind.Name(kind).removeprefix("DENIAL_KIND_").lower()
            scene.notes.append(
                f"a stream ended {time.monotonic() - began:.2f} s after its {name} was denied "
                "(poll of 0.2 s)"
            )
        again = scene.show(material)
        assert (again.verdict, again.reason) == (UA, "CERTIFICATE_DENIED"), again
        return answer

    return run


def _key_hash(material: KeyMaterial) -> str:
    return key_hash(material.leaf.public_key())


# What is said first.


def _hello(*, is_admitted: bool, **hello: object) -> Callable[[Scene], Answer]:
    def run(scene: Scene) -> Answer:
        with scene.session(**hello) as session:
            if is_admitted:
                assert session.is_open, session.answer
                return session.outcome(seconds=0.2)
            return session.ended()

    return run


def _raw_first(data: bytes) -> Callable[[Scene], Answer]:
    """Anything but a Hello as the first message."""

    def run(scene: Scene) -> Answer:
        with scene.connect() as connection:
            stream = connection.begin(CONNECT)
            connection.write(stream, data)
            return connection.result(stream)

    return run


def _second_hello(scene: Scene) -> Answer:
    with scene.session() as session:
        session.send(hello=guest_pb2.Hello(boot_id="again"))
        return session.ended()


# Order and replay.


def _sequences(*numbers: int) -> Callable[[Scene], Answer]:
    """Heartbeats with these numbers, then a new session whose honest change must count."""

    def run(scene: Scene) -> Answer:
        with scene.session() as session:
            for number in numbers:
                session.send(number, heartbeat=guest_pb2.Heartbeat(observation=_observed()))
            session.outcome(seconds=0.3)
        with scene.session() as honest:
            assert honest.is_open, honest.answer
            assert _acknowledged(honest), honest.answer
            return honest.outcome(seconds=0.1)

    return run


def _guest_times(seconds: int, nanos: int) -> Callable[[Scene], Answer]:
    def run(scene: Scene) -> Answer:
        with scene.session() as session:
            observation = _observed()
            observation.guest_time.seconds, observation.guest_time.nanos = seconds, nanos
            session.send(heartbeat=guest_pb2.Heartbeat(observation=observation))
            assert _acknowledged(session), session.answer
            return session.outcome(seconds=0.1)

    return run


def _replayed_change(scene: Scene) -> Answer:
    """A change that was acknowledged, again in a later session: answered, without effect."""
    change = guest_pb2.Change(change_id=f"c-{uuid.uuid4()}", observation=_observed())
    with scene.session() as session:
        session.send(change=change)
        assert session.expect("acknowledgement") is not None, session.answer
    with scene.session() as session:
        old = guest_pb2.Change(
            change_id=change.change_id,
            observation=_observed(state=engine_pb2.ENGINE_STATE_CRASHED, reason="replayed"),
        )
        session.send(change=old)
        assert session.expect("acknowledgement") is not None, session.answer
        rows = scene.read(
            "conductor", "SELECT reason FROM guest_presence WHERE reason = 'replayed'"
        )
        assert rows == []
        return session.outcome(seconds=0.1)


# Answers to commands.


def _answers_for_neighbour(scene: Scene) -> Answer:
    """Results for the neighbour's commands, by ids the attacker is assumed to know."""
    ids = [f"ping-known-{uuid.uuid4()}" for _ in range(10)]

    def ping(command_id: str) -> Answer:
        command = guest_pb2.Command(command_id=command_id, ping=guest_pb2.PingAction())
        request = dispatch_pb2.SendCommandRequest(instance_id=scene.neighbour.id, command=command)
        return scene.call(SEND, request, scene.service("taskmanager"), listener="gateway")

    with scene.session() as session, ThreadPoolExecutor(1) as pool:
        asked = [pool.submit(ping, each) for each in ids]
        while not all(each.done() for each in asked):
            for command_id in ids:
                session.send(
                    command_result=guest_pb2.CommandResult(
                        command_id=command_id, error_reason="HACKED", error_message="by A"
                    )
                )
            session.connection.read_once(0.01)
        answers = [each.result() for each in asked]
        assert {each.verdict for each in answers} == {"OK"}, answers
        return session.outcome(seconds=0.1)


def _answers_badly(**result: object) -> Callable[[Scene], Answer]:
    """A command to the attacker itself, answered with a lie; what its caller hears."""

    def run(scene: Scene) -> Answer:
        with scene.session() as session, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(scene.ping, scene.attacked)
            command = session.expect("command")
            assert command is not None, session.answer
            session.send(
                command_result=guest_pb2.CommandResult(command_id=command.command_id, **result)
            )
            heard = asked.result()
            assert heard.verdict == "INTERNAL", heard
            assert heard.reason in ("COMMAND_FAILED", "BAD_RESULT"), heard
            assert len(heard.text) <= 2048
            return session.outcome(seconds=0.1)

    return run


def _never_answers(scene: Scene) -> Answer:
    """Commands to the attacker time out by themselves and cost the neighbour nothing."""
    with scene.session() as session:
        heard = scene.ping(scene.attacked, seconds=1)
        assert heard.verdict in ("SILENT", "DEADLINE_EXCEEDED"), heard
        return session.outcome(seconds=0.1)


# Texts and floods.

_TEXTS = {
    "NUL": "a\x00b",
    "a line feed and a forged log line": 'x\n{"level": "CRITICAL", "message": "forged"}',
    "terminal escapes": "\x1b]0;owned\x07\x1b[2J",
    "right-to-left marks": "\u202egnp.exe",
    "SQL": "'; DROP TABLE instances; --",
    "a template": "${jndi:ldap://x/}{{7*7}}%s%n",
    "characters beyond the basic plane": "\U0001f4a3" * 100,
}


def _texts(text: str) -> Callable[[Scene], Answer]:
    """The same text in every field a guest may fill."""

    def run(scene: Scene) -> Answer:
        observation = _observed(reason=text, engine_version=text)
        hello = {
            "machine_id_hash": text,
            "agent_version": text,
            "capabilities": [text],
            "observation": observation,
        }
        with scene.session(**hello) as session:
            assert session.is_open, session.answer
            session.send(heartbeat=guest_pb2.Heartbeat(observation=observation))
            assert _acknowledged(session), session.answer
            session.send(
                backup_update=guest_pb2.BackupUpdate(
                    update_id=f"u-{uuid.uuid4()}", backup_id=text, checksum=text, reason=text
                )
            )
            assert session.expect("acknowledgement") is not None, session.answer
            session.send(log_chunk=guest_pb2.LogChunk(log_name=text, data=text.encode()))
            answer = session.outcome(seconds=0.3)
        scene.check_logs()
        with scene.session() as again:  # and back to the plain one
            assert again.is_open, again.answer
        return answer

    return run


def _change_id(text: str) -> Callable[[Scene], Answer]:
    def run(scene: Scene) -> Answer:
        with scene.session() as session:
            session.send(change=guest_pb2.Change(change_id=text, observation=_observed()))
            return session.ended()

    return run


def _flood(count: int, **message: object) -> Callable[[Scene], Answer]:
    def run(scene: Scene) -> Answer:
        before = scene.memory()
        with scene.session() as session:
            ends = time.monotonic() + 8
            sent = 0
            while sent < count and session.is_open and time.monotonic() < ends:
                session.send(**message)
                session.connection.read_once(0.0)
                sent += 1
            grown = (scene.memory() - before) / 2**20
            kind = next(iter(message))
            scene.notes.append(f"{sent} messages of {kind} at once: gateway grew {grown:.0f} MiB")
            assert grown < 64, f"the gateway grew by {grown:.0f} MiB"
            return session.outcome(seconds=0.2)

    return run


def _unacknowledged(scene: Scene) -> Answer:
    """Changes beyond the limit, by a guest that does not read its acknowledgements."""
    with scene.session() as session:
        for _ in range(400):
            session.send(
                change=guest_pb2.Change(change_id=f"c-{uuid.uuid4()}", observation=_observed())
            )
            if not session.connection.is_open:
                break
        return session.outcome(seconds=1)


def _oversized(scene: Scene) -> Answer:
    with scene.session() as session:
        session.send(heartbeat=guest_pb2.Heartbeat(observation=_observed(reason="r" * 300 * 1024)))
        return session.ended()


def _own(
    name: str,
    threat: str,
    run: Callable[[Scene], Answer],
    *cases: int,
    expect: tuple[str, ...] = (HARMLESS,),
    trail: Trail | None = TAKEN,
    **more: object,
) -> Attack:
    """On the attacker's own stream, about which it may say what it likes."""
    return Attack(
        name=name,
        threat=threat,
        run=run,
        expect=expect,
        cases=cases,
        trail=trail if HARMLESS in expect or trail is not TAKEN else None,
        own=True,
        **more,
    )


_WINS = "the attacker's copy takes the honest agent's place unnoticed"
_OUTLIVES = "an identity works on after it was taken away"
_SILENCES = "honest reports count as old for ever (upstream: sent=1e18)"
_BREAKS = "a text breaks a reader: database, log, terminal"

ADMISSION = (
    _own(
        "a second boot while the first answers",
        _WINS,
        _second_boot,
        53,
        expect=(AE,),
        reason="CLONE_SUSPECTED",
        smoke=True,
    ),
    _own(
        "the same boot twice",
        "two streams of one guest live on",
        _takeover,
        53,
        trail=Trail(metric="trove_gateway_sessions_ended_total", labels=(("reason", "HANDOVER"),)),
    ),
    _own(
        "sixteen streams at once",
        "streams without end",
        _many_streams,
        expect=(RE,),
        reason="OVERLOADED",
    ),
    _own(
        "a certificate of an instance that does not exist",
        "identities out of nothing",
        _for_instance(lambda _: ("acceptance", str(uuid.uuid4()))),
        20,
        expect=(PD,),
        reason="UNKNOWN_INSTANCE",
    ),
    _own(
        "a certificate with another tenant's name for the attacker's instance",
        "the attacker changes tenants",
        _for_instance(lambda s: ("other", s.attacked.id)),
        20,
        expect=(PD,),
        reason="TENANT_MISMATCH",
    ),
    _own(
        "a certificate with the attacker's tenant for another tenant's instance",
        "the attacker changes tenants",
        _for_instance(lambda s: ("other", s.neighbour.id)),
        20,
        expect=(PD,),
        reason="TENANT_MISMATCH",
        smoke=True,
    ),
    _own("the certificate of a deleted instance", _OUTLIVES, _deleted, 20, expect=(UA, PD)),
)
REVOCATION = (
    _own(
        "a stream whose serial is denied",
        _OUTLIVES,
        _revoked(issuer_pb2.DENIAL_KIND_SERIAL),
        51,
        expect=(UA,),
        reason="CERTIFICATE_DENIED",
        smoke=True,
    ),
    _own(
        "a stream whose key is denied",
        _OUTLIVES,
        _revoked(issuer_pb2.DENIAL_KIND_KEY),
        51,
        expect=(UA,),
        reason="CERTIFICATE_DENIED",
    ),
    _own(
        "a stream whose instance is denied",
        _OUTLIVES,
        _revoked(issuer_pb2.DENIAL_KIND_INSTANCE),
        51,
        expect=(UA,),
        reason="CERTIFICATE_DENIED",
        changes=("guest_sessions", "guest_presence"),
    ),
    _own(
        "a stream whose tenant is denied",
        _OUTLIVES,
        _revoked(issuer_pb2.DENIAL_KIND_TENANT, tenant="denied"),
        51,
        expect=(UA,),
        reason="CERTIFICATE_DENIED",
        changes=("guest_sessions", "guest_presence"),
    ),
)
BEGINNINGS = (
    _own(
        "no Hello but a heartbeat",
        "a session nobody admitted",
        _raw_first(guest_pb2.ConnectRequest(heartbeat=guest_pb2.Heartbeat()).SerializeToString()),
        expect=(IA,),
        reason="NO_HELLO",
    ),
    _own(
        "an empty first message",
        "a session nobody admitted",
        _raw_first(b""),
        expect=(IA,),
        reason="NO_HELLO",
    ),
    _own(
        "a first message that is no protobuf",
        "a parser's fault is an answer",
        _raw_first(b"\xff" * 100),
        expect=("INTERNAL", IA, "UNKNOWN", "CANCELLED", "CLOSED"),
        reason="",
    ),
    _own(
        "a second Hello",
        "a session changes its machine",
        _second_hello,
        expect=(IA,),
        reason="SECOND_HELLO",
    ),
    _own(
        "a Hello without boot",
        "two boots cannot be told apart",
        _hello(is_admitted=False, boot_id=""),
        expect=(IA,),
    ),
    _own(
        "a boot id of 4 KiB", _BREAKS, _hello(is_admitted=False, boot_id="b" * 4096), expect=(IA,)
    ),
    _own(
        "10,000 capabilities",
        "memory for each session",
        _hello(is_admitted=True, capabilities=["c" * 10] * 10_000),
        trail=Trail(process="conductor", metric="trove_conductor_sessions_opened_total"),
    ),
    _own(
        "every capability that is none",
        "commands are believed to be understood",
        _hello(is_admitted=True, capabilities=["prepare", "rm -rf /", "\x00"]),
        trail=Trail(process="conductor", metric="trove_conductor_sessions_opened_total"),
    ),
    _own(
        "a bundle version from the future",
        "the guest is thought to hold what it does not",
        _hello(is_admitted=True, bundle_version=_LARGEST),
        trail=Trail(process="conductor", metric="trove_conductor_sessions_opened_total"),
    ),
)
ORDER = (
    _own("the largest sequence there is", _SILENCES, _sequences(_LARGEST), 55, smoke=True),
    _own("a negative sequence", _SILENCES, _sequences(-1, -(2**63)), 55),
    _own("the same sequence ten times", "a replayed heartbeat counts", _sequences(*[5] * 10), 55),
    _own("sequences that fall", "an old heartbeat counts", _sequences(9, 7, 5, 3), 55),
    _own("the year 292277026596 as its time", _SILENCES, _guest_times(_LARGEST, 999_999_999), 55),
    _own(
        "a time before all time, with negative nanoseconds",
        _SILENCES,
        _guest_times(-(2**63), -1),
        55,
    ),
    _own(
        "a change replayed in a later session with another content",
        "an old change counts again",
        _replayed_change,
        55,
    ),
)
COMMANDS = (
    _own(
        "answers to the neighbour's commands, by their ids",
        "the attacker answers for the neighbour",
        _answers_for_neighbour,
        trail=DROPPED_RESULT,
        smoke=True,
    ),
    _own(
        "an answer that speaks as the gateway: SESSION_MOVED",
        "a guest steers its caller's routing",
        _answers_badly(error_reason="SESSION_MOVED", error_message="look elsewhere"),
        trail=ANSWERED,
    ),
    _own(
        "an answer that speaks as the gateway: UNAUTHENTICATED",
        "a guest makes its caller doubt itself",
        _answers_badly(error_reason="UNAUTHENTICATED"),
        trail=ANSWERED,
    ),
    _own(
        "an answer whose reason is no reason",
        _BREAKS,
        _answers_badly(error_reason="a b\nc" * 100, error_message="\x00" * 10_000),
        trail=ANSWERED,
    ),
    _own(
        "an answer of another kind",
        "a caller takes a ping's answer for a prepared engine",
        _answers_badly(prepare=guest_pb2.PrepareResult(engine_version="99")),
        trail=ANSWERED,
    ),
    _own(
        "a command that is never answered", "callers wait for ever", _never_answers, trail=ANSWERED
    ),
)
TEXTS = tuple(
    _own(f"{what} in every text field", _BREAKS, _texts(text), 62, trail=TAKEN)
    for what, text in _TEXTS.items()
)
IDS = tuple(
    _own(
        f"a report id: {what}", _BREAKS, _change_id(text), 62, expect=(IA,), reason="BAD_REPORT_ID"
    )
    for what, text in {
        "empty": "",
        "of 129 characters": "c" * 129,
        "with NUL": "c\x00d",
        "of SQL": "' OR 1=1 --",
        "a wildcard": "%",
        "with a line feed": "c\n",
        "of another script": "\u0441-1",
    }.items()
)
FLOODS = (
    _own(
        "3,000 heartbeats at once",
        "the uplink drowns",
        _flood(3000, heartbeat=guest_pb2.Heartbeat(observation=_observed())),
    ),
    _own(
        "500 log pieces of 200 KiB that nobody asked for",
        "the gateway's memory or disk",
        _flood(
            500, log_chunk=guest_pb2.LogChunk(log_name="../../etc/shadow", data=b"x" * 200 * 1024)
        ),
        61,
        trail=DROPPED_LOG,
    ),
    _own(
        "observations of 250 KiB",
        "the conductor's rows",
        _flood(50, heartbeat=guest_pb2.Heartbeat(observation=_observed(reason="r" * 250 * 1024))),
    ),
    _own(
        "5,000 answers to no command",
        "the table of commands",
        _flood(5000, command_result=guest_pb2.CommandResult(command_id="none")),
        trail=DROPPED_RESULT,
    ),
    _own(
        "400 changes whose acknowledgements nobody reads",
        "the gateway keeps reports without end",
        _unacknowledged,
        expect=(HARMLESS, RE),
        trail=TAKEN,
    ),
    _own(
        "a message above the limit",
        "memory by one message",
        _oversized,
        57,
        expect=(RE,),
        trail=ENDED,
    ),
)

ATTACKS = (*ADMISSION, *REVOCATION, *BEGINNINGS, *ORDER, *COMMANDS, *TEXTS, *IDS, *FLOODS)
