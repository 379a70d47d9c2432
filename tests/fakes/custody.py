"""Custody in memory; held to the same contract test as the files."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec

from pki.custody.contract import parse_name
from trove_grpc.errors import ConflictError, NotFoundError


class MemoryCustody:
    def __init__(self) -> None:
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.certificates: dict[str, bytes] = {}

    @property
    def location(self) -> str:
        return "memory"

    def prepare(self) -> None:
        """Memory needs nothing."""

    def probe(self) -> None:
        """Memory is always there."""

    def names(self) -> Sequence[str]:
        return sorted(self.keys)

    def exists(self, name: str) -> bool:
        parse_name(name)
        return name in self.keys

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        parse_name(name)
        if name not in self.keys:
            raise NotFoundError(f"no key {name}", reason="KEY_MISSING")
        return self.keys[name]

    def store(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        parse_name(name)
        if self.keys.setdefault(name, key).public_key() != key.public_key():
            raise ConflictError(f"key {name} exists already; a key is written once")

    def delete(self, name: str) -> None:
        parse_name(name)
        self.keys.pop(name, None)

    def load_certificate(self, name: str) -> bytes:
        parse_name(name)
        if name not in self.certificates:
            raise NotFoundError(f"no certificate {name}", reason="CERTIFICATE_MISSING")
        return self.certificates[name]

    def store_certificate(self, name: str, pem: bytes) -> None:
        parse_name(name)
        if self.certificates.setdefault(name, pem) != pem:
            raise ConflictError(f"certificate {name} exists already; it is written once")
