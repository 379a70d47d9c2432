"""`doctor`: what is wrong with the PKI, why that matters, and what to do."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from pki.cli import snapshot, verdicts
from pki.cli.exits import Exit, status_of
from pki.cli.findings import Finding, Level, error, warning
from pki.cli.grammar import Verbs
from pki.cli.invocation import Invocation
from pki.cli.verbs import custody
from trove_grpc.errors import DeadlineError, TroveError, UnavailableError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def register(verbs: Verbs) -> None:
    doctor = verbs.verb(
        "doctor", _doctor, "what is wrong, why that matters, and what to do; changes nothing"
    )
    doctor.add_argument(
        "--config", type=Path, help="the issuer's TOML file, on its host: looks at its keys too"
    )


def _doctor(invocation: Invocation) -> Exit:
    options = invocation.options
    found = [] if options.identity is None else list(own_identity(options.identity))
    if options.config is not None:
        found += keys(options.config)
    status = Exit.OK
    try:
        seen = invocation.ask(snapshot.take)
    except (UnavailableError, DeadlineError) as problem:
        found.append(_away(problem))
        status = status_of(problem)
    else:
        found += verdicts.judge(seen, invocation.now)
    _show(invocation, found)
    if status is Exit.OK and any(each.level is Level.ERROR for each in found):
        return Exit.ERROR
    return status


def _away(problem: TroveError) -> Finding:
    return error(
        "issuer",
        what=f"the issuer does not answer: {problem.message}",
        why="nothing can be renewed or revoked; what is valid works on until it expires",
        do="look whether it runs, and read its log; --socket or --issuer names another",
    )


def own_identity(directory: Path) -> Iterator[Finding]:
    """Whether our own key is for us alone."""
    key = directory / "current" / "key.pem"
    for path in (directory, key):
        try:
            facts = path.stat()
        except OSError as problem:
            yield error(
                "keys",
                what=f"cannot look at {path}: {problem.strerror}",
                why="without it nobody knows who we are",
                do="trove-pki operator issue, on the issuer's host",
            )
            return
        if facts.st_mode & _OTHERS:
            mode = "0700" if path is directory else "0600"
            yield error(
                "keys",
                what=f"{path} is open to others",
                why="whoever reads the key acts as this operator",
                do=f"chmod {mode} {path}; deny the key if somebody else was on this host",
            )
        elif facts.st_uid != os.geteuid():
            yield error(
                "keys",
                what=f"{path} belongs to uid {facts.st_uid}",
                why="its owner may read and replace the key",
                do=f"chown it, or use an identity of your own: {directory}",
            )
    if not os.access(key, os.R_OK):
        yield error(
            "keys",
            what=f"{key} cannot be read",
            why="without it nobody knows who we are",
            do="run as its owner",
        )


def keys(config: Path) -> Iterator[Finding]:
    """Whether the CA keys can be read, and by nobody else."""
    for row in custody.fetch_status(config):
        if row["state"] == custody.OK:
            continue
        judge = error if row["in_use"] else warning
        yield judge(
            "custody",
            what=f"{row['custody']} at {row['location']}: {row['detail']}",
            why="the issuer goes on with what it has read; it cannot start again, nor rotate",
            do=f"trove-pki custody verify --config {config}, once that is mended",
        )


def _show(invocation: Invocation, found: Sequence[Finding]) -> None:
    console = invocation.console
    if not console.is_for_people:
        console.document([dataclasses.asdict(each) for each in found])
        return
    if not found:
        console.line("all is well")
    for each in found:
        console.line(f"{each.level.upper()}  {each.check}: {each.what}")
        console.line(f"  why: {each.why}")
        console.line(f"  do:  {each.do}")
