"""Keys move to Barbican and back, and Barbican goes away, under agents that go on renewing.

Issuer and gateway are processes; the agents' certificates live for half a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pki.custody.settings import BarbicanSettings
from pki.issuer import bootstrap, custody
from pki.issuer.custody import open_custody
from pki.store import Store
from tests.integration.gateways.conftest import ROOT, Guest, Region, eventually, seconds
from tests.openstack.conftest import Place
from trovectl import toml

GUESTS = 3
# Long enough for an issuer to start on a busy machine.
QUIET_SECONDS = 8
_SERVES = re.compile(r"issuer serves on port (\d+)")


class IssuerEndedError(Exception):
    """The issuer's process ended by itself; its log is the message."""


class Installation(Region):
    """A region whose issuer is a process with a settings file, as an operator has it."""

    _issuer: asyncio.subprocess.Process | None = None
    issuer_starts = 0

    async def begin(self, place: Place) -> None:
        self.issuer_config = dataclasses.replace(
            self.issuer_config,
            guest_lifetime=seconds(30),
            trust_domain=place.trust_domain,
            barbican=place.settings,
        )
        keys = open_custody(self.issuer_config)
        keys.prepare()
        with contextlib.closing(Store(self.issuer_config.database_url)) as store:
            store.migrate()
            now = dt.datetime.now(dt.UTC)
            store.run_now(lambda s: bootstrap.initialise(s, keys, self.issuer_config, now))
            store.run_now(lambda s: bootstrap.keep_certificates(s, keys))
        await self.start_issuer()
        self.conductor_port = await self._run_conductor()
        await self.start_gateway("one")

    async def start_issuer(self, **settings: Any) -> None:
        """Write the settings and start the issuer, on the port it had."""
        await self.stop_issuer()
        self.issuer_config = dataclasses.replace(
            self.issuer_config, listen=f"127.0.0.1:{self.issuer_port}", **settings
        )
        file = self.root / "issuer.toml"
        file.write_text(toml.dumps(written(self.issuer_config)))
        self.issuer_starts += 1
        log = self.root / f"issuer-{self.issuer_starts}.log"
        with log.open("wb") as stream:
            self._issuer = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pki.issuer", "--config", str(file)),
                cwd=self.root,
                stderr=stream,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            )
        self.stack.push_async_callback(self.stop_issuer)
        process = self._issuer

        def port() -> re.Match[str] | None:
            if process.returncode is not None:
                raise IssuerEndedError(log.read_text())
            return _SERVES.search(log.read_text())

        self.issuer_port = int((await eventually(port, "the issuer serves"))[1])

    async def stop_issuer(self) -> None:
        if self._issuer is not None and self._issuer.returncode is None:
            self._issuer.terminate()
            await self._issuer.wait()

    async def everybody_renews(self, guests: list[Guest]) -> None:
        """Each agent gets a certificate that it does not have now, and keeps its session."""
        before = {each.instance_id: each.identity.load().facts.serial for each in guests}
        await eventually(
            lambda: all(
                each.identity.load().facts.serial != before[each.instance_id] for each in guests
            ),
            "everybody renewed",
            within=90,
        )
        assert all(each.expires_in > 0 for each in guests)

    async def nobody_is_about_to_renew(self, guests: list[Guest]) -> None:
        """The moment for a restart of the only issuer."""
        await eventually(
            lambda: all(renews_in(each) > QUIET_SECONDS for each in guests),
            "a moment without renewals",
            within=90,
        )


def renews_in(guest: Guest) -> float:
    assert guest.agent is not None
    return guest.agent.connection._identity.renew_in()


def written(settings: Any) -> dict[str, Any]:
    """A settings object as its TOML file has it."""
    values = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, dt.timedelta):
            value = value.total_seconds()
        elif isinstance(value, BarbicanSettings):
            value = written(value)
        if value is not None:
            values[field.name] = value
    return values


@pytest.fixture
async def installation(place: Place) -> AsyncIterator[Installation]:
    root = Path(tempfile.mkdtemp(prefix="trove-region-"))
    try:
        async with contextlib.AsyncExitStack() as stack:
            installation = Installation(root, stack)
            await installation.begin(place)
            yield installation
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
async def guests(installation: Installation) -> list[Guest]:
    return [await installation.started_guest() for _ in range(GUESTS)]


def nothing_failed(
    installation: Installation, guests: list[Guest], caplog: pytest.LogCaptureFixture
) -> None:
    assert all(each.is_connected for each in guests)
    assert [line for line in caplog.messages if "renewal failed" in line] == []
    assert [line for line in caplog.messages if "expired before" in line] == []
    assert installation.audit("recover-guest") == []
    assert installation.audit("refuse-renewal") == []


@pytest.mark.timeout(600)
async def test_keys_move_to_barbican_and_back_while_agents_renew(
    installation: Installation, guests: list[Guest], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for to, left in (("barbican", "files"), ("files", "barbican")):
        config = installation.issuer_config
        rows = await asyncio.to_thread(custody.migrate, config, to=to)
        assert {each["result"] for each in rows} == {"copied"}
        await installation.everybody_renews(guests)  # by the issuer that still uses the old one
        rows = await asyncio.to_thread(custody.verify, config, of=to)
        assert {each["result"] for each in rows} == {"OK"}

        await installation.nobody_is_about_to_renew(guests)
        await installation.start_issuer(custody=to)
        await asyncio.to_thread(custody.clear, installation.issuer_config, of=left)
        await installation.everybody_renews(guests)  # by keys of the new one alone
        assert open_custody(installation.issuer_config, left).names() == []
    nothing_failed(installation, guests, caplog)


@pytest.mark.timeout(600)
async def test_barbican_away_stops_no_renewal_and_refuses_a_cold_start(
    installation: Installation,
    guests: list[Guest],
    place: Place,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    await asyncio.to_thread(custody.migrate, installation.issuer_config, to="barbican")
    await installation.nobody_is_about_to_renew(guests)
    await installation.start_issuer(custody="barbican")

    await asyncio.to_thread(place.cloud.barbican.stop)
    try:
        await installation.everybody_renews(guests)  # the issuer has its keys in memory
        await installation.nobody_is_about_to_renew(guests)
        with pytest.raises(IssuerEndedError, match="cannot be reached") as ended:
            await installation.start_issuer()
        assert "cannot look for" in str(ended.value)
        assert "Traceback" not in str(ended.value)
        assert all(each.is_connected for each in guests)  # gateways need no issuer for these
    finally:
        await asyncio.to_thread(place.cloud.restart_barbican)
    await installation.start_issuer()
    await installation.everybody_renews(guests)
    assert all(each.is_connected for each in guests)
    assert installation.audit("recover-guest") == []
    assert installation.audit("refuse-renewal") == []
