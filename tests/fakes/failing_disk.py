"""A guest's identity on a disk that is full, and in a process that is killed, at every step.

    python -m tests.fakes.failing_disk kills|errors|full DIRECTORY

One process holds an issuer with the real one's rules; each life of the guest is a fork of it with
`os` wrapped, so that every call that changes a file is counted, and one of them is the last, or
fails. Prints how many lives there were; any broken promise is a traceback and status 1.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import itertools
import multiprocessing.connection
import os
import random
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from guestagent.identity import GuestIdentity, Self
from tests.fakes.certificates import TestAuthority
from tests.fakes.guest_gateway import public_key
from trove_grpc import errors, leaves
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.guest.v1 import enrolment_service_pb2, identity_service_pb2
from trove_grpc.tls import IdentityDirectory

INSTANCE, TENANT, TOKEN = "11111111-2222-3333-4444-555555555555", "demo", "token"
RENEWALS = 2
KILLED = 137
# Calls that take space; the others are counted too.
_TAKES_SPACE = frozenset({"open", "mkdir", "symlink", "link", "rename", "write", "fsync"})
_CALLS = (*(_TAKES_SPACE - {"write"}), "replace", "unlink", "rmdir", "fchmod", "chmod", "close")
_PAGE = 4096
_DISK_BYTES = 256 * 1024

Fault = Callable[[int, str, Callable[[], Any]], Any]


class Issuer:
    """What the issuer remembers of one guest, with its rules about keys."""

    def __init__(self, authority: TestAuthority) -> None:
        self._authority = authority
        self._chains: dict[bytes, tuple[bytes, str]] = {}  # key -> chain, serial it replaces
        self._enrolled: bytes | None = None
        self.current = self.pending = ""
        self.renewals = self.asked = 0

    def enrol(self, csr: bytes, _serial: str) -> bytes:
        key = public_key(csr)
        if self._enrolled not in (None, key):
            raise errors.UnauthenticatedError("the token is spent", reason="TOKEN_REFUSED")
        if self._enrolled is None:
            self._enrolled = key
            self.current = self._sign(key, csr, "")
        return self._chains[key][0]

    def renew(self, csr: bytes, serial: str) -> bytes:
        self._admit(serial)
        key = public_key(csr)
        if key in self._chains:
            if self._chains[key][1] != serial:
                raise errors.InvalidRequestError("key reused", reason="CSR_KEY_REUSED")
            return self._chains[key][0]
        self.pending = self._sign(key, csr, serial)
        return self._chains[key][0]

    def confirm(self, _csr: bytes, serial: str) -> bytes:
        self._admit(serial)
        return b""

    def _admit(self, serial: str) -> None:
        if serial == self.pending:
            self.current, self.pending, self.renewals = serial, "", self.renewals + 1
        if serial != self.current:
            raise errors.UnauthenticatedError("superseded", reason="STALE_SERIAL")

    def _sign(self, key: bytes, csr: bytes, replaces: str) -> str:
        chain = self._authority.guest_chain(TENANT, INSTANCE, csr)
        self._chains[key] = chain, replaces
        return leaves.read(chain).serial

    def bundle(self) -> bytes:
        return self._authority.bundle(1 + len(self._chains)).SerializeToString()


class Stub:
    """The issuer as the guest's process reaches it, showing what `slot` holds."""

    def __init__(self, pipe: Any, directory: IdentityDirectory, slot: str = "") -> None:
        self._pipe, self._directory, self._slot = pipe, directory, slot

    def _ask(self, verb: str, csr: bytes) -> Any:
        serial = self._directory.load(self._slot).facts.serial if self._slot else ""
        self._pipe.send((verb, csr, serial))
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def Enrol(self, request: Any, **_: Any) -> Any:
        chain, bundle = self._ask("enrol", request.csr_der)
        return enrolment_service_pb2.EnrolResponse(
            chain_pem=chain, bundle=trust_pb2.TrustBundle.FromString(bundle)
        )

    async def Renew(self, request: Any, **_: Any) -> Any:
        chain, bundle = self._ask("renew", request.csr_der)
        return identity_service_pb2.RenewResponse(
            chain_pem=chain, bundle=trust_pb2.TrustBundle.FromString(bundle)
        )

    async def Confirm(self, _request: Any, **_: Any) -> Any:
        self._ask("confirm", b"")
        return identity_service_pb2.ConfirmResponse()


