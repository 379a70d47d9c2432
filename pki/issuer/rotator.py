"""Moves rotations. Killed at any point, it or another issuer goes on where the records end.

A move is: say what is meant, do it, record it. What is done outside of the database (a key in
custody) is done under a name that follows from the record, so doing it twice is doing it once;
what is recorded is recorded in one transaction, which checks that the rotation is still ours.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import logging
from collections.abc import Awaitable, Callable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from sqlalchemy.orm import Session

from pki import profiles
from pki.authority import Authorities, Signer
from pki.custody import Custody, CustodyError
from pki.issuer import gauges, generations, phases, progress
from pki.issuer.config import Config
from pki.issuer.phases import Made
from pki.issuer.tally import RenewalTally
from pki.models import Authority, Rotation
from pki.store import Store, audit, authorities, rotations
from trove_grpc.errors import StaleError, TroveError

log = logging.getLogger(__name__)

# Told of each point at which a process may die: (phase, "before" | "effect" | "after").
Observe = Callable[[str, str], None]
_Move = Callable[[Rotation, int], Awaitable[bool]]
_PEM = serialization.Encoding.PEM
# Whose keys are read before they are needed.
_SOON = (
    authorities.PREPARED,
    authorities.TRUSTED,
    authorities.ACTIVE,
    authorities.DRAINING,  # a roll-back lets it sign again
)


class Rotator:
    """One issuer's share in all rotations."""

    def __init__(
        self,
        store: Store,
        custody: Custody,
        signers: Authorities,
        config: Config,
        *,
        owner: str,
        tally: RenewalTally | None = None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        observe: Observe = lambda _phase, _point: None,
    ) -> None:
        self._store = store
        self._custody = custody
        self._signers = signers
        self._config = config
        self._owner = owner
        self._tally = tally or RenewalTally()
        self._now = now
        self._observe = observe
        self._wake = asyncio.Event()
        self._moves: dict[str, _Move] = {
            rotations.PLANNED: self._create_keys,
            rotations.KEY_CREATED: self._sign,
            rotations.CERTIFICATE_SIGNED: self._distribute,
            rotations.DISTRIBUTING: self._await_bundles,
            rotations.READY: self._switch,
            rotations.SWITCHED: self._await_canaries,
            rotations.REISSUING: self._await_reissue,
            rotations.DRAINED: self._retire,
            rotations.ROLLED_BACK: self._finish_roll_back,
        }
        # Why a rotation does not move although nothing but us is in its way.
        self.troubles: dict[int, str] = {}

    def wake(self) -> None:
        """Look at once: somebody gave consent or began a rotation."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                self._wake.clear()
                try:
                    await self.tick()
                except TroveError as error:
                    log.warning("rotations not looked at, will be tried again: %s", error)
                waking = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait(
                    {stopping, waking},
                    timeout=self._config.rotation_poll.total_seconds(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                waking.cancel()
        finally:
            stopping.cancel()

    async def tick(self) -> None:
        """Move each rotation as far as it goes now."""
        try:
            await self._preload()
        except TroveError as error:
            log.warning("a key is not at hand; those that are go on signing: %s", error)
        await self._count_renewals()
        for number in await self._store.run(_unfinished):
            try:
                while await self._move(number):
                    self.troubles.pop(number, None)
            except StaleError as error:
                log.info("left to others: %s", error)
            except TroveError as error:
                self.troubles[number] = error.message
                log.warning("rotation rot-%04d does not move: %s", number, error)
        await self._destroy_keys()
        gauges.show(await self._store.run(gauges.read), self._now())

    async def _move(self, number: int) -> bool:
        now = self._now()

        def claim(session: Session) -> tuple[int | None, Rotation | None]:
            fence = rotations.take_lease(
                session, number, self._owner, now, self._config.rotation_lease
            )
            return fence, session.get(Rotation, number)

        fence, rotation = await self._store.run(claim)
        if fence is None or rotation is None or rotation.is_paused:
            return False
        move = self._moves.get(rotation.phase)
        return move is not None and await move(rotation, fence)

    async def _record(
        self, rotation: Rotation, fence: int, work: Callable[[Session, Rotation], bool]
    ) -> bool:
        """Run `work` on the row while it is ours; it says whether it moved the rotation."""
        phase = rotation.phase

        def guarded(session: Session) -> bool:
            held = rotations.hold(session, rotation.number, fence, phase)
            has_moved = work(session, held)
            if has_moved:
                self._observe(phase, "effect")
            return has_moved

        self._observe(phase, "before")
        has_moved = await self._store.run(guarded)
        if has_moved:
            self._observe(phase, "after")
        return has_moved

    async def _create_keys(self, rotation: Rotation, fence: int) -> bool:
        if not rotation.authorities:
            return await self._record(rotation, fence, self._reissue_leaves)

        def number(session: Session) -> list[tuple[str, Authority | None]]:
            held = rotations.hold(session, rotation.number, fence, rotation.phase)
            phases.number_generations(session, held)
            return [
                (
                    generations.key_name(entry["kind"], entry["new"]),
                    authorities.find(session, entry["kind"], entry["new"]),
                )
                for entry in held.authorities
            ]

        wanted = await self._store.run(number)
        self._observe("KEYS", "before")
        await asyncio.to_thread(self._ensure_keys, wanted)
        self._observe("KEYS", "effect")

        def record(session: Session, held: Rotation) -> bool:
            phases.enter(session, held, rotations.KEY_CREATED, self._now())
            return True

        return await self._record(rotation, fence, record)

    def _reissue_leaves(self, session: Session, held: Rotation) -> bool:
        phases.reissue(session, held, self._config, self._now())
        return True

    def _ensure_keys(self, wanted: list[tuple[str, Authority | None]]) -> None:
        for key_name, row in wanted:
            key = generations.ensure_key(self._custody, key_name)
            if row is not None and key.public_key() != _certificate(row).public_key():
                raise CustodyError(
                    f"custody holds a key {key_name} that is not the one of its certificate in "
                    "the database; roll the rotation back, and find out who stored it",
                    subject=key_name,
                )

    async def _sign(self, rotation: Rotation, fence: int) -> bool:
        def read(session: Session) -> dict[tuple[str, int], Authority]:
            return {(row.kind, row.generation): row for row in authorities.list_all(session)}

        rows = await self._store.run(read)
        made = await asyncio.to_thread(self._make_certificates, rotation, rows)

        def record(session: Session, held: Rotation) -> bool:
            phases.record_certificates(session, held, made, self._now())
            return True

        return await self._record(rotation, fence, record)

    def _make_certificates(
        self, rotation: Rotation, rows: dict[tuple[str, int], Authority]
    ) -> list[Made]:
        now = self._now()
        roots: dict[str, tuple[Signer, x509.Certificate | None]] = {}
        made = []
        for entry in rotation.authorities:
            kind = profiles.KINDS_BY_NAME[entry["kind"]]
            parent = profiles.KIND_NAMES[profiles.PARENTS[kind]]
            if parent == entry["kind"]:
                signer, cross = self._make_root(
                    kind, entry["new"], rows.get((parent, entry["old"]))
                )
                roots[parent] = signer, cross
                made.append(_made(signer, entry["new"], cross))
                continue
            if parent not in roots:
                roots[parent] = self._signing_root(parent, rows), None
            root, cross = roots[parent]
            key = generations.prove_key(
                self._custody, generations.key_name(entry["kind"], entry["new"])
            )
            certificate = generations.certify(
                self._config, kind, key, generation=entry["new"], signer=root, now=now
            )
            signer = Signer(kind, entry["new"], certificate, key)
            generations.check_chain(self._config, signer, root.certificate, now=now)
            if cross is not None:
                old_root = _certificate(rows[parent, _old_of(rotation, parent)])
                generations.check_chain(self._config, signer, old_root, path=[cross], now=now)
            made.append(_made(signer, root.generation, None))
        return made

    def _make_root(
        self, kind: profiles.Kind, generation: int, older: Authority | None
    ) -> tuple[Signer, x509.Certificate | None]:
        """A root, certified by the one before it unless that proves nothing any more."""
        now = self._now()
        key = generations.prove_key(
            self._custody, generations.key_name(profiles.KIND_NAMES[kind], generation)
        )
        certificate = generations.certify(
            self._config, kind, key, generation=generation, signer=None, now=now
        )
        cross = None
        if older is not None and not self._custody.exists(older.key_name):
            log.critical(
                "the key %s is lost: nothing can certify its successor for peers that know only "
                "the old root; who is off until it is retired needs a token",
                older.key_name,
            )
        elif (
            older is not None
            and older.state != authorities.TAINTED
            and _certificate(older).not_valid_after_utc > now
        ):
            old_key = self._signers.read(older)
            cross = profiles.cross_root(certificate, _certificate(older)).sign(
                old_key, hashes.SHA256()
            )
        return Signer(kind, generation, certificate, key), cross

    def _signing_root(self, name: str, rows: dict[tuple[str, int], Authority]) -> Signer:
        for row in rows.values():
            if row.kind == name and row.state == authorities.ACTIVE:
                return Signer(
                    profiles.KINDS_BY_NAME[name],
                    row.generation,
                    _certificate(row),
                    self._signers.read(row),
                )
        raise CustodyError(f"no {name} signs; rotate the {name} first")

    async def _distribute(self, rotation: Rotation, fence: int) -> bool:
        # Beside their keys, for the day the database is lost. Only now that they are committed:
        # what is in custody cannot be taken back.
        rows = await self._store.run(lambda session: phases.new_generations(session, rotation))
        await asyncio.to_thread(self._keep_certificates, rows)

        def work(session: Session, held: Rotation) -> bool:
            phases.distribute(session, held, self._now())
            return True

        return await self._record(rotation, fence, work)

    def _keep_certificates(self, rows: list[Authority]) -> None:
        for row in rows:
            self._custody.store_certificate(row.key_name, row.certificate_pem)

    async def _await_bundles(self, rotation: Rotation, fence: int) -> bool:
        def work(session: Session, held: Rotation) -> bool:
            now = self._now()
            measured = progress.measure(session, held, self._config, now)
            if not progress.are_bundles_held(measured, self._config):
                return False
            phases.enter(session, held, rotations.READY, now)
            return True

        return await self._record(rotation, fence, work)

    async def _switch(self, rotation: Rotation, fence: int) -> bool:
        now = self._now()
        has_consent = rotation.is_automatic or rotation.consented_phase in {
            rotations.SWITCHED,
            rotations.RETIRED,
        }
        if not has_consent or now < rotation.phase_time + self._config.rotation_soak:
            return False
        # Before the records say that they sign: they must be at hand.
        await self._preload()

        def work(session: Session, held: Rotation) -> bool:
            phases.switch(session, held, self._config, self._now())
            return True

        return await self._record(rotation, fence, work)

    async def _await_canaries(self, rotation: Rotation, fence: int) -> bool:
        def work(session: Session, held: Rotation) -> bool:
            now = self._now()
            if self._pause_over_budget(session, held, now):
                return False
            if held.instance_ids and not progress.has_canary_renewed(session, held):
                waited = now - (held.switch_time or now)
                if waited >= self._config.rotation_canary_wait:
                    reason = (
                        f"none of the {len(held.instance_ids)} agents that were to renew first "
                        f"has done so within {waited}; look at one, then resume or roll back"
                    )
                    phases.pause(session, held, reason, now, actor=phases.ISSUER)
                return False
            phases.reissue(session, held, self._config, now)
            return True

        return await self._record(rotation, fence, work)

    async def _await_reissue(self, rotation: Rotation, fence: int) -> bool:
        def work(session: Session, held: Rotation) -> bool:
            now = self._now()
            if self._pause_over_budget(session, held, now):
                return False
            if progress.old_leaves(session, held, now, without=held.stranded_ids):
                return False
            phases.enter(session, held, rotations.DRAINED, now)
            return True

        return await self._record(rotation, fence, work)

    async def _retire(self, rotation: Rotation, fence: int) -> bool:
        def work(session: Session, held: Rotation) -> bool:
            now = self._now()
            if held.authorities:
                if not held.is_automatic and held.consented_phase != rotations.RETIRED:
                    return False
                if progress.old_leaves(session, held, now, without=held.stranded_ids):
                    return False  # signed while the switch was being committed
                if set(progress.stranded_ids(session, held, now)) - set(held.stranded_ids):
                    return False
            phases.retire(session, held, now)
            return True

        return await self._record(rotation, fence, work)

    async def _finish_roll_back(self, rotation: Rotation, fence: int) -> bool:
        def work(session: Session, held: Rotation) -> bool:
            now = self._now()
            if progress.old_leaves(session, held, now):
                return False
            phases.finish_roll_back(session, held, now)
            return False

        return await self._record(rotation, fence, work)

    def _pause_over_budget(self, session: Session, held: Rotation, now: dt.datetime) -> bool:
        budget = self._config.rotation_error_share * (held.renewals + held.errors)
        if held.errors < self._config.rotation_error_minimum or held.errors <= budget:
            return False
        reason = (
            f"{held.errors} guests failed to renew, {held.renewals} renewals went well; see the "
            "issuer's log for why, then resume or roll back"
        )
        phases.pause(session, held, reason, now, actor=phases.ISSUER)
        return True

    async def _count_renewals(self) -> None:
        renewals, errors = self._tally.take()

        def work(session: Session) -> bool:
            rows = rotations.in_phases(session, (rotations.SWITCHED, rotations.REISSUING))
            for row in rows if renewals or errors else ():
                rotations.count(session, row.number, renewals, errors)
            return bool(rows)

        if not await self._store.run(work):
            self._tally.reset()

    async def _preload(self) -> None:
        """Have the keys at hand that may sign next; roots' keys stay in custody."""

        def soon(session: Session) -> list[Authority]:
            return [
                row
                for row in authorities.in_states(session, _SOON)
                if profiles.PARENTS[profiles.KINDS_BY_NAME[row.kind]]
                != profiles.KINDS_BY_NAME[row.kind]
            ]

        rows = await self._store.run(soon)
        self._signers.keep_only(rows)
        await asyncio.to_thread(self._signers.preload, rows)

    async def _destroy_keys(self) -> None:
        """Remove the keys of generations that will not sign again."""
        now = self._now()
        for kind, generation in await self._store.run(
            lambda session: rotations.spent_generations(session, now - self._config.key_hold)
        ):
            name = generations.key_name(kind, generation)
            try:
                await asyncio.to_thread(self._custody.delete, name)
            except TroveError as error:
                log.warning("key %s not destroyed, will be tried again: %s", name, error)
                continue
            await self._store.run(functools.partial(_record_destroyed, kind, generation, now))


