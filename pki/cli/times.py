"""Moments and spans as people read and write them."""

from __future__ import annotations

import argparse
import datetime as dt
import re

_UNITS = {
    "d": dt.timedelta(days=1),
    "h": dt.timedelta(hours=1),
    "m": dt.timedelta(minutes=1),
    "s": dt.timedelta(seconds=1),
}
_SPAN = re.compile(r"\A(\d+(?:\.\d+)?)([dhms]?)\Z")
_YEAR = dt.timedelta(days=365)
# From here on the next smaller unit says nothing more.
_DAYS_FROM = dt.timedelta(hours=48)


def moment(value: dt.datetime) -> str:
    """`Nov 22, 2026 08:10 UTC`."""
    return f"{value.astimezone(dt.UTC):%b %d, %Y %H:%M} UTC"


def rfc3339(value: dt.datetime) -> str:
    """`2026-11-22T08:10:00Z`, with a fraction only where there is one."""
    text = value.astimezone(dt.UTC).isoformat()
    return text.removesuffix("+00:00") + "Z"


def span(value: dt.timedelta) -> str:
    """The largest unit that says enough: "9y", "262d", "17h", "22m", "4s"."""
    if value < dt.timedelta(0):
        return f"-{span(-value)}"
    if value >= 2 * _YEAR:
        return f"{value // _YEAR}y"
    if value >= _DAYS_FROM:
        return f"{value.days}d"
    for unit in "hm":
        if value >= _UNITS[unit]:
            return f"{value // _UNITS[unit]}{unit}"
    return f"{value.total_seconds():.0f}s"


def ago(value: dt.datetime, now: dt.datetime) -> str:
    return f"{span(max(now - value, dt.timedelta(0)))} ago"


def parse_span(text: str) -> dt.timedelta:
    """An argparse type: "90s", "15m", "24h", "30d"; a bare number means seconds."""
    found = _SPAN.match(text)
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time: try 90s, 15m, 24h or 30d")
    return float(found[1]) * _UNITS[found[2] or "s"]
