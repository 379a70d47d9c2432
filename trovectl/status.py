"""`trovectl status` and `trovectl events`: what runs and what happened, for people and scripts."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from trove_grpc.errors import TroveError
from trove_grpc.gen.conductor.v1 import resources_pb2
from trovectl import table
from trovectl.client import Installation


async def status(installation: Installation, *, as_json: bool) -> str:
    """Processes, instances and guests."""
    processes = await installation.processes()
    guests = {guest.instance_id: guest for guest in await installation.guests()}
    problem = ""
    instances: list[resources_pb2.InstanceView] = []
    try:
        instances = await installation.instances()
    except TroveError as error:
        problem = error.message
    content: dict[str, Any] = {
        "processes": [
            {
                "name": process.name,
                "pid": process.pid,
                "ready": process.is_ready,
                "reason": process.reason,
                "restarts": process.restart_count,
                "endpoints": list(process.endpoints),
            }
            for process in processes
        ],
        "instances": [_instance(view) for view in instances],
        "guests": [
            {
                "instance": guest.instance_id,
                "address": guest.address,
                "agent_pid": guest.agent_pid,
                "enrolled": guest.has_identity,
            }
            for guest in guests.values()
        ],
    }
    if problem:
        content["problem"] = f"instances are not known: {problem}"
    return json.dumps(content, indent=2) if as_json else _tables(content)


def _instance(view: resources_pb2.InstanceView) -> dict[str, Any]:
    return {
        "id": view.id,
        "name": view.name,
        "tenant": view.tenant_id,
        "status": view.status,
        "operating_status": view.operating_status,
        "reason": view.operating_status_reason or view.fault.message,
        "addresses": list(view.addresses),
        "engine_starts": view.observation.start_count,
        "last_report": _time(view.last_report_time) if view.HasField("last_report_time") else "",
    }


def _tables(content: dict[str, Any]) -> str:
    parts = [
        table.render(
            ("PROCESS", "PID", "READY", "RESTARTS", "LISTENS", "REASON"),
            [
                (
                    each["name"],
                    each["pid"],
                    "yes" if each["ready"] else "no",
                    each["restarts"],
                    " ".join(each["endpoints"]),
                    each["reason"],
                )
                for each in content["processes"]
            ],
        )
    ]
    agents = {guest["instance"]: guest for guest in content["guests"]}
    if content["instances"]:
        parts.append(
            table.render(
                (
                    "INSTANCE",
                    "NAME",
                    "TENANT",
                    "STATUS",
                    "OPERATING",
                    "ADDRESS",
                    "AGENT",
                    "REASON",
                ),
                [
                    (
                        each["id"],
                        each["name"],
                        each["tenant"],
                        each["status"],
                        each["operating_status"],
                        " ".join(each["addresses"]),
                        _agent(agents.get(each["id"])),
                        each["reason"],
                    )
                    for each in content["instances"]
                ],
            )
        )
    else:
        parts.append(content.get("problem", "no instances"))
    known = {each["id"] for each in content["instances"]}
    if strangers := [guest for key, guest in agents.items() if key not in known]:
        parts.append(
            table.render(
                ("GUEST WITHOUT INSTANCE", "ADDRESS", "AGENT"),
                [(each["instance"], each["address"], _agent(each)) for each in strangers],
            )
        )
    return "\n\n".join(parts)


def _agent(guest: dict[str, Any] | None) -> str:
    if guest is None:
        return "-"
    return f"pid {guest['agent_pid']}" if guest["agent_pid"] else "down"


async def events(installation: Installation, name_or_id: str, *, as_json: bool) -> str:
    """An instance's operations with their steps, oldest first."""
    instance = await installation.instance(name_or_id)
    operations = list(reversed(await installation.operations(instance.id)))
    if as_json:
        return json.dumps([_operation(operation) for operation in operations], indent=2)
    lines = [f"{instance.name} ({instance.id}): {instance.status} {instance.operating_status}"]
    for operation in operations:
        lines.append("")
        lines.append(
            f"{_time(operation.create_time)}  {operation.kind}  "
            f"{state_name(operation.state)}  {operation.id}"
        )
        lines += [f"  {step_line(step)}" for step in operation.steps]
        if operation.HasField("fault"):
            lines.append(f"  fault: {operation.fault.message}")
            lines += [f"    {line}" for line in operation.fault.details.splitlines()]
    return "\n".join(lines)


def _operation(operation: resources_pb2.Operation) -> dict[str, Any]:
    return {
        "id": operation.id,
        "kind": operation.kind,
        "state": state_name(operation.state),
        "created": _time(operation.create_time),
        "steps": [
            {
                "name": step.name,
                "state": step_state_name(step.state),
                "started": _time(step.start_time),
                "ended": _time(step.end_time) if step.HasField("end_time") else "",
                "detail": step.detail,
            }
            for step in operation.steps
        ],
        "fault": {"message": operation.fault.message, "details": operation.fault.details}
        if operation.HasField("fault")
        else None,
    }


def state_name(state: resources_pb2.OperationState.ValueType) -> str:
    return resources_pb2.OperationState.Name(state).removeprefix("OPERATION_STATE_")


def step_state_name(state: resources_pb2.StepState.ValueType) -> str:
    return resources_pb2.StepState.Name(state).removeprefix("STEP_STATE_")


def step_line(step: resources_pb2.Step) -> str:
    """One line such as: boot_guest  SUCCEEDED  0.8 s  detail."""
    took = ""
    if step.HasField("end_time"):
        took = (
            f"{(step.end_time.ToDatetime() - step.start_time.ToDatetime()).total_seconds():.1f} s"
        )
    return f"{step.name:<20} {step_state_name(step.state):<10} {took:>7}  {step.detail}".rstrip()


def _time(stamp: Timestamp) -> str:
    return f"{stamp.ToDatetime(dt.UTC):%FT%TZ}"
