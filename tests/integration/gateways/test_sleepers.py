"""Guests that were off while their certificates expired, and renewal while much is reported."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from pki import proof
from pki.requests import csr_der, new_key
from tests.integration.gateways.conftest import Guest, Region, eventually, seconds
from trove_grpc.client import call, open_enrolment_channel
from trove_grpc.errors import TroveError
from trove_grpc.gen.guest.v1 import enrolment_service_pb2 as pb
from trove_grpc.gen.guest.v1 import enrolment_service_pb2_grpc as rpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as issuer_pb2

FLEET = 20


async def fall_asleep(guests: list[Guest], *, beyond: float = 0) -> None:
    """Switch the agents off until every certificate expired `beyond` seconds ago."""
    async with asyncio.TaskGroup() as group:
        for guest in guests:
            group.create_task(guest.stop())
    await eventually(
        lambda: all(guest.expires_in < -beyond for guest in guests),
        "every certificate expired",
        within=60 + beyond,
    )


@pytest.fixture
async def sleeper(region: Region) -> tuple[Region, Guest]:
    """One guest that is off and expired, with a recovery grace of five seconds."""
    await region.start(guest_lifetime=seconds(3), recovery_grace=seconds(5))
    await region.start_gateway("one")
    guest = await region.started_guest()
    await fall_asleep([guest])
    return region, guest


async def test_fleet_that_slept_too_long_comes_back(region: Region) -> None:
    await region.start(guest_lifetime=seconds(20))
    await region.start_gateway("one")
    await region.start_gateway("two")
    guests = [await region.guest() for _ in range(FLEET)]
    for guest in guests:
        guest.start()
    await eventually(lambda: all(each.is_connected for each in guests), "everybody connected")
    await fall_asleep(guests)
    before = {guest.instance_id: guest.identity.load().facts.serial for guest in guests}

    await region.start_issuer(guest_lifetime=seconds(3600))
    clock = asyncio.get_running_loop()
    began = clock.time()
    for guest in guests:
        guest.start()
    await eventually(lambda: all(each.is_connected for each in guests), "everybody is back")
    print(f"{FLEET} expired agents back in {clock.time() - began:.1f} s")  # noqa: T201
    await eventually(lambda: all(each.expires_in > 60 for each in guests), "everybody confirmed")
    assert all(guest.identity.load().facts.serial != before[guest.instance_id] for guest in guests)
    recovered = [subject for subject, _ in region.audit("recover-guest")]
    assert sorted(recovered) == sorted(before)  # once each: no reply was wasted
    assert region.audit("refuse-recovery") == []


async def test_sleeper_comes_back_while_its_gateways_and_issuer_come_and_go(
    region: Region,
) -> None:
    await region.start(guest_lifetime=seconds(4))
    await region.start_gateway("one")
    await region.start_gateway("two")
    guest = await region.started_guest()
    await fall_asleep([guest])
    await region.gateways["one"].kill()
    await region.gateways["two"].kill()
    guest.start()
    await region.start_issuer(guest_lifetime=seconds(3600))
    await region.start_gateway("two")
    await eventually(lambda: guest.is_connected, "it is back by the other gateway")
    assert len(region.audit("recover-guest")) == 1


async def test_connected_agent_whose_renewals_fail_until_it_expires_recovers(
    region: Region,
) -> None:
    await region.start(guest_lifetime=seconds(4))
    await region.start_gateway("one", denial_stale=3600)
    guest = await region.started_guest()
    await region._stop_issuer()
    await eventually(lambda: guest.expires_in < 0, "expired while connected")
    await eventually(lambda: not guest.is_connected, "let go by the gateway")
    await region.start_issuer(guest_lifetime=seconds(3600))
    await eventually(lambda: guest.is_connected and guest.expires_in > 0, "it is back")


async def test_renewals_under_load_lose_no_report(region: Region) -> None:
    await region.start(guest_lifetime=seconds(6))
    await region.start_gateway("one")
    await region.start_gateway("two")
    region.witness_order()
    guests = [await region.started_guest() for _ in range(5)]
    for guest in guests:
        await region.prepare(guest)
    first = {guest.instance_id: guest.identity.load().facts.serial for guest in guests}
    seen = {guest.instance_id: {first[guest.instance_id]} for guest in guests}

    async def crash_until_renewed(guest: Guest) -> None:
        serials = seen[guest.instance_id]
        ends = asyncio.get_running_loop().time() + 60
        while len(serials) < 4:
            await guest.crash_engine()
            serials.add(guest.identity.load().facts.serial)
            assert asyncio.get_running_loop().time() < ends, "three renewals in a minute"

    async with asyncio.TaskGroup() as load:
        for guest in guests:
            load.create_task(crash_until_renewed(guest))
    for guest in guests:
        assert len(guest.changes) > 10
        await region.settled(guest)


class Thief:
    """Speaks Recover by hand, through the gateway."""

    def __init__(self, region: Region, guest: Guest) -> None:
        self.region, self.guest = region, guest
        material = guest.identity.load()
        self.key, self.chain = material.key_pem, material.chain_pem
        self.csr = csr_der(new_key())

    async def nonce(self) -> bytes:
        async with self._channel() as channel:
            answer = await call(
                rpc.EnrolmentServiceStub(channel).GetNonce,
                pb.GetNonceRequest(instance_id=self.guest.instance_id),
                timeout=10,
            )
        nonce: bytes = answer.nonce
        return nonce

    async def request(self, **changes: object) -> pb.RecoverRequest:
        nonce = await self.nonce()
        signature = proof.sign(self.key, nonce, self.csr, self.guest.instance_id)
        fields: dict[str, object] = {
            "instance_id": self.guest.instance_id,
            "expired_chain_pem": self.chain,
            "csr_der": self.csr,
            "nonce": nonce,
            "signature": signature,
            **changes,
        }
        return pb.RecoverRequest(**fields)  # type: ignore[arg-type]

    async def send(self, request: pb.RecoverRequest) -> pb.RecoverResponse:
        async with self._channel() as channel:
            response: pb.RecoverResponse = await call(
                rpc.EnrolmentServiceStub(channel).Recover, request, timeout=10
            )
        return response

    async def refusal(self, request: pb.RecoverRequest) -> str:
        """The reason the guest hears; the same one stands in the audit, once for its repeats."""
        before = self.region.audit("refuse-recovery")
        with pytest.raises(TroveError) as caught:
            await self.send(request)
        after = self.region.audit("refuse-recovery")
        told = (request.instance_id, caught.value.reason)
        assert after[len(before) :] == ([] if told in before else [told])
        return caught.value.reason

    def _channel(self):
        endpoints = self.guest.config.enrolment_endpoints
        return open_enrolment_channel(endpoints, self.guest.identity)


async def test_refusals_are_told_and_written_down(sleeper: tuple[Region, Guest]) -> None:
    region, guest = sleeper
    thief = Thief(region, guest)
    honest = await thief.request()
    assert (await thief.send(honest)).chain_pem
    assert await thief.refusal(honest) == "NONCE_USED"
    # The same key again, with a number of its own: the lost answer.
    again = await thief.send(await thief.request())
    assert again.chain_pem

    assert await thief.refusal(await thief.request(nonce=b"\x00" * 56)) == "NONCE_UNKNOWN"
    assert await thief.refusal(await thief.request(signature=b"x")) == "BAD_PROOF"
    assert await thief.refusal(await thief.request(expired_chain_pem=b"")) == "BAD_PROFILE"
    assert await thief.refusal(await thief.request(csr_der=b"0")) == "CSR_MALFORMED"
    foreign = dataclasses.replace(guest, instance_id="00000000-0000-4000-8000-000000000000")
    stranger = Thief(region, foreign)
    assert await stranger.refusal(await stranger.request()) == "BAD_IDENTITY"
    stolen = await stranger.nonce()
    assert await thief.refusal(await thief.request(nonce=stolen)) == "NONCE_UNKNOWN"

    issuer = await region.issuer()
    await call(
        issuer.RetireSubject,
        issuer_pb2.RetireSubjectRequest(instance_id=guest.instance_id, reason="deleted"),
        timeout=10,
    )
    assert await thief.refusal(await thief.request()) == "INSTANCE_RETIRED"


async def test_numbers_run_out(region: Region) -> None:
    await region.start(guest_lifetime=seconds(3), nonce_lifetime=seconds(0.2))
    await region.start_gateway("one")
    guest = await region.started_guest()
    await fall_asleep([guest])
    thief = Thief(region, guest)
    request = await thief.request()

    async def has_run_out() -> bool:
        try:
            await thief.send(request)
        except TroveError as error:
            return error.reason == "NONCE_EXPIRED"
        return False

    await eventually(has_run_out, "the number ran out")


async def test_beyond_the_grace_only_a_token_helps(sleeper: tuple[Region, Guest]) -> None:
    region, guest = sleeper
    await fall_asleep([guest], beyond=5.1)
    guest.start()
    await eventually(
        lambda: (guest.instance_id, "RECOVERY_TOO_LATE") in region.audit("refuse-recovery"),
        "refused with its reason",
    )
    serial = guest.identity.load().facts.serial
    issuer = await region.issuer()
    minted = await call(
        issuer.MintToken, issuer_pb2.MintTokenRequest(instance_id=guest.instance_id), timeout=10
    )
    guest.config.token_file.write_text(minted.token)
    await eventually(lambda: guest.is_connected, "back with a token")
    assert guest.identity.load().facts.serial != serial


async def test_many_failures_from_one_address_are_cut_off(sleeper: tuple[Region, Guest]) -> None:
    region, guest = sleeper
    thief = Thief(region, guest)
    reasons = []
    for _ in range(40):
        try:
            await thief.send(pb.RecoverRequest(instance_id=guest.instance_id, csr_der=thief.csr))
        except TroveError as error:
            reasons.append(error.reason)
    assert reasons.count("NONCE_UNKNOWN") <= 31
    assert reasons[-1] == "OVERLOADED"
    assert len(region.audit("refuse-recovery")) <= 31
