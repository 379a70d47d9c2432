"""Modules over REST, and the contract of their port: the fake and a real conductor keep it."""

from __future__ import annotations

import base64

import pytest

from gateway.rest.ports.modules import Modules
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import running_rest
from tests.integration.gateway_rest.test_control_plane import fake, real
from trove_grpc.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
)
from trove_grpc.gen.conductor.v1 import module_service_pb2 as pb2

ALICE = pb2.ModuleCaller(tenant_id="alpha")
BETA = pb2.ModuleCaller(tenant_id="beta")
ADMIN = pb2.ModuleCaller(tenant_id="ops", is_admin=True)
HELLO = base64.b64encode(b"message=hello").decode()


@pytest.fixture(params=[fake, real])
async def modules(request, tmp_path):
    async with request.param(tmp_path) as control_plane:
        yield control_plane.modules


async def create(modules: Modules, caller: pb2.ModuleCaller = ALICE, **spec) -> pb2.Module:
    values = {
        "name": "m",
        "type": "ping",
        "contents": HELLO.encode(),
        "is_visible": True,
        "apply_order": 5,
    }
    return await modules.create(
        pb2.CreateModuleRequest(caller=caller, spec=pb2.ModuleSpec(**(values | spec)))
    )


def deleting(
    caller: pb2.ModuleCaller, module_id: str, request_id: str = ""
) -> pb2.DeleteModuleRequest:
    return pb2.DeleteModuleRequest(caller=caller, module_id=module_id, request_id=request_id)


async def test_created_module_is_shown_to_its_tenant_without_its_contents(modules):
    created = await create(modules, description="greets")
    found = await modules.get(ALICE, created.id)
    assert found == created
    assert found.spec.description == "greets"
    assert found.spec.contents == b""


async def test_another_tenant_neither_sees_nor_changes_it(modules):
    created = await create(modules)
    assert (await modules.list_page(BETA, datastore="", page_size=9, page_token="")).modules == []
    with pytest.raises(NotFoundError):
        await modules.get(BETA, created.id)
    with pytest.raises(NotFoundError):
        await modules.update(
            pb2.UpdateModuleRequest(caller=BETA, module_id=created.id, name="mine")
        )
    with pytest.raises(NotFoundError):
        await modules.delete(deleting(BETA, created.id))
    assert (await modules.get(ALICE, created.id)).spec.name == "m"


@pytest.mark.parametrize(
    "options",
    [
        {"auto_apply": True},
        {"all_tenants": True},
        {"is_visible": False},
        {"priority_apply": True},
        {"is_admin": True},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_what_concerns_others_is_for_administrators(modules, options):
    with pytest.raises(PermissionDeniedError) as caught:
        await create(modules, **options)
    assert caught.value.reason == "MODULE_ACCESS"
    assert (await create(modules, ADMIN, **options)).spec.is_admin


async def test_module_of_every_tenant_is_seen_by_all_and_changed_by_administrators(modules):
    created = await create(modules, ADMIN, all_tenants=True)
    assert (await modules.get(BETA, created.id)).tenant_id == ""
    change = pb2.UpdateModuleRequest(caller=BETA, module_id=created.id, name="mine")
    with pytest.raises(PermissionDeniedError):
        await modules.update(change)
    with pytest.raises(PermissionDeniedError):
        await modules.delete(deleting(BETA, created.id))
    change.caller.CopyFrom(ADMIN)
    assert (await modules.update(change)).spec.name == "mine"


async def test_hidden_module_does_not_exist_for_tenants(modules):
    created = await create(modules, ADMIN, all_tenants=True, is_visible=False)
    with pytest.raises(NotFoundError):
        await modules.get(ALICE, created.id)


async def test_same_name_twice_is_refused_and_for_another_datastore_it_is_not(modules):
    await create(modules)
    with pytest.raises(AlreadyExistsError):
        await create(modules)
    other = await create(modules, datastore="postgresql")
    with pytest.raises(AlreadyExistsError):
        await modules.update(
            pb2.UpdateModuleRequest(caller=ALICE, module_id=other.id, datastore="")
        )
    await create(modules, BETA)


async def test_change_sets_what_is_given_and_keeps_the_rest(modules):
    created = await create(modules, description="greets")
    changed = await modules.update(
        pb2.UpdateModuleRequest(caller=ALICE, module_id=created.id, contents=b"aGk=")
    )
    assert changed.md5 == "9a2fc0017af31b9194a45fb6819e6daa"
    assert (changed.spec.name, changed.spec.description) == ("m", "greets")


async def test_unknown_type_is_not_found(modules):
    with pytest.raises(NotFoundError, match="Module type 'zz' was not found"):
        await create(modules, type="zz")


async def test_list_goes_by_pages_and_by_datastore(modules):
    for name in ("a", "b", "c"):
        await create(modules, name=name)
    one = await create(modules, name="d", datastore="postgresql")
    names: list[str] = []
    token = ""
    while True:
        page = await modules.list_page(ALICE, datastore="", page_size=3, page_token=token)
        names += [module.spec.name for module in page.modules]
        if not (token := page.next_page_token):
            break
    assert sorted(names) == ["a", "b", "c", "d"]
    fitting = await modules.list_page(ALICE, datastore="postgresql", page_size=9, page_token="")
    assert one.id in [module.id for module in fitting.modules]
    assert len(fitting.modules) == 4


async def test_deleted_module_is_gone(modules):
    created = await create(modules)
    await modules.delete(deleting(ALICE, created.id))
    with pytest.raises(NotFoundError):
        await modules.delete(deleting(ALICE, created.id))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"contents": "no base64!"}, 400),
        ({"contents": None}, 400),
        ({"name": ""}, 400),
        ({"apply_order": 10}, 400),
        ({"visible": "yes"}, 400),
        ({"module_type": "zz"}, 404),
        ({"auto_apply": 1}, 403),
        ({"full_access": 0}, 403),
    ],
    ids=str,
)
async def test_bad_module_is_refused_with_troves_code(change, status):
    module = {"name": "m", "module_type": "ping", "contents": HELLO} | change
    async with running_rest(FakeControlPlane()) as client:
        answer = await client.send("POST", "/modules", {"module": module})
        assert (answer.status, HELLO in answer.text) == (status, False)
        assert (await client.send("GET", "/modules")).json == {"modules": []}


