"""What root in guest A can do with A's certificate: speak for A, and nothing else."""

from __future__ import annotations

import shutil
import uuid

import grpc
import pytest
from cryptography import x509

from pki import requests
from trove_grpc import authorization, client, errors
from trove_grpc.gen.guest.v1 import (
    enrolment_service_pb2,
    enrolment_service_pb2_grpc,
    guest_session_service_pb2,
    guest_session_service_pb2_grpc,
    identity_service_pb2,
    identity_service_pb2_grpc,
)
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory

INTERNAL = {
    "issuer": Role.ISSUER,
    "conductor": Role.CONDUCTOR,
    "taskmanager": Role.TASKMANAGER,
    "gateway": Role.GATEWAY,
}


@pytest.fixture(scope="module")
def guests(shared):
    """Two healthy instances: the attacker's and the victim's."""
    ids = [shared.create("attacker"), shared.create("victim")]
    yield [shared.await_healthy(instance_id) for instance_id in ids]
    for instance_id in ids:
        shared.request("DELETE", f"/instances/{instance_id}")
    for instance_id in ids:
        shared.await_gone(instance_id)


@pytest.fixture
def stolen(shared, guests, tmp_path):
    """A copy of the attacker's identity, as root in its guest has it."""
    source = shared.state / "guests" / guests[0]["id"] / "agent" / "identity"
    return IdentityDirectory(
        shutil.copytree(source, tmp_path / "stolen", symlinks=True, dirs_exist_ok=True)
    )


@pytest.fixture
def endpoints(shared):
    """Addresses by listener, as `trovectl status` names them."""
    return dict(
        each.split("=", 1)
        for process in shared.status()["processes"]
        for each in process["endpoints"]
    )


async def status_of(address: str, identity: IdentityDirectory, role: Role, method: str):
    async with client.PeerChannel([address], identity=identity, server_role=role) as peer:
        call = peer.channel().stream_stream(method)(timeout=5)
        return await call.code()


@pytest.mark.parametrize("listener", INTERNAL)
async def test_a_guest_certificate_is_refused_on_internal_ports(stolen, endpoints, listener):
    address = endpoints[listener]
    for method in authorization.CALLERS:
        code = await status_of(address, stolen, INTERNAL[listener], method)
        assert code is grpc.StatusCode.UNAVAILABLE, method  # the handshake failed


@pytest.mark.parametrize("process", ["conductor", "taskmanager", "operator"])
async def test_service_and_operator_certificates_are_refused_on_the_guest_port(
    shared, endpoints, process
):
    identity = IdentityDirectory(shared.state / process / "identity")
    code = await status_of(
        endpoints["gateway-guest"],
        identity,
        Role.GATEWAY,
        "/trove.guest.v1.GuestSessionService/Connect",
    )
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_on_the_guest_port_it_reaches_its_own_services_alone(stolen, endpoints):
    for method, roles in authorization.CALLERS.items():
        if Role.GUEST in roles:
            continue
        code = await status_of(endpoints["gateway-guest"], stolen, Role.GATEWAY, method)
        assert code is grpc.StatusCode.PERMISSION_DENIED, method


async def test_a_second_session_cannot_push_out_the_honest_agent(
    shared, guests, stolen, endpoints
):
    attacker, victim = guests
    async with client.PeerChannel(
        [endpoints["gateway-guest"]], identity=stolen, server_role=Role.GATEWAY
    ) as peer:
        stub = guest_session_service_pb2_grpc.GuestSessionServiceStub(peer.channel())
        call = stub.Connect(timeout=20)
        hello = guest_session_service_pb2.Hello(boot_id=f"another-{uuid.uuid4()}")
        await call.write(guest_session_service_pb2.ConnectRequest(sequence=1, hello=hello))
        assert await call.code() is grpc.StatusCode.ALREADY_EXISTS
    for instance in (attacker, victim):
        assert shared.instance(instance["id"])["operating_status"] == "HEALTHY"


async def test_renewal_and_engine_certificates_are_its_own_whatever_it_asks(
    guests, stolen, endpoints
):
    attacker, victim = guests
    async with client.PeerChannel(
        [endpoints["gateway-guest"]], identity=stolen, server_role=Role.GATEWAY
    ) as peer:
        stub = peer.stub(identity_service_pb2_grpc.IdentityServiceStub)
        greedy = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(f"{victim['id']}.db.local.trove")]),
                critical=False,
            )
        )
        from cryptography.hazmat.primitives import hashes, serialization

        key = requests.new_key()
        csr = greedy.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        for call, request in (
            (stub.Renew, identity_service_pb2.RenewRequest(csr_der=csr)),
            (
                stub.IssueEngineCertificate,
                identity_service_pb2.IssueEngineCertificateRequest(csr_der=csr),
            ),
        ):
            with pytest.raises(errors.InvalidRequestError):
                await client.call(call, request, timeout=10)
        issued = await client.call(
            stub.IssueEngineCertificate,
            identity_service_pb2.IssueEngineCertificateRequest(
                csr_der=requests.csr_der(requests.new_key())
            ),
            timeout=10,
        )
    leaf = x509.load_pem_x509_certificate(issued.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert addresses == set(attacker["ip"])
    assert all(victim["id"] not in name for name in names.get_values_for_type(x509.DNSName))


def test_tokens_of_others_give_nothing(shared, guests, endpoints, tmp_path):
    """Also used and invented ones: one answer for all, so that nothing can be learnt."""
    import asyncio
    import json
    import subprocess
    import sys

    attacker, victim = guests
    socket = next((shared.state / "run").rglob("operator.sock"))
    minted = subprocess.run(
        [
            *(sys.executable, "-m", "pki", "--output", "json"),
            *("token", "create", "--instance", attacker["id"], "--socket", str(socket)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert minted.returncode == 0, minted.stderr
    token = json.loads(minted.stdout)[0]["token"]
    trust = IdentityDirectory(tmp_path / "trust")
    trust.store_bundle(IdentityDirectory(shared.state / "operator" / "identity").bundle())

    async def enrol(instance_id: str, token: str, csr: bytes):
        async with client.open_enrolment_channel(
            [endpoints["gateway-enrolment"]], trust
        ) as channel:
            stub = enrolment_service_pb2_grpc.EnrolmentServiceStub(channel)
            request = enrolment_service_pb2.EnrolRequest(
                token=token, csr_der=csr, instance_id=instance_id, boot_id="b"
            )
            return await client.call(stub.Enrol, request, timeout=10)

    def refusal(instance_id: str, token: str) -> tuple[str, str]:
        with pytest.raises(errors.UnauthenticatedError) as caught:
            asyncio.run(enrol(instance_id, token, requests.csr_der(requests.new_key())))
        return caught.value.reason, caught.value.message

    answers = {
        refusal(victim["id"], token),  # foreign
        refusal(str(uuid.uuid4()), token),  # of an instance that is not there
        refusal(victim["id"], token[:-2] + ("AA" if token[-2:] != "AA" else "BB")),  # wrong
    }
    assert asyncio.run(enrol(attacker["id"], token, requests.csr_der(requests.new_key())))
    answers.add(refusal(attacker["id"], token))  # used
    assert len(answers) == 1
    assert answers.pop()[0] == "TOKEN_REFUSED"
