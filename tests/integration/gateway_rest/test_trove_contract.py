"""Replays requests recorded from OpenStack Trove and compares codes and shapes.

recorded_pairs.json holds what the real API application answered, in recorded order (the second
of one label is its "#2"). Ids, times and hosts differ; codes, error keys and the shape of every
body must not, but for DIFFERENCES.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from guestagent.engines.accounts import Account
from tests.fakes.rest_admin import running_rest_with_admins
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import Answer
from trove_grpc.gen.common.v1 import engine_pb2

# How many pairs were recorded.
RECORDED = 266
ADRS = Path(__file__).parents[3] / "docs" / "adr"
PAIRS = json.loads(Path(__file__).with_name("recorded_pairs.json").read_text())
# The other pairs that were recorded, by what has to be here before they can be replayed.
NOT_REPLAYED: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("pairs_not_replayed.json").read_text()
)


@dataclass(frozen=True)
class Difference:
    """How an answer of ours may differ from Trove's, why, and by what right.

    The right is one of Trove's bugs ("BUG …") or a numbered reason of an ADR ("ADR 37.3").
    """

    why: str
    status: int | None = None
    added: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    unlike: bool = False  # the body's shape is another one altogether
    right: str = ""


NONE = Difference("")
OF_CHANCE = "ADR 37.6"
NOT_A_SERVER_ERROR = Difference(
    "Trove fails with 500 on a client's mistake",
    400,
    unlike=True,
    right="BUG client errors answered with 500",
)
WEBOB_SHAPE = Difference(
    "Trove answers in webob's own shape; clients read either", unlike=True, right="ADR 37.1"
)
DEAD_IN_TROVE = Difference(
    "Trove fails with 500: nothing implements it",
    501,
    unlike=True,
    right="BUG nothing implements the route",
)
NO_AGENT_TELLS = Difference(
    "recorded with a fake guest; in production Trove fails here, as no guest implements the call",
    501,
    unlike=True,
    right="ADR 37.5",
)
OF_MACHINES = frozenset(
    {"addresses", "engine", "ip", "replica_of", "replicas"}
    | {"root_enabled", "root_enabled_by", "server", "server_id", "volume", "volume_id"}
)
OUR_MACHINES = Difference(
    "no volume apart from its machine, no network names; no replicas yet, root apart",
    added=OF_MACHINES,
    missing=OF_MACHINES,
    right="ADR 37.3",
)
LOCAL_NETWORK = Difference(
    "local addresses have no network name; an engine's state is ours to add",
    added=frozenset({"engine"}),
    missing=frozenset({"network"}),
    right="ADR 37.3",
)
SENT_BY_THE_SDK = Difference(
    "openstacksdk sends it, so that it is accepted", 202, unlike=True, right="ADR 37.9"
)
ONE_MACHINE = Difference(
    "the local driver has one machine and no images", 501, unlike=True, right="ADR 37.10"
)

DIFFERENCES = {
    "inst-noroot": NOT_A_SERVER_ERROR,
    "inst-empty": NOT_A_SERVER_ERROR,
    "cfg-create-badroot": NOT_A_SERVER_ERROR,
    "act-unknown": NOT_A_SERVER_ERROR,
    "act-empty": NOT_A_SERVER_ERROR,
    "act-resize-empty": NOT_A_SERVER_ERROR,
    "act-restart-null": SENT_BY_THE_SDK,
    "act-resize-vol-int": SENT_BY_THE_SDK,
    "act-reset-force-user": Difference(
        "here it is refused as reset_status is",
        403,
        unlike=True,
        right="BUG owners pass where force_delete stands beside reset_status",
    ),
    "m-act#3": ONE_MACHINE,
    "m-act#4": ONE_MACHINE,
    "m-act#6": ONE_MACHINE,
    "inst-badjson": WEBOB_SHAPE,
    "inst-badct": WEBOB_SHAPE,
    "v1 show": Difference(
        "served without a token: SDKs probe it", 200, unlike=True, right="ADR 37.2"
    ),
    "dsv-voltypes": Difference(
        "the local driver has one kind of disk", unlike=True, right="ADR 37.4"
    ),
    "inst-show-admin": Difference(
        "as inst-show; the disk comes with its machine",
        added=frozenset({"engine", "volume_id"}),
        missing=frozenset({"network", "volume_id"}),
        right="ADR 37.3",
    ),
    "m-list": OUR_MACHINES,
    "m-list-del": OUR_MACHINES,
    "m-show": OUR_MACHINES,
    "m-diag": NO_AGENT_TELLS,
    "m-hw": NO_AGENT_TELLS,
    "m-upgrade": DEAD_IN_TROVE,
    "m-create": DEAD_IN_TROVE,
    "ext2": Difference(
        "reachable by nobody in Trove: not found", 404, unlike=True, right="ADR 37.7"
    ),
    "inst-show-build": Difference(
        "an address is known once it is recorded",
        missing=frozenset({"ip", "addresses"}),
        right="ADR 37.3",
    ),
    "inst-cfg": Difference(
        "what our agents' templates set, not Trove's", unlike=True, right="ADR 37.11"
    ),
    "inst-show": LOCAL_NETWORK,
    "inst-show-cfg": LOCAL_NETWORK,
    "inst-list": LOCAL_NETWORK,
    "inst-detail": LOCAL_NETWORK,
    "db-create-bad": NOT_A_SERVER_ERROR,
    "db-create-longname": Difference(
        "65 characters, one more than a name has: Trove's guest fails out of sight",
        400,
        unlike=True,
        right="ADR 37.8",
    ),
    "u-create-badhost": Difference(
        "no address, so that nobody could ever log in by it: Trove's guest makes it",
        400,
        unlike=True,
        right="ADR 37.8",
    ),
    "inst-show-deleting": Difference(
        "as above", added=frozenset({"engine"}), missing=frozenset({"network"}), right="ADR 37.3"
    ),
    "mod-list-admin": Difference(
        "Trove fails with 500 for an administrator",
        200,
        unlike=True,
        right="BUG admin GET /modules sorts by a tenant that is none",
    ),
    "inst-list-lim": Difference(
        "which instance comes first is chance",
        added=frozenset({"ip", "addresses"}),
        right=OF_CHANCE,
    ),
}

# Trove's tenant networks do not exist in local mode, where asking for one is 501.
WITHOUT_NICS = frozenset(
    pair["label"]
    for pair in PAIRS
    if "nics" in ((pair["body"] or {}).get("instance") or {})
    and pair["label"] not in ("inst-2nics", "inst-badnic")
)
RAW_BODIES = {
    "inst-badjson": (b"{bad", "application/json"),
    "inst-badct": (b"{}", "text/plain"),
    "inst-empty": (b"", "application/json"),
    "act-empty": (b"{}", "application/json"),
}
# The ids of the recorded versions, by the names that administrators gave them.
RECORDED_VERSIONS = {
    "8.0": "0e46aae8-5e45-4fb5-baa2-76526f96b47f",
    "8.4": "e627fb77-e5cb-4b0b-be6c-ab98c3147da6",
    "5.7": "fd705c5e-00b4-49d0-9168-96f8aac08d46",
}


@dataclass
class Replay:
    """What of the recording stands for what here."""

    control_plane: FakeControlPlane
    renamed: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)

    def before(self, label: str) -> None:
        """Bring about what had happened at this point of the recording."""
        if label == "ds-list":
            self._adopt_versions()
        if label == "inst-show":
            for instance in self.control_plane.instances.values():
                instance.observation.state = engine_pb2.ENGINE_STATE_HEALTHY
                instance.observation.volume.used_bytes = 170_000_000
                self.control_plane.activate(instance.id)
        if label == "db-list":
            (created, *_) = self.control_plane.created
            guest = self.control_plane.guests.accounts(next(iter(self.control_plane.instances)))
            guest.databases |= {database.name for database in created.databases}
            guest.users |= {Account(user.name): set(user.databases) for user in created.users}
            guest.verifiers |= {Account(user.name): user.verifier for user in created.users}
        if label.startswith(("act-", "m-act")):
            # What was begun before has ended, but where the recording asks for the opposite.
            for instance in self.control_plane.instances.values():
                instance.status = "RESIZE" if label == "act-restart-busy" else "ACTIVE"

    def _adopt_versions(self) -> None:
        """What was recorded against MySQL goes on against the engine there is."""
        for datastore in self.control_plane.datastores:
            for version in datastore.versions:
                version.manager = "mariadb"

    def after(self, pair: dict[str, Any], answer: Answer) -> None:
        self.answers[pair["label"]] = answer
        if pair["label"] == "inst-create":
            recorded = pair["resp"]["instance"]["id"]
            self.renamed[recorded] = answer.json["instance"]["id"]
        if pair["label"] == "cfg-create":
            recorded = pair["resp"]["configuration"]["id"]
            self.renamed[recorded] = answer.json["configuration"]["id"]
        if pair["label"] == "mod-create":
            self.renamed[pair["resp"]["module"]["id"]] = answer.json["module"]["id"]
        if pair["label"].startswith("mgmt-create"):
            for datastore in self.control_plane.datastores:
                for version in datastore.versions:
                    if version.name in RECORDED_VERSIONS:
                        self.renamed[RECORDED_VERSIONS[version.name]] = version.id

    def path(self, recorded: str) -> str:
        for old, new in self.renamed.items():
            recorded = recorded.replace(old, new)
        return recorded


async def replay_all() -> Replay:
    replay = Replay(FakeControlPlane())
    replay.control_plane.datastores.clear()  # the recording begins by making them
    async with running_rest_with_admins(replay.control_plane) as client:
        for pair in PAIRS:
            label = pair["label"]
            replay.before(label)
            method, _, path = pair["req"].partition(" ")
            options: dict[str, Any] = {}
            if label in RAW_BODIES:
                data, kind = RAW_BODIES[label]
                options = {"data": data, "headers": {"Content-Type": kind}}
            elif pair["body"] is not None:
                body = json.loads(replay.path(json.dumps(pair["body"])))
                if label in WITHOUT_NICS:
                    del body["instance"]["nics"]
                for database in (body.get("instance") or {}).get("databases", []):
                    database.pop("collate", None)  # one of MySQL's
                options = {"json": body}
            answer = await client.send(method, client.root + replay.path(path), **options)
            replay.after(pair, answer)
    return replay


@pytest.fixture(scope="module")
def answers() -> dict[str, Answer]:
    return asyncio.run(replay_all()).answers


def shape(value: Any) -> Any:
    """Keys and kinds of a JSON value; a list is the union of its items."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [functools.reduce(union, map(shape, value), {})]
    return frozenset({"number" if type(value) in (int, float) else type(value).__name__})


