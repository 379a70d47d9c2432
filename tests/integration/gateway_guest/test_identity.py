"""Enrolment, renewal and engine certificates on their way through the gateway to the issuer."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc import aio

from pki.requests import new_request
from trove_grpc import errors
from trove_grpc.client import call, open_enrolment_channel
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as enrolment_pb2
from trove_grpc.gen.guest.v1 import enrolment_service_pb2_grpc as enrolment_rpc
from trove_grpc.gen.guest.v1 import identity_service_pb2 as identity_pb2
from trove_grpc.tls import IdentityDirectory, KeyMaterial

TOKEN = "secret"
INSTANCE = "6f2b6a0e-6a1c-4b8e-9a50-0a8f3a1d2c11"


def enrolment(token=TOKEN, instance_id=INSTANCE, csr_der=None):
    return enrolment_pb2.EnrolRequest(
        token=token, instance_id=instance_id, csr_der=csr_der or new_request()[1]
    )


async def enrol(world, request):
    async with open_enrolment_channel([world.endpoints.enrolment], world.identity) as channel:
        return await call(enrolment_rpc.EnrolmentServiceStub(channel).Enrol, request, timeout=5)


async def test_guest_enrols_and_connects_with_what_it_got(world, tmp_path):
    await world.start()
    world.issuer.tokens["secret"] = ("tenant-a", INSTANCE)
    world.conductor.tenants[INSTANCE] = "tenant-a"
    key, csr = new_request()
    response = await enrol(world, enrolment(csr_der=csr))
    identity = IdentityDirectory(tmp_path / "enrolled")
    identity.install(KeyMaterial(key_pem=key, chain_pem=response.chain_pem), response.bundle)
    await world.stream(identity).open()
    assert world.conductor.opened[0].instance_id == INSTANCE
    assert world.issuer.enrolments[0].peer_address == "127.0.0.1"


async def test_refused_tokens_answer_is_the_issuers_and_shows_no_token(world, caplog):
    caplog.set_level("DEBUG")
    await world.start()
    with pytest.raises(errors.UnauthenticatedError) as caught:
        await enrol(world, enrolment(token="canary-token"))
    assert caught.value.reason == "TOKEN_REFUSED"
    assert "canary-token" not in caplog.text + caught.value.message


async def test_only_failed_enrolments_count_against_an_address(world):
    await world.start(failed_enrolments_per_minute=2)
    for number in range(4):
        world.issuer.tokens[f"token-{number}"] = ("tenant-a", INSTANCE)
        await enrol(world, enrolment(f"token-{number}"))
    for _ in range(2):
        with pytest.raises(errors.UnauthenticatedError):
            await enrol(world, enrolment("wrong"))
    with pytest.raises(errors.OverloadedError) as caught:
        await enrol(world, enrolment("wrong"))
    assert caught.value.retry_after > 0
    assert len(world.issuer.enrolments) == 6


@pytest.mark.parametrize(
    "request_",
    [
        enrolment(csr_der=b"x" * 5000),
        enrolment(instance_id="../../etc/shadow"),
        enrolment(token="t" * 300),
        enrolment_pb2.EnrolRequest(token="t", instance_id=INSTANCE, boot_id="b" * 300),
    ],
    ids=["long CSR", "no UUID", "long token", "long boot id"],
)
async def test_malformed_enrolment_never_reaches_the_issuer(world, request_):
    await world.start()
    with pytest.raises(errors.InvalidRequestError):
        await enrol(world, request_)
    assert world.issuer.enrolments == []


async def test_enrolment_waits_for_the_issuer_to_come_back(world):
    await world.start()
    await world.issuer.stop()
    with pytest.raises(errors.UnavailableError):
        await enrol(world, enrolment())
    await world.issuer.start()
    world.issuer.tokens["secret"] = ("tenant-a", INSTANCE)
    async with asyncio.timeout(20):
        # The gateway's channel pauses before it looks again; guests ask again as well.
        while True:
            try:
                await enrol(world, enrolment())
            except errors.UnavailableError:
                await asyncio.sleep(0.05)
            else:
                break


async def test_renewal_is_about_the_certificate_of_the_connection(world, tmp_path):
    await world.start()
    instance_id, guest = await world.guest()
    key, csr = new_request()
    response = await guest.identity.Renew(identity_pb2.RenewRequest(csr_der=csr), timeout=5)
    renewed = IdentityDirectory(tmp_path / "renewed")
    renewed.install(KeyMaterial(key_pem=key, chain_pem=response.chain_pem), response.bundle)
    following = world.stream(renewed)
    await following.open()
    await following.identity.Confirm(identity_pb2.ConfirmRequest(), timeout=5)
    assert world.issuer.confirmed == [f"{renewed.load().leaf.serial_number:x}"]
    assert {opened.instance_id for opened in world.conductor.opened} == {instance_id}


async def test_engine_certificate_is_the_callers_own(world):
    await world.start()
    instance_id, guest = await world.guest()
    response = await guest.identity.IssueEngineCertificate(
        identity_pb2.IssueEngineCertificateRequest(csr_der=b"csr"), timeout=5
    )
    assert response.chain_pem == b"chain for " + instance_id.encode()


async def test_renewals_of_one_instance_are_limited(world):
    await world.start(renewals_per_hour=1)
    _, guest = await world.guest()
    _, other = await world.guest()
    request = identity_pb2.RenewRequest(csr_der=new_request()[1])
    await guest.identity.Renew(request, timeout=5)
    with pytest.raises(aio.AioRpcError) as caught:
        await guest.identity.Renew(request, timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await other.identity.Renew(request, timeout=5)
