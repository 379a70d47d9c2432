"""The seal: compares the database with the checkpoints that lie outside of it.

A database that was restored from a backup has forgotten denials and certificates. It looks
healthy, so it must not serve before somebody rebuilt what it forgot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from pki.custody import Custody
from pki.issuer.checkpoints import CheckpointFile, SealedError, Statement, is_signed_by
from pki.store import Store, audit, authorities, checkpoints, counters

AUDIT_KEY = "audit-g1"
_PAGE = 2000
# Signatures verified at a start; `audit verify` checks them all.
NEWEST = 1000
_REMEDY = "restore a newer backup (`trove-pki restore`), or run `trove-pki rebuild`"


def refuse_second_beginning(session: Session, custody: Custody, file: CheckpointFile) -> None:
    """Raise SealedError when an empty database follows one that was in use.

    The audit key and its file come after the first commit, so that they tell a lost database
    from an `init` that was cut short.
    """
    if authorities.find_domain(session) is not None:
        return
    if custody.exists(AUDIT_KEY):
        raise SealedError(
            "the database is empty, and custody holds the keys of a PKI that was in use: it was "
            f"lost or replaced; {_REMEDY}"
        )
    if file.read():
        raise SealedError(
            f"the database and custody are empty, and {file.path} tells of a PKI that was in use; "
            "restore a backup (`trove-pki restore`); when everything is lost, move that file "
            "and its public key away and run `trove-pki init`"
        )


def compare(session: Session, statements: Sequence[Statement]) -> None:
    """Raise SealedError unless the database's chain contains the exported checkpoints."""
    domain = authorities.domain(session)
    for statement in reversed(statements):
        if statement.trust_domain != domain.trust_domain:
            raise SealedError(
                f"the exported checkpoints are of trust domain {statement.trust_domain}, the "
                f"database is of {domain.trust_domain}; correct checkpoint_file or database_url"
            )
        if statement.epoch > domain.epoch:
            raise SealedError(
                f"the database is of epoch {domain.epoch}, from before the rebuild that began "
                f"epoch {statement.epoch}; {_REMEDY}"
            )
    of_epoch = [each for each in statements if each.epoch == domain.epoch]
    if not of_epoch:
        return
    newest = max(of_epoch, key=lambda each: each.sequence)
    sequence, _hash = audit.head(session)
    if sequence < newest.sequence:
        raise SealedError(
            f"the database was rolled back: its audit ends at {sequence}, a checkpoint of "
            f"{newest.create_time} knows record {newest.sequence}; {_REMEDY}"
        )
    recent = of_epoch[-500:]
    found = audit.hashes(session, [each.sequence for each in recent])
    for statement in recent:
        if found.get(statement.sequence) != statement.hash:
            raise SealedError(
                f"audit record {statement.sequence} is not the one that the checkpoint of "
                f"{statement.create_time} signed: the database was replaced or edited; {_REMEDY}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a full check of the audit found."""

    records: int
    checkpoints: int
    head_sequence: int
    head_hash: str
    first_bad_sequence: int = 0
    problem: str = ""
    last: Statement | None = None


def verify(
    store: Store,
    file: CheckpointFile,
    public_key: Callable[[Statement], bool],
    trust_domain: str,
) -> Verdict:
    """Recompute the whole chain and compare it with both copies of the checkpoints.

    In pages, each a transaction of its own: nothing that was read can change but by tampering.
    """
    exported, problem = _exported(file, public_key)
    kept = _kept(store, trust_domain)
    epoch = store.run_now(lambda session: authorities.domain(session).epoch)
    wrong = _signature_problem(kept, public_key)
    check, bad, why = audit.ChainCheck(), 0, ""
    signed = {each.sequence: each.hash for each in exported if each.epoch == epoch}
    signed |= {each.sequence: each.hash for each in kept}
    last_good = 0
    while not bad:
        rows = store.run_now(
            lambda session, after=check.position: audit.after(session, after, _PAGE)  # type: ignore[misc]
        )
        for row in rows:
            if not check.follows(row):
                bad = check.position + 1
                why = f"record {bad} was edited, removed or moved"
                break
            if row.sequence in signed:
                if signed[row.sequence] != row.hash:
                    bad = last_good + 1
                    why = (
                        f"the chain was written anew: a record from {bad} to {row.sequence} "
                        f"differs from what checkpoint {row.sequence} signed"
                    )
                    break
                last_good = row.sequence
        if not rows:
            break
    if not bad:
        bad, why = _ending(store, check.position, signed)
    there = {(each.epoch, each.sequence) for each in exported}
    missing = [each.sequence for each in kept if (each.epoch, each.sequence) not in there]
    if not why and not problem and missing:
        problem = f"{file.path} lacks checkpoint {missing[0]} of the database: the file was cut"
    return Verdict(
        records=check.position,
        checkpoints=len(signed),
        head_sequence=check.position,
        head_hash=check.hash,
        first_bad_sequence=bad,
        problem=why or wrong or problem,
        last=kept[-1] if kept else None,
    )


def _exported(
    file: CheckpointFile, is_signed: Callable[[Statement], bool]
) -> tuple[list[Statement], str]:
    try:
        found = file.read()
    except SealedError as error:
        return [], error.message
    return found, _signature_problem(found, is_signed)


def _signature_problem(
    statements: Sequence[Statement], is_signed: Callable[[Statement], bool]
) -> str:
    for statement in statements:
        if not is_signed(statement):
            return f"checkpoint {statement.sequence} is not signed by the audit key"
    return ""


def _kept(store: Store, trust_domain: str) -> list[Statement]:
    found: list[Statement] = []
    while True:
        after = found[-1].sequence if found else 0
        rows = store.run_now(
            lambda session, after=after: checkpoints.after(session, after, _PAGE)  # type: ignore[misc]
        )
        if not rows:
            return found
        found += [Statement.from_row(row, trust_domain) for row in rows]


def _ending(store: Store, position: int, signed: Mapping[int, str]) -> tuple[int, str]:
    """Whether the end was cut off: the counter and the checkpoints know how long the chain was."""
    length = store.run_now(lambda s: counters.present_value(s, counters.AUDIT))
    reached = store.run_now(audit.head)[0]  # it may have grown meanwhile
    if max(signed, default=0) > reached or length > reached:
        return position + 1, f"records from {position + 1} on were removed"
    return 0, ""


__all__ = [
    "AUDIT_KEY",
    "NEWEST",
    "SealedError",
    "Verdict",
    "compare",
    "is_signed_by",
    "refuse_second_beginning",
    "verify",
]
