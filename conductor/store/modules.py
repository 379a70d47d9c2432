"""Modules: who sees which, what makes two the same, who may change them.

A module of every tenant has no tenant. What a tenant may not see does not exist for it; what it
sees and may not change is refused. Deleted rows are gone: nothing refers to a module but the
instances that have it, and those keep it from being deleted.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.orm import Session

from conductor.models import Datastore, DatastoreVersion, Instance, InstanceModule, Module
from conductor.sealing import Sealer
from conductor.store import datastores, requests
from conductor.store.requests import RequestId
from trove_grpc.errors import (
    AlreadyExistsError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)

TYPES = ("ping", "generic")
_ID_LENGTH = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks."""

    tenant_id: str
    is_admin: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRecord:
    """A module with the names of what it is for, and how many instances have it."""

    module: Module
    datastore: Datastore | None
    version: DatastoreVersion | None
    instance_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewModule:
    """What a create asks for."""

    name: str
    type: str
    contents: bytes
    description: str | None
    datastore: str
    datastore_version: str
    auto_apply: bool
    all_tenants: bool
    is_visible: bool
    live_update: bool
    priority_apply: bool
    apply_order: int
    is_admin: bool


def create(
    session: Session,
    caller: Caller,
    new: NewModule,
    *,
    request_id: str = "",
    sealer: Sealer,
    now: dt.datetime,
) -> ModuleRecord:
    """Create a module, or find what an equal request with that id made.

    Raises NotFoundError (type), PermissionDeniedError (options) or AlreadyExistsError.
    """
    if new.type not in TYPES:
        raise NotFoundError(
            f"Module type '{new.type}' was not found.", reason="MODULE_TYPE_UNKNOWN"
        )
    _require_admin_for(
        caller,
        "create",
        all_tenants=new.all_tenants,
        auto_apply=new.auto_apply,
        is_visible=new.is_visible,
        priority_apply=new.priority_apply,
        is_admin=new.is_admin,
    )
    identity = str(uuid.uuid4())
    request = RequestId(tenant_id=caller.tenant_id, id=request_id, fingerprint=_fingerprint(new))
    if done := requests.claim(session, request, resource_id=identity, now=now):
        try:
            return get(session, caller, done.resource_id)
        except NotFoundError as error:
            raise requests.retired(request, done) from error
    datastore, version = _datastore_of(session, new.datastore, new.datastore_version)
    module = Module(
        id=identity,
        scope="",
        type=new.type,
        name=new.name,
        sealed_contents=sealer.seal(new.contents, record_id=identity),
        md5=_md5(new.contents),
        create_time=now,
        update_time=now,
        tenant_id=None if new.all_tenants else caller.tenant_id,
        datastore_id=None if datastore is None else datastore.id,
        datastore_version_id=None if version is None else version.id,
        description=new.description,
        auto_apply=new.auto_apply,
        is_visible=new.is_visible,
        live_update=new.live_update,
        priority_apply=new.priority_apply,
        apply_order=new.apply_order,
        is_admin=new.is_admin
        or new.all_tenants
        or new.auto_apply
        or new.priority_apply
        or not new.is_visible,
    )
    _settle_scope(session, module, datastore, version)
    session.add(module)
    _flush(session, module)
    return ModuleRecord(module=module, datastore=datastore, version=version, instance_count=0)


def get(session: Session, caller: Caller, module_id: str) -> ModuleRecord:
    """Raise NotFoundError for what the caller may not see."""
    found = session.execute(_query(caller).where(Module.id == module_id)).first()
    if found is None:
        raise NotFoundError(
            f"Module with ID {module_id} could not be found.",
            reason="MODULE_NOT_FOUND",
            subject=module_id,
        )
    return _record(found)


def list_page(
    session: Session, caller: Caller, *, datastore: str, after: str, limit: int
) -> list[ModuleRecord]:
    """Modules the caller sees, by id; with `datastore` those that fit it."""
    query = _query(caller).where(Module.id > after)
    if datastore:
        wanted = datastores.get_offer(session, datastore).datastore.id
        query = query.where(sa.or_(Module.datastore_id.is_(None), Module.datastore_id == wanted))
    return [_record(row) for row in session.execute(query.order_by(Module.id).limit(limit))]


def update(
    session: Session,
    caller: Caller,
    module_id: str,
    changes: Mapping[str, Any],
    *,
    sealer: Sealer,
    now: dt.datetime,
) -> ModuleRecord:
    """Set what `changes` names: fields of NewModule.

    Raises PermissionDeniedError for an administrator's module, for options that are theirs, and
    for new contents of a module in use that is not updated live.
    """
    record = get(session, caller, module_id)
    module = record.module
    _require_own(caller, module, "update")
    _require_admin_for(
        caller,
        "update",
        all_tenants=changes.get("all_tenants", module.tenant_id is None),
        auto_apply=changes.get("auto_apply", module.auto_apply),
        is_visible=changes.get("is_visible", module.is_visible),
        priority_apply=changes.get("priority_apply", module.priority_apply),
        is_admin=False,
    )
    if "contents" in changes and _md5(changes["contents"]) != module.md5:
        live = changes.get("live_update", module.live_update)
        if record.instance_count and not live:
            raise _is_applied()
        module.sealed_contents = sealer.seal(changes["contents"], record_id=module.id)
        module.md5 = _md5(changes["contents"])
    for name in (
        "name",
        "description",
        "auto_apply",
        "is_visible",
        "live_update",
        "priority_apply",
        "apply_order",
    ):
        if name in changes:
            setattr(module, name, changes[name])
    if "all_tenants" in changes:
        module.tenant_id = None if changes["all_tenants"] else caller.tenant_id
    datastore, version = record.datastore, record.version
    if "datastore" in changes or "datastore_version" in changes:
        datastore, version = _datastore_of(
            session,
            changes.get("datastore", "" if datastore is None else datastore.id),
            changes.get("datastore_version", ""),
        )
        module.datastore_id = None if datastore is None else datastore.id
        module.datastore_version_id = None if version is None else version.id
    _settle_scope(session, module, datastore, version)
    module.update_time = now
    _flush(session, module)
    return ModuleRecord(
        module=module,
        datastore=datastore,
        version=version,
        instance_count=record.instance_count,
    )


