"""Custody in memory; held to the same contract test as the files."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from trove_grpc.errors import ConflictError, NotFoundError


class MemoryCustody:
    def __init__(self) -> None:
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}

    def exists(self, name: str) -> bool:
        return name in self.keys

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        if name not in self.keys:
            raise NotFoundError(f"no key {name}", reason="KEY_MISSING")
        return self.keys[name]

    def store(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        if name in self.keys:
            raise ConflictError(f"key {name} exists already; a key is written once")
        self.keys[name] = key
