"""Keystone as its administrator sees it, over plain REST: no client library is under test here."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.openstack.harness.state import HarnessError

REGION = "regionOne"
_DOMAIN = "default"
_TIMEOUT = 60  # seconds


@dataclass(frozen=True, slots=True)
class ApplicationCredential:
    """What a service signs in with; `user_id` is whose it is."""

    id: str
    secret: str
    user_id: str


class Identity:
    """What a test needs to exist; every `ensure_` may be repeated."""

    def __init__(self, auth_url: str, admin_password: str) -> None:
        self.auth_url = auth_url
        self._admin_password = admin_password
        self._admin_token = ""

    def ensure_project(self, name: str) -> str:
        return self._ensure("project", name, domain_id=_DOMAIN)

    def ensure_role(self, name: str) -> str:
        return self._ensure("role", name)

    def ensure_user(self, name: str, password: str, *, project: str, roles: Sequence[str]) -> str:
        user = self._ensure("user", name, domain_id=_DOMAIN, password=password)
        for role in roles:
            self._admin(
                "PUT",
                f"/projects/{self.ensure_project(project)}/users/{user}"
                f"/roles/{self.ensure_role(role)}",
            )
        return user

    def ensure_endpoint(self, kind: str, url: str, *, region: str = REGION) -> None:
        """Have the catalogue of `region` say `url` for this kind of service."""
        service = self._ensure("service", kind, type=kind)
        if not any(each["id"] == region for each in self._admin("GET", "/regions")["regions"]):
            self._admin("POST", "/regions", {"region": {"id": region}})
        known = {
            each["interface"]: each
            for each in self._admin("GET", f"/endpoints?service_id={service}&region_id={region}")[
                "endpoints"
            ]
        }
        for interface in ("public", "internal", "admin"):
            if interface not in known:
                body = {
                    "interface": interface,
                    "region_id": region,
                    "service_id": service,
                    "url": url,
                }
                self._admin("POST", "/endpoints", {"endpoint": body})
            elif known[interface]["url"] != url:
                path = f"/endpoints/{known[interface]['id']}"
                self._admin("PATCH", path, {"endpoint": {"url": url}})

    def create_application_credential(
        self, name: str, *, user: str, password: str, project: str, roles: Sequence[str]
    ) -> ApplicationCredential:
        """A new one, made by the user, as Keystone demands."""
        token = self._token(user, password, project)
        user_id = self._find("user", user)
        body = {"name": name, "roles": [{"name": role} for role in roles]}
        made = self._call(
            "POST",
            f"/users/{user_id}/application_credentials",
            {"application_credential": body},
            token=token,
        )[0]["application_credential"]
        return ApplicationCredential(made["id"], made["secret"], str(user_id))

    def issue_token(self, user: str, password: str, *, project: str | None) -> str:
        """A token of the user's; without a project it has no scope."""
        return self._token(user, password, project)

    def revoke_token(self, token: str) -> None:
        """By itself, as its owner may."""
        self._call("DELETE", "/auth/tokens", token=token, subject=token)

    def _ensure(self, kind: str, name: str, **extra: str) -> str:
        found = self._find(kind, name)
        if found is None:
            made = self._admin("POST", f"/{kind}s", {kind: {"name": name, **extra}})
            found = made[kind]["id"]
        return found

    def _find(self, kind: str, name: str) -> str | None:
        found = self._admin("GET", f"/{kind}s?name={name}")[f"{kind}s"]
        return found[0]["id"] if found else None

    def _admin(self, method: str, path: str, body: Any = None) -> Any:
        self._admin_token = self._admin_token or self._token(
            "admin", self._admin_password, "admin"
        )
        return self._call(method, path, body, token=self._admin_token)[0]

    def _token(self, user: str, password: str, project: str | None) -> str:
        domain = {"id": _DOMAIN}
        who = {"user": {"name": user, "domain": domain, "password": password}}
        scope: Any = {"project": {"name": project, "domain": domain}} if project else "unscoped"
        body = {
            "auth": {"identity": {"methods": ["password"], "password": who}, "scope": scope},
        }
        token: str = self._call("POST", "/auth/tokens", body)[1]["X-Subject-Token"]
        return token

    def _call(
        self, method: str, path: str, body: Any = None, *, token: str = "", subject: str = ""
    ) -> tuple[Any, http.client.HTTPMessage]:
        request = urllib.request.Request(  # noqa: S310  ours, on the loopback
            f"{self.auth_url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"}
            | ({"X-Auth-Token": token} if token else {})
            | ({"X-Subject-Token": subject} if subject else {}),
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
                raw = answer.read()
                return (json.loads(raw) if raw else None), answer.headers
        except urllib.error.HTTPError as error:
            raise HarnessError(
                f"{method} {path} answered {error.code}: {error.read()[:600]!r}"
            ) from error
