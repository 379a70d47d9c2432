"""Datastores and versions: written from the settings at start, read by name or id."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor import config
from conductor.models import Datastore, DatastoreVersion, ManagedBy
from conductor.store.dialects import insert_if_absent
from trove_grpc.errors import InvalidRequestError, NotFoundError, StaleError

# Ids derive from names, so that every conductor and every new database gives the same ones.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://trove.invalid/datastores")


@dataclass(frozen=True, slots=True)
class Offer:
    """A datastore with its versions, by name."""

    datastore: Datastore
    versions: list[DatastoreVersion] = field(default_factory=list)


def datastore_id(name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, name))


def version_id(datastore: str, name: str, number: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{datastore}/{name}/{number}"))


def write_datastores(session: Session, offered: Sequence[config.Datastore]) -> None:
    """Bring the tables to the settings.

    What is gone from the settings becomes inactive, never removed: instances refer to it. What
    an administrator made, changed or deleted stays as it is.
    """
    kept: set[str] = set()
    for wanted in offered:
        datastore = _settle_datastore(session, wanted)
        default_id = None
        for version in wanted.versions:
            row = _settle_version(session, datastore, wanted, version)
            kept.add(row.id)
            if version.name == wanted.default_version and row.delete_time is None:
                default_id = row.id
        if datastore.managed_by == ManagedBy.SETTINGS:
            datastore.default_version_id = default_id
    session.flush()
    session.execute(
        sa.update(DatastoreVersion)
        .where(DatastoreVersion.id.not_in(kept), DatastoreVersion.managed_by == ManagedBy.SETTINGS)
        .values(is_active=False)
        .execution_options(synchronize_session=False)
    )


def _settle_datastore(session: Session, wanted: config.Datastore) -> Datastore:
    datastore = ensure_datastore(
        session, name=wanted.name, manager=wanted.manager, port=wanted.port
    )
    if datastore.managed_by == ManagedBy.SETTINGS:
        datastore.manager, datastore.port = wanted.manager, wanted.port
    return datastore


def _settle_version(
    session: Session, datastore: Datastore, wanted: config.Datastore, version: config.Version
) -> DatastoreVersion:
    number = version.version or version.name
    key = version_id(wanted.name, version.name, number)
    # By its id too: an administrator may have renamed it.
    row = find_version(session, datastore.id, version.name, number) or session.get(
        DatastoreVersion, key
    )
    if row is None:
        row, _ = ensure_version(session, datastore, key, version.name, number)
        datastore.delete_time = None
    if row.managed_by == ManagedBy.SETTINGS:
        row.is_active, row.manager = version.active, wanted.manager
    session.flush()
    return row


def ensure_datastore(
    session: Session,
    *,
    name: str,
    manager: str,
    port: int,
    managed_by: ManagedBy = ManagedBy.SETTINGS,
) -> Datastore:
    """The datastore of this name, a deleted one too; added where there is none."""
    row = {
        "id": datastore_id(name),
        "name": name,
        "manager": manager,
        "port": port,
        "managed_by": managed_by.value,
    }
    insert_if_absent(session, Datastore, row)
    return session.scalars(sa.select(Datastore).where(Datastore.name == name)).one()


def ensure_version(
    session: Session, datastore: Datastore, key: str, name: str, number: str
) -> tuple[DatastoreVersion, bool]:
    """The version of this name and number, a deleted one too, and whether it was added."""
    row = {
        "id": key,
        "datastore_id": datastore.id,
        "name": name,
        "version": number,
        "is_active": False,
        "manager": datastore.manager,
        "managed_by": ManagedBy.SETTINGS.value,
        "image_id": "",
        "image_tags": [],
        "packages": [],
        "registry_ext": "",
        "repl_strategy": "",
    }
    is_new = insert_if_absent(session, DatastoreVersion, row)
    found = find_version(session, datastore.id, name, number)
    if found is None:
        raise StaleError(f"datastore version {name} ({number}) was renamed meanwhile; try again")
    return found, is_new


def find_version(
    session: Session, datastore: str, name: str, number: str
) -> DatastoreVersion | None:
    """The row of this datastore id, name and number, a deleted one too; locked."""
    return session.scalar(
        sa.select(DatastoreVersion)
        .where(
            DatastoreVersion.datastore_id == datastore,
            DatastoreVersion.name == name,
            DatastoreVersion.version == number,
        )
        .with_for_update()
    )


def list_offers(session: Session, *, include_inactive: bool = False) -> list[Offer]:
    """Datastores by name; without `include_inactive` only active versions count."""
    versions: dict[str, list[DatastoreVersion]] = {}
    for version in session.scalars(_versions(include_inactive=include_inactive)):
        versions.setdefault(version.datastore_id, []).append(version)
    living = sa.select(Datastore).where(Datastore.delete_time.is_(None)).order_by(Datastore.name)
    return [
        Offer(datastore, versions.get(datastore.id, []))
        for datastore in session.scalars(living)
        if include_inactive or datastore.id in versions
    ]


def get_offer(session: Session, datastore: str, *, include_inactive: bool = False) -> Offer:
    """A datastore by name or id, with its active versions or with all."""
    found = get_datastore(session, datastore)
    versions = _versions(include_inactive=include_inactive).where(
        DatastoreVersion.datastore_id == found.id
    )
    return Offer(found, list(session.scalars(versions)))


def get_datastore(session: Session, datastore: str) -> Datastore:
    """A datastore by name or id."""
    found = session.scalar(
        sa.select(Datastore).where(
            sa.or_(Datastore.id == datastore, Datastore.name == datastore),
            Datastore.delete_time.is_(None),
        )
    )
    if found is None:
        raise NotFoundError(
            f"Datastore '{datastore}' cannot be found.",
            reason="DATASTORE_NOT_FOUND",
            subject=datastore,
        )
    return found


def get_version(
    session: Session, *, datastore: str, version: str
) -> tuple[DatastoreVersion, Datastore]:
    """A version by name or id, inactive ones too; `datastore` may be empty for an id."""
    query = (
        sa.select(DatastoreVersion, Datastore)
        .join(Datastore, Datastore.id == DatastoreVersion.datastore_id)
        .where(DatastoreVersion.delete_time.is_(None))
    )
    if datastore:
        query = query.where(
            DatastoreVersion.datastore_id == get_datastore(session, datastore).id,
            sa.or_(DatastoreVersion.id == version, DatastoreVersion.name == version),
        )
    else:
        query = query.where(DatastoreVersion.id == version)
    # Trove allows one name with several numbers: the active one with the highest id stands.
    rows = session.execute(
        query.order_by(DatastoreVersion.is_active.desc(), DatastoreVersion.id.desc())
    )
    row = rows.first()
    if row is None:
        raise version_not_found(version)
    return row[0], row[1]


def list_versions(session: Session) -> list[tuple[DatastoreVersion, Datastore]]:
    """Every version of every datastore, by the datastore's name and its own."""
    return [
        (version, offer.datastore)
        for offer in list_offers(session, include_inactive=True)
        for version in offer.versions
    ]


