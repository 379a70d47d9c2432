"""A listener's identity changes while connections come in: the process must survive it.

Without the pause of docs/adr/0023 this many connections end the server several times.
"""

from __future__ import annotations

from benchmarks.listener_rotation import measure


def test_listener_lives_through_changes_of_its_identity_under_a_storm_of_handshakes() -> None:
    outcome = measure(0.02, seconds=10.0)
    assert outcome.changes > 0
    assert outcome.deaths == []
