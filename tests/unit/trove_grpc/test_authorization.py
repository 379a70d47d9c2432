"""The authorisation table, the protos' comments and the services agree, method by method."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from trove_grpc.authorization import CALLERS, FEDERATED, authorize
from trove_grpc.errors import PermissionDeniedError
from trove_grpc.identity import Identity, Role

ROOT = Path(__file__).resolve().parents[3]
_SERVICE, _METHOD = 6, 2  # field numbers in FileDescriptorProto and ServiceDescriptorProto
_CALLERS = re.compile(r"Callers: (.*?)\.(?:\s|$)")

# What the words of the comments mean beside the plain role names.
WORDS = {
    "guest (self)": {Role.GUEST},
    "anyone (enrolment listener)": {Role.ANONYMOUS},
    "anyone who holds the token (enrolment listener)": {Role.ANONYMOUS},
    "anyone who holds the old key (enrolment listener)": {Role.ANONYMOUS},
    "taskmanager (socket permissions)": {Role.LOCAL},
    "operator (socket permissions)": {Role.LOCAL},
    "operator on the issuer's local socket only": {Role.LOCAL},
    "issuer (self)": {Role.ISSUER},
    "gateway, which passes on the certificate of the guest's connection": {Role.GATEWAY},
}


@pytest.fixture(scope="module")
def comments(tmp_path_factory) -> dict[str, str]:
    """Leading comment of every RPC by full method name."""
    out = tmp_path_factory.mktemp("protos") / "all.binpb"
    protos = ROOT / "protos"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{protos}",
            f"-I{files('grpc_tools') / '_proto'}",
            "--include_source_info",
            f"--descriptor_set_out={out}",
            *sorted(str(path) for path in protos.rglob("*.proto")),
        ],
        check=True,
        timeout=60,
    )
    found = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        text = {
            tuple(location.path): " ".join(location.leading_comments.split())
            for location in file.source_code_info.location
        }
        for i, service in enumerate(file.service):
            for j, method in enumerate(service.method):
                name = f"/{file.package}.{service.name}/{method.name}"
                found[name] = text.get((_SERVICE, i, _METHOD, j), "")
    return found


def roles_in(comment: str) -> frozenset[Role]:
    match = _CALLERS.search(comment)
    assert match, f"no 'Callers: ….' in {comment!r}"
    words, roles = match[1], set()
    for phrase, meant in sorted(WORDS.items(), key=lambda item: -len(item[0])):
        if phrase in words:
            words = words.replace(phrase, "")
            roles |= meant
    return frozenset(roles | {Role(word) for word in re.findall(r"[a-z]+", words)})


def test_every_method_has_a_row_and_every_row_a_method(comments):
    ours = {method for method in CALLERS if not method.startswith("/grpc.")}
    assert ours == set(comments)


def test_every_comment_names_exactly_the_callers_of_the_table(comments):
    # A socket beside the mutual-TLS listener admits local callers wherever operators may call.
    different = {
        method: (sorted(roles_in(comment)), sorted(CALLERS[method]))
        for method, comment in comments.items()
        if roles_in(comment) - {Role.LOCAL} != CALLERS[method] - {Role.LOCAL}
        or (Role.LOCAL in roles_in(comment) and Role.LOCAL not in CALLERS[method])
    }
    assert different == {}


def test_a_comment_speaks_of_federated_regions_where_their_services_may_call(comments):
    told = {method for method, comment in comments.items() if "a federated region" in comment}
    assert told == {method for method in FEDERATED if not method.startswith("/grpc.")}
    assert all(Role.FEDERATED not in roles for roles in CALLERS.values())


def test_every_comment_says_whether_the_call_is_idempotent(comments):
    assert [m for m, comment in comments.items() if "dempotent" not in comment] == []


def test_an_unknown_method_and_a_forbidden_one_get_the_same_answer():
    guest = Identity(role=Role.GUEST, instance_id="i", tenant_id="t", trust_domain="d")
    for method in ("/trove.issuer.v1.IssuerService/MintToken", "/no.such/Method"):
        with pytest.raises(PermissionDeniedError) as caught:
            authorize(guest, method)
        assert caught.value.reason == "PERMISSION_DENIED"


def test_guests_reach_nothing_but_their_own_services():
    reachable = {method for method, roles in CALLERS.items() if Role.GUEST in roles}
    assert {method.split("/")[1] for method in reachable} == {
        "trove.guest.v1.GuestSessionService",
        "trove.guest.v1.IdentityService",
    }


def test_the_anonymous_reach_enrolment_alone():
    assert [m for m, roles in CALLERS.items() if Role.ANONYMOUS in roles] == [
        "/trove.guest.v1.EnrolmentService/Enrol",
        "/trove.guest.v1.EnrolmentService/GetNonce",
        "/trove.guest.v1.EnrolmentService/Recover",
    ]


def test_what_every_server_offers_is_for_services_and_operators():
    standard = {method: roles for method, roles in CALLERS.items() if method.startswith("/grpc.")}
    for method, roles in standard.items():
        assert not roles & {Role.GUEST, Role.ANONYMOUS}, method
        if "Reflection" in method:
            assert roles <= {Role.OPERATOR, Role.LOCAL}, method


def test_an_emergency_may_what_an_operator_may_and_no_more():
    emergency = Identity(role=Role.BREAKGLASS, name="inc-7", trust_domain="d")
    operator = Identity(role=Role.OPERATOR, name="alice", trust_domain="d")

    def may(identity: Identity, method: str) -> bool:
        try:
            authorize(identity, method)
        except PermissionDeniedError:
            return False
        return True

    assert [m for m in CALLERS if may(emergency, m) != may(operator, m)] == []
