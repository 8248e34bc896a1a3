"""Same-origin check: whether a request comes from a page of this very origin, or from no page.

Browsers tell it in fields that no page can write: `Sec-Fetch-Site` (Fetch Metadata) to what they take for secure,
`Origin` (RFC 6454 section 7) with forms that are posted, and `Referer` unless a page keeps it back.
"""

from typing import Final
from urllib.parse import urlsplit

from fastgw.filters.api import Exchange

_OWN_SITES: Final = (b"same-origin", b"none")
"""`none`: nobody's page has led here: it was typed, or is a bookmark."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def came_from(exchange: Exchange, origin: str) -> bool:
    """Whether it was a page of `origin` that led here, or no page. False also where the browser does not tell."""
    values = exchange.head.values
    if sites := values(b"sec-fetch-site"):
        return len(sites) == 1 and sites[0] in _OWN_SITES
    origins = values(b"origin") or values(b"referer")
    own = _origin_of(origin.encode())
    return len(origins) == 1 and own is not None and _origin_of(origins[0]) == own


def _origin_of(url: bytes) -> tuple[str, str, int] | None:
    """RFC 6454 section 4. None: it has none, as `null` has not."""
    try:
        parts = urlsplit(url.decode("ascii"))
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme, parts.hostname
    if scheme not in _DEFAULT_PORTS or not host:
        return None
    return scheme, host, _DEFAULT_PORTS[scheme] if port is None else port
