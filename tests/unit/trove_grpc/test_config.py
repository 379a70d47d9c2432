"""Settings: later sources win, mistakes stop the start."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import pytest

from trove_grpc.config import load
from trove_grpc.errors import InvalidRequestError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    name: str
    ram_mib: int = 512


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    identity: Path
    listen: str = "127.0.0.1:0"
    interval: dt.timedelta = dt.timedelta(seconds=10)
    peers: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()
    debug: bool = False
    ratio: float | None = None


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_command_line_beats_environment_beats_file(tmp_path):
    file = written(tmp_path, 'identity = "/a"\nlisten = "file"\ninterval = 1\ndebug = true\n')
    config = load(
        Config,
        file=file,
        environment={"TROVE_X_LISTEN": "env", "TROVE_X_INTERVAL": "2.5", "OTHER": "1"},
        prefix="TROVE_X",
        overrides={"listen": "cli"},
    )
    assert config.listen == "cli"
    assert config.interval == dt.timedelta(seconds=2.5)
    assert config.debug is True
    assert config.identity == Path("/a")


def test_lists_and_tables_are_read(tmp_path):
    file = written(
        tmp_path,
        'identity = "/a"\npeers = ["a:1", "b:2"]\nratio = 0.5\n'
        '[[sizes]]\nname = "s"\nram_mib = 64\n',
    )
    config = load(Config, file=file)
    assert config.peers == ("a:1", "b:2")
    assert config.sizes == (Size(name="s", ram_mib=64),)
    assert config.ratio == 0.5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('identity = "/a"\nlisen = "x"', "lisen"),
        ('listen = "x"', "identity"),
        ('identity = "/a"\ninterval = "soon"', "interval"),
        ('identity = "/a"\nlisten = 5', "listen"),
        ('identity = "/a"\n[[sizes]]\nname = "s"\nram = 1', "ram"),
        ('identity = "/a"\n[[sizes]]\nname = "s"\nram_mib = true', "ram_mib"),
        ("identity = ", "config.toml"),
    ],
)
def test_a_mistake_is_refused_and_named(tmp_path, text, named):
    with pytest.raises(InvalidRequestError, match=named):
        load(Config, file=written(tmp_path, text))


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(InvalidRequestError, match=r"absent\.toml"):
        load(Config, file=tmp_path / "absent.toml")
