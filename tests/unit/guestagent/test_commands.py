from __future__ import annotations

import asyncio
import contextlib
import datetime as dt

import pytest

from guestagent.commands import Commands
from guestagent.journal import Journal, Progress
from guestagent.outbox import Outbox
from guestagent.record import RecordFile
from guestagent.watcher import Patience, Watcher
from tests.fakes.engine import FakeEngine
from tests.fakes.guest_gateway import eventually
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.guest.v1 import accounts_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as pb

PATIENCE = Patience(
    health_interval=1, restart_limit=3, stable_after=60, backoff=1, backoff_limit=1
)
PREPARE_FIELDS = {
    "manager": "fake",
    "version": "1",
    "listen_addresses": ["127.0.0.9"],
    "port": 1,
}
PREPARE = pb.PrepareAction(**PREPARE_FIELDS)


class SlowEngine(FakeEngine):
    """Creates only when allowed."""

    def __init__(self):
        super().__init__()
        self.allowed = asyncio.Event()

    async def create(self, spec, authority):
        await super().create(spec, authority)
        await self.allowed.wait()


class Bench:
    """Commands over a fake engine; results are taken from the outbox."""

    def __init__(self, directory, engine, capacity=4):
        self.engine = engine
        self.outbox = Outbox(now=asyncio.get_running_loop().time)
        self.journal = Journal(directory / "journal", limit=3)
        watcher = Watcher(
            engine,
            RecordFile(directory / "engine.json"),
            patience=PATIENCE,
            authority=None,
            on_change=lambda: None,
        )
        self.watcher = watcher
        self.commands = Commands(watcher, self.journal, self.outbox, capacity=capacity)
        self.results = []

    def send(self, command_id, *, seconds=5.0, **action):
        command = pb.Command(command_id=command_id, **action)
        command.timeout.FromTimedelta(dt.timedelta(seconds=seconds))
        self.commands.accept(command)

    async def result(self, count=1):
        def taken():
            while (message := self.outbox.take(resend_after=1)) is not None:
                self.results.append(message.command_result)
            return len(self.results) >= count

        await eventually(taken)
        return self.results[-1]

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.commands.run())
        yield self
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def bench(tmp_path):
    return lambda engine=None, **options: Bench(tmp_path, engine or FakeEngine(), **options)


async def test_repeat_of_a_finished_command_is_answered_from_the_journal(bench):
    async with bench().running() as it:
        it.send("p", prepare=PREPARE)
        first = await it.result()
        it.send("p", prepare=PREPARE)
        assert await it.result(2) == first
        assert it.engine.log.count("create") == 1


async def test_repeat_after_a_restart_is_answered_from_the_journal(bench):
    async with bench().running() as it:
        it.send("p", prepare=PREPARE)
        first = await it.result()
    async with bench().running() as it:
        it.send("p", prepare=PREPARE)
        assert await it.result() == first
        assert it.engine.log == []


async def test_repeat_of_a_running_command_joins_it(bench):
    async with bench(SlowEngine()).running() as it:
        for _ in range(3):
            it.send("p", prepare=PREPARE)
        await eventually(lambda: it.engine.is_created)
        it.send("p", prepare=PREPARE)
        it.engine.allowed.set()
        await it.result()
        it.send("ping", ping=pb.PingAction())
        await it.result(2)
        assert [result.command_id for result in it.results] == ["p", "ping"]
        assert it.engine.log.count("create") == 1


async def test_ping_is_answered_while_a_long_command_runs(bench):
    async with bench(SlowEngine()).running() as it:
        it.send("p", prepare=PREPARE)
        await eventually(lambda: it.engine.is_created)
        it.send("ping", ping=pb.PingAction())
        assert (await it.result()).command_id == "ping"
        it.engine.allowed.set()
        assert (await it.result(2)).command_id == "p"


async def test_passed_deadline_is_answered_and_a_repeat_goes_on(bench):
    async with bench(SlowEngine()).running() as it:
        it.send("p", prepare=PREPARE, seconds=0.05)
        assert (await it.result()).error_reason == "DEADLINE_EXCEEDED"
        assert it.journal.find("p").progress is Progress.STARTED
        it.engine.allowed.set()
        it.send("p", prepare=PREPARE)
        assert (await it.result(2)).error_reason == ""


async def test_unavailable_is_no_outcome(bench):
    async with bench().running() as it:
        it.engine.is_out_of_reach = True
        it.send("p", prepare=PREPARE)
        assert (await it.result()).error_reason == "UNAVAILABLE"
        it.engine.is_out_of_reach = False
        it.send("p", prepare=PREPARE)
        assert (await it.result(2)).error_reason == ""


async def test_failure_is_an_outcome_and_is_repeated_as_it_was(bench):
    async with bench().running() as it:
        it.engine.failing_starts = 1
        it.send("p", prepare=PREPARE)
        first = await it.result()
        assert first.error_reason == "ENGINE_START_FAILED"
        it.send("p", prepare=PREPARE)
        assert await it.result(2) == first


async def test_interrupted_restart_is_finished_as_a_start(bench):
    async with bench().running() as it:
        it.send("p", prepare=PREPARE)
        await it.result()
        it.journal.start("r", "restart")  # an agent was killed after this line
        it.send("r", restart=pb.RestartAction())
        assert (await it.result(2)).error_reason == ""
        assert it.engine.stops == 0


