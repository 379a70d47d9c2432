"""Backups of the issuer: one encrypted archive with all that a new machine needs.

In it: the keys as custody wraps them, their certificates, every row of the database as of one
moment, the exported checkpoints. Not in it: the passphrase, which must lie elsewhere.
"""

from __future__ import annotations

import base64
import datetime as dt
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from sqlalchemy.orm import Session

from pki.custody import CustodyError, FileCustody
from pki.custody.private_files import create_private_file, read_private_file
from pki.disaster.archive import ArchiveWriter, read_archive
from pki.issuer import seal
from pki.issuer.checkpoints import CheckpointFile, SealedError, Statement, is_signed_by
from pki.issuer.config import FILES, Config
from pki.issuer.custody import open_custody
from pki.issuer.diary import Diary
from pki.models import AuditRecord
from pki.store import Store, audit, authorities, dump
from trove_grpc.errors import ConflictError

Row = Mapping[str, Any]
_KEPT = (".key", ".crt")


def create(config: Config, target: Path) -> list[Row]:
    """Write a backup while the issuer serves; what a person is told of it.

    The backup is in the audit, and a checkpoint is exported before the database is read: a
    later restore of it can be told from the newest state.
    """
    passphrase = _passphrase(config)
    store = _open(config)
    try:
        store.migrate()
        diary = Diary(store, open_custody(config), config)
        diary.open()
        now = dt.datetime.now(dt.UTC)
        store.run_now(
            lambda session: audit.append(
                session, now=now, actor="backup", action="create-backup", subject=str(target)
            )
        )
        diary.checkpoint()
        counts: Counter[str] = Counter()
        with ArchiveWriter(target, passphrase) as archive, dump.snapshot(store) as connection:
            with Session(connection) as session:
                manifest = _manifest(session, config, now)
            archive.write(manifest)
            for path in _custody_files(config):
                data = base64.b64encode(read_private_file(path)).decode("ascii")
                archive.write({"kind": "file", "name": path.name, "data": data})
                counts["custody files"] += 1
            for statement in diary.file.read():
                archive.write({"kind": "checkpoint", "line": statement.line()})
            for table, values in dump.rows(connection):
                archive.write({"kind": "row", "table": table, "values": values})
                counts[table] += 1
            archive.write({"kind": "end", "counts": counts})
    finally:
        store.close()
    return [
        {"what": "backup", "value": str(target)},
        *_summary(manifest, counts),
        {"what": "not in it", "value": f"{config.passphrase_file}: keep a copy elsewhere"},
    ]


def verify(config: Config, source: Path) -> list[Row]:
    """Decrypt and check everything a backup holds; changes nothing.

    Raises CustodyError (damaged, other passphrase, a key that does not fit its certificate) or
    SealedError (the audit in it does not hold).
    """
    found = _read(config, source)
    _check_keys(config, found)
    _check_audit(found)
    return [{"what": "backup", "value": str(source)}, *_summary(found.manifest, found.counts)]


def restore(config: Config, source: Path, *, verify_only: bool = False) -> list[Row]:
    """Fill an empty database and an empty custody from a backup.

    A file in custody that is equal to the backup's stays. Raises ConflictError where anything
    else is in the way: what is there may be all that is left.
    """
    told = verify(config, source)
    if verify_only:
        return told
    found = _read(config, source)
    _refuse_foreign_files(config, found)
    store = _open(config)
    try:
        store.migrate()
        with store.engine.begin() as connection:
            if not dump.is_empty(connection):
                raise ConflictError(
                    "the database is not empty; a restore replaces nothing: move it away first",
                    reason="NOT_EMPTY",
                )
            for table, values in found.rows:
                dump.insert(connection, table, values)
            dump.continue_numbers(connection)
        _put_files(config, found)
        return [*told, _seal_row(config, store, found)]
    finally:
        store.close()


@dataclass(slots=True)
class _Contents:
    """A backup in memory: the database of an issuer is small."""

    manifest: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    checkpoints: list[Statement] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def table(self, name: str) -> Iterator[dict[str, Any]]:
        return (values for table, values in self.rows if table == name)


def _read(config: Config, source: Path) -> _Contents:
    lines = read_archive(source, _passphrase(config))
    found = _Contents(next(lines, {}))
    if found.manifest.get("kind") != "manifest":
        raise CustodyError(f"{source} begins with no manifest; take another backup")
    end: dict[str, Any] = {}
    for line in lines:
        match line["kind"]:
            case "file":
                found.files[line["name"]] = base64.b64decode(line["data"])
                found.counts["custody files"] += 1
            case "checkpoint":
                found.checkpoints.append(Statement.from_line(line["line"]))
            case "row":
                found.rows.append((line["table"], line["values"]))
                found.counts[line["table"]] += 1
            case "end":
                end = line
    if end.get("counts") != dict(found.counts):
        raise CustodyError(f"{source} does not hold what its end says; take another backup")
    if found.manifest["trust_domain"] != config.trust_domain:
        raise ConflictError(
            f"{source} is of trust domain {found.manifest['trust_domain']}, the configuration "
            f"says {config.trust_domain}",
            reason="OTHER_TRUST_DOMAIN",
        )
    return found


