"""The audit and its seal: checkpoints outside of the database, tampering, roll-back, refusals."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import json
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from sqlalchemy.orm import Session

from pki import tokens
from pki.custody import CustodyError
from pki.issuer import bootstrap
from pki.issuer.checkpoints import AuditKey, CheckpointFile, SealedError, is_signed_by
from pki.issuer.diary import Diary
from pki.issuer.refusals import Refusals
from pki.models import AuditRecord, Base, Checkpoint
from pki.requests import csr_der, new_key
from pki.store import audit
from tests.integration.pki.conftest import Desk, RunningIssuer, StartIssuer
from tests.integration.pki.test_issuer_process import Guest, until
from trove_grpc.client import call, open_local_channel
from trove_grpc.errors import PermissionDeniedError, UnauthenticatedError
from trove_grpc.gen.issuer.v1 import audit_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import audit_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb
from trove_grpc.identity import Role

TIMEOUT = 20.0
MINUTE = dt.timedelta(minutes=1)


@contextlib.asynccontextmanager
async def auditor(issuer: RunningIssuer) -> AsyncIterator[Any]:
    async with open_local_channel(issuer.config.operator_socket) as channel:
        yield rpc.AuditServiceStub(channel)


async def verify(issuer: RunningIssuer) -> pb.VerifyAuditResponse:
    async with auditor(issuer) as stub:
        answer: pb.VerifyAuditResponse = await call(
            stub.VerifyAudit, pb.VerifyAuditRequest(), timeout=TIMEOUT
        )
    return answer


def tamper(issuer: RunningIssuer, *statements: str) -> None:
    engine = sa.create_engine(issuer.config.database_url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def open_diary(desk: Desk) -> Diary:
    diary = Diary(desk.store, desk.custody, desk.config, now=lambda: desk.now)
    diary.open()
    return diary


# Checkpoints.


async def test_a_checkpoint_is_exported_and_anybody_can_verify_it(issuer: RunningIssuer) -> None:
    async with auditor(issuer) as stub:
        first = await call(stub.CreateCheckpoint, pb.CreateCheckpointRequest(), timeout=TIMEOUT)
        again = await call(stub.CreateCheckpoint, pb.CreateCheckpointRequest(), timeout=TIMEOUT)
    assert first == again
    file = CheckpointFile(issuer.config.checkpoints_path)
    key = serialization.load_pem_public_key(file.public_key_path.read_bytes())
    exported = file.read()[-1]
    assert (exported.sequence, exported.signature) == (
        first.checkpoint.sequence,
        first.checkpoint.signature,
    )
    assert is_signed_by(exported, key)  # type: ignore[arg-type]


async def test_checkpoints_come_by_themselves_and_at_the_end(start_issuer: StartIssuer) -> None:
    issuer = await start_issuer(checkpoint_rows=1)
    file = CheckpointFile(issuer.config.checkpoints_path)

    async def is_there() -> bool:
        return bool(file.read())

    await until(is_there)
    before = file.read()[-1].sequence
    await issuer.identity(Role.GATEWAY)
    await issuer.stop()
    assert file.read()[-1].sequence > before


def test_a_line_that_a_power_cut_left_unfinished_is_no_checkpoint(desk: Desk) -> None:
    diary = open_diary(desk)
    diary.checkpoint()
    with diary.file.path.open("ab") as file:
        file.write(b'{"sequence": 99, "ha')
    open_diary(desk)
    desk.register()
    diary.checkpoint()
    assert len(diary.file.read()) == 2


def test_an_edited_checkpoint_is_noticed(desk: Desk) -> None:
    diary = open_diary(desk)
    statement = diary.checkpoint()
    assert statement is not None
    path = diary.file.path
    path.write_text(path.read_text().replace(statement.hash, "0" * 64))
    with pytest.raises(SealedError, match="not signed by the audit key"):
        open_diary(desk)


def test_a_damaged_line_is_noticed(desk: Desk) -> None:
    diary = open_diary(desk)
    diary.checkpoint()
    diary.file.path.write_text("no checkpoint\n")
    with pytest.raises(SealedError, match=r"line 1 of .* is no checkpoint"):
        open_diary(desk)


def test_a_shortened_file_is_noticed_and_written_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    diary = open_diary(desk)
    first = diary.checkpoint()
    diary.file.path.write_bytes(b"")
    assert "the file was cut" in diary.verify().problem
    with caplog.at_level(logging.ERROR):
        open_diary(desk)
    assert "lacked 1 checkpoints" in caplog.text
    assert diary.file.read() == [first]
    last = desk.store.run_now(
        lambda s: audit.page(s, sequence=0, from_end=True, limit=1, subject="", action="")
    )[0]
    assert last.action == "export-checkpoints-again"


def test_the_audit_key_is_not_replaced_silently(desk: Desk) -> None:
    open_diary(desk).checkpoint()
    del desk.custody.keys["audit-g1"]
    with pytest.raises(CustodyError, match="audit-g1 is missing"):
        open_diary(desk)
    desk.custody.keys["audit-g1"] = new_key()
    with pytest.raises(SealedError, match="not the public half of the audit key"):
        open_diary(desk)


def test_no_checkpoint_is_signed_over_a_broken_chain(desk: Desk) -> None:
    diary = open_diary(desk)
    diary.checkpoint()
    desk.register()
    desk.store.run_now(
        lambda s: s.execute(
            sa.update(AuditRecord)
            .where(AuditRecord.action == "register-subject")
            .values(actor="somebody else")
        )
    )
    with pytest.raises(SealedError, match="edited, removed or moved"):
        diary.checkpoint()
    assert len(diary.file.read()) == 1


def test_a_checkpoint_shows_no_key() -> None:
    key = AuditKey(new_key())
    assert "PRIVATE" not in repr(key)


# Tampering (attack case 70).


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("UPDATE audit SET actor = 'mallory' WHERE sequence = 3", 3),
        ("DELETE FROM audit WHERE sequence = 3", 3),
        ("DELETE FROM audit WHERE sequence >= 5", 5),
    ],
)
async def test_verify_names_the_first_bad_row(
    issuer: RunningIssuer, statement: str, bad: int
) -> None:
    assert (await verify(issuer)).first_bad_sequence == 0
    tamper(issuer, statement)
    verdict = await verify(issuer)
    assert (verdict.first_bad_sequence, bool(verdict.problem)) == (bad, True)


async def test_a_chain_that_was_written_anew_contradicts_its_checkpoint(
    issuer: RunningIssuer,
) -> None:
    async with auditor(issuer) as stub:
        await call(stub.CreateCheckpoint, pb.CreateCheckpointRequest(), timeout=TIMEOUT)
    rewrite_chain(issuer)
    verdict = await verify(issuer)
    assert verdict.first_bad_sequence == 1
    assert "written anew" in verdict.problem


def rewrite_chain(issuer: RunningIssuer) -> None:
    """What somebody does who may write to the database and knows how hashes are made."""
    engine = sa.create_engine(issuer.config.database_url)
    previous = audit.FIRST_HASH
    with Session(engine) as session, session.begin():
        for row in session.scalars(sa.select(AuditRecord).order_by(AuditRecord.sequence)).all():
            row.actor, row.previous_hash = "nobody", previous
            row.hash = previous = audit.record_hash(row)
    engine.dispose()


async def test_records_are_listed_from_both_ends_and_by_what_they_tell(
    issuer: RunningIssuer,
) -> None:
    await issuer.identity(Role.GATEWAY)
    async with auditor(issuer) as stub:

        async def listed(**fields: Any) -> list[pb.AuditRecord]:
            answer = await call(
                stub.ListAuditRecords, pb.ListAuditRecordsRequest(**fields), timeout=TIMEOUT
            )
            return list(answer.records)

        everything = await listed(page_size=1000)
        newest = await listed(from_end=True, page_size=2)
        rest = await listed(after_sequence=everything[2].sequence, page_size=1)
        services = await listed(action="enrol-service")
    assert [row.sequence for row in everything] == list(range(1, len(everything) + 1))
    assert newest[0] == everything[-1]
    assert rest == [everything[3]]
    assert {row.action for row in services} == {"enrol-service"}


# The seal (attack case 71).


async def test_a_database_that_was_rolled_back_is_not_served(
    start_issuer: StartIssuer, tmp_path: Path
) -> None:
    database = tmp_path / "issuer.db"
    start = functools.partial(start_issuer, database_url=f"sqlite:///{database}")
    issuer = await start()
    await issuer.stop()
    shutil.copy(database, database.with_suffix(".old"))
    issuer = await start()
    await issuer.identity(Role.GATEWAY)
    await issuer.stop()
    for leftover in database.parent.glob(f"{database.name}-*"):
        leftover.unlink()
    shutil.copy(database.with_suffix(".old"), database)
    with pytest.raises(SealedError, match=r"rolled back.*trove-pki rebuild"):
        await start()


def test_a_replaced_database_of_the_same_length_is_not_served(desk: Desk) -> None:
    diary = open_diary(desk)
    diary.checkpoint()
    desk.store.run_now(lambda s: s.execute(sa.update(AuditRecord).values(hash="f" * 64)))
    with pytest.raises(SealedError, match="replaced or edited"):
        open_diary(desk)


def test_a_database_from_before_a_rebuild_is_not_served(desk: Desk) -> None:
    diary = open_diary(desk)
    key = AuditKey(desk.custody.keys["audit-g1"])
    diary.file.append(
        key.sign(sequence=1, row_hash="0", trust_domain="local.trove", epoch=2, now=desk.now)
    )
    with pytest.raises(SealedError, match="from before the rebuild"):
        open_diary(desk)


def test_an_empty_database_beside_keys_in_use_is_neither_served_nor_initialised(
    desk: Desk,
) -> None:
    open_diary(desk).checkpoint()
    empty(desk)
    with pytest.raises(SealedError, match=r"database is empty.*trove-pki rebuild"):
        open_diary(desk)
    with pytest.raises(SealedError, match="database is empty"):
        desk.store.run_now(lambda s: bootstrap.initialise(s, desk.custody, desk.config, desk.now))


def test_init_does_not_begin_beside_the_checkpoints_of_another_pki(desk: Desk) -> None:
    open_diary(desk).checkpoint()
    empty(desk)
    desk.custody.keys.clear()
    with pytest.raises(SealedError, match=r"move that file .* away"):
        desk.store.run_now(lambda s: bootstrap.initialise(s, desk.custody, desk.config, desk.now))


def empty(desk: Desk) -> None:
    """Lose the rows of every table."""

    def delete(session: Session) -> None:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())

    desk.store.run_now(delete)


# Refusals.


def refusals_of(issuer: RunningIssuer, action: str) -> list[AuditRecord]:
    engine = sa.create_engine(issuer.config.database_url)
    with Session(engine, expire_on_commit=False) as session:
        rows = session.scalars(sa.select(AuditRecord).where(AuditRecord.action == action)).all()
    engine.dispose()
    return list(rows)


async def test_a_refused_token_is_written_down_once_however_often_it_is_shown(
    issuer: RunningIssuer,
) -> None:
    guest = Guest(issuer)
    await guest.registered()
    for _ in range(5):
        with pytest.raises(UnauthenticatedError):
            await guest.enrol(tokens.new().text)
    rows = refusals_of(issuer, "refuse-token")
    assert [(row.subject, json.loads(row.detail)["why"]) for row in rows] == [
        (guest.instance_id, "unknown")
    ]


async def test_a_call_beyond_the_callers_rights_is_written_down(issuer: RunningIssuer) -> None:
    stub = await issuer.stub(Role.GATEWAY)
    with pytest.raises(PermissionDeniedError):
        await call(stub.MintToken, issuer_pb.MintTokenRequest(instance_id="x"), timeout=TIMEOUT)

    async def is_there() -> bool:
        return bool(refusals_of(issuer, "refuse-call"))

    await until(is_there)
    row = refusals_of(issuer, "refuse-call")[0]
    assert row.actor == "spiffe://local.trove/service/gateway/localhost"
    assert row.subject == "/trove.issuer.v1.IssuerService/MintToken"


async def test_a_service_whose_certificate_was_denied_is_written_down(
    issuer: RunningIssuer,
) -> None:
    identity = await issuer.identity(Role.CONDUCTOR)
    stub = await issuer.stub(Role.CONDUCTOR)
    async with open_local_channel(issuer.config.operator_socket) as channel:
        await call(
            issuer_stub(channel).CreateDenial,
            issuer_pb.CreateDenialRequest(
                kind=issuer_pb.DENIAL_KIND_SERIAL,
                value=identity.load().facts.serial,
                reason="test",
            ),
            timeout=TIMEOUT,
        )

    async def is_there() -> bool:
        with contextlib.suppress(UnauthenticatedError):
            await call(
                stub.RenewService,
                issuer_pb.RenewServiceRequest(csr_der=csr_der(new_key())),
                timeout=TIMEOUT,
            )
        return any(
            "CERTIFICATE_DENIED" in row.detail for row in refusals_of(issuer, "refuse-call")
        )

    await until(is_there)


def issuer_stub(channel: Any) -> Any:
    from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc

    return issuer_service_pb2_grpc.IssuerServiceStub(channel)


@pytest.fixture
def flood(desk: Desk) -> Callable[..., None]:
    refusals = Refusals(desk.store, now=lambda: desk.now)

    def send(count: int, *, peers: int = 1, kinds: int = 1) -> None:
        for number in range(count):
            refusals.note(
                "refuse-call",
                f"R{number % kinds}",
                actor=f"peer-{number % peers}",
                subject=str(number),
            )
        asyncio.run(refusals.flush())

    return send


def rows_about_refusals(desk: Desk) -> list[AuditRecord]:
    query = sa.select(AuditRecord).where(AuditRecord.action.like("refuse%"))
    return list(desk.store.run_now(lambda s: s.scalars(query).all()))


def test_repeats_become_one_record_with_their_number(
    desk: Desk, flood: Callable[..., None]
) -> None:
    flood(1000)
    assert len(rows_about_refusals(desk)) == 1
    desk.now += 6 * MINUTE
    flood(0)
    first, repeats = rows_about_refusals(desk)
    assert json.loads(repeats.detail) == {"times": 999, "why": "R0"}
    assert first.subject == "0"


def test_one_peer_cannot_fill_the_audit_with_kinds(desk: Desk, flood: Callable[..., None]) -> None:
    flood(5000, kinds=5000)
    assert len(rows_about_refusals(desk)) == 11


def test_many_peers_cannot_fill_the_audit(desk: Desk, flood: Callable[..., None]) -> None:
    flood(5000, peers=5000)
    assert len(rows_about_refusals(desk)) <= 201


# Secrets (attack case 73).


async def test_no_secret_is_in_audit_checkpoints_or_logs(
    issuer: RunningIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    guest = Guest(issuer)
    key = new_key()
    with caplog.at_level(logging.DEBUG):
        token = await guest.registered()
        await guest.enrol(token, key)
        with pytest.raises(UnauthenticatedError):
            await guest.enrol(token)
        async with auditor(issuer) as stub:
            await call(stub.CreateCheckpoint, pb.CreateCheckpointRequest(), timeout=TIMEOUT)
    engine = sa.create_engine(issuer.config.database_url)
    with Session(engine) as session:
        told = [repr(row) for row in session.scalars(sa.select(AuditRecord))]
        told += [repr(row) for row in session.scalars(sa.select(Checkpoint))]
    engine.dispose()
    told += [caplog.text, issuer.config.checkpoints_path.read_text()]
    secrets = [
        token,
        token.rpartition(".")[2],
        token.split(".")[1],
        issuer.config.passphrase_file.read_text().strip(),
        "PRIVATE KEY",
        csr_der(key).hex(),
    ]
    assert [secret for secret in secrets for text in told if secret in text] == []
