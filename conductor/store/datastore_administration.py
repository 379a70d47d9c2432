"""Datastores and versions as administrators make, change and remove them, at Trove's rules.

Nothing is ever taken out of the tables: instances, deleted ones too, refer to their version.
What an administrator touched is his from then on; the settings no longer change it.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import Session

from conductor.models import Backup, Datastore, DatastoreVersion, Instance, ManagedBy
from conductor.store import datastores, parameters
from conductor.store.datastores import find_version, version_not_found
from trove_grpc.errors import AlreadyExistsError, ConflictError, InvalidRequestError

# The standard port of each engine an agent may load; clients expect it.
PORTS = {"mariadb": 3306, "mysql": 3306, "postgresql": 5432, "redis": 6379}

VersionAndDatastore = tuple[DatastoreVersion, Datastore]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A version to add."""

    datastore: str  # name
    name: str
    version: str  # number
    manager: str
    is_active: bool
    is_default: bool
    image_id: str
    image_tags: list[str]
    packages: list[str]
    registry_ext: str
    repl_strategy: str


def create_version(session: Session, new: NewVersion) -> VersionAndDatastore:
    """Add a version; makes its datastore, or brings a deleted one back, where there is none."""
    port = _port_of(new.manager)
    _check_image(new.image_id, new.image_tags)
    datastore = _ensure_datastore(session, new, port)
    row, is_new = datastores.ensure_version(
        session, datastore, str(uuid.uuid4()), new.name, new.version
    )
    if not is_new and row.delete_time is None:
        raise _exists(new.name, new.version)
    row.delete_time = None
    row.managed_by = ManagedBy.ADMINISTRATOR.value
    row.is_active, row.manager = new.is_active, new.manager
    row.image_id, row.image_tags, row.packages = new.image_id, new.image_tags, new.packages
    row.registry_ext, row.repl_strategy = new.registry_ext, new.repl_strategy
    if new.is_default:
        _set_default(datastore, row.id)
    session.flush()
    parameters.seed(session, row.id)
    return row, datastore


def update_version(
    session: Session, version_id: str, changes: Mapping[str, Any]
) -> VersionAndDatastore:
    """Change the columns that `changes` names, and `is_default`.

    Tags without an image take the image away, as in Trove: of the two, the newer word stands.
    """
    version, datastore = _lock_version(session, version_id)
    values = dict(changes)
    is_default = values.pop("is_default", None)
    if values.get("image_tags") and not values.get("image_id"):
        values["image_id"] = ""
    if "manager" in values:
        _port_of(values["manager"])
    name = values.get("name", version.name)
    if name != version.name and find_version(session, datastore.id, name, version.version):
        raise _exists(name, version.version)
    for column, value in values.items():
        setattr(version, column, value)
    if values.keys() & {"image_id", "image_tags"}:
        _check_image(version.image_id, version.image_tags)
    version.managed_by = ManagedBy.ADMINISTRATOR.value
    if is_default:
        _set_default(datastore, version.id)
    elif is_default is False and datastore.default_version_id == version.id:
        _set_default(datastore, None)
    try:
        session.flush()
    except exc.IntegrityError as error:  # the name was taken after it was looked for
        raise _exists(name, version.version) from error
    return version, datastore


def delete_version(session: Session, version_id: str, *, now: dt.datetime) -> None:
    """Remove a version that nothing living uses."""
    version, datastore = _lock_version(session, version_id)
    for resource, use in (("instance", _LIVING_INSTANCE), ("backup", _LIVING_BACKUP)):
        if session.scalar(sa.select(use.where(Instance.datastore_version_id == version.id))):
            raise ConflictError(
                f"Datastore version is in use by {resource}.",
                reason="DATASTORE_VERSION_IN_USE",
                subject=version.id,
            )
    if datastore.default_version_id == version.id:
        _set_default(datastore, None)
    version.managed_by = ManagedBy.ADMINISTRATOR.value
    version.is_active = False
    version.delete_time = now
    session.flush()


def delete_datastore(session: Session, datastore: str, *, now: dt.datetime) -> None:
    """Remove a datastore, by name or id, that has no versions."""
    offer = datastores.get_offer(session, datastore, include_inactive=True)
    if offer.versions:
        raise ConflictError(
            f"Datastore versions exist for datastore {datastore}.",
            reason="DATASTORE_HAS_VERSIONS",
            subject=datastore,
        )
    offer.datastore.managed_by = ManagedBy.ADMINISTRATOR.value
    offer.datastore.delete_time = now
    session.flush()


_LIVING_INSTANCE = sa.exists().where(Instance.delete_time.is_(None))
_LIVING_BACKUP = sa.exists().where(Backup.instance_id == Instance.id, Backup.delete_time.is_(None))


def _ensure_datastore(session: Session, new: NewVersion, port: int) -> Datastore:
    datastore = datastores.ensure_datastore(
        session,
        name=new.datastore,
        manager=new.manager,
        port=port,
        managed_by=ManagedBy.ADMINISTRATOR,
    )
    if datastore.delete_time is not None:
        datastore.delete_time = None
        datastore.manager, datastore.port = new.manager, port
    return datastore


def _lock_version(session: Session, version_id: str) -> VersionAndDatastore:
    version = session.scalar(
        sa.select(DatastoreVersion)
        .where(DatastoreVersion.id == version_id, DatastoreVersion.delete_time.is_(None))
        .with_for_update()
    )
    if version is None:
        raise version_not_found(version_id)
    return version, session.get_one(Datastore, version.datastore_id)


def _set_default(datastore: Datastore, version_id: str | None) -> None:
    datastore.default_version_id = version_id
    datastore.managed_by = ManagedBy.ADMINISTRATOR.value


def _check_image(image_id: str, image_tags: list[str]) -> None:
    if not image_id and not image_tags:
        raise InvalidRequestError("Image must be specified.", reason="IMAGE_REQUIRED")


def _port_of(manager: str) -> int:
    if manager not in PORTS:
        raise InvalidRequestError(
            f"Datastore manager '{manager}' is unknown; known are {', '.join(sorted(PORTS))}.",
            reason="DATASTORE_MANAGER_UNKNOWN",
            subject=manager,
        )
    return PORTS[manager]


def _exists(name: str, number: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"The datastore version '{name}({number})' already exists.",
        reason="DATASTORE_VERSION_EXISTS",
        subject=name,
    )
