"""Settings of telemetry: traces, metrics that are pushed, and service level objectives."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.route_patterns import PORT
from fastgw.config.base.settings_base import NONE, Settings
from fastgw.config.base.value_types import (
    Duration,
    Endpoint,
    EndpointUrl,
    FieldName,
    FileName,
    Notation,
    Percent,
    Size,
    check_no_user,
)
from fastgw.config.settings.discovery import ServiceUrl
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.http.field_names import WRITTEN_HERE
from fastgw.observe.metrics.families import BOUNDS_S
from fastgw.observe.metrics.meter_rows import LABELS, MORE_REQUEST_LABELS, MOST_BOUNDS
from fastgw.observe.metrics.request_meter import MeterPlan, Objectives

_OURS: Final = WRITTEN_HERE | {b"content-encoding", b"content-type", b"grpc-encoding", b"grpc-timeout"}
TRACE_SERVICE: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
METRICS_SERVICE: Final = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
STATSD_LABELS: Final = ("route", "method", "status")


def check_collector(url: Endpoint, tls: UpstreamTls, headers: Mapping[str, Secret]) -> None:
    """Reject headers that the gateway writes itself, and TLS settings without TLS. Raises `ValueError`."""
    for name in headers:
        if name.lower().encode() in _OURS:
            raise ValueError(f"`{name}` is set by the gateway")
    if tls != UpstreamTls() and not url.origin.tls:
        raise ValueError("`tls` is set, but `url` is not https")


class OtlpExport(Settings):
    """Export to an OpenTelemetry collector by OTLP, encoded as protobuf."""

    url: ServiceUrl
    """URL of the collector, such as `http://collector:4318`. With `protocol: http`, `/v1/traces` or `/v1/metrics` is
    appended to its path."""
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
        if self.url.socket and self.url.base_path:
            raise ValueError("`url` is a unix socket with a path; expected the socket alone")
        if self.protocol == "grpc" and self.url.base_path:
            raise ValueError("`url` has a path, which gRPC does not have; expected scheme, host and port")
        if (found := re.search("/v1/(?:traces|metrics|logs)/?$", self.url.base_path)) is not None:
            raise ValueError(f"`url` ends with `{found[0]}`, which is appended to it; expected the URL before it")
        check_collector(self.endpoint, self.tls, self.headers)

    @property
    def endpoint(self) -> Endpoint:
        """URL that batches are sent to."""
        return self._endpoint(TRACE_SERVICE, "traces")

    def _endpoint(self, service: str, signal: str) -> Endpoint:
        url = self.url
        origin = type(url)(url.scheme, url.host, url.port, url.socket)
        return Endpoint(origin, service if self.protocol == "grpc" else f"{url.base_path}/v1/{signal}")


class OtlpMetrics(OtlpExport):
    """Push of metrics to an OpenTelemetry collector by OTLP: all of `/metrics`, with the same names, and cumulative
    temporality. A push that fails is repeated with the counts of then, so nothing is lost."""

    interval: Annotated[Duration, Meta(ge=1.0, le=3600.0)] = 60.0
    """Interval of pushes."""
    service: Annotated[str, Meta(min_length=1, max_length=255)] = "fastgw"
    """Name of this gateway (`service.name`)."""

    @property
    def endpoint(self) -> Endpoint:
        """URL that metrics are sent to."""
        return self._endpoint(METRICS_SERVICE, "metrics")


_STATSD: Final = rf"^(unix:/.+|[^:/\s]+:{PORT}|\[[0-9a-fA-F:]+\]:{PORT})$"


def _parse_statsd(text: str) -> str:
    check_no_user(text)
    if re.fullmatch(_STATSD, text) is None:
        raise ValueError(f"{text!r} is not an address of a StatsD server")
    return text


class StatsdPush(Settings):
    """Push of counts and durations of requests to a StatsD server."""

    address: Annotated[
        str,
        Notation(
            '"host:port" such as "127.0.0.1:8125", or "unix:/path"',
            _parse_statsd,
            {"type": "string", "pattern": _STATSD},
        ),
    ]
    """`host:port` for UDP, or `unix:/path` for a datagram socket."""
    format: Literal["statsd", "dogstatsd", "graphite"] = "statsd"
    """`dogstatsd`: with the tags `route`, `method` and `status`; `graphite`: with the same tags in the name, as
    `fastgw.requests;route=user;method=GET;status=200`; `statsd`: without tags, totals alone."""
    interval: Annotated[Duration, Meta(ge=1.0, le=3600.0)] = 10.0
    """Interval of pushes."""


class RequestCounts(Settings):
    """Further labels of `fastgw_requests_total`. A worker has 4,000 combinations of labels for them and for
    `request_duration`; requests with others are counted with all labels `_other`."""

    labels: Annotated[tuple[Literal[MORE_REQUEST_LABELS], ...], Meta(min_length=1)]  # type: ignore[valid-type]  # once
    """Labels beside `listener`, `method`, `route` and `status`: `upstream`, `consumer`, `fault` and `host`. Each one
    multiplies the number of series. `host` is a host of `routes.*.hosts` (for `*.example.org` this text), the first 500
    of them; `_other` for hosts that no route names, because clients choose them. With other labels, the counter begins
    at 0."""

    def __post_init__(self) -> None:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("`labels` has an entry twice")


class RequestDuration(Settings):
    """Histograms of the durations of requests by labels of choice, as `fastgw_request_duration_seconds`. There may be
    4,000 combinations per worker, with `statsd` those of the labels with `route`, `method` and `status`; requests with
    others are counted with all labels `_other`, and by `fastgw_request_duration_folded_total`."""

    labels: Annotated[tuple[Literal[LABELS], ...], Meta(min_length=1)] = ("route",)  # type: ignore[valid-type]  # once
    """Labels: `route`, `upstream`, `consumer`, `method`, `status`, `status_class` (such as `5xx`) and `fault`. Each one
    multiplies the number of series."""
    buckets: Annotated[tuple[Duration, ...], Meta(min_length=1, max_length=MOST_BOUNDS)] = BOUNDS_S
    """Upper bounds of the buckets, ascending. With other buckets or labels, histograms begin at 0."""
    route_buckets: Mapping[str, Annotated[tuple[Duration, ...], Meta(min_length=1, max_length=MOST_BOUNDS)]] = NONE
    """Upper bounds for routes, by name, in place of `buckets`."""

    def __post_init__(self) -> None:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("`labels` has an entry twice")
        if {"status", "status_class"} <= {*self.labels}:
            raise ValueError("`labels` has `status` and `status_class`; expected one of them")
        if self.route_buckets and "route" not in self.labels:
            raise ValueError("`route_buckets` needs the label `route`")
        for bounds in (self.buckets, *self.route_buckets.values()):
            if list(bounds) != sorted(set(bounds)):
                raise ValueError("the bounds of buckets are not in ascending order")


class Metrics(Settings):
    """Metrics that are pushed, and that are measured in addition. Pushes come from a process of their own, which reads
    the counters of the workers: requests do not wait for them."""

    otlp: OtlpMetrics | None = None
    """Push by OTLP. null = none."""
    statsd: StatsdPush | None = None
    """Push to a StatsD server: `fastgw.requests` (counter) and `fastgw.request.duration` (timer, ms). null = none."""
    requests: RequestCounts | None = None
    """Further labels of the counter of requests. null = `listener`, `method`, `route` and `status`."""
    request_duration: RequestDuration | None = None
    """Histograms by labels of choice. null = only `fastgw_request_seconds`, by route."""


class Slo(Settings):
    """Service level objectives of a route. Requests are counted by `fastgw_slo_requests_total`, and
    `fastgw_slo_burn_rate` shows how fast the error budget is spent: 1 = just within the objective."""

    availability: Percent | None = None
    """Share of the requests that are not answered 500 and above, such as `99.9%`. null = no objective."""
    latency: Duration | None = None
    """Duration that `latency_share` of the requests do not exceed, such as `300ms`: whole requests, without those that
    are answered 500 and above, and without tunnels. null = no objective."""
    latency_share: Percent = 0.99
    """Share of the requests that are not slower than `latency`."""

    def __post_init__(self) -> None:
        if self.availability is None and self.latency is None:
            raise ValueError("expected `availability`, `latency` or both")
        if not (self.availability is None or 0.0 < self.availability < 1.0) or not 0.0 < self.latency_share < 1.0:
            raise ValueError("an objective is not between 0% and 100%; such as 99.9%")

    @property
    def objectives(self) -> Objectives:
        """The objectives, for the meter."""
        return Objectives(self.availability, self.latency, self.latency_share)


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
    cache, by minutes; by hours where `size` has no room for minutes."""

    path: Annotated[str, FileName(readable=False)]
    """SQLite database, relative to the configuration file. The gateway creates it if it does not exist, readable only
    by its own user. While it cannot be written, counts wait in memory, and the log reports it."""
    keep: Duration = 30 * 86400.0
    """How long counts are kept."""
    size: Size = 512 << 20
    """Maximum size of the database, at least 1MiB; its write-ahead log may take a tenth more. Before it is
    reached, the earliest minutes are deleted and their hours are kept; then the earliest days are deleted."""

    def __post_init__(self) -> None:
        if self.size < 1 << 20:
            raise ValueError("`size` is less than 1MiB")
        if self.keep < 3600.0:
            raise ValueError("`keep` is less than 1h")


