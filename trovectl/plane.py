"""The control plane's processes: what each is told, in which order they start and stop."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trove_grpc.errors import TroveError, UnavailableError
from trove_grpc.identity import Role
from trove_grpc.process import wait_or_timeout
from trove_grpc.tls import IdentityDirectory
from trovectl import children, identities, layout, ports, toml
from trovectl.accounts import Accounts
from trovectl.children import Account, Backoff, Command, Supervised
from trovectl.layout import Layout
from trovectl.readiness import GrpcProbe, HttpProbe, Probe, SocketProbe
from trovectl.records import Records
from trovectl.runtime import Runtime
from trovectl.state_databases import StateDatabase

log = logging.getLogger(__name__)

# In start order; each needs those before it.
NAMES = ("issuer", "conductor", "taskmanager", "gateway", "api")
_MODULES = {
    "issuer": "pki.issuer",
    "conductor": "conductor",
    "taskmanager": "taskmanager",
    "gateway": "gateway.guest",
    "api": "gateway.rest",
}
_PORTS = ("issuer", "conductor", "taskmanager")
# A gateway's internal one has the gateway's own name.
_GATEWAY_PORTS = ("", "-enrolment", "-guest")
MOST_GATEWAYS = 8
_READY_SECONDS = 60.0
_READY_POLL_SECONDS = 0.1
# A process that died so often before it was ever ready will not become so.
_START_ATTEMPTS = 3
_INIT_SECONDS = 60.0
# A copy below the process's own directory: its user must be able to read it.
_DATABASE_SECRET = "database.password"  # noqa: S105  a file's name


def gateway_names(count: int) -> list[str]:
    """Names of so many gateways; the first one's is the same however many there are."""
    return ["gateway", *(f"gateway-{number}" for number in range(2, count + 1))]


@dataclass(slots=True)
class Member:
    """One process of the control plane."""

    name: str
    kind: str  # one of NAMES; there may be several gateways
    account: Account
    child: Supervised
    probe: Probe
    endpoints: Mapping[str, str]
    settings: Mapping[str, Any] = field(repr=False)


