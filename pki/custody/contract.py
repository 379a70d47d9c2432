"""What every custody promises, whatever keeps the keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from trove_grpc.errors import TroveError

_NAME = re.compile(r"\A(?P<authority>[a-z][a-z-]{0,31})-g(?P<generation>[0-9]{1,6})\Z")


class CustodyError(TroveError):
    """A key cannot be kept or read safely; the message says which one and what to do.

    Nothing was made anew or replaced. Who only cannot be reached raises another error.
    """

    reason = "CUSTODY"


class Custody(Protocol):
    """Keeps the private key of each authority generation. Written once, never replaced.

    Keys are named `<authority>-g<generation>`. Calls may block on a disk or on the network.
    """

    @property
    def location(self) -> str:
        """Where the keys are, for people."""

    def prepare(self) -> None:
        """Make what the custody itself needs before its first key; harmless later."""

    def probe(self) -> None:
        """Raise what would keep a key from being read or stored now."""

    def names(self) -> Sequence[str]:
        """Every generation whose key is here, sorted."""

    def exists(self, name: str) -> bool: ...

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Read a key; NotFoundError when there is none, CustodyError when it cannot be trusted."""

    def store(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Keep a new key for good; ConflictError when the name is another key's.

        The same key again finishes a call that was cut short.
        """

    def delete(self, name: str) -> None:
        """Destroy a key for good; its certificate stays. Nothing happens when there is none."""

    def load_certificate(self, name: str) -> bytes:
        """Read the certificate of a generation, PEM; NotFoundError when there is none."""

    def store_certificate(self, name: str, pem: bytes) -> None:
        """Keep a certificate beside its key, for the day the database is lost.

        The same one again is harmless; ConflictError when the name is another certificate's.
        """


def parse_name(name: str) -> tuple[str, int]:
    """Authority and generation; raises CustodyError for what is no name of a key."""
    match = _NAME.match(name)
    if match is None:
        raise CustodyError(f"{name!r} is no name for a key")
    return match["authority"], int(match["generation"])


def is_name(name: str) -> bool:
    return _NAME.match(name) is not None
