from __future__ import annotations

import datetime as dt
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.fakes.certificates import TestAuthority
from trove_grpc.gen.conductor.v1 import resources_pb2
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2 as supervisor
from trove_grpc.identity import Role
from trove_grpc.tls import IdentityDirectory
from trovectl import diagnosis, doctor, inspection
from trovectl.findings import Level, error, warning
from trovectl.layout import Layout

NOW = dt.datetime.now(dt.UTC)
INSTANCE = "0b0e36a5-9bd5-4cf2-9b10-8d27a7c3b6ab"
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
def places() -> Iterator[Layout]:
    """Not pytest's directory: other users may not pass through that."""
    with tempfile.TemporaryDirectory(prefix="trove-test-") as folder:
        state = Path(folder)
        state.chmod(0o711)
        (state / "logs").mkdir()
        yield Layout(state)


def stamp(moment: dt.datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def instance(**changes: object) -> resources_pb2.InstanceView:
    view = resources_pb2.InstanceView(
        id=INSTANCE, name="shop", status="ACTIVE", operating_status="HEALTHY", volume_size_gib=1
    )
    view.last_report_time.CopyFrom(stamp(NOW))
    view.observation.guest_time.CopyFrom(stamp(NOW))
    view.MergeFrom(resources_pb2.InstanceView(**changes))
    return view


def see(view: resources_pb2.InstanceView, places: Layout):
    return list(diagnosis.instances([view], NOW, places))


def operation(age: dt.timedelta, *steps: str, **changes: object) -> resources_pb2.Operation:
    return resources_pb2.Operation(
        id="o-1",
        kind="create_instance",
        instance_id=INSTANCE,
        create_time=stamp(NOW - age),
        steps=[resources_pb2.Step(name=step) for step in steps],
        **changes,
    )


def test_healthy_parts_give_no_finding(places):
    assert not list(
        diagnosis.processes([supervisor.Process(name="conductor", pid=1, is_ready=True)], places)
    )
    guest = supervisor.Guest(instance_id=INSTANCE, agent_pid=7)
    assert not list(diagnosis.guests([guest], [instance()], places))
    assert not see(instance(), places)
    assert not list(diagnosis.open_operations([operation(MINUTE * 2, "boot_guest")], NOW))
    assert not list(inspection.permissions(places))
    assert not list(inspection.clock(places, NOW))


def test_process_that_is_not_ready_is_named_with_its_log(places):
    process = supervisor.Process(name="issuer", reason="does not answer: refused")
    (found,) = diagnosis.processes([process], places)
    assert found.level is Level.ERROR
    assert "issuer" in found.what
    assert "refused" in found.what
    assert str(places.log("issuer")) in found.do


def test_process_that_dies_again_and_again_is_a_warning(places):
    process = supervisor.Process(name="issuer", is_ready=True, restart_count=4)
    (found,) = diagnosis.processes([process], places)
    assert found.level is Level.WARNING


def test_agent_that_is_down_and_guest_of_nobody_are_found(places):
    down = supervisor.Guest(instance_id=INSTANCE)
    stranger = supervisor.Guest(instance_id=INSTANCE.replace("0", "1"), agent_pid=3)
    found = list(diagnosis.guests([down, stranger], [instance()], places))
    assert [each.level for each in found] == [Level.ERROR, Level.WARNING]
    assert f"guest-{INSTANCE}-agent" in found[0].do


def test_silent_guest_is_found_with_how_long(places):
    reason = "no report from its guest agent for 4 min (limit 90 s)"
    view = instance(operating_status="ERROR", operating_status_reason=reason)
    (found,) = see(view, places)
    assert reason in found.what


def test_engine_stopped_on_request_is_as_it_should_be(places):
    asked = instance(
        operating_status="SHUTDOWN", operating_status_reason="the engine was stopped on request"
    )
    crashed = instance(operating_status="SHUTDOWN", operating_status_reason="the engine is gone")
    assert not see(asked, places)
    assert len(see(crashed, places)) == 1


def test_failed_instance_shows_its_fault(places):
    view = instance(status="ERROR", operating_status="")
    view.operating_status = ""
    view.fault.message = "the guest never called home"
    (found,) = see(view, places)
    assert "never called home" in found.what
    assert f"trovectl events {INSTANCE}" in found.do


@pytest.mark.parametrize("hours", [-24, 24])
def test_guests_clock_that_is_off_is_found(places, hours):
    view = instance()
    view.observation.guest_time.CopyFrom(stamp(NOW + dt.timedelta(hours=hours)))
    (found,) = see(view, places)
    assert found.check == "clocks"


def test_report_from_the_future_means_that_clocks_differ(places):
    view = instance()
    later = stamp(NOW + dt.timedelta(hours=1))
    view.last_report_time.CopyFrom(later)
    view.observation.guest_time.CopyFrom(later)
    (found,) = see(view, places)
    assert "conductor" in found.what


def test_full_volume_is_a_warning(places):
    view = instance()
    view.observation.volume.used_bytes = int(0.95 * 1024**3)
    (found,) = see(view, places)
    assert "0.9 of its 1 GiB" in found.what or "1.0 of its 1 GiB" in found.what


def test_operation_nobody_takes_and_one_that_takes_too_long_are_found():
    found = list(
        diagnosis.open_operations(
            [operation(MINUTE * 3), operation(MINUTE * 30, "boot_guest", "await_agent")], NOW
        )
    )
    assert "task manager" in found[0].why
    assert "await_agent" in found[1].what


def test_stuck_operation_is_found_and_a_failed_one_is_its_instances_matter():
    stuck = operation(MINUTE, state=resources_pb2.OPERATION_STATE_STUCK)
    failed = operation(MINUTE, state=resources_pb2.OPERATION_STATE_FAILED)
    (found,) = diagnosis.stuck_operations([stuck, failed])
    assert "stuck" in found.what


def test_secret_that_others_can_read_is_found(places):
    key = places.process("conductor") / "sealing.key"
    key.parent.mkdir()
    key.touch(mode=0o600)
    assert not list(inspection.permissions(places))
    key.chmod(0o640)
    (found,) = inspection.permissions(places)
    assert f"chmod 600 {key}" in found.do


def test_state_that_others_can_write_is_found(places):
    places.state.chmod(0o777)
    (found,) = inspection.permissions(places)
    assert "go-w" in found.do


def test_taken_port_is_found_with_its_holder(places):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        places.ports.write_text(json.dumps({"conductor": port}))
        (found,) = inspection.taken_ports(places)
    assert f"port {port} of the conductor" in found.what
    assert f"pid {os.getpid()}" in found.what
    assert not list(inspection.taken_ports(places))


def test_broken_ports_file_is_found(places):
    places.ports.write_text("[]")
    (found,) = inspection.taken_ports(places)
    assert "remove" in found.do


def test_log_from_the_future_means_that_the_clock_went_back(places):
    log = places.log("conductor")
    log.touch()
    ahead = (NOW + dt.timedelta(days=1)).timestamp()
    os.utime(log, (ahead, ahead))
    (found,) = inspection.clock(places, NOW)
    assert "24 h from now" in found.what or "23 h from now" in found.what


def test_certificate_is_found_when_overdue_expired_or_not_yet_valid(places):
    identity = places.process("conductor") / "identity"
    TestAuthority().identity_for_service(Role.CONDUCTOR, identity)
    facts = IdentityDirectory(identity).load().facts
    life = facts.not_valid_after - facts.not_valid_before

    def at(moment: dt.datetime):
        return list(inspection.certificates(places, moment))

    assert not at(facts.not_valid_before + life / 2)
    (overdue,) = at(facts.not_valid_after - life / 10)
    assert overdue.level is Level.WARNING
    (expired,) = at(facts.not_valid_after + MINUTE)
    assert expired.level is Level.ERROR
    assert "the conductor" in expired.what
    (early,) = at(facts.not_valid_before - dt.timedelta(hours=2))
    assert early.check == "clocks"


def test_authority_that_ends_soon_is_found(places):
    TestAuthority().identity_for_operator("ops", places.operator)
    assert not list(inspection.authorities(places, NOW - dt.timedelta(days=3000)))
    assert list(inspection.authorities(places, NOW + dt.timedelta(days=36500)))


async def test_directory_without_an_installation_is_said(tmp_path):
    (found,) = await doctor.examine(tmp_path / "none", now=NOW)
    assert "there is nothing" in found.what


async def test_installation_that_does_not_run_is_said(places):
    found = await doctor.examine(places.state, now=NOW)
    assert any("nothing runs" in each.what for each in found)


def test_findings_are_shown_with_why_and_what_to_do():
    found = [error("disk", what="W", why="Y", do="D"), warning("ports", what="w", why="y", do="d")]
    shown = doctor.render(found, as_json=False)
    assert shown.startswith("ERROR  disk: W\n  why: Y\n  do:  D")
    assert json.loads(doctor.render(found, as_json=True))[1] == {
        "level": "warning",
        "check": "ports",
        "what": "w",
        "why": "y",
        "do": "d",
    }
    assert doctor.render([], as_json=False) == "nothing wrong was found"
    assert json.loads(doctor.render([], as_json=True)) == []
