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


async def sign(key_pem: bytes, nonce: bytes, csr_der: bytes, instance_id: str) -> bytes:
    """Prove that we hold a key (pki/proof.py). Raises UnavailableError when it cannot be done."""
    if "cryptography.x509" in sys.modules:
        from pki import proof  # noqa: PLC0415  see above

        return proof.sign(key_pem, nonce, csr_der, instance_id)
    parts = (key_pem, nonce, csr_der, instance_id.encode())
    packed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return await _in_child("pki.proof", packed)


async def _request_in_child(key_pem: bytes | None) -> tuple[bytes, bytes]:
    answer = await _in_child("pki.requests", key_pem or b"")
    length, body = int.from_bytes(answer[:4], "big"), answer[4:]
    return body[:length], body[length:]


async def _in_child(module: str, stdin: bytes) -> bytes:
    """Keys pass through pipes only: a command line and an environment can be read."""
    try:
        done = await execute(
            [sys.executable, "-m", module],
            timeout=_SECONDS,
            stdin=stdin,
            # It finds the same packages as we do, wherever they were put.
            environment={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except TimeoutError:
        raise UnavailableError(f"no key within {_SECONDS:g} s; is the machine busy?") from None
    if done.code:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UnavailableError(f"no key could be made: {said[-1] if said else 'no reason'}")
    return done.stdout
