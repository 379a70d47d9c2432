"""How long Keystone is believed, and how often it is asked. The clock stands still by itself."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, field

import pytest

from gateway.rest.auth.settings import KeystoneSettings
from gateway.rest.auth.token_cache import TokenCache
from gateway.rest.auth.tokens import TokenFacts, read_token
from gateway.rest.auth.validation import TokenValidator
from trove_grpc.errors import InvalidRequestError, UnauthenticatedError, UnavailableError

BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TOKEN = "gAAAA-a-token"


@dataclass
class Clock:
    """Both clocks of a process."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> dt.datetime:
        return BEGIN + dt.timedelta(seconds=self.seconds)


def facts(seconds: float = 3600) -> TokenFacts:
    return TokenFacts(
        user_id="alice",
        user_domain_id="default",
        project_id="alpha",
        project_domain_id="default",
        roles=("member",),
        expires_at=BEGIN + dt.timedelta(seconds=seconds),
    )


@dataclass
class ScriptedTokens:
    """Answers what it is told to, when it is let."""

    known: dict[str, TokenFacts] = field(default_factory=dict)
    asked: int = 0
    away: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def validate(self, token: str, *, allow_expired: bool) -> TokenFacts | None:
        self.asked += 1
        self.waiting.set()
        await self.gate.wait()
        if self.away:
            raise UnavailableError("away", reason="KEYSTONE_UNAVAILABLE", retry_after=5)
        return self.known.get(token)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tokens():
    return ScriptedTokens({TOKEN: facts()})


def settings(**changes):
    return KeystoneSettings(
        **{"auth_url": "https://k/v3", "credential_file": "/nonexistent"} | changes
    )


@pytest.fixture
def validator(tokens, clock):
    return TokenValidator(tokens, settings(cache_size=3), now=clock.now, clock=clock)


async def test_token_is_asked_about_once_within_the_cache_time(validator, tokens, clock):
    await validator.validate(TOKEN)
    clock.seconds = 299.9
    await validator.validate(TOKEN)
    assert tokens.asked == 1

    clock.seconds = 300
    await validator.validate(TOKEN)
    assert tokens.asked == 2


async def test_revoked_token_stops_within_the_cache_time(validator, tokens, clock):
    await validator.validate(TOKEN)
    tokens.known.clear()
    clock.seconds = 300

    with pytest.raises(UnauthenticatedError):
        await validator.validate(TOKEN)


async def test_cache_time_begins_when_keystone_is_asked_not_when_it_answers(
    validator, tokens, clock
):
    tokens.gate.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(validator.validate(TOKEN))
        await tokens.waiting.wait()
        clock.seconds = 10  # it takes so long
        tokens.gate.set()
    clock.seconds = 300

    await validator.validate(TOKEN)
    assert tokens.asked == 2


async def test_expired_token_is_refused_although_remembered(validator, tokens, clock):
    tokens.known[TOKEN] = facts(seconds=20)
    await validator.validate(TOKEN)
    clock.seconds = 20

    with pytest.raises(UnauthenticatedError):
        await validator.validate(TOKEN)
    assert tokens.asked == 1


async def test_expired_token_remembered_for_a_service_is_not_good_without_it(validator, tokens):
    tokens.known[TOKEN] = facts(seconds=-5)

    await validator.validate(TOKEN, allow_expired=True)
    with pytest.raises(UnauthenticatedError):
        await validator.validate(TOKEN)


async def test_bad_token_is_remembered_shortly(validator, tokens, clock):
    for _ in range(3):
        with pytest.raises(UnauthenticatedError):
            await validator.validate("bad")
    assert tokens.asked == 1

    tokens.known["bad"] = facts()
    clock.seconds = 10
    await validator.validate("bad")


async def test_flood_of_bad_tokens_pushes_out_no_good_one(validator, tokens):
    await validator.validate(TOKEN)
    for number in range(50):
        with pytest.raises(UnauthenticatedError):
            await validator.validate(f"bad-{number}")
    tokens.away = True

    await validator.validate(TOKEN)


