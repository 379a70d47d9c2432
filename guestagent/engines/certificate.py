"""An engine's key and certificate: one file, replaced at once, renewed in time.

<directory>/server.pem      the key, then the chain: never a moment with a wrong pair
<directory>/server.key.new  a key whose certificate is asked for, or not in use yet
<directory>/root.crt        what clients verify with
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from guestagent import keys
from guestagent.engines import IssueCertificate
from guestagent.engines.tools import Tools
from trove_grpc import leaves

CERTIFICATE = "server.pem"
_ROOT = "root.crt"
_DRAFT = "server.key.new"


async def ensure_certificate(tools: Tools, directory: Path, issue: IssueCertificate) -> bool:
    """Have a certificate with a third of its life left.

    True until `note_use`: a running engine has to be told of it. The key is stored before it is
    used, so that a repeat asks for the same certificate.
    """
    path, draft = directory / CERTIFICATE, directory / _DRAFT
    present = await tools.read(path)
    known = await tools.read(draft)
    if present is not None and not _is_due(present):
        return known is not None
    key_pem, csr_der = await keys.request(known)
    if known is None:
        await tools.write(draft, key_pem)
    issued = await issue(csr_der)
    await tools.write(directory / _ROOT, issued.root_pem)
    await tools.write(path, key_pem + issued.chain_pem)
    return True


async def shown_serial(tools: Tools, directory: Path) -> str:
    """Serial (hex) of the certificate in use; empty where none is, or a newer one waits."""
    present = await tools.read(directory / CERTIFICATE)
    if present is None or await tools.read(directory / _DRAFT) is not None:
        return ""
    return leaves.read(present).serial


async def note_use(tools: Tools, directory: Path) -> None:
    """The running engine has read its certificate."""
    await tools.remove(directory / _DRAFT)


def _is_due(chain: bytes) -> bool:
    leaf = leaves.read(chain)
    life = leaf.not_valid_after - leaf.not_valid_before
    return dt.datetime.now(dt.UTC) >= leaf.not_valid_after - life / 3
