"""Rotations from beginning to end, on each database, at a time the test chooses."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.x509 import verification

from pki.issuer import progress
from pki.models import Certificate
from pki.store import audit, rotations
from tests.integration.pki.conftest import Desk
from tests.integration.pki.rotation_desk import SECOND, Fleet
from trove_grpc.errors import ConflictError, InvalidRequestError

INTERMEDIATES = ["guest", "service", "operator", "database"]
BEFORE_SWITCH = ["PLANNED", "KEY_CREATED", "CERTIFICATE_SIGNED", "DISTRIBUTING", "READY"]


@pytest.fixture
def fleet(desk: Desk) -> Fleet:
    fleet = Fleet(desk)
    fleet.populate()
    return fleet


@pytest.fixture
def sqlite_fleet(fleet: Fleet) -> Fleet:
    if fleet.desk.store.engine.dialect.name != "sqlite":
        pytest.skip("what this shows is the same on every database")
    return fleet


def generation_of_newcomer(fleet: Fleet) -> int:
    """The generation that signs for an instance that is enrolled now, and deleted again."""
    instance_id, certificate = fleet.desk.enrolled()
    fleet.desk.retire(instance_id)
    return certificate.generation


def drain_operators(fleet: Fleet) -> None:
    """Operators do not renew: their short certificates end."""
    fleet.desk.now += fleet.desk.config.operator_lifetime


def verify_server(fleet: Fleet, shown: Certificate, root_pem: bytes) -> None:
    """As a client does that knows this root alone."""
    leaf, *between = x509.load_pem_x509_certificates(shown.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    store = verification.Store([x509.load_pem_x509_certificate(root_pem)])
    verifier = verification.PolicyBuilder().store(store).time(fleet.desk.now)
    name = x509.DNSName(names.get_values_for_type(x509.DNSName)[0])
    verifier.build_server_verifier(name).verify(leaf, between)


@pytest.mark.parametrize("authority", INTERMEDIATES)
def test_intermediate_is_rotated_until_its_old_key_is_destroyed(
    fleet: Fleet, authority: str
) -> None:
    desk, rotation = fleet.desk, fleet.start("INTERMEDIATE", authority)
    if authority == "operator":
        fleet.run_until(rotation, "REISSUING")
        drain_operators(fleet)
    fleet.run_until(rotation, "RETIRED")
    assert fleet.states(authority) == {1: "RETIRED", 2: "ACTIVE"}
    assert set(desk.custody.keys) >= {f"{authority}-g1", f"{authority}-g2"}

    desk.now += desk.config.key_hold
    fleet.tick(fleet.rotator())
    assert fleet.states(authority) == {1: "DESTROYED", 2: "ACTIVE"}
    assert f"{authority}-g1" not in desk.custody.keys
    assert desk.store.run_now(audit.first_bad_sequence) is None


@pytest.mark.parametrize(
    ("authority", "children"),
    [("root", ["guest", "service", "operator"]), ("database-root", ["database"])],
)
def test_root_is_rotated_with_the_intermediates_below_it(
    fleet: Fleet, authority: str, children: list[str]
) -> None:
    rotation = fleet.start("ROOT", authority)
    fleet.run_until(rotation, "REISSUING")
    fleet.follow()
    is_database = authority == "database-root"
    shown = fleet.guests[0].engine if is_database else fleet.services[0].certificate
    assert shown.generation == 2
    for generation in (1, 2):
        verify_server(fleet, shown, fleet.certificate_of(authority, generation).certificate_pem)
    drain_operators(fleet)
    fleet.run_until(rotation, "RETIRED")
    for kind in (authority, *children):
        assert fleet.states(kind) == {1: "RETIRED", 2: "ACTIVE"}
    assert fleet.certificate_of(authority, 2).cross_certificate_pem
    for kind in children:
        assert fleet.certificate_of(kind, 2).signed_by_generation == 2


def test_a_root_whose_key_is_lost_is_replaced_without_a_cross_certificate(
    sqlite_fleet: Fleet,
) -> None:
    fleet = sqlite_fleet
    del fleet.desk.custody.keys["root-g1"]
    rotation = fleet.start("ROOT", "root")
    fleet.run_until(rotation, "REISSUING")
    drain_operators(fleet)
    fleet.run_until(rotation, "RETIRED")
    for kind in ("root", "guest", "service", "operator"):
        assert fleet.states(kind) == {1: "RETIRED", 2: "ACTIVE"}
    assert fleet.certificate_of("root", 2).cross_certificate_pem is None


def test_leaves_of_named_agents_are_renewed_and_no_others(fleet: Fleet) -> None:
    first, second, _third = fleet.guests
    before = {each.instance_id: each.certificate.serial for each in fleet.guests}
    fleet.desk.now += SECOND
    rotation = fleet.start("LEAF", instance_ids=(first.instance_id, second.instance_id))
    fleet.run_until(rotation, "RETIRED")
    changed = [
        each for each in fleet.guests if each.certificate.serial != before[each.instance_id]
    ]
    assert changed == [first, second]
    assert fleet.states("guest") == {1: "ACTIVE"}


def test_services_renew_under_their_present_authority(fleet: Fleet) -> None:
    before = fleet.services[0].certificate.serial
    fleet.desk.now += SECOND
    rotation = fleet.start("SERVICE")
    fleet.run_until(rotation, "RETIRED")
    assert fleet.services[0].certificate.serial != before
    assert fleet.states("service") == {1: "ACTIVE"}


def test_nothing_signs_with_the_new_generation_before_consent(sqlite_fleet: Fleet) -> None:
    fleet = sqlite_fleet
    rotation = fleet.start("INTERMEDIATE", "guest", is_automatic=False)
    fleet.run_until(rotation, "READY")
    fleet.desk.now += dt.timedelta(hours=1)
    fleet.tick(fleet.rotator(), 3)
    assert fleet.phase(rotation) == "READY"
    assert generation_of_newcomer(fleet) == 1

    fleet.advance(rotation, "SWITCHED")
    fleet.run_until(rotation, "DRAINED")
    fleet.tick(fleet.rotator(), 3)
    assert fleet.phase(rotation) == "DRAINED"
    fleet.advance(rotation, "RETIRED")
    fleet.run_until(rotation, "RETIRED")


def test_bundle_that_a_service_lacks_holds_the_rotation_back(sqlite_fleet: Fleet) -> None:
    fleet = sqlite_fleet
    rotation, rotator = fleet.start("INTERMEDIATE", "guest"), fleet.rotator()
    fleet.tick(rotator, 3)
    fleet.take_bundle()
    fleet.services[0].held_bundle_version -= 1
    fleet.see()
    fleet.tick(rotator, 3)
    assert fleet.phase(rotation) == "DISTRIBUTING"
    fleet.take_bundle()
    fleet.see()
    fleet.tick(rotator)
    assert fleet.phase(rotation) == "READY"


def test_service_that_is_silent_is_not_waited_for(sqlite_fleet: Fleet) -> None:
    fleet = sqlite_fleet
    fleet.services[0].held_bundle_version = 0
    fleet.desk.now += fleet.desk.config.service_liveness + SECOND
    rotation, silent = fleet.start("INTERMEDIATE", "guest"), fleet.services.pop()
    fleet.tick(fleet.rotator(), 3)
    fleet.take_bundle()
    fleet.see()
    fleet.tick(fleet.rotator())
    assert fleet.phase(rotation) == "READY"
    assert silent.held_bundle_version == 0


def test_guest_online_without_the_bundle_holds_the_rotation_back(sqlite_fleet: Fleet) -> None:
    fleet = sqlite_fleet
    rotation, rotator = fleet.start("INTERMEDIATE", "guest"), fleet.rotator()
    fleet.tick(rotator, 3)
    fleet.take_bundle()
    fleet.guests[0].held_bundle_version = 1
    fleet.see()
    fleet.tick(rotator, 3)
    assert fleet.phase(rotation) == "DISTRIBUTING"
    fleet.guests[0].is_online = False
    fleet.see()
    fleet.tick(rotator)
    assert fleet.phase(rotation) == "READY"


def test_second_rotation_of_an_authority_is_refused_by_name(fleet: Fleet) -> None:
    first = fleet.start("INTERMEDIATE", "guest")
    for kind, authority in (("INTERMEDIATE", "guest"), ("ROOT", "root"), ("LEAF", "")):
        with pytest.raises(ConflictError, match=rotations.name(first)) as refused:
            fleet.start(kind, authority)
        assert refused.value.reason == "ROTATION_OPEN"
    other = fleet.start("INTERMEDIATE", "database")
    assert other.number != first.number


def test_start_repeated_with_its_request_id_is_one_rotation(sqlite_fleet: Fleet) -> None:
    first = sqlite_fleet.start("INTERMEDIATE", "guest", request_id="r-1")
    assert sqlite_fleet.start("INTERMEDIATE", "guest", request_id="r-1").number == first.number


@pytest.mark.parametrize(
    ("kind", "authority"),
    [("INTERMEDIATE", ""), ("INTERMEDIATE", "root"), ("ROOT", "guest"), ("LEAF", "guest")],
)
def test_kind_and_authority_must_fit(sqlite_fleet: Fleet, kind: str, authority: str) -> None:
    with pytest.raises(InvalidRequestError):
        sqlite_fleet.start(kind, authority)


def test_retirement_names_whom_it_would_strand_and_goes_on_when_each_is_named(
    fleet: Fleet,
) -> None:
    off = fleet.guests[0]
    off.is_online = False
    fleet.see()
    rotation = fleet.start("INTERMEDIATE", "guest", is_automatic=False)
    fleet.run_until(rotation, "READY")
    fleet.advance(rotation, "SWITCHED")
    fleet.run_until(rotation, "REISSUING")
    for _ in range(3):
        fleet.follow()
        fleet.tick(fleet.rotator())
    assert fleet.phase(rotation) == "REISSUING"

    _rotation, left = fleet.advance(rotation, "RETIRED")
    assert [each.instance_id for each in left.named] == [off.instance_id]
    assert "old generation" in left.named[0].why
    assert left.named[0].is_recoverable
    assert fleet.read(rotation).consented_phase == "SWITCHED"
    actions = [row.action for row in fleet.desk.store.run_now(lambda s: audit.after(s, 0, 10_000))]
    assert "refuse-retirement" in actions

    _rotation, left = fleet.advance(rotation, "RETIRED", off.instance_id)
    assert left.total == 0
    fleet.run_until(rotation, "RETIRED")


def test_of_many_that_would_be_stranded_the_first_are_named_and_all_are_counted(
    sqlite_fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "NAMED", 2)
    fleet = sqlite_fleet
    off = fleet.guests[:3]
    for guest in off:
        guest.is_online = False
    fleet.see()
    rotation = fleet.start("INTERMEDIATE", "guest", is_automatic=False)
    plan = fleet.desk.store.run_now(
        lambda s: progress.offline(s, rotation, fleet.desk.config, fleet.desk.now)
    )
    assert (plan.total, len(plan.named)) == (3, 2)
    fleet.run_until(rotation, "READY")
    fleet.advance(rotation, "SWITCHED")
    fleet.run_until(rotation, "REISSUING")
    for _ in range(3):
        fleet.follow()
        fleet.tick(fleet.rotator())

    # Whoever reads the names and gives them learns the next ones.
    named: list[str] = []
    while (left := fleet.advance(rotation, "RETIRED", *named)[1]).total:
        assert left.total == 3 - len(named)
        assert 0 < len(left.named) <= 2
        named += [each.instance_id for each in left.named]
    assert named == sorted(guest.instance_id for guest in off)
    fleet.run_until(rotation, "RETIRED")


def test_guest_that_never_took_a_new_root_keeps_the_old_one_in_the_bundle(
    sqlite_fleet: Fleet,
) -> None:
    fleet = sqlite_fleet
    off = fleet.guests[0]
    off.is_online = False
    fleet.see()
    rotation = fleet.start("ROOT", "root")
    fleet.run_until(rotation, "REISSUING")
    fleet.follow()
    fleet.desk.now += fleet.desk.config.guest_lifetime  # its certificate expires meanwhile
    fleet.tick(fleet.rotator(), 3)
    assert fleet.phase(rotation) == "DRAINED"
    (left,) = fleet.advance(rotation, "RETIRED")[1].named
    assert (left.instance_id, left.is_recoverable) == (off.instance_id, True)
    assert "new root" in left.why
    fleet.advance(rotation, "RETIRED", off.instance_id)
    fleet.tick(fleet.rotator())
    assert fleet.phase(rotation) == "RETIRED"


@pytest.mark.parametrize("phase", BEFORE_SWITCH)
def test_going_back_before_the_switch_drops_the_new_generation_and_its_key(
    sqlite_fleet: Fleet, phase: str
) -> None:
    fleet = sqlite_fleet
    rotation = fleet.start("INTERMEDIATE", "guest", is_automatic=False)
    stop_at(fleet, rotation, phase)
    assert fleet.phase(rotation) == phase
    assert fleet.roll_back(rotation).phase == "ABORTED"
    fleet.tick(fleet.rotator())
    assert sorted(each for each in fleet.desk.custody.keys if each.startswith("guest")) == [
        "guest-g1"
    ]
    assert fleet.states("guest")[1] == "ACTIVE"
    assert fleet.states("guest").get(2, "DESTROYED") == "DESTROYED"
    again = fleet.start("INTERMEDIATE", "guest")
    fleet.run_until(again, "RETIRED")


@pytest.mark.parametrize("phase", ["SWITCHED", "REISSUING"])
@pytest.mark.parametrize(("kind", "authority"), [("INTERMEDIATE", "guest"), ("ROOT", "root")])
def test_going_back_after_the_switch_lets_the_old_generation_sign_again(
    sqlite_fleet: Fleet, phase: str, kind: str, authority: str
) -> None:
    fleet = sqlite_fleet
    rotation = fleet.start(kind, authority)
    stop_at(fleet, rotation, phase)
    fleet.follow()
    fleet.desk.now += SECOND
    assert fleet.roll_back(rotation).phase == "ROLLED_BACK"
    assert fleet.states(authority) == {1: "ACTIVE", 2: "DRAINING"}
    assert generation_of_newcomer(fleet) == 1

    fleet.follow()
    drain_operators(fleet)
    fleet.tick(fleet.rotator(), 2)
    assert {each.certificate.generation for each in fleet.guests} == {1}
    assert fleet.states(authority) == {1: "ACTIVE", 2: "RETIRED"}
    assert not fleet.directives()


def stop_at(fleet: Fleet, rotation: rotations.Rotation, phase: str) -> None:
    """Move it to `phase` and no further, as if the process had died there."""

    class Stop(Exception):
        pass

    def observe(_phase: str, point: str) -> None:
        if point == "after" and fleet.phase(rotation) == phase:
            raise Stop

    if phase == "PLANNED":
        return
    for _ in range(20):
        try:
            fleet.tick(fleet.rotator(observe=observe))
        except Stop:
            return
        fleet.take_bundle()
        fleet.follow()
        fleet.desk.now += fleet.desk.config.rotation_soak
    raise AssertionError(f"never at {phase}")


def test_enrolment_renewal_and_recovery_work_in_every_phase(sqlite_fleet: Fleet) -> None:
    fleet, seen = sqlite_fleet, set()
    rotation = fleet.start("ROOT", "root")

    def use(_phase: str, point: str) -> None:
        if point != "after":
            return
        seen.add(fleet.phase(rotation))
        _id, certificate = fleet.desk.enrolled()
        fleet.desk.confirm(certificate)
        renewed = fleet.desk.renew(certificate)
        fleet.desk.confirm(renewed)
        fleet.desk.engine(renewed)
        fleet.desk.retire(certificate.instance_id or "")
        for each in (certificate, renewed):
            chain = x509.load_pem_x509_certificates(each.chain_pem)
            assert chain[0].not_valid_after_utc <= chain[1].not_valid_after_utc

    use("PLANNED", "after")

    def rotator():
        return fleet.rotator(observe=use)

    fleet.run_until(rotation, "REISSUING", rotator=rotator)
    drain_operators(fleet)
    fleet.run_until(rotation, "RETIRED", rotator=rotator)
    assert len(seen) == 9


def test_too_many_failed_renewals_pause_the_rotation_and_withhold_directives(
    sqlite_fleet: Fleet,
) -> None:
    fleet = sqlite_fleet
    rotation = fleet.start("INTERMEDIATE", "guest")
    stop_at(fleet, rotation, "REISSUING")
    assert fleet.directives()
    fleet.desk.store.run_now(
        lambda s: rotations.count(s, rotation.number, 10, fleet.desk.config.rotation_error_minimum)
    )
    fleet.tick(fleet.rotator())
    assert fleet.read(rotation).is_paused
    assert "failed to renew" in fleet.read(rotation).pause_reason
    assert not fleet.directives()


def test_first_agents_that_do_not_renew_pause_the_rotation(sqlite_fleet: Fleet) -> None:
    fleet = sqlite_fleet
    rotation = fleet.start("INTERMEDIATE", "guest")
    fleet.populate(guests=2)
    stop_at(fleet, rotation, "SWITCHED")
    named = [list(each.instance_ids) for each in fleet.directives()]
    assert named == [sorted(each.instance_id for each in fleet.guests)[:3]]
    fleet.tick(fleet.rotator(), 3)
    assert fleet.phase(rotation) == "SWITCHED"
    fleet.desk.now += fleet.desk.config.rotation_canary_wait
    fleet.tick(fleet.rotator())
    assert "renew first" in fleet.read(rotation).pause_reason


def test_paused_rotation_stays_where_it_is(sqlite_fleet: Fleet) -> None:
    from pki.issuer import rotations as verbs

    fleet = sqlite_fleet
    rotation = fleet.start("INTERMEDIATE", "guest")

    def pause(*, is_paused: bool) -> None:
        fleet.desk.store.run_now(
            lambda s: verbs.set_paused(
                s,
                rotations.name(rotation),
                is_paused=is_paused,
                reason="lunch",
                actor="ada",
                now=fleet.desk.now,
            )
        )

    pause(is_paused=True)
    fleet.tick(fleet.rotator(), 3)
    assert fleet.phase(rotation) == "PLANNED"
    pause(is_paused=False)
    fleet.run_until(rotation, "RETIRED")


def test_two_issuers_take_turns_and_make_one_key(fleet: Fleet) -> None:
    rotation = fleet.start("INTERMEDIATE", "guest")
    one, two = fleet.rotator("one"), fleet.rotator("two")
    for _ in range(30):
        fleet.tick(one)
        fleet.tick(two)
        fleet.take_bundle()
        fleet.follow()
        fleet.desk.now += fleet.desk.config.rotation_lease
        one, two = two, one
    assert fleet.phase(rotation) == "RETIRED"
    assert fleet.read(rotation).lease_fence > 1
    assert fleet.states("guest") == {1: "RETIRED", 2: "ACTIVE"}


def test_switch_by_another_issuer_is_obeyed_by_the_next_signature(fleet: Fleet) -> None:
    from pki.issuer import bootstrap
    from pki.issuer.guests import Guests

    rotation = fleet.start("INTERMEDIATE", "guest")
    other = fleet.desk.store.run_now(lambda s: bootstrap.load(s, fleet.desk.custody))
    fleet.run_until(rotation, "RETIRED")
    fleet.desk.guests = Guests(other, fleet.desk.config)
    assert generation_of_newcomer(fleet) == 2


def test_live_certificates_are_never_more_than_their_records(fleet: Fleet) -> None:
    rotation = fleet.start("INTERMEDIATE", "database")
    fleet.run_until(rotation, "RETIRED")
    assert {each.engine.generation for each in fleet.guests} == {2}
    assert fleet.count(Certificate) >= 2 * len(fleet.guests)
