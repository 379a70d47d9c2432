"""`python -m conductor --config FILE`: read the settings, then serve until told to stop."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from conductor.config import Config
from conductor.server import serve
from trove_grpc import config as settings
from trove_grpc import logs, metrics, process
from trove_grpc.errors import TroveError


def main() -> int:
    parser = argparse.ArgumentParser(prog="conductor", description="The conductor.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file of settings")
    arguments = parser.parse_args()
    process.harden()
    try:
        config = settings.load(
            Config, file=arguments.config, environment=os.environ, prefix="TROVE_CONDUCTOR"
        )
        logs.configure("conductor", level=config.log_level)
        metrics.serve_metrics(config.metrics_listen)
    except TroveError as error:
        print(f"conductor: {error}", file=sys.stderr)  # noqa: T201  before there is a log
        return 1
    return process.run(lambda stop: serve(config, stop))


if __name__ == "__main__":
    sys.exit(main())
