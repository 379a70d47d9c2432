"""Keys and certificate requests, made by a process that exits.

`cryptography` costs 10 MiB for as long as a process lives; an agent needs it for a moment at
enrolment and then every other day. Where the library is loaded anyway (many agents in one
process, tests) there is nothing to save and the work is done here.
"""

from __future__ import annotations

import os
import sys

from guestagent.system import execute
from trove_grpc.errors import UnavailableError

_SECONDS = 30.0


async def request(key_pem: bytes | None = None) -> tuple[bytes, bytes]:
    """A P-256 key (PEM; `key_pem` when given) and its certificate request (DER).

    Store a new key before the request leaves. Raises UnavailableError when it cannot be made.
    """
    if "cryptography.x509" in sys.modules:
        from pki import requests  # noqa: PLC0415  see above

        return requests.request(key_pem)
    return await _request_in_child(key_pem)


async def _request_in_child(key_pem: bytes | None) -> tuple[bytes, bytes]:
    """Keys pass through pipes only: a command line and an environment can be read."""
    try:
        done = await execute(
            [sys.executable, "-m", "pki.requests"],
            timeout=_SECONDS,
            stdin=key_pem or b"",
            # It finds the same packages as we do, wherever they were put.
            environment={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except TimeoutError:
        raise UnavailableError(f"no key within {_SECONDS:g} s; is the machine busy?") from None
    if done.code:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UnavailableError(f"no key could be made: {said[-1] if said else 'no reason'}")
    length, body = int.from_bytes(done.stdout[:4], "big"), done.stdout[4:]
    return body[:length], body[length:]
