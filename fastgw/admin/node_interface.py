"""Interface between the admin API and the node: JSON of all responses as structs, and the operations.

Counts are totals since the node started; for a rate, subtract two responses. `_s` are seconds, `_date` epoch seconds,
`_bytes` bytes.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from msgspec import Struct

from fastgw.admin.explanation import Explanation
from fastgw.analytics.queries import AnalyticsRow, Usage, UsageQuery
from fastgw.config import Problem
from fastgw.sync.cache_purges import PurgeOrder
from fastgw.sync.revocations import RevocationEvent

if TYPE_CHECKING:
    from fastgw.capture.captured_exchange import CapturedExchange, CaptureOrder
    from fastgw.capture.redaction import Redaction
    from fastgw.capture.story_record import Story
    from fastgw.eventloop.addressed_connections import ConnectionOrder, OrderAnswer

MOST_CACHED_SHOWN: Final = 100
"""Maximum number of objects of each cache store that are shown."""
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
PROBLEM: Final = "application/problem+json"
"""Content type of a `Refusal`; all other responses are `JSON`."""

State = Literal["serving", "draining"]
WorkerState = Literal["ready", "silent", "starting", "draining"]
Health = Literal["unknown", "healthy", "failing", "unhealthy", "ejected"]
"""Health of a target or route. `failing`: the last attempt failed without a successful one since, or all responses of
the last minute were 500 and above; it may still be in use. `unknown`: no attempt in the last minute, and the last one
did not fail. See `docs/reference/faults.md`."""
Breaker = Literal["closed", "open", "half_open"]
Reason = Literal["", "rejected", "busy", "failed"]
RevokedEverywhere = Literal["node", "shared", "away"]
"""Scope of a revocation or purge: this node; all nodes that share a Redis; this node while it is unreachable, then all.
"""


class Worker(Struct, frozen=True):
    """A worker process."""

    slot: int
    """Number of the slot from 1, as in the log and in the names of processes."""
    pid: int
    generation: int
    """Generation of the configuration that it serves."""
    state: WorkerState
    uptime_s: float
    connections: int
    requests: int
    memory_bytes: int
    cpu_s: float
    loop_lag_s: float
    """Maximum event loop lag of the last seconds."""


class Reload(Struct, frozen=True):
    """Result of one attempt to load a configuration."""

    generation: int
    date: float
    ok: bool
    source: Literal["signal", "api", "file", "rollback", "start"]
    summary: str
    problems: Sequence[Problem] = ()


StaleReason = Literal["refused", "edited", "api", "rollback"]


class Stale(Struct, frozen=True):
    """Reason why the active configuration differs from its files: a restart would load the files."""

    reason: StaleReason
    """`refused`: the files were read, and are invalid; `edited`: they were changed and not reloaded; `api`: the active
    configuration came over this API; `rollback`: the node was rolled back to it."""
    why: str
    """Explanation for people: for `refused`, the error and the time of the next attempt."""
    since_date: float


class KeptFile(Struct, frozen=True):
    """File named by the configuration whose current contents are unusable: its previous contents stay in force. A
    restart would use the current contents, or fail."""

    file: str
    why: str
    """Explanation for people: the error and its position."""
    since_date: float
    files: int = 1
    """Number of files kept for the same reason; `file` is the first of them."""


class Reloads(Struct, frozen=True):
    """Counts and the last results of configuration changes."""

    ok: int
    failed: int
    last_success: bool
    """Whether the last attempt to load a configuration succeeded, and also the last attempt to load changed files that
    it names."""
    last: Sequence[Reload]
    """Newest first."""


class CertificateInfo(Struct, frozen=True):
    """A server certificate."""

    listener: str
    """Name of the listener; `(admin)`: the admin listener."""
    certificate: str
    """Certificate file."""
    names: Sequence[str]
    serial: str
    """Serial number in hexadecimal."""
    expires_date: float
    problem: str
    """Reason why the file's current contents are not in force; "" = they are."""


