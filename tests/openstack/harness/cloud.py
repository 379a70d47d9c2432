"""Starts and stops the services of one directory, in the order they need."""

from __future__ import annotations

import concurrent.futures
import fcntl
import os
import sys
import time
from pathlib import Path

from tests.openstack.harness import environment
from tests.openstack.harness.identity import REGION, Identity
from tests.openstack.harness.services import Barbican, Keystone
from tests.openstack.harness.state import State


class Cloud:
    """A real Keystone and a real Barbican on ports of their own."""

    def __init__(self, root: Path, *, die_with_us: bool = False) -> None:
        self.state = State(root)
        bin_directory = environment.ensure()
        parent = os.getpid() if die_with_us else 0
        self.keystone = Keystone(self.state, bin_directory, die_with=parent)
        self.barbican = Barbican(self.state, bin_directory, die_with=parent)

    @property
    def identity(self) -> Identity:
        return Identity(self.keystone.auth_url, self.state.secret("admin"))

    def up(self) -> None:
        """Start what does not run; a second call, and a later one, find everything as it was."""
        began = time.monotonic()
        with (self.state.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.keystone.claim_port()
            self.barbican.claim_port()
            # Two schemas side by side: the longest part of a first start.
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                other = pool.submit(self.barbican.prepare, self.keystone.auth_url)
                self.keystone.prepare()
                self.keystone.start()
                self._register()
                other.result()
            self.barbican.start()
            self._write_clients()
        print(f"openstack: up in {time.monotonic() - began:.0f} s", file=sys.stderr)

    def down(self) -> None:
        with (self.state.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.barbican.stop()
            self.keystone.stop()

    def restart_barbican(self) -> None:
        """On the port it had, so that nobody has to look again."""
        self.barbican.stop()
        self.barbican.claim_port()
        self.barbican.start()

    def _register(self) -> None:
        identity = self.identity
        identity.ensure_user(
            self.barbican.name,
            self.state.secret(self.barbican.name),
            project="service",
            roles=["admin", "service"],
        )
        identity.ensure_endpoint(self.barbican.kind, self.barbican.url)

    def _write_clients(self) -> None:
        """`clouds.yaml` for people: OS_CLIENT_CONFIG_FILE names it, OS_CLOUD=admin chooses."""
        file = self.state.root / "clouds.yaml"
        file.touch(mode=0o600)
        file.write_text(
            "clouds:\n"
            "  admin:\n"
            f"    region_name: {REGION}\n"
            "    identity_api_version: 3\n"
            "    auth:\n"
            f"      auth_url: {self.keystone.auth_url}\n"
            "      username: admin\n"
            f"      password: {self.state.secret('admin')}\n"
            "      project_name: admin\n"
            "      user_domain_name: Default\n"
            "      project_domain_name: Default\n"
        )
