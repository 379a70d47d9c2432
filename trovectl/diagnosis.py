"""What `trovectl doctor` concludes from what the supervisor and the conductor say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2 as supervisor
from trovectl.findings import Finding, error, warning
from trovectl.layout import Layout

_MANY_RESTARTS = 3
_CLOCK_TOLERANCE = dt.timedelta(minutes=5)
# A create is bounded by its steps' deadlines, of which an outage of ours is the longest.
_SLOW_OPERATION = dt.timedelta(minutes=15)
_UNCLAIMED_OPERATION = dt.timedelta(minutes=1)
_FULL_VOLUME = 0.9
_GIB = 1024**3
# The engine was asked to be so, or something of ours is at work.
_FINE = frozenset({"", "HEALTHY", "NEW", "BUILD", "RESTARTING"})
_STOPPED_ON_REQUEST = "on request"


def processes(found: Iterable[supervisor.Process], places: Layout) -> Iterator[Finding]:
    """The control plane's own."""
    for process in found:
        log = places.log(process.name)
        if not process.is_ready:
            yield error(
                "processes",
                what=f"the {process.name} is not ready: {process.reason or 'it does not run'}",
                why="what needs it waits or fails",
                do=f"read the last lines of {log}",
            )
        elif process.restart_count >= _MANY_RESTARTS:
            yield warning(
                "processes",
                what=f"the {process.name} was restarted {process.restart_count} times",
                why="it dies again and again, and works only in between",
                do=f"read {log} for what it says before each end",
            )


def guests(
    found: Iterable[supervisor.Guest],
    instances: Sequence[resources_pb2.InstanceView],
    places: Layout,
) -> Iterator[Finding]:
    """Agents of this machine that do not run, and guests that nobody knows."""
    known = {instance.id for instance in instances}
    for guest in found:
        if guest.instance_id not in known:
            yield warning(
                "guests",
                what=f"there is a guest {guest.instance_id} without an instance",
                why="it holds an address and a place among the local guests",
                do="nothing while it is being deleted; if it stays: trovectl down, remove "
                f"{places.guest(guest.instance_id)}, trovectl up",
            )
        elif not guest.agent_pid:
            yield error(
                "guests",
                what=f"the agent of {guest.instance_id} does not run",
                why="nobody looks after its engine, and no command reaches it",
                do=f"read the last lines of {places.log(f'guest-{guest.instance_id}-agent')}",
            )


def instances(
    found: Iterable[resources_pb2.InstanceView], now: dt.datetime, places: Layout
) -> Iterator[Finding]:
    """Instances that do not serve, and guests whose clock or volume will make trouble."""
    for instance in found:
        named = f"{instance.name} ({instance.id})"
        agent_log = places.log(f"guest-{instance.id}-agent")
        if instance.status == "ERROR":
            yield error(
                "instances",
                what=f"{named} is in ERROR: {instance.fault.message or 'no fault was recorded'}",
                why="it was not built, or not deleted, to the end",
                do=f"trovectl events {instance.id}; it can be deleted",
            )
        elif instance.operating_status not in _FINE and not (
            instance.operating_status == "SHUTDOWN"
            and _STOPPED_ON_REQUEST in instance.operating_status_reason
        ):
            yield error(
                "instances",
                what=f"{named} is {instance.operating_status}: {instance.operating_status_reason}",
                why="its clients may not be served",
                do=f"read the last lines of {agent_log}",
            )
        yield from _clock(instance, named, now)
        yield from _volume(instance, named)


def _clock(
    instance: resources_pb2.InstanceView, named: str, now: dt.datetime
) -> Iterator[Finding]:
    if not instance.HasField("last_report_time"):
        return
    heard = _time(instance.last_report_time)
    if heard > now + _CLOCK_TOLERANCE:
        yield error(
            "clocks",
            what=f"the conductor heard of {named} at {heard:%FT%TZ}, which is yet to come here",
            why="the conductor's clock and ours differ; silence is measured by the conductor's",
            do="set the clocks of both machines (timedatectl)",
        )
    seen = instance.observation
    if seen.HasField("guest_time") and abs(_time(seen.guest_time) - heard) > _CLOCK_TOLERANCE:
        yield warning(
            "clocks",
            what=f"the clock of {named} says {_time(seen.guest_time):%FT%TZ} at {heard:%FT%TZ}",
            why="its certificates may look expired, or not valid yet, to itself",
            do="set the guest's clock",
        )


def _volume(instance: resources_pb2.InstanceView, named: str) -> Iterator[Finding]:
    used, size = instance.observation.volume.used_bytes, instance.volume_size_gib * _GIB
    if size and used > size * _FULL_VOLUME:
        yield warning(
            "disk",
            what=f"{named} uses {used / _GIB:.1f} of its {instance.volume_size_gib} GiB",
            why="an engine with a full volume refuses writes",
            do="remove data, or move to a larger instance",
        )


def open_operations(
    found: Iterable[resources_pb2.Operation], now: dt.datetime
) -> Iterator[Finding]:
    """Operations that take longer than any should."""
    for operation in found:
        age = now - _time(operation.create_time)
        minutes = int(age.total_seconds() // 60)
        step = operation.steps[-1].name if operation.steps else ""
        if not step and age > _UNCLAIMED_OPERATION:
            yield error(
                "operations",
                what=f"{operation.kind} {operation.id} has not begun for {minutes} min",
                why="the task manager does not take it up",
                do="see that the task manager is ready (`trovectl status`), and read its log",
            )
        elif age > _SLOW_OPERATION:
            yield warning(
                "operations",
                what=f"{operation.kind} {operation.id} has been at {step} for up to {minutes} min",
                why="it waits for something that does not come",
                do=f"trovectl events {operation.instance_id}",
            )


def stuck_operations(found: Iterable[resources_pb2.Operation]) -> Iterator[Finding]:
    """Operations that a person must end."""
    for operation in found:
        if operation.state == resources_pb2.OPERATION_STATE_STUCK:
            yield error(
                "operations",
                what=f"{operation.kind} {operation.id} is stuck: {operation.fault.message}",
                why="it could not go on, and nothing of it was undone",
                do=f"trovectl events {operation.instance_id}, then delete the instance",
            )


def _time(stamp: Timestamp) -> dt.datetime:
    return stamp.ToDatetime(dt.UTC)
