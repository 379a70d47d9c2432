"""An issuer that dies on the spot: `ROOT DATABASE_URL PHASE POINT`.

It is the issuer's own process but for one kill -9, at the first time a rotation stands at `POINT`
of `PHASE`; "first" dies wherever a rotation stands first, "never" lives until SIGTERM.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from pki.issuer.process import serve
from tests.rotation_kills.matrix import config_of
from trove_grpc import process


def main(root: Path, database_url: str, phase: str, point: str) -> int:
    def observe(at_phase: str, at_point: str) -> None:
        if phase == "first" or (at_phase, at_point) == (phase, point):
            os.kill(os.getpid(), signal.SIGKILL)

    async def run(stop: asyncio.Event) -> None:
        await serve(config_of(root, database_url), stop, observe=observe)

    return process.run(run)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]))
