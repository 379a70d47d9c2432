"""Parts of rotations that need no database: what is counted, set and asked for."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from pki.issuer.config import Config
from pki.issuer.rotations import Wanted
from pki.issuer.tally import MOST_NAMES, RenewalTally
from trove_grpc.errors import (
    ConflictError,
    InvalidRequestError,
    OverloadedError,
    TroveError,
    UnavailableError,
)

SECOND = dt.timedelta(seconds=1)
BROKEN = UnavailableError("no active guest authority")


def test_failures_of_one_guest_count_once_however_often_it_tries() -> None:
    tally = RenewalTally()
    for _ in range(100):
        tally.failed("guest-1", BROKEN)
    tally.failed("guest-2", BROKEN)
    assert tally.take() == (0, 2)
    tally.failed("guest-1", BROKEN)
    assert tally.take() == (0, 0)


def test_certificates_that_nobody_issued_cost_bounded_memory() -> None:
    tally = RenewalTally()
    for number in range(MOST_NAMES + 100):
        tally.failed(f"garbage-{number}", BROKEN)
    assert tally.take() == (0, MOST_NAMES)
    tally.failed("more-garbage", BROKEN)
    assert tally.take() == (0, 0)


@pytest.mark.parametrize(
    "error",
    [
        ConflictError("old", reason="STALE_SERIAL"),
        ConflictError("gone", reason="INSTANCE_RETIRED"),
        InvalidRequestError("no CSR"),
        OverloadedError("too many"),
    ],
)
def test_what_a_guest_brings_about_itself_is_no_failure_of_a_rotation(error: TroveError) -> None:
    tally = RenewalTally()
    tally.failed("guest-1", error)
    assert tally.take() == (0, 0)


def test_next_rotation_begins_with_a_clean_sheet() -> None:
    tally = RenewalTally()
    tally.renewed()
    tally.failed("guest-1", BROKEN)
    tally.reset()
    tally.failed("guest-1", BROKEN)
    assert tally.take() == (0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"rotation_ack_share": 1.5},
        {"rotation_error_share": 2.0},
        {"rotation_canary_share": 1.1},
        {"rotation_poll": 60 * SECOND, "rotation_lease": 60 * SECOND},
        {"rotation_bundle_poll": 20 * SECOND, "service_liveness": 10 * SECOND},
        {"rotation_soak": 0 * SECOND},
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        Config(
            identity=Path("identity"),
            operator_socket=Path("socket"),
            database_url="sqlite:///pki.db",
            custody_directory=Path("custody"),
            passphrase_file=Path("passphrase"),
            **changes,  # type: ignore[arg-type]
        )


def test_root_claims_the_intermediates_below_it_and_leaves_their_own() -> None:
    assert Wanted(kind="ROOT", authority="root").claims == {"root", "guest", "service", "operator"}
    assert Wanted(kind="ROOT", authority="database-root").claims == {"database-root", "database"}
    assert Wanted(kind="INTERMEDIATE", authority="guest").claims == {"guest"}
    assert Wanted(kind="LEAF").claims == {"guest"}
    assert Wanted(kind="SERVICE").claims == {"service"}
