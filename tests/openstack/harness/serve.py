"""Runs one service on an inherited socket: serve.py PARENT (wsgi MODULE | paste FILE) DESCRIPTOR.

PARENT is the pid to die with, 0 for nobody: a test run that is killed leaves nothing behind. Runs
in the services' environment, so it imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import sys

import waitress

_PR_SET_PDEATHSIG = 1
_THREADS = 8


def main() -> None:
    parent, kind, what, descriptor = sys.argv[1:]
    if parent != "0":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit("the process that started this is gone")
    # The services read the command line when their application is made.
    sys.argv = [what]
    waitress.serve(
        _application(kind, what),
        sockets=[socket.socket(fileno=int(descriptor))],
        threads=_THREADS,
        ident=None,
    )


def _application(kind: str, what: str) -> object:
    if kind == "paste":
        from paste import deploy

        return deploy.loadapp(f"config:{what}")
    return importlib.import_module(what).application


if __name__ == "__main__":
    main()
