"""An identity on disk, and gRPC credentials that follow it as it rotates.

    <root>/bundle.pb             trust bundle (trove.common.v1.TrustBundle), replaced atomically
    <root>/generations/<n>/      key.pem (0600), chain.pem (leaf, intermediate)
    <root>/current -> generations/<n>      what connections use
    <root>/next    -> generations/<n+1>    issued, not yet confirmed (guests)
    <root>/previous                        what was current before; for people

A symbolic link is swapped by rename(2), so a reader sees one whole generation or the other, and
a crash between any two file operations leaves the old one in force. Making `next` current
allocates nothing: a disk that has become full cannot prevent it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import grpc

from trove_grpc import leaves
from trove_grpc.errors import UnavailableError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.names import Role, service_dns_name

if TYPE_CHECKING:
    from cryptography import x509

# Whose certificates a verifier accepts: everything still in the bundle and not withdrawn.
_TRUSTED_STATES = frozenset(
    {
        trust_pb2.AUTHORITY_STATE_TRUSTED,
        trust_pb2.AUTHORITY_STATE_ACTIVE,
        trust_pb2.AUTHORITY_STATE_DRAINING,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMaterial:
    """One key pair with its chain, PEM. `repr` shows no key."""

    key_pem: bytes
    chain_pem: bytes

    def __repr__(self) -> str:
        return f"KeyMaterial(serial={self.facts.serial})"

    @property
    def facts(self) -> leaves.Facts:
        """Serial and dates of the leaf."""
        return leaves.read(self.chain_pem)

    @property
    def leaf(self) -> x509.Certificate:
        from cryptography import x509  # noqa: PLC0415  10 MiB that an agent does not need

        return x509.load_pem_x509_certificate(self.chain_pem)


# What the answer to a request for an identity takes on disk, with a margin.
_ROOM_BYTES = 32 * 1024
# What write_atomically leaves when its process is killed; the number is the process's.
_DRAFT = re.compile(r"\..+\.(?P<pid>\d+)\.tmp")

# How long a listener's handshakes wait before its configuration changes (docs/adr/0023). What must
# end meanwhile takes microseconds; the rest is for a machine that is very busy.
SETTLE_SECONDS = 0.2

# What a listener shows, and whom it trusts.
_Served: TypeAlias = "tuple[KeyMaterial, bytes | None]"


def anchors(
    bundle: trust_pb2.TrustBundle, kinds: Collection[trust_pb2.AuthorityKind.ValueType]
) -> bytes:
    """The PEM certificates of the trusted authorities of these kinds, one after the other."""
    return b"".join(
        authority.certificate_pem
        for authority in bundle.authorities
        if authority.kind in kinds and authority.state in _TRUSTED_STATES
    )


def federated_anchors(bundle: trust_pb2.TrustBundle) -> bytes:
    """The PEM roots of other regions, for listeners that tell regions apart at every call."""
    return b"".join(pem for region in bundle.federated for pem in region.root_pems)


class IdentityDirectory:
    """One process's identity on disk. The only writer is the process (or its enroller)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._cached: tuple[str, KeyMaterial] | None = None
        self._cached_bundle: tuple[tuple[int, int], trust_pb2.TrustBundle] | None = None
        # Why the last attempt to store something failed; empty once one succeeded.
        self.problem = ""

    def exists(self, slot: str = "current") -> bool:
        return (self.root / slot / "chain.pem").exists()

    def load(self, slot: str = "current") -> KeyMaterial:
        """Read a slot; raises UnavailableError when there is none."""
        try:
            target = str((self.root / slot).readlink())
            if self._cached is not None and self._cached[0] == target:
                return self._cached[1]
            folder = self.root / target
            material = KeyMaterial(
                key_pem=(folder / "key.pem").read_bytes(),
                chain_pem=(folder / "chain.pem").read_bytes(),
            )
        except OSError as error:
            raise UnavailableError(
                f"no usable identity in {self.root}/{slot}: {error.strerror}; enrol first",
                reason="NO_IDENTITY",
            ) from error
        if slot == "current":
            self._cached = (target, material)
        return material

    def bundle(self) -> trust_pb2.TrustBundle:
        """The trust bundle held now; raises UnavailableError when there is none."""
        path = self.root / "bundle.pb"
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if self._cached_bundle is None or self._cached_bundle[0] != stamp:
                self._cached_bundle = (
                    stamp,
                    trust_pb2.TrustBundle.FromString(path.read_bytes()),
                )
        except OSError as error:
            raise UnavailableError(
                f"no trust bundle at {path}: {error.strerror}; enrol first", reason="NO_IDENTITY"
            ) from error
        return self._cached_bundle[1]

    def store_bundle(self, bundle: trust_pb2.TrustBundle) -> bool:
        """Replace the bundle by a newer one; an older or equal version changes nothing."""
        with contextlib.suppress(UnavailableError):
            if self.bundle().version >= bundle.version:
                return False
        self.store("bundle.pb", bundle.SerializeToString(), mode=0o644)
        return True

    def store(self, name: str, data: bytes, *, mode: int = 0o600) -> None:
        """Create or replace a file beside the generations; raises UnavailableError."""
        with self._storing():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.root / name, data, mode=mode)

    def require_room(self) -> None:
        """Raise UnavailableError unless a new identity finds room.

        Before it is asked for: an answer that cannot be stored may not be given a second time.
        """
        self.store(".room", bytes(_ROOM_BYTES))
        with self._storing():
            (self.root / ".room").unlink()

    def stage(self, material: KeyMaterial) -> None:
        """Write a new generation as `next`; `current` stays in force until `promote`.

        Raises UnavailableError when it cannot be stored; nothing of it stays then.
        """
        generations = self.root / "generations"
        with self._storing():
            try:
                generations.mkdir(mode=0o700, parents=True, exist_ok=True)
                numbers = [int(path.name) for path in generations.iterdir() if path.name.isdigit()]
                folder = generations / str(max(numbers, default=0) + 1)
                folder.mkdir(mode=0o700)
                _sync_directory(generations)
                write_atomically(folder / "key.pem", material.key_pem, mode=0o600)
                write_atomically(folder / "chain.pem", material.chain_pem, mode=0o644)
                _swap_link(self.root / "next", f"generations/{folder.name}")
            except OSError:
                self.tidy()
                raise

    def promote(self) -> None:
        """Make `next` current; the generation before it is kept as `previous`, older ones go.

        Raises UnavailableError when that fails; what was in force then still is.
        """
        with self._storing():
            following = str((self.root / "next").readlink())
            with contextlib.suppress(OSError):  # nobody depends on `previous`
                present = str((self.root / "current").readlink())
                if present != following:
                    _swap_link(self.root / "previous", present)
            (self.root / "next").rename(self.root / "current")
            _sync_directory(self.root)
        self.tidy()

    def discard_next(self) -> None:
        """Give up a staged generation."""
        with self._storing():
            (self.root / "next").unlink(missing_ok=True)
        self.tidy()

    def install(self, material: KeyMaterial, bundle: trust_pb2.TrustBundle) -> None:
        """Stage and promote at once: a first identity, or one that needs no confirmation."""
        self.store_bundle(bundle)
        self.stage(material)
        self.promote()

    def tidy(self) -> None:
        """Remove what killed writers left, as far as possible: drafts, generations unnamed."""
        remove_drafts(self.root)
        with contextlib.suppress(OSError):
            (self.root / ".room").unlink(missing_ok=True)
            kept = set()
            for slot in ("current", "next", "previous"):
                with contextlib.suppress(FileNotFoundError):
                    kept.add((self.root / slot).readlink().name)
            for folder in (self.root / "generations").iterdir():
                if folder.name not in kept:
                    shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problem = (
                f"the identity in {self.root} cannot be stored: {error.strerror}; "
                "see to the disk, what is in force still works"
            )
            raise UnavailableError(self.problem, reason="NOT_STORED") from error
        self.problem = ""


