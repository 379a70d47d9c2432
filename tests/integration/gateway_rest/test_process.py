"""`python -m gateway.rest`: how it starts, refuses to start, and stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.certificates import TestAuthority
from trove_grpc.identity import Role

START_SECONDS = 30


@pytest.fixture
def config_file(tmp_path):
    TestAuthority().identity_for_service(Role.API, tmp_path / "identity")

    def write(**settings: object) -> Path:
        nobody = ["127.0.0.1:1"]
        values = {
            "identity": str(tmp_path / "identity"),
            "listen": "127.0.0.1:0",
            "conductor": nobody,
            "taskmanager": nobody,
            "issuer": nobody,
        } | settings
        file = tmp_path / "config.toml"
        file.write_text("".join(f"{key} = {json.dumps(item)}\n" for key, item in values.items()))
        return file

    return write


async def start(config: Path, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.rest", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )


async def listening_port(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(START_SECONDS):
        async for line in process.stderr:
            message = json.loads(line)["message"]
            if message.startswith("listening on"):
                return int(message.split("port ")[1].split(",")[0])
    raise AssertionError("it ended before it listened")


async def failure(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(START_SECONDS):
        _, text = await process.communicate()
    assert process.returncode == 1
    return text.decode()


async def test_process_serves_without_its_peers_and_leaves_on_sigterm(config_file):
    process = await start(config_file())
    try:
        port = await listening_port(process)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/healthcheck") as answer,
        ):
            status = answer.status
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START_SECONDS):
            await process.communicate()

    assert status == 200
    assert process.returncode == 0


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:8779", "example.com:80"])
async def test_process_without_authentication_listens_on_loopback_only(config_file, listen):
    text = await failure(await start(config_file(listen=listen)))

    assert "loopback" in text


async def test_unknown_authentication_is_a_refusal_to_start(config_file):
    text = await failure(await start(config_file(), TROVE_API_AUTH="magic"))

    assert "'magic' is unknown" in text


async def test_taken_port_is_named(config_file):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = await failure(await start(config_file(listen=f"127.0.0.1:{port}")))

    assert f"cannot listen on 127.0.0.1:{port}" in text


async def test_missing_identity_is_a_refusal_to_start(config_file, tmp_path):
    text = await failure(await start(config_file(identity=str(tmp_path / "none"))))

    assert "enrol first" in text
