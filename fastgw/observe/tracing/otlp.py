"""OTLP: spans in the protobuf encoding of `opentelemetry.proto`, written by hand.

A span is encoded once it has ended, as one element of `ScopeSpans.spans`; a batch is these elements in an envelope.
Sources: opentelemetry/proto/trace/v1/trace.proto, collector/trace/v1/trace_service.proto (1.x, stable).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, final

from fastgw.compiled import twin
from fastgw.observe.tracing.spans import Attribute, Common, Encoder, TraceSpan

_compiled: Final[Any] = twin("fastgw.observe.tracing._otlp")

_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200
_ERROR: Final = b"\x7a\x02\x18\x02"  # Span.status = 15: {code = 3: STATUS_CODE_ERROR}
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


def _field(tag: bytes, payload: bytes) -> bytes:
    return tag + varint(len(payload)) + payload


def _key_value(attribute: Attribute) -> bytes:
    """Encode a `KeyValue`, with its key as field 1 and an `AnyValue` as field 2."""
    name, value = attribute
    key = name.encode()
    given = _field(b"\x0a", value.encode()) if type(value) is str else b"\x18" + varint(int(value))
    return _field(b"\x0a", key) + _field(b"\x12", given)


@final
class OtlpEncoder:
    """Encoder of `Span` messages, each as an element of a repeated field 2."""

    def __init__(self) -> None:
        self.keys: dict[str, bytes] = {}

    def encode(self, span: TraceSpan) -> bytes:
        trace, common = span.trace, span.common
        fixed = common.encoded or self.encode_common(common)
        flags = trace.flags | _HAS_IS_REMOTE | (_IS_REMOTE if span.is_remote else 0)
        pieces = [
            b"\x0a\x10" + bytes.fromhex(trace.trace_id.decode()),
            b"\x12\x08" + bytes.fromhex(span.span_id.decode()),
        ]
        if trace.state:
            pieces.append(_field(b"\x1a", trace.state))
        if span.parent_id:
            pieces.append(b"\x22\x08" + bytes.fromhex(span.parent_id.decode()))
        pieces.append(fixed)
        times = b"\x39" + span.begun_ns.to_bytes(8, "little") + b"\x41" + span.ended_ns.to_bytes(8, "little")
        pieces.append(times)
        keys = self.keys
        for name, value in span.own:
            key = keys.get(name) or self.learn_key(name)
            if type(value) is str:
                text = value.encode()
                given = b"\x0a" + varint(len(text)) + text
            else:
                given = b"\x18" + varint(int(value))
            pair = key + varint(len(given)) + given
            pieces.append(b"\x4a" + varint(len(pair)) + pair)
        for at, name in span.events:
            pieces.append(_field(b"\x5a", b"\x09" + at.to_bytes(8, "little") + _field(b"\x12", name.encode())))
        pieces.append(b"\x85\x01" + flags.to_bytes(4, "little"))
        return _field(b"\x12", b"".join(pieces))

    def learn_key(self, name: str) -> bytes:
        """Encode the name of an attribute, with what precedes its value."""
        key = self.keys[name] = _field(b"\x0a", name.encode()) + b"\x12"
        return key

    def encode_common(self, common: Common) -> bytes:
        """Encode the attributes that many spans share, once."""
        attributes = b"".join(_field(b"\x4a", _key_value(each)) for each in common.attributes)
        error = _ERROR if common.is_error else b""
        name = _field(b"\x2a", common.name.encode())
        common.encoded = encoded = name + b"\x30" + varint(common.kind) + attributes + error
        return encoded


def otlp_encoder() -> Encoder:
    """Return an encoder: the compiled one, if available."""
    encoder = OtlpEncoder()
    return encoder if _compiled is None else _compiled.OtlpEncoder(encoder)


@final
class OtlpEnvelope:
    """Envelope of a batch: an `ExportTraceServiceRequest` with one resource and one scope."""

    content_type = b"application/x-protobuf"

    def __init__(self, resource: Mapping[str, str], scope: str, version: str) -> None:
        pairs = b"".join(_field(b"\x0a", _key_value(each)) for each in resource.items())
        self._resource = _field(b"\x0a", pairs)
        self._scope = _field(b"\x0a", _field(b"\x0a", scope.encode()) + _field(b"\x12", version.encode()))

    def seal(self, spans: Sequence[bytes]) -> bytes:
        """Return the request for these spans."""
        scoped = _field(b"\x12", b"".join((self._scope, *spans)))
        return _field(b"\x0a", self._resource + scoped)


def rejected_spans(response: bytes) -> int:
    """Return the spans that a collector has rejected: `ExportTraceServiceResponse.partial_success.rejected_spans`.

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
