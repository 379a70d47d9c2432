"""CA keys in Barbican: sealed envelopes there, the key that opens them here.

Barbican cannot sign and hands a stored key to whoever it authorises, so it never gets one: it
keeps ciphertext (envelope.py) and says who may read it. What each loss yields: its database alone
ciphertext, this host's KEK file alone nothing.

Only these two modules know the client libraries, and turn their families of exceptions into
errors that differ where an operator acts differently (barbican_errors.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import barbicanclient.client
from cryptography.hazmat.primitives.asymmetric import ec
from keystoneauth1 import session as keystone
from keystoneauth1.identity import v3

from pki.custody.barbican_errors import Explained
from pki.custody.contract import CustodyError, parse_name
from pki.custody.envelope import Kek, create_kek, read_kek, seal, spki_hash, unseal
from pki.custody.private_files import check_directory, read_private_file
from pki.custody.settings import BarbicanSettings, refuse_plaintext
from trove_grpc.errors import ConflictError, NotFoundError

_PREFIX = "trove-pki"
_KEY, _CERTIFICATE = "key", "cert"
# Opaque, because Barbican's own formats for keys are opened and rewritten by some backends.
_TYPES = {_KEY: "opaque", _CERTIFICATE: "certificate"}
# Barbican gives 10 unless asked for more, and never more than 100.
_PAGE = 100


class BarbicanCustody:
    """One secret for each key and each certificate, found by name.

    Names in Barbican are not unique and secrets there are never changed: a name is looked up
    before it is written, and two secrets of one name that differ are refused.
    """

    def __init__(self, settings: BarbicanSettings, trust_domain: str) -> None:
        self._settings = settings
        self._root = f"{_PREFIX}/{trust_domain}"
        self._key_path = re.compile(
            rf"\A{re.escape(self._root)}/(?P<authority>[a-z-]+)/g(?P<generation>[0-9]+)/{_KEY}\Z"
        )
        self._opened: Any = None

    @property
    def location(self) -> str:
        return f"{self._root} in Barbican of {self._settings.region}"

    def prepare(self) -> None:
        """Create the KEK where no key needs an older one."""
        path = self._settings.kek_file
        if path.exists() or path.is_symlink():
            return
        if self.names():
            raise CustodyError(
                f"{path} is missing, and {self.location} holds keys sealed under it; restore that "
                "file from your backup",
                reason="KEK_MISSING",
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_directory(path.parent)
        create_kek(path)

    def probe(self) -> None:
        self._kek()
        with self._explained("list secrets"):
            self._client().secrets.list(limit=1)

    def names(self) -> Sequence[str]:
        with self._explained("list secrets"):
            found = [self._key_path.match(each.name or "") for each in self._list(_TYPES[_KEY])]
        return sorted({f"{each['authority']}-g{each['generation']}" for each in found if each})

    def exists(self, name: str) -> bool:
        return bool(self._find(self._path(name, _KEY), _KEY))

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        path = self._path(name, _KEY)
        found = self._find(path, _KEY)
        if not found:
            raise NotFoundError(f"{path} does not exist in Barbican", reason="KEY_MISSING")
        kek = self._kek()
        keys = [unseal(self._payload(each, path), path, kek) for each in found]
        if len({spki_hash(each.public_key()) for each in keys}) > 1:
            raise _ambiguous(path, found)
        return keys[0]

    def store(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        path = self._path(name, _KEY)
        found = self._find(path, _KEY)
        if not found:
            found = [self._create(path, _KEY, seal(key, path, self._kek()))]
        elif self.load(name).public_key() != key.public_key():
            raise ConflictError(f"{path} exists already in Barbican; a key is written once")
        for each in found:
            self._guard(each, name)

    def delete(self, name: str) -> None:
        path = self._path(name, _KEY)
        for each in self._find(path, _KEY):
            with self._explained(f"delete {path}"):
                secrets = self._client().secrets
                for consumer in secrets.list_consumers(each.secret_ref, limit=_PAGE):
                    secrets.remove_consumer(
                        each.secret_ref,
                        consumer.service,
                        consumer.resource_type,
                        consumer.resource_id,
                    )
                secrets.delete(each.secret_ref)

    def load_certificate(self, name: str) -> bytes:
        path = self._path(name, _CERTIFICATE)
        found = self._find(path, _CERTIFICATE)
        if not found:
            raise NotFoundError(f"{path} does not exist in Barbican", reason="CERTIFICATE_MISSING")
        certificates = {self._payload(each, path) for each in found}
        if len(certificates) > 1:
            raise _ambiguous(path, found)
        return certificates.pop()

    def store_certificate(self, name: str, pem: bytes) -> None:
        path = self._path(name, _CERTIFICATE)
        if not self._find(path, _CERTIFICATE):
            self._create(path, _CERTIFICATE, pem)
        elif self.load_certificate(name) != pem:
            raise ConflictError(f"{path} exists already in Barbican; it is written once")

    # What is in Barbican.

    def _path(self, name: str, what: str) -> str:
        authority, generation = parse_name(name)
        return f"{self._root}/{authority}/g{generation}/{what}"

    def _find(self, path: str, what: str) -> list[Any]:
        """Every secret of this name and type, the oldest first."""
        with self._explained(f"look for {path}"):
            return [each for each in self._list(_TYPES[what], name=path) if each.name == path]

    def _list(self, secret_type: str, **filters: str) -> Iterator[Any]:
        offset = 0
        while True:
            page = self._client().secrets.list(
                limit=_PAGE,
                offset=offset,
                secret_type=secret_type,
                sort="created:asc",
                **filters,
            )
            yield from page
            if len(page) < _PAGE:
                return
            offset += len(page)

    def _payload(self, secret: Any, path: str) -> bytes:
        with self._explained(f"read {path}"):
            payload = secret.payload
        if payload is None:
            raise CustodyError(
                f"{path} exists in Barbican without a payload; restore it from your backup",
                reason="CUSTODY_NO_PAYLOAD",
            )
        if not isinstance(payload, bytes):
            raise CustodyError(
                f"{path} holds text, which we never store; find out who did, and restore the key "
                "from your backup",
                reason="CUSTODY_FOREIGN",
            )
        return payload

    def _create(self, path: str, what: str, payload: bytes) -> Any:
        """Store a new secret, unless somebody else just did."""
        with self._explained(f"store {path}"):
            # Without an expiration: what has one is gone from lists before anybody misses it.
            secret = self._client().secrets.create(
                name=path, payload=payload, secret_type=_TYPES[what]
            )
            ours = secret.store()
        found = self._find(path, what)
        if found and found[0].secret_ref != ours:
            with self._explained(f"take back {path}"):
                self._client().secrets.delete(ours)
            raise ConflictError(
                f"{path} was stored by another process at the same time; try again"
            )
        return secret

    def _guard(self, secret: Any, name: str) -> None:
        """Let the issuer's user alone read the secret, and keep it from casual deletion."""
        ref = secret.secret_ref
        with self._explained(f"protect {self._path(name, _KEY)}"):
            client = self._client()
            user = client.client.get_user_id()
            read = client.acls.get(ref).read
            if read.project_access is not False or user not in read.users:
                client.acls.create(entity_ref=ref, users=[user], project_access=False).submit()
            if not client.secrets.list_consumers(ref, limit=1):
                client.secrets.register_consumer(ref, _PREFIX, "authority", name)

    # How to get there.

    def _kek(self) -> Kek:
        return read_kek(self._settings.kek_file)

    def _client(self) -> Any:
        """Signs in on first use: constructing a client already speaks to Barbican."""
        if self._opened is None:
            settings = self._settings
            identifier, secret = self._credential()
            session = keystone.Session(
                auth=v3.ApplicationCredential(
                    auth_url=settings.auth_url,
                    application_credential_id=identifier,
                    application_credential_secret=secret,
                ),
                verify=str(settings.ca_file) if settings.ca_file else True,
                timeout=settings.timeout.total_seconds(),
                redirect=False,  # the token goes where the catalogue says and nowhere else
            )
            endpoint = session.get_endpoint(
                service_type="key-manager",
                region_name=settings.region,
                interface=settings.interface,
            )
            if endpoint is None:
                raise NotFoundError(
                    f"Keystone's catalogue has no {settings.interface} key-manager in "
                    f"{settings.region}; see `openstack catalog list`",
                    reason="CUSTODY_NO_ENDPOINT",
                )
            refuse_plaintext(endpoint, "Barbican's address in Keystone's catalogue")
            self._opened = barbicanclient.client.Client(
                session=session, region_name=settings.region, interface=settings.interface
            )
        return self._opened

    def _credential(self) -> tuple[str, str]:
        path = self._settings.credential_file
        try:
            content = json.loads(read_private_file(path, reason="CREDENTIAL_MISSING"))
            # The openstack command writes `id` or `ID`, by its version.
            found = {name.lower(): value for name, value in content.items()}
            return str(found["id"]), str(found["secret"])
        except (ValueError, KeyError, AttributeError):
            # Not chained: a parser's message quotes what it read.
            raise CustodyError(
                f"{path} is not JSON with `id` and `secret` of an application credential"
            ) from None

    def _explained(self, doing: str) -> Explained:
        return Explained(doing, self._settings, forget=self._forget)

    def _forget(self) -> None:
        """Sign in anew next time: the credential may have been replaced meanwhile."""
        self._opened = None


def _ambiguous(path: str, found: Sequence[Any]) -> CustodyError:
    refs = ", ".join(each.secret_ref.rpartition("/")[2] for each in found)
    return CustodyError(
        f"Barbican holds several different secrets named {path} ({refs}); find out who stored the "
        "later ones, and delete what is not ours",
        reason="CUSTODY_AMBIGUOUS",
    )
