"""Zipkin: spans as JSON of API version 2."""

from collections.abc import Sequence
from typing import Any, Final, final

import orjson

from fastgw.observe.tracing.spans import CLIENT, SERVER, TraceSpan

_KINDS: Final = {SERVER: "SERVER", CLIENT: "CLIENT"}


@final
class ZipkinFormat:
    """Encoding of spans as JSON objects, and of batches."""

    content_type = b"application/json"

    def __init__(self, service: str) -> None:
        self._endpoint = {"serviceName": service}

    def encode(self, span: TraceSpan) -> bytes:
        common = span.common
        tags = {name: str(value) for name, value in (*common.attributes, *span.own)}
        if common.is_error:
            tags["error"] = tags.get("error.type", "true")
        made: dict[str, Any] = {
            "traceId": span.trace.trace_id.decode(),
            "id": span.span_id.decode(),
            "name": common.name.lower(),
            "timestamp": span.begun_ns // 1000,
            "duration": max((span.ended_ns - span.begun_ns) // 1000, 1),
            "localEndpoint": self._endpoint,
            "tags": tags,
        }
        if span.parent_id:
            made["parentId"] = span.parent_id.decode()
        if common.kind in _KINDS:
            made["kind"] = _KINDS[common.kind]
        if span.events:
            made["annotations"] = [{"timestamp": at // 1000, "value": name} for at, name in span.events]
        return orjson.dumps(made)

    def seal(self, spans: Sequence[bytes]) -> bytes:
        """Return the body for these spans, a JSON array."""
        return b"[" + b",".join(spans) + b"]"
