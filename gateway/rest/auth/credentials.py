"""How this service itself signs in to Keystone: from a private file to the body of a sign-in."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from trove_grpc.errors import InvalidRequestError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MAX_BYTES = 64 * 1024


def read_sign_in(path: Path) -> dict[str, Any]:
    """The body of `POST /v3/auth/tokens`; raises InvalidRequestError, without the content."""
    text = _read_private(path)
    try:
        content = json.loads(text)
        # The openstack command writes `id` or `ID`, by its version.
        found = {str(name).lower(): str(value) for name, value in content.items()}
        return {"auth": _by_application_credential(found) or _by_password(found)}
    except (ValueError, KeyError, AttributeError):
        # Not chained: a parser's message quotes what it read.
        raise InvalidRequestError(
            f"{path} is not JSON with `id` and `secret` of an application credential, or with "
            "`username`, `password` and `project` of a user"
        ) from None


def _by_application_credential(found: dict[str, str]) -> dict[str, Any] | None:
    """Scoped by itself: it has one project."""
    if "id" not in found:
        return None
    credential = {"id": found["id"], "secret": found["secret"]}
    return {
        "identity": {
            "methods": ["application_credential"],
            "application_credential": credential,
        }
    }


def _by_password(found: dict[str, str]) -> dict[str, Any]:
    user = {
        "name": found["username"],
        "password": found["password"],
        "domain": {"name": found.get("user_domain", "Default")},
    }
    project = {
        "name": found["project"],
        "domain": {"name": found.get("project_domain", "Default")},
    }
    return {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": project},
    }


def _read_private(path: Path) -> bytes:
    """Read what only we can read; the checks are on the file that was opened."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequestError(f"{path} is not a regular file")
        if status.st_mode & _OTHERS:
            raise InvalidRequestError(
                f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}); "
                f"chmod 600 {path}, and change what is in it"
            )
        return file.read(_MAX_BYTES)
