"""Invalidation (RFC 9111 section 4.4): what a successful change makes invalid."""

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urljoin, urlsplit

from fastgw.http.messages import ResponseHead

SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"QUERY", b"PROPFIND", b"REPORT"))
"""Safe methods. All others count as changes, unknown methods too."""
_LONGEST: Final = 8192
_PORTS: Final[Mapping[bytes, int]] = {b"http": 80, b"https": 443}


def invalidates(method: bytes, status: int) -> bool:
    """Whether a response invalidates what is stored for its URL: to an unsafe method, and not an error."""
    return method not in SAFE and 200 <= status < 400


def find_invalidated(
    scheme: bytes, authority: bytes, target: bytes, response: ResponseHead, own_port: int
) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield raw path and query of the other URLs that a response names as changed, in `Location` and
    `Content-Location`; of the same origin only, so that no site can invalidate another one.

    `target`: path and query of the request. `own_port`: of the listener; it is that of the origin, like the default
    port of the scheme.
    """
    unnamed = (None, _PORTS[scheme], own_port)
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
            same_port = named.port == own.port or (named.port in unnamed and own.port in unnamed)
            same = same_port and (named.scheme, named.hostname) == (own.scheme, own.hostname)
        except ValueError:
            continue
        if same:
            path = named.path or "/"
            yield path.encode("latin-1"), named.query.encode("latin-1") if named.query else None
