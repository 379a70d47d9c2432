"""The guest's wheel carries the agent and nothing of the control plane."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "tools" / "guest-wheel"
# What a tenant's VM has to carry. Grow it knowingly.
DEPENDENCIES = {
    "cryptography",
    "googleapis-common-protos",
    "grpcio",
    "prometheus-client",
    "protobuf",
}
FORBIDDEN = ("sqlalchemy", "alembic", "aiohttp", "openstack", "dbos", "pki.authority", "conductor")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (built,) = out.glob("*.whl")
    return built


def test_it_holds_the_agent_the_kit_and_the_harmless_part_of_pki(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"guestagent", "trove_grpc", "pki"}
    assert {name for name in names if name.startswith("pki/")} == {
        "pki/__init__.py",
        "pki/py.typed",
        "pki/proof.py",
        "pki/requests.py",
    }


def test_its_dependencies_are_the_agreed_ones(wheel):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    required = {
        line.split(": ")[1].split(">")[0].strip()
        for line in archive.read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist: ")
    }
    assert required == DEPENDENCIES


def test_the_agent_starts_from_it_alone_and_loads_no_control_plane(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    program = (
        "import sys\n"
        f"sys.path = [{str(tmp_path)!r}] + [p for p in sys.path if p] + [{site!r}]\n"
        "import guestagent.__main__, guestagent.launcher\n"
        f"print([name for name in {FORBIDDEN!r} if name in sys.modules])\n"
        "print(guestagent.__file__)\n"
    )
    # -I and -S: neither the checkout nor the editable install may help.
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    loaded, origin = result.stdout.splitlines()
    assert loaded == "[]"
    assert origin.startswith(str(tmp_path))
