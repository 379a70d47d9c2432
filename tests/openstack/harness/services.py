"""Keystone and Barbican: their configuration, their schema, their process."""

from __future__ import annotations

import base64
import grp
import os
import pwd
import socket
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.openstack.harness import daemons
from tests.openstack.harness.identity import REGION
from tests.openstack.harness.state import State

_SERVE = Path(__file__).with_name("serve.py")


class Service:
    """One daemon. Its port may be another at each start: the catalogue is told."""

    name: ClassVar[str]

    def __init__(self, state: State, bin_directory: Path, *, die_with: int = 0) -> None:
        self._state = state
        self._bin = bin_directory
        self._die_with = die_with
        self._socket: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        port: int = self._state.fact(f"port.{self.name}")
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def claim_port(self) -> None:
        """Take the port of the last start if it is free; a running daemon keeps its own."""
        if daemons.running(self._state, self.name) is None:
            self._socket = daemons.bind(self._state.fact(f"port.{self.name}"))
            self._state.remember(f"port.{self.name}", self._socket.getsockname()[1])

    def stop(self) -> None:
        daemons.stop(self._state, self.name, self._child)

    def _serve(self, kind: str, what: str, **environment: str) -> None:
        if self._socket is None:
            return
        self._child = daemons.spawn(
            self._state,
            self.name,
            [str(self._bin / "python"), str(_SERVE), str(self._die_with), kind, what],
            environment=self._environment(**environment),
            inherit=self._socket,
        )
        self._socket = None

    def _tool(self, program: str, *arguments: str) -> None:
        daemons.run(
            self._state,
            f"{self.name}-setup",
            [str(self._bin / program), *arguments],
            environment=self._environment(),
        )

    def _environment(self, **extra: str) -> dict[str, str]:
        return {
            "PATH": f"{self._bin}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self._state.root / "home"),
            "TMPDIR": str(self._state.root / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
            "no_proxy": "127.0.0.1",
            **extra,
        }

    def _database(self) -> dict[str, object]:
        # A throw-away file need not reach the disk.
        file = self._state.root / "data" / f"{self.name}.sqlite"
        return {"connection": f"sqlite:///{file}", "sqlite_synchronous": "false"}


class Keystone(Service):
    name = "keystone"

    @property
    def auth_url(self) -> str:
        return f"{self.url}/v3"

    def prepare(self) -> None:
        etc = self._state.root / "etc" / "keystone"
        for keys in ("fernet", "credential"):
            (etc / keys).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._state.write_ini(
            "etc/keystone/keystone.conf",
            {
                "DEFAULT": {"use_stderr": "true"},
                "database": self._database(),
                "token": {"provider": "fernet", "expiration": 28800},
                "fernet_tokens": {"key_repository": etc / "fernet"},
                "credential": {"key_repository": etc / "credential"},
                # One process serves everything, so its own memory is a coherent cache.
                "cache": {"enabled": "true", "backend": "dogpile.cache.memory"},
                "identity": {"password_hash_rounds": 4},
            },
        )
        self._state.once("keystone.schema", self._create_schema)
        # Also tells the catalogue where this start is.
        self._state.once(f"keystone.bootstrap.{self.port}", self._bootstrap)

    def start(self) -> None:
        self._serve("wsgi", "keystone.wsgi.api", OS_KEYSTONE_CONFIG_FILES=str(self._configuration))
        daemons.wait_until_it_answers(self._state, self.name, self.auth_url)

    @property
    def _configuration(self) -> Path:
        return self._state.root / "etc" / "keystone" / "keystone.conf"

    def _manage(self, *arguments: str) -> None:
        self._tool("keystone-manage", "--config-file", str(self._configuration), *arguments)

    def _create_schema(self) -> None:
        self._manage("db_sync")
        user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
        for keys in ("fernet_setup", "credential_setup"):
            self._manage(keys, "--keystone-user", user, "--keystone-group", group)

    def _bootstrap(self) -> None:
        self._manage(
            "bootstrap",
            *("--bootstrap-username", "admin"),
            *("--bootstrap-password", self._state.secret("admin")),
            *("--bootstrap-project-name", "admin"),
            *("--bootstrap-role-name", "admin"),
            *("--bootstrap-service-name", "keystone"),
            *("--bootstrap-region-id", REGION),
            *("--bootstrap-admin-url", self.auth_url),
            *("--bootstrap-internal-url", self.auth_url),
            *("--bootstrap-public-url", self.auth_url),
        )


class Barbican(Service):
    """simple_crypto on SQLite; every secret is sealed under this directory's own key."""

    name = "barbican"
    kind = "key-manager"

    def prepare(self, auth_url: str) -> None:
        # Found by oslo.config's search path, below HOME.
        self._state.write_ini(
            "home/.barbican/barbican.conf",
            {
                # Without a name of its own it answers with the caller's: through a proxy too.
                "DEFAULT": {"host_href": "", "use_stderr": "true", "db_auto_create": "false"},
                "database": self._database(),
                "secretstore": {
                    "namespace": "barbican.secretstore.plugin",
                    "enabled_secretstore_plugins": "store_crypto",
                },
                "crypto": {
                    "namespace": "barbican.crypto.plugin",
                    "enabled_crypto_plugins": "simple_crypto",
                },
                "simple_crypto_plugin": {"kek": self._state.fact("barbican.kek", _new_kek)},
                "queue": {"enable": "false"},
                "keystone_authtoken": {
                    "www_authenticate_uri": auth_url,
                    "auth_url": auth_url,
                    "auth_type": "password",
                    "username": self.name,
                    "password": self._state.secret(self.name),
                    "project_name": "service",
                    "user_domain_name": "Default",
                    "project_domain_name": "Default",
                    "region_name": REGION,
                    "service_token_roles": "service",
                    "service_token_roles_required": "true",
                },
            },
        )
        middleware = "barbican.api.middleware"
        self._state.write_ini(
            "etc/barbican/paste.ini",
            {
                "composite:main": {"use": "egg:Paste#urlmap", "/": "versions", "/v1": "v1"},
                "pipeline:versions": {"pipeline": "request_id microversion versionapp"},
                "pipeline:v1": {"pipeline": "request_id authtoken context microversion apiapp"},
                "app:apiapp": {"paste.app_factory": "barbican.api.app:create_main_app"},
                "app:versionapp": {"paste.app_factory": "barbican.api.app:create_version_app"},
                "filter:context": {
                    "paste.filter_factory": f"{middleware}.context:ContextMiddleware.factory"
                },
                "filter:microversion": {
                    "paste.filter_factory": (
                        f"{middleware}.microversion:MicroversionMiddleware.factory"
                    )
                },
                "filter:authtoken": {
                    "paste.filter_factory": "keystonemiddleware.auth_token:filter_factory"
                },
                "filter:request_id": {
                    "paste.filter_factory": "oslo_middleware.request_id:RequestId.factory"
                },
            },
        )
        self._state.once("barbican.schema", lambda: self._tool("barbican-db-manage", "upgrade"))

    def start(self) -> None:
        self._serve("paste", str(self._state.root / "etc" / "barbican" / "paste.ini"))
        daemons.wait_until_it_answers(self._state, self.name, f"{self.url}/")


def _new_kek() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode("ascii")
