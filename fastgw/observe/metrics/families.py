"""Metric families of the data plane, with labels and help texts. `admin.metrics` adds those of the processes.

Rule 1: every sample is in one series of a family only, so their sum is exact. Rule 2: data from peers never creates a
label value.
"""

from enum import IntEnum
from typing import Final, NamedTuple

from fastgw.cache.store import NotStored
from fastgw.http.caching.storing import Unstorable

OTHER: Final = "_other"
"""Label of everything without a slot: routes or upstreams beyond `MAX_ROWS`, or of a replaced configuration."""
NONE: Final = "_none"
"""Route label of requests that no route matched."""
METHODS: Final = (
    *(b"other", b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE"),
    *(b"tcp", b"udp"),
)
"""Method labels of finished requests; TCP connections and UDP sessions have their own."""
METHOD_INDEXES: Final = {method: index for index, method in enumerate(METHODS)}
BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets in seconds, inclusive; a last bucket has no bound."""


class FilterEvent(IntEnum):
    """Events of a filter instance that are counted."""

    RAISED = 0
    LATE = 1
    # result of a mirrored request
    COPY_SENT = 2
    COPY_DIFFERENT = 3
    COPY_FAILED = 4
    COPY_SKIPPED = 5
    AWAY = 6
    REFUSED = 7
    # effect in shadow mode; the strongest one of the filter's steps for an exchange
    PASS = 8
    UNKNOWN = 9
    CHANGE = 10
    ANSWER = 11
    RAISE = 12
    # result of a request to a helper process
    HELPER_ANSWERED = 13
    HELPER_LATE = 14
    HELPER_BUSY = 15
    HELPER_FAILED = 16
    # refused by a WAF, by class of attack
    WAF_SCANNER = 17
    WAF_PROTOCOL = 18
    WAF_LFI = 19
    WAF_RFI = 20
    WAF_RCE = 21
    WAF_PHP = 22
    WAF_GENERIC = 23
    WAF_NOSQL = 24
    WAF_SSRF = 25
    WAF_SSTI = 26
    WAF_XXE = 27
    WAF_LDAP = 28
    WAF_XSS = 29
    WAF_SQLI = 30
    WAF_FIXATION = 31
    WAF_JAVA = 32
    WAF_CUSTOM = 33
    WAF_CRS = 34

    @property
    def decision(self) -> str:
        """Label of a decision in shadow mode."""
        return self.name.lower()


def _labelled(prefix: str) -> dict[str, FilterEvent]:
    """Return the events whose names begin so, by their labels."""
    return {each.name.removeprefix(prefix).lower(): each for each in FilterEvent if each.name.startswith(prefix)}


COPIES: Final = _labelled("COPY_")
SHADOW_DECISIONS: Final = tuple(event for event in FilterEvent if FilterEvent.PASS <= event <= FilterEvent.RAISE)
HELPER_RESULTS: Final = _labelled("HELPER_")
COMPOSITIONS: Final = "(compose)"
"""Name under which requests of compositions to their helper processes are counted. No filter can have it."""
WAF_ATTACKS: Final = _labelled("WAF_")
"""Classes of attacks, as in the tags of rules."""


class WebsocketSide(IntEnum):
    """Side that sends a message, or closes a WebSocket."""

    CLIENT = 0
    UPSTREAM = 1
    GATEWAY = 2


class WebsocketMessage(IntEnum):
    """Kinds of messages and control frames that are counted."""

    TEXT = 0
    BINARY = 1
    PING = 2
    PONG = 3


class CodingOperation(IntEnum):
    """Operation on a body with a content coding."""

    COMPRESS = 0
    DECOMPRESS = 1


class ContentCoding(IntEnum):
    """Content codings that are counted."""

    GZIP = 0
    BR = 1
    ZSTD = 2

    @classmethod
    def named(cls, coding: bytes) -> "ContentCoding":
        """Return the member for the name of a coding. Raises `KeyError`."""
        return cls[coding.decode().upper()]


class SloCount(IntEnum):
    """Counts of a route with service level objectives."""

    AVAILABILITY_ALL = 0
    AVAILABILITY_BAD = 1
    LATENCY_ALL = 2
    LATENCY_BAD = 3


VALIDATED_MESSAGES: Final = ("request", "response")
CACHE_RESULTS: Final = ("hit", "stale", "revalidated", "miss", "collapsed", "bypass")
"""Results of a cache for a request, as in the log: answered from the store, fresh or stale; answered from the store
after the upstream has confirmed it; fetched from the upstream, by this request or by an equal one at the same time;
forwarded past the cache."""

CACHE_HITS: Final = ("hit", "stale")
"""Results of requests that were answered from the store alone."""
CACHE_MISS_REASONS: Final = ("stored", *(each.value.decode() for each in (*Unstorable, *NotStored)))
"""Results of misses: the response was stored, or why it was not, as in the `detail` of `Cache-Status`."""


def close_label(code: int) -> str:
    """Return the label of a close code. Private codes, which peers choose freely, have one label per thousand."""
    return f"{code}" if code < 3000 else f"{code // 1000}xxx"


class Family(NamedTuple):
    name: str
    kind: str
    """Kind of the metric: counter, gauge or histogram."""
    labels: tuple[str, ...]
    """Label names in alphabetical order."""
    text: str


REQUESTS: Final = Family(
    "fastgw_requests_total", "counter", ("listener", "method", "route", "status"), "Finished requests, each once."
)
REQUEST_SECONDS: Final = Family(
    "fastgw_request_seconds", "histogram", ("route",), "From the first byte of a request to the end of its exchange."
)
UPSTREAM_SECONDS: Final = Family(
    "fastgw_upstream_seconds", "histogram", ("upstream",), "Until the head of the upstream's response was complete."
)
REQUEST_BYTES: Final = Family("fastgw_request_bytes_total", "counter", ("route",), "Request bodies, as received.")
RESPONSE_BYTES: Final = Family("fastgw_response_bytes_total", "counter", ("route",), "Response bodies, as sent.")
RETRIES: Final = Family("fastgw_retries_total", "counter", ("upstream",), "Attempts after a request's first.")
RETRIES_DENIED: Final = Family(
    "fastgw_retries_denied_total", "counter", ("upstream",), "Retries and hedges that the retry budget did not allow."
)
HEDGES: Final = Family(
    "fastgw_hedges_total", "counter", ("upstream",), "Retries that were started while another attempt was in flight."
)
UPSTREAM_CONNECTS: Final = Family(
    "fastgw_upstream_connects_total", "counter", ("upstream",), "Upstream connection attempts."
)
POOL_WAITS: Final = Family(
    "fastgw_pool_waits_total", "counter", ("upstream",), "Requests that waited because their pool was full."
)
EJECTIONS: Final = Family(
    "fastgw_upstream_ejections_total", "counter", ("upstream",), "Targets that were ejected because they kept failing."
)
BREAKER_OPENINGS: Final = Family(
    "fastgw_upstream_breaker_openings_total",
    "counter",
    ("upstream",),
    "How often the circuit breaker of the upstream opened.",
)
FAULTS: Final = Family(
    "fastgw_faults_total",
    "counter",
    ("fault", "route", "upstream"),
    'Exchanges that ended in a fault of the table; upstream="_none" where none was chosen yet.',
)
TARGET_SECONDS: Final = Family(
    "fastgw_target_seconds",
    "histogram",
    ("target", "upstream"),
    "Until the head of the target's response was complete, of answers that were passed on.",
)
TARGET_ERRORS: Final = Family(
    "fastgw_target_errors_total",
    "counter",
    ("fault", "target", "upstream"),
    'Attempts at a target that failed, also where a retry succeeded; fault="status_5xx" for its answers of 500 and '
    "above.",
)
LOG_RECORDS_DROPPED: Final = Family(
    "fastgw_log_records_dropped_total",
    "counter",
    (),
    "Access log lines that were dropped: a log was full, stuck or gone.",
)
TRACE_SPANS: Final = Family(
    "fastgw_trace_spans_total",
    "counter",
    ("result",),
    "Spans of traces: exported to the collector; dropped because the queue was full; or failed, because the collector "
    "rejected them or was unreachable for too long.",
)
FILTER_ERRORS: Final = Family(
    "fastgw_filter_errors_total", "counter", ("filter",), "Steps of a filter that raised. Answered 500, never a pass."
)
FILTER_TIMEOUTS: Final = Family(
    "fastgw_filter_timeouts_total", "counter", ("filter",), "Steps of a filter that waited for too long. Answered 504."
)
FILTER_AWAY: Final = Family(
    "fastgw_filter_away_total",
    "counter",
    ("filter",),
    "Requests that a limit decided without the Redis of `state`, as it was unreachable.",
)
FILTER_REFUSALS: Final = Family(
    "fastgw_filter_refusals_total",
    "counter",
    ("consumer", "filter"),
    "Requests refused by a limit: rate_limit, quota, concurrency, graphql, sequence, websocket, fault; "
    'consumer="_none" without an authenticated client, "_other" for folded and unconfigured consumers.',
)
FILTER_HELPER_REQUESTS: Final = Family(
    "fastgw_filter_helper_requests_total",
    "counter",
    ("filter", "result"),
    'Requests of a filter, or of compositions (filter="(compose)"), to its helper processes: answered, late (after the '
    "deadline), busy (the queue was full, or there was no process), failed.",
)
WAF_BLOCKED: Final = Family(
    "fastgw_waf_blocked_total",
    "counter",
    ("attack", "filter"),
    "Requests that the filter waf has refused, by the class of attack with the highest score.",
)
FILTER_COPIES: Final = Family(
    "fastgw_filter_copies_total",
    "counter",
    ("filter", "result"),
    "Copies of requests by what became of them: sent, different (answered otherwise), failed, skipped (not made).",
)
FILTER_SHADOW_DECISIONS: Final = Family(
    "fastgw_filter_shadow_decisions_total",
    "counter",
    ("decision", "filter", "route"),
    "Requests by what a filter in shadow would have done: pass, change, answer, raise; unknown when it took too long "
    "or would have acted on something that is not judged in shadow.",
)
CONSUMER_REQUESTS: Final = Family(
    "fastgw_consumer_requests_total",
    "counter",
    ("consumer",),
    'Finished requests of authenticated clients; consumer="_other" for folded and unconfigured consumers.',
)
WEBSOCKET_MESSAGES: Final = Family(
    "fastgw_websocket_messages_total",
    "counter",
    ("kind", "listener", "route", "sender"),
    "Messages (text, binary) and control frames (ping, pong) on WebSockets of the filter websocket, by the side that "
    "sent them.",
)
WEBSOCKET_CLOSES: Final = Family(
    "fastgw_websocket_closes_total",
    "counter",
    ("by", "code", "listener", "route"),
    "Ended WebSockets of the filter websocket, by close code and by the side that closed first: client, upstream or "
    'gateway; code="1006" without a close frame, "3xxx" and "4xxx" for private codes.',
)
CODING_INPUT_BYTES: Final = Family(
    "fastgw_content_coding_input_bytes_total",
    "counter",
    ("encoding", "operation", "route"),
    "Bodies before compression of responses (compress) or decompression of requests (decompress).",
)
CODING_OUTPUT_BYTES: Final = Family(
    "fastgw_content_coding_output_bytes_total",
    "counter",
    ("encoding", "operation", "route"),
    "Bodies after compression of responses (compress) or decompression of requests (decompress).",
)
CACHE_REQUESTS: Final = Family(
    "fastgw_cache_requests_total",
    "counter",
    ("result", "route"),
    "Requests of routes with the filter cache, by result: hit, stale, revalidated, miss, collapsed (answered with the "
    "response to an equal request) or bypass.",
)
CACHE_MISSES: Final = Family(
    "fastgw_cache_misses_total",
    "counter",
    ("reason", "route"),
    "Responses that a cache has fetched, by reason: stored, or why they were not, as in the detail of Cache-Status.",
)
VALIDATION_REPORTS: Final = Family(
    "fastgw_validation_reports_total",
    "counter",
    ("message", "route"),
    "Reports of requests and responses that do not conform to their schema and pass, because validate or openapi only "
    "reports them. Requests that are refused are in fastgw_faults_total.",
)
REQUEST_DURATION: Final = Family(
    "fastgw_request_duration_seconds",
    "histogram",
    ("route",),
    "From the first byte of a request to the end of its exchange, with the labels and buckets of "
    "`telemetry.metrics.request_duration`. Absent without it.",
)
REQUEST_DURATION_FOLDED: Final = Family(
    "fastgw_request_duration_folded_total",
    "counter",
    (),
    'Requests that fastgw_request_duration_seconds counts with all labels "_other": there are too many combinations.',
)
SLO_REQUESTS: Final = Family(
    "fastgw_slo_requests_total",
    "counter",
    ("result", "route", "slo"),
    "Requests of routes with service level objectives (availability, latency) that meet them (good) or not (bad).",
)
GRPC_CALLS: Final = Family(
    "fastgw_grpc_calls_total",
    "counter",
    ("grpc_status", "route"),
    "Finished gRPC calls to upstreams with `protocol: grpc`, with a status of the target or of the gateway, by its "
    "name: OK, NOT_FOUND and so on.",
)
ROUTES_FOLDED: Final = Family("fastgw_routes_folded", "gauge", (), 'Routes counted together as route="_other".')
TARGETS_FOLDED: Final = Family(
    "fastgw_targets_folded", "gauge", (), 'Targets counted together as target="_other", upstream="_other".'
)
UPSTREAMS_FOLDED: Final = Family(
    "fastgw_upstreams_folded", "gauge", (), 'Upstreams counted together as upstream="_other".'
)
CONSUMERS_FOLDED: Final = Family(
    "fastgw_consumers_folded", "gauge", (), 'Consumers counted together as consumer="_other".'
)

FAMILIES: Final = tuple(family for family in tuple(globals().values()) if isinstance(family, Family))
"""All of them, in the order of a scrape."""
