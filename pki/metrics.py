"""What the issuer counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

CERTIFICATES = Counter("trove_issuer_certificates_total", "Certificates signed", ["kind"])
ENROLMENTS = Counter("trove_issuer_enrolments_total", "Enrolment tokens presented", ["result"])
WATCHERS = Gauge("trove_issuer_watchers", "Gateways and services that are told of denials now")
SIGHTINGS_IGNORED = Counter(
    "trove_issuer_sightings_ignored_total", "Guests a gateway reported that nobody registered"
)
QUARANTINES = Counter("trove_pki_quarantines_total", "Instances put in quarantine")
AUDIT_CHAIN_OK = Gauge(
    "trove_pki_audit_chain_ok", "1 while the audit agrees with itself and its checkpoints"
)
BREAKGLASS_ALIVE = Gauge(
    "trove_pki_breakglass_alive", "Break-glass certificates that are good now"
)
ROTATION_PHASE_SECONDS = Gauge(
    "trove_pki_rotation_phase_seconds",
    "How long an open rotation has been in its phase",
    ["rotation", "phase"],
)
ROTATION_PAUSED = Gauge("trove_pki_rotation_paused", "1 while a rotation is paused", ["rotation"])
CA_LIFE_LEFT = Gauge(
    "trove_pki_ca_life_left_ratio",
    "What is left of an authority's life, of 1; negative once it has expired",
    ["authority", "generation", "state"],
)
CUSTODY_ERRORS = Counter(
    "trove_pki_custody_errors_total",
    "Calls for a CA key that failed; `kind` is the error's reason",
    ["backend", "op", "kind"],
)
