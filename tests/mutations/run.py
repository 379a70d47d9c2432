"""Break one promise at a time in a copy of the tree; each must make its test fail.

A test that cannot fail proves nothing. Each mutation names the smallest test run that should
notice it; the run must pass on the untouched copy and fail on the broken one.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One textual change and the tests that must notice it."""

    promise: str
    file: str
    old: str
    new: str
    tests: str
    then: tuple[str, ...] = ()  # command to run after the change, for derived files


HOUSE = "tests/unit/house/test_house.py"
LISTENERS = "tests/integration/trove_grpc/test_listeners.py"
ROTATING = "tests/integration/trove_grpc/test_rotating_listener.py"
STORING = "tests/integration/guestagent/test_storing.py"
STUBS = ("tools/generate_stubs.py",)

MUTATIONS = (
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
        promise="what is not in the table is refused",
        file="trove_grpc/authorization.py",
        old="if identity.role not in CALLERS.get(method, frozenset()):",
        new="if identity.role not in CALLERS.get(method, frozenset(Role)):",
        tests=LISTENERS,
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
        promise="an identity has exactly one URI name",
        file="trove_grpc/identity.py",
        old="if len(uris) != 1:",
        new="if len(uris) < 1:",
        tests=LISTENERS,
    ),
    Mutation(
        promise="an identity matches to its very end",
        file="trove_grpc/names.py",
        old=r'r")\Z"',
        new=r'r")$"',
        tests="tests/unit/trove_grpc/test_identity_names.py",
    ),
    Mutation(
        promise="the authority is of the kind the name claims",
        file="trove_grpc/identity.py",
        old="if authority is None or authority.kind != _KIND_BY_ROLE[named.role]:",
        new="if authority is None:",
        tests=LISTENERS,
    ),
    Mutation(
        promise="an expired certificate is refused on a live connection",
        file="trove_grpc/interceptors.py",
        old="        identity.check_validity(caller, self._now())\n",
        new="",
        tests=LISTENERS,
    ),
    Mutation(
        promise="a denied identity is refused",
        file="trove_grpc/interceptors.py",
        old="if self._denials is not None and (refusal := self._denials.refusal(caller)):",
        new="if self._denials is None and (refusal := self._denials.refusal(caller)):",
        tests=LISTENERS,
    ),
    Mutation(
        promise="guest listeners trust guests alone",
        file="trove_grpc/server.py",
        old="GUEST_TRUSTS = frozenset({trust_pb2.AUTHORITY_KIND_GUEST})",
        new="GUEST_TRUSTS = frozenset({trust_pb2.AUTHORITY_KIND_ROOT})",
        tests=LISTENERS,
    ),
    Mutation(
        promise="secrets are masked",
        file="trove_grpc/redaction.py",
        old="if field.GetOptions().debug_redact:",
        new="if not field.GetOptions():",
        tests="tests/unit/trove_grpc/test_redaction.py",
    ),
    Mutation(
        promise="a token is used once",
        file="pki/store/tokens.py",
        old=".where(Token.token_id == token_id, Token.used_at.is_(None), ",
        new=".where(Token.token_id == token_id, ",
        tests="tests/integration/pki/test_enrolment_tokens.py",
    ),
    Mutation(
        promise="a request for a certificate names nothing",
        file="pki/csr.py",
        old="    if subject:\n",
        new="    if subject and extensions:\n",
        tests="tests/unit/pki/test_csr.py",
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
        promise="a stream ends with its certificate",
        file="gateway/guest/session.py",
        old="self.end(Ending(_expired(self.caller)))",
        new="pass",
        tests="tests/integration/gateway_guest/test_sessions.py "
        "tests/integration/gateway_guest/test_refusals.py",
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
        *tests.split(),
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
    ignored = shutil.ignore_patterns(".git", ".venv", ".state", "__pycache__", ".*_cache")
    return Path(shutil.copytree(ROOT, to, ignore=ignored))


def noticed(mutation: Mutation, tree: Path) -> bool:
    """Apply, test, restore; True when the tests failed as they should."""
    file = tree / mutation.file
    original = file.read_text()
    if mutation.old not in original:
        raise SystemExit(f"{mutation.promise}: {mutation.file} has no {mutation.old!r}; mend it")
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


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder) / "tree")
        for tests in sorted({mutation.tests for mutation in MUTATIONS}):
            result = run_tests(tree, tests)
            if result.returncode:
                print(result.stdout[-3000:])
                print(f"{tests} fails without any mutation; mend that first")
                return 2
        survived = 0
        for mutation in MUTATIONS:
            caught = noticed(mutation, tree)
            survived += not caught
            print(f"{'noticed ' if caught else 'SURVIVED'}  {mutation.promise}", flush=True)
    print(f"{len(MUTATIONS) - survived} passed, {survived} failed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
