"""Pages as clients walk them: whatever the numbers, each item once and in order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from gateway.rest.links import Links
from tests.fakes.rest_admin import ADMIN_PROJECT, running_rest_with_admins
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import RestClient
from tests.integration.gateway_rest.test_control_plane import new_instance
from trove_grpc.gen.conductor.v1 import module_service_pb2

MAX_PAGE = 20
CASES = range(25)
# Every list that takes a limit, whether or not it has anything to show yet.
LIMITED = (
    *("/instances", "/instances/detail", "/mgmt/instances", "/modules"),
    *("/clusters", "/mgmt/clusters"),
)


@dataclass(frozen=True)
class Case:
    """A random number of items and a random page size."""

    seed: int
    count: int
    limit: int | None

    @property
    def page(self) -> int:
        return min(self.limit or MAX_PAGE, MAX_PAGE)


def a_case(seed: int) -> Case:
    draw = random.Random(seed)  # noqa: S311  chance that can be repeated, no secret
    limit = draw.choice([None, 1, 2, draw.randint(1, 60), 10**17])
    # Around the edges of a page is where mistakes live.
    page = min(limit or MAX_PAGE, MAX_PAGE)
    count = draw.choice([0, page - 1, page, page + 1, 2 * page, draw.randint(0, 50)])
    return Case(seed, count, limit)


async def filled(count: int) -> FakeControlPlane:
    control_plane = FakeControlPlane()
    for _ in range(count):
        await control_plane.create_instance(new_instance(tenant_id=ADMIN_PROJECT))
    return control_plane


async def walks(control_plane: FakeControlPlane, count: int) -> dict[str, list[str]]:
    """Path of each list with `count` items in it, and the ids it must show in order."""
    newest_first = list(reversed(control_plane.instances))
    for number in range(count):
        spec = module_service_pb2.ModuleSpec(
            name=f"m{number}", type="ping", contents=b"x", is_visible=True
        )
        await control_plane.modules.create(
            module_service_pb2.CreateModuleRequest(
                caller=module_service_pb2.ModuleCaller(tenant_id=ADMIN_PROJECT), spec=spec
            )
        )
    expected = {
        "/instances": sorted(newest_first),
        "/instances/detail": sorted(newest_first),
        "/mgmt/instances": newest_first,
        f"/mgmt/instances?deleted=false&project_id={ADMIN_PROJECT}": newest_first,
        "/modules": sorted(control_plane.modules.modules),
    }
    for instance in list(control_plane.instances.values())[:1]:
        for _ in range(count - 1):  # its creation is one
            control_plane.begin("restart", instance)
        expected[f"/instances/{instance.id}/operations"] = [
            operation.id
            for operation in reversed(control_plane.operations.values())
            if operation.instance_id == instance.id
        ]
    return expected


def with_query(path: str, **query: Any) -> str:
    text = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
    return f"{path}{'&' if '?' in path else '?'}{text}" if text else path


async def walk(client: RestClient, path: str, limit: int | None) -> list[list[dict[str, Any]]]:
    """The pages, followed as python-troveclient does: by the marker of the link, as it is."""
    pages: list[list[dict[str, Any]]] = []
    marker = None
    while True:
        answer = await client.send("GET", with_query(path, limit=limit, marker=marker))
        assert answer.status == 200, answer.text
        links = answer.json.get("links")
        (items,) = (value for key, value in answer.json.items() if key != "links")
        pages.append(items)
        if links is None:
            return pages
        ((relation, href),) = [(link["rel"], link["href"]) for link in links]
        assert relation == "next"
        query = dict(parse_qsl(urlsplit(href).query))
        assert query["limit"] == str(min(limit or MAX_PAGE, MAX_PAGE))
        marker = query["marker"]
        assert len(pages) < 100, "the pages never end"


def flatten(pages: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    return [item["id"] for page in pages for item in page]


@pytest.mark.parametrize("seed", CASES)
async def test_every_item_is_on_one_page_in_order(seed: int):
    case = a_case(seed)
    control_plane = await filled(case.count)
    async with running_rest_with_admins(control_plane) as client:
        for path, expected in (await walks(control_plane, case.count)).items():
            pages = await walk(client, path, case.limit)

            assert flatten(pages) == expected, (case, path)
            assert len(pages) == max(1, -(-case.count // case.page)), (case, path)
            assert all(len(page) == case.page for page in pages[:-1]), (case, path)


async def test_a_link_keeps_the_filters_of_its_request():
    control_plane = await filled(2)
    async with running_rest_with_admins(control_plane) as client:
        path = f"/mgmt/instances?deleted=false&project_id={ADMIN_PROJECT}&limit=1"
        (link,) = (await client.send("GET", path)).json["links"]

    parts = urlsplit(link["href"])
    assert (parts.scheme, parts.path) == ("https", f"/v1.0/{ADMIN_PROJECT}/mgmt/instances")
    assert dict(parse_qsl(parts.query)) == {
        "deleted": "false",
        "project_id": ADMIN_PROJECT,
        "limit": "1",
        "marker": "1",
    }


@pytest.mark.parametrize("path", LIMITED)
@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "1.5", "٣", "1e3", "0x10", "+1"])
async def test_a_limit_that_is_none_is_refused(path: str, limit: str):
    async with running_rest_with_admins(FakeControlPlane()) as client:
        answer = await client.send("GET", path, params={"limit": limit})

    assert answer.status == 400
    assert "limit" in answer.message


@pytest.mark.parametrize("marker", ["-1", "x", "1.5", "٣", "9" * 40])
async def test_a_count_that_is_none_is_refused(marker: str):
    async with running_rest_with_admins(FakeControlPlane()) as client:
        answer = await client.send("GET", "/mgmt/instances", params={"marker": marker})

    assert answer.status == 400
    assert "marker" in answer.message


@pytest.mark.parametrize("path", ["/instances", "/modules"])
@pytest.mark.parametrize("marker", ["x" * 256, "a%00b", "%0A"])
async def test_a_marker_that_no_item_has_is_refused(path: str, marker: str):
    async with running_rest_with_admins(FakeControlPlane()) as client:
        answer = await client.send("GET", f"{path}?marker={marker}")

    assert answer.status == 400
    assert "marker" in answer.message


@pytest.mark.parametrize(
    ("path", "marker"),
    [("/instances", "zzz"), ("/instances/detail", "~"), ("/mgmt/instances", "999")],
)
async def test_a_marker_behind_the_last_item_gives_an_empty_page(path: str, marker: str):
    async with running_rest_with_admins(await filled(3)) as client:
        answer = await client.send("GET", f"{path}?marker={marker}")

    assert answer.json == {"instances": []}


@pytest.mark.parametrize("seed", CASES)
def test_any_name_survives_as_a_marker(seed: int):
    draw = random.Random(seed)  # noqa: S311  chance that can be repeated, no secret
    alphabet = "aZ0 %&=?#+/@.'\"\\;äデ🦀\u00a0~"
    marker = "".join(draw.choices(alphabet, k=draw.randint(1, 40)))
    (link,) = Links(base="https://h", project_id="p").following("c", limit=3, marker=marker)
    href = link["href"]

    # The URL's own quoting, and then the one that clients take off by hand.
    assert unquote(dict(parse_qsl(urlsplit(href).query))["marker"]) == marker
    assert urlsplit(href).query.count("&") == 1
