"""What a request must look like. REST checks form first; here nothing is taken on trust."""

from __future__ import annotations

import re

from conductor.store.quotas import UNLIMITED
from trove_grpc.errors import InvalidRequestError, QuotaExceededError
from trove_grpc.gen.conductor.v1 import instance_service_pb2, resources_pb2
from trove_grpc.identity import TENANT_ID

_TENANT_ID = re.compile(TENANT_ID)
_MAX_PAGE = 100
_DEFAULT_PAGE = 20
_MAX_INT = 2**63 - 1


def require_text(value: str, field: str, *, longest: int = 255, may_be_empty: bool = False) -> str:
    """Text that every database takes; PostgreSQL refuses NUL, and clients show the rest."""
    if not value and not may_be_empty:
        raise InvalidRequestError(f"{field} is required", subject=field)
    if len(value) > longest:
        raise InvalidRequestError(f"{field} is longer than {longest} characters", subject=field)
    if "\x00" in value:
        raise InvalidRequestError(f"{field} contains a NUL character", subject=field)
    return value


def require_tenant(value: str) -> str:
    """A tenant id that fits into a guest's certificate."""
    if not _TENANT_ID.fullmatch(value):
        raise InvalidRequestError(
            "tenant_id must be 1 to 64 of a-z, 0-9, '-' and '_', and begin with a letter or digit",
            subject="tenant_id",
        )
    return value


def require_range(value: int, field: str, *, least: int, most: int = _MAX_INT) -> int:
    if not least <= value <= most:
        raise InvalidRequestError(f"{field} must be at least {least}", subject=field)
    return value


def require_volume_at_most(size_gib: int, largest: int) -> None:
    """Raise QuotaExceededError beyond the largest volume; Trove's words."""
    if largest != UNLIMITED and size_gib > largest:
        raise QuotaExceededError(
            f"Volume 'size' cannot exceed maximum of {largest} GB, {size_gib} cannot be accepted.",
            reason="VOLUME_TOO_LARGE",
        )


def lookup_key(value: str) -> str:
    """An id to look up: one that no row can have finds none, rather than fail in the database."""
    return value.replace("\x00", "")


def page_size(asked: int, *, default: int = _DEFAULT_PAGE, most: int = _MAX_PAGE) -> int:
    """0 means the default, more than the most means the most (as Trove's API)."""
    if asked < 0:
        raise InvalidRequestError("page_size must not be negative", subject="page_size")
    return min(asked or default, most)


def check_create(request: instance_service_pb2.CreateInstanceRequest) -> None:
    """Raise InvalidRequestError for a create that cannot be meant."""
    require_tenant(request.tenant_id)
    require_text(request.request_id, "request_id", may_be_empty=True)
    require_text(request.name, "name")
    check_flavor(request.flavor)
    for value, field in (
        (request.volume_type, "volume_type"),
        (request.datastore, "datastore"),
        (request.datastore_version, "datastore_version"),
        (request.region, "region"),
        (request.availability_zone, "availability_zone"),
    ):
        require_text(value, field, may_be_empty=True)
    for cidr in request.access.allowed_cidrs:
        require_text(cidr, "access.allowed_cidrs")
    require_range(request.volume_size_gib, "volume_size_gib", least=1)
    _check_databases_and_users(request)


def check_flavor(flavor: resources_pb2.Flavor) -> None:
    require_text(flavor.id, "flavor.id")
    require_text(flavor.name, "flavor.name", may_be_empty=True)
    require_range(flavor.ram_mib, "flavor.ram_mib", least=0)
    require_range(flavor.disk_gib, "flavor.disk_gib", least=0)
    require_range(flavor.vcpus, "flavor.vcpus", least=0)


def _check_databases_and_users(request: instance_service_pb2.CreateInstanceRequest) -> None:
    databases = [require_text(item.name, "databases.name") for item in request.databases]
    for item in request.databases:
        require_text(item.character_set, "databases.character_set", may_be_empty=True)
        require_text(item.collation, "databases.collation", may_be_empty=True)
    if len(set(databases)) < len(databases):
        raise InvalidRequestError(
            "Two or more databases share the same name in the initial databases list. "
            "Please correct the names or remove the duplicate entries.",
            subject="databases",
        )
    users = [(require_text(user.name, "users.name"), user.host or "%") for user in request.users]
    if len(set(users)) < len(users):
        raise InvalidRequestError(
            "Two or more users share the same name and host in the initial users list. "
            "Please correct the names or remove the duplicate entries.",
            subject="users",
        )
    for user in request.users:
        for database in user.databases:
            if database not in databases:
                raise InvalidRequestError(
                    f"The request indicates that user {user.name} should have access to database "
                    f"{database}, but database {database} is not included in the initial "
                    "databases list.",
                    subject="users",
                )