def _check_keys(config: Config, found: _Contents) -> None:
    """Every key decrypts and fits the certificate that the database has of it."""
    if found.manifest["custody"] != FILES:
        return
    with tempfile.TemporaryDirectory(prefix="trove-pki-") as name:
        for file_name, data in found.files.items():
            create_private_file(Path(name) / file_name, data)
        custody = FileCustody(Path(name), config.passphrase_file)
        for row in found.table("authorities"):
            key_name = row["key_name"]
            if row["state"] == "DESTROYED" or f"{key_name}.key" not in found.files:
                continue
            pem = base64.b64decode(row["certificate_pem"]["base64"])
            certificate = x509.load_pem_x509_certificate(pem)
            if custody.load(key_name).public_key() != certificate.public_key():
                raise CustodyError(
                    f"the key {key_name} in the backup is not that of its certificate"
                )
        audit_key = custody.load(seal.AUDIT_KEY).public_key()
    for statement in found.checkpoints:
        if not is_signed_by(statement, audit_key):
            raise SealedError(
                f"checkpoint {statement.sequence} in the backup is not signed by its audit key"
            )


def _check_audit(found: _Contents) -> None:
    check = audit.ChainCheck()
    hashes = {}
    for values in found.table("audit"):
        record = AuditRecord(**values)
        if not check.follows(record):
            raise SealedError(f"audit record {check.position + 1} in the backup was edited")
        hashes[record.sequence] = record.hash
    for values in found.table("checkpoints"):
        if hashes.get(values["sequence"]) != values["hash"]:
            raise SealedError(
                f"the audit in the backup is not what checkpoint {values['sequence']} signed"
            )


def _refuse_foreign_files(config: Config, found: _Contents) -> None:
    for path in _custody_files(config):
        if found.files.get(path.name) != read_private_file(path):
            raise ConflictError(
                f"{path} is not in the backup as it is here; a restore replaces no key: move "
                "custody away first",
                reason="NOT_EMPTY",
            )


def _put_files(config: Config, found: _Contents) -> None:
    config.custody_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    present = {path.name for path in _custody_files(config)}
    for name, data in found.files.items():
        if name not in present:
            create_private_file(config.custody_directory / name, data)
    file = CheckpointFile(config.checkpoints_path)
    if not file.read():
        for statement in found.checkpoints:
            file.append(statement)


def _seal_row(config: Config, store: Store, found: _Contents) -> Row:
    """What the issuer will say of this database."""
    file = CheckpointFile(config.checkpoints_path)
    try:
        store.run_now(lambda session: seal.compare(session, file.read()))
    except SealedError as error:
        return {"what": "next", "value": f"trove-pki rebuild: {error.message}"}
    if not found.checkpoints:
        return {"what": "next", "value": "start the issuer: there is no checkpoint to compare"}
    return {"what": "next", "value": "start the issuer: nothing newer than this backup is known"}


def _manifest(session: Session, config: Config, now: dt.datetime) -> dict[str, Any]:
    domain = authorities.domain(session)
    sequence, row_hash = audit.head(session)
    return {
        "kind": "manifest",
        "trust_domain": domain.trust_domain,
        "epoch": domain.epoch,
        "create_time": now.isoformat(timespec="seconds"),
        "custody": config.custody,
        "audit_sequence": sequence,
        "audit_hash": row_hash,
        "authorities": len(authorities.list_all(session)),
    }


def _summary(manifest: Mapping[str, Any], counts: Mapping[str, int]) -> Sequence[Row]:
    return [
        {"what": "made", "value": manifest["create_time"]},
        {"what": "trust domain", "value": manifest["trust_domain"]},
        {"what": "epoch", "value": manifest["epoch"]},
        {"what": "audit", "value": f"{manifest['audit_sequence']} records"},
        {
            "what": "keys",
            "value": f"{counts.get('custody files', 0)} files of custody"
            if manifest["custody"] == FILES
            else f"in {manifest['custody']}, not in this archive",
        },
        {"what": "instances", "value": counts.get("subjects", 0)},
        {"what": "certificates", "value": counts.get("certificates", 0)},
        {"what": "denials", "value": counts.get("denials", 0)},
    ]


def _custody_files(config: Config) -> list[Path]:
    if config.custody != FILES or not config.custody_directory.exists():
        return []
    return sorted(each for each in config.custody_directory.iterdir() if each.suffix in _KEPT)


def _passphrase(config: Config) -> bytes:
    passphrase = read_private_file(config.passphrase_file).strip()
    if not passphrase:
        raise CustodyError(f"{config.passphrase_file} is empty; restore it from its own copy")
    return passphrase


def _open(config: Config) -> Store:
    return Store(config.database_url, password_file=config.database_password_file)
