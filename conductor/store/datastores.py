"""Datastores and versions: written from the settings at start, read by name or id."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor import config
from conductor.models import Datastore, DatastoreVersion
from trove_grpc.errors import InvalidRequestError, NotFoundError

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

    What is gone from the settings becomes inactive, never removed: instances refer to it.
    """
    kept: set[str] = set()
    for datastore in offered:
        identity = datastore_id(datastore.name)
        default_id = None
        session.merge(
            Datastore(
                id=identity,
                name=datastore.name,
                manager=datastore.manager,
                port=datastore.port,
            )
        )
        session.flush()
        for version in datastore.versions:
            number = version.version or version.name
            key = version_id(datastore.name, version.name, number)
            kept.add(key)
            if version.name == datastore.default_version:
                default_id = key
            session.merge(
                DatastoreVersion(
                    id=key,
                    datastore_id=identity,
                    name=version.name,
                    version=number,
                    is_active=version.active,
                )
            )
        session.flush()
        session.get_one(Datastore, identity).default_version_id = default_id
    session.execute(
        sa.update(DatastoreVersion)
        .where(DatastoreVersion.id.not_in(kept))
        .values(is_active=False)
        .execution_options(synchronize_session=False)
    )


def list_offers(session: Session, *, include_inactive: bool = False) -> list[Offer]:
    """Datastores by name; without `include_inactive` only active versions count."""
    versions: dict[str, list[DatastoreVersion]] = {}
    query = sa.select(DatastoreVersion).order_by(DatastoreVersion.name, DatastoreVersion.id)
    if not include_inactive:
        query = query.where(DatastoreVersion.is_active)
    for version in session.scalars(query):
        versions.setdefault(version.datastore_id, []).append(version)
    return [
        Offer(datastore, versions.get(datastore.id, []))
        for datastore in session.scalars(sa.select(Datastore).order_by(Datastore.name))
        if include_inactive or datastore.id in versions
    ]


def get_offer(session: Session, datastore: str) -> Offer:
    """A datastore by name or id, with its active versions."""
    found = session.scalar(
        sa.select(Datastore).where(sa.or_(Datastore.id == datastore, Datastore.name == datastore))
    )
    if found is None:
        raise NotFoundError(
            f"Datastore '{datastore}' cannot be found.",
            reason="DATASTORE_NOT_FOUND",
            subject=datastore,
        )
    versions = session.scalars(
        sa.select(DatastoreVersion)
        .where(DatastoreVersion.datastore_id == found.id, DatastoreVersion.is_active)
        .order_by(DatastoreVersion.name, DatastoreVersion.id)
    )
    return Offer(found, list(versions))


def get_version(
    session: Session, *, datastore: str, version: str
) -> tuple[DatastoreVersion, Datastore]:
    """A version by name or id, inactive ones too; `datastore` may be empty for an id."""
    query = sa.select(DatastoreVersion, Datastore).join(
        Datastore, Datastore.id == DatastoreVersion.datastore_id
    )
    if datastore:
        offer = get_offer(session, datastore)
        query = query.where(
            DatastoreVersion.datastore_id == offer.datastore.id,
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
        raise NotFoundError(
            f"Datastore version '{version}' cannot be found.",
            reason="DATASTORE_VERSION_NOT_FOUND",
            subject=version,
        )
    return row[0], row[1]


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
