"""A process that runs flows and may be killed: `EXECUTOR DATABASE_URL EFFECTS FLOW...`.

Every step appends "<flow> <step>" to EFFECTS, with fsync, then waits as long as a file
"<step>.hold" lies beside EFFECTS.
"""

import asyncio
import contextlib
import datetime as dt
import os
import sys
from pathlib import Path

from taskmanager.flows import Flow, Flows, FlowState, FlowStatus
from trove_grpc.errors import UnavailableError

STEPS = ("one", "two", "three", "four")
PAUSE = 0.02
LEASE = dt.timedelta(seconds=3)  # short: a test waits for its end


async def released(hold: Path) -> None:
    while hold.exists():  # noqa: ASYNC110  another process removes it
        await asyncio.sleep(PAUSE)


async def all_done(flows: Flows, flow_ids: list[str]) -> None:
    states: dict[str, FlowStatus] = {}
    while True:
        with contextlib.suppress(UnavailableError):  # a test stops the database
            states = await flows.list(flow_ids)
        if states and all(status.state is FlowState.DONE for status in states.values()):
            return
        await asyncio.sleep(PAUSE)


async def main(executor_id: str, database_url: str, effects: Path, flow_ids: list[str]) -> None:
    def append(line: str) -> None:
        handle = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{line}\n".encode())
        os.fsync(handle)
        os.close(handle)

    async def several(flow: Flow) -> None:
        for name in STEPS:

            async def body(name: str = name) -> str:
                append(f"{flow.id} {name}")
                await released(effects.with_name(f"{name}.hold"))
                return f"id-of-{name}"

            assert await flow.step(name, body) == f"id-of-{name}"
        append(f"{flow.id} end")

    async with Flows(
        database_url=database_url,
        executor_id=executor_id,
        functions={"several": several},
        lease=LEASE,
    ) as flows:
        for flow_id in flow_ids:
            await flows.submit("several", flow_id, key=flow_id)
            await flows.submit("several", flow_id, key=flow_id)
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(flows.watch())
            await all_done(flows, flow_ids)
            watch.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:]))
