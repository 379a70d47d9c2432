"""`python -m pki.issuer --config FILE`: wires the issuer and serves."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from pki.issuer.config import Config
from pki.issuer.process import serve
from trove_grpc import config, logs, process
from trove_grpc.errors import TroveError

log = logging.getLogger(__name__)

# Exit status of `trove-pki` too: what is here contradicts what was kept elsewhere.
_INTEGRITY = 7


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pki.issuer", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file")
    arguments = parser.parse_args()
    logs.configure("issuer")
    try:
        settings = config.load(
            Config, file=arguments.config, environment=os.environ, prefix="TROVE_ISSUER"
        )
    except TroveError as error:
        log.critical("%s", error)
        return 2
    logs.configure("issuer", level=settings.log_level)
    process.harden()
    return process.run(
        lambda stop: serve(settings, stop), statuses={"SEALED": _INTEGRITY, "CUSTODY": _INTEGRITY}
    )


if __name__ == "__main__":
    sys.exit(main())
