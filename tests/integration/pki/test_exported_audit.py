"""What exported audit records say is still refused, or in quarantine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from pki.disaster import exported
from pki.models import AuditRecord
from pki.store import audit
from tests.integration.pki.conftest import Desk


def write(desk: Desk, action: str, instance_id: str, **detail: str) -> None:
    desk.store.run_now(
        lambda s: audit.append(
            s, now=desk.now, actor="o", action=action, subject=instance_id, detail=detail
        )
    )


@pytest.mark.parametrize(
    ("action", "detail", "is_left"),
    [
        ("resolve-clone", {"resolution": "KEEP"}, False),
        ("resolve-clone", {"resolution": "REISSUE"}, True),
        ("retire-subject", {"reason": "deleted"}, False),
        ("enrol-guest", {"serial": "of-a-new-token"}, False),
        ("renew-guest", {"serial": "b", "replaces": "a"}, True),
    ],
)
def test_a_quarantine_lasts_until_what_ends_it(
    desk: Desk, action: str, detail: dict[str, str], *, is_left: bool
) -> None:
    instance_id, _first = desk.enrolled()
    write(desk, "quarantine", instance_id, why="seen twice")
    write(desk, action, instance_id, **detail)
    left = {instance_id: "seen twice"} if is_left else {}
    assert exported.quarantined(records(desk)) == left


def test_a_reply_that_was_asked_for_again_ends_no_quarantine(desk: Desk) -> None:
    instance_id, first = desk.enrolled()
    write(desk, "quarantine", instance_id, why="seen twice")
    write(desk, "enrol-guest", instance_id, serial=first.serial)
    assert set(exported.quarantined(records(desk))) == {instance_id}


def records(desk: Desk) -> list[AuditRecord]:
    def work(session: Session) -> list[AuditRecord]:
        return list(audit.after(session, 0, 1000))

    return desk.store.run_now(work)


@pytest.fixture
def denied_in(desk: Desk) -> Callable[[], set[tuple[str, str]]]:
    return lambda: {(each.kind, each.value) for each in exported.denied(records(desk))}


def test_a_certificate_whose_successor_was_used_is_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    _instance_id, first = desk.enrolled()
    second = desk.renew(first)
    assert denied_in() == set()  # the successor may have been lost on its way
    desk.renew(second)
    assert denied_in() == {("SERIAL", first.serial)}


def test_what_a_machine_held_before_it_enrolled_anew_is_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id, first = desk.enrolled()
    desk.enrol(desk.mint(instance_id), instance_id)
    assert denied_in() == {("SERIAL", first.serial)}


def test_a_generation_that_was_tainted_is_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    desk.store.run_now(
        lambda s: audit.append(
            s, now=desk.now, actor="o", action="taint-authority", subject="guest/1", detail={}
        )
    )
    assert denied_in() == {("GENERATION", "guest/1")}


def test_an_identity_that_ended_is_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id, _first = desk.enrolled()
    desk.retire(instance_id)
    assert denied_in() == {("INSTANCE", instance_id)}


def test_what_an_operator_reissued_is_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id, first = desk.enrolled()
    desk.store.run_now(
        lambda s: audit.append(
            s,
            now=desk.now,
            actor="o",
            action="resolve-clone",
            subject=instance_id,
            detail={"resolution": "REISSUE"},
        )
    )
    assert denied_in() == {("SERIAL", first.serial)}


def test_what_an_instance_held_while_it_was_denied_stays_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id, first = desk.enrolled()
    for action in ("create-denial", "lift-denial"):
        desk.store.run_now(
            lambda s, action=action: audit.append(
                s, now=desk.now, actor="o", action=action, subject=f"instance {instance_id}"
            )
        )
    assert denied_in() == {("SERIAL", first.serial)}


def test_a_reply_that_was_asked_for_again_is_not_refused(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id, first = desk.enrolled()
    desk.store.run_now(
        lambda s: audit.append(
            s,
            now=desk.now,
            actor="o",
            action="enrol-guest",
            subject=instance_id,
            detail={"serial": first.serial},
        )
    )
    assert denied_in() == set()


def test_what_was_adopted_is_refused_after_the_machine_enrolled_anew(
    desk: Desk, denied_in: Callable[[], set[tuple[str, str]]]
) -> None:
    instance_id = desk.register()
    desk.store.run_now(
        lambda s: audit.append(
            s,
            now=desk.now,
            actor="o",
            action="adopt-certificate",
            subject=instance_id,
            detail={"serial": "abc"},
        )
    )
    desk.enrol(desk.mint(instance_id), instance_id)
    assert denied_in() == {("SERIAL", "abc")}
