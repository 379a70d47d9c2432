"""The issuer behind its real listeners: who may ask, one answer for bad tokens, renewal."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import statistics
import time
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from pki import enrolment
from pki.enrolment import enrol_service
from pki.models import AuditRecord
from pki.renewal import ServiceRenewer
from pki.requests import csr_der, new_key, new_request
from pki.store import Store
from tests.integration.pki.conftest import RunningIssuer, StartIssuer
from trove_grpc.client import call, open_local_channel
from trove_grpc.errors import (
    ConflictError,
    InvalidRequestError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as guest_pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.identity import Role, identify, serial_hex
from trove_grpc.tls import IdentityDirectory

TIMEOUT = 10.0
SECOND = dt.timedelta(seconds=1)


async def until(condition, deadline: float = 20.0) -> None:
    """Poll until `condition` holds."""
    ends = time.monotonic() + deadline
    waiting = asyncio.Event()
    while not await condition():
        assert time.monotonic() < ends, "the condition never held"
        try:
            await asyncio.wait_for(waiting.wait(), 0.05)
        except TimeoutError:
            continue


def audit_rows(issuer: RunningIssuer) -> list[AuditRecord]:
    store = Store(issuer.config.database_url)
    try:
        return list(store.run_now(lambda session: session.scalars(sa.select(AuditRecord)).all()))
    finally:
        store.close()


class Guest:
    """Enrols and renews through the issuer's RPCs, as a gateway does for a guest."""

    def __init__(self, issuer: RunningIssuer) -> None:
        self.issuer = issuer
        self.instance_id = str(uuid.uuid4())

    async def registered(self) -> str:
        """Register, and return a fresh token."""
        tasks = await self.issuer.stub(Role.TASKMANAGER)
        await call(
            tasks.RegisterSubject,
            pb.RegisterSubjectRequest(
                instance_id=self.instance_id,
                tenant_id="t",
                engine_dns_names=["i.db.local.trove"],
                engine_ip_addresses=["127.0.0.2"],
            ),
            timeout=TIMEOUT,
        )
        minted = await call(
            tasks.MintToken, pb.MintTokenRequest(instance_id=self.instance_id), timeout=TIMEOUT
        )
        token: str = minted.token
        return token

    async def enrol(
        self, token: str, key=None, *, instance_id: str = "", peer: str = "192.0.2.1"
    ) -> guest_pb.EnrolResponse:
        gateway = await self.issuer.stub(Role.GATEWAY)
        response = await call(
            gateway.EnrolGuest,
            pb.EnrolGuestRequest(
                enrolment=guest_pb.EnrolRequest(
                    token=token,
                    csr_der=csr_der(key or new_key()),
                    instance_id=instance_id or self.instance_id,
                ),
                peer_address=peer,
            ),
            timeout=TIMEOUT,
        )
        answer: guest_pb.EnrolResponse = response.enrolment
        return answer


async def test_guest_enrols_renews_confirms_and_gets_an_engine_certificate(
    issuer: RunningIssuer,
) -> None:
    guest = Guest(issuer)
    first = await guest.enrol(await guest.registered())
    named = identify(first.chain_pem, first.bundle)
    assert (named.role, named.instance_id) == (Role.GUEST, guest.instance_id)
    assert first.renewal_window.start_time.seconds > first.server_time.seconds

    gateway = await issuer.stub(Role.GATEWAY)
    renewed = await call(
        gateway.RenewGuest,
        pb.RenewGuestRequest(certificate_pem=first.chain_pem, csr_der=csr_der(new_key())),
        timeout=TIMEOUT,
    )
    await call(
        gateway.ConfirmGuest,
        pb.ConfirmGuestRequest(certificate_pem=renewed.chain_pem),
        timeout=TIMEOUT,
    )
    engine = await call(
        gateway.IssueEngineCertificate,
        pb.IssueEngineCertificateRequest(
            certificate_pem=renewed.chain_pem, csr_der=csr_der(new_key())
        ),
        timeout=TIMEOUT,
    )
    assert engine.chain_pem.count(b"BEGIN CERTIFICATE") == 2
    assert engine.root_pem.count(b"BEGIN CERTIFICATE") == 1
    denied = await call(gateway.ListDenials, pb.ListDenialsRequest(), timeout=TIMEOUT)
    assert [each.value for each in denied.denials] == [named.serial]
    assert denied.head_sequence == denied.denials[-1].sequence
    with pytest.raises(ConflictError) as stale:
        await call(
            gateway.RenewGuest,
            pb.RenewGuestRequest(certificate_pem=first.chain_pem, csr_der=csr_der(new_key())),
            timeout=TIMEOUT,
        )
    assert stale.value.reason == "STALE_SERIAL"


