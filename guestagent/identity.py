"""The agent's identity: the first from a one-time token, then each from the one before.

Nothing that works is given up before its successor has been used, and every key is on disk
before its request leaves, so that a lost reply or a crash is answered by asking again with the
same key:

    <identity>/enrol-<hash of token>.pem    key of an enrolment in progress
    <identity>/renewal.pem                  key of a renewal or recovery in progress
    <identity>/renewal.json                 when to renew, picked once for each certificate
    <identity>/next                         issued, not yet confirmed (trove_grpc.tls)
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import timestamp_pb2

from guestagent import clock, keys
from trove_grpc.client import call
from trove_grpc.errors import InvalidRequestError, UnavailableError
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.guest.v1 import (
    enrolment_service_pb2,
    identity_service_pb2,
    identity_service_pb2_grpc,
)
from trove_grpc.redaction import Secret
from trove_grpc.tls import IdentityDirectory, KeyMaterial

if TYPE_CHECKING:
    from trove_grpc.gen.guest.v1.enrolment_service_pb2_grpc import EnrolmentServiceAsyncStub

log = logging.getLogger(__name__)

CALL_SECONDS = 20.0
# Where the issuer names no window, renew between half and two thirds of what is left.
_DEFAULT_WINDOW = (0.5, 0.66)
# The latest moment, as a share of what is left: a window beyond it is not obeyed.
_LATEST = 0.8
_SPREAD = dt.timedelta(seconds=60)
# The control plane's time is asked for again after so long, when we are refused.
_FRESH_SECONDS = 60.0
_NEXT_KEY = "renewal.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Self:
    """What an agent says of itself; information, not identity."""

    instance_id: str
    boot_id: str
    machine_id_hash: str
    agent_version: str


class GuestIdentity:
    """One guest's identity directory and what is under way in it."""

    def __init__(self, directory: IdentityDirectory, token_file: Path, me: Self) -> None:
        self.directory = directory
        self._token_file = token_file
        self.me = me
        self._server_time: dt.datetime | None = None
        self._noted_at = 0.0  # since boot
        self._picked: dict[str, str] = {}  # as in renewal.json

    def now(self) -> dt.datetime:
        """The control plane's time, as far as it told us: a guest's clock may be wrong, and jump.

        Since it told us, the time since boot has gone on, sleep included.
        """
        if self._server_time is None:
            return dt.datetime.now(dt.UTC)
        return self._server_time + dt.timedelta(seconds=_since_boot() - self._noted_at)

    def note_server_time(self, stamp: timestamp_pb2.Timestamp) -> None:
        self._server_time, self._noted_at = stamp.ToDatetime(dt.UTC), _since_boot()

    @property
    def time_is_fresh(self) -> bool:
        """Whether the control plane told us its time of late."""
        return self._server_time is not None and _since_boot() - self._noted_at < _FRESH_SECONDS

    @property
    def clock_problem(self) -> str:
        """What is wrong with our clock, as far as we know; empty when it is right."""
        return clock.describe(self.now() - dt.datetime.now(dt.UTC))

    @property
    def problem(self) -> str:
        """What a person should know of identity and clock; empty when all is well."""
        return self.directory.problem or self.clock_problem

    @property
    def is_known(self) -> bool:
        """Whether there is a certificate at all."""
        return any(self.directory.exists(slot) for slot in ("current", "next"))

    @property
    def is_usable(self) -> bool:
        """Whether there is a certificate that has not expired."""
        return any(self.is_valid(slot) for slot in ("current", "next"))

    def is_valid(self, slot: str) -> bool:
        return (
            self.directory.exists(slot)
            and self.now() < self.directory.load(slot).facts.not_valid_after
        )

    def read_token(self) -> Secret | None:
        """The token as it stands in its file; None when there is none."""
        try:
            text = self._token_file.read_text().strip()
        except FileNotFoundError:
            return None
        return Secret(text) if text else None

    def forget_token(self) -> None:
        """The identity works: token and enrolment keys are of no more use."""
        with contextlib.suppress(OSError):  # a spent token harms nobody
            self._token_file.unlink(missing_ok=True)
            for path in self.directory.root.glob("enrol-*.pem"):
                path.unlink(missing_ok=True)

    async def enrol(self, token: Secret, stub: EnrolmentServiceAsyncStub) -> None:
        """Turn the token into an identity.

        May be repeated with the same token after any failure but UnauthenticatedError, which
        says that this token will never do.
        """
        name = hashlib.sha256(token.reveal().encode()).hexdigest()[:16]
        key_pem, csr = await self._stored_request(f"enrol-{name}.pem")
        request = enrolment_service_pb2.EnrolRequest(
            token=token.reveal(),
            csr_der=csr,
            instance_id=self.me.instance_id,
            boot_id=self.me.boot_id,
            machine_id_hash=self.me.machine_id_hash,
            agent_version=self.me.agent_version,
        )
        request.guest_time.GetCurrentTime()
        response = await call(stub.Enrol, request, timeout=CALL_SECONDS)
        self._note(response)
        material = KeyMaterial(key_pem=key_pem, chain_pem=response.chain_pem)
        self.directory.install(material, response.bundle)
        self.pick_renewal(response.renewal_window, slot="current")
        log.info("enrolled as %s", material.facts.serial)

    async def request_next(self, stub: identity_service_pb2_grpc.IdentityServiceAsyncStub) -> None:
        """Have the next certificate staged; asks only when a crash has not left one."""
        if self.directory.exists("next"):
            self.forget_next_request()
            return
        key_pem, csr = await self.next_request()
        try:
            response = await call(
                stub.Renew,
                identity_service_pb2.RenewRequest(csr_der=csr),
                timeout=CALL_SECONDS,
                retry=True,
            )
        except InvalidRequestError as error:
            self.forget_spent_key(error)
            raise
        self.stage_next(response, key_pem)

    async def next_request(self) -> tuple[bytes, bytes]:
        """Key and request of the next certificate; the same ones until it has come."""
        return await self._stored_request(_NEXT_KEY)

    def forget_next_request(self) -> None:
        with contextlib.suppress(OSError):  # a key that stays is found to be spent
            (self.directory.root / _NEXT_KEY).unlink(missing_ok=True)

    def forget_spent_key(self, error: InvalidRequestError) -> None:
        """Where the next key has been certified for good, another one is the way on."""
        if error.reason == "CSR_KEY_REUSED":
            self.forget_next_request()
            raise UnavailableError("the next key is spent; another will be made") from error

    def stage_next(
        self,
        response: identity_service_pb2.RenewResponse | enrolment_service_pb2.RecoverResponse,
        key_pem: bytes,
    ) -> None:
        """Keep an issued certificate as the one to be tried next."""
        self._note(response)
        self.directory.store_bundle(response.bundle)
        self.directory.stage(KeyMaterial(key_pem=key_pem, chain_pem=response.chain_pem))
        self.pick_renewal(response.renewal_window, slot="next")
        self.forget_next_request()

    async def confirm_next(self, stub: identity_service_pb2_grpc.IdentityServiceAsyncStub) -> None:
        """Say that `next` works, over a channel that uses it, and make it current."""
        await call(
            stub.Confirm, identity_service_pb2.ConfirmRequest(), timeout=CALL_SECONDS, retry=True
        )
        # A crash after staging left the request: its key is this certificate's own.
        self.forget_next_request()
        self.directory.promote()
        log.info("renewed; the certificate is now %s", self.directory.load().facts.serial)

    def discard_next(self) -> None:
        """A staged certificate that was refused: begin again with another key."""
        self.directory.discard_next()
        self.forget_next_request()

    def pick_renewal(self, window: trust_pb2.RenewalWindow, *, slot: str = "current") -> None:
        """Choose when to renew this certificate; the choice is kept until the window changes."""
        serial, label = self._labels(window, slot)
        known = self._pick()
        if known.get("serial") == serial and label in ("", known.get("window")):
            return
        now = self.now()
        # Counted from now, not from the certificate's start, which is set back for slow clocks.
        left = self.directory.load(slot).facts.not_valid_after - now
        if label:
            first = window.start_time.ToDatetime(dt.UTC)
            last = max(first, window.end_time.ToDatetime(dt.UTC))
        else:
            first, last = (now + left * share for share in _DEFAULT_WINDOW)
        at = first + (last - first) * random.random()  # noqa: S311  a spread, not a secret
        if at <= now:  # a window in the past means now, but not everybody in one second
            at = now + min(left * 0.1, _SPREAD) * random.random()  # noqa: S311
        self._picked = {
            "serial": serial,
            "window": label,
            "at": min(at, now + left * _LATEST).isoformat(),
        }
        try:
            self.directory.store("renewal.json", json.dumps(self._picked).encode())
        except UnavailableError as error:
            log.warning("when to renew is remembered until a restart only: %s", error.message)

    def renew_in(self) -> float:
        """Seconds until the picked moment; not above 0 when it has come."""
        if self.directory.exists("next"):
            return 0.0
        self.pick_renewal(trust_pb2.RenewalWindow())  # where a crash left none
        at = dt.datetime.fromisoformat(self._pick()["at"])
        return (at - self.now()).total_seconds()

    def expires_in(self) -> float:
        return (self.directory.load().facts.not_valid_after - self.now()).total_seconds()

    def _labels(self, window: trust_pb2.RenewalWindow, slot: str) -> tuple[str, str]:
        serial = self.directory.load(slot).facts.serial
        if not window.HasField("start_time"):
            return serial, ""
        return serial, f"{window.start_time.ToJsonString()}/{window.end_time.ToJsonString()}"

    def _pick(self) -> dict[str, str]:
        if not self._picked:
            with contextlib.suppress(OSError, ValueError):
                self._picked = dict(
                    json.loads((self.directory.root / "renewal.json").read_bytes())
                )
        return self._picked

    async def _stored_request(self, name: str) -> tuple[bytes, bytes]:
        """The key kept as `name`, made if there is none, and its certificate request.

        Raises UnavailableError when the answer would find no room on disk.
        """
        known = None
        with contextlib.suppress(FileNotFoundError):
            known = (self.directory.root / name).read_bytes()
        key_pem, csr_der = await keys.request(known or None)
        if not known:
            self.directory.store(name, key_pem)
        self.directory.require_room()
        return key_pem, csr_der

    def _note(
        self,
        response: enrolment_service_pb2.EnrolResponse
        | enrolment_service_pb2.RecoverResponse
        | identity_service_pb2.RenewResponse,
    ) -> None:
        if response.HasField("server_time"):
            self.note_server_time(response.server_time)


def _since_boot() -> float:
    """Seconds that no setting of a clock changes and that go on during sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
