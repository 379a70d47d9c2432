"""What `trovectl doctor` sees on disk, whether anything runs or not."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from trove_grpc import leaves
from trove_grpc.errors import TroveError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import IdentityDirectory
from trovectl import layout, ports, procfs
from trovectl.findings import Finding, error, warning
from trovectl.layout import Layout

_MIB = 1024 * 1024
_NO_SPACE_BYTES = 256 * _MIB
_LITTLE_SPACE_BYTES = 1024 * _MIB
_LITTLE_INODES = 0.01
# Of its life. Services and agents renew with two thirds left, engines with one.
_IDENTITY_OVERDUE = 0.25
_ENGINE_OVERDUE = 0.2
_AUTHORITY_NOTICE = dt.timedelta(days=30)
_CLOCK_TOLERANCE = dt.timedelta(minutes=2)
_SECRETS = (
    "*/identity/generations/*/key.pem",
    "issuer/custody/*",
    "issuer/passphrase",
    "conductor/sealing.key",
    "guests/*/agent/identity/generations/*/key.pem",
    "guests/*/agent/token",
    "guests/*/engine/admin.*",
    "guests/*/engine/server.pem",
)
_ENGINE_CERTIFICATES = ("guests/*/engine/server.pem", "guests/*/engine/*/server.pem")


def permissions(places: Layout) -> Iterator[Finding]:
    """Who may read and write what is ours alone."""
    found = places.state.stat()
    if found.st_uid != os.geteuid():
        yield error(
            "permissions",
            what=f"{places.state} belongs to uid {found.st_uid}, we are {os.geteuid()}",
            why="most of it cannot be looked at, and `trovectl up` would refuse it",
            do="run trovectl as its owner, or choose another --state-dir",
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield error(
            "permissions",
            what=f"{places.state} can be written by others (mode {found.st_mode & 0o777:o})",
            why="they can put programs and keys of their own in the place of ours",
            do=f"chmod go-w {places.state}",
        )
    for pattern in _SECRETS:
        for path in sorted(places.state.glob(pattern)):
            with contextlib.suppress(OSError):
                mode = path.stat().st_mode
                if stat.S_ISREG(mode) and mode & 0o077:
                    yield error(
                        "permissions",
                        what=f"{path} can be read by others (mode {mode & 0o777:o})",
                        why="it is a secret of one user",
                        do=f"chmod 600 {path}; who may have read it decides whether to replace it",
                    )
    if os.geteuid() == 0:
        try:
            layout.check_reachable(places.state)
        except TroveError as problem:
            yield error(
                "permissions",
                what=problem.message,
                why="the processes cannot start as their own users",
                do="choose another --state-dir",
            )


def disk(places: Layout) -> Iterator[Finding]:
    """Room where everything is kept."""
    volume = os.statvfs(places.state)
    free = volume.f_bavail * volume.f_frsize
    if free < _LITTLE_SPACE_BYTES:
        grade = error if free < _NO_SPACE_BYTES else warning
        yield grade(
            "disk",
            what=f"{places.state} has {free // _MIB} MiB left",
            why="a full disk stops the control plane's databases and every local engine",
            do=f"free space, or look at what grows: du -xh --max-depth=2 {places.state}",
        )
    if volume.f_files and volume.f_favail < volume.f_files * _LITTLE_INODES:
        yield warning(
            "disk",
            what=f"{places.state} has {volume.f_favail} files (inodes) left",
            why="without inodes nothing can be created although there is space",
            do="remove small files that nobody needs",
        )


def taken_ports(places: Layout) -> Iterator[Finding]:
    """While nothing runs: ports that the next `up` wants and somebody else has."""
    wanted: list[tuple[str, str, int]] = []
    try:
        saved = json.loads(places.ports.read_text())
        wanted += [(str(name), ports.LOOPBACK, int(port)) for name, port in saved.items()]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, AttributeError, TypeError) as problem:
        yield error(
            "ports",
            what=f"{places.ports} is not readable ({problem})",
            why="`trovectl up` keeps its ports there and will refuse to start",
            do=f"remove {places.ports}; new ports are chosen",
        )
    with contextlib.suppress(OSError, ValueError, KeyError, TroveError):
        settings = tomllib.loads((places.process("api") / "config.toml").read_text())
        wanted.append(("api", *ports.split(settings["listen"])))
    for name, address, port in wanted:
        if not ports.is_free(address, port):
            yield error(
                "ports",
                what=f"port {port} of the {name} is taken by {procfs.holder(address, port)}",
                why="`trovectl up` cannot start",
                do="stop that process, or "
                + (
                    "choose another with --rest-listen"
                    if name == "api"
                    else f"remove {name} from {places.ports}"
                ),
            )


def clock(places: Layout, now: dt.datetime) -> Iterator[Finding]:
    """Whether this machine's clock went back: files from the future."""
    newest, at = None, now + _CLOCK_TOLERANCE
    for path in places.log("any").parent.glob("*.log"):
        with contextlib.suppress(OSError):
            changed = dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
            if changed > at:
                newest, at = path, changed
    if newest is not None:
        yield error(
            "clocks",
            what=f"{newest} was written {_span(at - now)} from now",
            why="the clock went back: new certificates may not be valid yet for their verifiers",
            do="set the clock (timedatectl), then restart: trovectl down; trovectl up",
        )


