"""Fetches another region's bundle over HTTPS: by the public web PKI, or by a pinned key."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ssl
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from trove_grpc.errors import InvalidRequestError, UnauthenticatedError, UnavailableError

_TIMEOUT = 10.0
# A bundle has a few kilobytes; whoever sends more sends something else.
_MOST_BYTES = 1 << 20
_OK = 200


def fetch(url: str, pin: str) -> str:
    """The document at `url`. `pin` is the SHA-256 of the endpoint's key (SPKI), hex, or empty.

    With a pin that key alone counts: its certificate may be self-signed. It is compared before
    anything is asked. Raises UnavailableError, or UnauthenticatedError for another key.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise InvalidRequestError(f"{url!r} is no https:// address")
    connection = http.client.HTTPSConnection(
        parts.hostname, parts.port or 443, timeout=_TIMEOUT, context=_context(is_pinned=bool(pin))
    )
    try:
        connection.connect()
        if pin:
            _check_pin(connection, pin, url)
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        connection.request("GET", path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES + 1)
    except ssl.SSLCertVerificationError as error:
        raise UnauthenticatedError(
            f"{url}: {error.verify_message}; pin its key if it is not of the public web PKI"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"cannot fetch {url}: {error}") from error
    finally:
        connection.close()
    if answer.status != _OK:
        raise UnavailableError(f"{url} answered {answer.status} {answer.reason}")
    if len(body) > _MOST_BYTES:
        raise InvalidRequestError(f"{url} sent more than a bundle can be")
    return body.decode(errors="replace")


def _context(*, is_pinned: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if is_pinned:
        # The key is compared instead: see _check_pin.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _check_pin(connection: http.client.HTTPSConnection, pin: str, url: str) -> None:
    assert isinstance(connection.sock, ssl.SSLSocket)  # noqa: S101  connected by HTTPS
    der = connection.sock.getpeercert(binary_form=True) or b""
    key = x509.load_der_x509_certificate(der).public_key()
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    shown = hashlib.sha256(spki).hexdigest()
    if not hmac.compare_digest(shown, pin.lower()):
        raise UnauthenticatedError(
            f"{url} shows the key {shown}, not the pinned one; ask its operators before you "
            "pin another",
            reason="OTHER_KEY",
        )
