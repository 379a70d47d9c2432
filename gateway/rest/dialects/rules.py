"""What may differ between engines, as far as a request can be judged by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# What is wrong with a name or host, for people ("is longer than …"); empty: nothing.
Judge = Callable[[str], str]


def no_problem(_: str) -> str:
    return ""


def at_most_bytes(limit: int) -> Judge:
    def judge(name: str) -> str:
        return f"is longer than {limit} bytes of UTF-8" if len(name.encode()) > limit else ""

    return judge


def _no_hosts(_: str) -> str:
    return "cannot limit users of this datastore; leave it out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Rules of one engine."""

    # The engine's own verifier of a password.
    verifier: Callable[[str], str]
    # What an engine does not have is refused with Trove's 501.
    has_databases: bool = True
    has_users: bool = True
    # Whether databases, users and root of a running instance can be managed; else 501 too.
    has_accounts: bool = True
    # Whether a user is valid from some hosts only.
    has_hosts: bool = False
    database_problem: Judge = no_problem
    user_problem: Judge = no_problem
    # Of a host that a user is limited to; never asked about "%" and "".
    host_problem: Judge = _no_hosts
    reserved_databases: tuple[str, ...] = ()
    reserved_users: tuple[str, ...] = ()
    reserved_user_prefixes: tuple[str, ...] = ()
    # Whether "Sys" and "sys" are one reserved name.
    reserved_ignore_case: bool = False
    is_character_set: Callable[[str], bool] = lambda _: False
    is_collation: Callable[[str], bool] = lambda _: False
    # Whether a collation is one of a character set; asked when both are given.
    fits: Callable[[str, str], bool] = lambda _set, _collation: True
