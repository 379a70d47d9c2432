"""One promise broken, and who must notice."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One textual change and the tests that must notice it."""

    promise: str
    file: str
    old: str
    new: str
    tests: str  # pytest's arguments, as a shell would split them
    then: tuple[str, ...] = ()  # command to run after the change, for derived files


HOUSE = "tests/unit/house/test_house.py"
LISTENERS = "tests/integration/trove_grpc/test_listeners.py"
IDENTIFY = "tests/unit/trove_grpc/test_identify.py"
FEDERATED = "tests/unit/trove_grpc/test_identify_federated.py"
AUTHENTICATOR = "tests/unit/trove_grpc/test_authenticator.py"
NAMES = "tests/unit/trove_grpc/test_identity_names.py"
TABLE = "tests/unit/trove_grpc/test_authorization.py"
# The issuer's rules, on the database that needs no server.
TOKENS = "tests/integration/pki/test_enrolment_tokens.py -k 'not postgresql and not mariadb'"
RENEWAL = "tests/integration/pki/test_guest_renewal.py -k 'not postgresql and not mariadb'"
# Of a rotation's phases the recovery's own module is asked; here is what one issuer judges.
RECOVERY = (
    "tests/integration/pki/test_recovery.py -k 'not postgresql and not mariadb and not rotation'"
)
INVENTORY = "tests/integration/pki/test_inventory.py -k 'not postgresql and not mariadb'"
ISSUER = "tests/integration/pki/test_issuer_process.py"
CSR = "tests/unit/pki/test_csr.py"
NONCES = "tests/unit/pki/test_nonces.py"
DENIALS = "tests/unit/pki/test_denial_list.py tests/unit/pki/test_small_parts.py"
REFUSALS = "tests/integration/gateway_guest/test_refusals.py"
SESSIONS = "tests/integration/gateway_guest/test_sessions.py"
FIRST = "tests/integration/gateway_guest/test_identity.py"


def removed(
    promise: str, file: str, old: str, tests: str, *, new: str = "", then: tuple[str, ...] = ()
) -> Mutation:
    """A check taken out: by default nothing is in its place."""
    return Mutation(promise=promise, file=file, old=old, new=new, tests=tests, then=then)
