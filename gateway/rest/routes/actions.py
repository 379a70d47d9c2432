"""What is done to an instance that exists: its owner's actions, and an administrator's."""

from __future__ import annotations

from aiohttp import web

from gateway.rest import new_instance
from gateway.rest.admin import require_admin
from gateway.rest.control_plane import ControlPlane
from gateway.rest.fields import Fields, as_object, invalid, shown
from gateway.rest.idempotency import read_request_id
from gateway.rest.router import Call, Route, accepted, started
from trove_grpc.errors import InvalidRequestError, PermissionDeniedError, UnsupportedError
from trove_grpc.gen.conductor.v1 import action_service_pb2 as pb2

_ACTIONS = (
    "restart",
    "resize",
    "promote_to_replica_source",
    "eject_replica_source",
    "reset_status",
)
_MANAGED_ACTIONS = ("stop", "reboot", "migrate", "reset-task-status", "rebuild")


class ActionRoutes:
    """Begins operations; `GET …/operations` tells how they go on."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def routes(self) -> list[Route]:
        return [
            ("POST", "/instances/{id}/action", self.act),
            ("POST", "/mgmt/instances/{id}/action", self.manage),
        ]

    async def act(self, call: Call) -> web.Response:
        """Exactly one action. An administrator's may be on any project's instance."""
        name, options = _read_action(await call.object())
        if not call.caller.is_admin:
            # 404 comes before 403 and before complaints about the target.
            await self._control_plane.get_instance(call.project_id, call.segment("id"))
        match name:
            case "restart":
                operation_id = await self._begin(call, restart=pb2.RestartInstance())
            case "resize":
                operation_id = await self._resize(call, options)
            case "reset_status":
                operation_id = await self._reset(call, options)
            case _:
                raise await self._is_no_replica(call, name)
        return _accepted(operation_id)

    async def manage(self, call: Call) -> web.Response:
        """An administrator's action, in Trove's order of complaints."""
        require_admin(call)
        operation_id = ""
        match _read_managed_action(await call.object()):
            case "stop":
                operation_id = await self._begin(call, stop=pb2.StopInstance())
            case "reboot":
                # A local guest has no machine of its own: what its database sees of a reboot is
                # that the engine is stopped and started.
                operation_id = await self._begin(call, restart=pb2.RestartInstance())
            case "reset-task-status":
                await self._control_plane.actions.reset(call.segment("id"))
            case name:
                instance_id = call.segment("id")
                await self._control_plane.management.get_instance(
                    instance_id, include_deleted=False
                )
                raise UnsupportedError(
                    f"The action {name} is not supported by the local compute driver, which has "
                    "one machine and no images.",
                    reason="COMPUTE_CANNOT",
                )
        return _accepted(operation_id)

    async def _begin(
        self,
        call: Call,
        *,
        restart: pb2.RestartInstance | None = None,
        stop: pb2.StopInstance | None = None,
        resize_volume: pb2.ResizeVolume | None = None,
        resize_flavor: pb2.ResizeFlavor | None = None,
    ) -> str:
        operation_id = await self._control_plane.actions.begin(
            pb2.BeginActionRequest(
                tenant_id=call.project_id,
                instance_id=call.segment("id"),
                request_id=read_request_id(call.http),
                any_tenant=call.caller.is_admin,
                restart=restart,
                stop=stop,
                resize_volume=resize_volume,
                resize_flavor=resize_flavor,
            )
        )
        await self._control_plane.wake(operation_id)
        return operation_id

    async def _resize(self, call: Call, options: Fields) -> str:
        """Of volume and flavor in one body Trove takes the volume alone."""
        if "volume" in options:
            size = _read_size(options)
            return await self._begin(call, resize_volume=pb2.ResizeVolume(size_gib=size))
        if "flavorRef" in options:
            flavors = await self._control_plane.list_flavors()
            flavor = new_instance.choose_flavor(options, flavors)
            return await self._begin(call, resize_flavor=pb2.ResizeFlavor(flavor=flavor))
        raise invalid(options.path, "must name a volume or a flavorRef")

    async def _reset(self, call: Call, options: Fields) -> str:
        """Upstream lets an owner pass who adds force_delete; here neither is an owner's."""
        is_forced = options.boolean("force_delete")
        if not call.caller.is_admin:
            rule = "force_delete" if is_forced else "reset_status"
            raise PermissionDeniedError(f"Policy doesn't allow instance:{rule} to be performed.")
        if not is_forced:
            await self._control_plane.actions.reset(call.segment("id"))
            return ""
        operation_id = await self._control_plane.actions.force_delete(
            call.segment("id"), read_request_id(call.http)
        )
        await self._control_plane.wake(operation_id)
        return operation_id

    async def _is_no_replica(self, call: Call, name: str) -> InvalidRequestError:
        instance_id = call.segment("id")
        await self._control_plane.get_instance(call.project_id, instance_id)
        role = "replica" if name == "promote_to_replica_source" else "replica source"
        return InvalidRequestError(f"Instance {instance_id} is not a {role}.")


def _accepted(operation_id: str) -> web.Response:
    """What only changes a record starts no operation."""
    return started(accepted(), operation_id) if operation_id else accepted()


def _read_action(body: dict[str, object]) -> tuple[str, Fields]:
    named = [action for action in _ACTIONS if action in body]
    if len(body) != 1 or not named:
        raise InvalidRequestError(
            f"Name exactly one action in the request body: {', '.join(_ACTIONS)}."
        )
    (name,) = named
    value = body[name]
    # openstacksdk sends null, which Trove itself refuses.
    if name == "restart" and value is None:
        value = {}
    return name, as_object(value, name)


def _read_size(options: Fields) -> int:
    """The size of {"size": 2}, or of the bare 2 that openstacksdk sends and Trove refuses."""
    bare = options.raw("volume")
    if isinstance(bare, int) and not isinstance(bare, bool):
        return new_instance.read_volume_size(Fields({"size": bare}, options.at("volume")))
    volume = options.object("volume")
    assert volume is not None  # noqa: S101  the caller saw it
    return new_instance.read_volume_size(volume)


def _read_managed_action(body: dict[str, object]) -> str:
    for name in body:
        if name not in _MANAGED_ACTIONS:
            raise InvalidRequestError(f"Invalid instance action: {shown(name)[1:-1]}")
    if len(body) != 1:
        raise InvalidRequestError("Only one action can be specified per request.")
    (action,) = body
    options = as_object(body[action], action)
    if action == "rebuild":
        options.required_text("image_id")
    return action
