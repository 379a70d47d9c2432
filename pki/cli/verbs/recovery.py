"""`backup`, `restore` and `rebuild`: for the day the issuer's database or its keys are lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pki.cli.console import Column, Row
from pki.cli.exits import CommandError, Exit
from pki.cli.grammar import Reach, Verbs
from pki.cli.invocation import Invocation
from pki.cli.plans import Plan, is_agreed


def register(verbs: Verbs) -> None:
    group = verbs.group("backup", "the issuer's database and keys in one encrypted file")
    create = group.verb(
        "create", _create, "write a backup, also while the issuer serves", reach=Reach.CONFIG
    )
    create.add_argument("file", type=Path, metavar="FILE")
    verify = group.verb(
        "verify", _verify, "decrypt and check everything a backup holds", reach=Reach.CONFIG
    )
    verify.add_argument("file", type=Path, metavar="FILE")
    restore = verbs.verb(
        "restore",
        _restore,
        "fill an empty database and custody from a backup",
        reach=Reach.CONFIG,
    )
    restore.add_argument("file", type=Path, metavar="FILE")
    restore.add_argument("--verify-only", action="store_true", help="change nothing")
    rebuild = verbs.verb(
        "rebuild", _rebuild, "make the database anew from the keys in custody", reach=Reach.CONFIG
    )
    source = rebuild.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--subjects", type=Path, metavar="FILE", help="the instances there are, JSON lines"
    )
    source.add_argument(
        "--conductor", action="append", default=[], metavar="HOST:PORT", help="ask it for them"
    )
    rebuild.add_argument(
        "--identity",
        type=Path,
        metavar="DIR",
        help="with --conductor: an operator's identity; else the keys make one of an hour",
    )
    rebuild.add_argument(
        "--audit",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="`audit export` wrote it: what it says is denied is denied again; may be repeated",
    )


def _create(invocation: Invocation) -> Exit:
    from pki import disaster
    from pki.cli import settings

    options = invocation.options
    if options.file.exists():
        raise CommandError(Exit.REFUSED, f"{options.file} exists already: a backup replaces none")
    plan = Plan(f"write a backup to {options.file}", str(options.file))
    if options.dry_run and not is_agreed(invocation, plan):
        return Exit.OK
    return _show(invocation, disaster.backup_create(settings.load(options.config), options.file))


def _verify(invocation: Invocation) -> Exit:
    from pki import disaster
    from pki.cli import settings

    options = invocation.options
    return _show(invocation, disaster.backup_verify(settings.load(options.config), options.file))


def _restore(invocation: Invocation) -> Exit:
    from pki import disaster
    from pki.cli import settings

    options = invocation.options
    loaded = settings.load(options.config)
    if options.verify_only:
        return _show(invocation, disaster.restore(loaded, options.file, verify_only=True))
    plan = Plan(
        f"restore {options.file}",
        options.file.name,
        [
            "database and custody must be empty: nothing is replaced",
            "what was issued and denied since the backup is unknown afterwards",
            "the issuer stays sealed if a newer checkpoint is known, until `trove-pki rebuild`",
        ],
    )
    if not is_agreed(invocation, plan):
        return Exit.OK
    return _show(invocation, disaster.restore(loaded, options.file))


def _rebuild(invocation: Invocation) -> Exit:
    from pki import disaster
    from pki.cli import settings

    options = invocation.options
    loaded = settings.load(options.config)
    plan = Plan(
        f"rebuild the PKI of {loaded.trust_domain} from its keys",
        loaded.trust_domain,
        [
            "a new epoch begins: certificates from before it may only be renewed",
            f"denials are replayed from {len(options.audit)} exported files of the audit",
            "what was denied and not exported is not denied afterwards",
        ],
    )
    if not is_agreed(invocation, plan):
        return Exit.OK
    rows = disaster.rebuild(
        loaded,
        subjects_file=options.subjects,
        audit_files=options.audit,
        conductor=options.conductor,
        identity=options.identity,
    )
    return _show(invocation, rows)


def _show(invocation: Invocation, rows: Sequence[Row]) -> Exit:
    """What a person is told, line by line."""
    invocation.console.show(rows, [Column("WHAT", "what"), Column("", "value")])
    return Exit.OK
