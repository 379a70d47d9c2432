"""Which instances there are: asked of the conductor, or read from a file it was asked for before.

    {"instance_id": …, "tenant_id": …, "engine_dns_names": […], "engine_ip_addresses": […]}

One JSON object a line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pki.issuer import checks
from trove_grpc.client import PeerChannel, call
from trove_grpc.errors import InvalidRequestError, TroveError
from trove_grpc.gen.conductor.v1 import instance_service_pb2 as pb
from trove_grpc.gen.conductor.v1 import instance_service_pb2_grpc as rpc
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory

_PAGE = 100
_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What the issuer must know of an instance to sign for it."""

    instance_id: str
    tenant_id: str
    engine_dns_names: Sequence[str] = ()
    engine_ip_addresses: Sequence[str] = ()


async def fetch(
    addresses: Sequence[str], identity: IdentityDirectory, domain: str
) -> list[Instance]:
    """Ask the conductor for all instances, as an operator or the API."""
    found: list[Instance] = []
    token = ""
    async with PeerChannel(addresses, identity=identity, server_role=Role.CONDUCTOR) as channel:
        while True:
            answer = await call(
                channel.stub(rpc.InstanceServiceStub).ListInstanceViews,
                pb.ListInstanceViewsRequest(page_size=_PAGE, page_token=token),
                timeout=_TIMEOUT,
                retry=True,
            )
            found += [_from_view(view, domain) for view in answer.instances]
            token = answer.next_page_token
            if not token:
                return found


def read(path: Path) -> list[Instance]:
    """Read a file of instances; raises InvalidRequestError that names the line."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InvalidRequestError(f"{path} does not exist") from error
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_checked(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, TroveError) as error:
            raise InvalidRequestError(
                f"line {number} of {path} is no instance: {error}"
            ) from error
    return found


def _from_view(view: resources_pb2.InstanceView, domain: str) -> Instance:
    return Instance(
        instance_id=view.id,
        tenant_id=view.tenant_id,
        # As the create flow names it.
        engine_dns_names=[f"{view.id}.db.{domain}"],
        engine_ip_addresses=list(view.addresses),
    )


def _checked(fields: Mapping[str, Any]) -> Instance:
    return Instance(
        instance_id=checks.instance_id(fields["instance_id"]),
        tenant_id=checks.tenant_id(fields["tenant_id"]),
        engine_dns_names=checks.dns_names(fields.get("engine_dns_names", [])),
        engine_ip_addresses=checks.ip_addresses(fields.get("engine_ip_addresses", [])),
    )
