"""One local guest: its files, its users, its launcher and its agent."""

from __future__ import annotations

import dataclasses
import enum
import json
import logging
import signal
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from trove_grpc.errors import InvalidRequestError, UnavailableError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2 as rpc
from trovectl import children, layout, procfs, toml
from trovectl.accounts import Accounts
from trovectl.children import Account, Backoff, Command, Supervised
from trovectl.layout import Layout
from trovectl.records import Records
from trovectl.runtime import Runtime

log = logging.getLogger(__name__)

# A fast shutdown of an engine writes a checkpoint first, seconds.
_ENGINE_STOP_GRACE = 60.0
_LAUNCHER_STOP_GRACE = 10.0
_REMOVE_GRACE = 15.0


class State(enum.StrEnum):
    """What is wanted of a guest."""

    RESERVED = "reserved"  # an address, no files yet
    RUNNING = "running"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRecord:
    """guest.json; no secrets."""

    instance_id: str
    address: str
    port: int
    # Place in the pool of users.
    index: int
    state: State = State.RESERVED
    tenant_id: str = ""
    manager: str = ""
    enrolment_endpoints: tuple[str, ...] = ()
    guest_endpoints: tuple[str, ...] = ()

    @staticmethod
    def load(path: Path) -> GuestRecord | None:
        """The record; None when there is none. Raises UnavailableError for a broken one."""
        try:
            content = json.loads(path.read_text())
            content["state"] = State(content["state"])
            for name in ("enrolment_endpoints", "guest_endpoints"):
                content[name] = tuple(content[name])
            return GuestRecord(**content)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise UnavailableError(f"{path} is not readable as a guest ({error})") from error


