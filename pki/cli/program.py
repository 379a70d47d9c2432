"""`trove-pki` from its arguments to its exit code."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Sequence

from pki.cli import exits
from pki.cli.console import Console
from pki.cli.exits import CommandError, Exit
from pki.cli.grammar import DEFAULTS, Verbs, add_global_options
from pki.cli.invocation import Invocation
from pki.cli.verbs import (
    agents,
    audit,
    authorities,
    breakglass,
    bundles,
    certificates,
    completion,
    custody,
    diagnosis,
    federation,
    init,
    overview,
    recovery,
    rotations,
    services,
    tokens,
)
from trove_grpc import logs, process
from trove_grpc.errors import TroveError

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments, argparse.Namespace(**DEFAULTS))
    logs.configure("trove-pki", level="WARNING")
    process.harden()
    console = Console(out=sys.stdout, notes=sys.stderr, source=sys.stdin, form=options.output)
    return run(Invocation(options, console, dt.datetime.now(dt.UTC)))


def run(invocation: Invocation) -> int:
    """Carry out one command; every error that is meant for people becomes a line and a code."""
    console = invocation.console
    try:
        status: Exit = invocation.options.run(invocation)
    except CommandError as error:
        console.note(f"trove-pki: {error.message}")
        return error.status
    except TroveError as error:
        console.note(f"trove-pki: {error.message}")
        return exits.status_of(error)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        console.note(f"trove-pki: {named}{error.strerror or error}")
        return Exit.ERROR
    except KeyboardInterrupt:
        console.note("trove-pki: interrupted; what the issuer began goes on without you")
        return _INTERRUPTED
    return status


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trove-pki",
        description="Certificates of the control plane, its guests and their databases.",
        epilog=exits.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_global_options(parser)
    verbs = Verbs(parser)
    for module in (
        init,
        overview,
        diagnosis,
        certificates,
        authorities,
        bundles,
        tokens,
        agents,
        services,
        rotations,
        federation,
        custody,
        audit,
        recovery,
        breakglass,
        completion,
    ):
        module.register(verbs)
    return parser
