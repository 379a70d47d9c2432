"""docs/how-to/keep-keys-in-barbican.md, word for word, but for names of hosts and directories."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pki.custody.barbican import BarbicanCustody
from pki.custody.settings import BarbicanSettings
from pki.requests import new_key
from tests.openstack.harness.cloud import Cloud
from trove_grpc import config

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "how-to" / "keep-keys-in-barbican.md").read_text()
PASSWORD = "a password of the test"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def run(cloud: Cloud, script: str, **who: str) -> None:
    """In a shell, as whom `OS_` variables say."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(cloud.state.root),
        "OS_AUTH_URL": cloud.keystone.auth_url,
        "OS_IDENTITY_API_VERSION": "3",
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        **who,
    }
    subprocess.run(
        ["sh", "-eu"], input=script, env=environment, check=True, text=True, timeout=200
    )


def test_how_to_ends_with_a_custody_that_works(openstack: Cloud, private_directory: Path) -> None:
    in_openstack, on_the_host = blocks("sh")
    run(
        openstack,
        # There is no terminal to ask.
        in_openstack.replace("--password-prompt", f"--password '{PASSWORD}'"),
        OS_USERNAME="admin",
        OS_PASSWORD=openstack.state.secret("admin"),
        OS_PROJECT_NAME="admin",
    )
    run(
        openstack,
        on_the_host.replace("/etc/trove/issuer", str(private_directory)),
        OS_USERNAME="trove-issuer",
        OS_PASSWORD=PASSWORD,
        OS_PROJECT_NAME="trove-pki",
    )
    (settings,) = blocks("toml")
    file = private_directory / "barbican.toml"
    file.write_text(
        settings.replace("[barbican]", "")
        .replace("https://keystone.example:5000/v3", openstack.keystone.auth_url)
        .replace("/etc/trove/issuer", str(private_directory))
    )
    custody = BarbicanCustody(config.load(BarbicanSettings, file=file), "how-to.trove")
    custody.prepare()
    custody.store("guest-g1", new_key())
    custody.load("guest-g1")
    custody.delete("guest-g1")


def test_every_reason_that_is_raised_is_in_the_how_to() -> None:
    raised = {
        reason
        for module in (ROOT / "pki" / "custody").glob("*.py")
        for reason in re.findall(r'"((?:CUSTODY|KEK|KEY)_[A-Z_]+)"', module.read_text())
    }
    assert {reason for reason in raised if f"`{reason}`" not in TEXT} == set()
