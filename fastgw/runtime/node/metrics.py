"""Metrics of the node for Prometheus, read from shared memory and /proc, without involving the workers."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Final, NamedTuple

from fastgw import VERSION
from fastgw.admin.node_interface import AcmeInfo, CertificateInfo, FeedInfo, OcspInfo, OnDemandInfo, VerifierInfo
from fastgw.admin.prometheus_text import (
    OPENMETRICS,
    PROMETHEUS,
    ExpositionFormat,
    Sample,
    bucket_labels,
    exemplar_text,
    exposed,
    histogram,
    labels,
    negotiate_format,
)
from fastgw.cache.store import StoreNumbers
from fastgw.downstream.tls.connection import HandshakeOutcome
from fastgw.observe.metrics import families
from fastgw.observe.metrics.exemplars import Exemplar, latest
from fastgw.observe.metrics.families import (
    BOUNDS_S,
    COPIES,
    HELPER_RESULTS,
    NONE,
    OTHER,
    WAF_ATTACKS,
    Family,
    FilterEvent,
)
from fastgw.observe.metrics.request_meter import MeterPlan
from fastgw.observe.metrics.series_layout import (
    ROUTE_REQUEST_BYTES,
    ROUTE_RESPONSE_BYTES,
    SUM,
    TARGET_FAULT_WORDS,
    TARGET_SERVER_ERRORS,
    UPSTREAM_CONNECTS,
    UPSTREAM_EJECTIONS,
    UPSTREAM_HEDGES,
    UPSTREAM_OPENINGS,
    UPSTREAM_RETRIES,
    UPSTREAM_RETRIES_DENIED,
    UPSTREAM_WAITS,
    CellKind,
    Series,
    exemplar_word,
)
from fastgw.observe.metrics.totals import Totals
from fastgw.runtime.node.measured_metrics import counted_requests, measured
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.runtime.process.process_stats import Process, process
from fastgw.shm.health_words import HealthVerdict
from fastgw.shm.memory import Column, SharedMemory
from fastgw.sync.credential_cache import HITS, MISSES
from fastgw.upstream.health.circuit_breaker import BreakerPhase

STATUS_5XX: Final = "status_5xx"
"""Label instead of a fault: a response with a status of 500 and above."""
CONTENT_TYPE: Final = PROMETHEUS.content_type

_STREAMS: Final = "Each further concurrent request of an HTTP/2 connection counts as one."
CONNECTIONS: Final = Family("fastgw_connections", "gauge", (), f"Client connections. {_STREAMS}")
ACCEPTED: Final = Family("fastgw_connections_accepted_total", "counter", (), f"Accepted client connections. {_STREAMS}")
EVICTED: Final = Family(
    "fastgw_connections_evicted_total",
    "counter",
    ("kind",),
    "Idle client connections, and UDP sessions, that were closed to make room for others.",
)
KEPT_BODIES: Final = Family(
    "fastgw_kept_body_bytes",
    "gauge",
    (),
    "Memory of bodies beyond 64 KiB of each: of requests that are buffered for retries, of answers of parts and "
    "functions, and of responses made here that wait for their clients; and of bodies beyond 4 KiB of each that are "
    "held for filters.",
)
REQUESTS_IN_FLIGHT: Final = Family(
    "fastgw_requests_in_flight",
    "gauge",
    ("upstream",),
    "Requests in flight to the upstream, and relayed connections and UDP sessions, as of the last second.",
)
POOL_IN_USE: Final = Family("fastgw_pool_in_use_connections", "gauge", ("upstream",), "Upstream connections in use.")
POOL_IDLE: Final = Family("fastgw_pool_idle_connections", "gauge", ("upstream",), "Idle upstream connections.")
POOL_WAITING: Final = Family(
    "fastgw_pool_waiting_requests", "gauge", ("upstream",), "Requests that wait for a connection."
)
WEBSOCKET_API_CONNECTIONS: Final = Family(
    "fastgw_websocket_api_connections",
    "gauge",
    ("route",),
    "Open connections of routes with `websocket_api`. They can be sent messages; those that are closing cannot.",
)
TOKEN_HITS: Final = Family(
    "fastgw_token_cache_hits_total",
    "counter",
    (),
    "Credential cache hits: credentials that a worker did not have to verify again.",
)
TOKEN_MISSES: Final = Family(
    "fastgw_token_cache_misses_total", "counter", (), "Credential cache misses: credentials that had to be verified."
)
LIMITS_SHARED: Final = Family(
    "fastgw_limits_shared_decisions_total", "counter", (), "Decisions of limits for keys that share one counter."
)
LIMITS_FULL: Final = Family(
    "fastgw_limits_full_refusals_total", "counter", (), "Requests refused because the table of limits was full."
)
WORKERS: Final = Family("fastgw_workers", "gauge", (), "Workers that accept connections.")
DEATHS: Final = Family("fastgw_child_deaths_total", "counter", (), "Processes that died and were replaced.")
BUILD: Final = Family("fastgw_build_info", "gauge", ("version",), "Always 1, with the version as label.")
START_TIME: Final = Family("fastgw_start_time_seconds", "gauge", (), "When the gateway started, epoch seconds.")
ANALYTICS_FAILURES: Final = Family(
    "fastgw_analytics_write_failures_total", "counter", (), "Failed writes of the analytics database; counts wait."
)
RELOADS: Final = Family("fastgw_reloads_total", "counter", ("result",), "Reloads: ok, or failed and without effect.")
LAST_RELOAD: Final = Family(
    "fastgw_config_last_reload_success",
    "gauge",
    (),
    "Whether the last configuration and the files that it names were loaded: 1 or 0.",
)
STALE: Final = Family(
    "fastgw_config_stale",
    "gauge",
    (),
    "Whether the files on disk differ from the active configuration: 1 or 0.",
)
LAST_RELOAD_TIME: Final = Family(
    "fastgw_config_last_reload_timestamp_seconds",
    "gauge",
    (),
    "When this configuration became active, epoch seconds.",
)
GENERATION: Final = Family(
    "fastgw_config_generation", "gauge", ("worker",), "Generation of the worker's active configuration."
)
WORKER_CONNECTIONS: Final = Family(
    "fastgw_worker_connections", "gauge", ("worker",), "Client connections of the worker."
)
WORKER_LAG: Final = Family(
    "fastgw_worker_loop_lag_seconds", "gauge", ("worker",), "The longest event loop delay in the last 5 to 10 seconds."
)
WORKER_START: Final = Family(
    "fastgw_worker_start_time_seconds", "gauge", ("worker",), "When the process started, epoch seconds."
)
WORKER_CPU: Final = Family("fastgw_worker_cpu_seconds_total", "counter", ("worker",), "CPU time, user and system.")
WORKER_MEMORY: Final = Family(
    "fastgw_worker_resident_memory_bytes", "gauge", ("worker",), "Resident memory, including shared memory."
)
WORKER_FDS: Final = Family("fastgw_worker_open_fds", "gauge", ("worker",), "Open file descriptors.")

HANDSHAKES: Final = Family(
    "fastgw_tls_handshakes_total", "counter", (), "Completed TLS handshakes of clients, including resumptions."
)
RESUMPTIONS: Final = Family("fastgw_tls_resumptions_total", "counter", (), "TLS handshakes that resumed a session.")
HANDSHAKE_FAILURES: Final = Family(
    "fastgw_tls_handshake_failures_total", "counter", ("fault",), "Failed TLS handshakes of clients."
)
CERTIFICATE_EXPIRY: Final = Family(
    "fastgw_certificate_expiry_timestamp_seconds",
    "gauge",
    ("certificate", "listener"),
    "When a server certificate expires, epoch seconds.",
)
ACME_ATTEMPTS: Final = Family(
    "fastgw_acme_attempts_total",
    "counter",
    ("result",),
    "Attempts to obtain a certificate by ACME: ok, or failed.",
)
ACME_ISSUED: Final = Family(
    "fastgw_acme_certificate_issued",
    "gauge",
    ("certificate",),
    "Whether a certificate was obtained by ACME (1), or clients get a placeholder (0).",
)
ACME_ORDERS: Final = Family(
    "fastgw_acme_orders",
    "gauge",
    ("state",),
    "Certificates whose order is due: this_node or another_node has the lease to order it, or it waits_for_redis.",
)
ACME_ON_DEMAND: Final = Family(
    "fastgw_acme_on_demand_names",
    "gauge",
    ("state",),
    "Names of certificates on demand: issued, or pending (ordered, or asked about).",
)
ACME_REFUSED: Final = Family(
    "fastgw_acme_on_demand_refused_total",
    "counter",
    ("reason",),
    "Names that got no certificate on demand, by reason.",
)
ACME_SUCCESS: Final = Family(
    "fastgw_acme_last_attempt_success",
    "gauge",
    ("certificate",),
    "Whether the last attempt to obtain the certificate has succeeded: 1 or 0.",
)
ACME_RENEWAL: Final = Family(
    "fastgw_acme_renewal_timestamp_seconds",
    "gauge",
    ("certificate",),
    "When the certificate is renewed, epoch seconds.",
)
OCSP_EXPIRY: Final = Family(
    "fastgw_ocsp_response_expiry_timestamp_seconds",
    "gauge",
    ("certificate",),
    "When the stapled OCSP response of a certificate ends, epoch seconds. There is none while nothing is stapled.",
)
OCSP_SUCCESS: Final = Family(
    "fastgw_ocsp_last_attempt_success",
    "gauge",
    ("certificate",),
    "Whether the last attempt to fetch an OCSP response has succeeded, and the certificate is good: 1 or 0.",
)
OCSP_REVOKED: Final = Family(
    "fastgw_ocsp_certificate_revoked",
    "gauge",
    ("certificate",),
    "Whether the OCSP responder says that a certificate is revoked: 1 or 0.",
)
CLIENT_AUTH_EXPIRY: Final = Family(
    "fastgw_client_auth_expiry_timestamp_seconds",
    "gauge",
    ("file", "kind", "listener"),
    "When a CA certificate (ca) or revocation list (crl) that verifies client certificates expires, epoch seconds.",
)
FEED_UP: Final = Family(
    "fastgw_feed_up",
    "gauge",
    ("feed", "used_by"),
    "Whether the last fetch of data for filters, such as keys and tokens, succeeded: 1 or 0.",
)
FEED_SUCCESS: Final = Family(
    "fastgw_feed_last_success_timestamp_seconds",
    "gauge",
    ("feed", "used_by"),
    "When the data was last fetched, epoch seconds.",
)

TARGETS: Final = Family(
    "fastgw_upstream_targets",
    "gauge",
    ("health", "upstream"),
    "Targets of upstreams with health checks: healthy, unhealthy, ejected; unknown without a recent check.",
)
BREAKER: Final = Family(
    "fastgw_upstream_breaker_state",
    "gauge",
    ("upstream",),
    "Circuit breaker of the upstream: 0 closed, 1 half-open, 2 open.",
)
BREAKER_STATES: Final = {BreakerPhase.CLOSED: 0, BreakerPhase.HALF_OPEN: 1, BreakerPhase.OPEN: 2}

CONCURRENCY_LIMIT: Final = Family(
    "fastgw_concurrency_limit",
    "gauge",
    ("filter",),
    "Concurrency limit of requests that are counted together, as configured or adaptive. "
    "Of several filters of one name it is the sum.",
)
CONCURRENCY_IN_FLIGHT: Final = Family(
    "fastgw_concurrency_in_flight_requests", "gauge", ("filter",), "Requests in flight that are counted together."
)
STATE_UP: Final = Family(
    "fastgw_state_up",
    "gauge",
    (),
    "Whether the Redis of `state` is reachable from all workers that use it: 1 or 0. Absent without `state`.",
)

CACHE_BYTES: Final = Family(
    "fastgw_cache_bytes", "gauge", ("store",), "Bytes of stored responses, with those that are yet to be overwritten."
)
CACHE_OBJECTS: Final = Family(
    "fastgw_cache_objects",
    "gauge",
    ("store",),
    "Stored responses. A list of variants (`Vary`) and a rule of a path (`No-Vary-Search`) count as one each.",
)
CACHE_EVICTIONS: Final = Family(
    "fastgw_cache_evictions_total", "counter", ("reason", "store"), "Stored responses that were evicted, by reason."
)

CACHE_DISK_BYTES: Final = Family("fastgw_cache_disk_bytes", "gauge", ("store",), "Bytes of the files of a disk tier.")
CACHE_DISK_OBJECTS: Final = Family(
    "fastgw_cache_disk_objects", "gauge", ("store",), "Stored responses in a disk tier, also those in memory."
)
CACHE_DISK_HITS: Final = Family(
    "fastgw_cache_disk_hits_total", "counter", ("store",), "Look-ups that found on disk what memory did not have."
)
CACHE_DISK_WRITES: Final = Family(
    "fastgw_cache_disk_writes_total",
    "counter",
    ("result", "store"),
    "Stored responses for the disk tier: written, or dropped because the disk was too slow or full.",
)
CACHE_DISK_EVICTIONS: Final = Family(
    "fastgw_cache_disk_evictions_total",
    "counter",
    ("reason", "store"),
    "Files removed from the disk tier: capacity, or damaged (they did not pass their check).",
)
CACHE_DISK_ERRORS: Final = Family(
    "fastgw_cache_disk_errors_total", "counter", ("store",), "Accesses to the disk tier that failed."
)
CACHE_DISK_UP: Final = Family(
    "fastgw_cache_disk_up", "gauge", ("store",), "0: the disk tier is not used, as a purge could not be written to it."
)
CACHE_DISK: Final = (
    CACHE_DISK_BYTES,
    CACHE_DISK_OBJECTS,
    CACHE_DISK_HITS,
    CACHE_DISK_WRITES,
    CACHE_DISK_EVICTIONS,
    CACHE_DISK_ERRORS,
    CACHE_DISK_UP,
)
CACHE_REDIS_HITS: Final = Family(
    "fastgw_cache_redis_hits_total",
    "counter",
    ("store",),
    "Look-ups that found in Redis what neither memory nor disk had.",
)
CACHE_REDIS_WRITES: Final = Family(
    "fastgw_cache_redis_writes_total",
    "counter",
    ("result", "store"),
    "Stored responses for the Redis tier: written, or dropped because too many were in flight or Redis refused them.",
)
CACHE_REDIS_DAMAGED: Final = Family(
    "fastgw_cache_redis_damaged_total",
    "counter",
    ("store",),
    "Values removed from the Redis tier because they did not pass their check.",
)
CACHE_REDIS: Final = (CACHE_REDIS_HITS, CACHE_REDIS_WRITES, CACHE_REDIS_DAMAGED)

SLO_OBJECTIVE: Final = Family(
    "fastgw_slo_objective_ratio",
    "gauge",
    ("route", "slo"),
    "Objective of a route: share of its requests that are good. Absent without requests.",
)
SLO_BURN_RATE: Final = Family(
    "fastgw_slo_burn_rate",
    "gauge",
    ("route", "slo", "window"),
    "How fast a route spends its error budget: share of bad requests in the window, divided by the share that the "
    "objective allows. 1 = just within the objective. Windows begin with the control process.",
)
METRIC_PUSHES: Final = Family(
    "fastgw_metric_pushes_total",
    "counter",
    ("exporter", "result"),
    "Pushes of metrics (otlp, statsd): ok, or failed. Those that fail are repeated with the counts of then.",
)
OF_SLO: Final = (SLO_OBJECTIVE, SLO_BURN_RATE)
OF_HEALTH: Final = (TARGETS, BREAKER)
OF_CONCURRENCY: Final = (CONCURRENCY_LIMIT, CONCURRENCY_IN_FLIGHT)
POOLS: Final = (POOL_IN_USE, POOL_IDLE, POOL_WAITING)
OF_THE_NODE: Final = (
    CONNECTIONS,
    ACCEPTED,
    EVICTED,
    KEPT_BODIES,
    TOKEN_HITS,
    TOKEN_MISSES,
    LIMITS_SHARED,
    LIMITS_FULL,
    WORKERS,
    DEATHS,
    BUILD,
    START_TIME,
    ANALYTICS_FAILURES,
    RELOADS,
    LAST_RELOAD,
    LAST_RELOAD_TIME,
    STALE,
)
OF_WORKERS: Final[Mapping[Family, Callable[[ShmLayout, Column], int | float]]] = {
    GENERATION: lambda words, column: column.words[words.generation],
    WORKER_CONNECTIONS: lambda words, column: column.words[words.connections],
    WORKER_LAG: lambda words, column: words.lag_s(column),
}
OF_PROCESSES: Final[Mapping[Family, Callable[[Process], int | float]]] = {
    WORKER_CPU: lambda process: process.cpu_s,
    WORKER_MEMORY: lambda process: process.resident_bytes,
    WORKER_FDS: lambda process: process.open_fds,
}
OF_TLS: Final = (HANDSHAKES, RESUMPTIONS, HANDSHAKE_FAILURES, CERTIFICATE_EXPIRY, CLIENT_AUTH_EXPIRY)
CACHES: Final = (CACHE_BYTES, CACHE_OBJECTS, CACHE_EVICTIONS, *CACHE_DISK, *CACHE_REDIS)
ACME: Final = (ACME_ATTEMPTS, ACME_ISSUED, ACME_SUCCESS, ACME_RENEWAL, ACME_ORDERS, ACME_ON_DEMAND, ACME_REFUSED)
OCSP: Final = (OCSP_EXPIRY, OCSP_SUCCESS, OCSP_REVOKED)
FEEDS: Final = (FEED_UP, FEED_SUCCESS)
FAMILIES: Final = (
    *families.FAMILIES,
    REQUESTS_IN_FLIGHT,
    *POOLS,
    WEBSOCKET_API_CONNECTIONS,
    *OF_HEALTH,
    *OF_CONCURRENCY,
    STATE_UP,
    *OF_THE_NODE,
    *OF_TLS,
    *ACME,
    *OCSP,
    *CACHES,
    *FEEDS,
    *OF_SLO,
    METRIC_PUSHES,
    *OF_WORKERS,
    WORKER_START,
    *OF_PROCESSES,
)
"""All metric families, in the order of a scrape."""

OfTls = tuple[Sequence[CertificateInfo], Sequence[VerifierInfo]]
"""Certificates of listeners, and certificates that verify clients."""

EXPORTERS: Final = ("otlp", "statsd")
_BOUNDS: Final = {bound: "+Inf" if bound == inf else f"{bound}" for bound in (*BOUNDS_S, inf)}


class OfUpstream(NamedTuple):
    """State of an upstream with health checks of any kind."""

    targets: Mapping[HealthVerdict, int] | None
    """Number of targets by state; None: health is not checked."""
    breaker: BreakerPhase | None
    """State of the circuit breaker; None: there is none."""


class Exposition:
    """Metrics of one node. A worker's label is the number of its column, from 1, which is unique."""

    def __init__(
        self,
        series: Series,
        shared: SharedMemory,
        words: ShmLayout,
        begun_date: float,
        begun_at: float,
        of_tls: Callable[[], OfTls] = lambda: ((), ()),
        feeds: Callable[[], Sequence[FeedInfo]] = tuple,
        health: Callable[[], Mapping[str, OfUpstream]] = dict,
        concurrency: Callable[[], Mapping[str, tuple[int, int]]] = dict,
        is_stale: Callable[[], bool] = bool,
        keeps_files: Callable[[], bool] = bool,
        caches: Callable[[], Mapping[str, StoreNumbers]] = dict,
        plan: Callable[[], MeterPlan | None] = lambda: None,
        burn_rates: Callable[[], Mapping[tuple[str, str, str], float]] = dict,
        acme: Callable[[], Sequence[AcmeInfo]] = tuple,
        websocket_apis: Callable[[], Iterable[str]] = tuple,
        on_demand: Callable[[], OnDemandInfo | None] = lambda: None,
        ocsp: Callable[[], Sequence[OcspInfo]] = tuple,
    ) -> None:
        """`begun_date`, `begun_at`: start of the gateway, in epoch and in monotonic seconds. `is_stale`: whether the
        configuration's own files differ from the active configuration; `keeps_files`: whether the present contents of a
        referenced file are not active; `caches`: stores of the response cache; `plan`: what is measured; `burn_rates`:
        of service level objectives, by route, objective and window; `websocket_apis`: names of the routes with
        `websocket_api`, which are reported without connections as well.
        """
        self._is_stale, self._keeps_files = is_stale, keeps_files
        self._generations = {0: series}
        self._shared = shared
        self._words = words
        self._begun_date = begun_date
        self._zero_date = begun_date - begun_at  # of the monotonic clock, whatever the other one is set to later
        self._of_tls = of_tls
        self._feeds = feeds
        self._health = health
        self._concurrency = concurrency
        self._caches = caches
        self._plan = plan
        self._burn_rates = burn_rates
        self._acme, self._on_demand, self._ocsp = acme, on_demand, ocsp
        self._websocket_apis = websocket_apis

    def prepare(self, generation: int, series: Series) -> None:
        """Add the names of a generation before it is committed."""
        self._generations = {0: self.series, generation: series}

    @property
    def series(self) -> Series:
        """Return the series of the committed generation, which the supervisor writes to shared memory before workers
        count with it.
        """
        committed = self._shared.supervisor.words[self._words.generation]
        return self._generations.get(committed, self._generations[0])

    def text(self, accept: bytes = b"") -> tuple[bytes, bytes]:
        """Return content type and text, in the format requested by this Accept header."""
        form: ExpositionFormat = negotiate_format(accept)
        exemplars = {families.REQUEST_SECONDS.name: self._exemplar_texts()} if form is OPENMETRICS else {}
        return form.content_type, exposed(self.families(), form, exemplars)

    def exemplars(self) -> Mapping[str, Mapping[int, Exemplar]]:
        """Return the exemplars of `fastgw_request_seconds` by route and bucket."""
        columns = [self._words.counted(column) for column in self._shared.columns]
        found: dict[str, dict[int, Exemplar]] = {}
        series = self.series
        for name, row in series.routes.items():
            for bucket in range(SUM):
                known = latest(columns, exemplar_word(row, bucket), "" if name == NONE else name)
                if known is not None:
                    found.setdefault(name, {})[bucket] = known
        return found

    def _exemplar_texts(self) -> Mapping[str, str]:
        bounds = tuple(_BOUNDS.values())
        return {
            bucket_labels(labels(families.REQUEST_SECONDS, route), bounds[bucket]): exemplar_text(*each)
            for route, buckets in self.exemplars().items()
            for bucket, each in buckets.items()
        }

    def families(self) -> Iterator[tuple[Family, Sequence[Sample] | Iterator[Sample]]]:
        series, found = self._totals()
        plan = self._plan()
        yield from counted(series, found, plan)
        yield from self._load(series)
        yield WEBSOCKET_API_CONNECTIONS, self._websockets(series)
        yield from zip(OF_HEALTH, self._healths(series), strict=True)
        yield from zip(OF_CONCURRENCY, self._limited(), strict=True)
        is_up = self._words.is_state_up(self._shared)
        yield STATE_UP, [] if is_up is None else [("", "", int(is_up))]
        yield from zip(OF_THE_NODE, self._node(), strict=True)
        yield from zip(OF_TLS, self._tls(), strict=True)
        yield from zip(ACME, self._issued(), strict=True)
        yield from zip(OCSP, self._stapled(), strict=True)
        yield from zip(CACHES, self._stored(), strict=True)
        yield from zip(FEEDS, self._fed(), strict=True)
        yield from zip(OF_SLO, self._objectives(found, plan), strict=True)
        yield METRIC_PUSHES, self._pushes()
        yield from self._workers()

    def _totals(self) -> tuple[Series, Totals]:
        """Return the names of a committed generation, with the counts read while it was committed."""
        while True:  # at most twice: one of the following generations is known
            series = self.series
            found = self._words.totals(self._shared, series)
            if self.series is series:
                return series, found

    def _load(self, series: Series) -> Iterator[tuple[Family, Sequence[Sample]]]:
        """Yield the requests in flight and the pools of all upstreams."""
        in_flight = self._words.targets.requests_in_flight(self._shared, series.slot_table)
        yield REQUESTS_IN_FLIGHT, _of_upstreams(REQUESTS_IN_FLIGHT, in_flight, series)
        busy = self._words.targets.busy(self._shared, series.slot_table)
        for number, family in enumerate(POOLS):
            yield family, _of_upstreams(family, {name: numbers[number] for name, numbers in busy.items()}, series)

    def _websockets(self, series: Series) -> Sequence[Sample]:
        found = {name if name in series.routes else OTHER: 0 for name in self._websocket_apis()}
        found |= self._words.websockets(self._shared, series)
        return [("", labels(WEBSOCKET_API_CONNECTIONS, name), count) for name, count in found.items()]

    def _stored(self) -> Iterator[Sequence[Sample]]:
        """Return bytes, objects and evictions of the stores of the response cache."""
        stores = self._caches()
        yield [("", labels(CACHE_BYTES, name), each.bytes) for name, each in stores.items()]
        yield [("", labels(CACHE_OBJECTS, name), each.objects) for name, each in stores.items()]
        yield [
            ("", labels(CACHE_EVICTIONS, reason.value, name), count)
            for name, each in stores.items()
            for reason, count in each.evictions.items()
        ]
        disks = [(name, each.disk) for name, each in stores.items() if each.disk is not None]
        yield [("", labels(CACHE_DISK_BYTES, name), each.bytes) for name, each in disks]
        yield [("", labels(CACHE_DISK_OBJECTS, name), each.objects) for name, each in disks]
        yield [("", labels(CACHE_DISK_HITS, name), each.hits) for name, each in disks]
        yield [
            ("", labels(CACHE_DISK_WRITES, result, name), count)
            for name, each in disks
            for result, count in (("written", each.written), ("dropped", each.dropped))
        ]
        yield [
            ("", labels(CACHE_DISK_EVICTIONS, reason, name), count)
            for name, each in disks
            for reason, count in (("capacity", each.evicted), ("damaged", each.damaged))
        ]
        yield [("", labels(CACHE_DISK_ERRORS, name), each.errors) for name, each in disks]
        yield [("", labels(CACHE_DISK_UP, name), int(not each.has_failed)) for name, each in disks]
        redis = [(name, each.redis) for name, each in stores.items() if each.redis is not None]
        yield [("", labels(CACHE_REDIS_HITS, name), each.hits) for name, each in redis]
        yield [
            ("", labels(CACHE_REDIS_WRITES, result, name), count)
            for name, each in redis
            for result, count in (("written", each.written), ("dropped", each.dropped))
        ]
        yield [("", labels(CACHE_REDIS_DAMAGED, name), each.damaged) for name, each in redis]

    def _healths(self, series: Series) -> Iterator[Sequence[Sample]]:
        """Return the health of upstreams. Targets of aggregated upstreams are added up; breakers are reported only by
        name.
        """
        fares = self._health()
        targets: Counter[tuple[str, str]] = Counter()
        for upstream, each in fares.items():
            for verdict, count in (each.targets or {}).items():
                targets[verdict.name.lower(), upstream if upstream in series.upstreams else OTHER] += count
        yield [("", labels(TARGETS, *key), count) for key, count in targets.items()]
        breakers = {name: each.breaker for name, each in fares.items() if name in series.upstreams}
        yield [("", labels(BREAKER, name), BREAKER_STATES[phase]) for name, phase in breakers.items() if phase]

    def _limited(self) -> Iterator[Sequence[Sample]]:
        found = self._concurrency()
        for index, family in enumerate(OF_CONCURRENCY):
            yield [("", labels(family, name), numbers[index]) for name, numbers in found.items()]

    def _node(self) -> Iterator[Sequence[Sample]]:
        words, own, total = self._words, self._shared.supervisor.words, self._shared.total
        yield [("", "", total(words.connections))]
        yield [("", "", total(words.accepted))]
        evictions = words.evictions(self._shared)
        yield [("", labels(EVICTED, kind.name.lower()), count) for kind, count in evictions.items()]
        yield [("", "", total(words.kept_bytes))]
        yield [("", "", total(words.tokens + HITS))]
        yield [("", "", total(words.tokens + MISSES))]
        yield [("", "", self._shared.cells.overflowed)]
        yield [("", "", self._shared.cells.refused)]
        yield [("", "", words.accepting(self._shared))]
        yield [("", "", own[words.deaths])]
        yield [("", labels(BUILD, VERSION), 1)]
        yield [("", "", self._begun_date)]
        yield [("", "", own[words.analytics_failures])]
        results = {"ok": own[words.reloads_ok], "failed": own[words.reloads_failed]}
        yield [("", labels(RELOADS, result), count) for result, count in results.items()]
        keeps_files = self._keeps_files()
        yield [("", "", int(not own[words.last_reload_failed] and not keeps_files))]
        yield [("", "", own[words.last_reload_date] or self._begun_date)]
        yield [("", "", int(keeps_files or self._is_stale()))]

    def _tls(self) -> Iterator[Sequence[Sample]]:
        ended = self._words.handshakes(self._shared)
        yield [("", "", ended[HandshakeOutcome.FULL] + ended[HandshakeOutcome.RESUMED])]
        yield [("", "", ended[HandshakeOutcome.RESUMED])]
        failures = [
            (outcome.name.lower(), count) for outcome, count in ended.items() if outcome > HandshakeOutcome.RESUMED
        ]
        yield [("", labels(HANDSHAKE_FAILURES, name), count) for name, count in failures]
        certificates, verifiers = self._of_tls()
        shown = {(each.certificate, each.listener): each.expires_date for each in certificates}
        yield [("", labels(CERTIFICATE_EXPIRY, *each), expires_date) for each, expires_date in shown.items()]
        ends = {(each.file, each.kind, each.listener): each.expires_date for each in verifiers}
        yield [("", labels(CLIENT_AUTH_EXPIRY, *each), date) for each, date in ends.items() if date is not None]

    def _issued(self) -> Iterator[Sequence[Sample]]:
        """Yield the samples of ACME. Certificates on demand are counted: labels with their names would be too many."""
        found, at, on_demand = self._acme(), self._words.acme_attempts, self._on_demand()
        known = [each for each in found if not each.on_demand]
        counts = self._shared.supervisor.words[at : at + 2]
        yield [("", labels(ACME_ATTEMPTS, name), n) for name, n in zip(("ok", "failed"), counts, strict=True) if found]
        yield [("", labels(ACME_ISSUED, each.certificate), int(each.issued)) for each in known]
        tried = [each for each in known if each.attempt_date is not None]
        yield [("", labels(ACME_SUCCESS, each.certificate), int(not each.problem)) for each in tried]
        dates = [(each.certificate, each.renews_date) for each in known]
        yield [("", labels(ACME_RENEWAL, name), date) for name, date in dates if date is not None]
        due = Counter[str](each.ordered_by for each in found)
        by = ("this_node", "another_node", "waits_for_redis") if found else ()
        yield [("", labels(ACME_ORDERS, name), due[name]) for name in by]
        numbers = {} if on_demand is None else {"issued": on_demand.names, "pending": on_demand.pending}
        yield [("", labels(ACME_ON_DEMAND, name), number) for name, number in numbers.items()]
        refused = {} if on_demand is None else on_demand.refused
        yield [("", labels(ACME_REFUSED, why), count) for why, count in refused.items()]

    def _stapled(self) -> Iterator[Sequence[Sample]]:
        found = self._ocsp()
        dates = [(each.certificate, each.expires_date) for each in found]
        yield [("", labels(OCSP_EXPIRY, name), date) for name, date in dates if date is not None]
        tried = [each for each in found if each.problem or each.expires_date is not None]
        yield [("", labels(OCSP_SUCCESS, each.certificate), int(not each.problem)) for each in tried]
        yield [("", labels(OCSP_REVOKED, each.certificate), int(each.revoked)) for each in found]

    def _fed(self) -> Iterator[Sequence[Sample]]:
        known = [each for each in self._feeds() if each.problem or each.last_success_date is not None]
        yield [("", labels(FEED_UP, each.feed, each.used_by), 0 if each.problem else 1) for each in known]
        dates = [(each, each.last_success_date) for each in known]
        yield [("", labels(FEED_SUCCESS, each.feed, each.used_by), date) for each, date in dates if date is not None]

    def _objectives(self, found: Totals, plan: MeterPlan | None) -> Iterator[Sequence[Sample]]:
        known = {} if plan is None else {route: plan.objectives_of(route) for route, _ in found.cells[CellKind.SLO]}
        yield [
            ("", labels(SLO_OBJECTIVE, route, name), objective)
            for route, each in known.items()
            if each is not None
            for name, objective in each.named.items()
        ]
        yield [("", labels(SLO_BURN_RATE, *key), rate) for key, rate in self._burn_rates().items()]

    def _pushes(self) -> Sequence[Sample]:
        own, at = self._shared.supervisor.words, self._words.metric_pushes
        results = [(exporter, result) for exporter in EXPORTERS for result in ("ok", "failed")]
        return [
            ("", labels(METRIC_PUSHES, *each), own[at + word]) for word, each in enumerate(results) if own[at + word]
        ]

    def _workers(self) -> Iterator[tuple[Family, Sequence[Sample]]]:
        alive = [(f"{number}", column) for number, column in enumerate(self._shared.columns, 1)]
        alive = [(worker, column) for worker, column in alive if column.words[self._words.pid]]
        for family, of_worker in OF_WORKERS.items():
            yield family, [("", labels(family, worker), of_worker(self._words, column)) for worker, column in alive]
        starts = [(worker, self._zero_date + column.words[self._words.began] / 1e9) for worker, column in alive]
        yield WORKER_START, [("", labels(WORKER_START, worker), date) for worker, date in starts]
        looked_at = [(worker, process(column.words[self._words.pid])) for worker, column in alive]
        for family, of_process in OF_PROCESSES.items():
            yield family, [("", labels(family, worker), of_process(seen)) for worker, seen in looked_at if seen]


