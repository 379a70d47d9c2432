"""Who must wait because its key may exist twice, and which listeners ask who is denied."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, removed

_GUESTS = "pki/issuer/guests.py"
_QUARANTINE = (
    "tests/integration/pki/test_quarantine.py tests/integration/pki/test_recovery.py "
    "-k 'not postgresql and not mariadb'"
)
_WATCH = "tests/integration/pki/test_watch.py -k 'not postgresql and not mariadb'"
_GATEWAYS = "tests/integration/gateways/test_revocation.py"

MUTATIONS: tuple[Mutation, ...] = (
    removed(
        "a quarantined instance gets nothing",
        _GUESTS,
        "        quarantine.refuse(subject)\n",
        _QUARANTINE,
    ),
    removed(
        "a quarantined instance does not recover",
        "pki/issuer/recovery.py",
        "        quarantine.refuse(subject)\n",
        _QUARANTINE,
    ),
    removed(
        "a token shown with another key raises the alarm",
        _GUESTS,
        "if outcome == _USED_BY_ANOTHER:",
        _QUARANTINE,
        new="if outcome is None:",
    ),
    removed(
        "a superseded certificate that renews raises the alarm",
        "pki/issuer/service.py",
        'if is_renewal and error.reason == "STALE_SERIAL":',
        _QUARANTINE,
        new='if not is_renewal and error.reason == "STALE":',
    ),
    removed(
        "a gateway holds back changes of whom the issuer quarantined",
        "gateway/guest/dispatch.py",
        "if is_suspected or self._directives.is_quarantined(session.instance_id):",
        _GATEWAYS,
        new="if is_suspected:",
    ),
    removed(
        "the conductor asks who is denied",
        "conductor/server.py",
        "            denials=feed,\n        )\n        if feed",
        _GATEWAYS,
        new="        )\n        if feed",
    ),
    removed(
        "the conductor asks again at each batch of reports",
        "conductor/services/reports.py",
        "            self._refuse_denied()\n",
        _GATEWAYS,
    ),
    removed(
        "the task manager asks who is denied",
        "taskmanager/__main__.py",
        "            denials=feed,\n",
        "tests/integration/taskmanager/test_process.py",
    ),
    removed(
        "a watcher is asked again before each word",
        "pki/issuer/watch_service.py",
        "if (refusal := self._news.refused.refusal(caller)) is not None:",
        _WATCH,
        new="if (refusal := self._news.refused.refusal(caller)) and not caller:",
    ),
)
