"""Invalidation (RFC 9111 section 4.4): what a successful change makes invalid."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urljoin, urlsplit

from fastgw.http.caching.heads import ReceivedHead

SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"QUERY", b"PROPFIND", b"REPORT"))
"""Safe methods. All others count as changes, unknown methods too."""
_LONGEST: Final = 8192


def invalidates(method: bytes, status: int) -> bool:
    """Whether a response invalidates what is stored for its URL: to an unsafe method, and not an error."""
    return method not in SAFE and 200 <= status < 400


def find_invalidated(
    scheme: bytes, authority: bytes, target: bytes, response: ReceivedHead
) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield raw path and query of the other URLs that a response names as changed, in `Location` and
    `Content-Location`; of the same origin only, so that no site can invalidate another one.

    `target`: path and query of the request.
    """
    try:
        base = (b"%b://%b%b" % (scheme, authority, target)).decode("latin-1")
        own = urlsplit(base)
    except ValueError:
        return
    for name in (b"location", b"content-location"):
        value = response.first(name)
        if value is None or len(value) > _LONGEST:
            continue
        try:
            named = urlsplit(urljoin(base, value.decode("latin-1")))
            same = (named.scheme, named.hostname, named.port) == (own.scheme, own.hostname, own.port)
        except ValueError:
            continue
        if same:
            path = named.path or "/"
            yield path.encode("latin-1"), named.query.encode("latin-1") if named.query else None
