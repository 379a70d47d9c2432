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
from tests.openstack.conftest import Place
from tests.openstack.harness.cloud import Cloud
from trove_grpc import config
from trovectl import toml

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


def trove_pki(*words: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "trove-pki", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr


def test_how_to_moves_the_keys(place: Place) -> None:
    migrate, verify, clear = re.findall(r"^ +trove-pki (custody .*)$", TEXT, re.MULTILINE)
    file = place.root / "issuer.toml"
    in_files = toml.dumps(
        {
            "identity": place.root / "identity",
            "operator_socket": place.root / "run" / "operator.sock",
            "database_url": f"sqlite:///{place.root}/pki.db",
            "custody_directory": place.root / "custody",
            "passphrase_file": place.root / "secret" / "passphrase",
            "trust_domain": place.trust_domain,
            "barbican": {
                "auth_url": place.settings.auth_url,
                "credential_file": place.settings.credential_file,
                "kek_file": place.settings.kek_file,
            },
        }
    )
    file.write_text(in_files)

    def follow(command: str) -> None:
        trove_pki(*command.replace("/etc/trove/issuer.toml", str(file)).split(), "--yes")

    trove_pki("init", "--config", str(file))
    follow(migrate)
    follow(verify)
    file.write_text(f'custody = "barbican"\n{in_files}')
    follow(clear)
    assert list((place.root / "custody").glob("*.key")) == []
    trove_pki("custody", "verify", "--config", str(file))
    trove_pki("custody", "status", "--config", str(file))


def test_every_reason_that_is_raised_is_in_the_how_to() -> None:
    raised = {
        reason
        for module in (ROOT / "pki" / "custody").glob("*.py")
        for reason in re.findall(r'"((?:CUSTODY|KEK|KEY)_[A-Z_]+)"', module.read_text())
    }
    assert {reason for reason in raised if f"`{reason}`" not in TEXT} == set()
