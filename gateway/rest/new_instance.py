"""POST /instances: from the request's fields to the conductor's request.

Form is judged here, meaning (quota, datastore, volume limit) by the conductor. What Trove knows
and this control plane does not do yet is refused as Trove refuses what it cannot do: a request
is never fulfilled in part.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from gateway.rest import accounts
from gateway.rest.accounts import MAX_DATABASES, MAX_USERS
from gateway.rest.dialects import Dialect
from gateway.rest.fields import Fields, invalid, kind_of, shown
from trove_grpc.errors import InvalidRequestError, NotFoundError, UnsupportedError
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.taskmanager.v1 import task_manager_service_pb2

MAX_CIDRS = 100
MAX_MODULES = 100
MAX_REPLICAS = 3
# A size no volume has; larger numbers would not fit the message to the conductor.
_MAX_VOLUME_GIB = 1_000_000_000
_LOCALITIES = ("affinity", "soft-affinity", "anti-affinity", "soft-anti-affinity")
NIC_KEYS = ("net-id", "network_id", "subnet_id", "ip_address")
_CIDR = re.compile(r"([0-9]{1,3}\.){3}[0-9]{1,3}(/[0-9]{1,2})?", re.ASCII)


def check_unsupported(instance: Fields, *, region: str) -> None:
    """Refuse what would change the instance's meaning and cannot be had."""
    _check_replica(instance)
    if restore := instance.object("restorePoint"):
        # No backup exists yet, so that each one named is unknown.
        raise not_found(restore.required_text("backupRef"))
    for module in instance.objects("modules", most=MAX_MODULES):
        raise NotFoundError(f"Module with ID {module.required_text('id')} could not be found.")
    _check_nics(instance)
    if (asked := instance.text("region_name", nullable=True)) and asked != region:
        raise InvalidRequestError(
            f"Region {shown(asked)} is not served here; use {region!r} or leave out "
            "instance.region_name."
        )


def read_name(instance: Fields) -> str:
    name = instance.required_text("name")
    if not any(character.isalnum() for character in name):
        raise invalid(instance.at("name"), "must contain at least one letter or digit")
    return name


def choose_flavor(
    instance: Fields, flavors: Iterable[task_manager_service_pb2.Flavor]
) -> resources_pb2.Flavor:
    """The flavor named by id, or by a URL that ends in one; openstacksdk says `flavor`."""
    field = "flavor" if "flavor" in instance and "flavorRef" not in instance else "flavorRef"
    value = instance.raw(field)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 1 << 63 else "of that number"
    elif value is not None:
        value = instance.required_text(field).rstrip("/").rpartition("/")[2]
    for flavor in flavors:
        if flavor.id == value:
            return resources_pb2.Flavor(
                id=flavor.id,
                name=flavor.name,
                ram_mib=flavor.ram_mib,
                vcpus=flavor.vcpus,
                disk_gib=flavor.disk_gib,
            )
    # 400, not 404: it is the request that is wrong, not its address.
    raise InvalidRequestError(
        f"Resource {value} cannot be found. Set flavorRef to the id of a flavor "
        "(GET /flavors lists them).",
        reason="FLAVOR_UNKNOWN",
    )


def read_volume(instance: Fields) -> tuple[int, str]:
    """Size in GiB and type ("" for the default)."""
    volume = instance.object("volume")
    if volume is None:
        raise InvalidRequestError(
            "Volume size was not specified. Set instance.volume.size in GiB."
        )
    return read_volume_size(volume), volume.text("type", nullable=True)


def read_volume_size(volume: Fields) -> int:
    size = volume.integer("size", least=1)
    if size > _MAX_VOLUME_GIB:
        raise InvalidRequestError(
            f"Volume 'size' cannot exceed {_MAX_VOLUME_GIB} GB.", reason="VOLUME_TOO_LARGE"
        )
    return size


def read_configuration(instance: Fields) -> str:
    """The id of the group to attach; Trove's schema has one name for it, its code another."""
    for name in ("configuration", "configuration_id"):
        if instance.raw(name) is not None:
            return instance.required_text(name)
    return ""


def read_access(instance: Fields) -> resources_pb2.Access | None:
    access = instance.object("access")
    if access is None:
        return None
    cidrs = access.array("allowed_cidrs", most=MAX_CIDRS)
    for index, cidr in enumerate(cidrs):
        _check_cidr(cidr, f"{access.at('allowed_cidrs')}[{index}]")
    return resources_pb2.Access(is_public=bool(access.boolean("is_public")), allowed_cidrs=cidrs)