OrderedBy = Literal["", "this_node", "another_node", "waits_for_redis"]


class AcmeInfo(Struct, frozen=True):
    """A certificate that is obtained by ACME."""

    certificate: str
    """Certificate file."""
    names: Sequence[str]
    challenge: str
    issuer: str
    """Directory of its issuer; "" = there is no certificate yet, or it is not known."""
    issued: bool
    """Whether there is a certificate; otherwise clients get a self-signed placeholder that has expired."""
    expires_date: float | None
    """null = there is no certificate yet."""
    renews_date: float | None
    """Date of the renewal; null = there is no certificate yet."""
    attempt_date: float | None
    """Date of the last attempt; null = none is known."""
    next_attempt_date: float
    failures: int
    """Number of failed attempts since the last success."""
    problem: str
    """Reason why the last attempt has failed; "" = it has not."""
    on_demand: bool = False
    """Whether it was ordered on demand (`acme.on_demand`)."""
    used_date: float | None = None
    """When a client last asked for its name, of one ordered on demand; null = it is listed in the configuration."""
    ordered_by: OrderedBy = ""
    """Node that has the lease to order it now; `waits_for_redis`: none may, as this node does not reach Redis; "" = no
    order is due."""


class OnDemandInfo(Struct, frozen=True):
    """Certificates that are ordered on demand (`acme.on_demand`)."""

    names: int
    """Number of names with a certificate."""
    most_names: int
    """Maximum number of such names."""
    pending: int
    """Number of names whose first certificate is being ordered, or that `ask` is asked about."""
    refused: Mapping[str, int]
    """Number of refused requests by reason, since the start."""


class OcspInfo(Struct, frozen=True):
    """OCSP stapling of a server certificate (`ocsp_stapling`)."""

    certificate: str
    """Certificate file."""
    responder: str
    """URL of the responder that the certificate names; "" = none can be asked."""
    expires_date: float | None
    """When the stapled response ends; null = none is stapled."""
    revoked: bool
    """Whether the responder says that the certificate is revoked; then nothing is stapled."""
    next_attempt_date: float | None
    """When the responder is asked again; null = never."""
    problem: str
    """Reason why the last attempt has failed, or why nothing is stapled; "" = there is none."""


class VerifierInfo(Struct, frozen=True):
    """CA or revocation list for client certificates."""

    listener: str
    """Name of the listener; `(admin)`: the admin listener."""
    kind: Literal["ca", "crl"]
    """Kind of the file: CA certificates, or revocation lists."""
    file: str
    expires_date: float | None
    """Earliest expiry in the file; from then on clients are rejected. null = never."""
    problem: str
    """Reason why the file's current contents are not in force; "" = they are."""


class FeedInfo(Struct, frozen=True):
    """Feed: a value that is fetched once for all workers, such as the keys of an identity provider."""

    feed: str
    """URL of the feed, without the query."""
    last_success_date: float | None
    """Date of the last successful response; null = none since the control process started."""
    problem: str
    """Reason why the last attempt failed; "" = it succeeded."""
    used_by: str = ""
    """Route (for `egress`: application and service) and filter that use the feed, or another place such as `listener
    public`; the first of several. "" = no filter uses it, or it is shared by all that use the URL."""
    users: int = 1
    """Number of its users."""


class QuotaInfo(Struct, frozen=True):
    """A quota at one level, and its usage by one key."""

    filter: str
    """Name of the quota in the configuration."""
    level: str
    """Level of the quota: `gateway`, `listener NAME`, `upstream NAME`, `filter set NAME` or `route NAME`."""
    key: str
    """Key that it counts by."""
    period: str
    resets_date: float
    """End of the current period."""
    limit: int
    """Limit of the requested consumer; without one, the limit for consumers that are in none of the groups."""
    used: int | None
    """Current usage; null = no key was requested."""
    left: int | None


class Quotas(Struct, frozen=True):
    """All quotas."""

    quotas: Sequence[QuotaInfo]


