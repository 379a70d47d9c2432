"""A trust bundle as other software reads it: SPIFFE Trust Domain and Bundle, section 4 (JWK set).

Only roots of the control plane are in it: a database's root is for its clients, never for peers.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trove_grpc import tls
from trove_grpc.errors import InvalidRequestError
from trove_grpc.gen.common.v1 import trust_pb2

# How often others should look again, seconds.
_REFRESH_HINT = 300
_COORDINATE_BYTES = 32


def render(bundle: trust_pb2.TrustBundle) -> str:
    pem = tls.anchors(bundle, {trust_pb2.AUTHORITY_KIND_ROOT})
    roots = x509.load_pem_x509_certificates(pem) if pem else []
    document = {
        "keys": [_jwk(root) for root in roots],
        "spiffe_sequence": bundle.version,
        "spiffe_refresh_hint": _REFRESH_HINT,
    }
    return json.dumps(document, indent=2) + "\n"


def parse(text: str, trust_domain: str) -> trust_pb2.FederatedBundle:
    """Read another domain's bundle; raises InvalidRequestError when it is none."""
    try:
        document = json.loads(text)
        sequence = int(document.get("spiffe_sequence", 1))
        roots = [
            x509.load_der_x509_certificate(base64.b64decode(key["x5c"][0], validate=True))
            for key in document["keys"]
            if key.get("use") == "x509-svid"
        ]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, binascii.Error) as error:
        raise InvalidRequestError(f"that is no SPIFFE bundle of {trust_domain}") from error
    if not roots:
        raise InvalidRequestError(f"the bundle of {trust_domain} holds no X.509 root")
    pems = [root.public_bytes(serialization.Encoding.PEM) for root in roots]
    return trust_pb2.FederatedBundle(trust_domain=trust_domain, sequence=sequence, root_pems=pems)


def _jwk(root: x509.Certificate) -> dict[str, Any]:
    key = root.public_key()
    der = root.public_bytes(serialization.Encoding.DER)
    jwk: dict[str, Any] = {"use": "x509-svid", "x5c": [base64.b64encode(der).decode()]}
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers = key.public_numbers()
        jwk |= {"kty": "EC", "crv": "P-256", "x": _number(numbers.x), "y": _number(numbers.y)}
    return jwk


def _number(value: int) -> str:
    data = value.to_bytes(_COORDINATE_BYTES, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