def names_databases_or_users(instance: Fields) -> bool:
    databases = instance.array("databases", most=MAX_DATABASES)
    return bool(databases or instance.array("users", most=MAX_USERS))


def read_databases(instance: Fields, dialect: Dialect) -> list[engine_pb2.DatabaseSpec]:
    databases = [
        accounts.read_database(item, dialect)
        for item in instance.objects("databases", most=MAX_DATABASES)
    ]
    if databases and not dialect.has_databases:
        raise UnsupportedError(
            "This datastore has no databases by name; leave out instance.databases."
        )
    if len({database.name for database in databases}) < len(databases):
        raise InvalidRequestError(
            "Two or more databases share the same name in the initial databases list. "
            "Please correct the names or remove the duplicate entries."
        )
    return databases


def read_users(
    instance: Fields, dialect: Dialect, databases: Sequence[engine_pb2.DatabaseSpec]
) -> list[engine_pb2.UserSpec]:
    """The users with verifiers; the passwords end here."""
    known = {database.name for database in databases}
    read: list[tuple[engine_pb2.UserSpec, str]] = []
    for item in instance.objects("users", most=MAX_USERS):
        user = accounts.read_user(item, dialect)
        _check_granted(user, known)
        same = [other for other, _ in read if other.name == user.name]
        if any((other.host or "%") == (user.host or "%") for other in same):
            raise InvalidRequestError(
                f"Two or more users share the name {shown(user.name)} in the initial users list. "
                "Please correct the names or remove the duplicate entries."
            )
        read.append((user, item.required_text("password")))
    if read and not dialect.has_users:
        raise UnsupportedError("This datastore has no users to create; leave out instance.users.")
    # Key derivation costs, so that it comes after everything that may refuse the request.
    for user, password in read:
        user.verifier = dialect.verifier(password)
    return [user for user, _ in read]


def not_found(identifier: str) -> NotFoundError:
    return NotFoundError(f"Resource {identifier} cannot be found.")


def _check_granted(user: engine_pb2.UserSpec, known: set[str]) -> None:
    for database in user.databases:
        if database not in known:
            raise InvalidRequestError(
                f"The request indicates that user {user.name} should have access to database "
                f"{database}, but database {database} is not included in the initial databases "
                "list."
            )


def _check_replica(instance: Fields) -> None:
    count = instance.integer("replica_count", least=1) if "replica_count" in instance else 0
    if count > MAX_REPLICAS:
        raise invalid(
            instance.at("replica_count"), f"is greater than the maximum of {MAX_REPLICAS}"
        )
    if instance.raw("slave_of") is not None:
        raise invalid(instance.at("slave_of"), "is not known; name the primary in replica_of")
    locality = instance.raw("locality")
    if locality is not None and locality not in _LOCALITIES:
        raise InvalidRequestError(f"Invalid locality. Must be one of {list(_LOCALITIES)}")
    if instance.raw("replica_of") is None:
        if count > 1:
            raise InvalidRequestError(
                "Replica count only valid when creating replicas. "
                f"Cannot create {count} instances."
            )
        if locality is not None:
            raise UnsupportedError("Locality is not supported by this deployment; leave it out.")
        return
    instance.required_text("replica_of")
    forbidden = {
        "flavorRef": "flavor",
        "datastore": "datastore",
        "volume": "volume",
        "locality": "locality",
        "users": "users",
        "databases": "databases",
    }
    for key, noun in forbidden.items():
        if instance.raw(key) is not None:
            raise InvalidRequestError(f"Cannot specify {noun} when creating replicas.")
    raise UnsupportedError("Replicas are not supported by this deployment yet.")


def _check_nics(instance: Fields) -> None:
    given = False
    for nic in instance.objects("nics", most=1):
        nic.only(*NIC_KEYS)
        for key in NIC_KEYS:
            nic.text(key)
        given = True
    if given:
        raise UnsupportedError(
            "This deployment has no tenant networks to attach; leave out instance.nics."
        )


def _check_cidr(cidr: object, path: str) -> None:
    if not isinstance(cidr, str):
        raise invalid(path, f"must be a string, not {kind_of(cidr)}")
    try:
        # ipaddress knows netmasks too ("10.0.0.0/255.0.0.0"); Trove does not.
        valid = bool(_CIDR.fullmatch(cidr) and ipaddress.IPv4Network(cidr, strict=False))
    except ValueError:
        valid = False
    if not valid:
        raise invalid(path, "is not an IPv4 network such as 10.0.0.0/8")
