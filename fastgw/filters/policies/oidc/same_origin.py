"""Same-origin check: whether a request comes from a page of the same origin, or from no page.

Browsers report it in headers that pages cannot set: `Sec-Fetch-Site` (Fetch Metadata) to secure origins, `Origin` (RFC
6454 section 7) with posted forms, and `Referer` unless the page suppresses it. What a page embeds (images, frames,
scripts) or loads in advance may stand in it by the word of somebody else: `Sec-Fetch-Dest`, `-Mode` and `Sec-Purpose`.
"""

from typing import Final
from urllib.parse import urlsplit

from fastgw.filters.api import Exchange

_OWN_SITES: Final = (b"same-origin", b"none")
"""Accepted values of `Sec-Fetch-Site`. `none`: no page has caused the request: the URL was typed, or is a bookmark."""
_DESTINATIONS: Final = (b"document", b"empty")
"""Accepted values of `Sec-Fetch-Dest`: the page itself, and the request of a script (`fetch`)."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def came_from(exchange: Exchange, origin: str) -> bool:
    """Whether the request was caused by a page of `origin`, or by no page: by the user or a script, not by what is
    embedded in the page or loaded in advance. False also if the browser does not report it.
    """
    values = exchange.head.values
    is_embedded = any(each not in _DESTINATIONS for each in values(b"sec-fetch-dest"))
    if is_embedded or b"no-cors" in values(b"sec-fetch-mode") or values(b"sec-purpose"):
        return False
    if sites := values(b"sec-fetch-site"):
        return len(sites) == 1 and sites[0] in _OWN_SITES
    origins = values(b"origin") or values(b"referer")
    own = _origin_of(origin.encode())
    return len(origins) == 1 and own is not None and _origin_of(origins[0]) == own


def _origin_of(url: bytes) -> tuple[str, str, int] | None:
    """Return the origin of a URL (RFC 6454 section 4). None: it has none, such as `null`."""
    try:
        parts = urlsplit(url.decode("ascii"))
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme, parts.hostname
    if scheme not in _DEFAULT_PORTS or not host:
        return None
    return scheme, host, _DEFAULT_PORTS[scheme] if port is None else port
