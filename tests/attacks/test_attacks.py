"""Each attack is refused, changes nothing, leaves a trail, and disturbs nobody.

`make test` runs a few of each theme; `make test-attacks` (TROVE_TEST_ATTACKS=all) runs them all.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.attacks.case import ABSENT, DISTRUSTED, FORBIDDEN, HARMLESS, NO_TRAIL, Attack, Outcome
from tests.attacks.catalogue import THEMES
from tests.attacks.scene import Scene

# An agent that refuses a false gateway says so to nobody but its log.
LEAVING_NOTHING = {FORBIDDEN, ABSENT, HARMLESS, DISTRUSTED}
RUN_ALL = os.environ.get("TROVE_TEST_ATTACKS") == "all"
CHOSEN = [
    pytest.param(theme, attack, id=f"{theme}: {attack.name}")
    for theme, attacks in THEMES.items()
    for attack in attacks
    if RUN_ALL or attack.smoke
]


@pytest.mark.parametrize(("theme", "attack"), CHOSEN)
def test_attack(scene: Scene, outcomes: list[Outcome], theme: str, attack: Attack) -> None:
    if attack.needs_root and os.geteuid():
        pytest.skip("needs several users")
    scene.mark()
    began = time.monotonic()
    verdict, reason, trail, failure = "", "", "", ""
    try:
        answer = attack.run(scene)
        verdict, reason = answer.verdict, answer.reason
        assert verdict in attack.expect, f"{verdict} {reason}, not {attack.expect}: {answer}"
        assert attack.reason in ("", reason), f"{reason}, not {attack.reason}: {answer}"
        scene.check_silent(answer)
        trail = scene.find(attack.usual_trail(verdict) if attack.trail is None else attack.trail)
        scene.check_neighbour()
        changed = scene.changed(own=attack.own, allowed=attack.changes)
        assert not changed, f"state changed: {changed}"
    except AssertionError as error:
        failure = str(error)
        raise
    finally:
        outcomes.append(
            Outcome(
                theme=theme,
                name=attack.name,
                threat=attack.threat,
                cases=attack.cases,
                verdict=verdict,
                reason=reason,
                seconds=time.monotonic() - began,
                trail=trail,
                failure=failure,
            )
        )


def test_the_trail_is_asked_for_unless_nothing_of_ours_was_reached() -> None:
    """An attack that leaves nothing behind must be one the kernel refuses, or of no effect."""
    for attacks in THEMES.values():
        for attack in attacks:
            if attack.trail == NO_TRAIL:
                assert set(attack.expect) <= LEAVING_NOTHING, attack.name
