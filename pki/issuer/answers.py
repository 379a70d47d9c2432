"""Rows of the issuer's database as messages."""

from __future__ import annotations

import datetime as dt

from google.protobuf import duration_pb2, timestamp_pb2

from pki.models import Certificate, Denial, Token
from pki.profiles import KINDS_BY_NAME
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb

# A guest renews around half of its certificate's life, never all guests at once.
_WINDOW = (0.45, 0.55)


def timestamp(moment: dt.datetime) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def duration(length: dt.timedelta) -> duration_pb2.Duration:
    message = duration_pb2.Duration()
    message.FromTimedelta(length)
    return message


def renewal_window(certificate: Certificate) -> trust_pb2.RenewalWindow:
    life = certificate.expire_time - certificate.issue_time
    start, end = (certificate.issue_time + life * part for part in _WINDOW)
    return trust_pb2.RenewalWindow(
        start_time=timestamp(start), end_time=timestamp(end), reason="half of its life is over"
    )


def denial(row: Denial) -> pb.Denial:
    return pb.Denial(
        sequence=row.sequence,
        kind=pb.DenialKind.Value(f"DENIAL_KIND_{row.kind}"),
        value=row.value,
        reason=row.reason,
        create_time=timestamp(row.create_time),
        effective_time=timestamp(row.effective_time),
        expire_time=None if row.expire_time is None else timestamp(row.expire_time),
    )


def certificate(row: Certificate) -> pb.IssuedCertificate:
    return pb.IssuedCertificate(
        serial=row.serial,
        spiffe_id=row.name,
        authority=KINDS_BY_NAME[row.kind],
        generation=row.generation,
        state=pb.CertificateState.Value(f"CERTIFICATE_STATE_{row.state}"),
        issue_time=timestamp(row.issue_time),
        expire_time=timestamp(row.expire_time),
    )


def token(row: Token, now: dt.datetime, *, max_failures: int) -> pb.TokenView:
    """Everything about a token but what would let somebody use it, or use it up."""
    return pb.TokenView(
        token_id=row.token_id,
        instance_id=row.instance_id,
        state=_token_state(row, now, max_failures),
        actor=row.actor,
        create_time=timestamp(row.create_time),
        expire_time=timestamp(row.expire_time),
        failed_attempts=row.attempts,
    )


def _token_state(row: Token, now: dt.datetime, max_failures: int) -> pb.TokenState.ValueType:
    if row.used_at is not None:
        return pb.TOKEN_STATE_USED
    if row.void_time is not None:
        return pb.TOKEN_STATE_VOID
    if row.expire_time <= now:
        return pb.TOKEN_STATE_EXPIRED
    return pb.TOKEN_STATE_LOCKED if row.attempts >= max_failures else pb.TOKEN_STATE_OPEN
