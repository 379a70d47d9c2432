"""A private PostgreSQL server from Debian's binaries, on a UNIX socket alone."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))


@contextlib.contextmanager
def postgresql_server() -> Iterator[str]:
    """Yield an SQLAlchemy URL of an empty database; the server and its files go afterwards.

    initdb refuses root, so a root test run borrows the user Debian made for PostgreSQL.
    """
    if not _BINARIES:
        raise RuntimeError("PostgreSQL is not installed; run `make setup`")
    binaries = _BINARIES[-1]
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    as_owner = {"user": account.pw_uid, "group": account.pw_gid} if os.geteuid() == 0 else {}
    # Not pytest's directory: other users cannot enter that, and socket paths must be short.
    root = Path(tempfile.mkdtemp(prefix="trove-pg-"))
    try:
        os.chown(root, account.pw_uid, account.pw_gid)
        data = root / "data"

        def run(*argv: str) -> None:
            subprocess.run(
                argv,
                check=True,
                cwd=root,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **as_owner,
            )

        run(
            *(str(binaries / "initdb"), "--auth=trust", "--encoding=UTF8", "--locale=C"),
            *("--username=trove", "--no-sync", f"--pgdata={data}"),
        )
        settings = (
            f"-c listen_addresses='' -c unix_socket_directories={root} -c fsync=off "
            "-c shared_buffers=16MB -c max_connections=40"
        )
        pg_ctl = [str(binaries / "pg_ctl"), f"--pgdata={data}", "--wait"]
        run(*pg_ctl, "start", f"--log={root / 'log'}", f"--options={settings}")
        try:
            yield f"postgresql+psycopg://trove@/postgres?host={root}"
        finally:
            run(*pg_ctl, "stop", "--mode=immediate")
    finally:
        shutil.rmtree(root, ignore_errors=True)
