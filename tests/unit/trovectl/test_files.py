"""Settings files, paths, ports, tables and certificates' remaining life."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from trove_grpc.errors import ConflictError, InvalidRequestError, UnavailableError
from trovectl import __main__, layout, ports, table, toml
from trovectl.layout import Layout

INSTANCE = "0b0e36a5-9bd5-4cf2-9b10-8d27a7c3b6ab"


@pytest.mark.parametrize(
    "settings",
    [
        {"text": 'quotes " and \\ and \n and ünï and \x7f'},
        {"flag": True, "other": False, "number": 3, "part": 0.5, "path": "/a/b"},
        {"list": ["a", "b"], "empty": [], "table": {"a": 1, "b c": ["x"]}},
    ],
)
def test_settings_are_read_back_as_they_were_written(settings):
    assert tomllib.loads(toml.dumps(settings)) == settings


def test_sockets_stay_in_a_short_state_directory():
    assert Layout(Path("/var/lib/trove")).run == Path("/var/lib/trove/run")


@pytest.mark.parametrize("length", [1, 40, 60, 200])
def test_longest_socket_fits_whatever_the_state_directory(length):
    places = Layout(Path("/" + "s" * length))
    longest = places.guest_run(INSTANCE) / "engine" / ".s.PGSQL.65535"
    assert len(str(longest)) <= 107
    assert len(str(places.operator_socket)) <= 107


def test_two_long_state_directories_have_run_directories_of_their_own():
    first, second = (Layout(Path("/" + letter * 100)).run for letter in "ab")
    assert first != second


def test_directory_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConflictError, match="not a directory"):
        layout.make_directory(tmp_path / "link", mode=0o700)


def test_file_replaces_a_link_and_leaves_its_target_alone(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "config").symlink_to(victim)
    layout.write_file(tmp_path / "config", b"new", mode=0o640)
    assert victim.read_text() == "untouched"
    assert (tmp_path / "config").read_bytes() == b"new"
    assert (tmp_path / "config").stat().st_mode & 0o777 == 0o640


def test_ports_are_kept_and_new_names_get_their_own(tmp_path):
    first = ports.load_or_choose(tmp_path / "ports.json", ["a", "b"])
    second = ports.load_or_choose(tmp_path / "ports.json", ["a", "b", "c"])
    assert {name: second[name] for name in first} == first
    assert len(set(second.values())) == 3


def test_damaged_ports_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "ports.json").write_text("{")
    with pytest.raises(UnavailableError, match=r"ports\.json"):
        ports.load_or_choose(tmp_path / "ports.json", ["a"])


def test_table_columns_are_as_wide_as_their_widest_cell():
    assert table.render(("A", "B"), [("long", 1), ("x", "")]) == "A     B\nlong  1\nx"


def test_settings_of_the_command_line_are_toml_values_or_text():
    asked = ["conductor.presence_deadline=5", "api.region=Here", 'agent.log_level="DEBUG"']
    assert __main__._overrides(asked) == {
        "conductor": {"presence_deadline": 5},
        "api": {"region": "Here"},
        "agent": {"log_level": "DEBUG"},
    }


def test_rest_address_without_a_port_is_refused():
    with pytest.raises(InvalidRequestError, match="address:port"):
        ports.split("localhost")