def _unfinished(session: Session) -> list[int]:
    """Rotations with a move left; of those gone back, the ones with a generation to retire."""
    found = [row.number for row in rotations.open_ones(session)]
    for row in rotations.in_phases(session, (rotations.ROLLED_BACK,)):
        new = phases.new_generations(session, row)
        if any(each.state == authorities.DRAINING for each in new):
            found.append(row.number)
    return found


def _record_destroyed(kind: str, generation: int, now: dt.datetime, session: Session) -> None:
    row = authorities.find(session, kind, generation)
    if row is not None and row.state == authorities.RETIRED:
        authorities.set_state(session, row, authorities.DESTROYED, now)
    rotations.mark_destroyed(session, kind, generation)
    audit.append(
        session,
        now=now,
        actor=phases.ISSUER,
        action="destroy-key",
        subject=generations.key_name(kind, generation),
    )


def _made(signer: Signer, signed_by: int, cross: x509.Certificate | None) -> Made:
    name = profiles.KIND_NAMES[signer.kind]
    return Made(
        kind=name,
        generation=signer.generation,
        key_name=generations.key_name(name, signer.generation),
        certificate_pem=signer.pem,
        signed_by_generation=signed_by,
        cross_certificate_pem=None if cross is None else cross.public_bytes(_PEM),
    )


def _certificate(row: Authority) -> x509.Certificate:
    return x509.load_pem_x509_certificate(row.certificate_pem)


def _old_of(rotation: Rotation, kind: str) -> int:
    old: int = next(each["old"] for each in rotation.authorities if each["kind"] == kind)
    return old