async def test_resize_is_carried_out_once_and_its_failure_is_an_outcome(bench):
    async with bench().running() as it:
        it.engine.most_memory_mib = 2048
        it.send("p", prepare=pb.PrepareAction(**PREPARE_FIELDS, memory_mib=512))
        await it.result()
        for number, memory in enumerate((1024, 4096)):
            action = pb.ResizeAction(memory_mib=memory, previous_memory_mib=1024)
            action.patience.FromTimedelta(dt.timedelta(seconds=2))
            for _ in range(2):
                it.send(f"r{number}", resize=action)
            await it.result(2 + number)
        assert [result.error_reason for result in it.results] == ["", "", "ENGINE_RESIZE_FAILED"]
        assert it.engine.memory_mib == 1024


@pytest.mark.parametrize("fields", [{}, {"memory_mib": 1, "previous_memory_mib": 1}])
async def test_resize_that_leaves_out_what_it_needs_is_refused(bench, fields):
    async with bench().running() as it:
        it.send("r", resize=pb.ResizeAction(**fields))
        assert (await it.result()).error_reason == "INVALID_REQUEST"


async def test_full_queue_refuses_and_nothing_is_lost(bench):
    async with bench(SlowEngine(), capacity=2).running() as it:
        it.send("p", prepare=PREPARE)
        await eventually(lambda: it.engine.is_created)
        for number in range(4):
            it.send(f"s{number}", start=pb.StartAction())
        await it.result(2)
        assert [r.command_id for r in it.results] == ["s2", "s3"]
        assert {r.error_reason for r in it.results} == {"OVERLOADED"}
        it.engine.allowed.set()
        await it.result(5)
        it.send("s3", start=pb.StartAction())
        assert (await it.result(6)).error_reason == ""


def create(name):
    databases = [engine_pb2.DatabaseSpec(name=name)]
    return accounts_pb2.CreateDatabasesAction(databases=databases)


async def test_lists_are_answered_while_a_long_command_runs_and_are_not_journaled(bench):
    engine = SlowEngine()
    async with bench(engine).running() as it:
        engine.allowed.set()
        it.send("p", prepare=PREPARE)
        await it.result()
        async with it.watcher.holding():
            it.send("create", create_databases=create("shop"))
            it.send("list", list_databases=accounts_pb2.ListDatabasesAction(page_size=5))
            assert (await it.result(2)).command_id == "list"
        assert (await it.result(3)).accounts == accounts_pb2.AccountsResult()
        assert it.journal.find("list") is None


async def test_tenants_changes_push_no_command_of_the_control_plane_out_of_the_journal(bench):
    async with bench().running() as it:
        it.send("p", prepare=PREPARE)
        await it.result()
        for number in range(4):
            it.send(f"api/{number}", create_databases=create(f"d{number}"))
            await it.result(number + 2)
        assert it.journal.find("p").progress is Progress.FINISHED


async def test_interrupted_change_is_finished_by_its_repeat(bench):
    async with bench().running() as it:
        it.send("p", prepare=PREPARE)
        await it.result()
        it.engine.accounts.databases.add("shop")
        it.journal.part("accounts").start("c", "create_databases")  # killed after the effect
        it.send("c", create_databases=create("shop"))
        assert (await it.result(2)).error_reason == ""
        it.send("d", create_databases=create("shop"))
        assert (await it.result(3)).error_reason == "DATABASE_EXISTS"


async def test_foreign_manager_and_unknown_action_are_refused(bench):
    async with bench().running() as it:
        it.send("m", prepare=pb.PrepareAction(manager="mysql"))
        assert (await it.result()).error_reason == "INVALID_REQUEST"
        it.send("u")
        assert (await it.result(2)).error_reason == "UNSUPPORTED"


async def test_unforeseen_failure_ends_one_command_and_leaks_nothing(bench):
    class Broken(FakeEngine):
        async def create(self, spec, authority):
            raise ZeroDivisionError("inner detail")

    async with bench(Broken()).running() as it:
        it.send("p", prepare=PREPARE)
        result = await it.result()
        assert result.error_reason == "INTERNAL"
        assert "inner detail" not in result.error_message
        it.send("ping", ping=pb.PingAction())
        assert (await it.result(2)).error_reason == ""


async def test_configuration_is_applied_and_what_waits_for_a_restart_is_answered(bench):
    async with bench().running() as it:
        it.send("p", prepare=PREPARE)
        await it.result()
        action = pb.ConfigureAction()
        action.parameters.add(name="static", integer=1)
        action.parameters.add(name="other", boolean=True)
        it.send("c", configure=action)
        result = await it.result(2)
        assert list(result.configure.pending_restart) == ["static"]
        assert it.engine.include.present == {"static": "1", "other": "on"}
        it.send("c", configure=action)
        assert await it.result(3) == result
        assert it.engine.log.count("configure") == 1


async def test_refused_configuration_is_answered_with_the_engines_words(bench):
    async with bench().running() as it:
        it.send("p", prepare=PREPARE)
        await it.result()
        action = pb.ConfigureAction()
        action.parameters.add(name="refused", integer=1)
        it.send("c", configure=action)
        result = await it.result(2)
        assert (result.error_reason, result.error_message) == (
            "ENGINE_COMMAND_FAILED",
            "the engine refuses: refused",
        )
