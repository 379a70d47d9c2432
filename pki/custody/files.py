"""The default custody: encrypted files in a directory of the issuer's own user."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki.custody.contract import CustodyError, is_name, parse_name
from pki.custody.private_files import (
    check_directory,
    create_private_file,
    read_private_file,
    remove_private_file,
)
from trove_grpc.errors import ConflictError

_PASSPHRASE_BYTES = 32


class FileCustody:
    """One encrypted PKCS#8 file for each key, its certificate beside it."""

    def __init__(self, directory: Path, passphrase_file: Path) -> None:
        self._directory = directory
        self._passphrase_file = passphrase_file

    @property
    def location(self) -> str:
        return str(self._directory)

    def prepare(self) -> None:
        """Create the directory and, where no key needs an older one, the passphrase."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_directory(self._directory)
        if self._passphrase_file.exists() or self._passphrase_file.is_symlink():
            return
        if any(self._directory.glob("*.key")):
            raise CustodyError(
                f"{self._passphrase_file} is missing, and {self._directory} holds keys encrypted "
                "with it; restore that file from your backup"
            )
        self._passphrase_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_directory(self._passphrase_file.parent)
        create_private_file(
            self._passphrase_file, secrets.token_urlsafe(_PASSPHRASE_BYTES).encode("ascii") + b"\n"
        )

    def probe(self) -> None:
        check_directory(self._directory)
        self._passphrase()

    def names(self) -> Sequence[str]:
        check_directory(self._directory)
        return sorted(each.stem for each in self._directory.glob("*.key") if is_name(each.stem))

    def exists(self, name: str) -> bool:
        path = self._path(name)
        return path.exists() or path.is_symlink()

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        path = self._path(name)
        data = read_private_file(path)
        try:
            key = serialization.load_pem_private_key(data, password=self._passphrase())
        except (ValueError, TypeError) as error:
            raise CustodyError(
                f"cannot decrypt {path}: it is damaged, not encrypted, or "
                f"{self._passphrase_file} is not its passphrase; restore both from one backup"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CustodyError(f"{path} holds another kind of key; restore it from your backup")
        return key

    def store(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        check_directory(self._directory)
        data = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._passphrase()),
        )
        try:
            create_private_file(self._path(name), data)
        except ConflictError:
            if self.load(name).public_key() != key.public_key():
                raise

    def delete(self, name: str) -> None:
        remove_private_file(self._path(name))

    def load_certificate(self, name: str) -> bytes:
        return read_private_file(self._path(name, ".crt"), reason="CERTIFICATE_MISSING")

    def store_certificate(self, name: str, pem: bytes) -> None:
        check_directory(self._directory)
        try:
            create_private_file(self._path(name, ".crt"), pem)
        except ConflictError:
            if self.load_certificate(name) != pem:
                raise

    def _passphrase(self) -> bytes:
        passphrase = read_private_file(self._passphrase_file).strip()
        if not passphrase:
            raise CustodyError(f"{self._passphrase_file} is empty; restore it from your backup")
        return passphrase

    def _path(self, name: str, suffix: str = ".key") -> Path:
        parse_name(name)
        return self._directory / f"{name}{suffix}"