class TableUse(Struct, frozen=True):
    """Resource of limited size on the node, and how much of it is in use."""

    table: Literal["connections", "rate_limit", "quota"]
    """Name of the resource: client connections (`limits.connections`), or the shared memory for the keys of
    `rate_limit` or `quota`."""
    used: int
    """Number of connections, or of keys in use. Only hashes of keys are stored."""
    size: int
    shared: int | None = None
    """Number of shared slots, in which keys without a slot of their own are counted together; null = there are none."""
    overflowed: int | None = None
    """Number of times since the start that a shared slot was used: keys for `quota`, decisions for `rate_limit`."""
    refused: int | None = None
    """Requests refused because there was no slot at all; null = not counted separately."""


class LimitUse(Struct, frozen=True):
    """A limit at one level, and its usage as far as the control process knows it."""

    filter: str
    """Name of the limit in the configuration."""
    type: Literal["concurrency", "quota", "rate_limit"]
    level: str
    """Level of the limit: `gateway`, `listener NAME`, `upstream NAME`, `filter set NAME` or `route NAME`."""
    key: str
    """Key that it counts by; "" = all requests together."""
    limit: int
    """Limit for clients that are in none of the groups. For `adaptive` concurrency, the current limit."""
    per: str
    """Period or window; "" = a concurrency limit."""
    refused: int
    """Requests refused since the start, by all filters of this name."""
    resets_date: float | None = None
    """End of a quota's period; null = not a quota."""
    in_flight: int | None = None
    """Requests in flight that a concurrency limit counts; null = it counts by key, and the keys are not known."""
    keys: int | None = None
    """Number of consumers or routes that have used a quota in this period, if it counts by one of these alone; null =
    not known: only hashes of other keys are stored, or there are too many."""
    most_used: int | None = None
    """Usage of the key that is nearest to its limit."""
    most_used_of: int | None = None
    """Limit of that key, which may be that of a group; null = no usage, or not known."""
    most_used_by: str | None = None
    """Name of that key; null = no usage, or not known."""


class Limits(Struct, frozen=True):
    """All limits, at most a few seconds old."""

    date: float
    tables: Sequence[TableUse]
    limits: Sequence[LimitUse]


class QuotaWasReset(Struct, frozen=True):
    """Result of a reset."""

    reset: int
    """Number of uses of the quota whose counts were reset."""


class QuotaFileInfo(Struct, frozen=True):
    """File that stores quota counts."""

    file: str
    written_date: float | None
    """Date of the last write; null = none since the control process started."""
    problem: str
    """Reason why the file cannot be read or written; "" = it can."""


class AnalyticsInfo(Struct, frozen=True):
    """Database of analytics."""

    file: str
    written_date: float | None
    """Date of the last write; null = none since the control process started."""
    problem: str
    """Reason why the database cannot be written; "" = it can."""


class Analytics(Struct, frozen=True):
    """Analytics of a time, most requests first; with steps the oldest step first."""

    since_date: float
    until_date: float
    rows: Sequence[AnalyticsRow]
    total: int
    """Number of rows before `offset` and `limit`."""
    minutes_since_date: float | None = None
    """Date from which on minutes are kept; before it there are hours only. null = there are no minutes."""


class DiskTierInfo(Struct, frozen=True):
    """Disk tier of a store of the response cache. Counts are since the start."""

    path: str
    most_bytes: int
    bytes: int
    objects: int
    """Objects on disk, also those in memory."""
    hits: int
    """Lookups that found on disk what memory did not have."""
    written: int
    dropped: int
    """Objects that were not written: the disk was too slow, or full."""
    evicted: int
    damaged: int
    """Files that were removed because they did not pass their check."""
    errors: int
    """Accesses that failed."""
    is_up: bool
    """Whether it is used; otherwise a purge could not be written to it."""


class RedisTierInfo(Struct, frozen=True):
    """Redis tier of a store, as this node uses it. Counts are since the start."""

    hits: int
    written: int
    dropped: int
    """Objects that were not written: too many were in flight, or Redis has refused them."""
    damaged: int
    """Values that were removed because they did not pass their check."""
    is_up: bool | None = None
    """Whether the Redis of `state` is reachable for each worker that uses it; null = unknown."""


