"""The table of Trove's routes is fresh, and true of the routes that the application serves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from gateway.rest.app import route_groups
from gateway.rest.rates import RateLimiter
from tests.fakes.rest_control_plane import FakeControlPlane
from tools.generate_coverage import Row, load

ROOT = Path(__file__).parents[3]
_ABSENT = "gateway.rest.routes.absent"
# One segment: either the framework's own idea of it, which has no braces, or any.
_PARAMETER = re.compile(r"\{[^{}:]+(:\[\^/\]\+)?\}")


def anonymous(route: str) -> str:
    """A route with parameters that go by position."""
    return _PARAMETER.sub("{}", route)


def served() -> list[tuple[str, str]]:
    """Every route below a project in the order of the application, and the module behind it."""
    control_plane = FakeControlPlane()
    return [
        (f"{method} {path}", handler.__module__)
        for group in route_groups(control_plane, RateLimiter(control_plane.rates))
        for method, path, handler in group.routes()
    ]


def module_behind(route: str) -> str | None:
    """Which module answers a request to this route; None where there is no route."""
    request = _PARAMETER.sub("x", route)
    for template, module in served():
        pattern = "".join(
            part if index % 2 == 0 else "[^/]+" if ":" not in part else ".*"
            for index, part in enumerate(re.split(r"\{([^{}]+)\}", template))
        )
        if re.fullmatch(pattern, request):
            return module
    return None


def rows_with_a_route() -> list[Row]:
    return [row for row in load()[0] if row.route and row.route not in ("GET /", "GET /v1.0")]


def test_the_coverage_table_is_fresh_and_its_tests_exist():
    done = subprocess.run(
        [sys.executable, "tools/generate_coverage.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_route_that_is_served_is_in_the_table():
    rows, ours = load()
    known = {anonymous(row.route) for row in rows} | {anonymous(route) for route in ours}
    live = {anonymous(route) for route, module in served() if module != _ABSENT}

    assert live - known == set()


def test_what_is_said_to_be_here_is_not_answered_by_absence():
    false = [
        row.route
        for row in rows_with_a_route()
        if row.state != "absent" and module_behind(row.route) in (None, _ABSENT)
    ]
    assert false == []


def test_what_is_said_to_be_absent_is():
    # Where the body decides, the route alone tells nothing.
    here = [
        row.route
        for row in rows_with_a_route()
        if row.state == "absent"
        and not row.body
        and module_behind(row.route) not in (None, _ABSENT)
    ]
    assert here == []
