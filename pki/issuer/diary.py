"""Keeps the audit true: the seal at the start, checkpoints on time, refusals in bounded number."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from pki import metrics
from pki.custody import Custody, CustodyError
from pki.issuer import seal
from pki.issuer.checkpoints import AuditKey, CheckpointFile, Statement, is_signed_by
from pki.issuer.config import Config
from pki.issuer.refusals import Refusals
from pki.requests import new_key
from pki.store import Store, audit, authorities, checkpoints
from trove_grpc.errors import NotFoundError, StaleError, TroveError
from trove_grpc.process import wait_or_timeout

log = logging.getLogger(__name__)

_LOOK = 5.0  # how often it is looked whether a checkpoint is due, seconds


@dataclass(frozen=True, slots=True)
class _Head:
    sequence: int
    hash: str
    epoch: int
    newest: Statement | None


class Diary:
    """The issuer's audit beside the database: its key, its file, its checkpoints."""

    def __init__(
        self,
        store: Store,
        custody: Custody,
        config: Config,
        *,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._store = store
        self._custody = custody
        self._config = config
        self._now = now
        self._key: AuditKey | None = None
        self.file = CheckpointFile(config.checkpoints_path)
        self.refusals = Refusals(store, now=now)

    def open(self) -> None:
        """Break no seal: raises SealedError when database, custody and file disagree."""
        self._store.run_now(
            lambda session: seal.refuse_second_beginning(session, self._custody, self.file)
        )
        if self._store.run_now(_trust_domain) is None:
            raise NotFoundError("there is no PKI in this database yet; run `trove-pki init`")
        self._key = self._ensure_key()
        self.file.export_key(self._key.public_pem)
        exported = self.file.verified(self._key.key.public_key(), newest=seal.NEWEST)
        self._store.run_now(lambda session: seal.compare(session, exported))
        self._export_missing()
        metrics.AUDIT_CHAIN_OK.set(1)

    def checkpoint(self) -> Statement | None:
        """Sign the present head and export it; the newest one again while nothing was appended.

        The file comes first: a checkpoint the database knows is one that was exported. None
        before the first record. Raises SealedError when the chain is broken since the last one.
        """
        head = self._store.run_now(self._head)
        if head.sequence == 0:
            return None
        if head.newest is not None and head.newest.sequence == head.sequence:
            return head.newest
        self._check_since(head)
        statement = self._audit_key.sign(
            sequence=head.sequence,
            row_hash=head.hash,
            trust_domain=self._config.trust_domain,
            epoch=head.epoch,
            now=self._now(),
        )
        self.file.append(statement)
        log.info("audit checkpoint %s", statement.line())
        try:
            self._store.run_now(lambda session: checkpoints.add(session, statement.row()))
        except StaleError:
            log.info("another issuer kept checkpoint %d", statement.sequence)
        return statement

    def verify(self) -> seal.Verdict:
        """Check everything; tells the metric."""
        public_key = self._audit_key.key.public_key()
        verdict = seal.verify(
            self._store,
            self.file,
            lambda statement: is_signed_by(statement, public_key),
            self._config.trust_domain,
        )
        metrics.AUDIT_CHAIN_OK.set(0 if verdict.problem else 1)
        if verdict.problem:
            log.critical("the audit does not hold: %s", verdict.problem)
        return verdict

    async def follow(self, stop: asyncio.Event) -> None:
        """Write refusals down and checkpoints on time; a last checkpoint at the end."""
        verified = self._now()
        while not await wait_or_timeout(stop, self._pause):
            try:
                await self.refusals.flush()
                await asyncio.to_thread(self._checkpoint_if_due)
                if self._now() - verified >= self._config.audit_verify_interval:
                    verified = self._now()
                    await asyncio.to_thread(self.verify)
            except (TroveError, OSError) as error:
                log.critical("cannot keep the audit: %s", error)
        try:
            await self.refusals.flush()
            await asyncio.to_thread(self.checkpoint)
        except (TroveError, OSError) as error:
            log.critical("no checkpoint at the end: %s", error)

    @property
    def _pause(self) -> float:
        return min(_LOOK, self._config.checkpoint_interval.total_seconds() / 2)

    @property
    def _audit_key(self) -> AuditKey:
        assert self._key is not None, "open() comes first"  # noqa: S101  a programming error
        return self._key

    def _ensure_key(self) -> AuditKey:
        if not self._custody.exists(seal.AUDIT_KEY):
            if self.file.read() or self._store.run_now(checkpoints.newest) is not None:
                raise CustodyError(
                    f"the audit key {seal.AUDIT_KEY} is missing from custody, and there are "
                    "checkpoints it signed; restore it from your backup: a new one would hide "
                    "what became of the old one"
                )
            self._custody.store(seal.AUDIT_KEY, new_key())
        return AuditKey(self._custody.load(seal.AUDIT_KEY))

    def _export_missing(self) -> None:
        """Export again what the file lacks: another issuer wrote it, or the file was cut."""
        kept = self._store.run_now(lambda s: checkpoints.after(s, 0, 1_000_000))
        # Read after the database: an issuer that serves writes to the file first.
        have = {(each.epoch, each.sequence) for each in self.file.read()}
        lacking = [row for row in kept if (row.epoch, row.sequence) not in have]
        for row in lacking:
            self.file.append(Statement.from_row(row, self._config.trust_domain))
        if lacking:
            log.error(
                "%s lacked %d checkpoints of the database, from %d on: another issuer wrote them, "
                "or the file was cut; they were exported again",
                self.file.path,
                len(lacking),
                lacking[0].sequence,
            )
            self._store.run_now(
                lambda session: audit.append(
                    session,
                    now=self._now(),
                    actor="issuer",
                    action="export-checkpoints-again",
                    subject=str(self.file.path),
                    detail={"checkpoints": len(lacking), "first": lacking[0].sequence},
                )
            )

    def _checkpoint_if_due(self) -> None:
        head = self._store.run_now(self._head)
        done = 0 if head.newest is None else head.newest.sequence
        rows = head.sequence - done
        is_late = (
            head.newest is None
            or self._now() - head.newest.time >= self._config.checkpoint_interval
        )
        if rows >= self._config.checkpoint_rows or (rows and is_late):
            self.checkpoint()

    def _check_since(self, head: _Head) -> None:
        check = audit.ChainCheck()
        if head.newest is not None:
            check = audit.ChainCheck(head.newest.sequence, head.newest.hash)
        while check.position < head.sequence:
            rows = self._store.run_now(
                lambda session, after=check.position: audit.after(session, after, 2000)  # type: ignore[misc]
            )
            if not rows or not all(check.follows(row) for row in rows):
                metrics.AUDIT_CHAIN_OK.set(0)
                raise seal.SealedError(
                    f"audit record {check.position + 1} was edited, removed or moved since the "
                    "last checkpoint; no new one is signed over it (`trove-pki audit verify`)"
                )

    def _head(self, session: Session) -> _Head:
        sequence, row_hash = audit.head(session)
        domain = authorities.domain(session)
        newest = checkpoints.newest(session)
        return _Head(
            sequence,
            row_hash,
            domain.epoch,
            None if newest is None else Statement.from_row(newest, domain.trust_domain),
        )


def _trust_domain(session: Session) -> str | None:
    found = authorities.find_domain(session)
    return None if found is None else found.trust_domain
