"""Server-sent events of an operation, read with a real HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from gateway.rest.routes import operation_events
from gateway.rest.routes.operation_events import Bounds
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import RestClient, running_rest
from trove_grpc.errors import UnavailableError
from trove_grpc.gen.conductor.v1 import resources_pb2 as pb2

NEW = {"instance": {"name": "orders", "flavorRef": "1", "volume": {"size": 1}}}
QUICK = {"poll": dt.timedelta(seconds=0.01), "comment": dt.timedelta(seconds=0.02)}
SECONDS = 10


@dataclass(frozen=True)
class Event:
    id: str
    name: str
    data: Any


class Stream:
    """Events of one response, one at a time."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> Event | str | None:
        """The next event, a comment, or None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(SECONDS):
            while line := (await self.response.content.readline()).decode():
                if line == "\n" and fields:
                    return Event(fields["id"], fields["event"], json.loads(fields["data"]))
                if line.startswith(":"):
                    return line[1:].strip()
                name, _, value = line.strip().partition(": ")
                fields[name] = value
        return None

    async def event(self) -> Event | None:
        """The next one that is no comment."""
        while isinstance(found := await self.next(), str):
            pass
        return found


class Scene:
    def __init__(self, control_plane: FakeControlPlane, client: RestClient) -> None:
        self.control_plane = control_plane
        self.client = client

    async def operation(self) -> pb2.Operation:
        created = await self.client.send("POST", "/instances", NEW)
        return self.control_plane.operations[created.headers["X-Trove-Operation-Id"]]

    async def room(self, operation: pb2.Operation) -> None:
        """Wait until a stream of the project is closed: until another one is let in."""
        async with asyncio.timeout(SECONDS):
            status = 413
            while status == 413:
                async with self.follow(operation) as stream:
                    status = stream.response.status
        assert status == 200

    @contextlib.asynccontextmanager
    async def follow(self, operation: pb2.Operation, **headers: str):
        url = f"{self.client.endpoint}/operations/{operation.id}/events"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            yield Stream(answer)


@contextlib.asynccontextmanager
async def scene(monkeypatch: pytest.MonkeyPatch, **bounds: Any):
    monkeypatch.setattr(operation_events, "DEFAULT", Bounds(**QUICK | bounds))
    control_plane = FakeControlPlane()
    async with running_rest(control_plane) as client:
        yield Scene(control_plane, client)


def begin(operation: pb2.Operation, name: str) -> pb2.Step:
    return operation.steps.add(name=name, state=pb2.STEP_STATE_RUNNING)


async def test_steps_arrive_as_they_happen_and_the_stream_ends_with_the_operation(monkeypatch):
    async with scene(monkeypatch) as here:
        operation = await here.operation()
        async with here.follow(operation) as stream:
            first = await stream.event()
            step = begin(operation, "boot_guest")
            begun = await stream.event()
            step.state = pb2.STEP_STATE_SUCCEEDED
            done = await stream.event()
            operation.state = pb2.OPERATION_STATE_SUCCEEDED
            last = await stream.event()
            end = await stream.event()

    assert stream.response.headers["Content-Type"] == "text/event-stream"
    assert stream.response.headers["X-OpenStack-Request-Id"].startswith("req-")
    assert (first.name, first.data["state"]) == ("operation", "RUNNING")
    assert (begun.name, begun.data) == ("step", {"name": "boot_guest", "state": "RUNNING"})
    assert done.data["state"] == "SUCCEEDED"
    assert (last.name, last.data["state"]) == ("operation", "SUCCEEDED")
    assert end is None


async def test_client_that_comes_back_hears_what_it_missed_and_no_more(monkeypatch):
    async with scene(monkeypatch) as here:
        operation = await here.operation()
        first_step = begin(operation, "boot_guest")
        async with here.follow(operation) as stream:
            await stream.event()
            seen = await stream.event()
        first_step.state = pb2.STEP_STATE_SUCCEEDED
        begin(operation, "await_agent").state = pb2.STEP_STATE_FAILED
        operation.fault.message = "the agent did not come"
        operation.state = pb2.OPERATION_STATE_FAILED
        async with here.follow(operation, **{"Last-Event-ID": seen.id}) as stream:
            missed = [await stream.event() for _ in range(4)]
        async with here.follow(operation, **{"Last-Event-ID": missed[2].id}) as stream:
            after_the_end = stream.response.status

    assert [(event.name, event.data["state"]) for event in missed[:3]] == [
        ("step", "SUCCEEDED"),
        ("step", "FAILED"),
        ("operation", "FAILED"),
    ]
    assert missed[2].data["fault"]["message"] == "the agent did not come"
    assert missed[3] is None
    assert after_the_end == 204


async def test_undone_steps_are_told_too(monkeypatch):
    async with scene(monkeypatch) as here:
        operation = await here.operation()
        step = begin(operation, "boot_guest")
        async with here.follow(operation) as stream:
            await stream.event()
            await stream.event()
            step.state = pb2.STEP_STATE_UNDONE
            undone = await stream.event()
    assert undone.data["state"] == "UNDONE"


async def test_stream_goes_on_when_the_conductor_comes_back(monkeypatch):
    async with scene(monkeypatch) as here:
        operation = await here.operation()
        async with here.follow(operation) as stream:
            await stream.event()
            here.control_plane.fail(UnavailableError("the conductor is away"))
            while "away" not in str(await stream.next()):
                pass
            operation.state = pb2.OPERATION_STATE_SUCCEEDED
            here.control_plane.fail(None)
            last = await stream.event()
    assert last.data["state"] == "SUCCEEDED"


async def test_nonsense_as_last_event_id_means_from_the_beginning(monkeypatch):
    async with scene(monkeypatch) as here:
        operation = await here.operation()
        async with here.follow(operation, **{"Last-Event-ID": "9x"}) as stream:
            assert (await stream.event()).name == "operation"


async def test_streams_of_a_project_are_bounded_and_a_closed_one_makes_room(monkeypatch):
    async with scene(monkeypatch, of_tenant=1) as here:
        operation = await here.operation()
        async with here.follow(operation) as stream:
            await stream.event()
            async with here.follow(operation) as refused:
                assert refused.response.status == 413
        await here.room(operation)


async def test_stream_ends_after_its_time_so_that_the_token_is_judged_anew(monkeypatch):
    async with (
        scene(monkeypatch, lifetime=dt.timedelta(seconds=0.05)) as here,
        here.follow(await here.operation()) as stream,
    ):
        assert (await stream.event()).name == "operation"
        assert await stream.event() is None


async def test_client_that_does_not_read_is_dropped(monkeypatch):
    async with scene(monkeypatch, of_tenant=1, patience=dt.timedelta(seconds=0.05)) as here:
        slow, other = await here.operation(), await here.operation()
        for number in range(40):
            begin(slow, f"step-{number}").detail = "x" * 1_000_000
        async with here.follow(slow) as stream:
            await here.room(other)
            with pytest.raises(aiohttp.ClientError):
                await stream.response.content.read()


async def test_operation_of_another_project_has_no_events(monkeypatch):
    async with scene(monkeypatch) as here:
        operation = await here.operation()
        url = f"/operations/{operation.id}/events"
        assert (await here.client.for_project("other").send("GET", url)).status == 404


async def test_open_stream_does_not_hold_up_the_end_of_the_process(monkeypatch):
    async with scene(monkeypatch, poll=dt.timedelta(hours=1)) as here:
        operation = await here.operation()
        session = aiohttp.ClientSession()
        url = f"{here.client.endpoint}/operations/{operation.id}/events"
        answer = await session.get(url)
        await Stream(answer).event()
    async with asyncio.timeout(SECONDS):
        assert await answer.content.read() == b""
    await session.close()