def union(one: Any, other: Any) -> Any:
    """The shape of either; nothing has no shape."""
    if isinstance(one, frozenset) and isinstance(other, frozenset):
        return one | other
    if isinstance(one, dict) and isinstance(other, dict):
        return one | {key: union(one.get(key, {}), item) for key, item in other.items()}
    if isinstance(one, list) and isinstance(other, list):
        return [union(one[0], other[0])]
    return other


def without(value: Any, keys: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: without(item, keys) for key, item in value.items() if key not in keys}
    if isinstance(value, list):
        return [without(item, keys) for item in value]
    return value


def is_as_recorded(pair: dict[str, Any], answer: Answer, difference: Difference) -> bool:
    """Whether code and shape are Trove's, but for the difference."""
    if answer.status != (difference.status or pair["status"]):
        return False
    if difference.unlike:
        return True
    if pair["resp"] is None:
        return answer.text == ""
    expected = without(shape(pair["resp"]), difference.missing)
    return bool(without(shape(answer.json), difference.added) == expected)


@pytest.mark.parametrize("pair", PAIRS, ids=[pair["label"] for pair in PAIRS])
def test_answer_has_troves_code_and_shape(pair: dict[str, Any], answers: dict[str, Answer]):
    answer = answers[pair["label"]]
    difference = DIFFERENCES.get(pair["label"], NONE)

    assert is_as_recorded(pair, answer, difference), (
        f"{answer.status} {answer.text}\nrecorded: {pair['status']} {json.dumps(pair['resp'])}"
    )


