"""The smoke of the fleet test: fifty agents and one whole database. `make test-fleet` is whole."""

from __future__ import annotations

import asyncio

from tests.acceptance.installation import installation
from tests.fleet.fleet import drill


def test_a_small_fleet_comes_back_after_its_gateway_was_killed():
    with installation(
        conductor__heartbeat_interval="2", taskmanager__sweep_interval="86400"
    ) as plane:
        full = [plane.create("whole-0")]
        plane.await_healthy(full[0])
        report = asyncio.run(drill(plane, agents=50, full=full, looks=2))
        print(report.markdown())  # noqa: T201  seen with -s: what a small fleet does
        assert report.sessions_again is not None
        assert plane.await_healthy(full[0])["operating_status"] == "HEALTHY"
