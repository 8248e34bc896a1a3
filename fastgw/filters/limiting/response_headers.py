"""Response headers of limits: `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11), or the
older `X-RateLimit-` headers.
"""

from functools import lru_cache
from math import ceil
from time import time
from typing import Final, Literal, final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply, Response, problem
from fastgw.exchange.hooks import ResponseLines
from fastgw.filters.limiting.counter_store import Left, LimitSpec, Record

Style = Literal["draft", "legacy", "legacy_epoch", "none"]

_SPOKEN: Final = b" ratelimit"
"""Marker in `Response.dropped` that is no header name: the headers of the tightest limit are set."""
_DRAFT: Final = frozenset((_SPOKEN, b"ratelimit", b"ratelimit-policy"))
_LEGACY: Final = frozenset((_SPOKEN, b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"))

LIMIT_LINES: Final = ResponseLines(_DRAFT | _LEGACY)
"""Headers that `set_tightest_headers` changes."""


@final
class LimitHeaders:
    """Headers that describe one limit."""

    __slots__ = ("_epoch", "_form", "_longest", "_names", "_rounded")

    def __init__(self, style: Style, name: str, terms: LimitSpec) -> None:
        self._epoch = style == "legacy_epoch"
        self._rounded, self._longest = terms.rounding
        if style in ("legacy", "legacy_epoch"):
            self._names = _LEGACY
            self._form = (
                b"X-RateLimit-Limit: %d\r\nX-RateLimit-Remaining: %%d\r\nX-RateLimit-Reset: %%d\r\n" % terms.limit
            )
            return
        self._names = _DRAFT
        quoted = _quoted(name)
        policy = b"%b;q=%d" % (quoted, terms.limit)
        if terms.window == int(terms.window):  # whole seconds only
            policy += b";w=%d" % terms.window
        form = b"RateLimit-Policy: %b\r\nRateLimit: %b;r=%%d;t=%%d\r\n"
        self._form = form % (policy.replace(b"%", b"%%"), quoted.replace(b"%", b"%%"))

    def set_headers(self, answer: Response, left: Left) -> None:
        """Set the headers, replacing those of the upstream."""
        answer.dropped = answer.dropped | self._names if answer.dropped else self._names
        permits, seconds = left
        seconds -= self._rounded
        if seconds > self._longest:
            seconds = self._longest
        answer.added += self._form % (permits, ceil(time() + seconds if self._epoch else seconds))


# PERF: 0.6 us for one limit (CPython 3.11, micro/limits).
def set_tightest_headers(exchange: Exchange) -> None:
    """Set the response headers of the limit with the fewest permits left."""
    answer = exchange.response
    assert answer is not None
    if _SPOKEN in answer.dropped:
        return
    record: Record | None = exchange.limits
    tightest: LimitHeaders | None = None
    least: Left = (0, 0.0)
    while record is not None:
        limit_headers, counter_store, key, _, mark, record = record
        if limit_headers is not None:
            left = counter_store.remaining(key, mark)
            if tightest is None or left[0] < least[0]:
                tightest, least = limit_headers, left
    if tightest is not None:
        tightest.set_headers(answer, least)


def refusal(fault: Fault, wait: float) -> Reply:
    """Return the response of a limit that is reached. `wait`: seconds, rounded up to whole ones."""
    seconds = ceil(wait)
    return _refusal(fault, seconds if seconds > 1 else 1)


# Cached, because a flood is answered with few different replies.
@lru_cache(maxsize=1024)
def _refusal(fault: Fault, seconds: int) -> Reply:
    return problem(fault, fields=[(b"Retry-After", b"%d" % seconds)])


def _quoted(name: str) -> bytes:
    """Return a string of structured fields (RFC 9651 section 3.3.3), which is ASCII."""
    plain = "".join(each if " " <= each <= "~" else "?" for each in name)
    return b'"%b"' % plain.replace("\\", "\\\\").replace('"', '\\"').encode()
