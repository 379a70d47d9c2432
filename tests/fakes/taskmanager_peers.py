"""What the task manager talks to, in memory; held to the contract tests beside the real ones."""

import asyncio
import copy
import datetime as dt
from collections.abc import Sequence

from taskmanager.flows import Flow, FlowState, FlowStatus, JsonSerializer
from taskmanager.operations import Limits, Services
from taskmanager.peers import Token
from tests.fakes.compute import FakeCompute
from trove_grpc.errors import ConflictError, NotFoundError, TroveError, UnavailableError
from trove_grpc.gen.common.v1 import engine_pb2, trust_pb2
from trove_grpc.gen.conductor.v1 import operation_service_pb2 as operations_pb2
from trove_grpc.gen.conductor.v1 import report_service_pb2, resources_pb2
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2
from trove_grpc.redaction import Secret

INSTANCE = "11111111-2222-4333-8444-555555555555"
OPERATION = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
TENANT = "demo"
VERIFIER = "SCRAM-SHA-256$4096:canary-verifier$stored:key"
OPEN = (resources_pb2.OPERATION_STATE_PENDING, resources_pb2.OPERATION_STATE_RUNNING)


class Failing:
    """Raises, for each method, the errors queued for it."""

    def __init__(self) -> None:
        self.failures: dict[str, list[TroveError]] = {}
        self.down = False

    def fail(self, method: str) -> None:
        if self.down:
            raise UnavailableError(f"{type(self).__name__} is down")
        if queue := self.failures.get(method):
            raise queue.pop(0)


