"""What the issuer knows of instances, and whom it refuses. Each function is one transaction's."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence

from sqlalchemy.orm import Session

from pki import tokens as clear_tokens
from pki.issuer.config import Config
from pki.models import Certificate, Denial, Subject, Token
from pki.store import (
    audit,
    authorities,
    certificates,
    denials,
    sightings,
    subjects,
    tokens,
)
from trove_grpc.errors import InvalidRequestError, NotFoundError
from trove_grpc.gen.issuer.v1 import issuer_service_pb2 as pb


def register_subject(
    session: Session,
    *,
    instance_id: str,
    tenant_id: str,
    dns_names: Sequence[str],
    ip_addresses: Sequence[str],
    actor: str,
    now: dt.datetime,
) -> Subject:
    subject = subjects.register(
        session,
        instance_id=instance_id,
        tenant_id=tenant_id,
        dns_names=dns_names,
        ip_addresses=ip_addresses,
        now=now,
    )
    audit.append(
        session,
        now=now,
        actor=actor,
        action="register-subject",
        subject=instance_id,
        detail={"tenant": tenant_id, "epoch": subject.enrol_epoch},
    )
    return subject


def retire_subject(
    session: Session,
    config: Config,
    instance_id: str,
    reason: str,
    *,
    actor: str,
    now: dt.datetime,
) -> None:
    """End an instance's identity for good. One that was never registered has none to end."""
    subject = subjects.find(session, instance_id)
    if subject is None or subject.state == subjects.RETIRED:
        return
    subject = subjects.lock_active(session, instance_id)
    subjects.retire(session, subject, now)
    tokens.void(session, instance_id, now)
    latest = certificates.latest_expiry(session, instance_id)
    denials.write(
        session,
        kind=denials.INSTANCE,
        value=instance_id,
        reason=reason,
        now=now,
        expire_time=max(now + config.guest_lifetime, latest or now),
    )
    certificates.mark_denied(
        session,
        Certificate.instance_id == instance_id,
        Certificate.state.in_(certificates.LIVE),
    )
    audit.append(
        session,
        now=now,
        actor=actor,
        action="retire-subject",
        subject=instance_id,
        detail={"reason": reason},
    )


def mint_token(
    session: Session,
    config: Config,
    instance_id: str,
    lifetime: dt.timedelta | None,
    *,
    actor: str,
    now: dt.datetime,
) -> tuple[Token, clear_tokens.EnrolmentToken]:
    """A new token; the database keeps only the hash of its secret."""
    subjects.lock_active(session, instance_id)
    if lifetime is not None and lifetime <= dt.timedelta(0):
        raise InvalidRequestError("lifetime must be more than 0")
    clear = clear_tokens.new()
    row = Token(
        token_id=str(uuid.uuid4()),
        lookup=clear.lookup,
        secret_hash=clear.secret_hash,
        instance_id=instance_id,
        actor=actor,
        create_time=now,
        expire_time=now + min(lifetime or config.token_lifetime, config.token_lifetime),
    )
    tokens.add(session, row)
    audit.append(
        session,
        now=now,
        actor=actor,
        action="mint-token",
        subject=instance_id,
        detail={"token": row.token_id},
    )
    return row, clear


def void_tokens(session: Session, instance_id: str, *, actor: str, now: dt.datetime) -> None:
    """End the tokens nobody used; a used one stays for a reply that was lost."""
    if tokens.void(session, instance_id, now):
        audit.append(
            session, now=now, actor=actor, action="void-tokens", subject=instance_id, detail={}
        )


def list_tokens(
    session: Session, *, instance_id: str, page_token: str, size: int
) -> Sequence[Token]:
    """A page of tokens, newest first; `page_token` is the last one of the page before."""
    before = tokens.get(session, page_token) if page_token else None
    if page_token and before is None:
        raise InvalidRequestError("page_token is not one of ours; begin again without it")
    return tokens.page(session, instance_id=instance_id, before=before, size=size)


def revoke_token(session: Session, token_id: str, *, actor: str, now: dt.datetime) -> bool:
    """End one token that nobody used; False when it could not be used any more anyhow."""
    token = tokens.get(session, token_id)
    if token is None:
        raise NotFoundError(
            f"there is no token {token_id[:64]!r}; `trove-pki token list` shows their ids",
            reason="TOKEN_NOT_FOUND",
        )
    if token.expire_time <= now or not tokens.revoke(session, token_id, now):
        return False
    audit.append(
        session,
        now=now,
        actor=actor,
        action="revoke-token",
        subject=token.instance_id,
        detail={"token": token_id},
    )
    return True


def push_bundle(session: Session, reason: str, *, actor: str, now: dt.datetime) -> int:
    """Make everybody take the bundle again; the version to wait for."""
    version = authorities.new_bundle(session, now)
    audit.append(
        session,
        now=now,
        actor=actor,
        action="push-bundle",
        subject=f"bundle {version}",
        detail={"reason": reason},
    )
    return version


def create_denial(
    session: Session, kind: str, value: str, reason: str, *, actor: str, now: dt.datetime
) -> Denial:
    denial = denials.write(session, kind=kind, value=value, reason=reason, now=now)
    named = {
        denials.SERIAL: Certificate.serial == value,
        denials.KEY: Certificate.key_hash == value,
        denials.INSTANCE: Certificate.instance_id == value,
    }
    if kind in named:
        certificates.mark_denied(session, named[kind])
    audit.append(
        session,
        now=now,
        actor=actor,
        action="create-denial",
        subject=f"{kind.lower()} {value}",
        detail={"reason": reason},
    )
    return denial


def record_refusals(
    session: Session, refusals: Sequence[pb.Refusal], *, actor: str, now: dt.datetime
) -> None:
    """One row for each kind of refusal a gateway tells of, with how many there were."""
    for refusal in refusals:
        audit.append(
            session,
            now=now,
            actor=actor,
            action="refuse-call",
            subject=refusal.caller or "unidentified",
            detail={
                "why": refusal.reason,
                "said": audit.shown(refusal.message),
                "from": audit.shown(refusal.peer_address),
                "count": refusal.count,
            },
        )


def prune(session: Session, config: Config, now: dt.datetime) -> None:
    """Drop tokens and denials that can matter to nobody any more, and sightings that are old."""
    # A used token answers for its retry window; after a day not even a puzzled operator asks.
    tokens.prune(session, now - config.token_retry_window - dt.timedelta(days=1))
    denials.prune(session, now - dt.timedelta(hours=1))
    sightings.expire(session, now - config.sighting_lifetime)