class CacheStoreInfo(Struct, frozen=True):
    """Store of the response cache."""

    name: str
    most_bytes: int
    """Size of its memory."""
    bytes: int
    """Bytes in use, including objects that are no longer valid until they are overwritten."""
    objects: int
    evicted: int
    """Objects removed for lack of memory since the start."""
    disk: DiskTierInfo | None = None
    """null = there is no disk tier."""
    redis: RedisTierInfo | None = None


class CachedObject(Struct, frozen=True):
    """Object in the memory of a store."""

    store: str
    url: str
    """URL, with masked secrets in the query."""
    found: int
    """How often requests found it since it was stored, approximately."""
    bytes: int
    """Length of its body."""


class CacheInfo(Struct, frozen=True):
    """The stores of the response cache, and their objects that are found most often."""

    stores: Sequence[CacheStoreInfo]
    objects: Sequence[CachedObject]


class SharedStateInfo(Struct, frozen=True):
    """The Redis of `state`, as this node sees it."""

    server: str
    """Its address."""
    is_up: bool | None
    """Whether it is reachable; null = not known yet."""
    reason: str = ""
    """Reason why it is not used; "" = it is used."""
    effect: str = ""
    """Effect on limits while it is not used."""

    def __str__(self) -> str:
        return f"the Redis of `state` at {self.server} is unreachable: {self.reason}; {self.effect}"


class Status(Struct, frozen=True):
    """The node and its workers."""

    version: str
    pid: int
    uptime_s: float
    started_date: float
    generation: int
    config_hash: str
    """Hash of the configuration; "" = there is no file."""
    config_file: str
    """Configuration file; "" = the gateway is configured on the command line."""
    state: State
    workers: Sequence[Worker]
    connections: int
    requests: int
    reloads: Reloads
    stale: Stale | None = None
    """Reason why the configuration files differ from the active configuration; null = they do not."""
    kept_files: Sequence[KeptFile] = ()
    """Other files whose contents differ from the active ones."""
    certificates: Sequence[CertificateInfo] = ()
    """Server certificates for TLS."""
    verifiers: Sequence[VerifierInfo] = ()
    """CAs and revocation lists for client certificates."""
    acme: Sequence[AcmeInfo] = ()
    """Certificates that are obtained by ACME."""
    ocsp: Sequence[OcspInfo] = ()
    """OCSP stapling of server certificates."""
    on_demand: OnDemandInfo | None = None
    """Certificates that are ordered on demand; null = `acme.on_demand` is not set."""
    feeds: Sequence[FeedInfo] = ()
    """Feeds of the filters."""
    quota_file: QuotaFileInfo | None = None
    """File of the quotas; null = counts are lost when the gateway stops."""
    analytics: AnalyticsInfo | None = None
    """Database of analytics; null = none are kept."""
    caches: Sequence[CacheStoreInfo] = ()
    """Stores of the response cache that hold something, or have a disk tier."""
    shared_state: SharedStateInfo | None = None
    """The Redis of `state`; null = there is none."""
    rates: None = None


class LastError(Struct, frozen=True):
    """The last failure."""

    date: float
    fault: str
    reason: str
    """Name of an errno, or a message of TLS or DNS; for a route, preceded by the target. "" = not known."""


class RouteInfo(Struct, frozen=True):
    """Statistics of a route."""

    name: str
    listeners: Sequence[str]
    """Names of the listeners. None = all of them; the same for hosts, paths and methods."""
    hosts: Sequence[str]
    paths: Sequence[str]
    methods: Sequence[str]
    to: str
    filters: Sequence[str]
    requests: int
    errors: int
    """Responses with a status of 500 and above."""
    p50_s: float | None
    """Median of the response time; null = no requests yet."""
    p99_s: float | None
    rate: float = 0.0
    """Requests per second, over the last minute."""
    faults: Mapping[str, int] = {}
    """Requests that ended in a fault, by its name."""
    recent_faults: Mapping[str, int] = {}
    """Faults of the last minute, by name."""
    last_error: LastError | None = None
    """Last fault with a status of 500 and above; null = none yet."""
    cache: Mapping[str, int] = {}
    """Requests by result of the filter `cache`: hit, stale, revalidated, miss, collapsed, bypass; empty = none yet."""


