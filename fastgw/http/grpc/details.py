"""Details of errors: `grpc-status-details-bin`, a google.rpc.Status in Protobuf, read by hand."""

from binascii import Error, a2b_base64
from typing import Final, NamedTuple

from fastgw.http.grpc.protobuf import fields_of

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
        for number, content in fields_of(decode_binary(value or b"")):
            if number == _DETAILS and isinstance(content, bytes):
                parts = {part: held for part, held in fields_of(content) if isinstance(held, bytes)}
                details.append(Detail(parts.get(_TYPE_URL, b"").decode(), parts.get(_VALUE, b"")))
    except ValueError:
        return []
    return details[:MOST_DETAILS]
