"""What a token of Keystone's is worth, and how long."""

from __future__ import annotations

from tests.mutations.mutation import Mutation, removed

_VALIDATION = "tests/unit/gateway_rest/test_token_validation.py"
_KEYSTONE = "tests/integration/gateway_rest/test_keystone.py"
_POLICY = "tests/unit/gateway_rest/test_policy.py"

MUTATIONS: tuple[Mutation, ...] = (
    removed(
        "a token is good for the path of its own project",
        "gateway/rest/auth/keystone_auth.py",
        "    if token.project_id != project_id:\n",
        _KEYSTONE,
        new="    if token.project_id == '':\n",
    ),
    removed(
        "a token without a project's scope is refused",
        "gateway/rest/auth/keystone_auth.py",
        "    if not token.project_id:\n",
        f"{_KEYSTONE} -k without_a_projects_scope",
        new="    if token.user_id == '':\n",
    ),
    removed(
        "a token's own end counts although it is remembered",
        "gateway/rest/auth/validation.py",
        "if not allow_expired and facts.expires_at <= self._now():",
        _VALIDATION,
        new="if facts is None:",
    ),
    removed(
        "what is remembered of a token ends",
        "gateway/rest/auth/token_cache.py",
        "        if self._clock() >= ends:\n",
        _VALIDATION,
        new="        if self._clock() < 0:\n",
    ),
    removed(
        "bad tokens push out no good ones",
        "gateway/rest/auth/validation.py",
        "            self._bad.put(key, refusal, asked_at=asked_at)\n",
        _VALIDATION,
        new="            self._good.put(key, refusal, asked_at=asked_at)\n",
    ),
    removed(
        "a service without the role prolongs no user's token",
        "gateway/rest/auth/keystone_auth.py",
        "            and service.has_any(self._settings.service_token_roles),\n",
        _KEYSTONE,
        new="            and True,\n",
    ),
    removed(
        "Keystone must show a certificate that we trust",
        "gateway/rest/auth/identity_api.py",
        "connector = aiohttp.TCPConnector(limit=settings.connections, ssl=context)",
        f"{_KEYSTONE} -k certificate_of_others",
        new="connector = aiohttp.TCPConnector(limit=settings.connections, ssl=False)",
    ),
    removed(
        "rules that cannot be read let nobody in",
        "gateway/rest/policy/engine.py",
        '.count("!") != rule.count("!"):',
        _POLICY,
        new='.count("!") == -1:',
    ),
    removed(
        "nobody is served without a look at the rules",
        "gateway/rest/router.py",
        "            await permit(call)\n",
        _KEYSTONE,
    ),
)
