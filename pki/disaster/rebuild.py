"""Rebuilds the issuer's database from its keys, for what no backup has.

The keys and their certificates are in custody, the instances in the conductor's database; what is
lost is which leaves there are, which of them are denied and which instances are in quarantine. A
rebuild begins a new epoch: denials and quarantines come back from exported audit records, leaves
come back one by one as their holders show them (pki/issuer/adoption.py). What nothing remembers is
said, not guessed.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from sqlalchemy.orm import Session

from pki import profiles
from pki.custody import Custody, CustodyError
from pki.custody.contract import parse_name
from pki.disaster import exported, instances
from pki.disaster.exported import Denied
from pki.disaster.instances import Instance
from pki.issuer import bootstrap, quarantine, seal
from pki.issuer.checkpoints import CheckpointFile, SealedError, Statement
from pki.issuer.config import Config
from pki.issuer.custody import open_custody
from pki.issuer.diary import Diary
from pki.models import AuditRecord, Authority, Counter
from pki.requests import key_pem, new_key
from pki.store import Store, audit, authorities, counters, denials, subjects
from trove_grpc.errors import ConflictError, InvalidRequestError, NotFoundError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.tls import IdentityDirectory, KeyMaterial

Row = Mapping[str, Any]
_ACTOR = "rebuild"
# Pollers ask "after N": numbers of a new epoch lie above all of the ones before.
_DENIALS_OF_AN_EPOCH = 1_000_000_000
# Holders take a bundle with a higher version only; the last one given out is unknown.
_VERSIONS_LOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is left, read and checked before anything is written."""

    checkpoints: Sequence[Statement]
    records: Sequence[AuditRecord]
    denied: Sequence[Denied]
    quarantined: Mapping[str, str]  # why, by instance
    certificates: Mapping[str, bytes]  # by name of the key
    keyless: Sequence[str]
    bundle: trust_pb2.TrustBundle | None


def rebuild(
    config: Config,
    *,
    subjects_file: Path | None = None,
    audit_files: Sequence[Path] = (),
    conductor: Sequence[str] = (),
    identity: Path | None = None,
) -> list[Row]:
    """Make the database anew from the keys, or bring one up to date that was rolled back.

    Instances come from `subjects_file`, or from the conductor at "host:port"; without `identity`
    (a directory of an operator's) the issuer's keys make an operator of an hour for that call.
    Raises ConflictError (NOTHING_TO_REBUILD) when database and checkpoints agree.
    """
    if (subjects_file is None) == (not conductor):
        raise InvalidRequestError("say where the instances are: a file, or the conductor")
    custody = open_custody(config)
    custody.probe()
    store = Store(config.database_url, password_file=config.database_password_file)
    try:
        store.migrate()
        file = CheckpointFile(config.checkpoints_path)
        checkpoints = _checkpoints(custody, file)
        _refuse_needless(store, checkpoints)
        known = _read(config, custody, checkpoints, audit_files)
        now = dt.datetime.now(dt.UTC)
        if subjects_file is not None:
            found = instances.read(subjects_file)
        else:
            found = _ask_conductor(conductor, _operator(config, custody, known, identity, now))

        def work(session: Session) -> tuple[int, _Counts]:
            epoch = _begin_epoch(session, config, known, now)
            return epoch, _register(session, known, found, now)

        # All at once: a rebuild that was cut short leaves what there was.
        epoch, counts = store.run_now(work)
        # Proves that what signs is there and fits.
        store.run_now(lambda session: bootstrap.load(session, custody))
        diary = Diary(store, custody, config)
        diary.open()
        diary.checkpoint()
    finally:
        store.close()
    return _told(epoch, known, counts, now)


def _checkpoints(custody: Custody, file: CheckpointFile) -> list[Statement]:
    if custody.exists(seal.AUDIT_KEY):
        return file.verified(custody.load(seal.AUDIT_KEY).public_key())
    if file.read():
        raise CustodyError(
            f"the audit key {seal.AUDIT_KEY} is missing from custody: the checkpoints in "
            f"{file.path} cannot be verified; restore it from your backup"
        )
    return []


