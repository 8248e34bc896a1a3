"""Purges of caches over the admin API and by `fastgw purge`: parsed into an order for the stores."""

import re
from typing import Final
from urllib.parse import quote, urlsplit

from msgspec import Struct

from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize
from fastgw.sync.cache_purges import LONGEST, MOST_TAGS, PurgeOrder, PurgeTarget

_PORTS: Final = {"http": ":80", "https": ":443"}
_AUTHORITY: Final = re.compile(r"(?:[a-z0-9._-]++|\[[0-9a-f:.]++\])(?::[0-9]{1,5})?")
_PORT: Final = re.compile(rb"\A([a-z]+://[^/:\[]+|[a-z]+://\[[^/]+\]):[0-9]+(?=/)")
_ASCII: Final = "".join(map(chr, range(33, 127)))
_TAG: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]++")


class CachePurge(Struct, frozen=True, forbid_unknown_fields=True):
    """Objects to purge: exactly one of `url`, `prefix`, `tags` and `all`."""

    url: str | None = None
    """Absolute URL, as clients see it: `https://example.com/a?b=c`. With a port, the URL without it is purged too."""
    prefix: str | None = None
    """Beginning of absolute URLs, with at least a host: `https://example.com/images/`. With a port as `url`."""
    tags: list[str] | None = None
    """Tags, as in the response headers of `tag_header`; objects with at least one of them are purged."""
    all: bool = False
    soft: bool = False
    """Whether objects become stale instead of being removed: they are validated before the next use, or sent where
    stale responses are allowed."""
    store: str = "main"
    """Name of the store in `caches`."""


def read_purge(wanted: CachePurge) -> PurgeOrder:
    """Return the order. Raises `ValueError`."""
    named = [wanted.url is not None, wanted.prefix is not None, wanted.tags is not None, wanted.all]
    if sum(named) != 1:
        raise ValueError("expected exactly one of `url`, `prefix`, `tags` and `all`")
    if wanted.url is not None:
        return PurgeOrder(wanted.store, PurgeTarget.URL, _with_and_without_port(wanted.url), wanted.soft)
    if wanted.prefix is not None:
        return PurgeOrder(wanted.store, PurgeTarget.PREFIX, _with_and_without_port(wanted.prefix), wanted.soft)
    if wanted.tags is not None:
        return PurgeOrder(wanted.store, PurgeTarget.TAGS, _tags(wanted.tags), wanted.soft)
    return PurgeOrder(wanted.store, PurgeTarget.ALL, (), wanted.soft)


def _with_and_without_port(text: str) -> tuple[bytes, ...]:
    """Return a URL in the form of the stores, where the port of the listener is left out, which is unknown here."""
    url = normalized_url(text)
    return tuple(dict.fromkeys((url, _PORT.sub(rb"\1", url))))


def normalized_url(text: str) -> bytes:
    """Return a URL in the form of the stores: lower-case scheme and host, no default port, the path in its normal
    form, and characters beyond ASCII percent-encoded. Raises `ValueError`.
    """
    if len(text) > LONGEST or any(char <= " " or char == "\x7f" for char in text):
        raise ValueError("a URL that is too long, or has spaces or control characters")
    parts = urlsplit(text)
    authority = parts.netloc.lower()
    if parts.scheme not in _PORTS or not _AUTHORITY.fullmatch(authority):
        raise ValueError("not an absolute URL; expected http://HOST/PATH or https://HOST/PATH")
    if parts.fragment or "#" in text:
        raise ValueError("a URL with a fragment, which is never sent")
    rest = text.partition("://")[2][len(parts.netloc) :] or "/"
    path, mark, query = quote(rest, safe=_ASCII).encode("ascii").partition(b"?")
    try:
        path = normalize(path or b"/")
    except Malformed as error:
        raise ValueError(f"a path that the gateway refuses: {error}") from error
    origin = f"{parts.scheme}://{authority.removesuffix(_PORTS[parts.scheme])}".encode("ascii")
    url = b"%b%b%b%b" % (origin, path, mark, query)
    if len(url) > LONGEST:
        raise ValueError("a URL that is too long")
    return url


def _tags(tags: list[str]) -> tuple[bytes, ...]:
    if not 0 < len(tags) <= MOST_TAGS:
        raise ValueError(f"expected 1 to {MOST_TAGS} tags")
    for tag in tags:
        if len(tag) > LONGEST or not _TAG.fullmatch(tag):
            raise ValueError("a tag that is empty or too long, or has spaces, commas or characters beyond ASCII")
    return tuple(tag.encode("ascii") for tag in tags)
