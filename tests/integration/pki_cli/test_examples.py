"""Every example of docs/how-to/trove-pki.md is run as it stands there, in order.

On the issuer in memory its answer is compared too: there nothing depends on a pace.
"""

from __future__ import annotations

import datetime as dt
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from pki.cli import spiffe_bundles
from tests.fakes.certificates import TestAuthority
from tests.integration.pki.conftest import private_directory
from tests.integration.pki_cli.conftest import Scene
from tests.integration.pki_cli.real_issuer import running

__all__ = ["private_directory"]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "trove-pki.md"
_EXIT = re.compile(r"\A\[exit (\d)\]\Z")
# What differs from one installation to the next, and from one run to the next.
_VARYING = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>"),
    (r"\b[A-Z][a-z]{2} \d\d, \d{4} \d\d:\d\d UTC", "<time>"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "<time>"),
    (r"trv1\.[\w-]+\.[\w-]+", "<token>"),
    (r"\b[0-9a-f]{12,}\b", "<hex>"),
    (r"\b\d+[ydhms]\b", "<span>"),
    (r"\d+", "<n>"),
    (r"\s+", " "),
)


@dataclass(frozen=True)
class Example:
    command: str
    output: str
    status: int


def examples() -> list[Example]:
    found = []
    for block in re.findall(
        r"^```console\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    ):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.replace("\\\n", " ").partition("\n")
            lines = output.splitlines()
            code = _EXIT.match(lines[-1]) if lines else None
            shown = lines[:-1] if code else lines
            found.append(Example(command, "\n".join(shown), int(code[1]) if code else 0))
    return found


def shape(text: str) -> list[str]:
    for pattern, name in _VARYING:
        text = "\n".join(re.sub(pattern, name, line) for line in text.splitlines())
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_every_documented_example_ends_and_looks_as_documented(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    scene.state.add_agent(is_online=True, gateway_id="gw-1")
    scene.state.add_agent(
        "LOST", command="trove-pki agents reissue-token 00000002-0000-4000-8000-000000000000"
    )
    scene.state.add_service("gateway")
    scene.ask("audit", "checkpoint")
    monkeypatch.setenv("TROVE_PKI_SOCKET", str(scene.fake.socket))
    monkeypatch.chdir(scene.root)
    write_other_region(scene.root)
    assert len(examples()) > 20
    for example in examples():
        words = shlex.split(example.command)
        assert words[0] == "trove-pki", example
        done = scene.run(*words[1:])
        assert done.status == example.status, (example.command, done)
        assert shape(done.notes + done.out) == shape(example.output), example.command


def write_other_region(folder: Path) -> None:
    """The bundle that an operator of the other region has brought."""
    bundle = TestAuthority("region-b.trove").bundle()
    (folder / "region-b.json").write_text(spiffe_bundles.render(bundle))


def test_the_issuer_s_own_process_ends_every_example_with_the_documented_code(
    private_directory: Path, monkeypatch: pytest.MonkeyPatch
):
    with running(private_directory) as (asker, real):
        real.register("00000001-0000-4000-8000-000000000000")
        lost = real.register("00000002-0000-4000-8000-000000000000")
        real.enrol(lost, dt.datetime.now(dt.UTC) - dt.timedelta(days=40))
        monkeypatch.setenv("TROVE_PKI_SOCKET", str(asker.socket))
        monkeypatch.chdir(private_directory)
        write_other_region(private_directory)
        for example in examples():
            words = shlex.split(example.command)
            done = asker.run(*words[1:])
            assert done.status == example.status, (example.command, done)


def test_every_group_of_verbs_has_an_example():
    from pki.cli import program
    from pki.cli.grammar import spellings

    shown = {shlex.split(example.command)[1] for example in examples()}
    wanted = {spelling.path[0] for spelling in spellings(program.build_parser())}
    # A shell script is no example, and the alias is shown by the verb it stands for.
    assert wanted - shown <= {"completion", "deny"} | NEEDS_THE_ISSUERS_HOST


# Run by the tests of disasters and of custody, with an issuer's own directories.
NEEDS_THE_ISSUERS_HOST = {"init", "custody", "backup", "restore", "rebuild"}