def _read(
    config: Config,
    custody: Custody,
    checkpoints: Sequence[Statement],
    audit_files: Sequence[Path],
) -> _Known:
    records = exported.read(audit_files, checkpoints)
    certificates, keyless = _certificates(custody)
    return _Known(
        checkpoints=checkpoints,
        records=records,
        denied=exported.denied(records),
        quarantined=exported.quarantined(records),
        certificates=certificates,
        keyless=keyless,
        bundle=_last_bundle(config),
    )


def _certificates(custody: Custody) -> tuple[dict[str, bytes], list[str]]:
    """Certificates of all authorities in custody; each key that is there must fit its own."""
    found: dict[str, bytes] = {}
    keyless = []
    for name in custody.names():
        if name == seal.AUDIT_KEY:
            continue
        try:
            pem = custody.load_certificate(name)
        except NotFoundError:
            keyless.append(name)  # made for a rotation and never certified
            continue
        certificate = x509.load_pem_x509_certificate(pem)
        if custody.load(name).public_key() != certificate.public_key():
            raise CustodyError(
                f"the key {name} in custody is not that of the certificate beside it; restore "
                "both from one backup"
            )
        found[name] = pem
    present = {parse_name(name)[0] for name in found}
    missing = [name for kind, name in profiles.KIND_NAMES.items() if name not in present]
    if missing:
        raise CustodyError(
            f"custody ({custody.location}) has no certificate of {', '.join(missing)}: restore a "
            "backup (`trove-pki restore`)"
        )
    return found, keyless


def _last_bundle(config: Config) -> trust_pb2.TrustBundle | None:
    """The bundle this issuer held last: it knows what had drained and what was tainted."""
    path = IdentityDirectory(config.identity).root / "bundle.pb"
    if not path.exists():
        return None
    bundle = trust_pb2.TrustBundle.FromString(path.read_bytes())
    return bundle if bundle.trust_domain == config.trust_domain else None


def _refuse_needless(store: Store, checkpoints: Sequence[Statement]) -> None:
    def agrees(session: Session) -> bool:
        if authorities.find_domain(session) is None:
            return False
        try:
            seal.compare(session, checkpoints)
        except SealedError:
            return False
        return bool(authorities.list_all(session))

    if store.run_now(agrees):
        raise ConflictError(
            "the database agrees with its checkpoints; there is nothing to rebuild",
            reason="NOTHING_TO_REBUILD",
        )


def _begin_epoch(session: Session, config: Config, known: _Known, now: dt.datetime) -> int:
    domain = authorities.ensure_domain(session, config.trust_domain, now)
    domain.epoch = max([domain.epoch, *(each.epoch for each in known.checkpoints)]) + 1
    held = known.bundle.version if known.bundle is not None else 0
    domain.bundle_version = max(domain.bundle_version, held) + _VERSIONS_LOST
    domain.bundle_time = now
    counter = session.get(Counter, counters.DENIALS)
    assert counter is not None  # noqa: S101  ensure_domain made it
    counter.value = max(counter.value, (domain.epoch - 1) * _DENIALS_OF_AN_EPOCH)
    session.flush()
    last = max(known.checkpoints, key=lambda each: (each.epoch, each.sequence), default=None)
    audit.append(
        session,
        now=now,
        actor=_ACTOR,
        action="begin-epoch",
        subject=f"epoch {domain.epoch}",
        detail={
            "last_checkpoint": last.sequence if last else 0,
            "last_hash": last.hash if last else "",
            "last_epoch": last.epoch if last else 0,
            "exported_records": len(known.records),
        },
    )
    _add_authorities(session, known, now)
    return domain.epoch


def _add_authorities(session: Session, known: _Known, now: dt.datetime) -> None:
    present = {row.key_name for row in authorities.list_all(session)}
    for name in sorted(known.certificates, key=_parents_first):
        if name in present:
            continue
        authority, generation = parse_name(name)
        pem = known.certificates[name]
        row = Authority(
            kind=authority,
            generation=generation,
            state=_state(known, authority, generation),
            key_name=name,
            certificate_pem=pem,
            create_time=now,
            signed_by_generation=_parent_generation(known, authority, generation, pem),
            cross_certificate_pem=_cross_certificate(known, authority, generation),
            state_time=now,
        )
        session.add(row)
        audit.append(
            session,
            now=now,
            actor=_ACTOR,
            action="adopt-authority",
            subject=name,
            detail={"state": row.state},
        )
    session.flush()


