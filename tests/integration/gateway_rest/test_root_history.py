"""The contract of `gateway.rest.ports.root`: the fake and a real conductor both keep it."""

from __future__ import annotations

import uuid

import pytest

from tests.integration.gateway_rest.test_control_plane import fake, new_instance, real
from trove_grpc.errors import NotFoundError


@pytest.fixture(params=[fake, real])
async def control_plane(request, tmp_path):
    async with request.param(tmp_path) as control_plane:
        yield control_plane


@pytest.fixture
async def instance_id(control_plane):
    return (await control_plane.create_instance(new_instance())).instance.id


async def test_root_is_enabled_until_it_is_disabled_and_the_last_who_did_it_is_kept(
    control_plane, instance_id
):
    history = control_plane.root_history
    assert not await history.is_enabled("demo", instance_id)
    assert not (await history.last_enabling(instance_id)).HasField("enable_time")
    with pytest.raises(NotFoundError) as caught:
        await history.record_disabled("demo", instance_id)
    assert caught.value.reason == "ROOT_NEVER_ENABLED"
    assert not await history.record_enabled("demo", instance_id, "ann")
    assert await history.record_enabled("demo", instance_id, "bob")
    assert await history.is_enabled("demo", instance_id)
    first = await history.last_enabling(instance_id)
    assert first.user_id == "ann"
    assert first.enable_time.seconds > 0
    await history.record_disabled("demo", instance_id)
    assert not await history.is_enabled("demo", instance_id)
    assert await history.last_enabling(instance_id) == first
    with pytest.raises(NotFoundError):
        await history.record_disabled("demo", instance_id)
    assert not await history.record_enabled("demo", instance_id, "bob")
    assert (await history.last_enabling(instance_id)).user_id == "bob"


async def test_another_tenants_instance_has_no_history(control_plane, instance_id):
    history = control_plane.root_history
    await history.record_enabled("demo", instance_id, "ann")
    for tenant, instance in (("beta", instance_id), ("demo", str(uuid.uuid4()))):
        with pytest.raises(NotFoundError):
            await history.record_enabled(tenant, instance, "eve")
        with pytest.raises(NotFoundError):
            await history.record_disabled(tenant, instance)
        with pytest.raises(NotFoundError):
            await history.is_enabled(tenant, instance)
    assert await history.is_enabled("demo", instance_id)
    with pytest.raises(NotFoundError):
        await history.last_enabling(str(uuid.uuid4()))
