"""Ends the sessions of those the issuer denies; pki/feed.py keeps the list.

Lost touch with the issuer fails closed where it matters: older than `denial_stale`, no enrolment,
no renewal, no destructive command; without any list since the start, no new stream either. Open
streams stay, and so do new ones against the last known list: an issuer that is down must not
take the fleet down with it.
"""

from __future__ import annotations

import logging

from gateway.guest.registry import Registry
from gateway.guest.session import Ending
from pki.denials import DenialList

log = logging.getLogger(__name__)


def end_denied(registry: Registry, denials: DenialList) -> None:
    """End every session whose certificate is refused by now."""
    for session in registry:
        if session.is_live and (refusal := denials.refusal(session.caller)):
            log.warning("ending a session: %s", refusal.message)
            session.end(Ending(refusal))