def _parents_first(name: str) -> tuple[int, int]:
    authority, generation = parse_name(name)
    order = [profiles.KIND_NAMES[kind] for kind in profiles.PARENTS]
    return order.index(authority), generation


def _held(known: _Known, authority: str, generation: int) -> trust_pb2.AuthorityCertificate | None:
    for each in known.bundle.authorities if known.bundle is not None else ():
        if (profiles.KIND_NAMES[each.kind], each.generation) == (authority, generation):
            return each
    return None


def _state(known: _Known, authority: str, generation: int) -> str:
    """As the last bundle has it; without one, the newest generation signs and others drain."""
    if any(
        (each.kind, each.value) == (denials.GENERATION, f"{authority}/{generation}")
        for each in known.denied
    ):
        return authorities.TAINTED
    if (held := _held(known, authority, generation)) is not None:
        return trust_pb2.AuthorityState.Name(held.state).removeprefix("AUTHORITY_STATE_")
    if known.bundle is not None:
        # Made but not yet told of, or out of the bundle: nobody relies on it either way.
        return "RETIRED"
    newest = max(
        parse_name(name)[1] for name in known.certificates if parse_name(name)[0] == authority
    )
    return authorities.ACTIVE if generation == newest else "DRAINING"


def _cross_certificate(known: _Known, authority: str, generation: int) -> bytes | None:
    held = _held(known, authority, generation)
    return held.cross_certificate_pem or None if held is not None else None


