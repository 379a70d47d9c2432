"""A machine that was off until every certificate but the authorities' had expired.

Four days, in a minute: `make test-sleepers`. Short lives stand in for the long ones; nothing else
is different from a laptop that was closed on Thursday and is opened on Monday.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
from pathlib import Path

from cryptography import x509

from tests.acceptance.installation import Installation, eventually, installation


def leaves(plane: Installation) -> dict[str, x509.Certificate]:
    """The certificate in force of every service and guest, by the directory it lies in."""
    paths = [
        *plane.state.glob("*/identity/current/chain.pem"),
        *plane.state.glob("guests/*/agent/identity/current/chain.pem"),
    ]
    return {
        str(path.relative_to(plane.state)): x509.load_pem_x509_certificate(path.read_bytes())
        for path in paths
        if path.relative_to(plane.state) != Path("operator/identity/current/chain.pem")
    }


def audit(plane: Installation, action: str) -> int:
    database = sqlite3.connect(f"file:{plane.state}/issuer/issuer.db?mode=ro", uri=True)
    try:
        found = database.execute("SELECT count(*) FROM audit WHERE action = ?", (action,))
        return int(found.fetchone()[0])
    finally:
        database.close()


def test_everything_comes_back_after_everything_expired():
    with installation(
        "--gateways", "2", issuer__guest_lifetime="20", issuer__service_lifetime="60"
    ) as plane:
        instances = [plane.create(name) for name in ("thursday", "friday")]
        addresses = [plane.await_healthy(each)["ip"][0] for each in instances]
        for address in addresses:
            plane.query(address, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert plane.stop() == 0

        before = leaves(plane)
        assert len(before) == 8  # six services and two guests
        last = max(leaf.not_valid_after_utc for leaf in before.values())
        eventually(lambda: dt.datetime.now(dt.UTC) > last, "all expired", within=90)

        plane.settings = {}  # lives of three and seven days from now on
        plane.up()
        for each in instances:
            plane.await_healthy(each)
        now = dt.datetime.now(dt.UTC)
        after = leaves(plane)
        assert after.keys() == before.keys()
        for name, leaf in after.items():
            assert leaf.serial_number != before[name].serial_number, name
            assert leaf.not_valid_after_utc > now, name
        assert audit(plane, "recover-guest") == 2
        assert audit(plane, "refuse-recovery") == 0

        # Everything works: what was there, and something new.
        for address in addresses:
            assert plane.query(address, "SELECT answer FROM kept") == "42"
        new = plane.create("monday")
        plane.await_healthy(new)
        for each in (*instances, new):
            plane.request("DELETE", f"/instances/{each}")
            plane.await_gone(each)