class Routes(Struct, frozen=True):
    """All routes."""

    routes: Sequence[RouteInfo]


class TargetInfo(Struct, frozen=True):
    """Address of a target of an upstream. Connections are those of all workers, about a second old."""

    url: str
    weight: int
    health: Health
    in_use: int
    idle: int
    waiting: int
    priority: int = 0
    """Priority group of the target; the lowest comes first."""
    drained: bool = False
    """Whether the target gets no new requests, because it was drained or its weight is 0."""
    problem: str = ""
    """Problem found by its last health check; "" = none, or it is not checked."""
    label: str = ""
    """Name of the target in logs and metrics, and in the path of its drain."""
    requests: int = 0
    """Attempts at the target with a result: a response, or a failure of the target."""
    errors: Mapping[str, int] = {}
    """Failed attempts by fault, also if a retry succeeded, and responses of 500 and above as `status_5xx`."""
    rate: float = 0.0
    """Attempts per second, over the last minute."""
    recent_errors: Mapping[str, int] = {}
    """Failed attempts of the last minute, as in `errors`."""
    p50_s: float | None = None
    """Median time in seconds until its response head, over the last minute; null = no responses."""
    p99_s: float | None = None
    last_error: LastError | None = None
    """Last failure; null = none yet."""


class UpstreamInfo(Struct, frozen=True):
    """Statistics of an upstream."""

    name: str
    algorithm: str
    retries: int
    targets: Sequence[TargetInfo]
    breaker: Breaker | None = None
    """State of its circuit breaker; null = it has none."""
    ejections: int = 0
    """Number of ejections of its targets."""
    breaker_openings: int = 0


class Upstreams(Struct, frozen=True):
    """All upstreams."""

    upstreams: Sequence[UpstreamInfo]


class ConsumerInfo(Struct, frozen=True):
    """API consumer: a client that the gateway knows by name. Credentials are only counted."""

    name: str
    groups: Sequence[str]
    keys: int
    passwords: int
    subjects: int
    """Number of subjects of tokens."""
    certificates: int
    signing_keys: int


class Consumers(Struct, frozen=True):
    """All consumers."""

    consumers: Sequence[ConsumerInfo]


class Effective(Struct, frozen=True):
    """The active configuration with defaults, with secrets masked, and without consumers."""

    generation: int
    hash: str
    config: Mapping[str, Any]


class Committed(Struct, frozen=True):
    """Number of workers that have adopted the configuration."""

    committed: int
    of: int


class OverBound(Exception):
    """The check of a document exceeds its time or memory limit. The text has the limit, its value, and the setting that
    raises it."""


class Outcome(Struct, frozen=True):
    """Result of a change of the configuration."""

    ok: bool
    generation: int
    """Generation that is active now, changed or not."""
    workers: Committed
    listeners_added: int = 0
    listeners_removed: int = 0
    workers_restarted: int = 0
    summary: str = ""
    """Result in one line, for people."""
    problems: Sequence[Problem] = ()
    notes: Sequence[Problem] = ()
    """Notes on this configuration, as in `fastgw check`, that the previous one did not have."""
    reason: Reason = ""
    """Reason of a failure. `rejected`: the configuration is invalid; `busy`: another change is in progress, or the node
    is not serving; `failed`: an error occurred.
    """
    kept: Sequence[int] = ()
    """For a refused rollback: the generations that are valid as `generation` of `POST /rollback`."""


