"""The issuer's own certificate: signed in process, for there is nobody to ask."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from sqlalchemy.orm import Session

from pki import renewal
from pki.issuer.config import Config
from pki.issuer.services import Services
from pki.models import Certificate
from pki.requests import key_pem, new_key
from pki.store import Store, authorities
from trove_grpc.errors import TroveError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.identity import Identity, Role, check_validity, identify
from trove_grpc.tls import IdentityDirectory, KeyMaterial


class OwnIdentity:
    """Keeps one issuer's identity young, and counts it among the services that rotations await."""

    def __init__(
        self,
        store: Store,
        services: Services,
        config: Config,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self.identity = IdentityDirectory(config.identity)
        self._store = store
        self._services = services
        self._config = config
        self._now = now

    async def refresh(self) -> None:
        """Follow the trust bundle; renew at a third of the certificate's life, or when told to."""
        bundle, renew_before = await self._store.run(_in_force)
        self.identity.store_bundle(bundle)
        present = self._present(bundle)
        if present is None or self._is_due(renew_before):
            present = await self._renew(present, bundle)
        await self._tell(present, bundle.version)

    async def _renew(self, present: Identity | None, bundle: trust_pb2.TrustBundle) -> Identity:
        key, now = new_key(), self._now()
        public_key = key.public_key()

        def work(session: Session) -> Certificate:
            if present is not None:
                return self._services.renew(session, present, public_key, now)
            return self._services.enrol(
                session,
                role=Role.ISSUER,
                host=self._config.host,
                public_key=public_key,
                actor="issuer",
                now=now,
            )

        certificate = await self._store.run(work)
        material = KeyMaterial(key_pem=key_pem(key), chain_pem=certificate.chain_pem)
        self.identity.install(material, bundle)
        return identify(certificate.chain_pem, bundle)

    async def _tell(self, present: Identity, version: int) -> None:
        """The first use of a new certificate ends the one before it, as for every service."""
        now = self._now()
        await self._store.run(lambda session: self._services.saw(session, present, version, now))

    def _present(self, bundle: trust_pb2.TrustBundle) -> Identity | None:
        """Who we are; None when our certificate is missing, expired or of no use any more."""
        try:
            found = identify(self.identity.load().chain_pem, bundle)
            check_validity(found, self._now())
        except TroveError:
            return None
        return found

    def _is_due(self, renew_before: dt.datetime | None) -> bool:
        leaf = self.identity.load().leaf
        issued = renewal.issue_time(leaf)
        is_called = renew_before is not None and issued < renew_before
        return is_called or self._now() >= renewal.due_time(leaf)


def _in_force(session: Session) -> tuple[trust_pb2.TrustBundle, dt.datetime | None]:
    return authorities.bundle(session), authorities.domain(session).services_renew_before
