"""A Keystone in process: TLS, tokens, sign-ins; held to the contract of the real one.

`tests/fakes/keystone_contract.py` is that contract.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFE = dt.timedelta(hours=1)
# As long as Keystone's allow_expired_window.
WINDOW = dt.timedelta(hours=48)


@dataclass
class Issued:
    """One token."""

    user: str
    project: str | None
    roles: Sequence[str]
    expires_at: dt.datetime


@dataclass
class FakeKeystone:
    """What it knows, and what it is told to do wrong."""

    root: Path
    now: Callable[[], dt.datetime]
    auth_url: str = ""
    tokens: dict[str, Issued] = field(default_factory=dict)
    accounts: dict[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
    sign_ins: int = 0
    validations: int = 0
    # The status to answer everything with; what to wait for before any answer.
    failing: int | None = None
    hold: asyncio.Event | None = None

    @property
    def ca_file(self) -> Path:
        return self.root / "keystone-ca.pem"

    def issue(self, user: str, project: str | None, roles: Sequence[str] = ("member",)) -> str:
        text = f"gAAAA{secrets.token_urlsafe(60)}"
        self.tokens[text] = Issued(user, project, roles, self.now() + LIFE)
        return text

    def revoke(self, token: str) -> None:
        del self.tokens[token]

    def credential(self, user: str, *roles: str) -> Path:
        """The file of an application credential, whose id is the user's name."""
        secret = secrets.token_urlsafe(30)
        self.accounts[user] = (secret, roles)
        return write_private(self.root / f"{user}.json", {"id": user, "secret": secret})

    def password(self, user: str, *roles: str) -> Path:
        secret = secrets.token_urlsafe(30)
        self.accounts[user] = (secret, roles)
        content = {"username": user, "password": secret, "project": "service"}
        return write_private(self.root / f"{user}-password.json", content)

    async def sign_in(self, request: web.Request) -> web.Response:
        await self._misbehave()
        self.sign_ins += 1
        identity = (await request.json())["auth"]["identity"]
        if identity["methods"] == ["password"]:
            user = identity["password"]["user"]
            name, given = user["name"], user["password"]
        else:
            credential = identity["application_credential"]
            name, given = credential["id"], credential["secret"]
            if name not in self.accounts:
                return _error(404)
        secret, roles = self.accounts.get(name, ("", ()))
        if not secrets.compare_digest(secret, given):
            return _error(401)
        token = self.issue(name, "service", roles)
        return web.json_response(
            self._describe(self.tokens[token]), status=201, headers={"X-Subject-Token": token}
        )

    async def validate(self, request: web.Request) -> web.Response:
        await self._misbehave()
        self.validations += 1
        asking = self._living(request.headers["X-Auth-Token"])
        if asking is None:
            return _error(401)
        if "service" not in asking.roles:
            return _error(403)
        window = WINDOW if request.query.get("allow_expired") else dt.timedelta(0)
        found = self._living(request.headers["X-Subject-Token"], window)
        return _error(404) if found is None else web.json_response(self._describe(found))

    def _living(self, token: str, window: dt.timedelta = dt.timedelta(0)) -> Issued | None:
        found = self.tokens.get(token)
        return found if found is not None and self.now() < found.expires_at + window else None

    def _describe(self, issued: Issued) -> dict[str, Any]:
        domain = {"id": "default", "name": "Default"}
        token: dict[str, Any] = {
            "methods": ["password"],
            "user": {"id": f"id-of-{issued.user}", "name": issued.user, "domain": domain},
            "audit_ids": ["x"],
            "expires_at": issued.expires_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "issued_at": self.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        if issued.project:
            token["project"] = {"id": issued.project, "name": issued.project, "domain": domain}
            token["roles"] = [{"id": f"id-of-{role}", "name": role} for role in issued.roles]
        return {"token": token}

    async def _misbehave(self) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.failing is not None:
            raise _FAILURES[self.failing]


_FAILURES = {
    500: web.HTTPInternalServerError(text="<html>traceback</html>"),
    502: web.HTTPBadGateway(text="<html>proxy</html>"),
    503: web.HTTPServiceUnavailable(text="{}"),
    429: web.HTTPTooManyRequests(text="{}"),
    302: web.HTTPFound("https://127.0.0.1:1/elsewhere"),
}


def write_private(path: Path, content: dict[str, str]) -> Path:
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))
    return path


@contextlib.asynccontextmanager
async def running_keystone(
    root: Path, now: Callable[[], dt.datetime]
) -> AsyncIterator[FakeKeystone]:
    keystone = FakeKeystone(root, now)
    app = web.Application()
    app.router.add_post("/v3/auth/tokens", keystone.sign_in)
    app.router.add_get("/v3/auth/tokens", keystone.validate)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_tls(keystone)).start()
        keystone.auth_url = f"https://127.0.0.1:{runner.addresses[0][1]}/v3"
        yield keystone
    finally:
        await runner.cleanup()


def _error(status: int) -> web.Response:
    return web.json_response({"error": {"code": status, "message": "no"}}, status=status)


def _tls(keystone: FakeKeystone) -> ssl.SSLContext:
    """A certificate of its own, which alone is in the CA file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keystone")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    keystone.ca_file.write_bytes(pem)
    both = keystone.root / "keystone.pem"
    both.write_bytes(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context