class KeptConfiguration(Struct, frozen=True):
    """Configuration that was active before, and can be returned to."""

    generation: int
    """Valid as `generation` of `POST /rollback`."""
    hash: str
    date: float | None
    """When it became active, in epoch seconds; null: unknown."""
    source: Literal["signal", "api", "file", "rollback", "start"]


class ConfigHistory(Struct, frozen=True):
    """Configurations that are kept, newest first."""

    active: int
    """Generation of the active configuration."""
    kept: Sequence[KeptConfiguration]


class ConfigChanges(Struct, frozen=True):
    """Changes from a kept configuration to the active one."""

    generation: int
    active: int
    changes: str
    """One line for each change, without secrets."""
    diff: str = ""
    """Changes as a unified diff of both configurations in YAML, with defaults, without secrets and consumers; "" if
    nothing in it differs, or it would be too long."""


class Latency(Struct, frozen=True):
    """Histogram of response times."""

    bounds_s: Sequence[float]
    """Upper bounds of the buckets, ascending."""
    counts: Sequence[int]
    """Number of requests per bucket, not cumulative; the last bucket has no upper bound."""


class Live(Struct, frozen=True):
    """Live values that the dashboard requests each second."""

    date: float
    uptime_s: float
    generation: int
    state: State
    connections: int
    requests: int
    responses: Mapping[str, int]
    """Responses by `2xx`, `3xx`, `4xx`, `5xx`, and `499` for clients that left."""
    faults: Mapping[str, int]
    """Requests that ended in a fault, by its name."""
    latency: Latency
    loop_lag_s: float
    workers: Sequence[Worker]
    cache: Mapping[str, int] = {}
    """Requests by result of the filter `cache`, as in `RouteInfo`."""


class HistoryPoint(Struct, frozen=True):
    """Counts of an interval of some seconds."""

    date: float
    """End of the interval."""
    seconds: float
    connections: int
    """Number of connections at the end."""
    requests: int
    responses: Mapping[str, int]
    """Responses as in `Live`."""
    faults: Mapping[str, int]
    latency: Sequence[int]
    """Counts per bucket of `Live.latency`."""
    loop_lag_s: float


class History(Struct, frozen=True):
    """History of the last hour, oldest point first; shorter after a start."""

    every_s: float
    bounds_s: Sequence[float]
    points: Sequence[HistoryPoint]


class RequestToExplain(Struct, frozen=True, forbid_unknown_fields=True):
    """Request to explain; it is not sent."""

    method: str
    url: str
    """URL as a client would request it, such as `https://api.example.com/users/7?debug=1`."""
    headers: Sequence[str] = ()
    """Headers, each as `Name: value`. Default for `Host`: that of the URL."""
    client: str = "127.0.0.1"
    """Address of the client."""
    listener: str | None = None
    """Listener that receives the request; null = the one with the port of the URL."""
    certificate: str | None = None
    """Client certificate, in PEM. It is treated as verified."""


class Explained(Struct, frozen=True):
    """Explanation of a request without sending it, as by a gateway that has just started with this configuration:
    health and draining of targets, used limits and revocations are ignored.
    """

    generation: int
    """Generation of the configuration used for the explanation."""
    explanation: Explanation
    """Explanation as in `fastgw explain --format json`. Without steps that do not apply or are not reached."""
    text: str
    """Explanation for people, as in `fastgw explain`."""


class Draining(Struct, frozen=True):
    """The node accepts no new connections, and stops when all requests in flight have finished."""

    state: Literal["draining"] = "draining"


class Revocations(Struct, frozen=True):
    """Size of the revocation list."""

    count: int
    most: int
    """Maximum number of revocations; beyond it, those that expire first are removed."""
    reach: RevokedEverywhere
    recent: Sequence[RevocationEvent]
    """Recent revocations, newest first; those of other nodes only if they arrived while this node was connected."""


class Revoked(Struct, frozen=True):
    """Result of a revocation, which takes effect on all workers within moments."""

    expires_date: float
    """Expiry of the revocation."""
    reach: RevokedEverywhere