class FakeConductor(Failing):
    """Operations, their steps and what is known of guests."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[str, operations_pb2.GetOperationInputResponse] = {}
        self.users: dict[str, list[engine_pb2.UserSpec]] = {}
        self.placements: dict[str, operations_pb2.Placement] = {}
        self.guest_states: dict[str, operations_pb2.GetGuestStateResponse] = {}
        self.sessions: dict[str, str] = {}
        self.lookups = 0
        self.records: list[tuple[str, str]] = []  # (step, state), as they came

    def add_operation(
        self,
        operation_id: str = OPERATION,
        kind: str = "create_instance",
        instance_id: str = INSTANCE,
    ) -> None:
        given = operations_pb2.GetOperationInputResponse(engine_port=5432)
        given.operation.id = operation_id
        given.operation.kind = kind
        given.operation.tenant_id = TENANT
        given.operation.instance_id = instance_id
        given.operation.request_id = f"req-{operation_id}"
        given.operation.state = resources_pb2.OPERATION_STATE_PENDING
        given.instance.id = instance_id
        given.instance.flavor.ram_mib = 512
        given.instance.datastore_version.manager = "postgresql"
        given.instance.datastore_version.name = "15"
        given.databases.add(name="shop")
        self.inputs[operation_id] = given
        self.users[operation_id] = [
            engine_pb2.UserSpec(name="alice", databases=["shop"], verifier=VERIFIER)
        ]

    def operation(self, operation_id: str = OPERATION) -> resources_pb2.Operation:
        return self.inputs[operation_id].operation

    def steps(self, operation_id: str = OPERATION) -> dict[str, str]:
        return {
            step.name: resources_pb2.StepState.Name(step.state).removeprefix("STEP_STATE_")
            for step in self.operation(operation_id).steps
        }

    def set_guest(
        self,
        state: engine_pb2.EngineState.ValueType,
        reason: str = "",
        *,
        instance_id: str = INSTANCE,
        is_present: bool = True,
    ) -> None:
        self.guest_states[instance_id] = operations_pb2.GetGuestStateResponse(
            is_present=is_present,
            observation=engine_pb2.Observation(state=state, reason=reason),
        )

    async def list_open_operations(self) -> Sequence[resources_pb2.Operation]:
        self.fail("list_open_operations")
        return [
            copy.deepcopy(given.operation)
            for given in self.inputs.values()
            if given.operation.state in OPEN
        ]

    async def get_input(self, operation_id: str) -> operations_pb2.GetOperationInputResponse:
        self.fail("get_input")
        return copy.deepcopy(self._given(operation_id))

    async def get_users(self, operation_id: str) -> Sequence[engine_pb2.UserSpec]:
        self.fail("get_users")
        self._given(operation_id)
        return self.users[operation_id]

    async def record_step(
        self,
        operation_id: str,
        step: str,
        state: resources_pb2.StepState.ValueType,
        detail: str = "",
    ) -> None:
        self.fail("record_step")
        operation = self._given(operation_id).operation
        if operation.state not in OPEN:
            raise ConflictError(f"operation {operation_id} has ended")
        operation.state = resources_pb2.OPERATION_STATE_RUNNING
        found = next((known for known in operation.steps if known.name == step), None)
        entry = found or operation.steps.add(name=step)
        entry.state, entry.detail = state, detail
        name = resources_pb2.StepState.Name(state).removeprefix("STEP_STATE_")
        self.records.append((step, name))

    async def record_placement(
        self, instance_id: str, placement: operations_pb2.Placement
    ) -> None:
        self.fail("record_placement")
        self.placements[instance_id] = copy.deepcopy(placement)

    async def finish_operation(
        self,
        operation_id: str,
        state: resources_pb2.OperationState.ValueType,
        fault: resources_pb2.Fault | None = None,
    ) -> None:
        self.fail("finish_operation")
        operation = self._given(operation_id).operation
        if operation.state == state:
            return
        if operation.state not in OPEN:
            raise ConflictError(f"operation {operation_id} has ended otherwise")
        operation.state = state
        if fault is not None:
            operation.fault.CopyFrom(fault)
        self.users[operation_id] = []

    async def get_guest_state(self, instance_id: str) -> operations_pb2.GetGuestStateResponse:
        self.fail("get_guest_state")
        return self.guest_states.get(instance_id, operations_pb2.GetGuestStateResponse())

    async def lookup_session(self, instance_id: str) -> report_service_pb2.LookupSessionResponse:
        self.fail("lookup_session")
        self.lookups += 1
        if instance_id not in self.sessions:
            raise NotFoundError(f"no session of {instance_id}")
        return report_service_pb2.LookupSessionResponse(gateway_address=self.sessions[instance_id])

    def _given(self, operation_id: str) -> operations_pb2.GetOperationInputResponse:
        if operation_id not in self.inputs:
            raise NotFoundError(f"no operation {operation_id}", subject=operation_id)
        return self.inputs[operation_id]


class FakeIssuer(Failing):
    """Subjects and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.subjects: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {}
        self.retired: dict[str, str] = {}
        self.tokens: list[str] = []
        self.usable: set[str] = set()

    async def register_subject(
        self,
        instance_id: str,
        tenant_id: str,
        *,
        dns_names: Sequence[str],
        ip_addresses: Sequence[str],
    ) -> None:
        self.fail("register_subject")
        self.subjects[instance_id] = (tenant_id, tuple(dns_names), tuple(ip_addresses))

    async def retire_subject(self, instance_id: str, reason: str) -> None:
        self.fail("retire_subject")
        self.retired[instance_id] = reason

    async def mint_token(self, instance_id: str) -> Token:
        self.fail("mint_token")
        self.tokens.append(f"canary-token-{len(self.tokens) + 1}")
        self.usable = {self.tokens[-1]}
        return Token(f"token-id-{len(self.tokens)}", Secret(self.tokens[-1]))

    async def void_tokens(self, instance_id: str) -> None:
        self.fail("void_tokens")
        self.usable.clear()


