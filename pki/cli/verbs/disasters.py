"""`backup`, `restore`, `rebuild`: on the issuer's own machine, without the issuer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pki.cli import plans
from pki.cli.console import Column
from pki.cli.exits import Exit
from pki.cli.grammar import Reach, Verbs
from pki.cli.invocation import Invocation
from trove_grpc import config

if TYPE_CHECKING:
    from pki.issuer.config import Config

_COLUMNS = (Column("WHAT", "what"), Column("VALUE", "value"))


def register(verbs: Verbs) -> None:
    backup = verbs.group("backup", "the issuer's keys and database in one file")
    create = backup.verb(
        "create", _create, "write an encrypted backup; the issuer may serve", reach=Reach.CONFIG
    )
    create.add_argument("file", type=Path)
    verify = backup.verb(
        "verify", _verify, "check everything that a backup holds", reach=Reach.CONFIG
    )
    verify.add_argument("file", type=Path)

    restore = verbs.verb(
        "restore", _restore, "fill an empty machine from a backup", reach=Reach.CONFIG
    )
    restore.add_argument("file", type=Path)
    restore.add_argument("--verify-only", action="store_true", help="change nothing")

    rebuild = verbs.verb(
        "rebuild", _rebuild, "make the database anew from the keys", reach=Reach.CONFIG
    )
    rebuild.add_argument("--conductor", action="append", default=[], metavar="HOST:PORT")
    rebuild.add_argument(
        "--identity", type=Path, metavar="DIR", help="with --conductor: an operator's identity"
    )
    rebuild.add_argument("--subjects", type=Path, metavar="FILE", help="instances, JSON lines")
    rebuild.add_argument(
        "--audit", action="append", type=Path, default=[], metavar="FILE", help="exported audit"
    )


# `pki.disaster` is imported only here: everything else speaks to the issuer and must not reach a
# CA key.


def _create(invocation: Invocation) -> Exit:
    from pki import disaster  # noqa: PLC0415

    return _show(
        invocation, disaster.backup_create(_settings(invocation), invocation.options.file)
    )


def _verify(invocation: Invocation) -> Exit:
    from pki import disaster  # noqa: PLC0415

    return _show(
        invocation, disaster.backup_verify(_settings(invocation), invocation.options.file)
    )


def _restore(invocation: Invocation) -> Exit:
    from pki import disaster  # noqa: PLC0415

    options = invocation.options
    settings = _settings(invocation)
    if not options.verify_only:
        plan = plans.Plan(
            title=f"restore {options.file}",
            name=settings.trust_domain,
            steps=[
                "check everything the backup holds",
                "fill the empty database and custody; nothing is overwritten",
                "compare it with the exported checkpoints",
            ],
        )
        if not plans.is_agreed(invocation, plan):
            return Exit.OK
    rows = disaster.restore(settings, options.file, verify_only=options.verify_only)
    return _show(invocation, rows)


def _rebuild(invocation: Invocation) -> Exit:
    from pki import disaster  # noqa: PLC0415

    options = invocation.options
    settings = _settings(invocation)
    plan = plans.Plan(
        title="rebuild the database from the keys",
        name=settings.trust_domain,
        steps=[
            "check each key in custody against its certificate",
            "begin a new epoch: guests and services come back as they renew",
            "register the instances that the conductor or the file names",
            "deny again what the exported audit says is denied, and nothing else",
        ],
    )
    if not plans.is_agreed(invocation, plan):
        return Exit.OK
    rows = disaster.rebuild(
        settings,
        subjects_file=options.subjects,
        audit_files=options.audit,
        conductor=options.conductor,
        identity=options.identity,
    )
    return _show(invocation, rows)


def _settings(invocation: Invocation) -> Config:
    from pki.issuer.config import Config  # noqa: PLC0415

    return config.load(
        Config, file=invocation.options.config, environment=os.environ, prefix="TROVE_ISSUER"
    )


def _show(invocation: Invocation, rows: Sequence[Mapping[str, Any]]) -> Exit:
    invocation.console.show([dict(row) for row in rows], _COLUMNS)
    return Exit.OK