async def live(root: Path, pipe: Any) -> None:
    """What an agent does with its identity from its start until it was renewed twice."""
    me = Self(instance_id=INSTANCE, boot_id="b", machine_id_hash="m", agent_version="1")
    directory = IdentityDirectory(root / "identity")
    identity = GuestIdentity(directory, root / "token", me)
    directory.tidy()
    token = identity.read_token()
    if not identity.is_usable:
        assert token is not None, "neither an identity nor a token"
        await identity.enrol(token, Stub(pipe, directory))
    if directory.exists("next"):
        await identity.confirm_next(Stub(pipe, directory, "next"))
    identity.forget_token()
    while _renewals(pipe) < RENEWALS:
        await identity.request_next(Stub(pipe, directory, "current"))
        await identity.confirm_next(Stub(pipe, directory, "next"))


def _renewals(pipe: Any) -> int:
    pipe.send(("renewals", b"", ""))
    return int(pipe.recv())


def wrap(fault: Fault) -> list[int]:
    """Let every call that changes a file pass through `fault`; the list's item counts them."""
    count = [0]

    def through(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*arguments: Any, **keywords: Any) -> Any:
            count[0] += 1
            return fault(count[0], name, lambda: real(*arguments, **keywords))

        return call

    class Raw(io.FileIO):
        write = through("write", io.FileIO.write)

    os.fdopen = lambda handle, mode: io.BufferedWriter(Raw(handle, mode))  # type: ignore[assignment]
    for name in _CALLS:
        setattr(os, name, through(name, getattr(os, name)))
    return count


def fork(root: Path, issuer: Issuer, fault: Fault, attempts: int = 1) -> tuple[int, int]:
    """One life of the guest: the process's status and how many calls it made."""
    ours, theirs = multiprocessing.connection.Pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            count = wrap(fault)
            for _ in range(attempts):
                try:
                    asyncio.run(live(root, theirs))
                    status = 0
                    break
                except errors.UnavailableError as error:
                    status = 2 if error.reason == "NOT_STORED" else 1
            theirs.send(("count", str(count[0]).encode(), ""))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    theirs.close()
    calls = _answer(ours, issuer)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), calls


def _answer(pipe: Any, issuer: Issuer) -> int:
    calls = 0
    while True:
        try:
            verb, payload, serial = pipe.recv()
        except EOFError:
            pipe.close()
            return calls
        if verb == "count":
            calls = int(payload)
        elif verb == "renewals":
            pipe.send(issuer.renewals)
        else:
            try:
                issuer.asked += 1
                pipe.send((getattr(issuer, verb)(payload, serial), issuer.bundle()))
            except errors.TroveError as error:
                pipe.send(error)


def healthy(_number: int, _name: str, call: Callable[[], Any]) -> Any:
    return call()


def killed_at(index: int, *, after: bool) -> Fault:
    def fault(number: int, _name: str, call: Callable[[], Any]) -> Any:
        if number != index:
            return call()
        try:
            if after:
                call()
        finally:
            os._exit(KILLED)

    return fault


def full_from(index: int, *, once: bool) -> Fault:
    def fault(number: int, name: str, call: Callable[[], Any]) -> Any:
        is_due = number == index if once else number >= index
        if is_due and name in _TAKES_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call()

    return fault


