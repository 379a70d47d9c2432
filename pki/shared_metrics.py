"""What several processes count of the PKI, each on its own."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from trove_grpc.errors import UnavailableError
from trove_grpc.tls import IdentityDirectory

DENIALS_AGE = Gauge("trove_pki_denylist_age_seconds", "Time since the last good news of denials")
BUNDLE_VERSION = Gauge(
    "trove_pki_bundle_version", "Version of the trust bundle that is held there", ["where"]
)
CLONES_SUSPECTED = Counter(
    "trove_pki_clone_suspected_total",
    "Keys seen twice: a stream beside another boot's, a superseded certificate, a used token",
)


def show_bundle_version(where: str, identity: IdentityDirectory) -> None:
    """Follow the bundle an identity holds.

    Not a number while it holds none: an error here would end the whole scrape.
    """

    def version() -> float:
        try:
            return identity.bundle().version
        except UnavailableError:
            return float("nan")

    BUNDLE_VERSION.labels(where).set_function(version)
