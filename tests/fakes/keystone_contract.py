"""What tokens mean to us, shown of the fake Keystone and of the real one."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pytest

from gateway.rest.auth.identity_api import IdentityApi, open_session
from gateway.rest.auth.settings import KeystoneSettings
from tests.fakes.keystone import write_private
from trove_grpc.errors import UnavailableError


def wall_clock() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Keystone(Protocol):
    """A Keystone under test."""

    root: Path
    auth_url: str

    @property
    def ca_file(self) -> Path | None: ...

    def issue(self, user: str, project: str | None, roles: Sequence[str] = ("member",)) -> str:
        """A new token; `project` is an id in answers, None for no scope."""

    def revoke(self, token: str) -> None: ...

    def credential(self, user: str, *roles: str) -> Path: ...

    def password(self, user: str, *roles: str) -> Path: ...


class KeystoneContract:
    """Subclasses bring the fixtures `keystone` and `project_id`, the id of project "alpha"."""

    @pytest.fixture
    def settings(self, keystone):
        return KeystoneSettings(
            auth_url=keystone.auth_url,
            ca_file=keystone.ca_file,
            credential_file=keystone.credential("trove", "service"),
            timeout=dt.timedelta(seconds=20),
        )

    @pytest.fixture
    async def api(self, settings):
        async with open_session(settings) as session:
            yield IdentityApi(settings, session, now=wall_clock)

    async def test_token_names_its_project_user_roles_and_end(self, keystone, api, project_id):
        found = await api.validate(keystone.issue("alice", "alpha"), allow_expired=False)

        assert found.project_id == project_id
        assert "member" in found.roles
        assert found.user_id
        assert found.user_domain_id == found.project_domain_id == "default"
        assert found.expires_at > wall_clock()

    async def test_token_without_scope_has_no_project(self, keystone, api):
        found = await api.validate(keystone.issue("alice", None), allow_expired=False)

        assert (found.project_id, found.roles) == ("", ())

    @pytest.mark.parametrize("token", ["x", "gAAAAAB" + "m" * 180, "../../users", "%00"])
    async def test_what_is_no_token_is_not_accepted(self, api, token):
        assert await api.validate(token, allow_expired=False) is None

    @pytest.mark.parametrize("allow_expired", [False, True])
    async def test_revoked_token_is_not_accepted(self, keystone, api, allow_expired):
        token = keystone.issue("alice", "alpha")
        assert await api.validate(token, allow_expired=allow_expired)
        keystone.revoke(token)

        assert await api.validate(token, allow_expired=allow_expired) is None

    async def test_service_signs_in_again_when_its_own_token_is_revoked(self, keystone, api):
        token = keystone.issue("alice", "alpha")
        assert await api.validate(token, allow_expired=False)
        keystone.revoke(api._own.text)

        assert await api.validate(token, allow_expired=False)

    async def test_service_may_sign_in_by_password(self, keystone):
        settings = KeystoneSettings(
            auth_url=keystone.auth_url,
            ca_file=keystone.ca_file,
            credential_file=keystone.password("trove-by-password", "service"),
            timeout=dt.timedelta(seconds=20),
        )
        async with open_session(settings) as session:
            api = IdentityApi(settings, session, now=wall_clock)

            assert await api.validate(keystone.issue("alice", "alpha"), allow_expired=False)

    async def test_service_without_the_role_is_told_to_its_operator(self, keystone, caplog):
        settings = KeystoneSettings(
            auth_url=keystone.auth_url,
            ca_file=keystone.ca_file,
            credential_file=keystone.credential("roleless", "member"),
            timeout=dt.timedelta(seconds=20),
        )
        async with open_session(settings) as session:
            api = IdentityApi(settings, session, now=wall_clock)
            with pytest.raises(UnavailableError):
                await api.validate(keystone.issue("alice", "alpha"), allow_expired=False)

        assert "role 'service'" in caplog.text

    @pytest.mark.parametrize("wrong", ["id", "secret"])
    async def test_wrong_credential_is_our_fault_and_never_the_callers(
        self, keystone, settings, caplog, wrong
    ):
        content = json.loads(settings.credential_file.read_text()) | {wrong: "canary-Pa55word"}
        write_private(settings.credential_file, content)
        async with open_session(settings) as session:
            api = IdentityApi(settings, session, now=wall_clock)
            for _ in range(2):
                with pytest.raises(UnavailableError):
                    await api.validate("token", allow_expired=False)

        assert str(settings.credential_file) in caplog.text
        assert "a moment ago" in caplog.text  # not tried again at once
        assert "canary" not in caplog.text
