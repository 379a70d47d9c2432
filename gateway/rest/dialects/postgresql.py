"""PostgreSQL's names, encodings and locales."""

from __future__ import annotations

import re

from gateway.rest.dialects.rules import Dialect, at_most_bytes
from gateway.rest.passwords import scram_sha_256_verifier

# Encodings a PostgreSQL server may use (documentation, table 24.3), without what it ignores in
# names: case and everything but letters and digits.
_ENCODING = re.compile(
    r"euc(cn|jp|jis2004|kr|tw)|iso8859[5-8]|koi8[ru]|latin([1-9]|10)|muleinternal|sqlascii"
    r"|utf8|unicode|win(866|874|125[0-8])"
)
# A locale of the operating system; which ones are installed only the guest knows.
_LOCALE = re.compile(
    r"(C|POSIX|[a-z]{2,3}_[A-Z]{2})(\.[A-Za-z0-9-]{1,16})?(@[a-z]{1,16})?", re.ASCII
)
_name_problem = at_most_bytes(63)  # NAMEDATALEN - 1; a longer name would be cut off silently


def _is_encoding(name: str) -> bool:
    return _ENCODING.fullmatch(re.sub("[^a-z0-9]", "", name.lower())) is not None


POSTGRESQL = Dialect(
    verifier=scram_sha_256_verifier,
    database_problem=_name_problem,
    user_problem=_name_problem,
    reserved_databases=("os_admin", "postgres", "template0", "template1"),
    # Trove's own list, then what CREATE ROLE refuses.
    reserved_users=("os_admin", "postgres", "root", "replicator", "public", "none"),
    reserved_user_prefixes=("pg_",),
    is_character_set=_is_encoding,
    is_collation=lambda name: _LOCALE.fullmatch(name) is not None,
)
