"""First identities of services and operators, over the issuer's local socket.

The key is made here and never leaves; the socket's directory decides who may ask.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from pki.requests import new_request
from trove_grpc.client import call, open_local_channel
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb
from trove_grpc.gen.issuer.v1 import issuer_service_pb2_grpc as rpc
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory, KeyMaterial

_TIMEOUT = 10.0


async def enrol_service(socket: Path, role: Role, host: str, identity: IdentityDirectory) -> None:
    """Give `identity` a fresh key and a certificate as `role` on `host`.

    Raises the issuer's refusal, or UnavailableError when nobody listens on `socket`.
    """
    key, request = new_request()
    async with open_local_channel(socket) as channel:
        response = await call(
            rpc.IssuerServiceStub(channel).EnrolService,
            pb.EnrolServiceRequest(role=role, host=host, csr_der=request),
            timeout=_TIMEOUT,
            retry=True,
        )
    identity.install(KeyMaterial(key_pem=key, chain_pem=response.chain_pem), response.bundle)


async def issue_operator(
    socket: Path, name: str, identity: IdentityDirectory, lifetime: dt.timedelta | None = None
) -> None:
    """Give `identity` a fresh key and a certificate as operator `name`."""
    key, request = new_request()
    message = pb.IssueOperatorCertificateRequest(name=name, csr_der=request)
    if lifetime is not None:
        message.lifetime.FromTimedelta(lifetime)
    async with open_local_channel(socket) as channel:
        response = await call(
            rpc.IssuerServiceStub(channel).IssueOperatorCertificate,
            message,
            timeout=_TIMEOUT,
            retry=True,
        )
    identity.install(KeyMaterial(key_pem=key, chain_pem=response.chain_pem), response.bundle)


async def fetch_bundle(socket: Path) -> trust_pb2.TrustBundle:
    """The trust bundle in force."""
    async with open_local_channel(socket) as channel:
        response: pb.GetTrustBundleResponse = await call(
            rpc.IssuerServiceStub(channel).GetTrustBundle,
            pb.GetTrustBundleRequest(),
            timeout=_TIMEOUT,
            retry=True,
        )
    return response.bundle
