"""Settings of telemetry: traces."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import NONE, Settings
from fastgw.config.base.value_types import Duration, Endpoint, EndpointUrl, FieldName, FileName, Size, TargetUrl
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.http.field_names import WRITTEN_HERE

_OURS: Final = WRITTEN_HERE | {b"content-encoding", b"content-type", b"grpc-encoding", b"grpc-timeout"}
TRACE_SERVICE: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def check_collector(url: Endpoint, tls: UpstreamTls, headers: Mapping[str, Secret]) -> None:
    """Reject headers that the gateway writes itself, and TLS settings without TLS. Raises `ValueError`."""
    for name in headers:
        if name.lower().encode() in _OURS:
            raise ValueError(f"`{name}` is set by the gateway")
    if tls != UpstreamTls() and not url.origin.tls:
        raise ValueError("`tls` is set, but `url` is not https")


class OtlpExport(Settings):
    """Export of spans to an OpenTelemetry collector by OTLP, encoded as protobuf."""

    url: TargetUrl
    """URL of the collector, such as `http://collector:4318`. With `protocol: http`, `/v1/traces` is appended to its
    path."""
    protocol: Literal["http", "grpc"] = "http"
    """`http`: OTLP/HTTP, usually port 4318; `grpc`: OTLP/gRPC, usually port 4317, which needs HTTP/2."""
    headers: Mapping[FieldName, Secret] = NONE
    """Headers that are sent with each batch, for example the key of a hosted collector. Their values are secrets."""
    compression: Literal["none", "gzip"] = "none"
    """Compression of batches."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the collector, if its URL is https."""
    timeout: Duration = 10.0
    """Timeout for one batch."""

    def __post_init__(self) -> None:
        if self.url.scheme in ("tcp", "udp"):
            raise ValueError("`url` is not an http, https or unix URL")
        if self.url.socket and self.url.base_path:
            raise ValueError("`url` is a unix socket with a path; expected the socket alone")
        if self.protocol == "grpc" and self.url.base_path:
            raise ValueError("`url` has a path, which gRPC does not have; expected scheme, host and port")
        check_collector(self.endpoint, self.tls, self.headers)

    @property
    def endpoint(self) -> Endpoint:
        """URL that batches are sent to."""
        url = self.url
        origin = type(url)(url.scheme, url.host, url.port, url.socket)
        return Endpoint(origin, TRACE_SERVICE if self.protocol == "grpc" else f"{url.base_path}/v1/traces")


class ZipkinExport(Settings):
    """Export of spans to Zipkin, or any collector that accepts its JSON (API version 2)."""

    url: EndpointUrl
    """URL of the endpoint, such as `http://zipkin:9411/api/v2/spans`."""
    headers: Mapping[FieldName, Secret] = NONE
    """Headers that are sent with each batch. Their values are secrets."""
    compression: Literal["none", "gzip"] = "none"
    """Compression of batches."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the collector, if its URL is https."""
    timeout: Duration = 10.0
    """Timeout for one batch."""

    def __post_init__(self) -> None:
        check_collector(self.url, self.tls, self.headers)

    @property
    def endpoint(self) -> Endpoint:
        """URL that batches are sent to."""
        return self.url


class Sampling(Settings):
    """Sampling: which requests are traced. The decision is made when a request is received, and passed to its upstream.

    The caller's decision comes first, if there is one; then the ratio, by the trace id, so that all gateways with the
    same ratio decide alike; then the rate. Requests that fail or are slow are kept in addition. Their upstreams receive
    the decision "not sampled", so these traces contain the gateway's spans only.
    """

    parent: bool = True
    """Whether the caller's decision is followed. false: only `ratio` and `rate` decide; for callers that are not
    trusted."""
    ratio: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    """Share of the traces that are sampled if the caller has not decided: 0.1 = one in ten."""
    rate: Annotated[float, Meta(gt=0.0, le=1_000_000.0)] | None = None
    """Maximum number of traces per second that `ratio` selects, for the whole node: each worker has an equal part of
    it. null = no limit."""
    errors: bool = True
    """Whether requests with a response of 500 and above are kept, also if they are not sampled."""
    slower_than: Duration | None = None
    """Requests that take longer are kept, also if they are not sampled. null = none."""


class Traces(Settings):
    """Distributed traces: the context of each request is read and continued, and the spans of sampled requests are
    exported to a collector.

    Each request is a server span; each attempt at an upstream, also for sub-requests of filters, is a client span. Set
    exactly one of `otlp` and `zipkin`.
    """

    otlp: OtlpExport | None = None
    """Export by OTLP."""
    zipkin: ZipkinExport | None = None
    """Export to Zipkin."""
    service: Annotated[str, Meta(min_length=1, max_length=255)] = "fastgw"
    """Name of this gateway in traces (`service.name`)."""
    sampling: Sampling = Sampling()
    """Selection of the requests that are traced."""
    propagation: tuple[Literal["tracecontext", "b3"], ...] = ("tracecontext",)
    """Formats of the trace context, `tracecontext` (W3C: `traceparent`, `tracestate`) and `b3`: read from requests in
    this order, the first valid one wins, and all of them are sent to upstreams. Headers of these formats that a client
    has sent are never forwarded as they came."""
    b3: Literal["single", "multi"] = "single"
    """Headers that `b3` sends: `b3`, or several `X-B3-` headers. Both are read."""
    redact: tuple[str, ...] = ()
    """Query parameters to mask in spans, in addition to those that access logs mask (`access_logs.redact`)."""
    server_timing: bool = False
    """Whether responses tell the client the trace, as `Server-Timing: trace;desc="<traceparent>"`."""

    def __post_init__(self) -> None:
        if (self.otlp is None) == (self.zipkin is None):
            raise ValueError("expected either `otlp` or `zipkin`")
        if not self.propagation or len(set(self.propagation)) < len(self.propagation):
            raise ValueError("`propagation` is empty or has an entry twice")

    @property
    def export(self) -> OtlpExport | ZipkinExport:
        """The export that is configured."""
        export = self.otlp or self.zipkin
        assert export is not None
        return export


class Analytics(Settings):
    """Analytics that the gateway keeps itself: requests by route, consumer and status, latency, bytes and hits of the
    cache, by minutes for a day, then by hours."""

    path: Annotated[str, FileName(readable=False)]
    """SQLite database, relative to the configuration file. The gateway creates it if it does not exist, readable only
    by its own user. While it cannot be written, counts wait in memory, and the log reports it."""
    keep: Duration = 30 * 86400.0
    """How long counts are kept."""
    size: Size = 512 << 20
    """Maximum size of the database, at least 1MiB; its write-ahead log may take a tenth more. Earlier counts are summed
    up by hours, then deleted, before it is reached."""

    def __post_init__(self) -> None:
        if self.size < 1 << 20:
            raise ValueError("`size` is less than 1MiB")
        if self.keep < 3600.0:
            raise ValueError("`keep` is less than 1h")


class Telemetry(Settings):
    """Telemetry that the gateway sends to others."""

    traces: Traces | None = None
    """Distributed traces. null = none."""
