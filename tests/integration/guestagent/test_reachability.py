"""What an agent finds where a gateway should be."""

from __future__ import annotations

import socket

from guestagent.reachability import is_listening


async def test_port_that_takes_connections_is_listening_though_it_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert await is_listening(f"127.0.0.1:{server.getsockname()[1]}")


async def test_port_nobody_has_is_not_listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not await is_listening(f"127.0.0.1:{port}")


async def test_name_that_does_not_resolve_is_not_listening():
    assert not await is_listening("nobody.invalid:443")


async def test_ipv6_endpoint_is_dialled_without_its_brackets():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert await is_listening(f"[::1]:{server.getsockname()[1]}")
