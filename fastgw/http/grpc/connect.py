"""The Connect protocol (connectrpc.com/docs/protocol): its errors, the end of its streams, its calls by GET.

A unary call has one message in each body, without a frame. Streams have frames as those of gRPC, and end with a frame
of JSON that has the status.
"""

import re
from base64 import b64encode, urlsafe_b64decode
from binascii import Error
from collections.abc import Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson

from fastgw.http.grpc.details import Detail
from fastgw.http.grpc.frames import END_OF_STREAM, frame
from fastgw.http.grpc.status import GrpcStatus
from fastgw.http.percent_encoding import decode_form_text

VERSION: Final = b"connect-protocol-version"
TIMEOUT: Final = b"connect-timeout-ms"
STREAM_ENCODING: Final = b"connect-content-encoding"
STREAM_ACCEPT: Final = b"connect-accept-encoding"
_CODEC: Final = rb"([a-z0-9][a-z0-9._-]{0,39})"
_UNARY: Final = re.compile(rb"application/(?!grpc)%b[ \t]*(?:;|$)" % _CODEC, re.IGNORECASE)
_STREAM: Final = re.compile(rb"application/connect\+%b[ \t]*(?:;|$)" % _CODEC, re.IGNORECASE)
_NAMED_CODEC: Final = re.compile(_CODEC)
_TIMEOUT: Final = re.compile(rb"[0-9]{1,10}")
_ENCODING: Final = re.compile(rb"[a-z0-9._-]{1,40}")
_URL_BASE64: Final = re.compile(rb"[A-Za-z0-9_-]*={0,2}")
_NAMES: Final = {status: "canceled" if status.name == "CANCELLED" else status.name.lower() for status in GrpcStatus}
_PARAMETERS: Final = frozenset((b"message", b"encoding", b"base64", b"compression", b"connect"))


class GetCall(NamedTuple):
    """A call by GET. `encoding`: the compression of its message; b"": none."""

    codec: bytes
    message: bytes
    encoding: bytes


def unary_codec(content_type: bytes | None) -> bytes | None:
    """Return the encoding of the message that a unary call has by its content type; None: it may not be one."""
    return _codec(_UNARY, content_type)


def stream_codec(content_type: bytes | None) -> bytes | None:
    """Return the encoding of the messages of a stream; None: the content type is another one."""
    return _codec(_STREAM, content_type)


def _codec(pattern: re.Pattern[bytes], content_type: bytes | None) -> bytes | None:
    found = None if content_type is None else pattern.match(content_type)
    return None if found is None else found[1].lower()


def timeout_seconds(value: bytes) -> float | None:
    """Return the seconds in `Connect-Timeout-Ms`; None: they cannot be read."""
    return int(value) / 1000 if _TIMEOUT.fullmatch(value) else None


def is_coding(name: bytes) -> bool:
    """Whether this may be the name of a compression."""
    return _ENCODING.fullmatch(name) is not None


def asks_by_get(query: bytes | None) -> bool:
    """Whether the query is that of a call by GET."""
    return query is not None and b"connect=v1" in query.split(b"&")


def parse_get(query: bytes) -> GetCall:
    """Read a call from a query. Other parameters may stand beside those of the protocol.

    Raises `ValueError`, with a text for the caller.
    """
    found: dict[bytes, bytes] = {}
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        name = unquote_to_bytes(name)
        if name in _PARAMETERS and name in found:
            raise ValueError(f"The query has more than one `{name.decode()}`.")
        found[name] = decode_form_text(value)
    for name in (b"encoding", b"message"):
        if name not in found:
            raise ValueError(f"The query has no `{name.decode()}`.")
    if not _NAMED_CODEC.fullmatch(found[b"encoding"]):
        raise ValueError("The `encoding` of the query is not a name.")
    compression = found.get(b"compression", b"identity") or b"identity"
    if not _ENCODING.fullmatch(compression):
        raise ValueError("The `compression` of the query is not a name.")
    message = found[b"message"]
    if found.get(b"base64") == b"1":
        message = _decode_url_base64(message)
    return GetCall(found[b"encoding"], message, b"" if compression == b"identity" else compression)


def _decode_url_base64(text: bytes) -> bytes:
    """Raises `ValueError`."""
    try:
        if _URL_BASE64.fullmatch(text):
            text = text.rstrip(b"=")
            return urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except Error:
        pass
    raise ValueError("The `message` of the query is not Base64 for URLs.")


def error_of(status: GrpcStatus, message: str = "", details: Iterable[Detail] = ()) -> dict[str, Any]:
    """Return an error as the protocol has it in JSON."""
    error: dict[str, Any] = {"code": _NAMES[status]}
    if message:
        error["message"] = message
    shown = [{"type": detail.type_name, "value": b64encode(detail.value).rstrip(b"=").decode()} for detail in details]
    return error | {"details": shown} if shown else error


def end_of_stream(error: dict[str, Any] | None, metadata: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Return the frame that ends a stream. `metadata`: the trailers, without those of gRPC itself."""
    values: dict[str, list[str]] = {}
    for name, value in metadata:
        values.setdefault(name.decode("ascii").lower(), []).append(value.decode("utf-8", "replace"))
    last: dict[str, Any] = {} if error is None else {"error": error}
    if values:
        last["metadata"] = values
    return frame(orjson.dumps(last), END_OF_STREAM)
