"""Which certificate requests are accepted (design: pki C.5).

A request proves that its sender owns a key. It names nothing and asks for nothing: whatever it
does ask for is a reason to refuse, never something to repair or to overlook.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from trove_grpc.errors import InvalidRequestError

MAX_BYTES = 4096
_SEQUENCE = 0x30
_REMEDY = "send a PKCS#10 request in DER: P-256 key, empty subject, no extensions, no attributes"


def accept(der: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request that holds nothing else.

    Raises InvalidRequestError with a reason that begins with CSR_.
    """
    if len(der) > MAX_BYTES:
        raise _refused("CSR_TOO_LONG", f"{len(der)} bytes, at most {MAX_BYTES}")
    if not der or der[0] != _SEQUENCE:
        raise _refused("CSR_MALFORMED", "it is not DER")
    try:
        request = x509.load_der_x509_csr(der)
        public_key = request.public_key()
        extensions, attributes = list(request.extensions), list(request.attributes)
        subject = list(request.subject)
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise _refused("CSR_MALFORMED", "it cannot be parsed") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        raise _refused("CSR_KEY", "its key is not P-256")
    if subject:
        raise _refused("CSR_SUBJECT", "it names a subject")
    if extensions:
        raise _refused("CSR_EXTENSION", "it asks for extensions")
    if attributes:
        raise _refused("CSR_EXTENSION", "it carries attributes")
    if not signed:
        raise _refused("CSR_SIGNATURE", "its signature does not verify")
    return public_key


def _refused(reason: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"certificate request refused: {problem}; {_REMEDY}", reason=reason)
