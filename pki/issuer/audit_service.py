"""RPC face of the audit."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf import timestamp_pb2

from pki.issuer.checkpoints import Statement
from pki.issuer.diary import Diary
from pki.models import AuditRecord
from pki.store import Store, audit
from trove_grpc.errors import InvalidRequestError, NotFoundError
from trove_grpc.gen.issuer.v1 import audit_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import audit_service_pb2_grpc as rpc

_PAGE = 100
_MAX_PAGE = 1000


class AuditServicer(rpc.AuditServiceServicer):
    """Serves AuditService on the internal listener and on the operator socket."""

    def __init__(self, store: Store, diary: Diary) -> None:
        self._store = store
        self._diary = diary
        # One check reads the whole diary; a second one beside it would tell nothing new.
        self._verifying = asyncio.Lock()

    async def ListAuditRecords(self, request: pb.ListAuditRecordsRequest, context: Any) -> Any:
        if request.page_size < 0 or request.after_sequence < 0:
            raise InvalidRequestError("page_size and after_sequence must not be negative")
        size = min(request.page_size or _PAGE, _MAX_PAGE)
        rows, head = await self._store.run(
            lambda session: (
                audit.page(
                    session,
                    sequence=request.after_sequence,
                    from_end=request.from_end,
                    limit=size,
                    subject=request.subject,
                    action=request.action,
                ),
                audit.head(session),
            )
        )
        return pb.ListAuditRecordsResponse(
            records=[record(row) for row in rows], head_sequence=head[0]
        )

    async def VerifyAudit(self, request: pb.VerifyAuditRequest, context: Any) -> Any:
        async with self._verifying:
            verdict = await asyncio.to_thread(self._diary.verify)
        return pb.VerifyAuditResponse(
            checked_records=verdict.records,
            checked_checkpoints=verdict.checkpoints,
            head_sequence=verdict.head_sequence,
            head_hash=verdict.head_hash,
            first_bad_sequence=verdict.first_bad_sequence,
            problem=verdict.problem,
            last_checkpoint=None if verdict.last is None else checkpoint(verdict.last),
        )

    async def CreateCheckpoint(self, request: pb.CreateCheckpointRequest, context: Any) -> Any:
        statement = await asyncio.to_thread(self._diary.checkpoint)
        if statement is None:
            raise NotFoundError("the audit is empty: there is nothing to sign")
        return pb.CreateCheckpointResponse(checkpoint=checkpoint(statement))


def record(row: AuditRecord) -> pb.AuditRecord:
    return pb.AuditRecord(
        sequence=row.sequence,
        time=row.time,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        detail=row.detail,
        previous_hash=row.previous_hash,
        hash=row.hash,
    )


def checkpoint(statement: Statement) -> pb.Checkpoint:
    created = timestamp_pb2.Timestamp()
    created.FromDatetime(statement.time)
    return pb.Checkpoint(
        sequence=statement.sequence,
        hash=statement.hash,
        create_time=created,
        trust_domain=statement.trust_domain,
        epoch=statement.epoch,
        signature=statement.signature,
    )
