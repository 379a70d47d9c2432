"""Real control-plane processes inside the test: real TLS, real SQLite, ephemeral ports."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conductor.config import Config
from conductor.server import serve
from tests.fakes.certificates import TestAuthority
from trove_grpc.client import PeerChannel
from trove_grpc.identity import Role


@dataclass(frozen=True, slots=True)
class RunningConductor:
    """A conductor that serves, and how to reach it."""

    address: str
    config: Config
    authority: TestAuthority
    folder: Path

    def channel(self, role: Role) -> PeerChannel:
        """A channel to it with a fresh identity of `role`; `async with` closes it."""
        path = self.folder / "callers" / f"{role}-{uuid.uuid4()}"
        if role is Role.OPERATOR:
            identity = self.authority.identity_for_operator("tester", path)
        else:
            identity = self.authority.identity_for_service(role, path)
        return PeerChannel([self.address], identity=identity, server_role=Role.CONDUCTOR)


@contextlib.asynccontextmanager
async def running_conductor(
    tmp_path: Path,
    authority: TestAuthority,
    *,
    now: Callable[[], dt.datetime] | None = None,
    **settings: Any,
) -> AsyncIterator[RunningConductor]:
    """A real conductor until the block ends; `settings` are fields of conductor.config.Config.

    Started twice in one `tmp_path` it finds its database again: that is a restart. `now` replaces
    its clock.
    """
    folder = tmp_path / "conductor"
    folder.mkdir(exist_ok=True)
    defaults: dict[str, Any] = {
        "identity": folder / "identity",
        "database_url": f"sqlite:///{folder}/conductor.db",
        "sealing_key_file": folder / "sealing.key",
        "listen": "127.0.0.1:0",
        "drain_timeout": dt.timedelta(seconds=0.2),
    }
    config = Config(**{**defaults, **settings})
    authority.identity_for_service(Role.CONDUCTOR, config.identity)
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    arguments = {} if now is None else {"now": now}
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(
            serve(config, stop, started=started, **arguments), name="conductor"
        )
        await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving  # raises why it could not start
        address = f"127.0.0.1:{started.result()}"
        try:
            yield RunningConductor(
                address, dataclasses.replace(config, listen=address), authority, folder
            )
        finally:
            stop.set()
