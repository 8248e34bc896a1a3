"""Protobuf messages by hand: encoding of those that the gateway writes often, and reading of fields by their numbers.

Source: protobuf.dev/programming-guides/encoding; `KeyValue` of opentelemetry/proto/common/v1/common.proto.
"""

from collections.abc import Iterator, Mapping
from struct import pack
from typing import Any, Final

import cython
import orjson

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SHORT: Final = tuple(bytes((number,)) for number in range(128))
_MOST_INT: Final = 2**63


def varint(number: cython.ulonglong) -> bytes:
    """Encode a number that is not negative, of at most 64 bits."""
    if number < 128:
        short: bytes = _SHORT[number]
        return short
    pieces = bytearray()
    while number > 127:
        pieces.append(number & 127 | 128)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)


def field(tag: bytes, payload: bytes) -> bytes:
    """Encode a length-delimited field. `tag`: with wire type 2."""
    return b"".join((tag, varint(len(payload)), payload))


def key_value(name: str, value: Any) -> bytes:
    """Encode a `KeyValue`, with its key as field 1 and an `AnyValue` as field 2. `value`: as JSON has it; objects and
    lists are shown as JSON.
    """
    kind = type(value)
    if kind is str:
        given = field(b"\x0a", value.encode())
    elif kind is bool:
        given = b"\x10\x01" if value else b"\x10\x00"
    elif kind is int and 0 <= value < _MOST_INT:
        given = b"\x18" + varint(value)
    elif kind is dict or kind is list:
        given = field(b"\x0a", orjson.dumps(value))
    else:
        given = b"\x21" + pack("<d", value)
    return field(b"\x0a", name.encode()) + field(b"\x12", given)


def resource_of(attributes: Mapping[str, str]) -> bytes:
    """Encode a `Resource` as field 1."""
    return field(b"\x0a", b"".join(field(b"\x0a", key_value(*each)) for each in attributes.items()))


def scope_of(name: str, version: str) -> bytes:
    """Encode an `InstrumentationScope` as field 1."""
    return field(b"\x0a", field(b"\x0a", name.encode()) + field(b"\x12", version.encode()))


def rejected_items(response: bytes) -> int:
    """Return the spans, data points or log records that a collector has rejected: the first field of `partial_success`.

    A response that is malformed rejects none: the collector has answered with success.
    """
    try:
        for number, value in fields_of(response):
            if number == 1 and isinstance(value, bytes):
                return next((each for inner, each in fields_of(value) if inner == 1 and isinstance(each, int)), 0)
    except ValueError:
        pass
    return 0


def fields_of(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the fields of a message by their numbers. Raises `ValueError` where it is malformed."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        size = 8 if kind == _FIXED64 else 4
        if kind in (_VARINT, _BYTES):
            size, at = _read_varint(message, at)
        if kind == _VARINT:
            yield number, size
            continue
        if kind not in (_FIXED64, _BYTES, _FIXED32) or at + size > len(message):
            raise ValueError("not a message in Protobuf")
        yield number, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number and the place behind it. Raises `ValueError`."""
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("not a message in Protobuf")