class CachePurged(Struct, frozen=True):
    """Result of a purge, which holds on this node before the response."""

    objects: int
    """Number of objects that were purged, of those in memory."""
    reach: RevokedEverywhere
    """`shared`: the Redis of `state` has it for the other nodes. `away`: it reaches them when Redis is reachable again,
    unless the whole gateway ends before."""
    holds_after_restart: bool = True
    """Whether it also holds after a restart of the gateway. `false`: the disk tier of the store could neither be
    written nor emptied, or did not answer in time; until it can be, a restart serves what was purged."""
    is_counted: bool = True
    """Whether `objects` is all that was purged: none can have been on disk, in Redis or on other nodes."""


class PurgeNotRecorded(Exception):
    """A purge holds on this node, but it is neither announced nor recorded: other nodes may never receive it."""


class RecordingWanted(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests to record, of all workers."""

    requests: int = 1000
    """Number of requests after which the recording ends, at most 1,000,000."""
    seconds: float = 3600.0
    """Seconds after which it ends, at most 86,400."""
    ratio: float = 1.0
    """Share of the requests that is recorded, chosen at random: from 0 to 1."""
    routes: Sequence[str] = ()
    """Names of the routes; empty = all, and requests without a route."""
    statuses: Sequence[str] = ()
    """Statuses of the responses, such as `404` or `5xx`; empty = all."""
    body_bytes: int = 65536
    """Maximum bytes that are kept of each body, at most 1 MiB: longer ones are cut."""
    redact: Sequence[str] = ()
    """Further names of headers, query parameters and cookies whose values are masked."""
    keep_cookies: bool = False
    """Whether values of cookies are recorded. Cookies that filters check are masked nevertheless."""


class RecordingBegun(Struct, frozen=True):
    """The recording has begun. It ends if its records are not fetched for 30 seconds."""

    id: str
    version: str
    """Version of fastgw."""
    generation: int
    """Generation of the configuration."""


class RecordingEnded(Struct, frozen=True):
    """The recording has ended."""

    requests: int
    dropped: int
    """Requests that were not recorded because a bound was reached."""


class DebugWanted(Struct, frozen=True, forbid_unknown_fields=True):
    """Debug token to make."""

    route: str = ""
    """Name of the only route whose requests it is valid for; "": all requests, also those without a route."""
    seconds: float = 600.0
    """Lifetime; at most one hour."""


class DebugTokenMade(Struct, frozen=True):
    """Debug token: requests that have it as `X-Fastgw-Debug` are answered with their stories."""

    token: str
    expires_date: float
    """End of its lifetime, in epoch seconds."""
    route: str


class Refusal(Struct, frozen=True):
    """Reason why a request was not served (RFC 9457)."""

    title: str
    status: int
    detail: str = ""
    type: str = "about:blank"


class TooManyCaptures(Exception):
    """The maximum number of captures is reached."""


class CapturedExchanges(Protocol):
    """Captured exchanges of all workers, as they end."""

    @property
    def dropped(self) -> int:
        """Number of exchanges that were dropped so far, because they were too many or too large."""

    async def next(self, seconds: float) -> "CapturedExchange | None":
        """Return the next exchange. None: none has come within this time."""


class Node(Protocol):
    """The node behind the admin API. Only `explain` raises errors for a request, and only `async` methods take long.

    `async` methods continue if their client disconnects.
    """

    def status(self) -> Status: ...
    def live(self) -> Live: ...
    def history(self) -> History: ...
    def routes(self) -> Sequence[RouteInfo]: ...
    def upstreams(self) -> Sequence[UpstreamInfo]: ...
    async def consumers(self) -> Sequence[ConsumerInfo]: ...
    async def config(self) -> Effective: ...

    def metrics(self, accept: bytes) -> tuple[bytes, bytes]:
        """Return content type and text, selected by the `Accept` header."""

    async def reload(self) -> Outcome:
        """Read the configuration files again."""

    async def apply(self, text: bytes, suffix: str, dry_run: bool) -> Outcome:
        """Activate `text` as the configuration. `suffix`: `.yaml`, `.json` or `.toml`. `dry_run`: only report the
        result.
        """

    async def put_targets(self, upstream: str, text: bytes, suffix: str) -> Outcome:
        """Replace the targets of an upstream by those in `text`. `suffix`: `.yaml` or `.json`."""

    def drain_target(self, upstream: str, target: str, drained: bool) -> TargetInfo | None:
        """Drain the target with this label on all workers; with `drained` false, end its drain.

        None: there is no such target.
        """

    def config_history(self) -> ConfigHistory:
        """Return the configurations that are kept for a rollback."""

    async def config_changes(self, generation: int) -> ConfigChanges | None:
        """Return the changes from a kept configuration to the active one. None: it is not kept. Raises `ValueError` if
        it is no longer valid.
        """

    async def rollback(self, generation: int | None) -> Outcome:
        """Roll back to a retained generation; None = the last different one, each time one further back."""

    async def explain(self, request: RequestToExplain) -> Explained:
        """Explain a request. Raises `ValueError` if it is invalid; `TimeoutError` if it takes too long."""

    def revocations(self) -> Revocations: ...

    def quotas(self, consumer: str | None, keys: Sequence[str]) -> list[QuotaInfo]:
        """Return all quotas, with the usage of a key."""

    async def limits(self) -> Limits: ...

    async def analytics(self, query: UsageQuery) -> Usage | None:
        """Return the rows of a query. None: no analytics are kept. Raises `CannotKeepAnalytics` or `TooMuch`."""

    def reset_quota(self, instance: str, consumer: str | None, keys: Sequence[str]) -> int | None:
        """Reset the counts of a key. Returns the number of uses that had counts; None: no quota counts by this key."""

    def has_session_ended(self, mark: bytes) -> bool:
        """Whether the dashboard session with this mark (`fastgw.sync.revocations`) was ended."""

    def end_session(self, record: bytes, most: int) -> bool:
        """End a dashboard session. False: it has not ended, because it cannot be stored; `most`: number of ended
        sessions from which that is so.
        """

    def revoke(self, records: bytes, about: RevocationEvent) -> RevokedEverywhere:
        """Add these records (`fastgw.sync.revocations`). `about`: description for people."""

    def capturing(self, order: "CaptureOrder") -> AbstractAsyncContextManager[CapturedExchanges]:
        """Capture exchanges on all workers. Raises `TooManyCaptures` and `OSError` on entry."""

    async def new_debug_token(self, route: str, seconds: float) -> DebugTokenMade | None:
        """Make a debug token for requests of a route, or of any (""). None: there is no such route."""

    def stories(self) -> "Sequence[Story] | None":
        """Return the stories that are kept, newest first. None: the configuration has none."""

    def stories_dropped(self) -> int:
        """Return the number of stories that were dropped."""

    def redaction(self) -> "Redaction":
        """Return the redaction with the secrets of the active configuration."""

    async def cache(self, most: int) -> CacheInfo:
        """Return the stores of the response cache, with at most so many objects of each."""

    async def purge_cache(self, order: PurgeOrder) -> CachePurged | None:
        """Purge objects of a cache store. None: there is no such store. Raises `PurgeNotRecorded`."""

    async def begin_recording(self, wanted: RecordingWanted) -> RecordingBegun | None:
        """Begin to record requests. None: there is a recording already. Raises `ValueError`."""

    async def fetch_records(self, recording: str) -> bytes | None:
        """Return the next records, as soon as there are any, within seconds. None: there is no such recording."""

    def end_recording(self, recording: str) -> RecordingEnded | None:
        """End a recording. None: there is no such one."""

    async def order_connection(self, order: "ConnectionOrder") -> "OrderAnswer":
        """Carry out an order for a connection of a WebSocket API. Raises `OSError` if its worker does not answer."""

    async def record(self, actor: str, action: str, result: str, detail: Mapping[str, str]) -> None:
        """Record a change in the audit log, if there is one."""

    def drain(self) -> None:
        """Begin to drain the node."""