def counted(
    series: Series, totals: Totals, plan: MeterPlan | None = None
) -> Iterator[tuple[Family, Sequence[Sample] | Iterator[Sample]]]:
    """Yield the metric families that the observers count. `plan`: what is measured."""
    yield counted_requests(series, totals, plan)
    for family, rows, word in (
        (families.REQUEST_SECONDS, totals.routes, SUM),
        (families.UPSTREAM_SECONDS, totals.upstreams, SUM),
        (families.REQUEST_BYTES, totals.routes, ROUTE_REQUEST_BYTES),
        (families.RESPONSE_BYTES, totals.routes, ROUTE_RESPONSE_BYTES),
        (families.RETRIES, totals.upstreams, UPSTREAM_RETRIES),
        (families.RETRIES_DENIED, totals.upstreams, UPSTREAM_RETRIES_DENIED),
        (families.HEDGES, totals.upstreams, UPSTREAM_HEDGES),
        (families.UPSTREAM_CONNECTS, totals.upstreams, UPSTREAM_CONNECTS),
        (families.POOL_WAITS, totals.upstreams, UPSTREAM_WAITS),
        (families.EJECTIONS, totals.upstreams, UPSTREAM_EJECTIONS),
        (families.BREAKER_OPENINGS, totals.upstreams, UPSTREAM_OPENINGS),
    ):
        if family.kind == "histogram":
            yield (
                family,
                (
                    sample
                    for name, row in rows.items()
                    for sample in histogram(labels(family, name), _BOUNDS, row, row[word] / 1e6)
                ),
            )
        else:
            yield family, [("", labels(family, name), row[word]) for name, row in rows.items()]
    names = dict.fromkeys((*series.slot_table.filters, *totals.filters))
    unused = (0,) * len(FilterEvent)
    for family, event in (
        (families.FILTER_ERRORS, FilterEvent.RAISED),
        (families.FILTER_TIMEOUTS, FilterEvent.LATE),
        (families.FILTER_AWAY, FilterEvent.AWAY),
    ):
        yield family, [("", labels(family, name), totals.filters.get(name, unused)[event]) for name in names]
    refusals = {(NONE, name): 0 for name in names} | dict(totals.cells[CellKind.REFUSAL])
    family = families.FILTER_REFUSALS
    yield family, [("", labels(family, *by), count) for by, count in refusals.items()]
    for family, results in ((families.FILTER_COPIES, COPIES), (families.FILTER_HELPER_REQUESTS, HELPER_RESULTS)):
        yield (
            family,
            [
                ("", labels(family, name, result), row[event])
                for name, row in totals.filters.items()
                for result, event in results.items()
                if row[event]
            ],
        )
    family = families.WAF_BLOCKED
    yield (
        family,
        [
            ("", labels(family, attack, name), row[event])
            for name, row in totals.filters.items()
            for attack, event in WAF_ATTACKS.items()
            if row[event]
        ],
    )
    family = families.CONSUMER_REQUESTS
    yield family, [("", labels(family, name), sum(row[:SUM])) for name, row in totals.consumers.items()]
    for family, kind in (
        (families.FILTER_SHADOW_DECISIONS, CellKind.SHADOW),
        (families.WEBSOCKET_MESSAGES, CellKind.WEBSOCKET_MESSAGE),
        (families.WEBSOCKET_CLOSES, CellKind.WEBSOCKET_CLOSE),
        (families.CODING_INPUT_BYTES, CellKind.CODING_INPUT),
        (families.CODING_OUTPUT_BYTES, CellKind.CODING_OUTPUT),
        (families.CACHE_REQUESTS, CellKind.CACHE),
        (families.CACHE_MISSES, CellKind.CACHE_MISS),
        (families.VALIDATION_REPORTS, CellKind.VALIDATION),
        (families.GRPC_CALLS, CellKind.GRPC),
    ):
        yield family, [("", labels(family, *names), count) for names, count in totals.cells[kind].items()]
    yield from measured(series, totals, plan)
    yield (
        families.FAULTS,
        [("", labels(families.FAULTS, *names), count) for names, count in totals.cells[CellKind.FAULT].items()],
    )
    yield families.TARGET_SECONDS, _target_seconds(totals)
    yield (
        families.TARGET_ERRORS,
        [
            ("", labels(families.TARGET_ERRORS, fault, *_named(name)), count)
            for name, row in totals.targets.items()
            for fault, count in target_errors(row).items()
        ],
    )
    yield families.LOG_RECORDS_DROPPED, [("", "", totals.log_records_dropped)]
    spans = families.TRACE_SPANS
    yield spans, [("", labels(spans, result), count) for result, count in totals.spans.items()]
    yield families.ROUTES_FOLDED, [("", "", series.slot_table.routes_folded)]
    yield families.TARGETS_FOLDED, [("", "", series.slot_table.targets_folded)]
    yield families.UPSTREAMS_FOLDED, [("", "", series.slot_table.upstreams_folded)]
    yield families.CONSUMERS_FOLDED, [("", "", series.slot_table.consumers_folded)]


def _of_upstreams(family: Family, counts: Mapping[str, int], series: Series) -> Sequence[Sample]:
    """Return a sample for each upstream that is counted by name, and one for all others together."""
    found = {name: 0 for name in series.upstreams if name != OTHER}
    for name, count in counts.items():
        row = name if name in found else OTHER
        found[row] = found.get(row, 0) + count
    return [("", labels(family, name), count) for name, count in found.items()]


def target_errors(row: Sequence[int]) -> dict[str, int]:
    """Return the errors by fault, and `status_5xx`; only those that have occurred."""
    found = {fault.label: row[word] for fault, word in TARGET_FAULT_WORDS.items()}
    found[STATUS_5XX] = row[TARGET_SERVER_ERRORS]
    return {fault: count for fault, count in found.items() if count}


def _target_seconds(totals: Totals) -> Iterator[Sample]:
    for name, row in totals.targets.items():
        labelled = labels(families.TARGET_SECONDS, *_named(name))
        yield from histogram(labelled, _BOUNDS, row[:SUM], row[SUM] / 1e6)


def _named(target: str) -> tuple[str, str]:
    """Split a `target_name` into target and upstream."""
    upstream, _, label = target.rpartition(" ")
    return label, upstream or OTHER