def write_atomically(path: Path, data: bytes, *, mode: int) -> None:
    """Create or replace `path` so that a crash leaves the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def remove_drafts(directory: Path) -> None:
    """Remove the drafts of processes that are gone, as far as possible."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            found = _DRAFT.fullmatch(path.name)
            # A draft of our own number is an earlier process's: we write one at a time.
            if found and (
                int(found["pid"]) == os.getpid() or not Path("/proc", found["pid"]).exists()
            ):
                path.unlink(missing_ok=True)


def _swap_link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    try:
        temporary.rename(link)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(link.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def server_credentials(
    identity: IdentityDirectory,
    trusts: Collection[trust_pb2.AuthorityKind.ValueType],
    *,
    federates: bool = False,
    begun: Callable[[], None] = lambda: None,
    settle: float = SETTLE_SECONDS,
) -> grpc.ServerCredentials:
    """Mutual TLS that accepts clients of these authority kinds only; follows rotation.

    With `federates` a chain to a root of another region finishes a handshake too.
    `begun` is called for each handshake, from any thread: how one ends, nobody is told.
    """

    def material() -> _Served:
        roots = anchors(identity.bundle(), trusts)
        if not roots:
            raise UnavailableError("the trust bundle names no authority for this listener")
        if federates:
            roots += federated_anchors(identity.bundle())
        return identity.load(), roots

    return _following(material, begun=begun, require_client_authentication=True, settle=settle)


def enrolment_server_credentials(
    identity: IdentityDirectory, *, begun: Callable[[], None] = lambda: None
) -> grpc.ServerCredentials:
    """Server-authenticated TLS without client certificates, for the enrolment listener alone."""
    return _following(
        lambda: (identity.load(), None),
        begun=begun,
        require_client_authentication=False,
        settle=SETTLE_SECONDS,
    )


def _following(
    material: Callable[[], _Served],
    *,
    begun: Callable[[], None],
    require_client_authentication: bool,
    settle: float,
) -> grpc.ServerCredentials:
    """Credentials whose every new connection sees what `material` says then.

    gRPC asks before each handshake, one at a time. It is told "unchanged" unless something
    changed: a client may therefore resume a TLS session; that its certificate still holds is
    checked at every call and by a timer for every stream.

    A handshake that has been told "unchanged" takes its reference of the configuration only after
    it has let the next one ask; a change in that moment ends the process. So a change waits
    `settle` seconds in its answer, while nobody else can ask (docs/adr/0023).
    """
    served = material()

    def configuration(of: _Served) -> grpc.ServerCertificateConfiguration:
        key, roots = of
        return grpc.ssl_server_certificate_configuration([(key.key_pem, key.chain_pem)], roots)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        begun()
        # On any failure keep the configuration in force: None means "unchanged".
        with contextlib.suppress(Exception):
            if (present := material()) != served:
                answer = configuration(present)
                time.sleep(settle)  # in a thread of gRPC's own; lets the others run
                served = present
                return answer
        return None

    # types-grpcio does not know that a fetcher may return None.
    return grpc.dynamic_ssl_server_credentials(
        configuration(served),
        fetch,  # type: ignore[arg-type]
        require_client_authentication=require_client_authentication,
    )


def channel_credentials(
    bundle: trust_pb2.TrustBundle, material: KeyMaterial | None
) -> grpc.ChannelCredentials:
    """Verify the server against the root; show `material` if there is one."""
    roots = anchors(bundle, {trust_pb2.AUTHORITY_KIND_ROOT})
    if material is None:
        return grpc.ssl_channel_credentials(roots)
    return grpc.ssl_channel_credentials(roots, material.key_pem, material.chain_pem)


def expected_server(bundle: trust_pb2.TrustBundle, role: Role) -> tuple[str, str]:
    """The channel option that makes TLS demand this service's DNS name."""
    return "grpc.ssl_target_name_override", service_dns_name(bundle.trust_domain, role)
