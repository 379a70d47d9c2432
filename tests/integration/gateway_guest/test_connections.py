"""One address cannot keep the others out; a session's connection is never cut."""

from __future__ import annotations

import contextlib
import socket

import pytest

from gateway.guest.connections import ConnectionWarden, Share, peer_name
from tests.fakes.fake_conductor import until
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb2


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def dial(listening: socket.socket, source: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of one connection: the stranger's and ours."""
    stranger = socket.create_connection(listening.getsockname(), 5, source_address=(source, 0))
    ours, _ = listening.accept()
    return stranger, ours


def is_cut(stranger: socket.socket) -> bool:
    stranger.settimeout(0.05)
    try:
        return stranger.recv(1) == b""
    except TimeoutError:
        return False


def warden(listening: socket.socket, most: int, kept: set[str] | None = None) -> ConnectionWarden:
    made = ConnectionWarden(kept=lambda: kept or set())
    made.watch(listening.getsockname()[1], Share("guest", most))
    return made


def test_what_an_address_holds_beyond_its_share_is_cut(listening):
    pairs = [dial(listening, "127.0.0.2") for _ in range(5)]
    other = dial(listening, "127.0.0.3")
    with contextlib.ExitStack() as stack:
        for each in (*pairs, other):
            for end in each:
                stack.enter_context(end)
        assert warden(listening, 3).sweep() == 2
        assert sum(is_cut(stranger) for stranger, _ in pairs) == 2
        assert not is_cut(other[0])


def test_connections_with_a_session_are_neither_cut_nor_counted(listening):
    pairs = [dial(listening, "127.0.0.2") for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for each in pairs:
            for end in each:
                stack.enter_context(end)
        kept = {f"127.0.0.2:{stranger.getsockname()[1]}" for stranger, _ in pairs[:2]}
        assert warden(listening, 1, kept).sweep() == 0
        assert warden(listening, 0, kept).sweep() == 1
        assert [is_cut(stranger) for stranger, _ in pairs] == [False, False, True]


@pytest.mark.parametrize(
    ("peer", "name"),
    [("ipv4:127.0.0.1:5", "127.0.0.1:5"), ("ipv6:%5B2001:db8::1%5D:65535", "2001:db8::1:65535")],
)
def test_grpcs_name_of_a_peer_is_ours(peer, name):
    assert peer_name(peer) == name


async def test_a_crowd_without_names_is_cut_and_a_session_goes_on(world):
    await world.start(connections_per_address=3)
    _, guest = await world.guest()
    host, _, port = world.endpoints.guest.rpartition(":")
    crowd = [socket.create_connection((host, int(port)), 5) for _ in range(10)]
    try:
        await until(lambda: sum(is_cut(each) for each in crowd) >= 7)
        await guest.send(heartbeat=pb2.Heartbeat())
        await until(lambda: world.conductor.reports)
    finally:
        for each in crowd:
            each.close()
