"""Interface of the admin API to the node: the JSON of every response as structs, and the operations.

Counts are totals since the node began; whoever wants a rate takes the difference of two answers. `_s` are seconds,
`_date` are epoch seconds, `_bytes` bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol

from msgspec import Struct

from fastgw.admin.explanation import Explanation
from fastgw.config import Problem
from fastgw.sync.revocations import RevocationEvent

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
"""The content type of a `Refusal`; everything else that is told is `JSON`."""

State = Literal["serving", "draining"]
WorkerState = Literal["ready", "silent", "starting", "draining"]
Health = Literal["unknown", "healthy", "failing", "unhealthy", "ejected"]
"""`failing`: the last attempt has failed and nothing was answered since, or all answers of the last minute were 500 and
above; it may be asked on. `unknown`: no attempt in the last minute, and the last one did not fail. See
`docs/reference/faults.md`."""
Breaker = Literal["closed", "open", "half_open"]
Reason = Literal["", "rejected", "busy", "failed"]
RevokedEverywhere = Literal["node", "shared", "away"]
"""How far a revocation reaches: this node; all that share a Redis; this node as long as Redis is away, and then all."""


class Worker(Struct, frozen=True):
    """One process that serves."""

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
    """The worst of the last seconds."""


class Reload(Struct, frozen=True):
    """One configuration that was to be taken, and what became of it."""

    generation: int
    date: float
    ok: bool
    source: Literal["signal", "api", "file", "rollback", "start"]
    summary: str
    problems: Sequence[Problem] = ()


StaleReason = Literal["refused", "edited", "api", "rollback"]


class Stale(Struct, frozen=True):
    """Reason why what runs differs from the configuration's files: a restart would begin with something else."""

    reason: StaleReason
    """`refused`: they were read, and are wrong; `edited`: they were changed and have not been reloaded; `api`: what
    runs came over this API; `rollback`: it was gone back to."""
    why: str
    """For people: of what was refused the problem, and when it is tried again by itself."""
    since_date: float


class KeptFile(Struct, frozen=True):
    """A file that the configuration names, and that says now what cannot be in force: what it said before still is. A
    restart would begin with what it says, or not begin at all."""

    file: str
    why: str
    """For people: what is wrong, and where."""
    since_date: float
    files: int = 1
    """How many are kept for the same reason; `file` is the first of them."""


class Reloads(Struct, frozen=True):
    """Counts and the last results of configuration changes."""

    ok: int
    failed: int
    last_success: bool
    """Whether the last attempt to take a configuration went well, and the last one to take other contents of the files
    that it names, all of them."""
    last: Sequence[Reload]
    """The newest first."""


class CertificateInfo(Struct, frozen=True):
    """A server certificate."""

    listener: str
    """`(admin)`: the admin listener."""
    certificate: str
    """The file."""
    names: Sequence[str]
    serial: str
    """Serial number in hexadecimal."""
    expires_date: float
    problem: str
    """Reason why the file's present content is not in force; "" where it is."""


class VerifierInfo(Struct, frozen=True):
    """Authority or revocation list that client certificates are verified with."""

    listener: str
    """`(admin)`: the admin listener."""
    kind: Literal["ca", "crl"]
    """Authorities, or lists of what they have revoked."""
    file: str
    expires_date: float | None
    """End of validity of the first in the file to expire; from then on clients are refused. null = never."""
    problem: str
    """Reason why the file's present content is not in force; "" where it is."""


class FeedInfo(Struct, frozen=True):
    """Feed: a value that is fetched once for all workers, such as the keys of an identity provider."""

    feed: str
    """URL of the feed, without the query."""
    last_success_date: float | None
    """Date of the last good response; null = none yet, since the control process began."""
    problem: str
    """Reason why the last attempt has failed; "" = it has not."""
    used_by: str = ""
    """The route (of `egress`: the application and service) with the filter that needs it, or where else that stands,
    such as `listener public`; of several the first. "" = no filter, or this is of all who share the URL."""
    users: int = 1
    """How many need it."""


class QuotaInfo(Struct, frozen=True):
    """One quota where it stands, and what somebody has used of it."""

    filter: str
    """Name of the quota in the configuration."""
    level: str
    """Level at which it stands: `gateway`, `listener NAME`, `upstream NAME`, `filter set NAME` or `route NAME`."""
    key: str
    """Key that it counts by."""
    period: str
    resets_date: float
    """When this period ends."""
    limit: int
    """Limit of the consumer that was asked about; else of everybody who is in none of the groups."""
    used: int | None
    """null = nobody was asked about whom it counts by itself."""
    left: int | None


