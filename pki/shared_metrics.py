"""What several processes count of the PKI, each on its own."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

DENIALS_AGE = Gauge("trove_pki_denylist_age_seconds", "Time since the last good news of denials")
BUNDLE_VERSION = Gauge(
    "trove_pki_bundle_version", "Version of the trust bundle that is held there", ["where"]
)
CLONES_SUSPECTED = Counter(
    "trove_pki_clone_suspected_total",
    "Keys seen twice: a stream beside another boot's, a superseded certificate, a used token",
)
