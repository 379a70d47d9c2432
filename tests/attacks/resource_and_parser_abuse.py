"""Frames, handshakes and connections that are made to cost us more than they cost the attacker.

Each runs against the guest port with the stolen identity, or before any identity is shown. What is
asked for is that the neighbour is served all the while, that memory stays bounded, and that what
is not HTTP/2 is cut off; what gRPC's core answers to a well-formed flood is its own affair.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import h2.exceptions
import h2.settings

from tests.acceptance.installation import eventually
from tests.attacks import wire
from tests.attacks.case import CLOSED, HARMLESS, IA, RE, UA, UN, Attack, Trail
from tests.attacks.scene import BUNDLE, CONNECT, Scene
from tests.attacks.wire import Answer, Connection
from trove_grpc.gen.guest.v1 import identity_service_pb2 as identity_pb2

HANDSHAKES = Trail(metric="trove_tls_handshakes_total", labels=(("listener", "guest"),))
ENROLMENTS = Trail(metric="trove_tls_handshakes_total", labels=(("listener", "enrolment"),))
_MOST_GROWTH_MIB = 96
_HEADERS, _RST, _SETTINGS, _PING, _WINDOW, _CONTINUATION = 1, 3, 4, 6, 8, 9
_END_HEADERS = 4


def frame(
    kind: int, flags: int, stream: int, payload: bytes, *, length: int | None = None
) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


@contextlib.contextmanager
def _bounded(scene: Scene, what: str) -> Iterator[None]:
    before = scene.memory()
    yield
    grown = (scene.memory() - before) / 2**20
    scene.notes.append(f"{what}: the gateway's memory grew by {grown:.0f} MiB")
    assert grown < _MOST_GROWTH_MIB, f"the gateway grew by {grown:.0f} MiB"


def _aftermath(scene: Scene, connection: Connection, *, seconds: float = 2.0) -> Answer:
    """Whether the connection was ended, or still serves its owner, as the neighbour is served."""
    scene.check_neighbour()
    connection.read_until(lambda: not connection.is_open, seconds=seconds)
    answer = connection.answer
    if connection.is_open:
        answer.outcome = HARMLESS
    return answer


def _bytes(
    what: str, make: Callable[[Connection], bytes], *, times: int = 1
) -> Callable[[Scene], Answer]:
    """Bare bytes after a good handshake, again and again."""

    def run(scene: Scene) -> Answer:
        with _bounded(scene, what), scene.connect() as connection:
            data = make(connection)
            for _ in range(times):
                connection.send(data)
                connection.socket.settimeout(5)
                if not connection.is_open:
                    break
            return _aftermath(scene, connection)

    return run


def _headers(connection: Connection, *, method: str = BUNDLE) -> bytes:
    """A header block for a call, encoded anew."""
    return connection.frames.encoder.encode(
        [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", method),
            (":authority", "gateway.local.trove"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
    )


def _rapid_reset(scene: Scene) -> Answer:
    with _bounded(scene, "4,000 streams opened and reset"), scene.connect() as connection:
        began = time.monotonic()
        for number in range(4000):
            stream = 1 + 2 * number
            block = _headers(connection, method=CONNECT)
            connection.send(
                frame(_HEADERS, _END_HEADERS, stream, block)
                + frame(_RST, 0, stream, struct.pack(">I", 8))
            )
            if not connection.is_open or time.monotonic() - began > 10:
                break
        return _aftermath(scene, connection)


def _continuation(scene: Scene) -> Answer:
    with _bounded(scene, "20,000 CONTINUATION frames"), scene.connect() as connection:
        connection.send(frame(_HEADERS, 0, 1, _headers(connection)))
        piece = frame(_CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 200)
        for _ in range(20_000):
            connection.send(piece)
            if not connection.is_open:
                break
        return _aftermath(scene, connection)


def _many_headers(scene: Scene) -> Answer:
    return scene.call(BUNDLE, b"", headers=[(f"x-{number}", "v") for number in range(10_000)])


def _bomb(scene: Scene) -> Answer:
    data = gzip.compress(bytes(64 * 2**20), 9)
    with _bounded(scene, "64 MiB of zeros in a gzip"):
        return scene.call(BUNDLE, data, encoding="gzip", compressed=True)


def _indexed_bomb(scene: Scene) -> Answer:
    """HPACK: one long value in the table, then thousands of one-byte references to it."""
    with _bounded(scene, "an HPACK bomb"), scene.connect() as connection:
        value = b"v" * 4000
        literal = b"\x40" + b"\x03x-a" + b"\x7f" + _integer(len(value) - 127) + value
        block = _headers(connection) + literal + b"\xbe" * 16_000
        connection.send(frame(_HEADERS, 0, 1, block[:16_000]))
        connection.send(frame(_CONTINUATION, _END_HEADERS, 1, block[16_000:]))
        return _aftermath(scene, connection)


def _integer(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _zero_window(scene: Scene) -> Answer:
    """Streams that never let an answer through."""
    with _bounded(scene, "streams behind a closed window"):
        connections = []
        try:
            for _ in range(20):
                connection = scene.connect()
                connections.append(connection)
                connection.frames.update_settings(
                    {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
                )
                connection.flush()
                for _ in range(4):
                    stream = connection.begin(BUNDLE)
                    connection.write(stream, b"", end=True)
            return _aftermath(scene, connections[-1], seconds=0.5)
        finally:
            for connection in connections:
                connection.close()


def _storm(scene: Scene) -> Answer:
    """Whole connections with a stream each, cut by a TCP reset, by the hundred."""
    with _bounded(scene, "300 connections cut by a TCP reset"):

        def strike(_number: int) -> None:
            connection = scene.connect()
            if connection.socket is not None:
                connection.begin(CONNECT, deadline="")
                connection.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            connection.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(strike, range(300)))
        with scene.connect() as connection:
            return _aftermath(scene, connection, seconds=0.1)


def _silent_sockets(scene: Scene) -> Answer:
    """Before any identity: nothing, half a ClientHello, TLS without a preface, half a header."""
    address = scene.endpoints["gateway-guest"]
    hello = _client_hello()
    began = time.monotonic()
    plain = wire.dial(address, source=scene.source())
    half = wire.dial(address, source=scene.source())
    half.sendall(hello[: len(hello) // 2])
    tls = wire.context(scene.forge.root_pem, scene.stolen)
    mute = tls.wrap_socket(
        wire.dial(address, source=scene.source()), server_hostname="gateway.local.trove"
    )
    taken: dict[str, float] = {}
    waiting = {"TCP alone": plain, "half a ClientHello": half, "TLS without a preface": mute}
    try:
        while waiting and time.monotonic() - began < 20:
            for name, each in list(waiting.items()):
                each.settimeout(0.2)
                try:
                    if each.recv(4096) == b"":
                        taken[name] = time.monotonic() - began
                except TimeoutError:
                    continue
                except OSError:
                    taken[name] = time.monotonic() - began
                if name in taken:
                    del waiting[name]
    finally:
        for each in (plain, half, mute):
            each.close()
    scene.notes.extend(f"{name}: closed after {seconds:.1f} s" for name, seconds in taken.items())
    return Answer(outcome=CLOSED if not waiting else f"SILENT: {sorted(waiting)}")


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="gateway.local.trove")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def _slow_headers(scene: Scene) -> Answer:
    """A header block that comes byte by byte holds one stream, and nobody else's."""
    with scene.connect() as connection:
        block = _headers(connection)
        whole = frame(_HEADERS, _END_HEADERS, 1, block)
        for byte in whole[:20]:
            connection.send(bytes([byte]))
            connection.read_once(0.05)
        return _aftermath(scene, connection, seconds=0.5)


