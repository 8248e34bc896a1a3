"""Encoder of OTLP spans: the protobuf encoding of `opentelemetry.proto`, written by hand.

Sources: opentelemetry/proto/trace/v1/trace.proto, collector/trace/v1/trace_service.proto (1.x, stable).
"""

from typing import final

from fastgw.observe.tracing.spans import TraceSpan

@final
class OtlpEncoder:
    """Encoder of `Span` messages, each as an element of a repeated field 2."""

    def __init__(self) -> None: ...
    def encode(self, span: TraceSpan) -> bytes:
        """Encode a span that has ended."""
