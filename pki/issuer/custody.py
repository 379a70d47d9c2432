"""Which custody the settings name, what is in it, and the move from one to the other.

The settings alone say where keys are. A move copies; the custody it came from stays whole until
`clear`, which checks every key in the other one first. So at any moment, killed anywhere, the
custody that the settings name has every key, and each step may be repeated.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from sqlalchemy.orm import Session

from pki.custody import Custody, CustodyError, FileCustody
from pki.custody.counted import CountedCustody
from pki.issuer.config import BARBICAN, FILES, Config
from pki.store import Store, audit, authorities
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError, TroveError

Row = Mapping[str, Any]
_OTHER = {FILES: BARBICAN, BARBICAN: FILES}

OK = "OK"


def open_custody(config: Config, kind: str = "") -> Custody:
    """The custody of this issuer, or the one of `kind`; nothing is read or connected yet.

    Raises InvalidRequestError when the settings do not say where that one is.
    """
    kind = kind or config.custody
    return CountedCustody(_open(config, kind), kind)


def status(config: Config) -> Sequence[Row]:
    """One row for each custody the settings describe; what is wrong is in it, not raised."""
    kinds = [FILES] if config.barbican is None else [FILES, BARBICAN]
    return [_status(config, kind) for kind in kinds]


def verify(config: Config, *, of: str = "") -> Sequence[Row]:
    """One row for each key there must be: whether it is there and fits its certificate.

    Raises what keeps the whole custody from being read.
    """
    with _store(config) as store:
        return check(store, open_custody(config, of))


def migrate(config: Config, *, to: str) -> Sequence[Row]:
    """Copy every key to the custody `to`; see `move`."""
    target, source = open_custody(config, to), open_custody(config, _OTHER[to])
    with _store(config) as store:
        return move(store, source, target)


def clear(config: Config, *, of: str) -> Sequence[Row]:
    """Destroy the keys in a custody that is no longer used; see `remove`.

    Refuses while the settings still name it.
    """
    if of == config.custody:
        raise ConflictError(
            f"the issuer's settings say custody = {of!r}: its keys are in use; change the setting "
            "and restart the issuer first",
            reason="CUSTODY_IN_USE",
        )
    with _store(config) as store:
        return remove(store, open_custody(config, of), open_custody(config))


def check(store: Store, custody: Custody) -> Sequence[Row]:
    """Compare a custody with what the database says there must be.

    What else is there (the audit's key, one of a rotation cut short) must open.
    """
    custody.probe()
    known = store.run_now(_generations)
    others = sorted(set(custody.names()) - {each.name for each in known})
    return [
        *(_verify(custody, each.name, each) for each in known),
        *(_verify(custody, name, None) for name in others),
    ]


def move(store: Store, source: Custody, target: Custody) -> Sequence[Row]:
    """Copy every key from one custody to the other, and read each one back.

    A key that is there already is compared; another key of that name is a refusal. Stops at the
    first error; what was copied stays, and the next run goes on from there.
    """
    target.prepare()
    target.probe()
    known = {each.name: each for each in store.run_now(_generations)}
    # After a rotation was cut short, a key may be here that the database does not know yet.
    names = sorted(known.keys() | set(_names(source)))
    return [
        {"key": name, "result": _move(store, source, target, name, known.get(name))}
        for name in names
    ]


def remove(store: Store, old: Custody, used: Custody) -> Sequence[Row]:
    """Destroy the keys in `old`, once every one of them was read from `used` and is the same."""
    names = old.names()
    for name in names:
        _compare(old, used, name)
    for name in names:
        _record(store, "remove-key", name, {"from": old.location})
        old.delete(name)
    return [{"key": name, "result": "removed"} for name in names]


def _open(config: Config, kind: str) -> Custody:
    if kind == FILES:
        return FileCustody(config.custody_directory, config.passphrase_file)
    if kind != BARBICAN:
        raise InvalidRequestError(f"there is no custody {kind!r}; take {FILES} or {BARBICAN}")
    if config.barbican is None:
        raise InvalidRequestError("the issuer's settings have no table [barbican]; add it first")
    # Only here: the default needs no HTTP client in the process that holds the keys.
    from pki.custody.barbican import BarbicanCustody  # noqa: PLC0415

    return BarbicanCustody(config.barbican, config.trust_domain)


@dataclass(frozen=True, slots=True)
class _Generation:
    """What the database says of a key."""

    name: str
    state: str
    certificate_pem: bytes


def _generations(session: Session) -> list[_Generation]:
    return [
        _Generation(row.key_name, row.state, row.certificate_pem)
        for row in authorities.list_all(session)
        if row.state != authorities.DESTROYED
    ]


def _status(config: Config, kind: str) -> Row:
    custody = open_custody(config, kind)
    row = {"custody": kind, "in_use": kind == config.custody, "location": custody.location}
    try:
        custody.probe()
        return {**row, "state": OK, "keys": len(custody.names()), "detail": ""}
    except TroveError as error:
        return {**row, "state": error.reason, "keys": 0, "detail": error.message}


def _verify(custody: Custody, name: str, generation: _Generation | None) -> Row:
    row = {"key": name, "authority_state": generation.state if generation else ""}
    try:
        _check(generation, name, custody)
        fits = generation is None or (custody.load_certificate(name) == generation.certificate_pem)
    except TroveError as error:
        return {**row, "result": error.reason, "detail": error.message}
    if not fits:
        return {
            **row,
            "result": "CUSTODY_OTHER_CERTIFICATE",
            "detail": "the certificate kept beside it is not the database's",
        }
    return {**row, "result": OK, "detail": ""}


def _move(
    store: Store, source: Custody, target: Custody, name: str, generation: _Generation | None
) -> str:
    is_there = target.exists(name)
    if is_there and not source.exists(name):
        # An earlier move whose source was cleared since.
        _check(generation, name, target)
        return "present"
    _check(generation, name, source)
    if not is_there:
        _record(store, "copy-key", name, {"from": source.location, "to": target.location})
    # Also when it is there: that finishes a call that was cut short, and refuses another key.
    target.store(name, source.load(name))
    _compare(source, target, name)
    if generation is not None:
        target.store_certificate(name, generation.certificate_pem)
    return "present" if is_there else "copied"


def _check(generation: _Generation | None, name: str, custody: Custody) -> None:
    """Demand that a key can be read, and is its certificate's where there is one."""
    public_key = custody.load(name).public_key()
    if generation is None:
        return
    if x509.load_pem_x509_certificate(generation.certificate_pem).public_key() != public_key:
        raise CustodyError(
            f"the key {name} in {custody.location} is not the one of its certificate in the "
            "database; restore both from one backup",
            reason="CUSTODY_OTHER_KEY",
        )


def _compare(one: Custody, other: Custody, name: str) -> None:
    if one.load(name).public_key() != other.load(name).public_key():
        raise CustodyError(
            f"{one.location} and {other.location} hold different keys named {name}; nothing was "
            "replaced; find out which one signed the certificate with `trove-pki custody verify`",
            reason="CUSTODY_OTHER_KEY",
        )


def _names(source: Custody) -> Sequence[str]:
    """None where the source was never made: everything may have been moved long ago."""
    try:
        return source.names()
    except NotFoundError:
        return []


def _record(store: Store, action: str, name: str, detail: Mapping[str, str]) -> None:
    """Before it is done: a trace of something that did not happen is the better mistake."""
    now = dt.datetime.now(dt.UTC)
    store.run_now(
        lambda session: audit.append(
            session, now=now, actor="custody", action=action, subject=name, detail=detail
        )
    )


@contextlib.contextmanager
def _store(config: Config) -> Iterator[Store]:
    store = Store(config.database_url, password_file=config.database_password_file)
    try:
        yield store
    finally:
        store.close()