class _Crowd:
    """Silent connections of one address, as many as it gets; what is cut is dialled again."""

    def __init__(self, address: str, source: str, count: int) -> None:
        self._address = address
        self._source = source
        self._count = count
        self._held: list[socket.socket] = []
        self._stops = False
        self.most = 0

    def hold(self) -> None:
        while not self._stops:
            for each in [each for each in self._held if _is_closed(each)]:
                each.close()
                self._held.remove(each)
            with contextlib.suppress(OSError):
                while len(self._held) < self._count and not self._stops:
                    made = wire.dial(self._address, source=self._source, timeout=1)
                    made.setblocking(False)
                    self._held.append(made)
                    self.most = max(self.most, len(self._held))
            time.sleep(0.02)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as pool:
            holding = pool.submit(self.hold)
            try:
                ends = time.monotonic() + 5
                while self.most < self._count and time.monotonic() < ends:
                    time.sleep(0.05)
                yield
            finally:
                self._stops = True
                holding.result()
                for each in self._held:
                    each.close()


def _crowded(listener: str, count: int) -> Callable[[Scene], Answer]:
    """Others come, as agents do: again after a pause, while one address holds all it can get."""

    def run(scene: Scene) -> Answer:
        token = scene.token(scene.spare)
        scene.mark()
        crowd = _Crowd(scene.endpoints[f"gateway-{listener}"], scene.source(), count)

        def is_served() -> bool:
            if listener == "guest":
                return scene.show(None).verdict == "OK"
            return scene.enrol(token[:-2] + "??", scene.spare).verdict == UA

        waits = []
        with crowd.gathered():
            for _ in range(5):
                began = time.monotonic()
                eventually(is_served, f"another address is served at the {listener}", within=15)
                waits.append(time.monotonic() - began)
            scene.check_neighbour()
        scene.notes.append(
            f"one address reached {crowd.most} silent connections to the {listener} port and "
            f"dialled again whenever it was cut; five others were served within {max(waits):.2f} s"
        )
        return Answer(outcome=HARMLESS)

    return run


