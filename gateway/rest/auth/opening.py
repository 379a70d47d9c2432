"""From settings to an authenticator that can be asked."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator

from gateway.rest.auth.contract import Authenticator
from gateway.rest.auth.credentials import read_sign_in
from gateway.rest.auth.identity_api import IdentityApi, open_session
from gateway.rest.auth.keystone_auth import KeystoneAuth
from gateway.rest.auth.no_auth import NoAuth
from gateway.rest.auth.settings import KeystoneSettings
from gateway.rest.auth.validation import TokenValidator
from trove_grpc.errors import InvalidRequestError


@contextlib.asynccontextmanager
async def opened_authenticator(
    auth: str, keystone: KeystoneSettings | None, *, public_endpoint: str
) -> AsyncIterator[Authenticator]:
    """The authenticator named in the settings; raises InvalidRequestError for what cannot be.

    Keystone need not be there yet: until it is, requests are answered 503.
    """
    if auth == "none":
        yield NoAuth(public_endpoint=public_endpoint)
    elif auth == "keystone":
        if keystone is None:
            raise InvalidRequestError("auth = 'keystone' needs the table [keystone]")
        read_sign_in(keystone.credential_file)  # an unreadable one is said at the start
        async with open_session(keystone) as session:
            validator = TokenValidator(
                IdentityApi(keystone, session, now=_now), keystone, now=_now
            )
            yield KeystoneAuth(keystone, validator)
    else:
        raise InvalidRequestError(f"auth = {auth!r} is unknown; known: 'keystone', 'none'")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
