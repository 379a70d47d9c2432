"""`python -m guestagent --config FILE`.

SIGTERM and SIGINT: the agent leaves, the engine keeps running. SIGUSR1: the machine goes down, so
the engine is stopped cleanly first; it comes back with the next agent.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from guestagent.agent import Agent
from guestagent.config import Config
from guestagent.engines.catalogue import build_engine
from trove_grpc import config as settings
from trove_grpc import logs, process
from trove_grpc.errors import TroveError


async def serve(
    config: Config,
    stop: asyncio.Event,
    *,
    shut_down: asyncio.Event | None = None,
    started: Callable[[Agent], None] = lambda _: None,
) -> None:
    """Run one agent until `stop`; stop its engine too when `shut_down` is set by then."""
    agent = Agent(config, build_engine(config))
    started(agent)
    await agent.run(stop)
    if shut_down is not None and shut_down.is_set():
        await agent.watcher.shut_down()


def main() -> int:
    parser = argparse.ArgumentParser(prog="guestagent", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file of settings")
    options = parser.parse_args()
    process.harden()
    try:
        config = settings.load(
            Config, file=options.config, environment=os.environ, prefix="TROVE_GUESTAGENT"
        )
    except TroveError as error:
        sys.stderr.write(f"guestagent: {error}\n")
        return 2
    logs.configure("guestagent", level=config.log_level)

    def serve_metrics(agent: Agent) -> None:
        if config.metrics_listen:
            from guestagent import metrics  # noqa: PLC0415  3 MiB, for those who scrape only

            metrics.serve(config.metrics_listen, agent)

    async def run(stop: asyncio.Event) -> None:
        shut_down = asyncio.Event()

        def leave() -> None:
            shut_down.set()
            stop.set()

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, leave)
        await serve(config, stop, shut_down=shut_down, started=serve_metrics)

    return process.run(run)


if __name__ == "__main__":
    sys.exit(main())
