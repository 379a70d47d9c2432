"""Cases of the design's list (pki E.3) that stand in other tests, or nowhere yet.

A case that needs a clock, a rotation or a restored database has its own place; here is where. What
is in no test yet says so: this list is printed in docs/security/isolation.md.
"""

from __future__ import annotations

RENEWAL = "tests/integration/pki/test_guest_renewal.py"
RECOVERY = "tests/integration/pki/test_recovery.py"
CUSTODY = "tests/integration/pki/test_custody.py"
INVENTORY = "tests/integration/pki/test_inventory.py"
AUDIT = "tests/integration/pki/test_audit.py"
ROTATIONS = "tests/integration/pki/test_rotations.py"
RPCS = "tests/integration/pki/test_rotation_rpcs.py"
REFUSALS = "tests/integration/gateway_guest/test_refusals.py"
NOT_YET = "not yet"

# Number -> (what it is, where it is tested).
ELSEWHERE: dict[int, tuple[str, str]] = {
    8: (
        "leaves of retired and tainted generations",
        f"denied generations in {REFUSALS}; retired and tainted ones in {RPCS} and {RECOVERY}",
    ),
    24: (
        "certificates of a federated region",
        (
            "another trust domain here; federation: tests/integration/pki/test_federation.py, "
            "tests/unit/trove_grpc/test_identify_federated.py"
        ),
    ),
    44: (
        "enrolment for an instance that Nova shows as off or as another project's",
        f"a deleted one here; Nova's word: {NOT_YET}, with the Nova driver",
    ),
    47: (
        "kill of agent, gateway or issuer between commit, reply and disk",
        f"{RENEWAL}, tests/integration/guestagent/test_recovery.py, tests/chaos",
    ),
    49: ("enrolment and renewal in each phase of a rotation", f"{ROTATIONS}, for a root"),
    52: ("the denial feed is cut", REFUSALS),
    63: (
        "option and shell injection in names sent towards a guest",
        "tests/integration/gateway_rest/test_hostile_requests.py",
    ),
    66: ("key files with wrong modes, owners, links", f"{CUSTODY}; what others may read, here"),
    67: ("Barbican's answers", "tests/openstack/barbican_failures.py, by the real one"),
    68: ("kill -9 at every step of a rotation", "tests/rotation_kills, tests/rotation"),
    70: ("audit rows edited, deleted, reordered, cut off", f"{INVENTORY}, {AUDIT}"),
    71: ("an old database restored", f"{AUDIT}, tests/integration/pki/test_runbooks.py"),
    74: ("clocks that are wrong, and jump", "tests/sleepers/clocks.py"),
    75: (
        "a thousand agents return after days",
        "tests/fleet/mass_return.py, tests/sleepers/whole_installation.py",
    ),
}
# Numbers the list has; it leaves out others.
LISTED = frozenset(
    {
        *range(1, 16), 18, 19, 20, 22, 24, 25, 26, 27, 28, 29, 30, 31, 34, 35, 36, 37, 38, 40, 42,
        44, 45, 47, 48, 49, 51, 52, 53, 55, 57, 58, 59, 61, 62, 63, 65, 66, 67, 68, 70, 71, 73, 74,
        75,
    }
)  # fmt: skip
