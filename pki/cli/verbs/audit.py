"""`audit`: the issuer's diary."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pki.cli import times
from pki.cli.connection import Issuer
from pki.cli.console import Column, Row
from pki.cli.documents import time_of
from pki.cli.exits import Exit
from pki.cli.grammar import Verbs
from pki.cli.invocation import Invocation
from trove_grpc.gen.issuer.v1 import audit_service_pb2 as pb

_PAGE = 1000
_COLUMNS = (
    Column("SEQ", "sequence"),
    Column("TIME", "time"),
    Column("ACTOR", "actor"),
    Column("ACTION", "action"),
    Column("SUBJECT", "subject"),
    Column("DETAIL", "detail"),
)


def register(verbs: Verbs) -> None:
    group = verbs.group("audit", "the issuer's diary")
    tail = group.verb("tail", _tail, "its last records, oldest first")
    tail.add_argument("--lines", type=int, default=20, metavar="N", help="default: 20")
    tail.add_argument("--follow", action="store_true", help="go on with what is appended")
    _add_filters(tail)
    group.verb("verify", _verify, "recompute the chain; compare it with the checkpoints")
    export = group.verb("export", _export, "write records, one JSON object a line")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--after", type=int, default=0, metavar="SEQ", help="only later ones")
    _add_filters(export)
    group.verb("checkpoint", _checkpoint, "sign a statement about the present head; export it")


def verification_row(answer: pb.VerifyAuditResponse) -> dict[str, Any]:
    return {
        "checked_records": answer.checked_records,
        "checked_checkpoints": answer.checked_checkpoints,
        "head_sequence": answer.head_sequence,
        "head_hash": answer.head_hash,
        "first_bad_sequence": answer.first_bad_sequence or None,
        "problem": answer.problem,
        "last_checkpoint": (
            _checkpoint_row(answer.last_checkpoint) if answer.HasField("last_checkpoint") else None
        ),
    }


async def fetch_verification(issuer: Issuer) -> pb.VerifyAuditResponse:
    answer: pb.VerifyAuditResponse = await issuer.call(
        issuer.audit.VerifyAudit, pb.VerifyAuditRequest()
    )
    return answer


def _add_filters(parser: Any) -> None:
    parser.add_argument("--subject", default="", help="only records about this")
    parser.add_argument("--action", default="", help="only records of this action")


def _row(record: pb.AuditRecord) -> Row:
    return {
        "sequence": record.sequence,
        "time": record.time,
        "actor": record.actor,
        "action": record.action,
        "subject": record.subject,
        "detail": json.loads(record.detail or "{}"),
        "previous_hash": record.previous_hash,
        "hash": record.hash,
    }


def _tail(invocation: Invocation) -> Exit:
    options, console = invocation.options, invocation.console

    async def work(issuer: Issuer) -> None:
        request = pb.ListAuditRecordsRequest(
            from_end=True,
            page_size=max(1, min(options.lines, _PAGE)),
            subject=options.subject,
            action=options.action,
        )
        answer = await issuer.call(issuer.audit.ListAuditRecords, request)
        rows = [_row(record) for record in sorted(answer.records, key=lambda r: r.sequence)]
        console.show(rows, _COLUMNS, empty="no records")
        last = max((row["sequence"] for row in rows), default=answer.head_sequence)
        while options.follow:
            await asyncio.sleep(invocation.poll)
            for row in await _after(issuer, last, options.subject, options.action):
                last = row["sequence"]
                _say(invocation, row)

    invocation.ask(work)
    return Exit.OK


def _say(invocation: Invocation, row: Row) -> None:
    if invocation.console.is_for_people:
        invocation.console.line("  ".join(column.text(row) for column in _COLUMNS))
    else:
        invocation.console.document([row])


async def _after(issuer: Issuer, sequence: int, subject: str, action: str) -> Sequence[Row]:
    request = pb.ListAuditRecordsRequest(
        after_sequence=sequence, page_size=_PAGE, subject=subject, action=action
    )
    answer = await issuer.call(issuer.audit.ListAuditRecords, request)
    return [_row(record) for record in answer.records]


def _verify(invocation: Invocation) -> Exit:
    answer = invocation.ask(fetch_verification)
    row = verification_row(answer)
    console = invocation.console
    is_sound = not answer.problem and not answer.first_bad_sequence
    if not console.is_for_people:
        console.document([row])
    else:
        console.line(
            f"checked {answer.checked_records:,} rows, {answer.checked_checkpoints:,} "
            f"checkpoints: {'OK' if is_sound else 'BROKEN'}   head seq {answer.head_sequence} "
            f"sha256 {answer.head_hash[:12]}..   ({_checkpoint_age(invocation, row)})"
        )
    if is_sound:
        return Exit.OK
    where = f"first bad row {answer.first_bad_sequence}: " if answer.first_bad_sequence else ""
    console.note(f"trove-pki: {where}{answer.problem or 'the chain does not hold'}")
    return Exit.INTEGRITY


def _checkpoint_age(invocation: Invocation, row: Row) -> str:
    checkpoint = row["last_checkpoint"]
    if checkpoint is None:
        return "no checkpoint yet"
    return f"last checkpoint {times.ago(checkpoint['create_time'], invocation.now)}"


def _export(invocation: Invocation) -> Exit:
    options = invocation.options
    handle = os.open(options.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)

    async def work(issuer: Issuer, write: Any) -> int:
        count, last = 0, options.after
        while rows := await _after(issuer, last, options.subject, options.action):
            for row in rows:
                write(json.dumps(row, ensure_ascii=False) + "\n")
            count, last = count + len(rows), rows[-1]["sequence"]
        return count

    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            count = invocation.ask(lambda issuer: work(issuer, file.write))
    except BaseException:
        # Half an export would look like a short diary.
        with contextlib.suppress(FileNotFoundError):
            options.out.unlink()
        raise
    invocation.console.show([{"file": str(options.out), "records": count}])
    return Exit.OK if count else Exit.NOTHING_TO_DO


def _checkpoint(invocation: Invocation) -> Exit:
    if invocation.options.dry_run:
        row = verification_row(invocation.ask(fetch_verification))
        invocation.console.show([{"sequence": row["head_sequence"], "hash": row["head_hash"]}])
        return Exit.OK
    answer = invocation.ask(
        lambda issuer: issuer.call(issuer.audit.CreateCheckpoint, pb.CreateCheckpointRequest())
    )
    invocation.console.show([_checkpoint_row(answer.checkpoint)])
    return Exit.OK


def _checkpoint_row(checkpoint: pb.Checkpoint) -> Row:
    return {
        "sequence": checkpoint.sequence,
        "hash": checkpoint.hash,
        "create_time": time_of(checkpoint, "create_time"),
        "trust_domain": checkpoint.trust_domain,
        "epoch": checkpoint.epoch,
        "signature": checkpoint.signature.hex(),
    }
