"""Dates of access log lines: those of their requests, for sinks that send a date with each line.

Lines may be delivered long after their requests, from a spool.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from fastgw.observe.access_log.formats import MONTHS

TIMES: Final = ("time", "@timestamp")
"""Members of lines in JSON with the date of the request (`json`, `ecs`)."""
_EPOCH_SECONDS: Final = "timestamp"
"""Member of lines in `gelf` with the date of the request."""
_COMMON: Final = re.compile(rb" \[(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d:\d\d:\d\d) \+0000\] ")
_W3C: Final = re.compile(rb"(?:^| )(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d{1,6})?)(?: |$)")
_MOST_NS: Final = 2**64


def date_ns_of(line: bytes, now_ns: int) -> int:
    """Return the date of a line's request in nanoseconds since the epoch; `now_ns`, the time of delivery, if the line
    has none or a later one: a line may have what a client has sent.
    """
    try:
        return min(_in_json(line, now_ns) if line.startswith(b"{") else _in_text(line, now_ns), now_ns)
    except (ValueError, OverflowError):
        return now_ns


def date_ns_in(fields: Mapping[str, Any], now_ns: int) -> int:
    """Return the date in the members of a line; `now_ns` if there is none, or one that OTLP cannot express."""
    text = next((fields[name] for name in TIMES if name in fields), None)
    try:
        return _in_range(datetime.fromisoformat(text).timestamp(), now_ns)  # type: ignore[arg-type]  # checked by it
    except (TypeError, ValueError, OverflowError):
        return now_ns


def _in_json(line: bytes, now_ns: int) -> int:
    told = orjson.loads(line)
    seconds = told.get(_EPOCH_SECONDS)
    if type(seconds) in (int, float) and not any(name in told for name in TIMES):
        return _in_range(seconds, now_ns)
    return date_ns_in(told, now_ns)


def _in_text(line: bytes, now_ns: int) -> int:
    if found := _COMMON.search(line):
        day, month, year, time = (each.decode() for each in found.groups())
        text = f"{year}-{MONTHS.index(month) + 1:02}-{day}T{time}+00:00"
    elif found := _W3C.search(line):
        text = f"{found[1].decode()}T{found[2].decode()}+00:00"
    else:
        return now_ns
    return _in_range(datetime.fromisoformat(text).timestamp(), now_ns)


def _in_range(seconds: float, now_ns: int) -> int:
    """Return seconds in nanoseconds; lines have milliseconds."""
    date_ns = round(seconds * 1000) * 1_000_000
    return date_ns if 0 <= date_ns < _MOST_NS else now_ns
