"""What the issuer counts."""

from __future__ import annotations

from prometheus_client import Counter

CERTIFICATES = Counter("trove_issuer_certificates_total", "Certificates signed", ["kind"])
ENROLMENTS = Counter("trove_issuer_enrolments_total", "Enrolment tokens presented", ["result"])
