"""Every attack, by theme."""

from __future__ import annotations

from tests.attacks import (
    application_input,
    authorisation,
    custody_audit_cli,
    enrolment_and_renewal,
    identity_and_tls,
    live_streams,
    resource_and_parser_abuse,
)
from tests.attacks.case import Attack

THEMES: dict[str, tuple[Attack, ...]] = {
    "identity and TLS": identity_and_tls.ATTACKS,
    "authorisation": authorisation.ATTACKS,
    "enrolment and renewal": enrolment_and_renewal.ATTACKS,
    "live streams": live_streams.ATTACKS,
    "resources and parsers": resource_and_parser_abuse.ATTACKS,
    "application input": application_input.ATTACKS,
    "custody, audit, sockets": custody_audit_cli.ATTACKS,
}
