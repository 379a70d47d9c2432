"""`python -m gateway.rest --config FILE`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from gateway.rest.config import Config
from gateway.rest.server import serve
from trove_grpc import config as settings
from trove_grpc import logs, process
from trove_grpc.errors import TroveError


def main() -> int:
    parser = argparse.ArgumentParser(prog="gateway.rest", description="Trove's REST API")
    parser.add_argument("--config", type=Path, required=True, help="settings (TOML)")
    arguments = parser.parse_args()
    process.harden()
    logs.configure("api")
    try:
        config = settings.load(
            Config, file=arguments.config, environment=os.environ, prefix="TROVE_API"
        )
    except TroveError as error:
        logging.getLogger(__name__).critical("%s", error)
        return 1
    logs.configure("api", level=config.log_level)
    return process.run(lambda stop: serve(config, stop))


if __name__ == "__main__":
    sys.exit(main())