class Guest:
    """A guest and its processes."""

    def __init__(
        self,
        record: GuestRecord,
        places: Layout,
        *,
        accounts: Accounts,
        runtime: Runtime,
        records: Records,
        backoff: Backoff,
        settings: Mapping[str, Any],
    ) -> None:
        self.record = record
        self._places = places
        self._root = places.guest(record.instance_id)
        self._run = places.guest_run(record.instance_id)
        self._accounts = accounts
        self._runtime = runtime
        self._records = records
        self._backoff = backoff
        self._settings = settings
        self._agent: Supervised | None = None
        self._launcher: Supervised | None = None

    @property
    def agent_pid(self) -> int:
        return 0 if self._agent is None else self._agent.pid

    @property
    def has_identity(self) -> bool:
        return (self._root / "agent" / "identity" / "current" / "chain.pem").exists()

    def describe(self) -> rpc.Guest:
        return rpc.Guest(
            instance_id=self.record.instance_id,
            address=self.record.address,
            agent_pid=self.agent_pid,
            has_identity=self.has_identity,
        )

    def save(self) -> None:
        # 0711: two users work below, and see only what is theirs.
        layout.make_directory(self._root, mode=0o711)
        content = dataclasses.asdict(self.record)
        layout.write_file(
            self._root / "guest.json", json.dumps(content, indent=1).encode(), mode=0o600
        )

    async def ensure(self, request: rpc.EnsureGuestRequest) -> None:
        """Build or correct the guest and make sure that its agent runs."""
        wanted = dataclasses.replace(
            self.record,
            state=State.RUNNING,
            tenant_id=request.tenant_id,
            manager=request.manager,
            enrolment_endpoints=tuple(request.enrolment_endpoints),
            guest_endpoints=tuple(request.guest_endpoints),
        )
        changed = wanted != self.record
        if not self.has_identity and request.enrolment_token:
            await self._stop_agent(signal.SIGTERM)
            # It may have enrolled until just now; then it needs no second beginning.
            if not self.has_identity:
                self._build_agent(request)
        elif changed:
            await self._stop_agent(signal.SIGTERM)
        if not (self._root / "agent").exists():
            raise InvalidRequestError("a guest without identity needs an enrolment token")
        self.record = wanted
        self.save()
        await self.start()

    def _build_agent(self, request: rpc.EnsureGuestRequest) -> None:
        """The agent's directory with bundle and token, from nothing: it has no identity yet."""
        try:
            bundle = trust_pb2.TrustBundle.FromString(request.trust_bundle)
        except DecodeError as error:
            raise InvalidRequestError("trust_bundle is not a TrustBundle") from error
        if not bundle.authorities:
            raise InvalidRequestError("trust_bundle names no authority")
        agent, _ = self._accounts.guest(self.record.index)
        fresh, final = self._root / "agent.new", self._root / "agent"
        layout.remove_tree(fresh)
        layout.make_directory(fresh / "identity", mode=0o700)
        fresh.chmod(0o700)
        layout.write_file(fresh / "identity" / "bundle.pb", request.trust_bundle, mode=0o644)
        layout.write_file(fresh / "token", request.enrolment_token.encode(), mode=0o600)
        layout.give_tree(fresh, agent)
        layout.remove_tree(final)
        fresh.rename(final)

    def learn_endpoints(self, enrolment: tuple[str, ...], guest: tuple[str, ...]) -> None:
        """Tell the agent of gateways that came since; endpoints set to others stay as they are."""
        if set(self.record.guest_endpoints) < set(guest):
            self.record = dataclasses.replace(
                self.record, enrolment_endpoints=enrolment, guest_endpoints=guest
            )
            self.save()

    async def start(self) -> None:
        """Start launcher and agent unless they run. Directories below run/ go with a reboot."""
        agent, engine = self._accounts.guest(self.record.index)
        layout.make_directory(self._run, mode=0o711)
        layout.make_directory(self._run / "engine", mode=0o700, account=engine)
        # The agent passes through to the launcher's socket alone; who asks there is checked.
        layout.make_directory(self._run / "launcher", mode=0o711, account=engine)
        layout.make_directory(self._root / "engine", mode=0o700, account=engine)
        socket = self._run / "launcher" / "launcher.sock"
        settings = {
            "identity": self._root / "agent" / "identity",
            "instance_id": self.record.instance_id,
            "tenant_id": self.record.tenant_id,
            "manager": self.record.manager,
            "token_file": self._root / "agent" / "token",
            "enrolment_endpoints": self.record.enrolment_endpoints,
            "guest_endpoints": self.record.guest_endpoints,
            "state_directory": self._root / "agent" / "state",
            "data_directory": self._root / "engine",
            "run_directory": self._run / "engine",
            "launcher_socket": str(socket) if self._accounts.are_separate else "",
            **self._settings,
        }
        config = self._root / "agent.toml"
        # Readable by the agent's group, writable by none of the guest's users.
        owner = Account("root", 0, agent.gid) if self._accounts.are_separate else agent
        layout.write_file(config, toml.dumps(settings).encode(), mode=0o640, account=owner)
        if self._accounts.are_separate and self._launcher is None:
            self._launcher = self._supervised(
                "launcher",
                ("guestagent.launcher", "--socket", str(socket), "--agent-uid", str(agent.uid)),
                account=engine,
                cwd=self._root / "engine",
                grace=_LAUNCHER_STOP_GRACE,
            )
        if self._launcher is not None:
            await self._launcher.start()
        if self._agent is None:
            self._agent = self._supervised(
                "agent",
                ("guestagent", "--config", str(config)),
                account=agent,
                cwd=self._root / "agent",
                grace=_ENGINE_STOP_GRACE,
            )
        await self._agent.start()

    def _supervised(
        self, part: str, arguments: tuple[str, ...], *, account: Account, cwd: Path, grace: float
    ) -> Supervised:
        name = f"guest-{self.record.instance_id}-{part}"
        command = Command(
            name=name,
            argv=self._runtime.command(*arguments),
            cwd=cwd,
            log=self._places.log(name),
            account=account,
            environment={**self._runtime.environment, "HOME": str(cwd)},
            stop_grace=grace,
        )
        return Supervised(command, self._records, backoff=self._backoff)

    async def _stop_agent(self, number: signal.Signals) -> None:
        if self._agent is not None:
            await self._agent.stop(number)
            self._agent = None

    async def stop(self) -> None:
        """Shut the machine down: the engine cleanly, then its agent and launcher."""
        # SIGUSR1 asks the agent to stop its engine before it leaves.
        await self._stop_agent(signal.SIGUSR1)
        if self._launcher is not None:
            await self._launcher.stop()
            self._launcher = None

    async def remove(self) -> None:
        """Everything of the guest goes: processes, files, its places in the pools."""
        self.record = dataclasses.replace(self.record, state=State.REMOVING)
        self.save()
        if self._agent is not None:
            await self._agent.stop(signal.SIGTERM)
            self._agent = None
        if self._launcher is not None:
            await self._launcher.stop()
            self._launcher = None
        while leftovers := procfs.under(self._root):
            await children.end_engines(leftovers, grace=_REMOVE_GRACE)
        for part in ("agent", "launcher"):
            self._records.drop(f"guest-{self.record.instance_id}-{part}")
            self._places.log(f"guest-{self.record.instance_id}-{part}").unlink(missing_ok=True)
        layout.remove_tree(self._run)
        # guest.json last: until then a new supervisor knows that this is to be removed.
        trash = self._root.with_name(f".{self._root.name}.{uuid.uuid4().hex[:8]}")
        layout.remove_tree(self._root / "agent")
        layout.remove_tree(self._root / "agent.new")
        layout.remove_tree(self._root / "engine")
        self._root.rename(trash)
        layout.remove_tree(trash)