def version_not_found(version: str) -> NotFoundError:
    return NotFoundError(
        f"Datastore version '{version}' cannot be found.",
        reason="DATASTORE_VERSION_NOT_FOUND",
        subject=version,
    )


def _versions(*, include_inactive: bool) -> sa.Select[DatastoreVersion]:
    query = (
        sa.select(DatastoreVersion)
        .where(DatastoreVersion.delete_time.is_(None))
        .order_by(DatastoreVersion.name, DatastoreVersion.id)
    )
    return query if include_inactive else query.where(DatastoreVersion.is_active)


def resolve_version(
    session: Session, *, datastore: str, version: str, default_datastore: str
) -> tuple[DatastoreVersion, Datastore]:
    """The version meant by names or ids, with the defaults for what is empty."""
    if version and not datastore:
        # An id says which datastore it is of; a name is one of the default datastore's.
        with contextlib.suppress(NotFoundError):
            return get_version(session, datastore="", version=version)
    datastore = datastore or default_datastore
    if not datastore:
        raise InvalidRequestError(
            "Datastore is not given and there is no default one; name one of "
            f"{', '.join(offer.datastore.name for offer in list_offers(session)) or 'none'}.",
            reason="DATASTORE_REQUIRED",
        )
    if not version:
        offer = get_offer(session, datastore)
        version = offer.datastore.default_version_id or ""
        if not version:
            raise InvalidRequestError(
                f"Datastore '{datastore}' has no default version; name one of "
                f"{', '.join(item.name for item in offer.versions) or 'none'}.",
                reason="DATASTORE_VERSION_REQUIRED",
                subject=datastore,
            )
    return get_version(session, datastore=datastore, version=version)


def choose_version(
    session: Session, *, datastore: str, version: str, default_datastore: str
) -> DatastoreVersion:
    """The version a create means; raises if nothing, or nothing active, is meant."""
    chosen, _ = resolve_version(
        session, datastore=datastore, version=version, default_datastore=default_datastore
    )
    if not chosen.is_active:
        raise InvalidRequestError(
            f"Datastore version '{chosen.name}' is not active.",
            reason="DATASTORE_VERSION_INACTIVE",
            subject=version,
        )
    return chosen
