"""A virtual environment of pinned packages, shared by all checkouts with the same lock.

It lies in ${XDG_CACHE_HOME:-~/.cache}/trove-grpc/NAME-DIGEST: what requirements.lock says, nothing
of any cloud's state. Remove it whenever you like. Without arguments it is the services' own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.openstack.harness.state import HarnessError

_LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
# The interpreter the locked set was proven with: Debian 12's own.
_PYTHON = "/usr/bin/python3"


def location(name: str = "openstack", pinned: Path = _LOCK) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(pinned.read_bytes()).hexdigest()[:12]
    return cache / "trove-grpc" / f"{name}-{digest}"


def ensure(name: str = "openstack", pinned: Path = _LOCK) -> Path:
    """Install what is missing, one process at a time; returns the environment's bin directory."""
    venv = location(name, pinned)
    venv.parent.mkdir(parents=True, exist_ok=True)
    stamp = venv / "installed"
    with venv.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists():
            print(f"{name}: installing into {venv} (a minute the first time)", file=sys.stderr)
            shutil.rmtree(venv, ignore_errors=True)
            _run(_PYTHON, "-m", "venv", str(venv))
            _run(
                str(venv / "bin" / "python"),
                *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--no-compile", "--require-hashes", "-r", str(pinned)),
            )
            stamp.touch()
    return venv / "bin"


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarnessError(
            f"{' '.join(argv[:4])} exited {done.returncode}:\n{done.stderr[-3000:]}"
        )
