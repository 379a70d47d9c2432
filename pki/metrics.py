"""What the issuer counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

CERTIFICATES = Counter("trove_issuer_certificates_total", "Certificates signed", ["kind"])
SIGN_SECONDS = Histogram(
    "trove_pki_sign_seconds",
    "Time to sign one leaf, seconds",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1),
)
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
TOKENS_REUSED = Counter(
    "trove_pki_token_reuse_total", "Enrolment tokens used again with another key"
)
AGENTS = Gauge("trove_pki_agents", "Agents, by the state `trove-pki agents list` shows", ["state"])
AGENTS_BEHIND = Gauge(
    "trove_pki_bundle_lag_agents", "Connected agents that hold an older trust bundle"
)
AGENTS_SKEWED = Gauge(
    "trove_pki_agents_skewed", "Connected agents whose clock is more than five minutes wrong"
)
SERVICES_OVERDUE = Gauge(
    "trove_pki_services_overdue",
    "Services past the middle of their certificate's life, which they renew at a third",
)
SOONEST_EXPIRY = Gauge(
    "trove_pki_leaf_soonest_expiry_timestamp_seconds",
    "When the first certificate in use ends, by the authority that signed it",
    ["authority"],
)
TOKENS_OPEN = Gauge("trove_pki_tokens_open", "Enrolment tokens that nobody has used yet")
DATABASE_WAITING = Gauge(
    "trove_issuer_database_waiting", "Calls that wait for the database or are in it"
)
DATABASE_WAITING_LIMIT = Gauge(
    "trove_issuer_database_waiting_limit",
    "How many may wait before the next call is refused as OVERLOADED",
)
