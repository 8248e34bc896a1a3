"""URLs that a browser is sent to: the provider, and back to where it came from, which is never another origin."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastgw.config.base.value_types import is_loopback

LONGEST_RETURN: Final = 1_000
"""Bytes of what is returned to. A longer one is not remembered."""
_LOCAL: Final = re.compile(rb"/(?![/\\])[!#-\[\]-~]*")  # visible ASCII without `"` and `\`


def local(place: bytes) -> bytes:
    """The place when it is a path of the same origin, perhaps with a query; else `/`.

    Browsers read `//host` and `/\\host` as another origin, and drop tabs and line ends before they do.
    """
    return place if len(place) <= LONGEST_RETURN and _LOCAL.fullmatch(place) else b"/"


def is_safe(url: str) -> bool:
    """Whether nobody on the way can read or change what goes there: https, or this machine itself."""
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
    """The URL with parameters behind those that it has."""
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(parameters)}"


def parameters_of(query: bytes | None, wanted: tuple[str, ...]) -> dict[str, str] | None:
    """The wanted parameters of a query. None: one of them is there twice, or it cannot be read."""
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
