"""`completion`: scripts for shells."""

from __future__ import annotations

from pki.cli import completion
from pki.cli.exits import Exit
from pki.cli.grammar import Reach, Verbs
from pki.cli.invocation import Invocation

_SHELLS = {"bash": completion.bash, "zsh": completion.zsh}


def register(verbs: Verbs) -> None:
    verb = verbs.verb(
        "completion", _completion, "a script that completes commands", reach=Reach.NOTHING
    )
    verb.add_argument("shell", choices=_SHELLS)
    verb.set_defaults(whole=verbs.parser)


def _completion(invocation: Invocation) -> Exit:
    options = invocation.options
    invocation.console.raw(_SHELLS[options.shell](options.whole))
    return Exit.OK
