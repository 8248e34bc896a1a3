"""OTLP: batches of spans. A span is encoded once it has ended (`otlp_encoder`), as one element of `ScopeSpans.spans`; a
batch is these elements in an envelope.
"""

from collections.abc import Mapping, Sequence
from typing import final

from fastgw.http.grpc.protobuf import field, resource_of, scope_of


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
