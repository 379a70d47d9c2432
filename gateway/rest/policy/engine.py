"""Decides by rules, those of a file over the defaults; follows the file as it changes.

oslo.policy parses and judges. Reading is ours: a file that is missing, or says what nobody can
carry out, is a refusal to start, and later leaves the last good rules in force, where
oslo.policy would go on with the defaults or fail each request.
"""

from __future__ import annotations

import logging
from pathlib import Path

from oslo_config import cfg
from oslo_policy import policy

from gateway.rest.auth import Caller
from gateway.rest.policy import defaults
from trove_grpc.errors import InvalidRequestError, PermissionDeniedError

log = logging.getLogger(__name__)

_REMOTE = ("http:", "https:")
_Signature = tuple[int, int, int]


class Policy:
    """The rules in force."""

    def __init__(self, file: Path | None = None) -> None:
        """Raises InvalidRequestError for a file that cannot be used."""
        self._file = file
        self._signature = _sign(file) if file else None
        self._enforcer = _enforcer(_overrides(file) if file else {})

    def allows(self, caller: Caller, name: str) -> bool:
        """Whether the rule `name` lets the caller act on his project; an unknown name does not."""
        self._follow()
        target = {"tenant": caller.project_id, "project_id": caller.project_id}
        return bool(self._enforcer.enforce(name, target, caller.credentials()))

    def check(self, caller: Caller, name: str) -> None:
        """Raise PermissionDeniedError, in Trove's words, unless the rule allows it."""
        if self.allows(caller, name):
            return
        if name == defaults.MANAGEMENT:
            raise PermissionDeniedError("User does not have admin privileges.", reason="NOT_ADMIN")
        raise PermissionDeniedError(
            f"Policy doesn't allow {name} to be performed.", reason="POLICY"
        )

    def _follow(self) -> None:
        """Take up another file; one that cannot be used is told once and changes nothing."""
        if self._file is None or (signature := _sign(self._file)) == self._signature:
            return
        self._signature = signature
        try:
            self._enforcer = _enforcer(_overrides(self._file))
        except InvalidRequestError as error:
            log.error("the policy stays as it was: %s", error.message)  # noqa: TRY400  its words
        else:
            log.warning("policy read anew from %s", self._file)


def _sign(file: Path) -> _Signature | None:
    """What is another when the file is; None without one."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _overrides(file: Path) -> dict[str, str]:
    try:
        found = policy.parse_file_contents(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"cannot read policy_file {file}: {error}") from error
    if not isinstance(found, dict):
        raise InvalidRequestError(f"policy_file {file} is not a mapping of names to rules")
    for name, rule in found.items():
        if not isinstance(name, str) or not isinstance(rule, str):
            raise InvalidRequestError(f"policy_file {file}: {name!r}: a rule is text")
        if any(remote in rule for remote in _REMOTE):
            raise InvalidRequestError(
                f"policy_file {file}: {name!r}: rules that ask over HTTP are not supported: every "
                "request would wait for the answer"
            )
        # What oslo.policy cannot read it takes for "never", which after `not` is "always".
        if str(policy.Rules.from_dict({name: rule})[name]).count("!") != rule.count("!"):
            raise InvalidRequestError(f"policy_file {file}: {name!r}: cannot read {rule!r}")
    return found


def _enforcer(overrides: dict[str, str]) -> policy.Enforcer:
    """An enforcer with fixed rules; raises InvalidRequestError for rules that name missing ones.

    Names that we do not check are no error: an operator's file has helpers, and Trove's names.
    """
    rules = policy.Rules.from_dict(defaults.rules() | overrides)
    settings = cfg.ConfigOpts()
    settings([], default_config_files=[], default_config_dirs=[])
    enforcer = policy.Enforcer(settings, rules=rules, use_conf=False)
    if not enforcer.check_rules():
        raise InvalidRequestError(
            "a rule of the policy names itself or one that does not exist; the log says which"
        )
    return enforcer
