"""Age and freshness lifetime of responses (RFC 9111 section 4.2)."""

from typing import Final

from fastgw.http.caching.directives import LONGEST, ResponseDirectives
from fastgw.http.caching.heads import ReceivedHead
from fastgw.http.dates import parse_date

HEURISTIC: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""Statuses whose responses may get a heuristic freshness (RFC 9110 section 15.1), without 206."""
_SHARE: Final = 10
"""The heuristic lifetime is this part of the time since the last change (RFC 9111 section 4.2.2)."""
_LONGEST_HEURISTIC: Final = 86_400


def parse_age(head: ReceivedHead) -> int:
    """Return the value of `Age`, the first member of the first line; 0: it is missing or invalid (section 5.1)."""
    line = head.first(b"age")
    return 0 if line is None else _read_age(line) or 0


def corrected_age(head: ReceivedHead) -> bytes | None:
    """Return the value that is forwarded in place of `Age`, that of `parse_age`; empty: it is invalid, and none is
    forwarded. None: the response has no `Age`, or a single number, which is forwarded as it is.
    """
    lines = head.values(b"age")
    age = _read_age(lines[0]) if lines else None
    if not lines or lines == [b"%d" % (age or 0)]:
        return None
    return b"" if age is None else b"%d" % age


def _read_age(line: bytes) -> int | None:
    value = line.partition(b",")[0].strip(b" \t")
    if not value.isdigit():
        return None
    digits = value.lstrip(b"0")
    return min(int(digits or b"0"), LONGEST) if len(digits) <= 20 else LONGEST


def find_initial_age(head: ReceivedHead, request_date: float, response_date: float) -> int:
    """Return the age of a response when it was received, `corrected_initial_age` of section 4.2.3.

    `request_date`: when the request was first sent, before any retry. `response_date`: when the head was received.
    """
    date = head.first(b"date")
    generated = None if date is None else parse_date(date, response_date)
    apparent = 0 if generated is None else max(0, int(response_date) - generated)
    return min(LONGEST, max(apparent, parse_age(head) + max(0, round(response_date - request_date))))


def find_lifetime(head: ReceivedHead, directives: ResponseDirectives, response_date: float) -> int | None:
    """Return the freshness lifetime that a response states, for a shared cache (section 4.2.1); None: it states none.

    0: it is stale from the beginning, or what it states is invalid.
    """
    if directives.s_maxage is not None:
        return directives.s_maxage
    if directives.max_age is not None:
        return directives.max_age
    if directives.targeted:  # RFC 9213 section 2.2: Expires has no effect either
        return None
    lines = head.values(b"expires")
    if not lines:
        return None
    expires = parse_date(lines[0], response_date)
    if expires is None or any(line != lines[0] for line in lines):
        return 0
    date = head.first(b"date")
    generated = None if date is None else parse_date(date, response_date)
    return max(0, min(LONGEST, expires - (int(response_date) if generated is None else generated)))


def may_have_default(status: int, directives: ResponseDirectives) -> bool:
    """Whether a response may be fresh for longer than it states (section 4.2.2). Others, such as 302, 401 or 500, are
    for one request, or for a moment.
    """
    return status in HEURISTIC or directives.public


def find_heuristic_lifetime(head: ReceivedHead, directives: ResponseDirectives, response_date: float) -> int | None:
    """Return the heuristic lifetime of a response that states none (section 4.2.2); None: it must not have one."""
    if not may_have_default(head.status, directives):
        return None
    value = head.first(b"last-modified")
    changed = None if value is None else parse_date(value, response_date)
    if changed is None:
        return None
    date = head.first(b"date")
    generated = (None if date is None else parse_date(date, response_date)) or int(response_date)
    return min(_LONGEST_HEURISTIC, max(0, generated - changed) // _SHARE)
