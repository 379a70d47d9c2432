"""`custody`: where the CA keys are, whether each fits, and their move to another place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pki.cli.console import Column, Row
from pki.cli.exits import Exit
from pki.cli.grammar import Reach, Verbs
from pki.cli.invocation import Invocation
from pki.cli.plans import Plan, is_agreed

_KINDS = ("files", "barbican")
OK = "OK"
COLUMNS = (
    Column("CUSTODY", "custody"),
    Column("IN USE", "in_use"),
    Column("STATE", "state"),
    Column("KEYS", "keys"),
    Column("LOCATION", "location"),
    Column("DETAIL", "detail"),
)


def register(verbs: Verbs) -> None:
    group = verbs.group("custody", "where the CA keys are")
    group.verb("status", _status, "each custody the settings describe", reach=Reach.CONFIG)
    verify = group.verb(
        "verify", _verify, "read every key and compare it with its certificate", reach=Reach.CONFIG
    )
    verify.add_argument("--of", choices=_KINDS, default="", help="default: the one in use")
    migrate = group.verb(
        "migrate", _migrate, "copy every key to the other custody", reach=Reach.CONFIG
    )
    migrate.add_argument("--to", choices=_KINDS, required=True)
    clear = group.verb(
        "clear",
        _clear,
        "destroy the keys in a custody that is not used any more",
        reach=Reach.CONFIG,
    )
    clear.add_argument("--of", choices=_KINDS, required=True)


def fetch_status(config: Path) -> list[Row]:
    """Each custody the settings describe; what is wrong is in its row."""
    from pki.cli import settings
    from pki.issuer import custody

    return list(custody.status(settings.load(config)))


def _status(invocation: Invocation) -> Exit:
    rows = fetch_status(invocation.options.config)
    invocation.console.show(rows, COLUMNS)
    used = [row for row in rows if row["in_use"]]
    return Exit.OK if all(row["state"] == OK for row in used) else Exit.INTEGRITY


def _verify(invocation: Invocation) -> Exit:
    from pki.cli import settings
    from pki.issuer import custody

    options = invocation.options
    rows = custody.verify(settings.load(options.config), of=options.of)
    invocation.console.show(rows, empty="the database knows no key")
    return Exit.OK if all(row["result"] == OK for row in rows) else Exit.INTEGRITY


def _migrate(invocation: Invocation) -> Exit:
    from pki.cli import settings
    from pki.issuer import custody

    options = invocation.options
    plan = Plan(
        f"copy every CA key to {options.to}",
        options.to,
        [
            "each key is read back from there and compared; where it is now, it stays",
            f"then set custody = {options.to!r} in {options.config} and restart the issuer",
            "last, `trove-pki custody clear` destroys what is not used any more",
        ],
    )
    if not is_agreed(invocation, plan):
        return Exit.OK
    return _show(invocation, custody.migrate(settings.load(options.config), to=options.to))


def _clear(invocation: Invocation) -> Exit:
    from pki.cli import settings
    from pki.issuer import custody

    options = invocation.options
    plan = Plan(
        f"destroy every CA key in {options.of}",
        options.of,
        ["each is read from the custody in use first, and must be the same"],
    )
    if not is_agreed(invocation, plan):
        return Exit.OK
    return _show(invocation, custody.clear(settings.load(options.config), of=options.of))


def _show(invocation: Invocation, rows: Sequence[Row]) -> Exit:
    invocation.console.show(rows, empty="no keys")
    return Exit.OK if rows else Exit.NOTHING_TO_DO
