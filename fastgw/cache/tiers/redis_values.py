"""Format of an object in Redis. Nothing is believed without its digest, which covers the key and the version.

Its parts: what never changes, with the digest of the body; what a 304 changes; and the body.
"""

from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from fastgw.cache.tiers.object_file import ObjectRecord

_VERSION: Final = b"fastgwR\x01"
_DIGEST: Final = 16


class _Fixed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    lease_key: bytes
    url: bytes
    tags: tuple[bytes, ...]
    length: int
    digest: bytes
    """Digest of the body."""


class _Changing(msgspec.Struct, array_like=True, frozen=True, gc=False):
    stored_date: float
    expires_date: float
    head: bytes


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_FIXED: Final = msgspec.msgpack.Decoder(_Fixed).decode
_CHANGING: Final = msgspec.msgpack.Decoder(_Changing).decode


class BadValue(Exception):
    """The value is damaged, or another program or version has written it."""


class StoredParts(NamedTuple):
    """Fields of an object; see `redis_script`."""

    tags: bytes
    url: bytes
    fixed: bytes
    changing: bytes
    body: bytes


def tag_name(tag: bytes) -> bytes:
    """Return the name of a tag among the purges."""
    return _digest(tag, b"tag")


def key_name(key: bytes) -> bytes:
    """Return the name of a key among the purges."""
    return _digest(key, b"key")


def head_name(head: bytes) -> bytes:
    """Return the digest by which a head is recognized."""
    return _digest(head, b"head")


def encode_object(key: bytes, record: ObjectRecord, body: bytes) -> StoredParts:
    """Return the fields of an object."""
    keys = dict.fromkeys((key, record.lease_key))
    tags = b"".join((*map(key_name, keys), *map(tag_name, record.tags)))
    fixed = _Fixed(record.lease_key, record.url, record.tags, len(body), _digest(body, b"body" + key))
    return StoredParts(
        tags,
        record.url,
        _sealed(fixed, b"fixed" + key),
        encode_head(key, record.stored_date, record.expires_date, record.head),
        body,
    )


def encode_head(key: bytes, stored_date: float, expires_date: float, head: bytes) -> bytes:
    """Return the field that a 304 replaces."""
    return _sealed(_Changing(stored_date, expires_date, head), b"changing" + key)


def decode_object(key: bytes, parts: StoredParts, began: int) -> ObjectRecord:
    """Check the fields of an object. `began`: of the record. Raises `BadValue`."""
    try:
        fixed = _FIXED(_opened(parts.fixed, b"fixed" + key))
        changing = _CHANGING(_opened(parts.changing, b"changing" + key))
    except msgspec.DecodeError as error:
        raise BadValue("a part is of another version") from error
    if len(parts.body) != fixed.length or _digest(parts.body, b"body" + key) != fixed.digest:
        raise BadValue("the body is damaged")
    record = ObjectRecord(
        began, changing.stored_date, changing.expires_date, fixed.lease_key, fixed.url, fixed.tags, changing.head
    )
    keys = dict.fromkeys((key, record.lease_key))
    if parts.url != record.url or parts.tags != b"".join((*map(key_name, keys), *map(tag_name, record.tags))):
        raise BadValue("tags or URL are damaged")
    return record


def _sealed(part: _Fixed | _Changing, use: bytes) -> bytes:
    payload = _ENCODE(part)
    return _digest(payload, use) + payload


def _opened(sealed: bytes, use: bytes) -> bytes:
    payload = sealed[_DIGEST:]
    if sealed[:_DIGEST] != _digest(payload, use):
        raise BadValue("a part is damaged")
    return payload


def _digest(data: bytes, use: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST, key=use, salt=_VERSION, person=b"fastgw-cache").digest()
