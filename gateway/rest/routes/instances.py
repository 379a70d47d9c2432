"""Instances: create, list, show, rename, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from gateway.rest import admin, etags, new_instance, views
from gateway.rest.control_plane import ControlPlane
from gateway.rest.dialects import dialect_of
from gateway.rest.fields import Fields
from gateway.rest.idempotency import read_request_id
from gateway.rest.links import Json, Links
from gateway.rest.router import Call, Route, accepted, answer, started
from trove_grpc.errors import InvalidRequestError, NotFoundError, UnsupportedError
from trove_grpc.gen.conductor.v1 import instance_service_pb2, resources_pb2

# What PUT and PATCH know beside the name, as Trove has it.
_REPLACED = ("replica_of", "configuration", "datastore_version", "access")
_EDITED = ("slave_of", "replica_of", "configuration", "datastore_version")
_CHANGES = ("replica_of", "slave_of", "configuration", "datastore_version", "access")

_View = Callable[[resources_pb2.InstanceView, Links], dict[str, Json]]


class Instances:
    """Trove's instance routes as far as this control plane carries them."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self._management = control_plane.management

    def routes(self) -> list[Route]:
        return [
            ("POST", "/instances", self.create),
            ("GET", "/instances", self.list_summaries),
            ("GET", "/instances/detail", self.list_details),
            ("GET", "/instances/{id}", self.show),
            ("PUT", "/instances/{id}", self.replace),
            ("PATCH", "/instances/{id}", self.edit),
            ("DELETE", "/instances/{id}", self.delete),
        ]

    async def create(self, call: Call) -> web.Response:
        request_id = read_request_id(call.http)
        instance = await call.fields("instance")
        name = new_instance.read_name(instance)
        new_instance.check_unsupported(instance, region=call.settings.region)
        size, volume_type = new_instance.read_volume(instance)
        flavor = new_instance.choose_flavor(instance, await self._control_plane.list_flavors())
        version = await self._choose_version(instance)
        request = instance_service_pb2.CreateInstanceRequest(
            request_id=request_id,
            tenant_id=call.project_id,
            name=name,
            flavor=flavor,
            volume_size_gib=size,
            volume_type=volume_type,
            datastore=version.datastore_id,
            datastore_version=version.id,
            region=call.settings.region,
            availability_zone=instance.text("availability_zone", nullable=True),
            access=new_instance.read_access(instance),
            deletion_protection=bool(instance.boolean("deletion_protection")),
            configuration_id=new_instance.read_configuration(instance),
        )
        if new_instance.names_databases_or_users(instance):
            dialect = dialect_of(version.manager)
            databases = new_instance.read_databases(instance, dialect)
            users = await asyncio.to_thread(new_instance.read_users, instance, dialect, databases)
            request.databases.extend(databases)
            request.users.extend(users)
        response = await self._control_plane.create_instance(request)
        await self._control_plane.wake(response.operation_id)
        body: dict[str, Json] = {"instance": views.instance_detail(response.instance, call.links)}
        return started(answer(body), response.operation_id)

    async def list_summaries(self, call: Call) -> web.Response:
        return await self._list(call, views.instance_summary, "instances")

    async def list_details(self, call: Call) -> web.Response:
        return await self._list(call, views.instance_detail, "instances/detail")

    async def show(self, call: Call) -> web.Response:
        instance_id = call.segment("id")
        if call.caller.is_admin:  # of whichever project it is
            item = await self._management.get_instance(instance_id, include_deleted=False)
            instance = item.instance
            view = views.instance_shown(instance, call.links) | admin.instance_extras(item)
        else:
            instance = await self._control_plane.get_instance(call.project_id, instance_id)
            view = views.instance_shown(instance, call.links)
        return etags.answer_unless_known(call.http, {"instance": view}, instance.row_version)

    async def replace(self, call: Call) -> web.Response:
        changes = await call.fields("instance")
        changes.only("name", *_REPLACED, "deletion_protection")
        return await self._change(call, changes)

    async def edit(self, call: Call) -> web.Response:
        changes = await call.fields("instance")
        changes.only("name", *_EDITED, "deletion_protection")
        return await self._change(call, changes)

    async def delete(self, call: Call) -> web.Response:
        request = instance_service_pb2.DeleteInstanceRequest(
            tenant_id=call.project_id,
            instance_id=call.segment("id"),
            request_id=read_request_id(call.http),
            expected_row_versions=etags.read_expected_versions(call.http),
        )
        operation_id = await self._control_plane.delete_instance(request)
        await self._control_plane.wake(operation_id)
        return started(accepted(), operation_id)

    async def _list(self, call: Call, view: _View, collection: str) -> web.Response:
        page = call.page()
        found = await self._control_plane.list_instances(
            call.project_id, page_size=page.limit, page_token=page.marker
        )
        body: dict[str, Json] = {
            "instances": [
                view(instance, call.links)
                | ({"tenant_id": instance.tenant_id} if call.caller.is_admin else {})
                for instance in found.instances
            ]
        }
        if found.next_page_token:
            body["links"] = call.links.following(
                collection, limit=page.limit, marker=found.next_page_token
            )
        return answer(body)

    async def _change(self, call: Call, changes: Fields) -> web.Response:
        """Carry out a change."""
        request = instance_service_pb2.UpdateInstanceRequest(
            tenant_id=call.project_id,
            instance_id=call.segment("id"),
            name=new_instance.read_name(changes) if "name" in changes else "",
            deletion_protection=changes.boolean("deletion_protection"),
            expected_row_versions=etags.read_expected_versions(call.http),
        )
        instance = await self._control_plane.get_instance(call.project_id, request.instance_id)
        if not changes.names() or any(change in changes for change in _CHANGES):
            etags.check(instance, request.expected_row_versions)
        await self._check_change(instance, changes)
        if request.name or request.HasField("deletion_protection"):
            await self._control_plane.update_instance(request)
        # {} detaches too: that is how gophercloud does it.
        if "configuration" in changes or not changes.names():
            await self._configure(call.project_id, request.instance_id, changes)
        return accepted()

    async def _configure(self, project_id: str, instance_id: str, changes: Fields) -> None:
        configurations = self._control_plane.configurations
        if group := changes.text("configuration", nullable=True):
            operation_id = await configurations.attach(project_id, instance_id, group)
        else:
            operation_id = await configurations.detach(project_id, instance_id)
        if operation_id:
            await self._control_plane.wake(operation_id)

    async def _check_change(self, instance: resources_pb2.InstanceView, changes: Fields) -> None:
        """Let through what changes nothing; refuse the rest as Trove would."""
        asked = [change for change in _CHANGES if change in changes]
        if len(asked) > 1:
            raise InvalidRequestError("Only one attribute (except 'name') is allowed to update.")
        for change in asked:
            if change in ("replica_of", "slave_of"):
                if changes.text(change, nullable=True):
                    raise UnsupportedError("Replicas are not supported by this deployment yet.")
                raise InvalidRequestError(f"Instance {instance.id} is not a replica.")
            if change == "configuration":
                continue
            if change == "datastore_version":
                await self._control_plane.get_datastore_version(
                    instance.datastore_version.datastore_id, changes.required_text(change)
                )
                raise UnsupportedError("Upgrades are not supported by this deployment yet.")
            new_instance.read_access(changes)
            raise UnsupportedError(
                "Changing the access of an instance is not supported by this deployment yet."
            )

    async def _choose_version(self, instance: Fields) -> resources_pb2.DatastoreVersion:
        """The version asked for, with Trove's defaults for what is left out."""
        datastore = instance.object("datastore") or Fields({}, instance.at("datastore"))
        name = datastore.text("type", nullable=True)
        version = datastore.text("version", nullable=True)
        number = datastore.text("version_number", nullable=True)
        if not number:
            return await self._control_plane.get_datastore_version(name, version)
        # Versions of one name are told apart by their number.
        if not name:
            chosen = await self._control_plane.get_datastore_version(name, version)
            name = chosen.datastore_id
        siblings = await self._control_plane.get_datastore(name)
        for sibling in siblings.versions:
            if sibling.version == number and version in ("", sibling.name, sibling.id):
                return sibling
        raise NotFoundError(
            f"Datastore version '{version}' with number '{number}' cannot be found.",
            reason="DATASTORE_VERSION_NOT_FOUND",
        )
