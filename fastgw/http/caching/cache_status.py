"""`Cache-Status` (RFC 9211): how the cache has handled a request."""

from enum import Enum
from typing import Final, TypeAlias

import cython

_CACHE: Final = b"fastgw"
_FORWARDED: Final = _CACHE + b"; fwd="
Number: TypeAlias = int | None
Detail: TypeAlias = bytes | None
PURGE: Final = b"%b; detail=purge" % _CACHE
"""The value for a request with the method PURGE, which is answered here, but not from a stored response."""


class Forwarded(bytes, Enum):
    """Reason why a request was forwarded: `fwd` (section 2.2)."""

    BYPASS = b"bypass"
    METHOD = b"method"
    URI_MISS = b"uri-miss"
    VARY_MISS = b"vary-miss"
    MISS = b"miss"
    REQUEST = b"request"
    STALE = b"stale"
    PARTIAL = b"partial"


def hit_status(ttl: int, *, detail: bytes | None = None) -> bytes:
    """Return the value for a response from the cache.

    `ttl`: seconds of freshness left, negative if it was sent stale. `detail`: a token, such as the reason for that.
    """
    return b"%b; hit; ttl=%d%b" % (_CACHE, ttl, b"" if detail is None else b"; detail=" + detail)


def forwarded_status(
    reason: Forwarded,
    upstream_status: Number = None,
    stored: bool = False,
    collapsed: bool = False,
    ttl: Number = None,
    detail: Detail = None,
) -> bytes:
    """Return the value for a response that was requested from the upstream.

    `upstream_status`: if the status of the upstream is not that of the response. `stored`: whether the response was
    stored. `collapsed`: whether it was the response to the request of another client. `detail`: a token.
    """
    parts: list[bytes] = [_FORWARDED, reason]
    if upstream_status is not None:
        parts.append(b"; fwd-status=%d" % upstream_status)
    if ttl is not None:
        seconds: cython.longlong = ttl
        parts.append(f"; ttl={seconds}".encode())
    if stored:
        parts.append(b"; stored")
    if collapsed:
        parts.append(b"; collapsed")
    if detail is not None:
        parts.append(b"; detail=" + detail)
    return b"".join(parts)


def unanswered_status(detail: bytes) -> bytes:
    """Return the value for a request that the cache has neither answered nor forwarded. `detail`: a token, why not."""
    return b"%b; detail=%b" % (_CACHE, detail)
