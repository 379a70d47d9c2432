"""The custody that the settings name."""

from __future__ import annotations

from pki.custody import Custody, FileCustody
from pki.issuer.config import BARBICAN, FILES, Config
from trove_grpc.errors import InvalidRequestError


def open_custody(config: Config, kind: str = "") -> Custody:
    """The custody of this issuer, or the one of `kind`; nothing is read or connected yet.

    Raises InvalidRequestError when the settings do not say where that one is.
    """
    kind = kind or config.custody
    if kind == FILES:
        return FileCustody(config.custody_directory, config.passphrase_file)
    if kind != BARBICAN:
        raise InvalidRequestError(f"there is no custody {kind!r}; take {FILES} or {BARBICAN}")
    if config.barbican is None:
        raise InvalidRequestError("the issuer's settings have no table [barbican]; add it first")
    # Only here: the default needs no HTTP client in the process that holds the keys.
    from pki.custody.barbican import BarbicanCustody  # noqa: PLC0415

    return BarbicanCustody(config.barbican, config.trust_domain)