class Stories(Settings):
    """Stories of failed and slow requests: the filters of each with their decisions, the attempts with their timings,
    and the fault. They are kept in the memory of the control process, for the dashboard and the admin API.
    """

    slower_than: Duration = 1.0
    """Requests that take longer are kept, in addition to those with a response of 500 and above."""
    keep: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    """Maximum number of stories; the oldest are forgotten first. A story takes 1 to 3 KiB."""


class Telemetry(Settings):
    """Telemetry that the gateway sends to others."""

    traces: Traces | None = None
    """Distributed traces. null = none."""
    metrics: Metrics | None = None
    """Metrics that are pushed, and that are measured in addition. null = none."""
    slo: Slo | None = None
    """Service level objectives of each route that has none of its own. null = none."""
    route_slos: Mapping[str, Slo] = NONE
    """Service level objectives by the name of the route. `slo` of the route takes precedence."""

    @property
    def meter_plan(self) -> MeterPlan | None:
        """Plan for the meters of workers; None: they measure nothing in addition."""
        metrics = self.metrics or Metrics()
        duration = metrics.request_duration
        wanted = (duration, metrics.requests, metrics.statsd, self.slo, self.route_slos or None)
        if all(each is None for each in wanted):
            return None
        labels = () if duration is None else duration.labels
        if metrics.statsd is not None:
            labels = (*(label for label in labels if label != "status_class"), *STATSD_LABELS)
        return MeterPlan(
            tuple(dict.fromkeys(labels)),
            (duration or RequestDuration()).buckets,
            {} if duration is None else dict(duration.route_buckets),
            None if self.slo is None else self.slo.objectives,
            {name: slo.objectives for name, slo in self.route_slos.items()},
            () if duration is None else duration.labels,
            () if metrics.requests is None else metrics.requests.labels,
        )
