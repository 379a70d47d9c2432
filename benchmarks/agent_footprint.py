"""Memory of an idle guest agent: real processes, enrolled, beside a running engine.

    python -m benchmarks.agent_footprint [--datastore mariadb] [--runs 5] [--instances 2]
                                         [--idle 15] [--output FILE]

Starts an installation of its own, creates databases through REST, and reads the kernel's figures
of each agent once it was idle for a while. Every run after the first ends the agents with SIGKILL
and measures those that come back. PSS needs root; without it only RSS is known.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.engine_clients import CLIENTS
from tests.acceptance.installation import Installation, eventually, installation


def memory(pid: int) -> dict[str, float]:
    """Figures of one process, MiB."""
    found = {}
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        text = Path(f"/proc/{pid}/status").read_text().replace("VmRSS", "Rss")
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in {"Rss", "Pss", "Private_Dirty"}:
            found[name] = int(rest.split()[0]) / 1024
    return found


def agents(plane: Installation) -> dict[str, int]:
    return {guest["instance"]: guest["agent_pid"] for guest in plane.status()["guests"]}


def measure(datastore: str, runs: int, instances: int, idle: float) -> Iterator[dict[str, float]]:
    with installation() as plane:
        names = [
            plane.create(f"footprint-{number}", datastore=datastore) for number in range(instances)
        ]
        for run in range(runs):
            for name in names:
                plane.await_healthy(name)
            time.sleep(idle)
            before = agents(plane)
            for pid in before.values():
                yield {"run": run, **memory(pid)}
            if run == runs - 1:
                return
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            eventually(
                lambda before=before: all(
                    pid and pid != before[name] for name, pid in agents(plane).items()
                ),
                "every agent is back",
            )


def report(samples: list[dict[str, float]]) -> str:
    lines = ["| figure | min | median | max |", "|---|---|---|---|"]
    for name in ("Rss", "Pss", "Private_Dirty"):
        if values := [sample[name] for sample in samples if name in sample]:
            low, middle, high = min(values), statistics.median(values), max(values)
            lines.append(f"| {name}, MiB | {low:.1f} | {middle:.1f} | {high:.1f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datastore", choices=sorted(CLIENTS), default="postgresql")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--idle", type=float, default=15, help="seconds before a look")
    parser.add_argument("--output", type=Path, help="write the samples as JSON")
    options = parser.parse_args()
    samples = list(measure(options.datastore, options.runs, options.instances, options.idle))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    what = f"{len(samples)} agents of {options.datastore} in {options.runs} runs"
    print(f"{machine}; {what}\n\n{report(samples)}")
    if options.output:
        options.output.write_text(json.dumps({"machine": machine, "samples": samples}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
