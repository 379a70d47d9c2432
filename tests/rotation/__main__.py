"""`python -m tests.rotation --agents 197 --output FILE`: the whole drill, with a report.

Two hundred agents by default: three of them are whole processes with engines.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import sys
import tempfile
from pathlib import Path

from tests.rotation import scene
from tests.rotation.drill import drill
from trove_grpc.gen.common.v1 import trust_pb2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=197)
    parser.add_argument("--sessions", type=int, default=10, help="of each engine")
    parser.add_argument("--output", type=Path, default=Path("build/rotation-report.md"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    # A connection is a file here and one in the gateway, which inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with scene.short_lived_installation() as plane, tempfile.TemporaryDirectory() as folder:
        databases = scene.create_databases(plane, scene.ENGINES)
        report = asyncio.run(
            drill(
                plane,
                agents=options.agents,
                databases=databases,
                sessions_each=options.sessions,
                authorities=(
                    trust_pb2.AUTHORITY_KIND_ROOT,
                    trust_pb2.AUTHORITY_KIND_DATABASE_ROOT,
                ),
                folder=Path(folder),
            )
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(report.markdown())
    sys.stdout.write(report.markdown())
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
