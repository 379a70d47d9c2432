"""Where rotations are killed, and how what is left of them is judged."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from pki.custody import FileCustody
from pki.issuer import bootstrap, rotations
from pki.issuer.config import Config
from pki.store import Store, audit, authorities
from pki.store import rotations as rows

_SCRIPT = Path(__file__).with_name("issuer_process.py")
_PROJECT = Path(__file__).parents[2]
_SHORT = dt.timedelta(milliseconds=50)
_POINTS = ("before", "effect", "after")
# A step beside the phases: keys go to custody, which no transaction takes back.
_KEYS = [("KEYS", "before"), ("KEYS", "effect")]
CASES = _KEYS + [(phase, point) for phase in rows.OPEN for point in _POINTS]


def config_of(root: Path, database_url: str) -> Config:
    return Config(
        identity=root / "identity",
        operator_socket=root / "run" / "operator.sock",
        database_url=database_url,
        custody_directory=root / "custody",
        passphrase_file=root / "secret" / "passphrase",
        rotation_poll=_SHORT,
        rotation_lease=10 * _SHORT,
        rotation_soak=_SHORT,
        rotation_spread=_SHORT,
        rotation_bundle_poll=_SHORT,
        log_level="WARNING",
    )


@dataclass
class Case:
    """A root rotation at an issuer that is killed twice and then left alone."""

    root: Path
    database_url: str
    kind: str = rows.ROOT
    authority: str = "root"
    config: Config = field(init=False)
    custody: FileCustody = field(init=False)

    def __post_init__(self) -> None:
        self.config = config_of(self.root, self.database_url)
        self.custody = FileCustody(self.config.custody_directory, self.config.passphrase_file)

    def prepare(self) -> None:
        self.custody.prepare()
        now = dt.datetime.now(dt.UTC)
        with self._store() as store:
            store.migrate()
            store.run_now(lambda s: bootstrap.initialise(s, self.custody, self.config, now))

    def start_rotation(self) -> None:
        now = dt.datetime.now(dt.UTC)
        wanted = rotations.Wanted(kind=self.kind, authority=self.authority)
        with self._store() as store:
            store.run_now(
                lambda s: rotations.start(
                    s,
                    wanted,
                    self.config,
                    request_id="kills",
                    is_automatic=True,
                    spread=None,
                    actor="test",
                    reason="test",
                    now=now,
                )
            )

    def run_until_killed(self, phase: str, point: str, timeout: float = 60) -> int:
        """Exit status; the process may also outlive its point and is then ended."""
        process = self._spawn(phase, point)
        try:
            return process.wait(timeout=timeout)
        finally:
            process.kill()
            process.wait()

    def run_to_the_end(self, timeout: float = 60) -> None:
        process = self._spawn("never", "never")
        ends = time.monotonic() + timeout
        try:
            while self.phase() != rows.RETIRED:
                assert process.poll() is None, "the issuer ended"
                assert time.monotonic() < ends, f"stuck at {self.phase()}"
                time.sleep(0.05)
            process.terminate()
            # A rotation that had ended already leaves no time to catch the signal.
            assert process.wait(timeout=20) in {0, -signal.SIGTERM}
        finally:
            process.kill()
            process.wait()

    def phase(self) -> str:
        with self._store() as store:
            return store.run_now(
                lambda s: rows.page(s, open_only=False, before=None, size=1)[0].phase
            )

    def judge(self) -> None:
        """One key for each generation, and it fits; one signer of each kind; a whole audit."""
        with self._store() as store:
            found = store.run_now(authorities.list_all)
            bad = store.run_now(audit.first_bad_sequence)
            steps = [
                record.detail
                for record in store.run_now(lambda s: audit.after(s, 0, 10_000))
                if record.action == "rotate"
            ]
        assert bad is None
        names = {f"{row.kind}-g{row.generation}" for row in found}
        keys = {name for name in self.custody.names() if not name.startswith("audit")}
        assert keys == names
        for row in found:
            certificate = x509.load_pem_x509_certificate(row.certificate_pem)
            assert self.custody.load(row.key_name).public_key() == certificate.public_key()
        generations = Counter(row.kind for row in found)
        signing = Counter(row.kind for row in found if row.state == authorities.ACTIVE)
        rotated = {row.kind for row in found if row.generation == 2}
        assert set(signing.values()) == {1}
        assert all(generations[kind] == (2 if kind in rotated else 1) for kind in generations)
        assert rotated == {"root", "guest", "service", "operator"}
        assert len(steps) == len(set(steps)), "a step was recorded twice"

    def _spawn(self, phase: str, point: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(_SCRIPT), str(self.root), self.database_url, phase, point]
        return subprocess.Popen(command, cwd=_PROJECT, env={"PYTHONPATH": str(_PROJECT)})

    def _store(self) -> _Opened:
        return _Opened(self.database_url)


class _Opened:
    def __init__(self, database_url: str) -> None:
        self._store = Store(database_url)

    def __enter__(self) -> Store:
        return self._store

    def __exit__(self, *_exception: object) -> None:
        self._store.close()


def kill_twice(case: Case, phase: str, point: str) -> Iterator[str]:
    """Kill at the point, kill the next one there or wherever it stands first, then let it end.

    A point "after" a phase is passed once and for all, so the second death comes at the next.
    """
    case.prepare()
    case.start_rotation()
    assert case.run_until_killed(phase, point) == -9
    yield case.phase()
    second = ("first", "") if point == "after" else (phase, point)
    if case.phase() != rows.RETIRED:
        assert case.run_until_killed(*second) == -9
        yield case.phase()
    case.run_to_the_end()
    yield case.phase()