def _is_closed(held: socket.socket) -> bool:
    try:
        return held.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _neighbour_reconnects(scene: Scene) -> Answer:
    """600 handshakes that fail, while the neighbour's agent is made to come back."""
    stranger = scene.forge.sign(
        scene.forge.guest(scene.attacked.tenant, scene.attacked.id),
        signer=scene.forge.foreign.signers[1 + 1],
    )

    def strike(_number: int) -> None:
        scene.show(stranger)

    with ThreadPoolExecutor(8) as pool:
        strikes = [pool.submit(strike, number) for number in range(600)]
        pings = [scene.ping(scene.neighbour) for _ in range(5)]
        for each in strikes:
            each.result()
    scene.notes.append(
        f"during 600 failing handshakes pings of the neighbour took at most "
        f"{max(each.seconds for each in pings):.2f} s"
    )
    assert {each.verdict for each in pings} == {"OK"}
    return Answer(outcome=HARMLESS)


def _call(**options: object) -> Callable[[Scene], Answer]:
    request = options.pop("request", b"")
    return lambda scene: scene.call(BUNDLE, request, **options)


def _garbage(seed: int) -> Callable[[Connection], bytes]:
    return lambda _connection: bytes((seed * 31 + n * n) & 0xFF for n in range(4096))


_LARGE = identity_pb2.RenewRequest(csr_der=b"x" * 2 * 2**20).SerializeToString()
_SERVES = "the gateway stops serving, or runs out of memory"


def _abuse(
    name: str,
    run: Callable[[Scene], Answer],
    *cases: int,
    expect: tuple[str, ...],
    trail: Trail = HANDSHAKES,
    **more: object,
) -> Attack:
    return Attack(
        name=name, threat=_SERVES, run=run, expect=expect, cases=cases, trail=trail, **more
    )