class Quotas(Struct, frozen=True):
    """All quotas."""

    quotas: Sequence[QuotaInfo]


class TableUse(Struct, frozen=True):
    """Resource of limited size on the node, and how much of it is in use."""

    table: Literal["connections", "rate_limit", "quota"]
    """Client connections by `limits.connections`; the shared memory in which each key of a `rate_limit`, or of a
    `quota`, has a place."""
    used: int
    """Connections, or keys that count just now. Whose the keys are nobody knows: only hashes of them are kept."""
    size: int
    shared: int | None = None
    """Places in which keys count together that found none of their own; null = there is nothing to share."""
    overflowed: int | None = None
    """How often that was so, since the start: of keys of a `quota`, of decisions of a `rate_limit`."""
    refused: int | None = None
    """Requests that no place at all was left for; null = not counted by itself."""


class LimitUse(Struct, frozen=True):
    """A limit where it stands in the configuration, and what control knows of its use without asking anybody."""

    filter: str
    """Name of the limit in the configuration."""
    type: Literal["concurrency", "quota", "rate_limit"]
    level: str
    """Level at which it stands: `gateway`, `listener NAME`, `upstream NAME`, `filter set NAME` or `route NAME`."""
    key: str
    """Key that it counts by; "" = all requests together."""
    limit: int
    """Limit of everybody who is in none of the groups. Of `adaptive` concurrency what is found out just now."""
    per: str
    """The period or window; "" of a concurrency limit."""
    refused: int
    """Requests, since the start, by all filters of this name."""
    resets_date: float | None = None
    """When the period of a quota ends; null = it is none."""
    in_flight: int | None = None
    """Requests that a concurrency limit counts just now; null = it counts by a key, and nobody knows the keys."""
    keys: int | None = None
    """Consumers or routes that have used a quota in this period, where it counts by one of these alone; null = not
    known: of other keys only hashes are kept, or there are too many to look at."""
    most_used: int | None = None
    """Usage of the key that is nearest to its limit."""
    most_used_of: int | None = None
    """Limit of that key, which may be that of a group; null = no usage, or it is not known."""
    most_used_by: str | None = None
    """Name of that key; null = no usage, or it is not known."""


class Limits(Struct, frozen=True):
    """All limits, as of a few seconds ago at most."""

    date: float
    tables: Sequence[TableUse]
    limits: Sequence[LimitUse]


class QuotaWasReset(Struct, frozen=True):
    """Result of a reset."""

    reset: int
    """Number of uses of the quota whose counts were reset."""


class QuotaFileInfo(Struct, frozen=True):
    """File in which quota counts are kept."""

    file: str
    written_date: float | None
    """When it was written last; null = not since the control process began."""
    problem: str
    """Reason why the file cannot be read or written just now; "" where it can."""


class Status(Struct, frozen=True):
    """The node and its workers."""

    version: str
    pid: int
    uptime_s: float
    started_date: float
    generation: int
    config_hash: str
    """"" where there is no file."""
    config_file: str
    """"" when the command line said it all."""
    state: State
    workers: Sequence[Worker]
    connections: int
    requests: int
    reloads: Reloads
    stale: Stale | None = None
    """Reason why the configuration's files differ from what runs; null = they do not."""
    kept_files: Sequence[KeptFile] = ()
    """Other files whose contents differ from the active ones."""
    certificates: Sequence[CertificateInfo] = ()
    """Server certificates for TLS."""
    verifiers: Sequence[VerifierInfo] = ()
    """Authorities and revocation lists that client certificates are verified with."""
    feeds: Sequence[FeedInfo] = ()
    """Feeds of the filters."""
    quota_file: QuotaFileInfo | None = None
    """null = counts end with the gateway."""
    rates: None = None


class LastError(Struct, frozen=True):
    """The last time that something failed."""

    date: float
    fault: str
    reason: str
    """An errno's name, or what TLS or DNS said; of a route with the target before it. "" = nothing more is known."""


class RouteInfo(Struct, frozen=True):
    """One route, and how requests on it fared."""

    name: str
    listeners: Sequence[str]
    """None = all of them; likewise hosts, paths and methods."""
    hosts: Sequence[str]
    paths: Sequence[str]
    methods: Sequence[str]
    to: str
    filters: Sequence[str]
    requests: int
    errors: int
    """Answers of status 500 and above."""
    p50_s: float | None
    """null = no request yet."""
    p99_s: float | None
    rate: float = 0.0
    """Requests per second, over the last minute."""
    faults: Mapping[str, int] = {}
    """Requests that ended in one, by its name."""
    recent_faults: Mapping[str, int] = {}
    """Faults of the last minute, by name."""
    last_error: LastError | None = None
    """The last fault with a status of 500 and above; null = none yet."""


