"""Everything the issuer says of its state, asked once: what `status` shows and `doctor` judges."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass
from typing import Any

from pki.cli import rotation_views
from pki.cli.connection import Issuer
from pki.cli.documents import time_of
from pki.cli.verbs import agents, audit, authorities, bundles, federation, services
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import (
    agent_service_pb2,
    audit_service_pb2,
    authority_service_pb2,
    federation_service_pb2,
    issuer_service_pb2,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The PKI as its issuer sees it."""

    bundle: trust_pb2.TrustBundle
    # The issuer's clock less ours; None when it does not tell.
    clock_difference: dt.timedelta | None
    authorities: list[authority_service_pb2.Authority]
    rotations: list[authority_service_pb2.Rotation]
    agents: list[agent_service_pb2.Agent]
    services: list[authority_service_pb2.Service]
    federations: list[federation_service_pb2.Federation]
    # By serial: when the certificates of services and operators were signed.
    issue_times: dict[str, dt.datetime]
    audit: audit_service_pb2.VerifyAuditResponse


async def take(issuer: Issuer) -> Snapshot:
    before = dt.datetime.now(dt.UTC)
    answer = await bundles.fetch(issuer)
    middle = before + (dt.datetime.now(dt.UTC) - before) / 2
    server_time = time_of(answer, "server_time")
    async with asyncio.TaskGroup() as tasks:
        cas = tasks.create_task(authorities.fetch(issuer))
        rotating = tasks.create_task(rotation_views.fetch(issuer))
        fleet = tasks.create_task(agents.fetch(issuer))
        verification = tasks.create_task(audit.fetch_verification(issuer))
        regions = tasks.create_task(federation.fetch(issuer))
        serving = tasks.create_task(_services(issuer))
    listed, issue_times = serving.result()
    return Snapshot(
        bundle=answer.bundle,
        clock_difference=None if server_time is None else server_time - middle,
        authorities=list(cas.result().authorities),
        rotations=rotating.result(),
        agents=fleet.result(),
        services=listed,
        federations=regions.result(),
        issue_times=issue_times,
        audit=verification.result(),
    )


async def _services(
    issuer: Issuer,
) -> tuple[list[authority_service_pb2.Service], dict[str, dt.datetime]]:
    listed = await services.fetch(issuer)
    found: dict[str, dt.datetime] = {}
    for service in listed:
        request = issuer_service_pb2.ListCertificatesRequest(subject=service.name)
        issued: list[Any] = await issuer.pages(
            issuer.issuer.ListCertificates, request, "certificates"
        )
        for certificate in issued:
            if moment := time_of(certificate, "issue_time"):
                found[certificate.serial] = moment
    return listed, found