async def test_every_bad_token_gets_one_answer(start_issuer: StartIssuer) -> None:
    issuer = await start_issuer(token_lifetime=SECOND, token_retry_window=SECOND)
    guest, other = Guest(issuer), Guest(issuer)
    used, foreign = await guest.registered(), await other.registered()
    await guest.enrol(used)
    tampered = used[:-2] + ("AA" if used[-2:] != "AA" else "BA")
    answers = set()
    for token in (used, foreign, tampered, "", "trv1.x.y", used[:-1], "x" * 60_000):
        with pytest.raises(UnauthenticatedError) as refused:
            await guest.enrol(token)
        answers.add((refused.value.reason, refused.value.message, refused.value.subject))

    expired, ends = await other.registered(), time.monotonic() + 1.1

    async def is_over() -> bool:
        return time.monotonic() > ends

    await until(is_over)
    with pytest.raises(UnauthenticatedError) as refused:
        await other.enrol(expired)
    answers.add((refused.value.reason, refused.value.message, refused.value.subject))
    assert len(answers) == 1
    assert answers.pop()[0] == "TOKEN_REFUSED"


async def test_unknown_token_costs_about_what_a_known_one_does(start_issuer: StartIssuer) -> None:
    """Medians within a factor: enough to see a path that skips the work."""
    issuer = await start_issuer(enrol_attempts_per_minute=1000, token_max_failures=1000)
    guest = Guest(issuer)
    known = await guest.registered()
    wrong = known.rpartition(".")[0] + "." + "A" * 43
    unknown = "trv1." + "A" * 11 + "." + "A" * 43

    async def median(token: str) -> float:
        times = []
        for _ in range(30):
            began = time.perf_counter()
            with pytest.raises(UnauthenticatedError):
                await guest.enrol(token)
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    ratio = await median(unknown) / await median(wrong)
    assert 1 / 3 < ratio < 3


async def test_failed_attempts_of_one_address_are_limited_and_honest_ones_are_not(
    start_issuer: StartIssuer,
) -> None:
    issuer = await start_issuer(enrol_attempts_per_minute=3)
    guest = Guest(issuer)
    token = await guest.registered()
    for _ in range(3):
        with pytest.raises(UnauthenticatedError):
            await guest.enrol("wrong", peer="2001:db8::9")
    with pytest.raises(OverloadedError):
        await guest.enrol(token, peer="2001:db8::9")
    await guest.enrol(token, peer="2001:db8::a")


async def test_refusals_of_a_gateway_stand_in_the_audit_in_a_form_that_harms_no_reader(
    issuer: RunningIssuer,
) -> None:
    gateway = await issuer.stub(Role.GATEWAY)
    refusal = pb.Refusal(
        reason="BAD_IDENTITY", peer_address="192.0.2.9", message="names 'a\x00b'\n", count=7
    )
    await call(
        gateway.RecordRefusals, pb.RecordRefusalsRequest(refusals=[refusal]), timeout=TIMEOUT
    )
    (row,) = [each for each in audit_rows(issuer) if each.action == "refuse-call"]
    assert row.subject == "unidentified"
    assert json.loads(row.detail) == {
        "why": "BAD_IDENTITY",
        "said": "names 'a\\x00b'\\n",
        "from": "192.0.2.9",
        "count": 7,
    }


