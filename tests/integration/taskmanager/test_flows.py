"""The rules of flows on the real engine: undo, engine errors, cancelling, secrets, network."""

import asyncio
import io
import json
import logging
import pickle
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from dbos import DBOS

from taskmanager.flows import (
    Flow,
    FlowBrokenError,
    Flows,
    FlowState,
    JsonSerializer,
    StepFailedError,
)
from trove_grpc import logs
from trove_grpc.errors import ConflictError, InvalidRequestError, UnavailableError
from trove_grpc.redaction import Secret

CANARY = "canary-d41d8cd98f00"


@pytest.fixture
def engine(tmp_path):
    def build(**functions) -> Flows:
        return Flows(
            database_url=f"sqlite:///{tmp_path}/flows.sqlite",
            executor_id="e1",
            functions=functions,
        )

    return build


async def ended(flows: Flows, flow_id: str, seconds: float = 30) -> FlowState:
    async with asyncio.timeout(seconds):
        while True:
            status = (await flows.list([flow_id])).get(flow_id)
            if status is not None and status.state is not FlowState.OPEN:
                return status.state
            await asyncio.sleep(0.05)


def stored_bytes(folder) -> bytes:
    """Everything the engine wrote, its write-ahead log included."""
    return b"".join(path.read_bytes() for path in folder.glob("flows.sqlite*") if path.is_file())


