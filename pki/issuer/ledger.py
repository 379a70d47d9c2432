"""What happens to a certificate after it is signed: recorded, promoted, superseded, refused."""

from __future__ import annotations

import datetime as dt

from sqlalchemy.orm import Session

from pki.authority import Issued
from pki.models import Certificate
from pki.profiles import KIND_NAMES
from pki.store import certificates, denials
from trove_grpc.errors import InvalidRequestError, UnauthenticatedError


def record(
    session: Session,
    issued: Issued,
    *,
    name: str,
    state: str,
    now: dt.datetime,
    instance_id: str | None = None,
    enrol_epoch: int | None = None,
    replaces: str | None = None,
) -> Certificate:
    return certificates.add(
        session,
        Certificate(
            serial=issued.serial,
            key_hash=issued.key_hash,
            kind=KIND_NAMES[issued.kind],
            generation=issued.generation,
            name=name,
            state=state,
            chain_pem=issued.chain_pem,
            issue_time=now,
            expire_time=issued.expire_time,
            instance_id=instance_id,
            enrol_epoch=enrol_epoch,
            replaces=replaces,
            confirm_time=now if state == certificates.CURRENT else None,
        ),
    )


def promote(session: Session, certificate: Certificate, now: dt.datetime) -> None:
    """Make a pending certificate the current one: its holder has shown that it arrived."""
    certificate.state = certificates.CURRENT
    certificate.confirm_time = now
    session.flush()


def supersede(
    session: Session,
    certificate: Certificate,
    *,
    reason: str,
    now: dt.datetime,
    grace: dt.timedelta = dt.timedelta(0),
) -> None:
    """End a certificate's use; gateways refuse it once `grace` is over."""
    # The denial first: all writers lock the denials' counter before a certificate's row.
    denials.write(
        session,
        kind=denials.SERIAL,
        value=certificate.serial,
        reason=reason,
        now=now,
        effective_time=now + grace,
        expire_time=certificate.expire_time,
    )
    certificate.state = certificates.SUPERSEDED
    session.flush()


def refuse_denied(
    session: Session,
    now: dt.datetime,
    *,
    certificate: Certificate | None = None,
    instance_id: str = "",
    tenant_id: str = "",
) -> None:
    """Raise UnauthenticatedError when a denial acts on any of these, or once ended the leaf."""
    names = [
        (denials.INSTANCE, instance_id),
        (denials.TENANT, tenant_id),
    ]
    if certificate is not None:
        names += [
            (denials.SERIAL, certificate.serial),
            (denials.KEY, certificate.key_hash),
            (denials.GENERATION, f"{certificate.kind}/{certificate.generation}"),
        ]
    if (denial := denials.effective(session, names, now)) is not None:
        raise UnauthenticatedError(
            f"{denial.kind.lower()} {denial.value} is denied: {denial.reason}",
            reason="CERTIFICATE_DENIED",
            subject=denial.value,
        )
    if certificate is not None and certificate.state == certificates.DENIED:
        # Its denial may be gone; what was denied once does not come back.
        raise UnauthenticatedError(
            f"certificate {certificate.serial} was denied",
            reason="CERTIFICATE_DENIED",
            subject=certificate.name,
        )


def reused_key(subject: str) -> InvalidRequestError:
    """A key has one certificate: a second one would hide a copied key. `subject` asked for it."""
    return InvalidRequestError(
        "certificate request refused: its key has been certified before; make a new key",
        reason="CSR_KEY_REUSED",
        subject=subject,
    )
