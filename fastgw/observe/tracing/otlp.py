"""OTLP: spans in the protobuf encoding of `opentelemetry.proto`, written by hand.

A span is encoded once it has ended, as one element of `ScopeSpans.spans`; a batch is these elements in an envelope.
Sources: opentelemetry/proto/trace/v1/trace.proto, collector/trace/v1/trace_service.proto (1.x, stable).
"""

from collections.abc import Mapping, Sequence
from typing import Final, final

from fastgw.http.grpc.protobuf import field, key_value, resource_of, scope_of, varint
from fastgw.observe.tracing import _otlp
from fastgw.observe.tracing.spans import Common, Encoder, TraceSpan

_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200
_ERROR: Final = b"\x7a\x02\x18\x02"  # Span.status = 15: {code = 3: STATUS_CODE_ERROR}


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
            pieces.append(field(b"\x1a", trace.state))
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
            pieces.append(field(b"\x5a", b"\x09" + at.to_bytes(8, "little") + field(b"\x12", name.encode())))
        pieces.append(b"\x85\x01" + flags.to_bytes(4, "little"))
        return field(b"\x12", b"".join(pieces))

    def learn_key(self, name: str) -> bytes:
        """Encode the name of an attribute, with what precedes its value."""
        key = self.keys[name] = field(b"\x0a", name.encode()) + b"\x12"
        return key

    def encode_common(self, common: Common) -> bytes:
        """Encode the attributes that many spans share, once."""
        attributes = b"".join(field(b"\x4a", key_value(*each)) for each in common.attributes)
        error = _ERROR if common.is_error else b""
        name = field(b"\x2a", common.name.encode())
        common.encoded = encoded = name + b"\x30" + varint(common.kind) + attributes + error
        return encoded


def otlp_encoder() -> Encoder:
    """Return a compiled encoder."""
    return _otlp.OtlpEncoder(OtlpEncoder())


@final
class OtlpEnvelope:
    """Envelope of a batch: an `ExportTraceServiceRequest` with one resource and one scope."""

    content_type = b"application/x-protobuf"

    def __init__(self, resource: Mapping[str, str], scope: str, version: str) -> None:
        self._resource, self._scope = resource_of(resource), scope_of(scope, version)

    def seal(self, spans: Sequence[bytes]) -> bytes:
        """Return the request for these spans."""
        scoped = field(b"\x12", b"".join((self._scope, *spans)))
        return field(b"\x0a", self._resource + scoped)
