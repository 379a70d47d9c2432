"""The smoke of the rotation drill; `make test-rotation` runs the whole."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.rotation import scene
from tests.rotation.drill import drill
from trove_grpc.gen.common.v1 import trust_pb2


def test_nobody_notices_a_root_that_is_rotated_while_its_issuer_dies_at_every_step(
    tmp_path: Path,
) -> None:
    # What people hold ends soonest, and it is that which the end of the old generation waits for.
    with scene.short_lived_installation(issuer__operator_lifetime="70") as plane:
        databases = scene.create_databases(plane, ("postgresql",))
        report = asyncio.run(
            drill(
                plane,
                agents=20,
                databases=databases,
                sessions_each=3,
                authorities=(trust_pb2.AUTHORITY_KIND_ROOT,),
                folder=tmp_path,
            )
        )
    assert report.problems == [], report.markdown()
    assert report.queries > 100
    assert report.handovers >= 20
