"""A client that sends what it is told to: TLS by `ssl`, HTTP/2 by `h2`, or bare bytes.

gRPC's own client refuses to send malformed things, and tries again where an attack failed. This
one does neither, and keeps everything that came back.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote_to_bytes

import grpc
import h2.config
import h2.connection
import h2.events
import h2.exceptions
from google.rpc import error_details_pb2, status_pb2

from trove_grpc.tls import KeyMaterial

_STATUSES = {status.value[0]: status for status in grpc.StatusCode}
_DETAILS = "grpc-status-details-bin"
Header = tuple[str, str]


@dataclass(kw_only=True)
class Answer:
    """What came back, whatever it was."""

    connected: bool = False  # TLS done and the peer's SETTINGS seen
    status: grpc.StatusCode | None = None
    reason: str = ""
    text: str = ""
    messages: list[bytes] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    ending: str = ""  # how the connection or stream ended, where no status came
    seconds: float = 0.0
    outcome: str = ""  # a verdict that nothing on the wire says

    @property
    def verdict(self) -> str:
        """A status's name; REFUSED for a handshake that failed; CLOSED; or SILENT."""
        if self.outcome:
            return self.outcome
        if self.status is not None:
            return self.status.name
        if not self.connected:
            return "REFUSED"
        return "CLOSED" if self.ending else "SILENT"

    def everything(self) -> bytes:
        """All that the attacker got to see."""
        headers = "\n".join(f"{name}: {value}" for name, value in self.headers)
        details = unquote_to_bytes(headers)
        return b"\n".join([self.text.encode(), details, self.ending.encode(), *self.messages])