async def test_duplicate_is_a_bad_request_as_with_trove():
    module = {"name": "m", "module_type": "generic", "contents": HELLO}
    async with running_rest(FakeControlPlane()) as client:
        assert (await client.send("POST", "/modules", {"module": module})).status == 200
        assert (await client.send("POST", "/modules", {"module": module})).status == 400


async def test_any_datastore_again_by_the_clients_switch():
    module = {
        "name": "m",
        "module_type": "ping",
        "contents": HELLO,
        "datastore": {"type": "postgresql", "version": "15"},
    }
    async with running_rest(FakeControlPlane()) as client:
        created = (await client.send("POST", "/modules", {"module": module})).json["module"]
        path = f"/modules/{created['id']}"
        changed = await client.send("PUT", path, {"module": {"all_datastore_versions": 1}})
        assert changed.json["module"]["datastore_version"] == "all"
        changed = await client.send("PUT", path, {"module": {"all_datastores": 1}})
        assert changed.json["module"]["datastore"] == "all"


async def test_repeats_of_one_request_are_one_request(modules):
    spec = pb2.ModuleSpec(name="m", type="ping", contents=b"aGk=", is_visible=True)
    request = pb2.CreateModuleRequest(caller=ALICE, spec=spec, request_id="r1")
    made = await modules.create(request)
    assert (await modules.create(request)).id == made.id
    theirs = pb2.CreateModuleRequest(caller=BETA, spec=spec, request_id="r1")
    assert (await modules.create(theirs)).id != made.id
    request.spec.name = "other"
    with pytest.raises(ConflictError) as caught:
        await modules.create(request)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    for _ in range(2):
        await modules.delete(deleting(ALICE, made.id, "r2"))
    with pytest.raises(NotFoundError):
        await modules.delete(deleting(ALICE, made.id, "r3"))


async def test_request_that_failed_leaves_its_id_free(modules):
    request = pb2.CreateModuleRequest(
        caller=ALICE, spec=pb2.ModuleSpec(name="m", type="zz", contents=b"aGk="), request_id="r"
    )
    with pytest.raises(NotFoundError):
        await modules.create(request)
    request.spec.type, request.spec.is_visible = "ping", True
    await modules.create(request)


async def test_idempotency_key_makes_two_posts_one_module_and_two_deletes_one():
    module = {"module": {"name": "m", "module_type": "ping", "contents": HELLO}}
    async with running_rest(FakeControlPlane()) as client:
        key = {"X-Idempotency-Key": "k1"}
        made = [await client.send("POST", "/modules", module, headers=key) for _ in range(2)]
        assert [answer.status for answer in made] == [200, 200]
        assert made[0].json["module"]["id"] == made[1].json["module"]["id"]
        path = f"/modules/{made[0].json['module']['id']}"
        key = {"X-Idempotency-Key": "k2"}
        gone = [await client.send("DELETE", path, headers=key) for _ in range(2)]
        assert [answer.status for answer in gone] == [200, 200]
        assert (await client.send("DELETE", path)).status == 404
        bad = await client.send("POST", "/modules", module, headers={"X-Idempotency-Key": "a b"})
        assert bad.status == 400