def certificates(places: Layout, now: dt.datetime) -> Iterator[Finding]:
    """Leaves whose renewal is overdue."""
    for path in sorted(places.state.glob("*/identity/current/chain.pem")):
        name = path.relative_to(places.state).parts[0]
        log = places.log("supervisor" if name == "operator" else name)
        yield from _leaf(f"the {name}", path, now, _IDENTITY_OVERDUE, log)
    for path in sorted(places.guests.glob("*/agent/identity/current/chain.pem")):
        instance = path.relative_to(places.guests).parts[0]
        log = places.log(f"guest-{instance}-agent")
        yield from _leaf(f"the agent of {instance}", path, now, _IDENTITY_OVERDUE, log)
    for pattern in _ENGINE_CERTIFICATES:
        for path in sorted(places.state.glob(pattern)):
            instance = path.relative_to(places.guests).parts[0]
            log = places.log(f"guest-{instance}-agent")
            yield from _leaf(f"the engine of {instance}", path, now, _ENGINE_OVERDUE, log)


def _leaf(
    whose: str, path: Path, now: dt.datetime, overdue: float, log: Path
) -> Iterator[Finding]:
    try:
        facts = leaves.read(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as problem:
        yield warning(
            "certificates",
            what=f"{path} cannot be read ({problem})",
            why="nothing can be said about it",
            do="run trovectl as the owner of the state directory",
        )
        return
    left = facts.not_valid_after - now
    if facts.not_valid_before > now + _CLOCK_TOLERANCE:
        yield error(
            "clocks",
            what=f"the certificate of {whose} is valid only {_span(facts.not_valid_before - now)} "
            "from now",
            why="this machine's clock went back; peers refuse it until then",
            do="set the clock (timedatectl), then restart: trovectl down; trovectl up",
        )
    elif left <= dt.timedelta():
        yield error(
            "certificates",
            what=f"the certificate of {whose} expired {_span(-left)} ago",
            why="its peers refuse it; it was not renewed in time",
            do=f"read the last lines of {log}; `trovectl down` and `up` issue a service a new one",
        )
    elif left < (facts.not_valid_after - facts.not_valid_before) * overdue:
        yield warning(
            "certificates",
            what=f"the certificate of {whose} expires in {_span(left)}; its renewal is overdue",
            why="when it expires, its peers refuse it",
            do=f"see that the issuer runs, and read the last lines of {log}",
        )


def authorities(places: Layout, now: dt.datetime) -> Iterator[Finding]:
    """Certificates of our authorities that end soon."""
    try:
        bundle = IdentityDirectory(places.operator).bundle()
    except TroveError:
        return  # never started
    for authority in bundle.authorities:
        certificate = x509.load_pem_x509_certificate(authority.certificate_pem)
        left = certificate.not_valid_after_utc - now
        if left < _AUTHORITY_NOTICE:
            kind = trust_pb2.AuthorityKind.Name(authority.kind).removeprefix("AUTHORITY_KIND_")
            name = kind.lower().replace("_", " ")
            yield (warning if left > dt.timedelta() else error)(
                "certificates",
                what=f"the authority for {name} ends {certificate.not_valid_after_utc:%F}",
                why="what it signed ends with it",
                do="rotate it; `trove-pki bundle show` lists the authorities",
            )


def _span(duration: dt.timedelta) -> str:
    """For people: 45 s, 12 min, 3 h, 4 days."""
    seconds = int(duration.total_seconds())
    for size, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{seconds} s"
