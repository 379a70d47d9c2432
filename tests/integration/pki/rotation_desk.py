"""A small fleet at an issuer's desk: it follows a rotation as agents, engines and services do."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from pki.issuer import rotations
from pki.issuer.directives import directives
from pki.issuer.rotator import Rotator
from pki.models import Authority, Certificate, Rotation
from pki.requests import new_key
from pki.store import authorities, sightings
from pki.store import rotations as rows
from pki.store.sightings import Sighting
from tests.integration.pki.conftest import Desk
from trove_grpc.gen.issuer.v1 import watch_service_pb2 as watch_pb
from trove_grpc.identity import Identity, Role, identify

SECOND = dt.timedelta(seconds=1)


@dataclass
class Guest:
    instance_id: str
    certificate: Certificate
    engine: Certificate
    held_bundle_version: int = 0
    is_online: bool = True


@dataclass
class Service:
    certificate: Certificate
    held_bundle_version: int = 0


@dataclass
class Fleet:
    """Guests, services and an operator of one desk, and the rotators that move its rotations."""

    desk: Desk
    guests: list[Guest] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    operator: Certificate | None = None

    def rotator(self, owner: str = "one", **changes: Any) -> Rotator:
        return Rotator(
            changes.pop("store", self.desk.store),
            changes.pop("custody", self.desk.custody),
            changes.pop("signers", self.desk.signers),
            self.desk.config,
            owner=owner,
            now=lambda: self.desk.now,
            **changes,
        )

    def populate(self, guests: int = 3, roles: tuple[Role, ...] = (Role.GATEWAY,)) -> None:
        for _ in range(guests):
            instance_id, certificate = self.desk.enrolled()
            self.desk.confirm(certificate)
            guest = Guest(instance_id, certificate, self.desk.engine(certificate))
            self.guests.append(guest)
        for role in roles:
            self.services.append(Service(self.enrol_service(role)))
        self.operator = self.issue_operator()
        self.see()

    def enrol_service(self, role: Role, host: str = "localhost") -> Certificate:
        return self.desk.store.run_now(
            lambda s: self.desk.services.enrol(
                s,
                role=role,
                host=host,
                public_key=new_key().public_key(),
                actor="test",
                now=self.desk.now,
            )
        )

    def issue_operator(self) -> Certificate:
        return self.desk.store.run_now(
            lambda s: self.desk.services.issue_operator(
                s,
                name="ada",
                lifetime=self.desk.config.operator_lifetime,
                public_key=new_key().public_key(),
                actor="test",
                now=self.desk.now,
            )
        )

    def identity(self, certificate: Certificate) -> Identity:
        bundle = self.desk.store.run_now(authorities.bundle)
        return identify(certificate.chain_pem, bundle)

    def see(self) -> None:
        """Gateways and services tell what they see and hold."""
        now = self.desk.now
        self.desk.store.run_now(
            lambda s: sightings.record(
                s,
                "gateway-1",
                [
                    Sighting(
                        instance_id=each.instance_id,
                        serial=each.certificate.serial,
                        engine_serial=each.engine.serial,
                        bundle_version=each.held_bundle_version,
                        is_gone=not each.is_online,
                        clock_skew_ms=0,
                        seen_time=now,
                    )
                    for each in self.guests
                ],
            )
        )
        for service in self.services:
            caller = self.identity(service.certificate)
            held = service.held_bundle_version
            self.desk.store.run_now(
                lambda s, caller=caller, held=held: self.desk.services.saw(s, caller, held, now)
            )

    def take_bundle(self) -> None:
        version = self.desk.store.run_now(authorities.bundle_version)
        for guest in self.guests:
            if guest.is_online:
                guest.held_bundle_version = version
        for service in self.services:
            service.held_bundle_version = version

    def directives(self) -> list[watch_pb.RenewalDirective]:
        return self.desk.store.run_now(lambda s: directives(s, self.desk.now))

    def follow(self) -> None:
        """Renew as the directives in force and the services' date ask for, then tell of it."""
        for directive in self.directives():
            for guest in self.guests:
                if guest.is_online and _is_meant(directive, guest):
                    self._renew(guest, directive.target)
        renew_before = self.desk.store.run_now(authorities.domain).services_renew_before
        for service in self.services:
            if renew_before is not None and service.certificate.issue_time < renew_before:
                caller = self.identity(service.certificate)
                service.certificate = self.desk.store.run_now(
                    lambda s, caller=caller: self.desk.services.renew(
                        s, caller, new_key().public_key(), self.desk.now
                    )
                )
        self.see()

    def _renew(self, guest: Guest, target: watch_pb.RenewalTarget.ValueType) -> None:
        if target == watch_pb.RENEWAL_TARGET_AGENT:
            renewed = self.desk.renew(guest.certificate)
            self.desk.confirm(renewed)
            guest.certificate = renewed
        else:
            guest.engine = self.desk.engine(guest.certificate)

    def start(self, kind: str, authority: str = "", **changes: Any) -> Rotation:
        wanted = rotations.Wanted(
            kind=kind, authority=authority, instance_ids=changes.pop("instance_ids", ())
        )
        arguments: dict[str, Any] = {
            "request_id": str(uuid.uuid4()),
            "is_automatic": True,
            "spread": None,
            "actor": "ada",
            "reason": "planned",
            "now": self.desk.now,
            **changes,
        }
        return self.desk.store.run_now(
            lambda s: rotations.start(s, wanted, self.desk.config, **arguments)
        )

    def advance(self, rotation: Rotation, target: str, *strand: str) -> Any:
        return self.desk.store.run_now(
            lambda s: rotations.advance(
                s,
                rows.name(rotation),
                target,
                self.desk.config,
                strand=strand,
                actor="ada",
                now=self.desk.now,
            )
        )

    def roll_back(self, rotation: Rotation) -> Rotation:
        return self.desk.store.run_now(
            lambda s: rotations.roll_back(
                s,
                rows.name(rotation),
                self.desk.config,
                reason="second thoughts",
                actor="ada",
                now=self.desk.now,
            )
        )

    def phase(self, rotation: Rotation) -> str:
        return self.read(rotation).phase

    def read(self, rotation: Rotation) -> Rotation:
        return self.desk.store.run_now(lambda s: rows.find(s, rows.name(rotation)))

    def states(self, kind: str) -> dict[int, str]:
        return {
            row.generation: row.state
            for row in self.desk.store.run_now(lambda s: authorities.of_kind(s, kind))
        }

    def certificate_of(self, kind: str, generation: int) -> Authority:
        row = self.desk.store.run_now(lambda s: authorities.find(s, kind, generation))
        assert row is not None
        return row

    def count(self, model: Any) -> int:
        return self.desk.store.run_now(
            lambda s: s.execute(sa.select(sa.func.count()).select_from(model)).scalar_one()
        )

    def tick(self, rotator: Rotator, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(rotator.tick())

    def run_until(
        self,
        rotation: Rotation,
        phase: str,
        *,
        rotator: Callable[[], Rotator] | None = None,
        rounds: int = 40,
    ) -> None:
        """Let time pass, the fleet follow and the rotator move until it stands at `phase`."""
        current = (rotator or self.rotator)()
        for _ in range(rounds):
            self.tick(current)
            if self.phase(rotation) == phase:
                return
            self.take_bundle()
            self.follow()
            self.desk.now += self.desk.config.rotation_soak
        raise AssertionError(
            f"at {self.phase(rotation)}, not {phase}: {current.troubles or self.read(rotation)}"
        )


def _is_meant(directive: watch_pb.RenewalDirective, guest: Guest) -> bool:
    is_agent = directive.target == watch_pb.RENEWAL_TARGET_AGENT
    certificate = guest.certificate if is_agent else guest.engine
    if directive.instance_ids and guest.instance_id not in directive.instance_ids:
        return False
    if directive.below_generation and certificate.generation >= directive.below_generation:
        return False
    if directive.HasField("issued_before"):
        before = directive.issued_before.ToDatetime(dt.UTC)
        return certificate.issue_time < before
    return True
