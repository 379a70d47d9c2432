"""A token as Keystone describes it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """What of a token matters here. `project_id` is empty without a project's scope."""

    user_id: str
    user_domain_id: str
    project_id: str
    project_domain_id: str
    roles: tuple[str, ...]
    expires_at: dt.datetime

    def has_any(self, roles: tuple[str, ...]) -> bool:
        """Whether it has one of the roles, whose names Keystone compares without case."""
        return bool({role.lower() for role in roles} & {role.lower() for role in self.roles})


def read_token(body: Any) -> TokenFacts:
    """Read the body of a validation; raises ValueError for what is not one."""
    try:
        token = body["token"]
        user, project = token["user"], token.get("project") or {}
        expires_at = dt.datetime.fromisoformat(token["expires_at"])
        if expires_at.tzinfo is None:
            raise ValueError("expires_at names no zone")
        return TokenFacts(
            user_id=str(user["id"]),
            user_domain_id=str((user.get("domain") or {}).get("id", "")),
            project_id=str(project["id"]) if project else "",
            project_domain_id=str((project.get("domain") or {}).get("id", "")),
            roles=tuple(str(role["name"]) for role in token.get("roles") or ()),
            expires_at=expires_at,
        )
    except (KeyError, TypeError, AttributeError) as error:
        # The name of what is missing, never its neighbours.
        raise ValueError(f"not a description of a token: {type(error).__name__}") from None
