"""Local guests: an agent and its engine on a loopback address of their own.

guest.json is written before anything is done and says what is wanted, so that a supervisor
killed at any point leaves a guest that the next one finishes building or removing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from trove_grpc.errors import ConflictError, QuotaExceededError, UnavailableError
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2 as rpc
from trovectl import children, layout, ports, procfs
from trovectl.accounts import GUEST_POOL, Accounts
from trovectl.children import Backoff
from trovectl.guest import Guest, GuestRecord, State
from trovectl.layout import Layout, checked_id
from trovectl.records import Records
from trovectl.runtime import Runtime

log = logging.getLogger(__name__)

_ADDRESS_ATTEMPTS = 200


class Guests:
    """Every local guest of this installation."""

    def __init__(
        self,
        places: Layout,
        *,
        accounts: Accounts,
        runtime: Runtime,
        records: Records,
        backoff: Backoff,
        settings: Mapping[str, Any],
        enrolment_endpoints: tuple[str, ...] = (),
        guest_endpoints: tuple[str, ...] = (),
    ) -> None:
        self._enrolment_endpoints = enrolment_endpoints
        self._guest_endpoints = guest_endpoints
        self._places = places
        self._accounts = accounts
        self._runtime = runtime
        self._records = records
        self._backoff = backoff
        self._settings = settings
        self._guests: dict[str, Guest] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._removals: dict[str, asyncio.Task[None]] = {}

    def load(self) -> None:
        """Read what is there; before anybody can ask, or they would hear that nothing is."""
        for path in sorted(self._places.guests.iterdir()):
            record = GuestRecord.load(path / "guest.json")
            if record is None or path.name != record.instance_id:
                # Killed before the first word was on disk, or after the last: nothing runs.
                layout.remove_tree(path)
            else:
                self._guests[record.instance_id] = self._guest(record)

    async def recover(self) -> None:
        """Bring back every guest that was there, and finish removals that had begun."""
        self._end_strays()
        for guest in list(self._guests.values()):
            instance_id = guest.record.instance_id
            if guest.record.state is State.REMOVING:
                await self.remove(instance_id)
                continue
            # The task manager may be asking for the same already.
            async with self._locks[instance_id]:
                if guest.record.state is State.RUNNING:
                    guest.learn_endpoints(self._enrolment_endpoints, self._guest_endpoints)
                    await guest.start()

    def _end_strays(self) -> None:
        """Agents nobody has a record of; their guests get one that has."""
        known = {
            record.process
            for name in self._records.names()
            if (record := self._records.get(name)) is not None
        }
        for process in procfs.under(self._places.guests):
            argv = procfs.arguments(process.pid)
            if process not in known and any(word.startswith("guestagent") for word in argv):
                log.warning("ending an agent without a record, pid %s", process.pid)
                procfs.send(process, signal.SIGKILL)

    def list(self) -> list[Guest]:
        return [self._guests[key] for key in sorted(self._guests)]

    async def allocate(self, instance_id: str, port: int) -> str:
        """Reserve a loopback address on which `port` is free; the same one every time."""
        checked_id(instance_id)
        async with self._locks[instance_id]:
            guest = self._guests.get(instance_id)
            if guest is not None:
                self._refuse_removing(guest)
                return guest.record.address
            record = GuestRecord(
                instance_id=instance_id,
                address=self._free_address(port),
                port=port,
                index=self._free_index(),
            )
            guest = self._guests[instance_id] = self._guest(record)
            guest.save()
            return record.address

    def _free_address(self, port: int) -> str:
        taken = {guest.record.address for guest in self._guests.values()}
        for _ in range(_ADDRESS_ATTEMPTS):
            # Not 127.0.x.x and 127.1.x.x, where people put things by hand.
            parts = (random.randrange(64, 127), random.randrange(256), random.randrange(1, 255))  # noqa: S311
            address = "127." + ".".join(str(part) for part in parts)
            if address not in taken and ports.is_free(address, port):
                return address
        raise UnavailableError(
            f"no loopback address with port {port} free: it is taken by "
            f"{procfs.holder('0.0.0.0', port)}, which listens on every address",  # noqa: S104
            reason="PORT_TAKEN",
        )

    def _free_index(self) -> int:
        taken = {guest.record.index for guest in self._guests.values()}
        # Another installation on this machine has the same pool.
        busy = procfs.uids() if self._accounts.are_separate else set()
        for index in range(GUEST_POOL):
            if index not in taken and not busy & {
                account.uid for account in self._accounts.guest(index)
            }:
                return index
        raise QuotaExceededError(f"this machine runs {GUEST_POOL} local guests; delete one")

    def _guest(self, record: GuestRecord) -> Guest:
        return Guest(
            record,
            self._places,
            accounts=self._accounts,
            runtime=self._runtime,
            records=self._records,
            backoff=self._backoff,
            settings=self._settings,
        )

    async def ensure(self, request: rpc.EnsureGuestRequest) -> Guest:
        """Make sure that the guest exists as asked and its agent runs."""
        instance_id = checked_id(request.instance_id)
        async with self._locks[instance_id]:
            guest = self._guests.get(instance_id)
            if guest is None:
                raise ConflictError(
                    f"instance {instance_id} has no address here; allocate one first",
                    reason="NO_ADDRESS",
                    subject=instance_id,
                )
            self._refuse_removing(guest)
            await guest.ensure(request)
            return guest

    def _refuse_removing(self, guest: Guest) -> None:
        if guest.record.state is State.REMOVING:
            raise ConflictError(
                f"guest {guest.record.instance_id} is being removed",
                reason="GUEST_REMOVING",
                subject=guest.record.instance_id,
            )

    async def remove(self, instance_id: str) -> None:
        """Stop the guest and remove its files. Goes on although the caller stops waiting."""
        checked_id(instance_id)
        task = self._removals.get(instance_id)
        if task is None:
            task = asyncio.create_task(self._remove(instance_id), name=f"remove-{instance_id}")
            self._removals[instance_id] = task
            task.add_done_callback(lambda _: self._removals.pop(instance_id, None))
        await asyncio.shield(task)

    async def _remove(self, instance_id: str) -> None:
        async with self._locks[instance_id]:
            guest = self._guests.get(instance_id)
            if guest is not None:
                await guest.remove()
                del self._guests[instance_id]
        self._locks.pop(instance_id, None)

    async def stop(self) -> None:
        """Stop every agent and engine; files stay."""
        if self._removals:
            await asyncio.wait(self._removals.values(), timeout=30)
        await asyncio.gather(*(guest.stop() for guest in self._guests.values()))
        # Whatever escaped: engines of agents that died, and their tools.
        await children.end_engines(procfs.under(self._places.guests), grace=10)
