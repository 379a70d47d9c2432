"""No message reaches people with its secrets."""

from __future__ import annotations

import io
import json
import logging
import pickle

import pytest

from trove_grpc import context, logs
from trove_grpc.gen.common.v1 import engine_pb2
from trove_grpc.gen.conductor.v1 import instance_service_pb2
from trove_grpc.gen.guest.v1 import enrolment_service_pb2
from trove_grpc.redaction import Secret, describe

CANARY = "canary-7f3a"


def test_a_marked_field_is_masked_at_any_depth_and_the_message_is_left_alone():
    request = instance_service_pb2.CreateInstanceRequest(
        name="orders", users=[engine_pb2.UserSpec(name="ada", verifier=CANARY)]
    )
    text = describe(request)
    assert CANARY not in text
    assert "ada" in text
    assert request.users[0].verifier == CANARY


def test_a_marked_field_at_the_top_is_masked():
    assert CANARY not in describe(enrolment_service_pb2.EnrolRequest(token=CANARY))


def test_a_message_given_to_the_log_is_masked_there_too():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter("test"))
    logger = logging.getLogger("redaction-test")
    logger.propagate = False
    logger.addHandler(handler)
    with context.bound(request_id="req-1", instance="i-1"):
        logger.error("refused %s", enrolment_service_pb2.EnrolRequest(token=CANARY))
    line = json.loads(stream.getvalue())
    assert CANARY not in stream.getvalue()
    assert (line["request_id"], line["instance"], line["process"]) == ("req-1", "i-1", "test")


def test_a_secret_hides_itself_and_cannot_be_stored():
    secret = Secret(CANARY)
    assert CANARY not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == CANARY
    with pytest.raises(TypeError):
        pickle.dumps(secret)
