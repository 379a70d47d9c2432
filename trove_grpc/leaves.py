"""Serial and dates of a certificate of our own, read without `cryptography`.

An agent looks at its certificate every time it decides whether to renew. Three fields at fixed
places do not justify the 10 MiB of a library. Only for certificates that a verified peer issued
to us: whoever must *judge* a certificate uses trove_grpc/identity.py.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import re
from dataclasses import dataclass

_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\s(?P<body>[A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----"
)
_SEQUENCE, _INTEGER, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x02, 0x17, 0x18, 0xA0
_LONG_FORM = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a certificate's owner needs to know of it."""

    serial: str  # hex, lower case
    not_valid_before: dt.datetime
    not_valid_after: dt.datetime


@functools.lru_cache(maxsize=16)
def read(pem: bytes) -> Facts:
    """Read the first certificate of a PEM chain; raises ValueError when there is none."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("no PEM certificate")
    certificate, _ = _take(base64.b64decode(found["body"]), _SEQUENCE)
    fields, _ = _take(certificate, _SEQUENCE)
    if fields[:1] == bytes([_VERSION]):
        _, fields = _take(fields, _VERSION)
    serial, fields = _take(fields, _INTEGER)
    _, fields = _take(fields, _SEQUENCE)  # signature algorithm
    _, fields = _take(fields, _SEQUENCE)  # issuer
    validity, _ = _take(fields, _SEQUENCE)
    before, validity = _take_time(validity)
    after, _ = _take_time(validity)
    return Facts(
        serial=f"{int.from_bytes(serial, 'big'):x}", not_valid_before=before, not_valid_after=after
    )


def certificates(pem: bytes) -> list[bytes]:
    """The certificates of a PEM chain, DER, in order; other blocks are passed over."""
    return [base64.b64decode(found["body"]) for found in _PEM.finditer(pem)]


def _take(der: bytes, tag: int) -> tuple[bytes, bytes]:
    """Split off one element: its content and what follows it (X.690, 8.1)."""
    if len(der) < 2 or der[0] != tag:  # noqa: PLR2004  tag and length
        raise ValueError(f"expected DER tag {tag:#x}")
    length, start = der[1], 2
    if length >= _LONG_FORM:
        start += length - _LONG_FORM
        length = int.from_bytes(der[2:start], "big")
    end = start + length
    if end > len(der):
        raise ValueError("DER ends early")
    return der[start:end], der[end:]


def _take_time(der: bytes) -> tuple[dt.datetime, bytes]:
    """A date up to 2049 has two digits for its year, a later one four (RFC 5280, 4.1.2.5)."""
    if der[:1] == bytes([_GENERALIZED_TIME]):
        content, rest = _take(der, _GENERALIZED_TIME)
        text = content.decode("ascii")
    else:
        content, rest = _take(der, _UTC_TIME)
        text = content.decode("ascii")
        text = ("20" if text < "5" else "19") + text
    return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC), rest
