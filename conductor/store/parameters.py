"""Parameters of datastore versions, and whether a value is one of theirs. Messages are Trove's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import Session

from conductor.models import DatastoreVersion, ParameterRow
from conductor.parameters import Rule, shipped
from conductor.store.dialects import insert_if_absent
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError

Value: TypeAlias = int | float | str | bool
_LONGEST_TEXT = 1024
_LARGEST = 2**63
# What a guest agent would refuse to write between quotes.
_TEXT = re.compile(r"[ !#-&(-\[\]-~]*", re.ASCII)


def seed(session: Session, version_id: str = "") -> None:
    """Give a datastore version, or each, what ships for its engine and was never there."""
    known: dict[str, set[str]] = {}
    rows = sa.select(ParameterRow.datastore_version_id, ParameterRow.name)
    for identity, name in session.execute(rows):
        known.setdefault(identity, set()).add(name)
    versions = sa.select(DatastoreVersion.id, DatastoreVersion.manager)
    if version_id:
        versions = versions.where(DatastoreVersion.id == version_id)
    for identity, manager in session.execute(versions).all():
        for rule in shipped(manager):
            if rule.name not in known.get(identity, set()):
                insert_if_absent(session, ParameterRow, _columns(identity, rule))


def list_rules(session: Session, version_id: str) -> list[Rule]:
    """By name."""
    rows = session.scalars(
        sa.select(ParameterRow)
        .where(
            ParameterRow.datastore_version_id == version_id,
            ParameterRow.is_removed.is_(False),
        )
        .order_by(ParameterRow.name)
    )
    return [_rule(row) for row in rows]


def get_rule(session: Session, version_id: str, name: str) -> Rule:
    row = session.get(ParameterRow, (version_id, name))
    if row is None or row.is_removed:
        raise NotFoundError(
            f"Resource {name} cannot be found.", reason="PARAMETER_NOT_FOUND", subject=name
        )
    return _rule(row)


def write_rule(session: Session, version_id: str, rule: Rule, *, is_new: bool) -> Rule:
    """Create or replace a rule; what is attached already is judged by it at its next change."""
    _require_version(session, version_id)
    row = session.get(ParameterRow, (version_id, rule.name), with_for_update=True)
    exists = row is not None and not row.is_removed
    if is_new and exists:
        raise ConflictError(
            f"{rule.name} parameter already exists for datastore version {version_id}.",
            reason="PARAMETER_EXISTS",
            subject=rule.name,
        )
    if not is_new and not exists:
        raise _absent(rule.name)
    columns = _columns(version_id, rule)
    if row is None:
        session.add(ParameterRow(**columns))
    else:
        for name, value in columns.items():
            setattr(row, name, value)
    session.flush()
    return rule


def delete_rule(session: Session, version_id: str, name: str) -> None:
    row = session.get(ParameterRow, (version_id, name), with_for_update=True)
    if row is None or row.is_removed:
        raise _absent(name)
    row.is_removed = True
    session.flush()


def check_values(values: Mapping[str, Value], rules: Sequence[Rule], *, datastore: str) -> None:
    """Raise InvalidRequestError for the first value that its rule does not allow."""
    if not rules:
        raise _refused(f"Configuration groups are not supported for this datastore: {datastore}")
    by_name = {rule.name: rule for rule in rules}
    for name, value in values.items():
        if name not in by_name:
            raise _refused(
                f"The configuration parameter {name} is not supported for this datastore: "
                f"{datastore}."
            )
        _check_value(by_name[name], value)


def _check_value(rule: Rule, value: Value) -> None:
    kinds: dict[str, tuple[type, ...]] = {
        "integer": (int,),
        "float": (int, float),
        "string": (str,),
        "boolean": (bool,),
    }
    # True is an int to Python, and no number to anybody else.
    is_kind = isinstance(value, kinds[rule.type]) and (
        rule.type == "boolean" or not isinstance(value, bool)
    )
    if not is_kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _refused(
            f"The value provided for the configuration parameter {rule.name} is not of type "
            f"{rule.type}."
        )
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT or not _TEXT.fullmatch(value):
            raise _refused(
                f"The value provided for the configuration parameter {rule.name} must have at "
                f"most {_LONGEST_TEXT} printable ASCII characters, without quotes and "
                "backslashes."
            )
        return
    largest = _LARGEST - 1 if rule.max is None else rule.max
    least = -_LARGEST if rule.min is None else rule.min
    if rule.type != "boolean" and value > largest:
        raise _refused(
            f"The value for the configuration parameter {rule.name} is greater than the maximum "
            f"allowed: {largest}"
        )
    if rule.type != "boolean" and value < least:
        raise _refused(
            f"The value for the configuration parameter {rule.name} is less than the minimum "
            f"allowed: {least}"
        )


def _refused(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, reason="CONFIGURATION_INVALID")


def _absent(name: str) -> InvalidRequestError:
    # Trove answers 400 here, where its other routes answer 404.
    return InvalidRequestError(
        f"Parameter {name} does not exist in the database.",
        reason="PARAMETER_ABSENT",
        subject=name,
    )


def _require_version(session: Session, version_id: str) -> None:
    if session.get(DatastoreVersion, version_id) is None:
        raise NotFoundError(
            f"Datastore version '{version_id}' cannot be found.",
            reason="DATASTORE_VERSION_NOT_FOUND",
            subject=version_id,
        )


def _columns(version_id: str, rule: Rule) -> dict[str, Any]:
    return {
        "datastore_version_id": version_id,
        "name": rule.name,
        "type": rule.type,
        "restart_required": rule.restart_required,
        "min_value": rule.min,
        "max_value": rule.max,
        "is_removed": False,
    }


def _rule(row: ParameterRow) -> Rule:
    return Rule(
        name=row.name,
        type=row.type,
        min=row.min_value,
        max=row.max_value,
        restart_required=row.restart_required,
    )