def _parent_generation(known: _Known, authority: str, generation: int, pem: bytes) -> int:
    kind = profiles.KINDS_BY_NAME[authority]
    parent = profiles.KIND_NAMES[profiles.PARENTS[kind]]
    if parent == authority:
        return generation
    certificate = x509.load_pem_x509_certificate(pem)
    for name, other in known.certificates.items():
        if parse_name(name)[0] != parent:
            continue
        try:
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(other))
        except (ValueError, TypeError, InvalidSignature):
            continue
        return parse_name(name)[1]
    raise CustodyError(
        f"no {parent} in custody signed {authority}-g{generation}; restore both from one backup"
    )


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who asks the conductor: a directory, or what to fill one with."""

    trust_domain: str
    directory: Path | None
    material: KeyMaterial | None = None
    bundle: trust_pb2.TrustBundle | None = None


def _operator(
    config: Config, custody: Custody, known: _Known, identity: Path | None, now: dt.datetime
) -> _Caller:
    """The operator who was named, or one of an hour that the keys make: the issuer is down."""
    if identity is not None:
        return _Caller(config.trust_domain, identity)
    bundle = trust_pb2.TrustBundle(trust_domain=config.trust_domain, version=1)
    for name, pem in known.certificates.items():
        authority, generation = parse_name(name)
        state = trust_pb2.AuthorityState.Value(
            f"AUTHORITY_STATE_{_state(known, authority, generation)}"
        )
        kind = profiles.KINDS_BY_NAME[authority]
        bundle.authorities.add(kind=kind, generation=generation, state=state, certificate_pem=pem)
    name, issuer_pem = next(
        (f"operator-g{each.generation}", each.certificate_pem)
        for each in bundle.authorities
        if each.kind == trust_pb2.AUTHORITY_KIND_OPERATOR
        and each.state == trust_pb2.AUTHORITY_STATE_ACTIVE
    )
    key = new_key()
    builder = profiles.operator(
        key.public_key(),
        x509.load_pem_x509_certificate(issuer_pem),
        trust_domain=config.trust_domain,
        name=_ACTOR,
        lifetime=dt.timedelta(hours=1),
        now=now,
    )
    leaf = builder.sign(custody.load(name), hashes.SHA256())
    chain_pem = leaf.public_bytes(serialization.Encoding.PEM) + issuer_pem
    material = KeyMaterial(key_pem=key_pem(key), chain_pem=chain_pem)
    return _Caller(config.trust_domain, None, material, bundle)


def _ask_conductor(conductor: Sequence[str], caller: _Caller) -> list[Instance]:
    with tempfile.TemporaryDirectory(prefix="trove-pki-") as name:
        directory = IdentityDirectory(caller.directory or Path(name) / "operator")
        if caller.material is not None and caller.bundle is not None:
            directory.install(caller.material, caller.bundle)
        return asyncio.run(instances.fetch(conductor, directory, caller.trust_domain))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    instances: int
    denials: int
    quarantines: int
    retired: Sequence[str]  # told as alive, but their identity had ended


def _register(
    session: Session, known: _Known, found: Sequence[Instance], now: dt.datetime
) -> _Counts:
    for each in known.denied:
        denials.write(session, kind=each.kind, value=each.value, reason=each.reason, now=now)
        audit.append(
            session,
            now=now,
            actor=_ACTOR,
            action="create-denial",
            subject=f"{each.kind.lower()} {each.value}",
            detail={"reason": each.reason, "from": "exported audit"},
        )
    ended = {record.subject for record in known.records if record.action == "retire-subject"}
    retired = []
    quarantines = 0
    for instance in found:
        subject = subjects.find(session, instance.instance_id)
        if instance.instance_id in ended or (subject and subject.state == subjects.RETIRED):
            retired.append(instance.instance_id)
            continue
        subjects.register(
            session,
            instance_id=instance.instance_id,
            tenant_id=instance.tenant_id,
            dns_names=instance.engine_dns_names,
            ip_addresses=instance.engine_ip_addresses,
            now=now,
        )
        audit.append(
            session,
            now=now,
            actor=_ACTOR,
            action="register-subject",
            subject=instance.instance_id,
            detail={"tenant": instance.tenant_id},
        )
        quarantines += _quarantine(session, known, instance.instance_id, now)
    return _Counts(
        instances=len(found) - len(retired),
        denials=len(known.denied),
        quarantines=quarantines,
        retired=retired,
    )


def _quarantine(session: Session, known: _Known, instance_id: str, now: dt.datetime) -> bool:
    """Put the instance where the records left it: its key may exist twice still."""
    why = known.quarantined.get(instance_id)
    if why is None:
        return False
    detail = {"from": "exported audit"}
    return quarantine.begin(session, instance_id, why, actor=_ACTOR, now=now, detail=detail)


def _told(epoch: int, known: _Known, counts: _Counts, now: dt.datetime) -> list[Row]:
    rows: list[Row] = [
        {"what": "epoch", "value": epoch},
        {"what": "authorities", "value": len(known.certificates)},
        {"what": "instances registered", "value": counts.instances},
        {"what": "denials replayed", "value": counts.denials},
        {"what": "quarantines replayed", "value": counts.quarantines},
        {"what": "not covered", "value": _uncovered(known, now)},
    ]
    if known.keyless:
        rows.append({"what": "keys never certified", "value": ", ".join(known.keyless)})
    if counts.retired:
        rows.append({"what": "identity had ended", "value": ", ".join(counts.retired)})
    rows.append(
        {
            "what": "next",
            "value": "start the issuer; deny again what was denied, or came into quarantine, in "
            "the time not covered",
        }
    )
    return rows


def _uncovered(known: _Known, now: dt.datetime) -> str:
    """Since when denials and quarantines may be missing, and how many records certainly are."""
    until = f"{now:%FT%TZ}"
    last = max(known.checkpoints, key=lambda each: (each.epoch, each.sequence), default=None)
    numbers = {record.sequence for record in known.records}
    if not numbers:
        signed = f"; at least {last.sequence} records are lost" if last else ""
        return f"everything until {until}: no audit was exported{signed}"
    gaps = [number for number in range(1, max(numbers)) if number not in numbers]
    newest = max(known.records, key=lambda record: record.sequence)
    said = f"{newest.time} to {until}"
    behind = last.sequence - newest.sequence if last else 0
    if behind > 0:
        said += f"; {behind} records behind {newest.sequence} were signed and not exported"
    if gaps:
        said += f"; {len(gaps)} records before it are in no file, the first is {gaps[0]}"
    return said
