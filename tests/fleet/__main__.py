"""`python -m tests.fleet --agents 1000 --output FILE`: the whole fleet test, with a report."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import sys
from pathlib import Path

from tests.acceptance.installation import installation
from tests.fleet.fleet import drill


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--engines", type=int, default=3, help="whole agents beside them")
    parser.add_argument("--output", type=Path, default=Path(".state/fleet-report.md"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    # A connection is a file here and one in the gateway, which inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with installation(taskmanager__sweep_interval="86400") as plane:
        full = [plane.create(f"whole-{number}") for number in range(options.engines)]
        for name in full:
            plane.await_healthy(name)
        report = asyncio.run(drill(plane, agents=options.agents, full=full, looks=4))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(report.markdown())
    sys.stdout.write(report.markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
