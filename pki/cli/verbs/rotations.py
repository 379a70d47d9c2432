"""`rotate`: plans, starts and steers rotations."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pki import profiles
from pki.cli import rotation_views, times, waiting
from pki.cli.connection import Issuer
from pki.cli.documents import enum_name, kind_name
from pki.cli.exits import CommandError, Exit
from pki.cli.grammar import Verbs
from pki.cli.invocation import Invocation
from pki.cli.plans import Plan, is_agreed
from pki.cli.verbs.authorities import more, stranded_line, stranded_row
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import authority_service_pb2 as pb

_KINDS = {
    "leaf": pb.ROTATION_KIND_LEAF,
    "service": pb.ROTATION_KIND_SERVICE,
    "intermediate": pb.ROTATION_KIND_INTERMEDIATE,
    "root": pb.ROTATION_KIND_ROOT,
}
_ROOTS = ("root", "database-root")
_INTERMEDIATES = ("guest", "service", "operator", "database")
_TARGETS = {"switched": pb.ROTATION_PHASE_SWITCHED, "retired": pb.ROTATION_PHASE_RETIRED}
# Which gate a rotation stands at, and where it leads.
_BEYOND = {
    pb.ROTATION_PHASE_READY: pb.ROTATION_PHASE_SWITCHED,
    pb.ROTATION_PHASE_DRAINED: pb.ROTATION_PHASE_RETIRED,
}
_AFTER_SWITCH = (pb.ROTATION_PHASE_DRAINED, pb.ROTATION_PHASE_RETIRED)
_GONE_BACK = (pb.ROTATION_PHASE_ABORTED, pb.ROTATION_PHASE_ROLLED_BACK)
_SWITCHED = (
    pb.ROTATION_PHASE_SWITCHED,
    pb.ROTATION_PHASE_REISSUING,
    pb.ROTATION_PHASE_DRAINED,
    pb.ROTATION_PHASE_RETIRED,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be rotated."""

    kind: pb.RotationKind.ValueType
    authority: profiles.Kind = trust_pb2.AUTHORITY_KIND_UNSPECIFIED
    instance_ids: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What is typed to consent."""
        if self.authority:
            return kind_name(self.authority)
        return enum_name(pb.RotationKind, self.kind, "ROTATION_KIND").lower()


def register(verbs: Verbs) -> None:
    group = verbs.group("rotate", "new keys and certificates, without a lost connection")
    plan = group.verb("plan", _plan, "what a rotation would do; changes nothing")
    _add_wanted(plan)
    begin = group.verb("start", _start, "begin a rotation")
    _add_wanted(begin)
    add_start_options(begin)
    status = group.verb("status", _status, "open rotations, or one")
    status.add_argument("rotation", metavar="ROTATION", nargs="?")
    status.add_argument("--all", dest="is_all", action="store_true", help="ended ones too")
    advance = group.verb("advance", _advance, "pass the gate a rotation waits at")
    _add_rotation(advance)
    advance.add_argument("--to", choices=_TARGETS, help="refuse unless the gate leads there")
    _add_strand(advance)
    pause = group.verb("pause", _pause, "stop a rotation from going on by itself")
    _add_rotation(pause)
    pause.add_argument("--reason", required=True)
    resume = group.verb("resume", _resume, "let a paused rotation go on")
    _add_rotation(resume)
    resume.add_argument("--reason", default="resumed by an operator")
    rollback = group.verb("rollback", _roll_back, "go back: the old generation signs again")
    _add_rotation(rollback)
    rollback.add_argument("--reason", required=True)
    retire = group.verb("retire", _retire, "end the trust in the old generation")
    _add_rotation(retire)
    _add_strand(retire)


def add_start_options(parser: Any) -> None:
    parser.add_argument("--auto", action="store_true", help="pass its gates by itself")
    parser.add_argument(
        "--spread",
        type=times.parse_span,
        metavar="SPAN",
        help="over how long holders renew; default: the issuer reckons",
    )
    parser.add_argument("--reason", default="", help="for the audit")


def start(invocation: Invocation, wanted: Wanted) -> Exit:
    """Plan, ask, start; with --wait stay until a gate or the end."""
    options = invocation.options
    plan = invocation.ask(lambda issuer: _fetch_plan(issuer, wanted))
    if plan.obstacles:
        raise CommandError(Exit.REFUSED, f"cannot start: {'; '.join(plan.obstacles)}")
    steps = [*plan.steps, *_offline_note(plan)]
    if not is_agreed(invocation, Plan(f"rotate {_title(plan.rotation)}", wanted.name, steps)):
        return Exit.OK
    request = pb.StartRotationRequest(
        request_id=str(uuid.uuid4()),
        kind=wanted.kind,
        authority=wanted.authority,
        instance_ids=wanted.instance_ids,
        is_automatic=options.auto,
        reason=options.reason,
    )
    if options.spread is not None:
        request.spread.FromTimedelta(options.spread)
    goals = (
        {pb.ROTATION_PHASE_RETIRED} if options.auto else {pb.ROTATION_PHASE_READY, *_AFTER_SWITCH}
    )

    async def work(issuer: Issuer) -> waiting.Waited:
        answer = await issuer.call(issuer.authorities.StartRotation, request)
        return await _wait(invocation, issuer, answer.rotation, goals)

    return _show_waited(invocation, invocation.ask(work))


def _add_wanted(parser: Any) -> None:
    parser.add_argument("kind", choices=_KINDS)
    parser.add_argument(
        "authority",
        nargs="?",
        choices=(*_INTERMEDIATES, *_ROOTS),
        help="of intermediate: guest, service, operator or database; of root: root (the default)"
        " or database-root",
    )
    parser.add_argument(
        "--instance",
        action="append",
        default=[],
        metavar="ID",
        help="of leaf: only this one; may be repeated",
    )


def _add_rotation(parser: Any) -> None:
    parser.add_argument("rotation", metavar="ROTATION", help="its id, like rot-0019")


def _add_strand(parser: Any) -> None:
    parser.add_argument(
        "--strand",
        type=lambda text: text.split(","),
        default=[],
        metavar="ID[,ID]",
        help="retire although these instances, each by name, are left behind",
    )


def _wanted(options: Any) -> Wanted:
    kind, authority = options.kind, options.authority
    if kind == "root":
        authority = authority or "root"
        if authority not in _ROOTS:
            raise CommandError(Exit.USAGE, f"{authority} is no root: say {' or '.join(_ROOTS)}")
    elif kind == "intermediate":
        if authority not in _INTERMEDIATES:
            raise CommandError(
                Exit.USAGE, f"which intermediate? Say one of {', '.join(_INTERMEDIATES)}"
            )
    elif authority is not None:
        raise CommandError(Exit.USAGE, f"rotate {kind} takes no authority")
    if options.instance and kind != "leaf":
        raise CommandError(Exit.USAGE, "--instance is for `rotate ... leaf` alone")
    return Wanted(
        kind=_KINDS[kind],
        authority=(
            profiles.KINDS_BY_NAME[authority]
            if authority
            else trust_pb2.AUTHORITY_KIND_UNSPECIFIED
        ),
        instance_ids=tuple(options.instance),
    )


async def _fetch_plan(issuer: Issuer, wanted: Wanted) -> pb.PlanRotationResponse:
    answer: pb.PlanRotationResponse = await issuer.call(
        issuer.authorities.PlanRotation,
        pb.PlanRotationRequest(
            kind=wanted.kind, authority=wanted.authority, instance_ids=wanted.instance_ids
        ),
    )
    return answer


def _title(rotation: pb.Rotation) -> str:
    return waiting.subject(rotation)


def _offline_note(plan: pb.PlanRotationResponse) -> list[str]:
    if not plan.offline_total:
        return []
    lost = sum(not each.is_recoverable for each in plan.offline)
    text = f"{plan.offline_total} guests are offline and follow when they return"
    if not lost:
        return [text]
    named = len(plan.offline)
    them = "them" if named == plan.offline_total else f"the first {named}"
    return [f"{text}; {lost} of {them} need a token"]


def _plan(invocation: Invocation) -> Exit:
    wanted = _wanted(invocation.options)
    plan = invocation.ask(lambda issuer: _fetch_plan(issuer, wanted))
    offline = [stranded_row(each) for each in plan.offline]
    console = invocation.console
    if not console.is_for_people:
        console.document(
            [
                {
                    "plan": f"rotate {_title(plan.rotation)}",
                    "steps": list(plan.steps),
                    "offline": offline,
                    "offline_total": plan.offline_total,
                    "obstacles": list(plan.obstacles),
                }
            ]
        )
    else:
        console.line(f"Plan: rotate {_title(plan.rotation)}   (nothing is changed by 'plan')")
        for number, step in enumerate(plan.steps, start=1):
            console.line(f"  {number} {step}")
        for row in offline:
            console.line(f"  offline: {stranded_line(row, invocation.now)}")
        for line in more(offline, plan.offline_total, "trove-pki agents list --offline"):
            console.line(f"  {line}")
        for obstacle in plan.obstacles:
            console.line(f"  cannot start: {obstacle}")
    return Exit.REFUSED if plan.obstacles else Exit.OK


def _start(invocation: Invocation) -> Exit:
    return start(invocation, _wanted(invocation.options))


def _status(invocation: Invocation) -> Exit:
    options = invocation.options
    if options.rotation is None:
        if options.wait:
            raise CommandError(Exit.USAGE, "--wait needs the rotation's id")
        rotation_views.show(
            invocation,
            invocation.ask(
                lambda issuer: rotation_views.fetch(issuer, open_only=not options.is_all)
            ),
        )
        return Exit.OK
    if options.wait:

        async def work(issuer: Issuer) -> waiting.Waited:
            rotation = await _fetch_one(issuer, options.rotation)
            return await _wait(invocation, issuer, rotation.rotation, waiting.ENDED)

        return _show_waited(invocation, invocation.ask(work))
    answer = invocation.ask(lambda issuer: _fetch_one(issuer, options.rotation))
    behind = [stranded_row(each) for each in answer.behind]
    if not invocation.console.is_for_people:
        invocation.console.document(
            [
                {
                    **rotation_views.row_of(answer.rotation),
                    "behind": behind,
                    "behind_total": answer.behind_total,
                }
            ]
        )
        return Exit.OK
    rotation_views.show(invocation, [answer.rotation])
    for row in behind:
        invocation.console.line(f"  behind: {stranded_line(row, invocation.now)}")
    for line in more(behind, answer.behind_total, "trove-pki agents list"):
        invocation.console.line(f"  {line}")
    return Exit.OK


async def _fetch_one(issuer: Issuer, rotation_id: str) -> pb.GetRotationResponse:
    answer: pb.GetRotationResponse = await issuer.call(
        issuer.authorities.GetRotation, pb.GetRotationRequest(rotation_id=rotation_id)
    )
    return answer


def _advance(invocation: Invocation) -> Exit:
    options = invocation.options
    answer = invocation.ask(lambda issuer: _fetch_one(issuer, options.rotation))
    rotation = answer.rotation
    target = _BEYOND.get(rotation.phase)
    if target is None:
        invocation.console.note(
            f"{options.rotation} is {waiting.phase_name(rotation.phase)} and waits at no gate"
            + (f"; next: {rotation.next}" if rotation.next else "")
        )
        return Exit.NOTHING_TO_DO
    if options.to is not None and _TARGETS[options.to] != target:
        raise CommandError(
            Exit.REFUSED,
            f"{options.rotation} is {waiting.phase_name(rotation.phase)}: its gate leads to "
            f"{waiting.phase_name(target)}",
        )
    return _pass_gate(invocation, rotation, target)


def _retire(invocation: Invocation) -> Exit:
    options = invocation.options
    rotation = invocation.ask(lambda issuer: _fetch_one(issuer, options.rotation)).rotation
    if rotation.phase == pb.ROTATION_PHASE_RETIRED:
        invocation.console.note(f"{options.rotation} is RETIRED already")
        return Exit.NOTHING_TO_DO
    return _pass_gate(invocation, rotation, pb.ROTATION_PHASE_RETIRED)


def _pass_gate(
    invocation: Invocation, rotation: pb.Rotation, target: pb.RotationPhase.ValueType
) -> Exit:
    options, name = invocation.options, rotation.rotation_id
    is_retiring = target == pb.ROTATION_PHASE_RETIRED
    steps = (
        ["the old generation leaves the bundle; what it signed is refused from then on"]
        if is_retiring
        else ["the new generation signs from now on", "holders renew, each in its window"]
    )
    steps += [f"instance {each} is left behind" for each in options.strand]
    plan = Plan(
        f"{name}, {waiting.subject(rotation)}, to {waiting.phase_name(target)}", name, steps
    )
    if not is_agreed(invocation, plan):
        return Exit.OK
    request = pb.AdvanceRotationRequest(
        rotation_id=name, target=target, strand_instance_ids=options.strand
    )
    goals = {pb.ROTATION_PHASE_RETIRED} if is_retiring else _AFTER_SWITCH

    async def work(issuer: Issuer) -> waiting.Waited | pb.AdvanceRotationResponse:
        answer: pb.AdvanceRotationResponse = await issuer.call(
            issuer.authorities.AdvanceRotation, request
        )
        if answer.stranded_total:
            return answer
        return await _wait(invocation, issuer, answer.rotation, goals, leaving=rotation.phase)

    outcome = invocation.ask(work)
    if isinstance(outcome, waiting.Waited):
        return _show_waited(invocation, outcome)
    return _refuse_to_strand(invocation, outcome)


def _refuse_to_strand(invocation: Invocation, answer: pb.AdvanceRotationResponse) -> Exit:
    console = invocation.console
    stranded = [stranded_row(each) for each in answer.stranded]
    console.note(
        f"refused (safety gate): {answer.stranded_total} live instances would be left behind; "
        "nothing was changed"
    )
    if console.is_for_people:
        for row in stranded:
            console.line(f"  {stranded_line(row, invocation.now)}")
        for line in more(stranded, answer.stranded_total, "name these first, then ask again"):
            console.line(f"  {line}")
    else:
        console.document(stranded)
    console.note("Use --strand=<id>[,<id>] to go on anyway for named instances.")
    return Exit.REFUSED


def _pause(invocation: Invocation) -> Exit:
    return _set_paused(invocation, is_paused=True)


def _resume(invocation: Invocation) -> Exit:
    return _set_paused(invocation, is_paused=False)


def _set_paused(invocation: Invocation, *, is_paused: bool) -> Exit:
    options = invocation.options
    before = invocation.ask(lambda issuer: _fetch_one(issuer, options.rotation)).rotation
    if before.is_paused == is_paused or before.phase in waiting.ENDED:
        state = waiting.phase_name(before.phase) if before.phase in waiting.ENDED else ""
        state = state or ("paused" if is_paused else "not paused")
        invocation.console.note(f"{options.rotation} is {state} already")
        return Exit.NOTHING_TO_DO
    request = pb.PauseRotationRequest(
        rotation_id=options.rotation, is_paused=is_paused, reason=options.reason
    )
    goals = {*_AFTER_SWITCH, pb.ROTATION_PHASE_READY}

    async def work(issuer: Issuer) -> waiting.Waited:
        answer = await issuer.call(issuer.authorities.PauseRotation, request)
        if is_paused:
            return waiting.Waited(answer.rotation, Exit.OK)
        return await _wait(invocation, issuer, answer.rotation, goals)

    return _show_waited(invocation, invocation.ask(work))


def _roll_back(invocation: Invocation) -> Exit:
    options, name = invocation.options, invocation.options.rotation
    rotation = invocation.ask(lambda issuer: _fetch_one(issuer, name)).rotation
    if rotation.phase in _GONE_BACK:
        invocation.console.note(f"{name} is {waiting.phase_name(rotation.phase)} already")
        return Exit.NOTHING_TO_DO
    steps = (
        ["the old generation signs again", "what the new one signed stays valid and is replaced"]
        if rotation.phase in _SWITCHED
        else ["the new generation is dropped; nothing was signed with it"]
    )
    plan = Plan(f"roll back {name}, {waiting.subject(rotation)}", name, steps)
    if not is_agreed(invocation, plan):
        return Exit.OK
    request = pb.RollBackRotationRequest(rotation_id=name, reason=options.reason)

    async def work(issuer: Issuer) -> waiting.Waited:
        answer = await issuer.call(issuer.authorities.RollBackRotation, request)
        return await _wait(invocation, issuer, answer.rotation, _GONE_BACK)

    return _show_waited(invocation, invocation.ask(work))


async def _wait(
    invocation: Invocation,
    issuer: Issuer,
    rotation: pb.Rotation,
    goals: Collection[pb.RotationPhase.ValueType],
    *,
    leaving: pb.RotationPhase.ValueType | None = None,
) -> waiting.Waited:
    if not invocation.options.wait:
        return waiting.Waited(rotation, Exit.OK)
    return await waiting.follow(
        issuer,
        rotation,
        goals,
        console=invocation.console,
        timeout=invocation.options.timeout,
        leaving=leaving,
        interval=invocation.poll,
    )


def _show_waited(invocation: Invocation, waited: waiting.Waited) -> Exit:
    rotation_views.show(invocation, [waited.rotation])
    if waited.message:
        invocation.console.note(f"trove-pki: {waited.message}")
    return waited.status
