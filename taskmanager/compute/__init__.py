"""Where guests run. One small protocol; a driver declares what it can by implementing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.redaction import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """A size an instance may have."""

    id: str
    name: str
    ram_mib: int
    vcpus: int
    disk_gib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """Everything a guest needs to come up and call home."""

    instance_id: str
    tenant_id: str
    manager: str
    enrolment_token: Secret
    trust_bundle: trust_pb2.TrustBundle
    enrolment_endpoints: tuple[str, ...]
    guest_endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A guest as the driver sees it."""

    compute_id: str  # the driver's own name of the server
    address: str
    is_running: bool
    # Whether the agent holds a certificate; None where the driver cannot see into the guest.
    has_identity: bool | None = None


class Compute(Protocol):
    """A compute driver. Every method is idempotent by instance id.

    Raises UnavailableError while the machinery below is away (the caller retries),
    OverloadedError or ConflictError when it refuses.
    """

    async def allocate_address(self, instance_id: str, port: int) -> str:
        """Reserve an IP address whose `port` is free; the same one each time it is asked."""
        ...

    async def ensure_guest(self, spec: GuestSpec) -> Guest:
        """Make sure the guest exists and runs; an unused token is replaced by a newer one."""
        ...

    async def find_guest(self, instance_id: str) -> Guest | None:
        """The guest, or None."""
        ...

    async def remove_guest(self, instance_id: str) -> None:
        """Stop the guest, remove what it owns and free its address; absent is removed."""
        ...

    async def grow_volume(self, instance_id: str, size_gib: int) -> None:
        """Make the guest's volume `size_gib` large, while its engine runs; one that is, stays."""
        ...

    async def list_flavors(self) -> Sequence[Flavor]:
        """The sizes on offer, by id."""
        ...