class Journal:
    """Steps that write down that they ran."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, name: str, error: Exception | None = None):
        async def body(*_: StepFailedError) -> str:
            self.lines.append(name)
            if error is not None:
                raise error
            return f"id-of-{name}"

        return body


async def test_a_declared_failure_undoes_in_reverse_including_the_step_that_failed(engine):
    journal = Journal()
    seen: list[StepFailedError] = []

    async def several(flow: Flow) -> None:
        try:
            async with flow.undo_on_failure() as undo:
                for name, error in (("a", None), ("b", None), ("c", UnavailableError("gone"))):
                    undo(name, journal.step(f"undo {name}"))
                    await flow.step(name, journal.step(name, error))
        except StepFailedError as failure:
            seen.append(failure)
            await flow.step("finish", journal.step("finish"))

    async with engine(several=several) as flows:
        await flows.submit("several", "f1", key="i1")
        assert await ended(flows, "f1") is FlowState.DONE
    assert journal.lines == ["a", "b", "c", "undo c", "undo b", "undo a", "finish"]
    assert (seen[0].step, seen[0].reason, seen[0].message) == ("c", "UNAVAILABLE", "gone")


async def test_an_undo_that_fails_does_not_keep_the_others_from_running(engine):
    journal = Journal()
    failed: list[str] = []

    async def several(flow: Flow) -> None:
        try:
            async with flow.undo_on_failure() as undo:
                undo("a", journal.step("undo a"))
                undo("b", journal.step("undo b", UnavailableError("still gone")))
                await flow.step("c", journal.step("c", UnavailableError("gone")))
        finally:
            failed.extend(undo.failed)

    async with engine(several=several) as flows:
        await flows.submit("several", "f1", key="i1")
        assert await ended(flows, "f1") is FlowState.BROKEN  # the failure was not handled
    assert journal.lines == ["c", "undo b", "undo a"]
    assert failed == ["b"]


async def test_nothing_is_undone_when_the_code_changed_under_a_flow_in_flight(engine):
    journal = Journal()
    reached = asyncio.Event()

    async def hold() -> None:
        reached.set()
        await asyncio.Event().wait()

    async def before(flow: Flow) -> None:
        async with flow.undo_on_failure() as undo:
            undo("create", journal.step("undo create"))
            await flow.step("create", journal.step("create"))
            await flow.step("wait", hold)

    async def after(flow: Flow) -> None:
        async with flow.undo_on_failure() as undo:
            undo("create", journal.step("undo create"))
            await flow.step("create_renamed", journal.step("create_renamed"))

    async with engine(several=before) as flows:
        await flows.submit("several", "f1", key="i1")
        async with asyncio.timeout(30):
            await reached.wait()
    async with engine(several=after) as flows:
        assert await ended(flows, "f1") is FlowState.BROKEN
        detail = (await flows.list(["f1"]))["f1"].detail
    assert "DBOSUnexpectedStepError" in detail
    assert journal.lines == ["create"]


async def test_nothing_is_undone_when_a_step_has_a_bug(engine):
    journal = Journal()

    async def several(flow: Flow) -> None:
        async with flow.undo_on_failure() as undo:
            undo("create", journal.step("undo create"))
            await flow.step("create", journal.step("create", KeyError(CANARY)))

    async with engine(several=several) as flows:
        await flows.submit("several", "f1", key="i1")
        assert await ended(flows, "f1") is FlowState.BROKEN
        assert (await flows.list(["f1"]))["f1"].detail == "FlowBrokenError: KeyError"
    assert journal.lines == ["create"]


async def test_nothing_is_undone_when_an_operator_cancels_the_row(engine):
    journal = Journal()
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await go_on.wait()

    async def several(flow: Flow) -> None:
        async with flow.undo_on_failure() as undo:
            undo("create", journal.step("undo create"))
            await flow.step("wait", wait)
            await flow.step("create", journal.step("create"))

    async with engine(several=several) as flows:
        await flows.submit("several", "f1", key="i1")
        async with asyncio.timeout(30):
            await reached.wait()
        await DBOS.cancel_workflow_async("f1")
        go_on.set()
        assert await ended(flows, "f1") is FlowState.BROKEN
    assert journal.lines == []


async def test_nothing_is_undone_when_the_process_is_asked_to_stop(engine):
    journal = Journal()
    reached, again = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await again.wait()

    async def several(flow: Flow) -> None:
        async with flow.undo_on_failure() as undo:
            undo("wait", journal.step("undo wait"))
            await flow.step("wait", wait)

    async with engine(several=several) as flows:
        await flows.submit("several", "f1", key="i1")
        async with asyncio.timeout(30):
            await reached.wait()
    assert journal.lines == []
    again.set()
    async with engine(several=several) as flows:
        assert await ended(flows, "f1") is FlowState.DONE
    assert journal.lines == []


async def test_our_own_cancel_ends_a_waiting_step_and_undoes_it(engine):
    journal = Journal()
    reached = asyncio.Event()

    async def several(flow: Flow) -> None:
        async def poll() -> None:
            reached.set()
            while True:
                flow.raise_if_cancelled()
                await asyncio.sleep(0)

        async with flow.undo_on_failure() as undo:
            undo("poll", journal.step("undo poll"))
            await flow.step("poll", poll)

    async with engine(several=several) as flows:
        await flows.submit("several", "f1", key="i1")
        async with asyncio.timeout(30):
            await reached.wait()
        flows.request_cancel("f1")
        assert await ended(flows, "f1") is FlowState.BROKEN
    assert journal.lines == ["undo poll"]


async def test_flows_of_one_key_do_not_overlap_and_others_do(engine):
    started: list[str] = []
    release = asyncio.Event()

    async def several(flow: Flow) -> None:
        async def body() -> None:
            started.append(flow.id)
            if flow.id == "a1":
                await release.wait()

        await flow.step("only", body)

    async with engine(several=several) as flows:
        await flows.submit("several", "a1", key="a")
        async with asyncio.timeout(30):
            while "a1" not in started:  # noqa: ASYNC110  the engine's thread changes it
                await asyncio.sleep(0.02)
        for flow_id in ("a2", "b1", "c1"):
            await flows.submit("several", flow_id, key=flow_id[0])
        # c1 came last: when it has ended, a2 had its chance.
        assert await ended(flows, "b1") is FlowState.DONE
        assert await ended(flows, "c1") is FlowState.DONE
        assert sorted(started) == ["a1", "b1", "c1"]
        release.set()
        assert await ended(flows, "a2") is FlowState.DONE


async def test_the_loop_can_still_use_threads_after_the_engine_has_stopped(engine):
    async with engine():
        pass
    assert await asyncio.to_thread(lambda: "ran") == "ran"


async def test_an_unknown_flow_and_a_foreign_id_are_refused(engine):
    journal = Journal()

    async def several(flow: Flow) -> None:
        await flow.step("a", journal.step("a"))

    async with engine(several=several, other=several) as flows:
        with pytest.raises(InvalidRequestError, match="no flow is named 'nothing'"):
            await flows.submit("nothing", "f1", key="i1")
        await flows.submit("several", "f1", key="i1")
        with pytest.raises(ConflictError):
            await flows.submit("other", "f1", key="i1")


async def test_finished_flows_are_dropped_after_their_time(engine):
    journal = Journal()

    async def several(flow: Flow) -> None:
        await flow.step("a", journal.step("a"))

    async with engine(several=several) as flows:
        await flows.submit("several", "f1", key="i1")
        await ended(flows, "f1")
        assert await flows.drop_finished("2020-01-01T00:00:00+00:00") == 0
        assert await flows.drop_finished("2999-01-01T00:00:00+00:00") == 1
        assert await flows.list(["f1"]) == {}


@pytest.mark.parametrize(
    "result", [Secret(CANARY), CANARY.encode(), {"token": Secret(CANARY)}, [CANARY * 200], 1.5]
)
async def test_a_result_that_is_no_small_plain_value_never_reaches_the_disk(
    engine, tmp_path, result
):
    async def several(flow: Flow) -> None:
        async def body():
            return result

        await flow.step("leak", body)

    stream = io.StringIO()
    logs.configure("taskmanager", stream=stream)
    async with engine(several=several) as flows:
        await flows.submit("several", "f1", key="i1")
        assert await ended(flows, "f1") is FlowState.BROKEN
    assert CANARY.encode() not in stored_bytes(tmp_path)
    assert CANARY not in stream.getvalue()


async def test_the_text_of_a_foreign_error_reaches_neither_disk_nor_log(engine, tmp_path):
    async def several(flow: Flow) -> None:
        async def body() -> None:
            raise ValueError(CANARY)

        await flow.step("leak", body)

    stream = io.StringIO()
    logs.configure("taskmanager", stream=stream)
    async with engine(several=several) as flows:
        await flows.submit("several", "f1", key="i1")
        assert await ended(flows, "f1") is FlowState.BROKEN
    assert CANARY.encode() not in stored_bytes(tmp_path)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert any("ValueError" in line["message"] for line in lines), "the error's name is told"
    assert CANARY not in stream.getvalue()
    assert {line["process"] for line in lines} == {"taskmanager"}


async def test_the_flow_log_is_private_and_in_wal_mode(engine, tmp_path):
    async with engine():
        assert (tmp_path / "flows.sqlite").stat().st_mode & 0o077 == 0
        connection = sqlite3.connect(tmp_path / "flows.sqlite")
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.close()


async def test_a_pickle_planted_in_the_log_is_not_read(engine, tmp_path):
    reached = asyncio.Event()
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (ran.touch, ())

    async def hold() -> None:
        reached.set()
        await asyncio.Event().wait()

    async def several(flow: Flow) -> None:
        await flow.step("a", Journal().step("a"))
        await flow.step("b", hold)

    async with engine(several=several) as flows:
        await flows.submit("several", "f1", key="i1")
        async with asyncio.timeout(30):
            await reached.wait()
    import base64

    planted = base64.b64encode(pickle.dumps(Evil())).decode()
    connection = sqlite3.connect(tmp_path / "flows.sqlite")
    with connection:
        changed = connection.execute(
            "UPDATE operation_outputs SET output = ?, serialization = 'py_pickle'", (planted,)
        )
        assert changed.rowcount == 1
    connection.close()
    async with engine(several=several) as flows:
        assert await ended(flows, "f1") is FlowState.BROKEN
    assert not ran.exists()


def test_errors_keep_their_kind_through_the_log():
    serializer = JsonSerializer()
    failure = StepFailedError("no room", reason="OVERLOADED", step="boot_guest")
    back = serializer.deserialize(serializer.serialize(failure))
    assert isinstance(back, StepFailedError)
    assert (back.message, back.reason, back.step) == ("no room", "OVERLOADED", "boot_guest")
    assert isinstance(serializer.deserialize(serializer.serialize(KeyError("x"))), FlowBrokenError)


async def test_the_database_of_another_kind_is_refused():
    with pytest.raises(InvalidRequestError, match=r"flow_database_url: .* is not supported"):
        Flows(database_url="postgresql://host/flows", executor_id="e1", functions={})


def test_the_engine_opens_no_connection_and_no_listener_of_its_own(tmp_path):
    script = textwrap.dedent(f"""
        import asyncio, sys
        seen = []
        sys.addaudithook(lambda event, args: seen.append((event, str(args)))
                         if event in ("socket.connect", "socket.bind", "socket.getaddrinfo",
                                      "socket.sendto", "urllib.Request") else None)
        from taskmanager.flows import Flows, FlowState

        async def main():
            async def one(flow):
                async def body():
                    return "x"
                await flow.step("a", body)
            async with Flows(database_url="sqlite:///{tmp_path}/flows.sqlite",
                             executor_id="e1", functions={{"one": one}}) as flows:
                await flows.submit("one", "f1", key="k")
                while (await flows.list(["f1"]))["f1"].state is FlowState.OPEN:
                    await asyncio.sleep(0.05)

        asyncio.run(main())
        print(seen)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


@pytest.fixture(autouse=True)
def _restore_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