def context(
    root_pem: bytes,
    material: KeyMaterial | None,
    *,
    alpn: Sequence[str] = ("h2",),
    most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """A client's TLS settings; verifies the server as an honest agent does."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(cadata=root_pem.decode())
    made.maximum_version = most
    made.set_ciphers("ALL:@SECLEVEL=0")  # an attacker's keys may be weak
    made.set_alpn_protocols(list(alpn))
    if material is not None:
        with tempfile.TemporaryDirectory() as folder:
            key, chain = Path(folder) / "key.pem", Path(folder) / "chain.pem"
            key.touch(mode=0o600)
            key.write_bytes(material.key_pem)
            chain.write_bytes(material.chain_pem)
            made.load_cert_chain(chain, key)
    return made


def split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def dial(address: str, *, source: str = "127.0.0.1", timeout: float = 5.0) -> socket.socket:
    """A TCP connection from a loopback address of the caller's choice."""
    return socket.create_connection(split(address), timeout, source_address=(source, 0))


class Connection:
    """One HTTP/2 connection. `frames` may be used to send anything at all."""

    def __init__(
        self,
        address: str,
        tls: ssl.SSLContext,
        *,
        server: str = "gateway.local.trove",
        source: str = "127.0.0.1",
        session: ssl.SSLSession | None = None,
        timeout: float = 5.0,
    ) -> None:
        self.answer = Answer()
        self.events: list[h2.events.Event] = []
        self.streams: dict[int, Answer] = {}
        self._pending: dict[int, bytearray] = {}
        self._began = time.monotonic()
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self.frames = h2.connection.H2Connection(config=config)
        self.socket: ssl.SSLSocket | None = None
        try:
            plain = dial(address, source=source, timeout=timeout)
            self.socket = tls.wrap_socket(plain, server_hostname=server, session=session)
        except OSError as error:
            self._end(error)
            return
        self.frames.initiate_connection()
        self.flush()
        self.read_until(lambda: self.answer.connected, seconds=timeout)

    @property
    def is_open(self) -> bool:
        return self.socket is not None and not self.answer.ending

    @property
    def was_resumed(self) -> bool:
        return bool(self.socket is not None and self.socket.session_reused)

    def flush(self) -> None:
        self.send(self.frames.data_to_send())

    def send(self, data: bytes) -> None:
        """Send bare bytes into the TLS connection."""
        if self.socket is None:
            return
        try:
            self.socket.sendall(data)
        except OSError as error:
            self._end(error)

    def begin(
        self,
        method: str,
        *,
        headers: Sequence[Header] = (),
        deadline: str = "10S",
        encoding: str = "",
        end: bool = False,
    ) -> int:
        """Open a stream for a gRPC call; its number."""
        stream = self.frames.get_next_available_stream_id()
        base = [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", method),
            (":authority", "gateway.local.trove"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        if deadline:
            base.append(("grpc-timeout", deadline))
        if encoding:
            base.append(("grpc-encoding", encoding))
        self.streams[stream] = Answer(connected=self.answer.connected)
        self._pending[stream] = bytearray()
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.frames.send_headers(stream, [*base, *headers], end_stream=end)
        self.flush()
        return stream

    def write(
        self, stream: int, message: bytes, *, compressed: bool = False, end: bool = False
    ) -> None:
        """Send one length-prefixed message, within the flow-control windows."""
        data = memoryview(bytes([compressed]) + len(message).to_bytes(4, "big") + message)
        while self.is_open and self.streams[stream].status is None:
            room = 0
            with contextlib.suppress(h2.exceptions.ProtocolError):
                room = self.frames.local_flow_control_window(stream)
            size = min(room, self.frames.max_outbound_frame_size, len(data))
            if not size and data:
                if not self.read_once(2.0):
                    return
                continue
            try:
                self.frames.send_data(
                    stream, bytes(data[:size]), end_stream=end and size == len(data)
                )
            except h2.exceptions.ProtocolError:
                return
            self.flush()
            data = data[size:]
            if not data:
                return

    def result(self, stream: int, *, seconds: float = 10.0) -> Answer:
        """Read until the stream's status, or its or the connection's end."""
        answer = self.streams[stream]
        self.read_until(lambda: answer.status is not None or bool(answer.ending), seconds=seconds)
        if answer.status is None and not answer.ending:
            answer.ending = self.answer.ending
        answer.connected = self.answer.connected
        answer.seconds = time.monotonic() - self._began
        return answer

    def message(self, stream: int, *, count: int = 1, seconds: float = 10.0) -> bytes | None:
        """Read until the stream's `count`th message; None when it ends before."""
        answer = self.streams[stream]
        self.read_until(
            lambda: (
                len(answer.messages) >= count or answer.status is not None or bool(answer.ending)
            ),
            seconds=seconds,
        )
        return answer.messages[count - 1] if len(answer.messages) >= count else None

    def read_until(self, claim: Callable[[], bool], *, seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while not claim() and self.is_open and (left := ends - time.monotonic()) > 0:
            self.read_once(left)
        return claim()

    def read_once(self, seconds: float) -> bool:
        """Take in what comes next; False when nothing came."""
        if self.socket is None or self.answer.ending:
            return False
        self.socket.settimeout(max(0.001, seconds))
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return False
        except OSError as error:
            self._end(error)
            return False
        if not data:
            self._end(None)
            return False
        try:
            events = self.frames.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._end(error)
            return False
        for event in events:
            self._take(event)
        self.flush()
        return True

    def call(
        self, method: str, message: bytes, *, seconds: float = 10.0, **options: Any
    ) -> Answer:
        """One unary call."""
        if not self.is_open:
            return self.answer
        compressed = options.pop("compressed", False)
        stream = self.begin(method, **options)
        self.write(stream, message, compressed=compressed, end=True)
        return self.result(stream, seconds=seconds)

    def close(self) -> None:
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, event: h2.events.Event) -> None:
        self.events.append(event)
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.answer.connected = True
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.answer.ending = f"GOAWAY {event.error_code} {(event.additional_data or b'')!r}"
        elif isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            _take_headers(self.streams[event.stream_id], event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self._take_data(event)
        elif isinstance(event, h2.events.StreamReset):
            if event.stream_id in self.streams:
                self.streams[event.stream_id].ending = f"RST_STREAM {event.error_code}"
        elif isinstance(event, h2.events.StreamEnded) and event.stream_id in self.streams:
            self.streams[event.stream_id].ending = "END_STREAM"

    def _take_data(self, event: h2.events.DataReceived) -> None:
        buffer = self._pending[event.stream_id]
        buffer += event.data
        while len(buffer) >= 5 and len(buffer) >= (size := 5 + int.from_bytes(buffer[1:5], "big")):
            self.streams[event.stream_id].messages.append(bytes(buffer[5:size]))
            del buffer[:size]
        if event.flow_controlled_length:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.frames.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )

    def _end(self, error: Exception | None) -> None:
        if not self.answer.ending:
            self.answer.ending = f"{type(error).__name__}: {error}" if error else "closed"
        self.answer.seconds = time.monotonic() - self._began


def _take_headers(answer: Answer, headers: Any) -> None:
    for name, value in headers:
        answer.headers.append((str(name), str(value)))
        if name == "grpc-status":
            answer.status = _STATUSES.get(int(value), grpc.StatusCode.UNKNOWN)
        elif name == "grpc-message":
            answer.text = unquote_to_bytes(value).decode(errors="replace")
        elif name == _DETAILS:
            answer.reason = _reason(value)


def _reason(value: str) -> str:
    import base64

    status = status_pb2.Status.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    info = error_details_pb2.ErrorInfo()
    if status.details and status.details[0].Unpack(info):
        return info.reason
    return ""


@contextlib.contextmanager
def old_tls_allowed() -> Iterator[None]:
    """Python warns of versions that an attacker would use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