class Routes(Struct, frozen=True):
    """All routes."""

    routes: Sequence[RouteInfo]


class TargetInfo(Struct, frozen=True):
    """One address of an upstream. Connections of all workers, as of about a second ago."""

    url: str
    weight: int
    health: Health
    in_use: int
    idle: int
    waiting: int
    priority: int = 0
    """Priority group of the target; the lowest comes first."""
    drained: bool = False
    """Whether the target gets no new requests: because it was drained, or its weight is 0."""
    problem: str = ""
    """Problem found by its last health check; "" = none, or it is not checked."""
    label: str = ""
    """Name of the target in logs and metrics, and in the path of its drain."""
    requests: int = 0
    """Attempts at the target with a result: a response, or a failure of the target."""
    errors: Mapping[str, int] = {}
    """Attempts that failed, by fault, also where a retry succeeded, and answers of 500 and above as `status_5xx`."""
    rate: float = 0.0
    """Attempts per second, over the last minute."""
    recent_errors: Mapping[str, int] = {}
    """Failed attempts of the last minute, as in `errors`."""
    p50_s: float | None = None
    """Median of the seconds until the head of its response, of those of the last minute; null = there was none."""
    p99_s: float | None = None
    last_error: LastError | None = None
    """Last failure; null = none yet."""


class UpstreamInfo(Struct, frozen=True):
    """A group of targets."""

    name: str
    algorithm: str
    retries: int
    targets: Sequence[TargetInfo]
    breaker: Breaker | None = None
    """The state of its circuit breaker; null = it has none."""
    ejections: int = 0
    """How often one of its targets was ejected."""
    breaker_openings: int = 0


class Upstreams(Struct, frozen=True):
    """All upstreams."""

    upstreams: Sequence[UpstreamInfo]


class ConsumerInfo(Struct, frozen=True):
    """API consumer: a client that the gateway knows by name. Of what it is known by only how many there are."""

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
    """The configuration that is served, defaults written out, secrets masked, and without its consumers."""

    generation: int
    hash: str
    config: Mapping[str, Any]


class Committed(Struct, frozen=True):
    """On how many workers."""

    committed: int
    of: int


class OverBound(Exception):
    """A document takes more time or memory to check than it may. The text says which bound was met, its value, and the
    setting that raises it."""


class Outcome(Struct, frozen=True):
    """Result of a change of the configuration."""

    ok: bool
    generation: int
    """The one that is served now, changed or not."""
    workers: Committed
    listeners_added: int = 0
    listeners_removed: int = 0
    workers_restarted: int = 0
    summary: str = ""
    """Result in one line, for people."""
    problems: Sequence[Problem] = ()
    notes: Sequence[Problem] = ()
    """New notes on this configuration, as in `fastgw check`, which the previous one did not have."""
    reason: Reason = ""
    """Reason of a failure. `rejected`: the configuration is wrong; `busy`: another change is in progress, or the node
    is not serving; `failed`: it could not be done.
    """
    kept: Sequence[int] = ()
    """If a rollback was refused: the generations that are possible as `generation` of `POST /rollback`."""


class Latency(Struct, frozen=True):
    """A histogram of the time that requests took."""

    bounds_s: Sequence[float]
    """Upper bounds, in rising order."""
    counts: Sequence[int]
    """How many fell into each, not added up; the last is what lay above all bounds."""


class Live(Struct, frozen=True):
    """Live values that the dashboard asks for each second."""

    date: float
    uptime_s: float
    generation: int
    state: State
    connections: int
    requests: int
    responses: Mapping[str, int]
    """Responses by `2xx`, `3xx`, `4xx`, `5xx`, and `499` for clients that left."""
    faults: Mapping[str, int]
    """Faults by name."""
    latency: Latency
    loop_lag_s: float
    workers: Sequence[Worker]


class HistoryPoint(Struct, frozen=True):
    """Counts of some seconds."""

    date: float
    """When they ended."""
    seconds: float
    connections: int
    """Number of connections at the end."""
    requests: int
    responses: Mapping[str, int]
    """Responses as in `Live`."""
    faults: Mapping[str, int]
    latency: Sequence[int]
    """Counts by the bounds of `Live.latency`."""
    loop_lag_s: float