async def test_remembered_tokens_go_on_while_keystone_is_away_and_others_may_try_again(
    validator, tokens, clock
):
    await validator.validate(TOKEN)
    tokens.away = True
    clock.seconds = 200

    await validator.validate(TOKEN)
    with pytest.raises(UnavailableError) as away:
        await validator.validate("new")
    assert away.value.retry_after == 5

    tokens.away, tokens.known["new"] = False, facts()
    await validator.validate("new")  # that it was away is not remembered


async def test_many_who_wait_for_one_token_ask_once(validator, tokens):
    tokens.gate.clear()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(validator.validate(TOKEN)) for _ in range(50)]
        await tokens.waiting.wait()
        tokens.gate.set()

    assert {task.result().user_id for task in waiting} == {"alice"}
    assert tokens.asked == 1


async def test_the_first_who_gives_up_takes_nobody_along(validator, tokens):
    tokens.gate.clear()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(validator.validate(TOKEN))
        await tokens.waiting.wait()
        second = group.create_task(validator.validate(TOKEN))
        await asyncio.sleep(0)  # it waits for the first now
        first.cancel()
        tokens.gate.set()

    assert first.cancelled()
    assert second.result().user_id == "alice"


@pytest.mark.parametrize("token", ["", "a b", "ä", "x\x7f", "x" * 8001])
async def test_what_can_be_no_token_is_refused_unasked(validator, tokens, token):
    with pytest.raises(UnauthenticatedError) as refusal:
        await validator.validate(token)

    assert tokens.asked == 0
    assert not token or token not in str(refusal.value)


async def test_no_cache_asks_each_time(tokens, clock):
    validator = TokenValidator(tokens, settings(cache=dt.timedelta(0)), now=clock.now, clock=clock)
    await validator.validate(TOKEN)
    await validator.validate(TOKEN)

    assert tokens.asked == 2


async def test_no_token_is_found_in_what_is_remembered(validator):
    await validator.validate(TOKEN)

    assert TOKEN.encode() not in b"".join(key for key, _ in validator._good._entries)
    assert TOKEN not in repr(vars(validator._good))


def test_least_recently_used_goes_first():
    cache = TokenCache(size=2, seconds=10, clock=Clock())
    keys = [(bytes([number]), False) for number in range(3)]
    cache.put(keys[0], 0, asked_at=0)
    cache.put(keys[1], 1, asked_at=0)
    cache.get(keys[0])
    cache.put(keys[2], 2, asked_at=0)

    assert [key for key in keys if cache.get(key) is not None] == [keys[0], keys[2]]
    assert len(cache) == 2


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"token": None},
        {"token": {"user": {}, "expires_at": "2026-01-01T00:00:00Z"}},
        {"token": {"user": {"id": "x"}, "expires_at": "soon"}},
        {"token": {"user": {"id": "x"}, "expires_at": "2026-01-01T00:00:00"}},
        {"token": {"user": {"id": "x"}, "expires_at": "2026-01-01T00:00:00Z", "roles": ["x"]}},
        {"token": {"user": {"id": "x"}, "expires_at": 7}},
    ],
)
def test_what_describes_no_token_is_refused(body):
    with pytest.raises(ValueError, match=r".+"):
        read_token(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"auth_url": "http://keystone.example:5000/v3"},
        {"auth_url": "keystone:5000"},
        {"cache": dt.timedelta(seconds=301)},
        {"negative_cache": dt.timedelta(seconds=-1)},
        {"cache_size": 0},
        {"timeout": dt.timedelta(0)},
    ],
)
def test_unsafe_setting_is_refused(changes):
    with pytest.raises(InvalidRequestError, match=r"keystone\."):
        settings(**changes)


def test_plain_http_is_for_the_loopback():
    assert settings(auth_url="http://127.0.0.1:5000/v3")
