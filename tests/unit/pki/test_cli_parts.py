"""Small parts of the command line: times, completion, bundles for others, the reference."""

from __future__ import annotations

import argparse
import datetime as dt
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pki.cli import completion, exits, program, spiffe_bundles, times
from pki.cli.exits import Exit
from pki.cli.grammar import spellings
from tests.fakes.certificates import TestAuthority
from trove_grpc import errors

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (dt.timedelta(days=3650), "10y"),
        (dt.timedelta(days=262), "262d"),
        (dt.timedelta(hours=47), "47h"),
        (dt.timedelta(minutes=22), "22m"),
        (dt.timedelta(seconds=4), "4s"),
        (-dt.timedelta(hours=3), "-3h"),
    ],
)
def test_spans_are_written_in_the_unit_that_says_enough(span, text):
    assert times.span(span) == text


def test_spans_are_read_with_and_without_a_unit():
    assert times.parse_span("90") == times.parse_span("90s") == dt.timedelta(seconds=90)
    assert times.parse_span("1.5h") == dt.timedelta(minutes=90)
    for text in ("", "0", "-1h", "soon", "1w"):
        with pytest.raises(argparse.ArgumentTypeError):
            times.parse_span(text)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequestError("x"), Exit.USAGE),
        (errors.ConflictError("x"), Exit.REFUSED),
        (errors.AlreadyExistsError("x"), Exit.ERROR),
        (errors.UnavailableError("x"), Exit.UNREACHABLE),
        (errors.DeadlineError("x"), Exit.UNREACHABLE),
        (errors.UnavailableError("x", reason="NO_IDENTITY"), Exit.ERROR),
        (errors.PermissionDeniedError("x"), Exit.ERROR),
        (errors.TroveError("x", reason="CUSTODY_OTHER_KEY"), Exit.INTEGRITY),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error, status):
    assert exits.status_of(error) is status


def test_bundle_for_others_is_read_back_and_holds_the_root_alone():
    authority = TestAuthority()
    parsed = spiffe_bundles.parse(spiffe_bundles.render(authority.bundle(7)), "other.trove")
    assert (parsed.trust_domain, parsed.sequence) == ("other.trove", 7)
    roots = [each.certificate_pem for each in authority.bundle().authorities if each.kind == 1]
    assert list(parsed.root_pems) == roots


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": [{}]}', '{"keys": [{"use": "x509-svid", "x5c": ["!"]}]}']
)
def test_what_is_no_bundle_is_refused(text):
    with pytest.raises(errors.InvalidRequestError):
        spiffe_bundles.parse(text, "other.trove")


def completed(*words: str) -> set[str]:
    script = completion.bash(program.build_parser())
    ask = (
        f"{script}\nCOMP_WORDS=({' '.join(words)} '')\nCOMP_CWORD={len(words)}\n"
        '_trove_pki\nprintf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-euc", ask], capture_output=True, text=True, check=True, timeout=30
    )
    return set(done.stdout.split())


def test_bash_completes_verbs_flags_and_choices():
    assert {"rotate", "agents", "--output"} <= completed("trove-pki")
    assert {"plan", "start", "retire"} <= completed("trove-pki", "rotate")
    assert {"intermediate", "--auto", "--wait"} <= completed("trove-pki", "rotate", "start")
    assert "plan" in completed("trove-pki", "--yes", "rotate")


def test_completion_knows_every_command():
    parser = program.build_parser()
    for script in (completion.bash(parser), completion.zsh(parser)):
        for spelling in spellings(parser):
            assert f'"_{" ".join(spelling.path)}"' in script


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh on this host")
def test_zsh_reads_its_script():
    script = completion.zsh(program.build_parser())
    subprocess.run(["zsh", "-n"], input=script, text=True, check=True, timeout=30)


def test_every_command_says_what_it_is_for():
    assert all(spelling.summary for spelling in spellings(program.build_parser()))


def test_the_reference_is_fresh():
    done = subprocess.run(
        [sys.executable, "tools/generate_cli_reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
