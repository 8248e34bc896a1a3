"""Format of an object in Redis. Nothing is believed without its digest, which covers the key, the version and all
fields.
"""

from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from fastgw.cache.tiers.object_file import ObjectRecord

_VERSION: Final = b"fastgwR\x02"
_DIGEST: Final = 16
_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(ObjectRecord).decode


class BadValue(Exception):
    """The value is damaged, or another program or version has written it."""


class StoredFields(NamedTuple):
    """Fields of an object; see `redis_script`."""

    tags: bytes
    url: bytes
    sealed: bytes
    """The record, behind the digest of all fields."""
    body: bytes


def tag_name(tag: bytes) -> bytes:
    """Return the name of a tag among the purges."""
    return _digest(b"tag", tag)


def key_name(key: bytes) -> bytes:
    """Return the name of a key among the purges."""
    return _digest(b"key", key)


def encode_object(key: bytes, record: ObjectRecord, body: bytes) -> StoredFields:
    """Return the fields of an object."""
    keys = dict.fromkeys((key, record.lease_key))
    tags = b"".join((*map(key_name, keys), *map(tag_name, record.tags)))
    payload = _ENCODE(record)
    return StoredFields(tags, record.url, _digest(b"object" + key, tags, record.url, payload, body) + payload, body)


def decode_object(key: bytes, fields: StoredFields, began: int) -> ObjectRecord:
    """Check the fields of an object. `began`: of the record. Raises `BadValue`."""
    tags, url, sealed, body = fields
    payload = sealed[_DIGEST:]
    if sealed[:_DIGEST] != _digest(b"object" + key, tags, url, payload, body):
        raise BadValue("it is damaged")
    try:
        return msgspec.structs.replace(_DECODE(payload), began=began)
    except msgspec.DecodeError as error:
        raise BadValue("it is of another version") from error


def _digest(use: bytes, *parts: bytes) -> bytes:
    made = blake2b(digest_size=_DIGEST, key=use, salt=_VERSION, person=b"fastgw-cache")
    for part in parts:
        made.update(b"%d:" % len(part))
        made.update(part)
    return made.digest()
