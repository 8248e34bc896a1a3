"""URLs for redirects of the browser: the provider, and the page where the login began, which is never of another
origin.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastgw.config.base.value_types import is_loopback

LONGEST_RETURN: Final = 1_000
"""Maximum bytes of the return path. A longer one is not stored."""
_LOCAL: Final = re.compile(rb"/(?![/\\])[!#-\[\]-~]*")  # visible ASCII without `"` and `\`


def local(place: bytes) -> bytes:
    """Return the path if it is of the same origin, perhaps with a query; otherwise `/`.

    Browsers read `//host` and `/\\host` as another origin, and remove tabs and line ends first.
    """
    return place if len(place) <= LONGEST_RETURN and _LOCAL.fullmatch(place) else b"/"


def is_safe(url: str) -> bool:
    """Whether data sent to the URL is safe on the network: https, or this machine itself."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if "@" in parts.netloc or parts.fragment or not host or not url.isascii() or not url.isprintable():
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return is_loopback(host)
    except ValueError:
        return False


def with_query(url: str, parameters: Mapping[str, str]) -> str:
    """Append parameters to the query of a URL."""
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(parameters)}"


def parameters_of(query: bytes | None, wanted: tuple[str, ...]) -> dict[str, str] | None:
    """Return these parameters of a query. None: one of them is duplicate, or the query is invalid."""
    try:
        pairs = parse_qsl((query or b"").decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError:
        return None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in wanted:
            if name in found:
                return None
            found[name] = value
    return found
