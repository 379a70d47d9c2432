"""A custody whose failures are counted, so that an alert comes before the next cold start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric import ec

from pki import metrics
from pki.custody.contract import Custody
from trove_grpc.errors import TroveError

# Answers to a question, not failures.
_ANSWERS = frozenset({"KEY_MISSING", "CERTIFICATE_MISSING"})


class CountedCustody:
    """Passes every call on; `backend` names the custody in the metric."""

    def __init__(self, custody: Custody, backend: str) -> None:
        self._custody = custody
        self._backend = backend

    @property
    def location(self) -> str:
        return self._custody.location

    def prepare(self) -> None:
        with self._counted("prepare"):
            self._custody.prepare()

    def probe(self) -> None:
        with self._counted("probe"):
            self._custody.probe()

    def names(self) -> Sequence[str]:
        with self._counted("names"):
            return self._custody.names()

    def exists(self, name: str) -> bool:
        with self._counted("exists"):
            return self._custody.exists(name)

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        with self._counted("load"):
            return self._custody.load(name)

    def store(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        with self._counted("store"):
            self._custody.store(name, key)

    def delete(self, name: str) -> None:
        with self._counted("delete"):
            self._custody.delete(name)

    def load_certificate(self, name: str) -> bytes:
        with self._counted("load_certificate"):
            return self._custody.load_certificate(name)

    def store_certificate(self, name: str, pem: bytes) -> None:
        with self._counted("store_certificate"):
            self._custody.store_certificate(name, pem)

    @contextlib.contextmanager
    def _counted(self, verb: str) -> Iterator[None]:
        try:
            yield
        except TroveError as error:
            if error.reason not in _ANSWERS:
                kind = error.reason.removeprefix("CUSTODY_").lower()
                metrics.CUSTODY_ERRORS.labels(self._backend, verb, kind).inc()
            raise
