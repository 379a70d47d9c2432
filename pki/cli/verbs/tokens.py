"""`token`: one-time enrolment tokens."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

from pki.cli.connection import Issuer
from pki.cli.console import Column, Row
from pki.cli.documents import enum_name, time_of
from pki.cli.exits import Exit
from pki.cli.grammar import Verbs
from pki.cli.invocation import Invocation
from pki.cli.plans import Plan, is_agreed
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb

_STATES = ("open", "used", "void", "expired", "locked")


def register(verbs: Verbs) -> None:
    group = verbs.group("token", "one-time enrolment tokens")
    create = group.verb("create", _create, "a new token; older ones become void")
    instance = create.add_mutually_exclusive_group(required=True)
    instance.add_argument("instance", metavar="INSTANCE", nargs="?", help="whose")
    instance.add_argument("--instance", dest="named", metavar="ID", help="the same, by name")
    create.add_argument("--minutes", type=float, help="at most the issuer's limit")
    add_token_file(create)
    listing = group.verb("list", _list, "newest first, without their secrets")
    listing.add_argument("--instance", default="", metavar="ID")
    listing.add_argument("--state", choices=_STATES)
    revoke = group.verb("revoke", _revoke, "end a token that nobody has used")
    revoke.add_argument("token_id", metavar="TOKEN_ID")


def add_token_file(parser: Any) -> None:
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="put the secret there (mode 0600) and not on standard output",
    )


async def mint(issuer: Issuer, instance_id: str, lifetime: dt.timedelta | None = None) -> Row:
    """A new token of an instance, in the clear."""
    request = pb.MintTokenRequest(instance_id=instance_id)
    if lifetime is not None:
        request.lifetime.FromTimedelta(lifetime)
    answer = await issuer.call(issuer.issuer.MintToken, request, retry=False)
    return {
        "token_id": answer.token_id,
        "instance_id": instance_id,
        "token": answer.token,
        "expire_time": time_of(answer, "expire_time"),
    }


def in_file(row: Row, file: Path | None) -> Row:
    """The row as it is shown: with its secret, or with the file that took it."""
    if file is None:
        return row
    write_secret(file, f"{row['token']}\n")
    return {"token_file": str(file), **{key: row[key] for key in row if key != "token"}}


def write_secret(file: Path, text: str) -> None:
    """Create `file` for this user alone; one that exists is an error, not overwritten."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)


def _create(invocation: Invocation) -> Exit:
    options = invocation.options
    lifetime = None if options.minutes is None else dt.timedelta(minutes=options.minutes)
    instance_id = options.instance or options.named
    row = invocation.ask(lambda issuer: mint(issuer, instance_id, lifetime))
    invocation.console.show([in_file(row, options.token_file)])
    return Exit.OK


def _list(invocation: Invocation) -> Exit:
    options = invocation.options
    found = invocation.ask(
        lambda issuer: issuer.pages(
            issuer.issuer.ListTokens,
            pb.ListTokensRequest(instance_id=options.instance),
            "tokens",
        )
    )
    rows = [_row(token) for token in found]
    wanted = [row for row in rows if options.state in (None, row["state"].lower())]
    columns = [
        Column("TOKEN", "token_id"),
        Column("INSTANCE", "instance_id"),
        Column("STATE", "state"),
        Column("CREATED", "create_time"),
        Column("EXPIRES", "expire_time"),
        Column("FAILED", "failed_attempts"),
        Column("BY", "actor"),
    ]
    invocation.console.show(wanted, columns, empty="no tokens")
    return Exit.OK


def _revoke(invocation: Invocation) -> Exit:
    token_id = invocation.options.token_id
    plan = Plan(f"end token {token_id}", token_id, ["a guest that holds it can enrol no more"])
    if not is_agreed(invocation, plan):
        return Exit.OK
    answer = invocation.ask(
        lambda issuer: issuer.call(
            issuer.issuer.RevokeToken, pb.RevokeTokenRequest(token_id=token_id)
        )
    )
    invocation.console.show([{"token_id": token_id, "was_revoked": answer.was_revoked}])
    return Exit.OK if answer.was_revoked else Exit.NOTHING_TO_DO


def _row(token: pb.TokenView) -> Row:
    return {
        "token_id": token.token_id,
        "instance_id": token.instance_id,
        "state": enum_name(pb.TokenState, token.state, "TOKEN_STATE"),
        "create_time": time_of(token, "create_time"),
        "expire_time": time_of(token, "expire_time"),
        "failed_attempts": token.failed_attempts,
        "actor": token.actor,
    }
