"""What a process shows of the bundle it holds."""

from __future__ import annotations

import math
from pathlib import Path

from prometheus_client import REGISTRY

from pki.shared_metrics import show_bundle_version
from tests.fakes.certificates import TestAuthority
from trove_grpc.tls import IdentityDirectory


def shown() -> float | None:
    return REGISTRY.get_sample_value("trove_pki_bundle_version", {"where": "test"})


def test_a_process_without_a_bundle_is_scraped_all_the_same(tmp_path: Path) -> None:
    identity = IdentityDirectory(tmp_path / "identity")
    show_bundle_version("test", identity)
    value = shown()
    assert value is not None
    assert math.isnan(value)
    identity.store_bundle(TestAuthority().bundle(version=7))
    assert shown() == 7
