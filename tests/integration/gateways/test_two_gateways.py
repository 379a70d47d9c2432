"""Two gateways at once: agents move when one goes, reports keep their order, commands arrive."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.gateways.conftest import Gateway, Guest, Region, eventually, seconds
from trove_grpc.gen.guest.v1 import guest_session_service_pb2 as guest_pb2


@pytest.fixture
async def pair(region: Region) -> Region:
    await region.start()
    await region.start_gateway("one")
    await region.start_gateway("two")
    return region


def gateway_of(region: Region, guest: Guest) -> Gateway | None:
    """Whose session the conductor holds for the one in force."""
    rows = region.query(
        "SELECT gateway_id FROM guest_sessions WHERE instance_id = ? AND close_time IS NULL"
        " AND open_time IS NOT NULL",
        guest.instance_id,
    )
    return region.gateways[rows[0][0]] if rows else None


def ping(number: int) -> guest_pb2.Command:
    command = guest_pb2.Command(command_id=f"ping-{number}", ping=guest_pb2.PingAction())
    command.timeout.FromTimedelta(seconds(10))
    return command


async def test_agents_spread_and_move_when_a_gateway_is_killed(pair: Region) -> None:
    pair.witness_order()
    guests = [await pair.guest() for _ in range(12)]
    for guest in guests:
        guest.start()
    await eventually(lambda: all(each.is_connected for each in guests), "everybody connected")
    used = {gateway_of(pair, guest).name for guest in guests}  # type: ignore[union-attr]
    assert used == {"one", "two"}  # by chance not in 1 of 2,048 runs

    for guest in guests:
        await pair.prepare(guest)
    guests_of_one = [each for each in guests if gateway_of(pair, each) is pair.gateways["one"]]

    def moved() -> bool:
        return all(gateway_of(pair, each) is pair.gateways["two"] for each in guests_of_one)

    async with asyncio.TaskGroup() as load:
        for guest in guests:
            load.create_task(crash_often(guest, 6))
        await pair.gateways["one"].kill()
        await eventually(moved, "the guests of the dead gateway are at the other one")
    for guest in guests:
        await pair.settled(guest)


async def crash_often(guest: Guest, times: int) -> None:
    for _ in range(times):
        await guest.crash_engine()


async def test_command_finds_a_guest_that_moved_with_one_lookup_and_one_retry(
    pair: Region,
) -> None:
    guest = await pair.started_guest()
    taskmanager = await pair.guests()
    await taskmanager.send_command(guest.instance_id, ping(1))
    assert pair.lookups == 1
    await taskmanager.send_command(guest.instance_id, ping(2))
    assert pair.lookups == 1  # remembered

    left = gateway_of(pair, guest)
    assert left is not None
    await left.kill()
    await eventually(
        lambda: (now := gateway_of(pair, guest)) is not None and now is not left, "it moved"
    )
    await taskmanager.send_command(guest.instance_id, ping(3))
    assert pair.lookups == 2


async def test_agents_leave_a_gateway_that_says_goodbye(pair: Region) -> None:
    guest = await pair.started_guest()
    left = gateway_of(pair, guest)
    assert left is not None
    taskmanager = await pair.guests()
    await taskmanager.send_command(guest.instance_id, ping(1))
    assert await left.end() == 0
    await eventually(
        lambda: (now := gateway_of(pair, guest)) is not None and now is not left, "it moved"
    )
    await taskmanager.send_command(guest.instance_id, ping(2))
    assert pair.lookups == 2


async def test_gateways_that_die_in_turn_lose_no_report(pair: Region) -> None:
    pair.witness_order()
    guests = [await pair.started_guest() for _ in range(3)]
    for guest in guests:
        await pair.prepare(guest)
    async with asyncio.TaskGroup() as load:
        for guest in guests:
            load.create_task(crash_often(guest, 20))
        for name in ("one", "two", "one"):
            await pair.gateways[name].kill()
            await pair.start_gateway(name)
            await eventually(lambda: all(each.is_connected for each in guests), "all came back")
    for guest in guests:
        await pair.settled(guest)
