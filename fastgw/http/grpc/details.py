"""Details of errors: `grpc-status-details-bin`, a google.rpc.Status in Protobuf, read by hand."""

from binascii import Error, a2b_base64
from typing import Final, NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DETAILS: Final = 3  # Status: int32 code = 1; string message = 2; repeated Any details = 3
_TYPE_URL, _VALUE = 1, 2  # Any: string type_url = 1; bytes value = 2
MOST_DETAILS: Final = 100
"""Details of one status that are read."""


class Detail(NamedTuple):
    """A message in google.protobuf.Any. `type_url`: its type behind `type.googleapis.com/` or the like."""

    type_url: str
    value: bytes

    @property
    def type_name(self) -> str:
        """Full name of the type, such as `google.rpc.RetryInfo`."""
        return self.type_url.rpartition("/")[2]


def decode_binary(value: bytes) -> bytes:
    """Decode a header whose name ends in `-bin`: Base64, padded or not. Raises `ValueError`."""
    try:
        return a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
    except Error as error:
        raise ValueError(str(error)) from error


def read_details(value: bytes | None) -> list[Detail]:
    """Return the details in a `grpc-status-details-bin`; none if it cannot be read, as they only add to a status."""
    details = []
    try:
        for number, content in _fields(decode_binary(value or b"")):
            if number == _DETAILS and isinstance(content, bytes):
                parts = {part: held for part, held in _fields(content) if isinstance(held, bytes)}
                details.append(Detail(parts.get(_TYPE_URL, b"").decode(), parts.get(_VALUE, b"")))
    except ValueError:
        return []
    return details[:MOST_DETAILS]


def _fields(message: bytes) -> list[tuple[int, bytes | int]]:
    """Return the fields of a message in Protobuf by their numbers. Raises `ValueError`."""
    fields: list[tuple[int, bytes | int]] = []
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        size = 8 if kind == _FIXED64 else 4
        if kind in (_VARINT, _BYTES):
            size, at = _varint(message, at)
        if kind == _VARINT:
            fields.append((number, size))
            continue
        if kind not in (_FIXED64, _BYTES, _FIXED32) or at + size > len(message):
            raise ValueError("not a message in Protobuf")
        fields.append((number, message[at : at + size]))
        at += size
    return fields


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number and the place behind it. Raises `ValueError`."""
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("not a message in Protobuf")