async def test_a_gateway_that_tells_too_much_fills_no_audit(issuer: RunningIssuer) -> None:
    gateway = await issuer.stub(Role.GATEWAY)
    many = [
        pb.Refusal(reason=f"R{number}", peer_address="192.0.2.9", count=1) for number in range(60)
    ]
    request = pb.RecordRefusalsRequest(refusals=many)
    for _ in range(2):
        await call(gateway.RecordRefusals, request, timeout=TIMEOUT)
    for _ in range(5):
        with pytest.raises(OverloadedError):
            await call(gateway.RecordRefusals, request, timeout=TIMEOUT)
    rows = [each for each in audit_rows(issuer) if each.action == "refuse-call"]
    told = [each for each in rows if each.subject == "unidentified"]
    assert len(told) == 120


async def test_a_second_certificate_for_a_key_is_audited_under_each_guest_that_asked(
    issuer: RunningIssuer,
) -> None:
    """Else the rows of one guest that insists would stand for those of all of them."""
    guests = [Guest(issuer), Guest(issuer)]
    gateway = await issuer.stub(Role.GATEWAY)
    for guest in guests:
        key = new_key()
        first = await guest.enrol(await guest.registered(), key)
        with pytest.raises(InvalidRequestError):
            await call(
                gateway.RenewGuest,
                pb.RenewGuestRequest(certificate_pem=first.chain_pem, csr_der=csr_der(key)),
                timeout=TIMEOUT,
            )
    rows = [each for each in audit_rows(issuer) if each.action == "refuse-certificate"]
    assert [row.subject for row in rows] == [guest.instance_id for guest in guests]


async def test_bad_request_does_not_use_the_token_up(issuer: RunningIssuer) -> None:
    guest = Guest(issuer)
    token = await guest.registered()
    gateway = await issuer.stub(Role.GATEWAY)
    with pytest.raises(InvalidRequestError):
        await call(
            gateway.EnrolGuest,
            pb.EnrolGuestRequest(
                enrolment=guest_pb.EnrolRequest(
                    token=token, csr_der=b"not one", instance_id=guest.instance_id
                )
            ),
            timeout=TIMEOUT,
        )
    await guest.enrol(token)


@pytest.mark.parametrize("role", [Role.API, Role.CONDUCTOR, Role.GATEWAY])
async def test_only_the_task_manager_may_register_and_mint(
    issuer: RunningIssuer, role: Role
) -> None:
    stub = await issuer.stub(role)
    for method, request in (
        (stub.RegisterSubject, pb.RegisterSubjectRequest()),
        (stub.MintToken, pb.MintTokenRequest()),
        (stub.EnrolService, pb.EnrolServiceRequest(role="gateway", host="h")),
        (stub.IssueOperatorCertificate, pb.IssueOperatorCertificateRequest(name="x")),
        (stub.CreateDenial, pb.CreateDenialRequest()),
    ):
        with pytest.raises(PermissionDeniedError):
            await call(method, request, timeout=TIMEOUT)


async def test_operator_on_the_network_may_read_and_deny_but_enrol_nobody(
    issuer: RunningIssuer,
) -> None:
    identity = IdentityDirectory(issuer.root / "ann")
    await enrolment.issue_operator(issuer.config.operator_socket, "ann", identity)
    stub = issuer.channel(identity).stub(rpc.IssuerServiceStub)
    await call(stub.ListCertificates, pb.ListCertificatesRequest(), timeout=TIMEOUT)
    with pytest.raises(PermissionDeniedError):
        await call(
            stub.EnrolService,
            pb.EnrolServiceRequest(role="api", host="h", csr_der=csr_der(new_key())),
            timeout=TIMEOUT,
        )