class ControlPlane:
    """Writes settings, starts in order, stops in reverse."""

    def __init__(
        self,
        places: Layout,
        *,
        accounts: Accounts,
        runtime: Runtime,
        records: Records,
        backoff: Backoff,
        rest_listen: str,
        overrides: Mapping[str, Mapping[str, Any]],
        state_databases: Mapping[str, StateDatabase],
        datastores: Mapping[str, Any],
        gateways: int = 1,
    ) -> None:
        self._datastores = datastores
        self._gateways = gateway_names(gateways)
        self.enrolment_endpoints: tuple[str, ...] = ()
        self.guest_endpoints: tuple[str, ...] = ()
        self._places = places
        self._accounts = accounts
        self._runtime = runtime
        self._records = records
        self._backoff = backoff
        self._rest_listen = rest_listen
        self._overrides = overrides
        self._state_databases = state_databases
        self._operator = IdentityDirectory(places.operator)
        self.members: list[Member] = []

    async def reap(self) -> None:
        """End what an earlier supervisor's control plane left running, in reverse order."""
        for name in reversed([*NAMES[:-1], *gateway_names(MOST_GATEWAYS)[1:], NAMES[-1]]):
            record = self._records.get(name)
            if record is not None:
                await children.terminate_all([record.process], number=signal.SIGTERM, grace=15)
                self._records.drop(name)

    def prepare(self) -> None:
        """Ports, directories and settings of every process; starts nothing.

        Raises UnavailableError that names who has one of the ports.
        """
        wanted = [f"{name}{part}" for name in self._gateways for part in _GATEWAY_PORTS]
        wanted += [f"{name}-metrics" for name in (*_PORTS, *self._gateways, "api")]
        chosen = ports.load_or_choose(self._places.ports, [*_PORTS, *wanted])
        for name, port in chosen.items():
            ports.check_free(name, ports.LOOPBACK, port)
        ports.check_free("api", *ports.split(self._rest_listen))
        addresses = {name: f"{ports.LOOPBACK}:{port}" for name, port in chosen.items()}
        self.enrolment_endpoints = tuple(addresses[f"{name}-enrolment"] for name in self._gateways)
        self.guest_endpoints = tuple(addresses[f"{name}-guest"] for name in self._gateways)
        settings = self._settings(addresses)
        self.members = [
            self._member(name, kind, settings[name], addresses)
            for kind in NAMES
            for name in (self._gateways if kind == "gateway" else [kind])
        ]

    def _settings(self, at: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        home = {name: self._places.process(name) for name in (*NAMES, *self._gateways)}
        issuer, conductor = [at["issuer"]], [at["conductor"]]
        settings: dict[str, dict[str, Any]] = {
            "issuer": {
                "listen": at["issuer"],
                "operator_socket": self._places.operator_socket,
                "database_url": f"sqlite:///{home['issuer'] / 'issuer.db'}",
                "custody_directory": home["issuer"] / "custody",
                "passphrase_file": home["issuer"] / "passphrase",
                "host": identities.HOST,
            },
            "conductor": {
                "listen": at["conductor"],
                "issuer": issuer,
                "database_url": f"sqlite:///{home['conductor'] / 'conductor.db'}",
                "sealing_key_file": home["conductor"] / "sealing.key",
                **self._datastores,
                **self._rates(),
            },
            "taskmanager": {
                "listen": at["taskmanager"],
                "issuer": issuer,
                "conductor": conductor,
                "flow_database_url": f"sqlite:///{home['taskmanager'] / 'flows.db'}",
                "executor_id": identities.HOST,
                "compute": "local",
                "supervisor_socket": str(self._places.supervisor_socket),
                "enrolment_endpoints": list(self.enrolment_endpoints),
                "guest_endpoints": list(self.guest_endpoints),
            },
            "api": {
                "listen": self._rest_listen,
                "auth": "none",
                "issuer": issuer,
                "conductor": conductor,
                "taskmanager": [at["taskmanager"]],
            },
        }
        for name in self._gateways:
            settings[name] = {
                "enrolment_listen": at[f"{name}-enrolment"],
                "guest_listen": at[f"{name}-guest"],
                "internal_listen": at[name],
                "issuer": issuer,
                "conductor": conductor,
            }
        for name, own in settings.items():
            own["identity"] = home[name] / "identity"
            own["metrics_listen"] = at[f"{name}-metrics"]
            if name in self._state_databases:
                password_file = home[name] / _DATABASE_SECRET
                own.update(self._state_databases[name].settings(name, password_file))
            own.update(self._overrides.get(_kind(name), {}))
        return settings

    def _rates(self) -> dict[str, Any]:
        """No rate limits where nobody is authenticated: one local user, who may poll as he likes.

        A limit for each project would protect no project from another there.
        """
        if self._overrides.get("api", {}).get("auth", "none") != "none":
            return {}
        return {"rates": dict.fromkeys(("get", "post", "put", "delete", "manage"), -1)}

    def _member(
        self, name: str, kind: str, settings: Mapping[str, Any], at: Mapping[str, str]
    ) -> Member:
        account = self._accounts.service(kind)
        home = self._places.process(name)
        layout.make_directory(home, mode=0o700, account=account)
        if (database := self._state_databases.get(name)) and database.password:
            layout.write_file(
                home / _DATABASE_SECRET, database.password.encode(), mode=0o600, account=account
            )
        config = home / "config.toml"
        layout.write_file(config, toml.dumps(settings).encode(), mode=0o600, account=account)
        own = [f"{name}{part}" for part in (*_GATEWAY_PORTS, "-metrics")]
        endpoints = {key: address for key, address in at.items() if key in own}
        command = self._command(name, home, account, _MODULES[kind], "--config", str(config))
        child = Supervised(command, self._records, backoff=self._backoff)
        probe: Probe
        if name == "issuer":
            probe = SocketProbe(self._places.operator_socket)
        elif name == "api":
            endpoints["rest"] = self._rest_listen
            probe = HttpProbe(self._rest_listen, lambda: child.pid)
        else:
            probe = GrpcProbe(at[name], Role(kind), self._operator)
        return Member(name, kind, account, child, probe, endpoints, settings)

    def _command(self, name: str, home: Path, account: Account, *arguments: str) -> Command:
        return Command(
            name=name,
            argv=self._runtime.command(*arguments),
            cwd=home,
            log=self._places.log(name),
            account=account,
            environment={**self._runtime.environment, "HOME": str(home)},
        )

    async def start(self, say: Callable[[str], None]) -> None:
        """Start every process once those before it are ready.

        Raises UnavailableError with the process's last words when one does not get there.
        """
        for member in self.members:
            if member.name == "issuer":
                await self._initialise(member)
            else:
                await self._ensure_identity(member)
            await member.child.start()
            await self._await_ready(member)
            say(f"{member.name} is ready (pid {member.child.pid})")
            if member.name == "issuer":
                await identities.ensure_operator(
                    self._places.operator_socket, self._places.operator
                )

    async def _initialise(self, issuer: Member) -> None:
        """Create the authorities; does nothing the second time."""
        home = self._places.process("issuer")
        passphrase = home / "passphrase"
        if not passphrase.exists():
            layout.write_file(
                passphrase, secrets.token_urlsafe(32).encode(), mode=0o600, account=issuer.account
            )
        layout.make_directory(
            self._places.operator_socket.parent, mode=0o700, account=issuer.account
        )
        config = str(home / "config.toml")
        arguments = ("pki", "init", "--config", config)
        command = self._command("issuer-init", home, issuer.account, *arguments)
        await children.run_once(command, timeout=_INIT_SECONDS)

    async def _ensure_identity(self, member: Member) -> None:
        path = Path(member.settings["identity"])
        await identities.ensure_service(
            self._places.operator_socket,
            Role(member.kind),
            path,
            account=member.account,
            host=member.name.replace(member.kind, identities.HOST),
        )

    async def _await_ready(self, member: Member) -> None:
        ends = asyncio.get_running_loop().time() + _READY_SECONDS
        died = ""
        while reason := await self.reason(member):
            died = member.child.reason or died
            late = asyncio.get_running_loop().time() > ends
            if late or member.child.restart_count >= _START_ATTEMPTS:
                raise UnavailableError(
                    f"the {member.name} did not become ready: {died or reason}; "
                    f"its log is {member.child.command.log}",
                    reason="NOT_READY",
                    subject=member.name,
                )
            await asyncio.sleep(_READY_POLL_SECONDS)
        log.info("the %s is ready", member.name)

    async def reason(self, member: Member) -> str:
        """Why this process is not ready; empty when it is."""
        return member.child.reason or await member.probe.reason()

    async def keep_identities(self, stop: asyncio.Event, *, every: float) -> None:
        """Until `stop`: replace our certificate in time, and any a service failed to renew."""
        while not await wait_or_timeout(stop, every):
            try:
                await identities.ensure_operator(
                    self._places.operator_socket, self._places.operator
                )
                for member in self.members:
                    if member.name != "issuer":
                        await self._ensure_identity(member)
            except (TroveError, OSError) as error:
                # Tried again in time: half of a life is left.
                log.warning("certificates were not looked after: %s", error)

    async def stop(self, names: Sequence[str]) -> None:
        """Stop these processes, last started first."""
        for member in reversed(self.members):
            if member.kind in names:
                await member.child.stop()
                await member.probe.close()


def _kind(name: str) -> str:
    return name.partition("-")[0]
