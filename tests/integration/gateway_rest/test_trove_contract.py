"""Replays requests recorded from OpenStack Trove and compares codes and shapes.

recorded_pairs.json holds what the real API application answered, in recorded order. Ids, times
and hosts differ; codes, error keys and the shape of every body must not, but for DIFFERENCES.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.rest_admin import running_rest_with_admins
from tests.fakes.rest_control_plane import FakeControlPlane
from tests.fakes.rest_server import Answer
from trove_grpc.gen.common.v1 import engine_pb2

PAIRS = json.loads(Path(__file__).with_name("recorded_pairs.json").read_text())
# The other pairs that were recorded, by what has to be here before they can be replayed.
NOT_REPLAYED: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("pairs_not_replayed.json").read_text()
)


@dataclass(frozen=True)
class Difference:
    """How an answer of ours may differ from Trove's, and why."""

    why: str
    status: int | None = None
    added: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    unlike: bool = False  # the body's shape is another one altogether


NOT_A_SERVER_ERROR = Difference("Trove fails with 500 on a client's mistake", 400, unlike=True)
WEBOB_SHAPE = Difference("Trove answers in webob's own shape; clients read either", unlike=True)
DEAD_IN_TROVE = Difference("Trove fails with 500: nothing implements it", 501, unlike=True)
NO_AGENT_TELLS = Difference(
    "recorded with a fake guest; in production Trove fails here, as no guest implements the call",
    501,
    unlike=True,
)
OF_MACHINES = frozenset(
    {"addresses", "engine", "ip", "replica_of", "replicas"}
    | {"root_enabled", "root_enabled_by", "server", "server_id", "volume", "volume_id"}
)
OUR_MACHINES = Difference(
    "no volume apart from its machine, no network names; no replicas and no root yet",
    added=OF_MACHINES,
    missing=OF_MACHINES,
)
LOCAL_NETWORK = Difference(
    "local addresses have no network name; an engine's state is ours to add",
    added=frozenset({"engine"}),
    missing=frozenset({"network"}),
)

DIFFERENCES = {
    "inst-noroot": NOT_A_SERVER_ERROR,
    "inst-empty": NOT_A_SERVER_ERROR,
    "act-unknown": NOT_A_SERVER_ERROR,
    "act-empty": NOT_A_SERVER_ERROR,
    "inst-badjson": WEBOB_SHAPE,
    "inst-badct": WEBOB_SHAPE,
    "v1 show": Difference("served without a token: SDKs probe it", 200, unlike=True),
    "limits": Difference(
        "no rate limits yet, so none are claimed",
        missing=frozenset({"nextAvailable", "remaining", "unit", "value", "uri", "regex"}),
    ),
    "dsv-voltypes": Difference("the local driver has one kind of disk", unlike=True),
    "mgmt-list-dsv": Difference(
        "image: null or text, as chance has the last item",
        added=frozenset({"image"}),
        missing=frozenset({"image"}),
    ),
    "ds-list-admin": Difference(
        "null or text, as chance has the last item",
        added=frozenset({"image", "packages"}),
        missing=frozenset({"image", "packages"}),
    ),
    "inst-show-admin": Difference(
        "as inst-show; the disk comes with its machine",
        added=frozenset({"engine", "volume_id"}),
        missing=frozenset({"network", "volume_id"}),
    ),
    "m-list": OUR_MACHINES,
    "m-list-del": OUR_MACHINES,
    "m-show": OUR_MACHINES,
    "m-diag": NO_AGENT_TELLS,
    "m-hw": NO_AGENT_TELLS,
    "m-upgrade": DEAD_IN_TROVE,
    "m-create": DEAD_IN_TROVE,
    "ext2": Difference("reachable by nobody in Trove: not found", 404, unlike=True),
    "inst-show-build": Difference(
        "an address is known once it is recorded", missing=frozenset({"ip", "addresses"})
    ),
    "inst-show": LOCAL_NETWORK,
    "inst-list": LOCAL_NETWORK,
    "inst-detail": LOCAL_NETWORK,
    "inst-show-deleting": Difference(
        "as above", added=frozenset({"engine"}), missing=frozenset({"network"})
    ),
    "mod-list-admin": Difference("Trove fails with 500 for an administrator", 200, unlike=True),
    "inst-list-lim": Difference(
        "which instance comes first is chance", added=frozenset({"ip", "addresses"})
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
        if label == "quota-exceed":
            self.control_plane.limits["instances"] = 0

    def _adopt_versions(self) -> None:
        """What was recorded against MySQL goes on against the engine there is."""
        for datastore in self.control_plane.datastores:
            for version in datastore.versions:
                version.manager = "postgresql"

    def after(self, pair: dict[str, Any], answer: Answer) -> None:
        self.answers[pair["label"]] = answer
        if pair["label"] == "inst-create":
            recorded = pair["resp"]["instance"]["id"]
            self.renamed[recorded] = answer.json["instance"]["id"]
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
                body = json.loads(json.dumps(pair["body"]))
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
        merged: Any = {}
        for item in value:
            one = shape(item)
            merged = {**merged, **one} if isinstance(one, dict) else one
        return [merged]
    return "number" if type(value) in (int, float) else type(value).__name__


def without(value: Any, keys: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: without(item, keys) for key, item in value.items() if key not in keys}
    if isinstance(value, list):
        return [without(item, keys) for item in value]
    return value


@pytest.mark.parametrize("pair", PAIRS, ids=[pair["label"] for pair in PAIRS])
def test_answer_has_troves_code_and_shape(pair: dict[str, Any], answers: dict[str, Answer]):
    answer = answers[pair["label"]]
    difference = DIFFERENCES.get(pair["label"], Difference(""))

    assert answer.status == (difference.status or pair["status"]), answer.text

    if difference.unlike:
        return
    if pair["resp"] is None:
        assert answer.text == ""
        return
    expected = without(shape(pair["resp"]), difference.missing)
    assert without(shape(answer.json), difference.added) == expected


def test_every_listed_difference_names_a_recorded_pair():
    assert set(DIFFERENCES) <= {pair["label"] for pair in PAIRS}


def test_no_pair_is_both_replayed_and_left_out():
    left_out = [label for labels in NOT_REPLAYED.values() for label in labels]
    assert {pair["label"] for pair in PAIRS} & set(left_out) == set()
    assert len(left_out) == len(set(left_out))
