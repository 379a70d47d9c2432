"""Break one promise at a time in a copy of the tree; each must make its test fail.

A test that cannot fail proves nothing. Each mutation names the smallest test run that should
notice it; the run must pass on the untouched copy and fail on the broken one. Each identity,
authorisation, enrolment and revocation check has its own, in the modules beside this one.
"""

from __future__ import annotations

import argparse
import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.mutations import (
    administration,
    authorisation,
    enrolment,
    identity,
    quarantine,
    revocation,
    tokens,
)
from tests.mutations.mutation import HOUSE, LISTENERS, Mutation

ROOT = Path(__file__).resolve().parents[2]


ROTATING = "tests/integration/trove_grpc/test_rotating_listener.py"
STORING = "tests/integration/guestagent/test_storing.py"
STUBS = ("tools/generate_stubs.py",)

HOUSE_MUTATIONS = (
    Mutation(
        promise="processes never import each other",
        file="gateway/rest/__init__.py",
        old='"""',
        new='import conductor.status  # noqa: F401\n"""',
        tests=f"{HOUSE}::test_no_import_crosses_a_wall",
    ),
    Mutation(
        promise="the guest never imports the CA",
        file="guestagent/__init__.py",
        old='"""',
        new='import pki.authority  # noqa: F401\n"""',
        tests=f"{HOUSE}::test_no_import_crosses_a_wall",
    ),
    Mutation(
        promise="there is no plaintext port",
        file="trove_grpc/server.py",
        old="return server.add_secure_port(listen, credentials)",
        new="return server.add_insecure_port(listen)",
        tests=HOUSE,
    ),
    Mutation(
        promise="a plaintext peer gets nothing",
        file="trove_grpc/server.py",
        old="return server.add_secure_port(listen, credentials)",
        new='return getattr(server, "add_insecure" + "_port")(listen)',
        tests=LISTENERS,
    ),
    Mutation(
        promise="every method has an authorisation row",
        file="trove_grpc/authorization.py",
        old='    f"{_ISSUER}/RetireSubject": _TASKMANAGER,\n',
        new="",
        tests="tests/unit/trove_grpc/test_authorization.py",
    ),
    Mutation(
        promise="the table says what the comment says",
        file="trove_grpc/authorization.py",
        old='    f"{_ISSUER}/RetireSubject": _TASKMANAGER,\n',
        new='    f"{_ISSUER}/RetireSubject": _TASKMANAGER | _GUEST,\n',
        tests="tests/unit/trove_grpc/test_authorization.py",
    ),
    Mutation(
        promise="stubs are fresh",
        file="protos/trove/guest/v1/guest_session_service.proto",
        old="// First message of a session.",
        new="// The first message of a session.",
        tests=f"{HOUSE}::test_the_committed_stubs_are_fresh",
    ),
    Mutation(
        promise="no proto field is renumbered",
        file="protos/trove/guest/v1/guest_session_service.proto",
        old="string machine_id_hash = 2;",
        new="string machine_id_hash = 12;",
        tests=f"{HOUSE}::test_the_protos_follow_the_rules_and_break_no_agent_in_the_field",
        then=STUBS,
    ),
    Mutation(
        promise="secrets are masked",
        file="trove_grpc/redaction.py",
        old="if field.GetOptions().debug_redact:",
        new="if not field.GetOptions():",
        tests="tests/unit/trove_grpc/test_redaction.py",
    ),
    Mutation(
        promise="a report of an older session is dropped",
        file="conductor/presence.py",
        old="if entry is None or reported.session_epoch != entry.presence.session_epoch:",
        new="if entry is None:",
        tests="tests/unit/conductor/test_presence.py",
    ),
    Mutation(
        promise="only its agent commands an engine's launcher",
        file="guestagent/launcher.py",
        old="if _peer_uid(writer) != self._agent_uid:",
        new="if _peer_uid(writer) < 0:",
        tests="tests/integration/guestagent/test_system.py",
    ),
    Mutation(
        promise="an agent keeps its place while its gateway is away",
        file="guestagent/reconnect.py",
        old="self._place += (missed + 1) * window",
        new="self._place = now + self._backoff.next()",
        tests="tests/unit/guestagent/test_reconnect.py",
    ),
    Mutation(
        promise="undo waits for a failed step, never for an error of the flow engine",
        file="taskmanager/flows.py",
        old="except StepFailedError",
        new="except BaseException",
        tests="tests/integration/taskmanager/test_flows.py tests/unit/taskmanager",
    ),
    Mutation(
        promise="a listener survives a change of its identity",
        file="trove_grpc/tls.py",
        old="time.sleep(settle)",
        new="time.sleep(0)",
        tests=ROTATING,
    ),
    Mutation(
        promise="a crash after staging leaves no request whose key is spent",
        file="guestagent/identity.py",
        old="        self.forget_next_request()\n        self.directory.promote()",
        new="        self.directory.promote()",
        tests=f"{STORING}::test_guest_killed_before_and_after_every_file_operation_and_again_"
        "comes_up_whole",
    ),
    Mutation(
        promise="an engine's certificate follows the database authority",
        file="guestagent/database_authority.py",
        old="return left <= 0",
        new="return False",
        tests="tests/unit/guestagent/test_database_authority.py",
    ),
    Mutation(
        promise="a service renews when another generation signs",
        file="pki/renewal.py",
        old="return active is not None and active != _issuer_key_id(leaf)",
        new="return False",
        tests="tests/integration/pki/test_service_rotation.py",
    ),
)