MESSAGES = (
    _abuse("a message of 2 MiB", _call(request=_LARGE), 57, expect=(RE,), smoke=True),
    _abuse("a gzip of 64 MiB of zeros", _bomb, 57, expect=(RE,)),
    _abuse(
        "an unknown encoding",
        _call(encoding="snappy", compressed=True),
        57,
        expect=(UN, IA, "INTERNAL"),
    ),
    _abuse(
        "a compressed message without an encoding",
        _call(compressed=True),
        57,
        expect=(IA, UN, "INTERNAL", CLOSED),
    ),
    _abuse(
        "a message that is no protobuf",
        _call(request=b"\xff" * 64),
        expect=("INTERNAL", IA, "UNKNOWN"),
    ),
    _abuse("metadata of 20 kB", _call(headers=[("x-long", "v" * 20_000)]), 58, expect=(RE,)),
    _abuse("10,000 headers", _many_headers, 58, expect=(RE, CLOSED)),
    _abuse(
        "a binary header that is no base64",
        _call(headers=[("x-bin", "!!!")]),
        expect=("OK", IA, "INTERNAL", "UNKNOWN", CLOSED),
    ),
)
DEADLINES = tuple(
    _abuse(f"a deadline of {deadline!r}", _call(deadline=deadline), expect=expect)
    for deadline, expect in (
        ("0n", ("DEADLINE_EXCEEDED", "CANCELLED", CLOSED)),
        ("1n", ("DEADLINE_EXCEEDED", "CANCELLED", CLOSED)),
        ("99999999H", ("OK",)),
        ("-1S", ("OK", IA, "INTERNAL", "UNKNOWN", CLOSED, "DEADLINE_EXCEEDED")),
        ("never", ("OK", IA, "INTERNAL", "UNKNOWN", CLOSED, "DEADLINE_EXCEEDED")),
    )
)
FRAMES = (
    _abuse("rapid reset", _rapid_reset, 58, expect=(CLOSED, HARMLESS), own=True, smoke=True),
    _abuse("a flood of CONTINUATION", _continuation, 58, expect=(CLOSED,)),
    _abuse("an HPACK bomb", _indexed_bomb, 58, expect=(CLOSED, HARMLESS)),
    _abuse(
        "a flood of PING",
        _bytes("50,000 PINGs", lambda _: frame(_PING, 0, 0, b"12345678") * 500, times=100),
        58,
        expect=(CLOSED,),
    ),
    _abuse(
        "a flood of SETTINGS",
        _bytes("50,000 SETTINGS", lambda _: frame(_SETTINGS, 0, 0, b"") * 500, times=100),
        58,
        expect=(CLOSED, HARMLESS),
    ),
    _abuse(
        "a flood of unknown frames",
        _bytes("20,000 unknown frames", lambda _: frame(0xFA, 0, 0, b"x" * 64) * 200, times=100),
        58,
        expect=(CLOSED, HARMLESS),
    ),
    _abuse("windows that never open", _zero_window, 58, 59, expect=(HARMLESS, CLOSED)),
    _abuse(
        "a window beyond its bound",
        _bytes("a window overflow", lambda _: frame(_WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2),
        58,
        expect=(CLOSED, HARMLESS),
    ),
    _abuse(
        "a frame of 16 MiB",
        _bytes("a frame of 16 MiB", lambda _: frame(0, 0, 1, b"x" * 1000, length=2**24 - 1)),
        58,
        expect=(CLOSED,),
    ),
    _abuse(
        "data on stream 0",
        _bytes("data on stream 0", lambda _: frame(0, 0, 0, b"x" * 10)),
        58,
        expect=(CLOSED, HARMLESS),
    ),
    _abuse(
        "headers on an even stream",
        _bytes("an even stream", lambda c: frame(_HEADERS, _END_HEADERS, 2, _headers(c))),
        58,
        expect=(CLOSED, HARMLESS),
    ),
    _abuse(
        "a header block that is no HPACK",
        _bytes("no HPACK", lambda _: frame(_HEADERS, _END_HEADERS, 1, b"\xff" * 500)),
        58,
        expect=(CLOSED,),
    ),
    *(
        _abuse(
            f"noise after the handshake, {seed}", _bytes("noise", _garbage(seed)), expect=(CLOSED,)
        )
        for seed in range(3)
    ),
)
CONNECTIONS = (
    _abuse("silent sockets", _silent_sockets, 59, expect=(CLOSED,)),
    _abuse("headers byte by byte", _slow_headers, 59, expect=(HARMLESS, CLOSED)),
    _abuse("300 connections cut by a TCP reset", _storm, 58, expect=(HARMLESS,), own=True),
    _abuse("600 failing handshakes", _neighbour_reconnects, 59, expect=(HARMLESS,)),
    _abuse(
        "2,000 silent connections of one address", _crowded("guest", 2000), 59, expect=(HARMLESS,)
    ),
    _abuse(
        "2,500 silent connections of one address to the enrolment port",
        _crowded("enrolment", 2500),
        59,
        expect=(HARMLESS,),
        trail=ENROLMENTS,
        changes=("tokens.attempts",),
    ),
)

ATTACKS = (*MESSAGES, *DEADLINES, *FRAMES, *CONNECTIONS)