class History(Struct, frozen=True):
    """The last hour, the oldest point first; less after a start."""

    every_s: float
    bounds_s: Sequence[float]
    points: Sequence[HistoryPoint]


class RequestToExplain(Struct, frozen=True, forbid_unknown_fields=True):
    """A request that nobody sends."""

    method: str
    url: str
    """URL as the client would ask for it, such as `https://api.example.com/users/7?debug=1`."""
    headers: Sequence[str] = ()
    """Each as `Name: value`. Without a Host it is that of the URL."""
    client: str = "127.0.0.1"
    """The address that it comes from."""
    listener: str | None = None
    """Listener that receives the request; null = the one with the port of the URL."""
    certificate: str | None = None
    """Client certificate, in PEM. It is treated as verified."""


class Explained(Struct, frozen=True):
    """Explanation of a request without sending it, as by a gateway that has just begun with this configuration: whether
    targets are healthy or drained, what limits have left and what was revoked is not looked at.
    """

    generation: int
    """Generation of the configuration that explains it."""
    explanation: Explanation
    """Explanation as in `fastgw explain --format json`. Steps that do not apply, or are not reached, are left out."""
    text: str
    """Explanation for people, as in `fastgw explain`."""


class Draining(Struct, frozen=True):
    """The node takes no new connections, and stops when all requests in flight have finished."""

    state: Literal["draining"] = "draining"


class Revocations(Struct, frozen=True):
    """Size of the revocation list."""

    count: int
    most: int
    """Maximum number; beyond it, the revocations that end first are removed."""
    reach: RevokedEverywhere
    recent: Sequence[RevocationEvent]
    """The latest first; those of other nodes only if they arrived while this node was connected."""


class Revoked(Struct, frozen=True):
    """Result of a revocation, which holds on all workers in a moment."""

    expires_date: float
    """When the revocation ends."""
    reach: RevokedEverywhere


class Refusal(Struct, frozen=True):
    """Reason why a request was not served (RFC 9457)."""

    title: str
    status: int
    detail: str = ""
    type: str = "about:blank"


class Node(Protocol):
    """Node behind the admin API. Nothing here but `explain` raises on account of a request, and nothing but the `async`
    ones takes long.

    An `async` one goes on when the client that asked has left.
    """

    def status(self) -> Status: ...
    def live(self) -> Live: ...
    def history(self) -> History: ...
    def routes(self) -> Sequence[RouteInfo]: ...
    def upstreams(self) -> Sequence[UpstreamInfo]: ...
    async def consumers(self) -> Sequence[ConsumerInfo]: ...
    async def config(self) -> Effective: ...

    def metrics(self, accept: bytes) -> tuple[bytes, bytes]:
        """Content type and text, as the `Accept` field asks."""

    async def reload(self) -> Outcome:
        """Read the configuration file anew."""

    async def apply(self, text: bytes, suffix: str, dry_run: bool) -> Outcome:
        """Take `text` as the configuration. `suffix`: `.yaml`, `.json` or `.toml`. `dry_run`: say what would be."""

    async def put_targets(self, upstream: str, text: bytes, suffix: str) -> Outcome:
        """Give an upstream the targets that `text` lists, in place of its own. `suffix`: `.yaml` or `.json`."""

    def drain_target(self, upstream: str, target: str, drained: bool) -> TargetInfo | None:
        """Have the target of this label get nothing new on any worker; or not `drained`, its requests again.

        None: there is no such target.
        """

    async def rollback(self, generation: int | None) -> Outcome:
        """Go back to a generation that is kept; None = the last that said something else, each time one further."""

    async def explain(self, request: RequestToExplain) -> Explained:
        """Raises `ValueError`: it is no such request; `TimeoutError`: it is not found out for now."""

    def revocations(self) -> Revocations: ...

    def quotas(self, consumer: str | None, keys: Sequence[str]) -> list[QuotaInfo]:
        """All of them, with what somebody has used."""

    async def limits(self) -> Limits: ...

    def reset_quota(self, instance: str, consumer: str | None, keys: Sequence[str]) -> int | None:
        """Let it begin anew. In how many places somebody had used it; None: there is none that counts by that."""

    def revoke(self, records: bytes, about: RevocationEvent) -> RevokedEverywhere:
        """Let these records (`fastgw.sync.revocations`) count. `about`: what they are, for people."""

    def drain(self) -> None:
        """Begin to."""