def test_every_listed_difference_is_one(answers: dict[str, Answer]):
    recorded = {pair["label"]: pair for pair in PAIRS}
    needless = [
        label
        for label, difference in DIFFERENCES.items()
        if difference.right != OF_CHANCE and is_as_recorded(recorded[label], answers[label], NONE)
    ]
    assert needless == []


def test_every_listed_difference_names_a_recorded_pair():
    assert set(DIFFERENCES) <= {pair["label"] for pair in PAIRS}


def reasons() -> set[str]:
    """Every numbered reason of every ADR, such as "ADR 37.3"."""
    return {
        f"ADR {int(path.name[:4])}.{number}"
        for path in ADRS.glob("*.md")
        for number in re.findall(r"^(\d+)\. ", path.read_text(), re.MULTILINE)
    }


def test_every_listed_difference_has_a_right_to_be():
    written = reasons()
    without = {
        label: difference.right
        for label, difference in DIFFERENCES.items()
        if not difference.right.startswith("BUG ") and difference.right not in written
    }
    assert without == {}


def test_every_recorded_pair_is_either_replayed_or_left_out():
    left_out = [label for labels in NOT_REPLAYED.values() for label in labels]
    replayed = [pair["label"] for pair in PAIRS]
    assert set(replayed) & set(left_out) == set()
    assert len({*replayed, *left_out}) == len(replayed) + len(left_out) == RECORDED
