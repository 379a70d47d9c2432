"""A real installation under attack: a guest that was taken over, its neighbour, and the records.

The agent of the attacked guest is stopped, as root in its machine would do, and its identity is
copied: from then on the attacker speaks for it. The neighbour's agent and engine run on.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import sqlite3
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from prometheus_client.parser import text_string_to_metric_families

from pki import requests
from tests.acceptance.installation import Installation, eventually
from tests.attacks import wire
from tests.attacks.case import Trail
from tests.attacks.wire import Answer, Connection
from tests.fakes.forge import Forge
from trove_grpc.gen.conductor.v1 import report_service_pb2 as report_pb2  # noqa: F401  registers
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2 as dispatch_pb2
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as enrolment_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2
from trove_grpc.identity import serial_hex
from trove_grpc.tls import IdentityDirectory, KeyMaterial

CONNECT = "/trove.guest.v1.GuestSessionService/Connect"
RENEW = "/trove.guest.v1.IdentityService/Renew"
CONFIRM = "/trove.guest.v1.IdentityService/Confirm"
BUNDLE = "/trove.guest.v1.IdentityService/GetTrustBundle"
ENGINE = "/trove.guest.v1.IdentityService/IssueEngineCertificate"
ENROL = "/trove.guest.v1.EnrolmentService/Enrol"
NONCE = "/trove.guest.v1.EnrolmentService/GetNonce"
RECOVER = "/trove.guest.v1.EnrolmentService/Recover"
SEND = "/trove.dispatch.v1.DispatchService/SendCommand"
ISSUER = "/trove.issuer.v1.IssuerService"

SETTINGS = {
    "gateway__refusal_report": "0.1",
    "issuer__refusal_rows_per_minute": "60000",
    "gateway__denial_poll": "0.2",
    "gateway__connects_per_minute": "6000",
    "gateway__renewals_per_hour": "2000",
    "conductor__heartbeat_interval": "1",
}
# What changes by itself, or is a trail and not a state.
_RESTLESS = {
    "audit": "*",
    "counters": "*",
    "gateways": "*",
    "alembic_version": "*",
    "checkpoints": "*",
    "services": "*",  # when each was last seen
    "subjects": (
        "is_online",
        "gateway_id",
        "last_seen_time",
        "seen_serial",
        "engine_serial",
        "held_bundle_version",
        "clock_skew_ms",
    ),
    "tokens": ("attempts",),
    "guest_presence": (
        "sequence",
        "last_report_time",
        "volume_used_bytes",
        "volume_total_bytes",
    ),
}
# Also the issuer's word on it: a suspected clone puts its own instance into quarantine.
_OWN = ("guest_sessions", "guest_presence", "guest_reports", "subjects")
_SERVER_NAMES = {
    "issuer": "issuer.local.trove",
    "conductor": "conductor.local.trove",
    "taskmanager": "taskmanager.local.trove",
    "gateway": "gateway.local.trove",
}
# What no answer to a guest may hold.
_TELLTALES = (
    b"Traceback",
    b'File "',
    b".py",
    b"PRIVATE KEY",
    b"sqlite",
    b"SELECT ",
    b"sqlalchemy",
    b"site-packages",
)

State = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Guest:
    """An instance and what is known of it."""

    id: str
    tenant: str
    address: str


@dataclass(frozen=True)
class Mark:
    """The records at one moment."""

    state: State
    audit: int
    metrics: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]


class Scene:
    """What attacks act on, and what is looked at before and after each."""

    def __init__(self, plane: Installation) -> None:
        self.plane = plane
        self.endpoints = dict(
            each.split("=", 1)
            for process in plane.status()["processes"]
            for each in process["endpoints"]
        )
        operator = IdentityDirectory(plane.state / "operator" / "identity")
        self.forge = Forge.of_installation(plane.state / "issuer", operator.bundle())
        self.operator = operator.load()
        self._sources = (f"127.66.{n // 250}.{n % 250 + 1}" for n in itertools.count())
        self._stopped: list[int] = []
        self._before: Mark | None = None
        self._began_at = self.last_audit()
        self.notes: list[str] = []  # figures for the report
        ids = [plane.create("attacked"), plane.create("neighbour")]
        self.attacked, self.neighbour = (self._guest(plane.await_healthy(each)) for each in ids)
        self.stolen = self.identity_of(self.attacked)
        self._silence(self.attacked)
        with self.session() as first:  # the stopped agent's own stream gives way to ours
            assert first.is_open, first.answer

    # Who there is.

    @functools.cached_property
    def spare(self) -> Guest:
        """An instance whose identity may be made anew as often as wanted."""
        guest = self.doomed("spare")
        with self.session(self.identity_of(guest)) as last:  # its own stream gives way to ours
            assert last.is_open, last.answer
        eventually(
            lambda: self.read(
                "conductor",
                "SELECT 1 FROM guest_sessions WHERE instance_id = ? AND close_time IS NOT NULL "
                "AND boot_id = 'attacker'",
                guest.id,
            ),
            "the spare guest's stream is known to have ended",
        )
        return guest

    def _guest(self, shown: dict[str, Any], tenant: str = "acceptance") -> Guest:
        return Guest(shown["id"], tenant, shown["ip"][0])

    def _silence(self, guest: Guest) -> None:
        pid = self.agent_pid(guest)
        os.kill(pid, signal.SIGSTOP)
        self._stopped.append(pid)

    def agent_pid(self, guest: Guest) -> int:
        (pid,) = (
            each["agent_pid"]
            for each in self.plane.status()["guests"]
            if each["instance"] == guest.id
        )
        return int(pid)

    def close(self) -> None:
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def folder(self, guest: Guest) -> Path:
        return self.plane.state / "guests" / guest.id

    def identity_of(self, guest: Guest) -> KeyMaterial:
        """As root in that guest reads it."""
        return IdentityDirectory(self.folder(guest) / "agent" / "identity").load()

    def service(self, name: str) -> KeyMaterial:
        return IdentityDirectory(self.plane.state / name / "identity").load()

    def doomed(self, name: str, *, tenant: str = "acceptance", is_silent: bool = True) -> Guest:
        """One more healthy instance, for attacks that end badly for it."""
        status, body = self.plane.request(
            "POST",
            "/instances",
            {
                "instance": {
                    "name": name,
                    "flavorRef": "1",
                    "volume": {"size": 1},
                    "datastore": {"type": "postgresql"},
                }
            },
            project=tenant,
        )
        assert status == 200, body
        path = f"/instances/{body['instance']['id']}"

        def healthy() -> Any:
            _, found = self.plane.request("GET", path, project=tenant)
            assert found["instance"]["status"] != "ERROR", found
            shown = found["instance"]
            return shown if shown["operating_status"] == "HEALTHY" else None

        guest = self._guest(eventually(healthy, f"{name} healthy"), tenant)
        if is_silent:
            self._silence(guest)
        return guest

    # Ways in.

    def source(self) -> str:
        """A loopback address nobody has used: limits by address begin anew."""
        return next(self._sources)

    def connect(
        self,
        listener: str = "guest",
        material: KeyMaterial | None = None,
        *,
        anonymous: bool = False,
        **options: Any,
    ) -> Connection:
        """A connection to a listener, by default with the stolen identity."""
        name = f"gateway-{listener}" if listener in ("guest", "enrolment") else listener
        shown = None if anonymous or listener == "enrolment" else (material or self.stolen)
        tls = options.pop("tls", None) or wire.context(self.forge.root_pem, shown)
        server = _SERVER_NAMES.get(listener, "gateway.local.trove")
        return Connection(self.endpoints[name], tls, server=server, **options)

    def call(
        self,
        method: str,
        request: Message | bytes,
        material: KeyMaterial | None = None,
        *,
        listener: str = "guest",
        anonymous: bool = False,
        source: str = "127.0.0.1",
        seconds: float = 10.0,
        **options: Any,
    ) -> Answer:
        """One unary call on a connection of its own."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        with self.connect(listener, material, anonymous=anonymous, source=source) as connection:
            return connection.call(method, data, seconds=seconds, **options)

    def show(self, material: KeyMaterial | None, *, anonymous: bool = False) -> Answer:
        """Show a certificate on the guest port and ask for the bundle, the most harmless call."""
        return self.call(BUNDLE, b"", material, anonymous=anonymous)

    @contextlib.contextmanager
    def session(
        self, material: KeyMaterial | None = None, **hello: Any
    ) -> Iterator[AttackerSession]:
        connection = self.connect("guest", material)
        opened = AttackerSession(connection, **hello)
        try:
            yield opened
        finally:
            connection.close()

    def token(self, guest: Guest, *, seconds: float | None = None) -> str:
        """A token as the task manager would mint it for a rebuild."""
        request = issuer_pb2.MintTokenRequest(instance_id=guest.id)
        if seconds is not None:
            request.lifetime.FromMilliseconds(int(seconds * 1000))
        answer = self.as_operator("MintToken", request)
        return issuer_pb2.MintTokenResponse.FromString(answer.messages[0]).token

    def as_operator(self, verb: str, request: Message) -> Answer:
        answer = self.call(f"{ISSUER}/{verb}", request, self.operator, listener="issuer")
        assert answer.verdict == "OK", answer
        return answer

    def deny(self, kind: Any, value: str) -> None:
        self.as_operator(
            "CreateDenial",
            issuer_pb2.CreateDenialRequest(kind=kind, value=value, reason="attack suite"),
        )

    def enrol(
        self, token: str, guest: Guest, *, csr: bytes | None = None, source: str = "", **more: Any
    ) -> Answer:
        request = enrolment_pb2.EnrolRequest(
            token=token,
            csr_der=requests.csr_der(requests.new_key()) if csr is None else csr,
            instance_id=more.pop("instance_id", guest.id),
            boot_id=more.pop("boot_id", "boot"),
            **more,
        )
        return self.call(ENROL, request, listener="enrolment", source=source or self.source())

    def ping(self, guest: Guest, *, seconds: float = 10.0) -> Answer:
        """A command to a guest, as the task manager sends it."""
        command = guest_pb2.Command(command_id=f"ping-{uuid.uuid4()}", ping=guest_pb2.PingAction())
        request = dispatch_pb2.SendCommandRequest(instance_id=guest.id, command=command)
        return self.call(
            SEND, request, self.service("taskmanager"), listener="gateway", seconds=seconds
        )

    # Records.

    def mark(self) -> None:
        """Everything up to here was set up by the test; the attack begins now."""
        self._before = Mark(
            self.state(),
            self.last_audit(),
            {
                name: self.metrics(name)
                for name in ("gateway", "issuer", "conductor", "taskmanager")
            },
        )

    def read(self, process: str, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        path = self.plane.state / process / f"{process}.db"
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        try:
            return database.execute(query, arguments).fetchall()
        finally:
            database.close()

    def state(self) -> State:
        """All rows of both databases, without what changes by itself."""
        found: State = {}
        for process in ("issuer", "conductor"):
            tables = self.read(process, "SELECT name FROM sqlite_master WHERE type = 'table'")
            for (table,) in tables:
                if _RESTLESS.get(table) == "*":
                    continue
                names = [row[1] for row in self.read(process, f"PRAGMA table_info({table})")]
                # Quoted: a column may be called what SQL calls something else.
                shown = [f'"{name}"' for name in names if name not in _RESTLESS.get(table, ())]
                rows = self.read(process, f"SELECT {', '.join(shown)} FROM {table}")  # noqa: S608
                found[table] = sorted(rows, key=repr)
        return found

    def last_audit(self) -> int:
        return int(self.read("issuer", "SELECT coalesce(max(sequence), 0) FROM audit")[0][0])

    def audit_since(self, sequence: int) -> list[dict[str, Any]]:
        rows = self.read(
            "issuer",
            "SELECT action, subject, actor, detail FROM audit WHERE sequence > ?",
            sequence,
        )
        return [
            {"action": action, "subject": subject, "actor": actor, **json.loads(detail)}
            for action, subject, actor, detail in rows
        ]

    def metrics(self, process: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        url = f"http://{self.endpoints[f'{process}-metrics']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def memory(self, process: str = "gateway") -> int:
        """Resident memory of a process, bytes."""
        status = Path(f"/proc/{self.plane.pid_of(process)}/status").read_text()
        (line,) = (each for each in status.splitlines() if each.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    # What must hold.

    def changed(self, *, own: bool, allowed: tuple[str, ...]) -> list[str]:
        """Tables that differ from the mark, but for what the attack may change."""
        assert self._before is not None
        before, after = self._before.state, self.state()
        found = []
        for table, rows in after.items():
            if table in allowed:
                continue
            old, new = set(before.get(table, [])), set(rows)
            if own and table in _OWN:
                old, new = self._foreign(old), self._foreign(new)
            if old != new:
                found.append(f"{table}: {sorted(map(repr, old ^ new))[:3]}")
        return found

    def _foreign(self, rows: set[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
        return {row for row in rows if self.attacked.id not in row}

    def find(self, trail: Trail) -> str:
        """What the attack left behind; raises AssertionError when that is not enough."""
        assert self._before is not None
        before = self._before
        shown = []
        if trail.metric:
            grown = self._grown(trail, before)
            if not grown:
                eventually(lambda: self._grown(trail, before), f"{trail.metric} grew", within=3)
            shown.append(f"{trail.process}: {trail.metric}{_labels(trail)}")
        if trail.audit:
            found = self._row(trail, before.audit)
            shown.append(f"audit: {found['action']} {found.get('why', '')}".strip())
        return "; ".join(shown) or "none (nothing of ours was reached)"

    def _row(self, trail: Trail, since: int) -> dict[str, Any]:
        """The attack's own row; or that of its kind, for which the issuer sums repeats."""

        def row() -> dict[str, Any] | None:
            for start in (since, self._began_at):
                for each in self.audit_since(start):
                    if each["action"] == trail.audit and trail.why in (each.get("why", ""), ""):
                        return each
            return None

        found: dict[str, Any] = eventually(
            row, f"an audit row {trail.audit} {trail.why}", within=5
        )
        return found

    def _grown(self, trail: Trail, before: Mark) -> bool:
        def total(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> float:
            return sum(
                value
                for (name, labels), value in samples.items()
                if name == trail.metric and set(trail.labels) <= set(labels)
            )

        return total(self.metrics(trail.process)) > total(before.metrics[trail.process])

    def check_neighbour(self) -> None:
        """A command reaches the neighbour, its database is served, its status is good."""
        answer = self.ping(self.neighbour)
        assert answer.verdict == "OK", f"the neighbour is not served: {answer}"
        shown = self.plane.instance(self.neighbour.id)
        assert shown["operating_status"] == "HEALTHY", shown

    def check_logs(self) -> None:
        """Every line of every log is one JSON object of a process of ours."""
        for path in sorted((self.plane.state / "logs").glob("*.log")):
            for line in path.read_text(errors="strict").splitlines():
                if line.startswith("{"):
                    assert json.loads(line)["message"] != "forged", path

    def check_silent(self, answer: Answer) -> None:
        """The attacker was shown no secret, no path, no trace."""
        seen = answer.everything()
        secrets = [
            *_TELLTALES,
            str(self.plane.state).encode(),
            (self.plane.state / "issuer" / "passphrase").read_bytes().strip(),
            self.neighbour.address.encode(),
        ]
        found = [secret for secret in secrets if secret in seen]
        assert not found, f"the answer shows {found}: {seen[:2000]!r}"


class AttackerSession:
    """The attacked guest's stream, spoken by the attacker."""

    def __init__(self, connection: Connection, **hello: Any) -> None:
        self.connection = connection
        self.sequence = 1
        self.welcome: guest_pb2.Welcome | None = None
        self.stream = 0
        if not connection.is_open:
            self.answer = connection.answer
            return
        self.stream = connection.begin(CONNECT, deadline="")
        self.answer = connection.streams[self.stream]
        self._read = 0
        said = guest_pb2.Hello(
            **{
                "boot_id": "attacker",
                "machine_id_hash": "machine",
                "agent_version": "1.0",
                **hello,
            }
        )
        connection.write(
            self.stream, guest_pb2.ConnectRequest(sequence=1, hello=said).SerializeToString()
        )
        first = self.next(seconds=10)
        if first is not None and first.HasField("welcome"):
            self.welcome = first.welcome

    @property
    def is_open(self) -> bool:
        return self.welcome is not None and not self.answer.ending and self.answer.status is None

    def send(self, sequence: int | None = None, **message: Any) -> None:
        self.sequence += 1
        number = self.sequence if sequence is None else sequence
        self.connection.write(
            self.stream,
            guest_pb2.ConnectRequest(sequence=number, **message).SerializeToString(),
        )

    def next(self, *, seconds: float = 5.0) -> guest_pb2.ConnectResponse | None:
        data = self.connection.message(self.stream, count=self._read + 1, seconds=seconds)
        if data is None:
            return None
        self._read += 1
        return guest_pb2.ConnectResponse.FromString(data)

    def expect(self, kind: str, *, seconds: float = 5.0) -> Any:
        """The next message of a kind; None when none comes."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            message = self.next(seconds=left)
            if message is None:
                return None
            if message.WhichOneof("message") == kind:
                return getattr(message, kind)
        return None

    def ended(self, *, seconds: float = 10.0) -> Answer:
        return self.connection.result(self.stream, seconds=seconds)

    def outcome(self, *, seconds: float = 1.0) -> Answer:
        """HARMLESS while the session goes on, else how it ended."""
        answer = self.connection.result(self.stream, seconds=seconds)
        if answer.status is None and not answer.ending:
            answer.outcome = "HARMLESS"
        return answer


def serial_of(material: KeyMaterial) -> str:
    return serial_hex(material.leaf)


def _labels(trail: Trail) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in trail.labels)
    return f"{{{inside}}}" if inside else ""


Run = Callable[[Scene], Answer]
