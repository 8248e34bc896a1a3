"""Age and freshness lifetime of responses (RFC 9111 section 4.2)."""

from typing import Final

import cython

from fastgw.http.caching.directives import LONGEST, ResponseDirectives
from fastgw.http.dates import Seconds, parse_date
from fastgw.http.messages import ResponseHead, first_of, values_of

HEURISTIC: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""Statuses whose responses may get a heuristic freshness (RFC 9110 section 15.1), without 206."""
_SHARE: Final = 10
"""The heuristic lifetime is this part of the time since the last change (RFC 9111 section 4.2.2)."""
_LONGEST_HEURISTIC: Final = 86_400


def parse_age(head: ResponseHead) -> int:
    """Return the value of `Age`, the first member of the first line; 0: it is missing or invalid (section 5.1)."""
    line = first_of(head, b"age")
    return 0 if line is None else _read_age(line) or 0


def corrected_age(head: ResponseHead) -> bytes | None:
    """Return the value that is forwarded in place of `Age`, that of `parse_age`; empty: it is invalid, and none is
    forwarded. None: the response has no `Age`, or a single number, which is forwarded as it is.
    """
    lines = values_of(head, b"age")
    age = _read_age(lines[0]) if lines else None
    if not lines or [*lines] == [b"%d" % (age or 0)]:
        return None
    return b"" if age is None else b"%d" % age


def _read_age(line: bytes) -> int | None:
    value = line.partition(b",")[0].strip(b" \t")
    if not value.isdigit():
        return None
    digits = value.lstrip(b"0")
    return min(int(digits or b"0"), LONGEST) if len(digits) <= 20 else LONGEST


def find_initial_age(head: ResponseHead, request_date: float, response_date: float) -> int:
    """Return the age of a response when it was received, `corrected_initial_age` of section 4.2.3.

    `request_date`: when the request was first sent, before any retry. `response_date`: when the head was received.
    """
    return initial_age(parse_age(head), _find_date(head, b"date", response_date), request_date, response_date)


def initial_age(stated: cython.longlong, generated: Seconds, request_date: float, response_date: float) -> int:
    """Return the same for a response with this `Age`. `generated`: its `Date`; None: it has none that is valid."""
    apparent = 0 if generated is None else max(0, int(response_date) - generated)
    waited = response_date - request_date
    age: int = max(apparent, stated + (round(waited) if waited > 0.5 else 0))
    return min(LONGEST, age)


def find_lifetime(head: ResponseHead, directives: ResponseDirectives, response_date: float) -> int | None:
    """Return the freshness lifetime that a response states, for a shared cache (section 4.2.1); None: it states none.

    0: it is stale from the beginning, or what it states is invalid.
    """
    if directives.s_maxage is not None:
        return directives.s_maxage
    if directives.max_age is not None:
        return directives.max_age
    if directives.targeted:  # RFC 9213 section 2.2: Expires has no effect either
        return None
    lines = values_of(head, b"expires")
    if not lines:
        return None
    expires = parse_date(lines[0], response_date)
    if expires is None or len(set(lines)) > 1:
        return 0
    generated = _find_date(head, b"date", response_date)
    return max(0, min(LONGEST, expires - (int(response_date) if generated is None else generated)))


def may_have_default(status: cython.int, directives: ResponseDirectives) -> bool:
    """Whether a response may be fresh for longer than it states (section 4.2.2). Others, such as 302, 401 or 500, are
    for one request, or for a moment.
    """
    return status in HEURISTIC or directives.public


def find_heuristic_lifetime(head: ResponseHead, directives: ResponseDirectives, response_date: float) -> int | None:
    """Return the heuristic lifetime of a response that states none (section 4.2.2); None: it must not have one."""
    if not may_have_default(head.status, directives):
        return None
    changed = _find_date(head, b"last-modified", response_date)
    if changed is None:
        return None
    generated = _find_date(head, b"date", response_date) or int(response_date)
    return min(_LONGEST_HEURISTIC, max(0, generated - changed) // _SHARE)


def _find_date(head: ResponseHead, name: bytes, now: float) -> int | None:
    """Return the date in a field; None: it is missing or invalid."""
    value = first_of(head, name)
    return None if value is None else parse_date(value, now)