async def test_service_renews_itself_while_it_runs(start_issuer: StartIssuer) -> None:
    """Real lives: a certificate of nine seconds is replaced, used, and the old one denied."""
    issuer = await start_issuer(
        service_lifetime=9 * SECOND, superseded_grace=dt.timedelta(milliseconds=1)
    )
    identity = await issuer.identity(Role.CONDUCTOR)
    first = serial_hex(identity.load().leaf)
    channel = issuer.channel(identity)
    stop = asyncio.Event()
    renewer = asyncio.create_task(
        ServiceRenewer(identity, channel, bundle_interval=0.2, first_retry=0.1).run(stop)
    )

    async def old_one_is_denied() -> bool:
        async with open_local_channel(issuer.config.operator_socket) as local:
            listed = await call(
                rpc.IssuerServiceStub(local).ListDenials, pb.ListDenialsRequest(), timeout=TIMEOUT
            )
        return first in {each.value for each in listed.denials}

    await until(old_one_is_denied)
    assert serial_hex(identity.load().leaf) != first
    stop.set()
    await renewer


async def test_renewer_keeps_trying_while_the_issuer_is_away(
    issuer: RunningIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    identity = await issuer.identity(Role.CONDUCTOR)
    away = dataclasses.replace(issuer, port=1).channel(identity)
    stop = asyncio.Event()
    renewer = asyncio.create_task(ServiceRenewer(identity, away, first_retry=0.01).run(stop))

    async def complained() -> bool:
        return "will be tried again" in caplog.text

    await until(complained)
    assert not renewer.done()
    stop.set()
    await renewer


async def test_denied_service_is_refused_within_seconds(issuer: RunningIssuer) -> None:
    identity = await issuer.identity(Role.API)
    stub = issuer.channel(identity).stub(rpc.IssuerServiceStub)
    await call(stub.GetTrustBundle, pb.GetTrustBundleRequest(), timeout=TIMEOUT)
    async with open_local_channel(issuer.config.operator_socket) as local:
        await call(
            rpc.IssuerServiceStub(local).CreateDenial,
            pb.CreateDenialRequest(
                kind=pb.DENIAL_KIND_SERIAL,
                value=serial_hex(identity.load().leaf),
                reason="host compromised",
            ),
            timeout=TIMEOUT,
        )

    async def refused() -> bool:
        try:
            await call(stub.GetTrustBundle, pb.GetTrustBundleRequest(), timeout=TIMEOUT)
        except UnauthenticatedError:
            return True
        return False

    await until(refused, deadline=5)


async def test_issuer_comes_back_with_what_it_knew(start_issuer: StartIssuer) -> None:
    first = await start_issuer()
    guest = Guest(first)
    token, key = await guest.registered(), new_key()
    enrolled = await guest.enrol(token, key)
    await first.stop()
    guest.issuer = await start_issuer()
    again = await guest.enrol(token, key)
    assert again.chain_pem == enrolled.chain_pem
    assert again.bundle == enrolled.bundle


async def test_socket_in_an_open_directory_is_refused(
    start_issuer: StartIssuer, private_directory: Path
) -> None:
    (private_directory / "run").mkdir()
    (private_directory / "run").chmod(0o755)
    with pytest.raises(Exception, match="open to others"):
        await start_issuer()


async def test_enrolling_without_an_issuer_says_so(private_directory: Path) -> None:
    with pytest.raises(UnavailableError):
        await enrol_service(
            private_directory / "nobody.sock",
            Role.API,
            "h",
            IdentityDirectory(private_directory / "api"),
        )


@pytest.mark.parametrize(
    ("role", "host"), [("guest", "h"), ("local", "h"), ("api", "H"), ("api", "a/b"), ("api", "")]
)
async def test_service_with_an_impossible_name_is_refused(
    issuer: RunningIssuer, role: str, host: str
) -> None:
    async with open_local_channel(issuer.config.operator_socket) as local:
        with pytest.raises(InvalidRequestError):
            await call(
                rpc.IssuerServiceStub(local).EnrolService,
                pb.EnrolServiceRequest(role=role, host=host, csr_der=new_request()[1]),
                timeout=TIMEOUT,
            )
