"""Redis's user names; it has no databases by name."""

from __future__ import annotations

from gateway.rest.dialects.rules import Dialect, at_most_bytes
from gateway.rest.passwords import redis_sha_256_verifier

_length_problem = at_most_bytes(64)


def _user_problem(name: str) -> str:
    if not name.isprintable() or " " in name:
        return "has a space or an invisible character, which Redis's access list cannot keep"
    return _length_problem(name)


REDIS = Dialect(
    verifier=redis_sha_256_verifier,
    has_databases=False,
    has_accounts=False,
    user_problem=_user_problem,
    reserved_users=("default",),
    # The agent's own: the administrator, and replication's later.
    reserved_user_prefixes=("os_",),
)
