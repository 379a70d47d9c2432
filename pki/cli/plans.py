"""Before something is destroyed: say what will happen, and let somebody consent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pki.cli.exits import CommandError, Exit
from pki.cli.invocation import Invocation


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command is about to do to `name`."""

    title: str
    name: str  # what somebody types to consent
    steps: Sequence[str] = ()


def is_agreed(invocation: Invocation, plan: Plan) -> bool:
    """Show the plan and get consent; False when showing it was all that was asked.

    Raises CommandError (refused) without `--yes` and without somebody who types the name.
    """
    console = invocation.console
    if invocation.options.dry_run:
        if console.is_for_people:
            for line in _lines(plan):
                console.line(line)
        else:
            console.document([{"plan": plan.title, "name": plan.name, "steps": list(plan.steps)}])
        return False
    for line in _lines(plan):
        console.note(line)
    if invocation.options.yes:
        return True
    if not console.is_interactive:
        raise CommandError(Exit.REFUSED, "nothing was changed: repeat with --yes to do it")
    if console.ask(f"Type {plan.name} to do it: ") != plan.name:
        raise CommandError(Exit.REFUSED, f"nothing was changed: that was not {plan.name}")
    return True


def _lines(plan: Plan) -> list[str]:
    numbered = [f"  {number} {step}" for number, step in enumerate(plan.steps, start=1)]
    return [f"Plan: {plan.title}", *numbered]
