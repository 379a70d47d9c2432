"""The walls of the house stand: contracts between packages, protos, stubs, lock, ports."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
PACKAGES = (
    "trove_grpc",
    "pki",
    "guestagent",
    "conductor",
    "taskmanager",
    "gateway",
    "trovectl",
)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def sources() -> list[Path]:
    return [
        path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if "gen" not in path.relative_to(ROOT).parts
    ]


def test_no_import_crosses_a_wall():
    result = run(BIN / "lint-imports", "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_committed_stubs_are_fresh():
    result = run(sys.executable, "tools/generate_stubs.py", "--check")
    assert result.returncode == 0, result.stderr


def test_the_protos_follow_the_rules_and_break_no_agent_in_the_field():
    for arguments in (("lint",), ("breaking", "--against", "protos/baseline.binpb")):
        result = run(BIN / "buf", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_proto_baseline_has_its_reason_in_an_adr():
    digest = hashlib.sha256((ROOT / "protos" / "baseline.binpb").read_bytes()).hexdigest()
    records = "".join(path.read_text() for path in (ROOT / "docs" / "adr").glob("*.md"))
    assert digest in records, f"no ADR names the baseline {digest}; write one that says why"


PLAINTEXT = {"add_insecure_port", "insecure_channel", "insecure_server_credentials"}
UNTRUSTED_NAMES = {"peer_identities", "peer_identity_key", "id_as_bytes"}
UNTRUSTED_PROPERTIES = {
    "x509_subject_alternative_name",
    "x509_common_name",
    "peer_spiffe_id",
    "peer_uri",
}


def test_nothing_opens_a_plaintext_grpc_port_or_channel():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.attr}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in PLAINTEXT
    ]
    assert found == []


def test_only_the_kit_adds_ports_and_opens_channels():
    kit = {ROOT / "trove_grpc" / "server.py", ROOT / "trove_grpc" / "client.py"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.attr}"
        for path in sources()
        if path not in kit
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"add_secure_port", "secure_channel"}
    ]
    assert found == []


def test_nothing_reads_a_name_that_grpc_cuts_at_a_nul():
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            text = node.value if isinstance(node, ast.Constant) else ""
            if name in UNTRUSTED_NAMES or text in UNTRUSTED_PROPERTIES:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_only_the_agents_system_module_and_the_supervisor_start_processes():
    allowed = re.compile(r"^(guestagent/(system|launcher)|trovectl/)")
    found = [
        str(path.relative_to(ROOT))
        for path in sources()
        if not allowed.match(str(path.relative_to(ROOT)))
        and re.search(r"\bsubprocess\b|create_subprocess|os\.system|os\.exec", path.read_text())
    ]
    assert found == []


def test_the_lock_is_hashed_and_names_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^[\w.-]+(?:\[[\w,-]+\])?==", lock, re.MULTILINE)
    assert len(pins) > 50
    assert lock.count("--hash=sha256:") >= len(pins)
    assert "://" not in lock


def test_every_dependency_is_locked():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *(
            line
            for extra in project["project"]["optional-dependencies"].values()
            for line in extra
        ),
        *project["dependency-groups"]["dev"],
    ]
    lock = (ROOT / "requirements.lock").read_text().lower()
    missing = [
        line
        for line in wanted
        if not re.search(rf"^{re.match('[A-Za-z0-9._-]+', line)[0].lower()}==", lock, re.MULTILINE)
    ]
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_by_string(package):
    found = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.relative_to(ROOT).parts[0] == package
        and re.search(r"\bimportlib\.import_module\b|__import__\(", path.read_text())
    ]
    assert found == []
