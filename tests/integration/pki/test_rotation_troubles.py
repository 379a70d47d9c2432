"""Rotations in trouble: another issuer takes over, custody is away, a key is the wrong one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pki.issuer import bootstrap, compromise
from pki.issuer.guests import Guests
from pki.requests import new_key
from pki.store import Store, audit
from tests.fakes.custody import MemoryCustody
from tests.integration.pki.conftest import Desk
from tests.integration.pki.rotation_desk import Fleet
from trove_grpc.errors import ConflictError, UnavailableError


class Vault(MemoryCustody):
    """Custody that can be away."""

    def __init__(self, keys: dict[str, ec.EllipticCurvePrivateKey]) -> None:
        super().__init__()
        self.keys = keys
        self.is_away = False

    def _check(self) -> None:
        if self.is_away:
            raise UnavailableError("the vault does not answer", reason="CUSTODY_AWAY")

    def exists(self, name: str) -> bool:
        self._check()
        return super().exists(name)

    def load(self, name: str) -> ec.EllipticCurvePrivateKey:
        self._check()
        return super().load(name)

    def names(self) -> Sequence[str]:
        self._check()
        return super().names()


@pytest.fixture
def fleet(desk: Desk) -> Fleet:
    if desk.store.engine.dialect.name == "mariadb":
        pytest.skip("PostgreSQL stands for servers, SQLite for files")
    fleet = Fleet(desk)
    fleet.populate()
    return fleet


@pytest.mark.parametrize("point", ["before", "effect"])
def test_issuer_that_lost_its_lease_while_it_made_keys_leaves_the_rotation_to_the_other(
    fleet: Fleet, point: str
) -> None:
    rotation, other = fleet.start("INTERMEDIATE", "guest"), fleet.rotator("other")

    def slow(phase: str, at: str) -> None:
        if (phase, at) == ("KEYS", point):
            fleet.desk.now += 2 * fleet.desk.config.rotation_lease
            with ThreadPoolExecutor(1) as elsewhere:
                elsewhere.submit(fleet.tick, other).result()

    fleet.tick(fleet.rotator("slow", observe=slow))
    present = fleet.read(rotation)
    assert (present.phase, present.lease_owner, present.lease_fence) == (
        "DISTRIBUTING",
        "other",
        2,
    )
    assert sorted(each for each in fleet.desk.custody.keys if each.startswith("guest")) == [
        "guest-g1",
        "guest-g2",
    ]
    fleet.run_until(rotation, "RETIRED", rotator=lambda: other)


def test_issuers_that_run_at_once_move_a_rotation_once(fleet: Fleet) -> None:
    config = fleet.desk.config
    rotation = fleet.start("ROOT", "root")
    stores = [Store(config.database_url) for _ in range(3)]
    try:
        rotators = [fleet.rotator(f"issuer-{n}", store=each) for n, each in enumerate(stores)]
        for _ in range(20):
            with ThreadPoolExecutor(len(rotators)) as threads:
                list(threads.map(lambda each: asyncio.run(each.tick()), rotators))
            fleet.take_bundle()
            fleet.follow()
            fleet.desk.now += config.rotation_lease
    finally:
        for store in stores:
            store.close()
    assert fleet.phase(rotation) in {"REISSUING", "RETIRED"}  # the operator's leaf has yet to end
    steps = [
        row.detail
        for row in fleet.desk.store.run_now(lambda s: audit.after(s, 0, 10_000))
        if row.action == "rotate"
    ]
    assert len(steps) == len(set(steps)) >= 6
    assert fleet.desk.store.run_now(audit.first_bad_sequence) is None
    for kind in ("root", "guest", "service", "operator"):
        assert fleet.states(kind)[2] == "ACTIVE"


def test_rotation_waits_while_the_vault_is_away_and_what_signs_goes_on(fleet: Fleet) -> None:
    vault = Vault(fleet.desk.custody.keys)
    rotator = fleet.rotator(custody=vault)
    rotation = fleet.start("INTERMEDIATE", "guest")
    vault.is_away = True
    fleet.tick(rotator, 2)
    assert fleet.phase(rotation) == "PLANNED"
    assert "vault does not answer" in rotator.troubles[rotation.number]
    instance_id, certificate = fleet.desk.enrolled()
    assert certificate.generation == 1
    fleet.desk.retire(instance_id)
    vault.is_away = False
    fleet.run_until(rotation, "RETIRED", rotator=lambda: rotator)
    assert not rotator.troubles


def test_issuer_without_the_new_key_refuses_to_sign_with_the_old_one(fleet: Fleet) -> None:
    vault = Vault(fleet.desk.custody.keys)
    other = fleet.desk.store.run_now(lambda s: bootstrap.load(s, vault))
    vault.is_away = True
    rotation = fleet.start("INTERMEDIATE", "guest")
    fleet.run_until(rotation, "RETIRED")
    fleet.desk.guests = Guests(other, fleet.desk.config)
    with pytest.raises(UnavailableError, match="guest-g2 of the ACTIVE guest authority"):
        fleet.desk.enrolled()
    vault.is_away = False
    assert fleet.desk.enrolled()[1].generation == 2


def test_key_that_another_stored_under_our_name_after_it_was_certified_is_refused(
    fleet: Fleet,
) -> None:
    rotation, rotator = fleet.start("INTERMEDIATE", "guest", is_automatic=False), fleet.rotator()
    fleet.run_until(rotation, "READY")
    fleet.desk.custody.keys["guest-g2"] = new_key()
    fleet.advance(rotation, "SWITCHED")
    fleet.desk.now += fleet.desk.config.rotation_soak
    other = fleet.rotator(
        signers=fleet.desk.store.run_now(lambda s: bootstrap.load(s, fleet.desk.custody))
    )
    fleet.tick(other)
    assert fleet.phase(rotation) == "READY"
    assert "not the one of its certificate" in other.troubles[rotation.number]
    assert rotator is not other


def taint(fleet: Fleet, generation: int, *, without_successor: bool = False) -> None:
    fleet.desk.store.run_now(
        lambda s: compromise.taint(
            s,
            "guest",
            generation,
            fleet.desk.config,
            reason="stolen",
            without_successor=without_successor,
            actor="ada",
            now=fleet.desk.now,
        )
    )


@pytest.mark.parametrize("phase", ["DISTRIBUTING", "READY"])
def test_generation_that_was_tainted_before_the_switch_never_signs(
    fleet: Fleet, phase: str
) -> None:
    rotation, rotator = fleet.start("INTERMEDIATE", "guest"), fleet.rotator()
    fleet.run_until(rotation, phase, rotator=lambda: rotator)
    taint(fleet, 2)
    for _ in range(3):
        fleet.take_bundle()
        fleet.follow()
        fleet.desk.now += fleet.desk.config.rotation_soak
        fleet.tick(rotator)
    assert fleet.states("guest") == {1: "ACTIVE", 2: "TAINTED"}
    assert "must never sign" in rotator.troubles[rotation.number]
    with pytest.raises(ConflictError, match="nothing can take its place"):
        taint(fleet, 1)
    assert fleet.roll_back(rotation).phase == "ABORTED"
    assert fleet.states("guest") == {1: "ACTIVE", 2: "TAINTED"}


def test_roll_back_does_not_take_a_taint_away(fleet: Fleet) -> None:
    rotation = fleet.start("INTERMEDIATE", "guest")
    fleet.run_until(rotation, "SWITCHED")
    taint(fleet, 2, without_successor=True)
    assert fleet.roll_back(rotation).phase == "ROLLED_BACK"
    assert fleet.states("guest") == {1: "ACTIVE", 2: "TAINTED"}
