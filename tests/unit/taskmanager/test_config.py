"""Settings of the task manager."""

import datetime as dt
from pathlib import Path

import pytest

from taskmanager.config import Config
from taskmanager.liveness import _file_system
from trove_grpc.config import load
from trove_grpc.errors import InvalidRequestError

MINIMAL = """
identity = "/tmp/identity"
listen = "127.0.0.1:0"
issuer = ["127.0.0.1:1"]
conductor = ["127.0.0.1:2"]
flow_database_url = "sqlite:////tmp/flows.sqlite"
supervisor_socket = "/tmp/supervisor.sock"
enrolment_endpoints = ["127.0.0.1:3"]
guest_endpoints = ["127.0.0.1:4"]
"""


def read(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load(Config, file=file)


def test_defaults_are_those_of_the_local_mode(tmp_path):
    config = read(tmp_path, MINIMAL)
    assert config.agent_deadline == dt.timedelta(seconds=60)
    assert config.engine_deadline == dt.timedelta(seconds=120)
    assert config.outage_deadline == dt.timedelta(minutes=15)
    assert config.sweep_interval == dt.timedelta(seconds=5)
    assert [(flavor.id, flavor.name, flavor.ram_mib) for flavor in config.flavors] == [
        ("1", "db.tiny", 512),
        ("2", "db.small", 1024),
        ("3", "db.medium", 2048),
    ]


def test_flavors_can_be_set(tmp_path):
    text = MINIMAL + '[[flavors]]\nid = "9"\nname = "db.huge"\nram_mib = 65536\nvcpus = 16\n'
    (flavor,) = read(tmp_path, text).flavors
    assert (flavor.name, flavor.vcpus, flavor.disk_gib) == ("db.huge", 16, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('compute = "nova"', "compute 'nova' is unknown"),
        ("agent_deadline = 0", "agent_deadline must be more than 0"),
        ('guest_endpoint = "x"', "unknown setting 'guest_endpoint'"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, change, message):
    with pytest.raises(InvalidRequestError, match=message):
        read(tmp_path, MINIMAL + change)


@pytest.mark.parametrize("missing", ["supervisor_socket", "enrolment_endpoints"])
def test_what_guests_need_is_required(tmp_path, missing):
    kept = "\n".join(line for line in MINIMAL.splitlines() if not line.startswith(missing))
    with pytest.raises(InvalidRequestError, match=missing):
        read(tmp_path, kept)


def test_a_file_lies_on_the_innermost_mount():
    mounts = "/dev/sda / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\n/dev/sdb /data/l xfs rw 0 0\n"
    assert _file_system(Path("/var/flows"), mounts) == "ext4"
    assert _file_system(Path("/data/flows"), mounts) == "nfs4"
    assert _file_system(Path("/data/l/flows"), mounts) == "xfs"


def test_a_flow_log_on_postgresql_has_its_password_in_a_file(tmp_path):
    text = MINIMAL.replace("sqlite:////tmp/flows.sqlite", "postgresql+psycopg://trove@/flows")
    config = read(tmp_path, f'{text}flow_database_password_file = "/run/secret"\n')
    assert config.flow_lease == dt.timedelta(seconds=15)
    with pytest.raises(InvalidRequestError, match="holds a password"):
        read(tmp_path, text.replace("trove@", "trove:secret@"))
    with pytest.raises(InvalidRequestError, match="flow_lease must be at least"):
        read(tmp_path, f"{text}flow_lease = 1\n")
