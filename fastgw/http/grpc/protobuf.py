"""Encoding of protobuf messages by hand, for those that the gateway writes often: fields, varints and attributes.

Source: protobuf.dev/programming-guides/encoding; `KeyValue` of opentelemetry/proto/common/v1/common.proto.
"""

from collections.abc import Iterable, Mapping
from typing import Final

_SHORT: Final = tuple(bytes((number,)) for number in range(128))


def varint(number: int) -> bytes:
    """Encode a number that is not negative."""
    if number < 128:
        return _SHORT[number]
    pieces = bytearray()
    while number > 127:
        pieces.append(number & 127 | 128)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)


def field(tag: bytes, payload: bytes) -> bytes:
    """Encode a length-delimited field. `tag`: with wire type 2."""
    return tag + varint(len(payload)) + payload


def key_value(name: str, value: str | int) -> bytes:
    """Encode a `KeyValue`, with its key as field 1 and an `AnyValue` as field 2."""
    given = field(b"\x0a", value.encode()) if type(value) is str else b"\x18" + varint(int(value))
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
        for number, value in _fields(response):
            if number == 1 and isinstance(value, bytes):
                return next((each for inner, each in _fields(value) if inner == 1 and isinstance(each, int)), 0)
    except IndexError:
        pass
    return 0


def _fields(message: bytes) -> Iterable[tuple[int, int | bytes]]:
    """Yield number and value of each varint and length-delimited field. Raises `IndexError` if it is cut off."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        if tag & 7 == 0:
            number, at = _read_varint(message, at)
            yield tag >> 3, number
        elif tag & 7 == 2:
            length, at = _read_varint(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        else:
            return


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while shift < 64:
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    return number, at
