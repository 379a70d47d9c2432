"""An engine's key and certificate: one file, replaced at once, renewed in time.

<directory>/server.pem      the key, then the chain: never a moment with a wrong pair. While the
                            database root rotates, the chain ends with the new root signed by
                            the old one, for clients that know the old one only
<directory>/server.key.new  a key whose certificate is asked for, or not in use yet
<directory>/root.crt        what clients verify with: every root that is trusted now
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from guestagent import keys
from guestagent.engines import DatabaseAuthority
from guestagent.engines.tools import Tools
from trove_grpc import leaves
from trove_grpc.errors import InvalidRequestError, UnavailableError

CERTIFICATE = "server.pem"
_ROOT = "root.crt"
_DRAFT = "server.key.new"
_ROOM = "server.room"
_ROOM_BYTES = 32 * 1024


async def ensure_certificate(tools: Tools, directory: Path, authority: DatabaseAuthority) -> bool:
    """Have a certificate with a third of its life left, of the authority that signs now.

    True until `note_use`: a running engine has to be told of it. The key is stored before it is
    used, so that a repeat asks for the same certificate.
    """
    path, draft = directory / CERTIFICATE, directory / _DRAFT
    present = await tools.read(path)
    known = await tools.read(draft)
    if present is not None and not _is_due(present) and not authority.is_superseded(present):
        await _refresh_root(tools, directory, authority.roots())
        return known is not None
    key_pem, csr_der = await keys.request(known)
    if known is None:
        await tools.write(draft, key_pem)
    # A full disk is noticed before anybody is asked: requests are limited.
    await tools.write(directory / _ROOM, bytes(_ROOM_BYTES))
    await tools.remove(directory / _ROOM)
    try:
        issued = await authority.issue(csr_der)
    except InvalidRequestError as error:
        if error.reason != "CSR_KEY_REUSED":
            raise
        await tools.remove(draft)
        raise UnavailableError("the engine's key is spent; another will be made") from error
    # Old and new root before the leaf: nobody who reads the file now misses what comes.
    await _refresh_root(tools, directory, issued.root_pem)
    await tools.write(path, key_pem + issued.chain_pem)
    return True


async def shown_serial(tools: Tools, directory: Path) -> str:
    """Serial (hex) of the certificate in use; empty where none is, or a newer one waits."""
    present = await tools.read(directory / CERTIFICATE)
    if present is None or await tools.read(directory / _DRAFT) is not None:
        return ""
    return leaves.read(present).serial


async def _refresh_root(tools: Tools, directory: Path, roots: bytes) -> None:
    if roots and await tools.read(directory / _ROOT) != roots:
        await tools.write(directory / _ROOT, roots)


async def note_use(tools: Tools, directory: Path) -> None:
    """The running engine has read its certificate."""
    await tools.remove(directory / _DRAFT)


def _is_due(chain: bytes) -> bool:
    leaf = leaves.read(chain)
    life = leaf.not_valid_after - leaf.not_valid_before
    return dt.datetime.now(dt.UTC) >= leaf.not_valid_after - life / 3