def delete(
    session: Session,
    caller: Caller,
    module_id: str,
    *,
    request_id: str = "",
    now: dt.datetime,
) -> None:
    """Remove a module that no instance has; a repeat with the request's id finds it done."""
    request = RequestId(
        tenant_id=caller.tenant_id,
        id=request_id,
        fingerprint=requests.fingerprint("delete_module", module_id),
    )
    if requests.claim(session, request, resource_id=module_id[:_ID_LENGTH], now=now):
        return
    record = get(session, caller, module_id)
    _require_own(caller, record.module, "delete")
    if record.instance_count:
        raise _is_applied()
    # What lies in the table of deleted instances alone keeps nobody from it.
    session.execute(sa.delete(InstanceModule).where(InstanceModule.module_id == module_id))
    session.delete(record.module)
    session.flush()


def _fingerprint(new: NewModule) -> str:
    values = dataclasses.asdict(new)
    contents: bytes = values.pop("contents")
    return requests.fingerprint("create_module", repr(sorted(values.items())), contents)


def _query(caller: Caller) -> sa.Select[Any]:
    count = (
        sa.select(sa.func.count())
        .select_from(InstanceModule)
        .join(Instance, Instance.id == InstanceModule.instance_id)
        .where(InstanceModule.module_id == Module.id, Instance.delete_time.is_(None))
        .correlate(Module)
        .scalar_subquery()
    )
    query = (
        sa.select(Module, Datastore, DatastoreVersion, count)
        .outerjoin(Datastore, Datastore.id == Module.datastore_id)
        .outerjoin(DatastoreVersion, DatastoreVersion.id == Module.datastore_version_id)
    )
    if caller.is_admin:
        return query
    return query.where(
        sa.or_(Module.tenant_id == caller.tenant_id, Module.tenant_id.is_(None)),
        Module.is_visible,
    )


def _record(row: Any) -> ModuleRecord:
    module, datastore, version, count = row
    return ModuleRecord(module=module, datastore=datastore, version=version, instance_count=count)


def _datastore_of(
    session: Session, datastore: str, version: str
) -> tuple[Datastore | None, DatastoreVersion | None]:
    if not datastore:
        if version:
            raise InvalidRequestError(
                "A datastore version is given without its datastore; name both.",
                reason="DATASTORE_REQUIRED",
            )
        return None, None
    if not version:
        return datastores.get_offer(session, datastore).datastore, None
    found, of = datastores.get_version(session, datastore=datastore, version=version)
    return of, found


def _settle_scope(
    session: Session,
    module: Module,
    datastore: Datastore | None,
    version: DatastoreVersion | None,
) -> None:
    """Refuse a second module of the same type and name for the same tenant and datastore."""
    module.scope = "/".join(
        part or "*"
        for part in (module.tenant_id, module.datastore_id, module.datastore_version_id)
    )
    with session.no_autoflush:
        taken = session.scalar(
            sa.select(Module.id).where(
                Module.scope == module.scope,
                Module.type == module.type,
                Module.name == module.name,
                Module.id != module.id,
            )
        )
    if taken is not None:
        raise _exists(
            module,
            f" for datastore '{'all' if datastore is None else datastore.name}' and datastore "
            f"version '{'all' if version is None else version.name}'",
        )


def _flush(session: Session, module: Module) -> None:
    try:
        session.flush()
    except exc.IntegrityError as error:
        raise _exists(module, "") from error  # somebody else's, at the same moment


def _exists(module: Module, where: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"A module with the name '{module.name}' already exists{where}",
        reason="MODULE_EXISTS",
        subject=module.name,
    )


def _require_admin_for(
    caller: Caller,
    action: str,
    *,
    all_tenants: bool,
    auto_apply: bool,
    is_visible: bool,
    priority_apply: bool,
    is_admin: bool,
) -> None:
    options = [
        text
        for text, is_asked in (
            ("Tenant: all", all_tenants),
            ("Auto: 1", auto_apply),
            ("Visible: 0", not is_visible),
            ("Priority: 1", priority_apply),
            ("Full Access: 0", is_admin),
        )
        if is_asked
    ]
    if options and not caller.is_admin:
        raise PermissionDeniedError(
            f"You must be admin to {action} a module with these options. ({', '.join(options)})",
            reason="MODULE_ACCESS",
        )


def _require_own(caller: Caller, module: Module, action: str) -> None:
    if caller.is_admin:
        return
    if module.is_admin or module.tenant_id != caller.tenant_id:
        raise PermissionDeniedError(
            f"You must be admin to {action} an admin module.", reason="MODULE_ACCESS"
        )


def _is_applied() -> PermissionDeniedError:
    return PermissionDeniedError(
        "A module cannot be deleted or its contents modified if it has been applied to a "
        "non-terminated instance, unless the module has been marked as 'live_update'. Please "
        "remove the module from all non-terminated instances and try again.",
        reason="MODULE_APPLIED",
    )


def _md5(contents: bytes) -> str:
    # What Trove's clients compare; no protection.
    return hashlib.md5(contents, usedforsecurity=False).hexdigest()
