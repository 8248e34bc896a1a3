"""Stored heads: the record of a stored response that the store keeps as the head of an object.

The fields of a response are kept as serialized lines, ready to be sent. The values that decide about reuse were
computed when the response was stored, so that a hit parses nothing.
"""

from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from fastgw.http.caching.no_vary_search import SearchVariance
from fastgw.http.fields import Fields

_VERSION: Final = 1
_SEARCH: Final = 1000 + _VERSION


class StoredHead(Struct, frozen=True, array_like=True, tag=_VERSION, gc=False):
    """Stored response without its body."""

    status: int
    reason: bytes
    lines: bytes
    """Field lines as the upstream sent them, each with CRLF: without framing, hop-by-hop fields and `Age`, and with a
    `Date` of when the response was received if it had none."""
    stored_date: float
    """When the response was received or last validated."""
    initial_age: int
    """Age at `stored_date` (RFC 9111 section 4.2.3)."""
    lifetime: int
    """Freshness lifetime, counted like the age."""
    stale_while_revalidate: int = 0
    """Seconds for which it may be sent stale while it is revalidated (RFC 5861 section 3)."""
    stale_if_error: int = 0
    """Seconds for which it may be sent stale instead of an error of the upstream (RFC 5861 section 4)."""
    stale_when_unreachable: int = 0
    """Seconds for which it may be sent stale while no target can be reached."""
    no_cache: bool = False
    """Whether every use has to be validated first."""
    revalidates: bool = False
    """Whether it must not be sent stale unless it says so itself by `stale-while-revalidate` or `stale-if-error`."""
    etag: bytes | None = None
    last_modified: int | None = None
    """`Last-Modified`; None: missing or invalid."""
    date: int | None = None
    """`Date`; None: invalid, or missing in what an earlier version has stored."""
    vary: tuple[bytes, ...] = ()
    """Names of `Vary`, in lower case and sorted."""
    identity: int = 0
    """`storing.RequestIdentity`: for whom it was stored."""
    cookies: bool = False
    """Whether the request had cookies that are not in the key."""

    @property
    def fields(self) -> Fields:
        return Fields.parse(self.lines, 0)


class VariantsRecord(Struct, frozen=True, array_like=True, tag=-_VERSION, gc=False):
    """Record below the primary key of a resource whose responses vary: by which request fields, and its variants."""

    vary: tuple[bytes, ...]
    """Names in lower case and sorted; the names of the last response, united with those before."""
    keys: tuple[bytes, ...] = ()
    """Keys of the stored variants, the oldest first."""


class SearchRecord(Struct, frozen=True, array_like=True, tag=_SEARCH, gc=False):
    """Record of a path whose last stored response had `No-Vary-Search`."""

    rule: SearchVariance


Record: TypeAlias = StoredHead | VariantsRecord | SearchRecord
_DECODER: Final[msgspec.msgpack.Decoder[Record]] = msgspec.msgpack.Decoder(Record)


encode_record: Final = msgspec.msgpack.Encoder().encode
"""Serializes a record for the store."""


def decode_record(raw: bytes | memoryview) -> Record | None:
    """Return the record of an object; None: another version of fastgw wrote it, so it has to be fetched again."""
    try:
        return _DECODER.decode(raw)
    except msgspec.DecodeError:
        return None
