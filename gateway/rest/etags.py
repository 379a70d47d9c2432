"""Entity tags of instances (RFC 9110): `"<version of the record>-<digest of the answer>"`, strong.

A poller wants to hear of everything that is shown, also of what an agent reported, so that
If-None-Match compares the whole tag. Whoever changes an instance must not be refused because its
agent reported meanwhile, so that If-Match compares the version of the record alone: a difference
from the RFC, in the client's favour (docs/reference/beyond-trove.md).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable

from aiohttp import web

from gateway.rest.links import Json
from trove_grpc.errors import InvalidRequestError, StaleError
from trove_grpc.gen.conductor.v1 import resources_pb2

_ANY = "*"
_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e]*")', re.ASCII)
_OURS = re.compile(r'"([0-9]{1,18})-[0-9a-f]{32}"', re.ASCII)
_DIGEST_LENGTH = 32
_MOST_TAGS = 50


def read_expected_versions(request: web.Request) -> frozenset[int]:
    """Versions of the record that If-Match names; none where it is absent or "*".

    Raises StaleError (PRECONDITION_FAILED) where it names nothing that could match.
    """
    tags = _read_tags(request, "If-Match")
    if tags is None or _ANY in tags:
        return frozenset()
    # A weak tag matches nothing here; nor does a tag that is none of ours.
    found = (_OURS.fullmatch(tag) for tag in tags)
    versions = frozenset(int(match[1]) for match in found if match)
    if not versions:
        raise _changed("The instance")
    return versions


def check(instance: resources_pb2.InstanceView, versions: Collection[int]) -> None:
    """Raise StaleError (PRECONDITION_FAILED) for an instance of another version than these.

    For changes that the conductor does not check itself.
    """
    if versions and instance.row_version not in versions:
        raise _changed(f"Instance {instance.id}")


def answer_unless_known(request: web.Request, view: Json, row_version: int) -> web.Response:
    """The view with its tag, or 304 to a client that has it."""
    text = json.dumps(view)
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
    tag = f'"{row_version}-{digest}"'
    headers = {"ETag": tag}
    known = _read_tags(request, "If-None-Match") or ()
    if _ANY in known or tag in (item.removeprefix("W/") for item in known):
        return web.Response(status=304, headers=headers)
    return web.Response(text=text, content_type="application/json", headers=headers)


def _read_tags(request: web.Request, header: str) -> tuple[str, ...] | None:
    """The tags of a header; raises InvalidRequestError for what is none.

    Ignoring a condition that cannot be read would carry out what it was to prevent.
    """
    values = request.headers.getall(header, [])
    if not values:
        return None
    tags = tuple(_split(",".join(values)))
    if len(tags) > _MOST_TAGS or not tags:
        raise _unreadable(header)
    for tag in tags:
        if tag != _ANY and not _TAG.fullmatch(tag):
            raise _unreadable(header)
    return tags


def _split(value: str) -> Iterable[str]:
    """Ours have no comma; one with a comma falls apart and is refused."""
    return (tag for item in value.split(",") if (tag := item.strip()))


def _changed(what: str) -> StaleError:
    return StaleError(
        f"{what} was changed since the ETag in If-Match was given. Read it again.",
        reason="PRECONDITION_FAILED",
    )


def _unreadable(header: str) -> InvalidRequestError:
    return InvalidRequestError(
        f'{header} must be * or ETags as they were given, such as "1-0f…", separated by commas; '
        f"{_MOST_TAGS} at most."
    )
