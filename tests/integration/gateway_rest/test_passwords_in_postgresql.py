"""PostgreSQL itself makes verifiers of the same passwords: ours must be equal."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.rest.passwords import scram_sha_256_verifier

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
COMMAND_SECONDS = 60
PASSWORDS = {
    "plain": "secret",
    "a quote": "it's \\ 100 %",
    "Latin": "pässwörd",
    "Greek and emoji": "πάσσ🦄",
    "emoji": "🦄",
    "a compatibility letter": "Ⅸ\ufb01\u2126\uff11",
    "a combining mark": "e\u0301\u1e9b\u0323",
    "no-break space": "a\u00a0b\u3000",
    "zero width space": "a\u200bb",
    "only a zero width space": "\u200b",
    "soft hyphen": "x\u00ady",
    "only a soft hyphen": "\u00ad",
    "right to left": "שלום",
    "mixed directions": "אa",
    "ends left to right": "א1",
    "a ligature": "\ufdfa",
    "a line separator": "\u2028",
    "private use": "\ue000",
    "unassigned in Unicode 3.2": "\u0221\u20bf",
    "plane 1": "\U0001d7ce",
}


def run(*arguments: str, stdin: str = "") -> str:
    """Run as a user PostgreSQL accepts: never root."""
    prefix = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
    done = subprocess.run(
        (*prefix, *arguments),
        input=stdin,
        check=True,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        cwd="/",
    )
    return done.stdout


@pytest.fixture(scope="module")
def socket_directory() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="trove-pg-")  # short: socket paths have 107 bytes
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        data = f"{folder}/data"
        run(f"{BINARIES}/initdb", "-D", data, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
        options = f"-k {folder} -c listen_addresses="
        control = (f"{BINARIES}/pg_ctl", "-D", data, "-w", "-l", f"{folder}/log")
        run(*control, "-o", options, "start")
        try:
            yield folder
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("what", PASSWORDS)
def test_verifier_is_the_one_postgresql_would_keep(socket_directory, what):
    quoted = PASSWORDS[what].replace("'", "''")
    statements = f"""
        DROP ROLE IF EXISTS probe;
        CREATE ROLE probe PASSWORD '{quoted}';
        SELECT rolpassword FROM pg_authid WHERE rolname = 'probe';
    """  # noqa: S608  quoted above
    psql = (f"{BINARIES}/psql", "-h", socket_directory, "-d", "postgres", "-AtqX")
    kept = run(*psql, stdin=statements).strip()
    salt = base64.b64decode(kept.split("$")[1].split(":")[1])

    assert scram_sha_256_verifier(PASSWORDS[what], salt=salt) == kept
