"""A real Keystone and a real Barbican for the session, and a place of its own for each test."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import barbicanclient.client
import pytest
from keystoneauth1 import session as keystone
from keystoneauth1.identity import v3

from pki.custody.barbican import BarbicanCustody
from pki.custody.settings import BarbicanSettings
from tests.openstack.faulty_barbican import FaultyBarbican
from tests.openstack.harness.cloud import Cloud
from tests.openstack.harness.identity import REGION, ApplicationCredential

PROJECT = "ca-keys"
_serial = itertools.count(1)


@pytest.fixture(scope="session")
def openstack() -> Iterator[Cloud]:
    """Not to have it is a failure; only SKIP_OPENSTACK=1 makes it a skip, which is printed."""
    if os.environ.get("SKIP_OPENSTACK") == "1":
        pytest.skip("SKIP_OPENSTACK=1: nothing was shown against real OpenStack services")
    root = Path(tempfile.mkdtemp(prefix="trove-openstack-"))
    cloud = Cloud(root, die_with_us=True)
    try:
        cloud.up()
        yield cloud
    finally:
        cloud.down()
        shutil.rmtree(root)


@dataclass(frozen=True)
class Place:
    """A trust domain of one test: settings of its custody, and the same secrets seen directly."""

    cloud: Cloud
    root: Path
    trust_domain: str
    settings: BarbicanSettings

    def custody(self, **changes: Any) -> BarbicanCustody:
        settings = dataclasses.replace(self.settings, **changes)
        return BarbicanCustody(settings, self.trust_domain)

    def path(self, name: str, what: str = "key") -> str:
        authority, _, generation = name.rpartition("-")
        return f"trove-pki/{self.trust_domain}/{authority}/{generation}/{what}"

    def client(self, credential_file: Path | None = None) -> Any:
        """Barbican without our custody in between."""
        found = json.loads((credential_file or self.settings.credential_file).read_text())
        auth = v3.ApplicationCredential(
            auth_url=self.settings.auth_url,
            application_credential_id=found["id"],
            application_credential_secret=found["secret"],
        )
        return barbicanclient.client.Client(
            session=keystone.Session(auth=auth), region_name=REGION, interface="internal"
        )

    def put(self, name: str, payload: bytes | str | None) -> str:
        """Store anything under the name of a key."""
        secret = self.client().secrets.create(
            name=self.path(name), payload=payload, secret_type="opaque"
        )
        ref: str = secret.store()
        return ref

    def secrets(self) -> dict[str, str]:
        """Name by reference, of everything of this trust domain."""
        found = self.client().secrets.list(limit=100, sort="created:desc")
        prefix = f"trove-pki/{self.trust_domain}/"
        return {each.secret_ref: each.name for each in found if each.name.startswith(prefix)}

    def credential(self, user: str, *roles: str, project: str = PROJECT) -> Path:
        """The file with an application credential of a user with these roles in the project."""
        password = self.cloud.state.secret(user)
        self.cloud.identity.ensure_user(user, password, project=project, roles=roles)
        made = self.cloud.identity.create_application_credential(
            f"{user}-{next(_serial)}", user=user, password=password, project=project, roles=roles
        )
        return write_credential(self.root / f"{user}.json", made)


def write_credential(path: Path, credential: ApplicationCredential) -> Path:
    path.touch(mode=0o600)
    path.write_text(json.dumps({"id": credential.id, "secret": credential.secret}))
    return path


@pytest.fixture
def private_directory() -> Iterator[Path]:
    """Short enough for a UNIX socket, which pytest's own paths are not."""
    root = Path(tempfile.mkdtemp(prefix="trove-custody-"))
    yield root
    shutil.rmtree(root)


@pytest.fixture
def place(openstack: Cloud, private_directory: Path) -> Place:
    settings = BarbicanSettings(
        auth_url=openstack.keystone.auth_url,
        credential_file=private_directory / "issuer.json",
        kek_file=private_directory / "kek",
        timeout=dt.timedelta(seconds=20),
    )
    found = Place(openstack, private_directory, f"t{uuid.uuid4().hex[:8]}.trove", settings)
    found.credential("issuer", "member")
    found.custody().prepare()
    return found


@pytest.fixture
def faulty(openstack: Cloud) -> Iterator[FaultyBarbican]:
    """A proxy before Barbican, which is the Barbican of a region of its own."""
    region = f"faulty{next(_serial)}"
    with FaultyBarbican(openstack.barbican.port, region) as proxy:
        openstack.identity.ensure_endpoint(openstack.barbican.kind, proxy.url, region=region)
        yield proxy
