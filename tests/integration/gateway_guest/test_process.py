"""The gateway as its users start it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from trove_grpc.client import PeerChannel
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2 as dispatch_pb2
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2_grpc as dispatch_rpc
from trove_grpc.identity import Role


async def start(config):
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.guest",
        "--config",
        str(config),
        stderr=asyncio.subprocess.PIPE,
    )


async def test_process_serves_says_where_and_leaves_on_sigterm(world, authority, tmp_path):
    await world.conductor.start()
    await world.issuer.start()
    config = tmp_path / "config.toml"
    config.write_text(
        f"""
identity = "{world.identity.root}"
enrolment_listen = "127.0.0.1:0"
guest_listen = "127.0.0.1:0"
internal_listen = "127.0.0.1:0"
conductor = ["{world.conductor.address}"]
issuer = ["{world.issuer.address}"]
heartbeat_flush = 0.1
"""
    )
    process = await start(config)
    try:
        async with asyncio.timeout(30):
            while True:
                line = json.loads(await process.stderr.readline())
                if line["message"].startswith("serving"):
                    break
        endpoints = dict(pair.split("=") for pair in line["message"].split()[1:])
        operator = authority.identity_for_operator("ada", tmp_path / "ada")
        async with PeerChannel(
            [endpoints["internal"]], identity=operator, server_role=Role.GATEWAY
        ) as channel:
            listed = await channel.stub(dispatch_rpc.DispatchServiceStub).ListSessions(
                dispatch_pb2.ListSessionsRequest(), timeout=5
            )
        assert list(listed.sessions) == []
        assert world.conductor.leases[0].address == endpoints["internal"]
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, rest.decode()


async def test_misspelt_setting_refuses_to_start(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('identity = "/nowhere"\nguest_listens = "127.0.0.1:0"\n')
    process = await start(config)
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert "guest_listens" in said.decode()
