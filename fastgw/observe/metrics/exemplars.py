"""Exemplars: for each bucket of a route's histogram, the trace of the last request in it whose spans were exported.

A worker writes them in its column when it makes the spans of a request; requests that are not traced cost nothing. An
exemplar is several words, and is read by other processes: a checksum detects one that is half written. It also has the
route, because a row may have had another name before.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple
from zlib import crc32

ROUTE, TRACE_HIGH, TRACE_LOW, VALUE_US, DATE_MS, CHECK = range(6)
EXEMPLAR_WORDS: Final = 6
_MASK: Final = (1 << 64) - 1
_SALT: Final = 0x9E3779B97F4A7C15  # words that are all 0 are none


class Exemplar(NamedTuple):
    """Request that stands for others. `date`: epoch seconds."""

    trace_id: str
    value_s: float
    date: float


def write_exemplar(column: memoryview, at: int, route: str, trace_id: bytes, value_s: float, date: float) -> None:
    """Write an exemplar in the words from `at` on. `trace_id`: 32 hexadecimal digits."""
    words = crc32(route.encode()), int(trace_id[:16], 16), int(trace_id[16:], 16), int(value_s * 1e6), int(date * 1e3)
    column[at + CHECK] = 0
    for word, value in enumerate(words, at):
        column[word] = value
    column[at + CHECK] = _checksum(words)


def read_exemplar(column: Sequence[int], at: int, route: str) -> Exemplar | None:
    """Return the exemplar in the words from `at` on; None: there is none of this route, or it is being written."""
    check = column[at + CHECK]
    if not check:
        return None
    words = [column[at + word] for word in range(CHECK)]
    if check != _checksum(words) or words[ROUTE] != crc32(route.encode()):
        return None
    trace_id = f"{words[TRACE_HIGH]:016x}{words[TRACE_LOW]:016x}"
    return Exemplar(trace_id, words[VALUE_US] / 1e6, words[DATE_MS] / 1e3)


def latest(columns: Sequence[Sequence[int]], at: int, route: str) -> Exemplar | None:
    """Return the most recent of the workers' exemplars."""
    found = [each for column in columns if (each := read_exemplar(column, at, route)) is not None]
    return max(found, key=lambda each: each.date, default=None)


def _checksum(words: Sequence[int]) -> int:
    check = _SALT
    for word in words:
        check = check * 31 + word & _MASK
    return check or 1
