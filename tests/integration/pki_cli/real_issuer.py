"""The issuer's own process, for commands to be tried on."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from pki.issuer import bootstrap, inventory, process
from pki.issuer.config import Config
from pki.issuer.custody import open_custody
from pki.issuer.guests import Guests
from pki.requests import new_key
from pki.store import Store
from tests.integration.pki.conftest import make_config
from tests.integration.pki_cli.conftest import Asker

# A rotation without guests has nobody to wait for but its own pace.
QUICK = {
    "rotation_poll": dt.timedelta(milliseconds=50),
    "rotation_soak": dt.timedelta(milliseconds=50),
    "rotation_spread": dt.timedelta(milliseconds=50),
    "rotation_canary_wait": dt.timedelta(milliseconds=50),
}


class RealIssuer:
    """The issuer's own process, in a thread of this one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="issuer")

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(process.serve(self.config, self._stop, self._started))

    def _started(self, port: int) -> None:
        self.port = port
        self._ready.set()

    def register(self, instance_id: str = "") -> str:
        """An instance that may have a token."""
        instance_id = instance_id or str(uuid.uuid4())
        store = Store(self.config.database_url)
        store.run_now(
            lambda session: inventory.register_subject(
                session,
                instance_id=instance_id,
                tenant_id="t",
                dns_names=[],
                ip_addresses=[],
                actor="test",
                now=dt.datetime.now(dt.UTC),
            )
        )
        store.close()
        return instance_id

    def enrol(self, instance_id: str, now: dt.datetime) -> None:
        """Give a registered instance the certificate it would have got at `now`."""
        store = Store(self.config.database_url)
        custody = open_custody(self.config)
        guests = Guests(
            store.run_now(lambda session: bootstrap.load(session, custody)), self.config
        )
        _row, token = store.run_now(
            lambda session: inventory.mint_token(
                session, self.config, instance_id, None, actor="test", now=now
            )
        )
        store.run_now(
            lambda session: guests.enrol(
                session,
                token,
                instance_id=instance_id,
                public_key=new_key().public_key(),
                actor="test",
                now=now,
            )
        )
        store.close()


def write_settings(root: Path) -> Path:
    """The TOML file of an issuer in `root`."""
    config, file = make_config(root), root / "issuer.toml"
    names = ("identity", "operator_socket", "database_url", "custody_directory", "passphrase_file")
    file.write_text("".join(f'{name} = "{getattr(config, name)}"\n' for name in names))
    return file


@contextlib.contextmanager
def running(root: Path) -> Iterator[tuple[Asker, RealIssuer]]:
    """An issuer that serves, and somebody at its socket."""
    config = make_config(root, **QUICK)
    asker = Asker(root, config.operator_socket)
    assert asker.run("init", "--config", str(write_settings(root))).status == 0
    real = RealIssuer(config)
    real.start()
    try:
        yield asker, real
    finally:
        real.stop()