def check_whole(root: Path, issuer: Issuer) -> None:
    """The newest identity is in force, and nothing lies beside it."""
    directory = IdentityDirectory(root / "identity")
    _check_pair(directory)
    assert directory.load().facts.serial == issuer.current
    assert directory.bundle().version > 0
    names = {path.name for path in directory.root.iterdir()}
    assert names == {"bundle.pb", "current", "previous", "generations", "renewal.json"}, names
    generations = {path.name for path in (directory.root / "generations").iterdir()}
    linked = {(directory.root / slot).readlink().name for slot in ("current", "previous")}
    assert generations == linked, (generations, linked)
    for folder in (directory.root / "generations").iterdir():
        assert {path.name for path in folder.iterdir()} == {"key.pem", "chain.pem"}
    assert not (root / "token").exists()


def _check_pair(directory: IdentityDirectory) -> None:
    material = directory.load()
    key = serialization.load_pem_private_key(material.key_pem, None).public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key.public_bytes(*form) == material.leaf.public_key().public_bytes(*form)


def fresh(root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    (root / "token").write_text(TOKEN)
    return root


def kills(base: Path, authority: TestAuthority) -> int:
    """Killed before and after every call, and the life after that once more."""
    chance = random.Random(4)  # noqa: S311  a repeatable choice
    status, calls = fork(fresh(base / "guest"), Issuer(authority), healthy)
    assert status == 0
    assert calls > 0
    lives = 1
    for index, after in itertools.product(range(1, calls + 1), (False, True)):
        # The second time at the same place or at another, alternately.
        second = index if index % 2 else chance.randrange(1, calls)
        for again in (None, second) if after else (None,):
            root, issuer = fresh(base / "guest"), Issuer(authority)
            status, _ = fork(root, issuer, killed_at(index, after=after))
            assert status == KILLED, (index, after, status)
            if again is not None:
                status, _ = fork(root, issuer, killed_at(again, after=not after))
                assert status in (KILLED, 0), (index, after, again, status)
            status, _ = fork(root, issuer, healthy)
            assert status == 0, (index, after, again)
            check_whole(root, issuer)
            lives += 2 + (again is not None)
    return lives


def fails(base: Path, authority: TestAuthority) -> int:
    """No space at one call, or from one call on; then there is space again."""
    _, calls = fork(fresh(base / "guest"), Issuer(authority), healthy)
    lives = 1
    for index, once in itertools.product(range(1, calls + 1), (False, True)):
        root, issuer = fresh(base / "guest"), Issuer(authority)
        status, _ = fork(root, issuer, full_from(index, once=once), attempts=3)
        assert status in (0, 2), (index, once, status)
        if issuer.renewals:
            _check_pair(IdentityDirectory(root / "identity"))
        status, _ = fork(root, issuer, healthy)
        assert status == 0, (index, once)
        check_whole(root, issuer)
        lives += 2
    return lives


def full(base: Path, authority: TestAuthority) -> int:
    """A real disk with so many pages left, and none in the end."""
    root = base / "disk"
    root.mkdir()
    lives = 0
    for pages in range(2 * _DISK_BYTES // _PAGE // 4):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(root)], check=True
        )
        try:
            (root / "token").write_text(TOKEN)
            issuer = Issuer(authority)
            (root / "ballast").write_bytes(b"x" * (_DISK_BYTES - _PAGE * (pages + 1)))
            status, _ = fork(root, issuer, healthy, attempts=3)
            assert status in (0, 2), (pages, status)
            if status == 2 and issuer.current:
                _check_pair(IdentityDirectory(root / "identity"))
            (root / "ballast").unlink()
            status, _ = fork(root, issuer, healthy)
            assert status == 0, pages
            check_whole(root, issuer)
            lives += 2
        finally:
            subprocess.run(["umount", str(root)], check=True)
    return lives


def main() -> int:
    what = {"kills": kills, "errors": fails, "full": full}[sys.argv[1]]
    sys.stdout.write(f"{what(Path(sys.argv[2]), TestAuthority())}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
