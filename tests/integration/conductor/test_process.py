"""`python -m conductor`: starts from a file, stops on a signal, says what is wrong with a file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.certificates import TestAuthority
from tests.fakes.database_servers import KINDS
from tests.fakes.state_databases import ServerOf
from trove_grpc.identity import Role


def write_config(folder: Path, **changes: str) -> Path:
    values = {
        "identity": f'"{folder}/identity"',
        "database_url": f'"sqlite:///{folder}/conductor.db"',
        "sealing_key_file": f'"{folder}/sealing.key"',
        "listen": '"127.0.0.1:0"',
        **changes,
    }
    file = folder / "config.toml"
    file.write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
    return file


async def test_process_serves_keeps_its_files_private_and_stops_on_sigterm(
    tmp_path: Path, authority: TestAuthority
) -> None:
    authority.identity_for_service(Role.CONDUCTOR, tmp_path / "identity")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "conductor",
        "--config",
        str(write_config(tmp_path)),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            while True:
                line = json.loads(await process.stderr.readline())
                if line["message"].startswith("serving on 127.0.0.1:0, port "):
                    break
            for name in ("conductor.db", "sealing.key"):
                assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
            process.send_signal(signal.SIGTERM)
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert b"Traceback" not in errors


@pytest.mark.parametrize("kind", KINDS)
async def test_process_serves_from_a_server_s_database_with_its_password_in_a_file(
    tmp_path: Path, authority: TestAuthority, database_servers: ServerOf, kind: str
) -> None:
    server = database_servers(kind)
    url = server.protect(server.new_database(), "canary-password")
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text("wrong\n")
    authority.identity_for_service(Role.CONDUCTOR, tmp_path / "identity")
    config = write_config(tmp_path, database_url=f'"{url}"', database_password_file=f'"{file}"')
    argv = [sys.executable, "-m", "conductor", "--config", str(config)]
    refused = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
    _, errors = await refused.communicate()
    assert refused.returncode == 1
    assert b"cannot open the database" in errors
    assert b"Traceback" not in errors
    file.write_text("canary-password\n")
    process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            while b"serving on 127.0.0.1:0, port " not in await process.stderr.readline():
                pass
            process.send_signal(signal.SIGTERM)
            _, rest = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, rest.decode()
    assert b"canary-password" not in errors + rest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"volume_limit": "3"}, "unknown setting 'volume_limit'"),
        ({"presence_deadline": "1"}, "presence_deadline must be at least twice"),
        ({"database_url": '"sqlite:////nowhere/at/all.db"'}, "cannot open the database"),
        ({}, "enrol first"),
    ],
)
def test_process_that_cannot_start_says_why_and_exits(
    tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "conductor", "--config", write_config(tmp_path, **changes)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TROVE_CONDUCTOR_LOG_LEVEL": "WARNING"},
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
