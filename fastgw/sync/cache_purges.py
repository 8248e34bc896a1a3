"""Purges of caches, as nodes and processes announce them to each other."""

import os
from collections.abc import Iterable
from enum import Enum
from typing import Final

from msgspec import Struct, structs

MOST_TAGS: Final = 256
"""Maximum number of tags in one purge."""
LONGEST: Final = 8192
"""Maximum length of a URL, a prefix or a tag in bytes."""
_ID_BYTES: Final = 16


class PurgeTarget(Enum):
    """Kind of a purge."""

    URL = "url"
    PREFIX = "prefix"
    TAGS = "tags"
    ALL = "all"


class PurgeOrder(Struct, frozen=True, array_like=True):
    """A purge. `values`: the URL, the prefix, or the tags; empty for all."""

    store: str
    target: PurgeTarget
    values: tuple[bytes, ...] = ()
    soft: bool = False
    """Whether objects become stale instead of being removed."""
    id: bytes = b""
    """Identity under which it is announced: a node carries it out once. b"": it is not announced yet, or by a version
    without identities."""


def url_tag(url: bytes) -> bytes:
    """Return the tag of all objects of a URL: its variants, and what other routes have stored for it. No header can
    contain it.
    """
    return b"\0" + url


def search_tag(url: bytes) -> bytes:
    """Return the tag of all objects of a URL's path that are found by other queries, too (`No-Vary-Search`)."""
    return b"\1" + url.partition(b"?")[0]


def tags_to_purge(url: bytes) -> list[bytes]:
    """Return the tags of all objects that may be sent for a URL, for a purge of it."""
    return [url_tag(url), search_tag(url)]


def all_of(stores: Iterable[str]) -> list[PurgeOrder]:
    """Return the purges of everything."""
    return [PurgeOrder(store, PurgeTarget.ALL) for store in stores]


def identified(order: PurgeOrder) -> PurgeOrder:
    """Return the purge with an identity."""
    return order if order.id else structs.replace(order, id=os.urandom(_ID_BYTES))