class FakeGuests(Failing):
    """Guests that carry out a command id once and answer a repeat from their journal."""

    def __init__(self, conductor: FakeConductor) -> None:
        super().__init__()
        self._conductor = conductor
        self.commands: dict[str, guest_pb2.Command] = {}
        self.received = 0
        # What a configuration leaves for the next start, and what is reported after a command.
        self.pending_restart: list[str] = []
        self.reasons: dict[str, str] = {}

    async def send_command(
        self, instance_id: str, command: guest_pb2.Command
    ) -> guest_pb2.CommandResult:
        self.fail("send_command")
        self.received += 1
        if command.command_id not in self.commands:
            self.commands[command.command_id] = command
            reason = self.reasons.get(command.WhichOneof("action"), "")
            self._conductor.set_guest(
                engine_pb2.ENGINE_STATE_HEALTHY, reason, instance_id=instance_id
            )
        result = guest_pb2.CommandResult(command_id=command.command_id)
        if command.HasField("configure"):
            result.configure.pending_restart.extend(self.pending_restart)
        if command.HasField("restart"):
            result.engine.observation.reason = self.reasons.get("restart", "")
        return result


class FakeClock:
    """Time that passes only by sleeping; `on_sleep` hears each pause."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep = lambda: None

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()
        await asyncio.sleep(0)  # others run


class Crash(BaseException):
    """The process dies here."""


class MemoryFlow(Flow):
    """A flow whose log is a list: replays like the engine, and dies where a test says.

    `log` survives the flow object as the engine's file survives the process.
    """

    def __init__(
        self,
        log: list[tuple[str, str]],
        *,
        flow_id: str = OPERATION,
        die_before: str = "",
        die_after: str = "",
    ) -> None:
        self.cancelled = asyncio.Event()
        super().__init__(flow_id, self.cancelled)
        self.log = log
        self._position = 0
        self._die_before, self._die_after = die_before, die_after

    async def _durably(self, name, run):
        serializer = JsonSerializer()
        position, self._position = self._position, self._position + 1
        if position < len(self.log):
            recorded_name, recorded = self.log[position]
            assert recorded_name == name, "a replay must take the same steps"
            result = serializer.deserialize(recorded)
        else:
            if name == self._die_before:
                raise Crash
            try:
                result = await run()
            except TroveError as error:
                result = error
            if name == self._die_after:
                raise Crash  # the effect happened, its record did not
            self.log.append((name, serializer.serialize(result)))
        if isinstance(result, Exception):
            raise result
        return result


class FakeFlowLog:
    """What the sweeper sees of the flows."""

    def __init__(self) -> None:
        self.flows: dict[str, FlowStatus] = {}
        self.submitted: list[tuple[str, str, str]] = []
        self.cancelled: list[str] = []
        self.dropped_before: list[str] = []
        self.was_submitted, self.was_dropped = asyncio.Event(), asyncio.Event()

    async def submit(self, name: str, flow_id: str, *, key: str) -> None:
        self.submitted.append((name, flow_id, key))
        self.was_submitted.set()
        self.flows.setdefault(flow_id, FlowStatus(flow_id, name, FlowState.OPEN))

    def request_cancel(self, flow_id: str) -> None:
        self.cancelled.append(flow_id)

    async def list(self, flow_ids) -> dict[str, FlowStatus]:
        return {key: self.flows[key] for key in flow_ids if key in self.flows}

    async def drop_finished(self, before: str) -> int:
        self.dropped_before.append(before)
        self.was_dropped.set()
        return 0


class World:
    """All of it, wired."""

    def __init__(self) -> None:
        self.conductor = FakeConductor()
        self.issuer = FakeIssuer()
        self.compute = FakeCompute()
        self.guests = FakeGuests(self.conductor)
        self.clock = FakeClock()
        self.services = Services(
            conductor=self.conductor,
            issuer=self.issuer,
            compute=self.compute,
            guests=self.guests,
            bundle=lambda: trust_pb2.TrustBundle(trust_domain="local.trove", version=1),
            enrolment_endpoints=("127.0.0.1:1001",),
            guest_endpoints=("127.0.0.1:1002",),
            limits=Limits(
                agent=dt.timedelta(seconds=60),
                engine=dt.timedelta(seconds=120),
                outage=dt.timedelta(minutes=10),
            ),
            clock=self.clock,
        )