MUTATIONS = (
    *HOUSE_MUTATIONS,
    *identity.MUTATIONS,
    *authorisation.MUTATIONS,
    *administration.MUTATIONS,
    *tokens.MUTATIONS,
    *enrolment.MUTATIONS,
    *revocation.MUTATIONS,
    *quarantine.MUTATIONS,
)


def run_tests(tree: Path, tests: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *shlex.split(tests),
    ]
    return subprocess.run(
        command,
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def copy_tree(to: Path) -> Path:
    ignored = shutil.ignore_patterns(".git", ".venv", ".state", "build", "__pycache__", ".*_cache")
    return Path(shutil.copytree(ROOT, to, ignore=ignored))


def noticed(mutation: Mutation, tree: Path) -> bool:
    """Apply, test, restore; True when the tests failed as they should."""
    file = tree / mutation.file
    original = file.read_text()
    generated = tree / "trove_grpc" / "gen"
    kept = tree.parent / "gen"
    shutil.copytree(generated, kept)
    try:
        file.write_text(original.replace(mutation.old, mutation.new, 1))
        if mutation.then:
            subprocess.run([sys.executable, *mutation.then], cwd=tree, check=True, timeout=120)
        return run_tests(tree, mutation.tests).returncode == 1  # 1: tests ran, some failed
    finally:
        file.write_text(original)
        shutil.rmtree(generated)
        shutil.move(kept, generated)


def check_sources(mutations: Sequence[Mutation]) -> None:
    """A change that no longer applies proves nothing: say so before anything runs."""
    for mutation in mutations:
        if mutation.old not in (ROOT / mutation.file).read_text():
            raise SystemExit(
                f"{mutation.promise}: {mutation.file} has no {mutation.old!r}; mend it"
            )


class Lanes:
    """Copies of the tree, each for one run at a time."""

    def __init__(self, folder: Path, count: int) -> None:
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(count):
            self._free.put(copy_tree(folder / str(number) / "tree"))
        self.count = count

    def map(self, work: Callable[[Any, Path], Any], items: Sequence[Any]) -> list[Any]:
        """Do `work` on each item with a copy; results in the items' order."""

        def run(item: Any) -> Any:
            tree = self._free.get()
            try:
                return work(item, tree)
            finally:
                self._free.put(tree)

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(run, items))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="promises or files that contain this text")
    parser.add_argument("--lanes", type=int, default=os.cpu_count() or 1, help="runs at once")
    options = parser.parse_args()
    chosen = [each for each in MUTATIONS if options.only in f"{each.file} {each.promise}"]
    check_sources(chosen)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lanes = Lanes(Path(folder), options.lanes)
        tests = sorted({mutation.tests for mutation in chosen})
        for which, result in zip(
            tests, lanes.map(lambda each, tree: run_tests(tree, each), tests), strict=True
        ):
            if result.returncode:
                print(result.stdout[-3000:])
                print(f"{which} fails without any mutation; mend that first")
                return 2

        def judge(mutation: Mutation, tree: Path) -> bool:
            caught = noticed(mutation, tree)
            print(f"{'noticed ' if caught else 'SURVIVED'}  {mutation.promise}", flush=True)
            return caught

        survived = lanes.map(judge, chosen).count(False)
    print(
        f"{len(chosen) - survived} passed, {survived} failed, "
        f"{(time.monotonic() - began) / 60:.1f} min"
    )
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
