"""A busy server's handshakes take longer than a pause between attempts; they must not be cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.fakes.certificates import TestAuthority
from trove_grpc import client
from trove_grpc.identity import Role
from trove_grpc.server import build_internal_server

SLOW_SECONDS = 1.0


@contextlib.asynccontextmanager
async def slow_way_to(port: int) -> AsyncIterator[tuple[str, list[int]]]:
    """A TCP proxy that holds back the server's first bytes; the list counts connections."""
    connections: list[int] = []

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, wait: float) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                await asyncio.sleep(wait)  # the slowness itself
                wait = 0
                sink.write(data)
                await sink.drain()
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, to_writer, 0), pump(to_reader, writer, SLOW_SECONDS))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", connections


async def test_a_handshake_of_a_second_is_waited_for(tmp_path):
    authority = TestAuthority()
    server = build_internal_server(
        "127.0.0.1:0",
        identity=authority.identity_for_service(Role.CONDUCTOR, tmp_path / "conductor"),
        register=lambda _: None,
        services=[],
    )
    await server.start()
    operator = authority.identity_for_operator("ada", tmp_path / "ada")
    async with slow_way_to(server.port) as (address, connections):
        channel = client.PeerChannel([address], identity=operator, server_role=Role.CONDUCTOR)
        async with channel as peer:
            check = peer.channel().unary_unary("/grpc.health.v1.Health/Check")
            assert await check(b"", timeout=10) == b"\x08\x01"  # SERVING
        assert len(connections) == 1
    await server.stop(0)
