"""The settings of upstreams: where requests go, and how they are sent there."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import NONE, Filters, OrFrom, Settings, Shorthand, Some
from fastgw.config.base.value_types import (
    CheckPath,
    Delay,
    Duration,
    FieldName,
    FieldValue,
    HostHeader,
    HostName,
    Percent,
    ReadableFile,
    Size,
    Statuses,
    TargetUrl,
    Token,
    Trait,
    trait,
)
from fastgw.config.settings.secrets import Secret

PoolNumber = Annotated[int, Meta(le=1_000_000)]


class Target(Settings):
    """One address of an upstream."""

    url: TargetUrl
    """`http://host:port/base`, `https://…`, `unix:/path/of.sock` or `unix:/path/of.sock:/base`."""
    weight: Annotated[int, Meta(ge=0, le=1000)] = 1
    """Share of the requests, relative to the other targets. 0 = none: it is drained."""
    priority: Annotated[int, Meta(ge=0, le=100)] = 0
    """The group that it is of. Requests go to the group of the lowest number; to the next one as well while that has
    too few targets that may be picked (`load_balancing.spill_below`)."""


WrittenTarget = Annotated[Target, Shorthand("url", "a URL or an object")]
"""A target, which may be written as its URL alone."""
Targets = Some[WrittenTarget]
"""A list of targets as it is written."""


class TargetsFile(Settings):
    """A list of targets in a file of its own. It is watched: what it says takes effect at once, without a reload being
    asked for; while it is invalid or missing, its previous contents stay active."""

    file: ReadableFile
    """YAML or JSON by its ending: the list alone."""


class TargetsDns(Settings):
    """Every address of a name as a target of its own (A and AAAA records). The name itself is not sent: say in
    `host_header` and `tls.server_name` what services go by."""

    dns: HostName
    """The name."""
    port: Annotated[int, Meta(ge=1, le=65535)]
    """The port of all of them."""
    scheme: Literal["http", "https"] = "http"
    """Scheme of the targets."""
    interval: Duration | None = None
    """How often it is looked up; null = `resolve.interval` of the upstream. After a failure it is tried again after
    1 s, 2 s and so on, up to that. Meanwhile the targets of before stay; where there are none yet, as at a start,
    requests are answered 503 (`no_healthy_target`)."""


class TargetsSrv(Settings):
    """Targets from SRV records (RFC 2782): hosts, ports, weights, and priorities as groups of targets. Needs
    `fastgw[dns]`.
    """

    srv: HostName
    """The name, such as `_http._tcp.users.internal`."""
    scheme: Literal["http", "https"] = "http"
    """Scheme of the targets."""
    interval: Duration | None = None
    """How often it is looked up; null = `resolve.interval` of the upstream. After a failure it is tried again after
    1 s, 2 s and so on, up to that. Meanwhile the targets of before stay; where there are none yet, as at a start,
    requests are answered 503 (`no_healthy_target`)."""


class Resolve(Settings):
    """Resolution of the names of targets."""

    interval: Duration = 30.0
    """How often a name is resolved again, of `url` as of `dns` and `srv`. When that fails the last good addresses
    stay."""


SHORTEST_KEY: Final = 16
"""Characters of what cookies are signed with."""


class Sticky(Settings):
    """Clients that stay with the target of their first request."""

    cookie: Token
    """The name of a cookie that the gateway sets. It is signed, and names the target without telling its address. One
    that is forged, that has ended, or whose target may not be picked is ignored, and another one is set. Clients stay
    with a target that is drained, until it is gone; and with one of another priority group than the one in use."""
    ttl: Duration | None = None
    """How long a client stays; then it may be given another target. null = as long as its browser is open."""
    path: Annotated[str, Meta(pattern=r"^/[^\x00-\x20;\x7f-\U0010ffff]*$")] = "/"
    """The paths that the client sends it for."""
    secure: bool | None = None
    """Whether it is sent over https alone. null = where the client came over https."""
    same_site: Literal["strict", "lax", "none"] = "lax"
    """Whether browsers send it with requests that other sites have caused. `none` needs `secure: true`."""
    key: Secret | None = None
    """Key that the cookie is signed with, at least 16 characters. All nodes behind one name need the same. null = a key
    of the node's own, made at its start and kept over reloads and upgrades.
    """

    def __post_init__(self) -> None:
        if self.same_site == "none" and self.secure is not True:
            raise ValueError("`same_site: none` without `secure: true`: browsers reject such a cookie")


class LoadBalancing(Settings):
    """Load balancing: the algorithm that picks a target. Weights count for all algorithms; a request that is tried
    again goes to another target.

    An upstream with one target in use has nothing to choose.
    """

    algorithm: Literal["round_robin", "least_connections", "random", "ip_hash", "consistent_hash", "latency"] = (
        "round_robin"
    )
    """`round_robin`: targets in turn.
    `random`: a random target.
    `least_connections`: of two random targets (power of two choices) the one with fewer requests in flight on the node.
    `latency`: of two random targets the one with the lower product of response time (until the response head) and
    requests in flight. An answer slower than the average counts at once, a failed attempt as `timeouts.connect` at
    least.
    `ip_hash`: by the client's address (IPv6: its /64), so that a client stays with its target.
    `consistent_hash`: by `hash_on`; a target that goes, or comes, moves its own share alone."""
    hash_on: Annotated[Trait, trait("ip", "header", "cookie", "consumer")] | None = None
    """Hash key of `consistent_hash`: `ip`, `header:NAME`, `cookie:NAME` or `consumer`; null = `ip`. A request that has
    none, or several that differ, is balanced round robin.
    """
    load_factor: Annotated[float, Meta(ge=1.01, le=100)] | None = 1.25
    """With `consistent_hash`: a target that has more than so many times its share of the requests in flight on the
    node, and at least 10, gets no more: further ones go to the next target of their hash. null = no limit."""
    decay: Duration = 10.0
    """With `latency`: how long what was seen counts; older than that it counts for about a third."""
    sticky: Sticky | None = None
    """Whether clients stay with their target by a cookie. null = no."""
    slow_start: Duration | None = None
    """How long a target that comes back, or is new in a running gateway, takes to get its full share: it begins with a
    tenth of its weight. Not for hashes, which would move clients. null = it gets its share at once."""
    spill_below: Percent = 0.5
    """When the next group of targets is used as well (`targets.priority`): when less than this part of a group's weight
    may be picked. 0% = when none of it may."""
    panic_threshold: Percent = 0.5
    """When health is not looked at any more: when less than this part of the weight in use may be picked. The rest
    could not take what was meant for all. Drained targets stay so. 0% = never: when none may be picked, 503."""

    def __post_init__(self) -> None:
        if self.hash_on is not None and self.algorithm != "consistent_hash":
            raise ValueError("`hash_on` needs `algorithm: consistent_hash`")
        if self.slow_start is not None and self.algorithm in ("ip_hash", "consistent_hash"):
            raise ValueError(
                f"`slow_start` is not supported with `{self.algorithm}`: clients would change targets at each step"
            )


class UpstreamTimeouts(Settings):
    """How long an upstream is waited for. Idle times unless named otherwise."""

    connect: Duration = 1.0
    """For a connection: name lookup and connecting, and the TLS handshake as well unless `tls` is set. A total.
    Answered 504."""
    tls: Duration | None = None
    """Timeout for the TLS handshake, once connected. Answered 504. null = it is a part of `connect`."""
    response_headers: Duration = 30.0
    """Timeout for the response head, once the request is sent. Answered 504."""
    idle: Duration = 60.0
    """Timeout for any byte either way while bodies move. Answered 504 when no response has begun, else cut."""
    tunnel_idle: Duration = 3600.0
    """Timeout for any byte either way in a tunnel such as a WebSocket connection."""
    total: Duration | None = None
    """Timeout for the whole exchange, all attempts and the response body included. null = as long as bytes move."""


class Pool(Settings):
    """The connections to an upstream's targets, all of them together. Numbers are for the node."""

    max_connections: Annotated[PoolNumber, Meta(ge=1)] = 1024
    """The most connections, lent and idle, retries included."""
    max_idle: Annotated[PoolNumber, Meta(ge=0)] = 64
    """The most connections kept for reuse. Divided among the workers, at least one each unless 0."""
    idle_timeout: Duration = 55.0
    """How long an idle connection is kept. Keep it under the upstream's own keep-alive time."""
    max_pending: Annotated[PoolNumber, Meta(ge=0)] = 1024
    """The most requests that wait for a connection; further ones are answered 503."""
    pending_timeout: Duration = 10.0
    """How long a request waits for a connection while `max_connections` are in use. Then it is answered 503."""
    max_uses: Annotated[PoolNumber, Meta(ge=1)] | None = None
    """Number of requests after which a connection is closed. null = never for that reason."""


class Backoff(Settings):
    """How long is waited before a retry: a random time between 0 and a bound (full jitter)."""

    base: Delay = 0.025
    """The bound of the first wait; that of each further one is twice as long. 0 = no wait."""
    max: Delay = 0.25
    """The longest bound. A response whose `Retry-After` asks for a longer wait is forwarded instead; a shorter one is
    respected."""

    def __post_init__(self) -> None:
        if self.base > self.max:
            raise ValueError("`base` is longer than `max`")


class Retries(Settings):
    """When a request is tried again at another connection or target: another one where there is one.

    All attempts together have the route's `timeout`."""

    max: Annotated[int, Meta(ge=0, le=10)] = 1
    """How many attempts may follow the first. 0 = none."""
    conditions: tuple[
        Literal["connect_failure", "reset_before_response", "per_try_timeout", "429", "500", "502", "503", "504"], ...
    ] = ("connect_failure", "reset_before_response")
    """`connect_failure`: no connection was made; `reset_before_response`: a reused one closed before any answer.
    After these two the upstream has not acted. With the others it may have, twice then, so they are for requests that
    may be repeated (GET, HEAD, OPTIONS, PUT, DELETE): `per_try_timeout`: no response head came within that time, or
    within `timeouts.response_headers`; `"429"`, `"500"`, `"502"`, `"503"`, `"504"`: the target answered so. The last
    answer is passed on as it is, also where no other target can be had after it (all are ejected, the breaker has
    opened)."""
    budget: Percent = 0.2
    """Retry budget: the maximum number of retries in flight, as a share of the requests in flight to this upstream;
    each worker applies it to its own. Three more are always allowed, on the whole node. A failed connect that is
    followed by an attempt at another target does not count: it put no load on the upstream."""
    non_idempotent: bool = False
    """Whether a POST or PATCH may be sent again too, wherever a GET may. The upstream may then act twice."""
    per_try_timeout: Duration | None = None
    """Timeout for one attempt at a request that may be repeated: until the response head, from the beginning of the
    attempt or the end of the request, whichever is later. Answered 504 when no retry is left. null = no limit of its
    own.
    """
    backoff: Backoff = Backoff()
    """How long is waited before a target is asked again, and after an answer that is in `conditions` in any case. No
    wait follows `reset_before_response`."""
    body_bytes: Annotated[Size, Meta(ge=0, le=16 * 1024**2)] = 64 * 1024
    """The longest request body that is kept to be sent again. A request with a longer one is tried again only as long
    as nothing of it was sent. What is kept beyond 64 KiB of each may have 64 MiB on the node, as
    `fastgw_kept_body_bytes` tells; bodies that find no room there are not kept."""

    def __post_init__(self) -> None:
        if self.per_try_timeout is not None and "per_try_timeout" not in self.conditions:
            raise ValueError('`per_try_timeout` is set, but "per_try_timeout" is not among `conditions`')


class Hedge(Settings):
    """Ask another target as well when the first one is slow: what answers first counts, the other is given up.

    For GET, HEAD and OPTIONS without a body, within the budget of `retries`, and where there is another target."""

    after: Literal["p95"] | Duration = "p95"
    """How long the first target has. `p95`: what 95 of 100 answers took less than, as each worker has seen it lately:
    5 ms at least, and nothing is hedged before 100 answers."""
    max: Annotated[int, Meta(ge=1, le=3)] = 1
    """The maximum number of hedged requests in addition to the first. Each comes `after` the one before."""


class UpstreamTls(Settings):
    """TLS settings for `https` targets."""

    ca: ReadableFile | None = None
    """A PEM file of certificates to trust. null = the system's."""
    server_name: str | None = None
    """The name to ask for (SNI) and to verify. null = the target's host."""
    certificate: ReadableFile | None = None
    """A PEM file with the client certificate and its chain. Needs `key`."""
    key: ReadableFile | None = None
    """A PEM file with the client certificate's key. Needs `certificate`."""
    verify: bool = True
    """Whether the target's certificate is verified. false leaves the connection open to anyone in between."""


Threshold = Annotated[int, Meta(ge=1, le=1000)]
OF_HTTP_CHECKS: Final[Mapping[str, Any]] = {
    "path": "/",
    "method": "GET",
    "host": None,
    "headers": NONE,
    "expected_statuses": (range(200, 400),),
    "expected_body": None,
}
"""Settings that a check by a connection alone does not use, and their defaults."""


class ActiveHealth(Settings):
    """Active health checks: probe each target regularly, once for the node, whatever the number of workers.

    An unhealthy target gets no requests. While probing is not possible, the last result is valid for three intervals;
    from then on nothing is known of a target, and it may be used."""

    type: Literal["http", "tcp"] = "http"
    """`http`: by a request, over TLS where the target is `https`; `tcp`: by a connection alone, with its TLS
    handshake. Each time on a new connection."""
    path: CheckPath = "/"
    """Path that is requested, query included. It does not go behind the path of the target's URL."""
    method: Literal["GET", "HEAD", "OPTIONS"] = "GET"
    """Method of the request."""
    host: HostHeader | None = None
    """Value of `Host`. null = that of the upstream's `host_header`, or the target's own where that is `preserve`."""
    headers: Mapping[FieldName, FieldValue] = NONE
    """Further headers of the request."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Port of the check, on the target's host. null = the target's own port."""
    interval: Duration = 5.0
    """Time between two checks of a target, give or take a tenth."""
    timeout: Duration = 1.0
    """Timeout for a whole check. A total."""
    healthy_threshold: Threshold = 2
    """How many good answers in a row bring a target back. Of one that is new, the first is enough."""
    unhealthy_threshold: Threshold = 3
    """Number of failures in a row after which a target gets no more requests."""
    expected_statuses: Some[Statuses] = (range(200, 400),)
    """The statuses of good answers: ranges such as `"200-399"`, or single ones."""
    expected_body: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    """Text that the first 64 KiB of a good response's body contain. null = anything."""

    def __post_init__(self) -> None:
        if self.type == "tcp":
            for name, default in OF_HTTP_CHECKS.items():
                if getattr(self, name) != default:
                    raise ValueError(f"`{name}` has no effect with `type: tcp`")


class PassiveHealth(Settings):
    """Eject a target that keeps failing, and try it again after a pause. Counted over all workers.

    Failed connects count, name lookup and TLS handshake included. Where `failures` is set, so do the other failures of
    a target: no answer in time, an answer that is no HTTP or breaks off, or a status of 500 and above. Where its
    neighbours fail likewise, requests are the cause and none is ejected, unless it cannot even be connected to."""

    failures: Threshold | None = None
    """How many failures in a row eject it. After an ejection one is enough, until it has answered well once. null =
    only failed connects count."""
    connect_failures: Threshold | None = None
    """How many failures in a row eject it when the last one is a failed connect. null = as many as `failures` says, and
    1 where that is not set either, as nginx's `max_fails`."""
    window: Duration = 10.0
    """How long ago the first of them may be; and the time over which `error_rate` is taken."""
    error_rate: Percent | None = None
    """The share of failures and of answers of 500 and above, within `window`, that ejects it as well. null = no share
    does."""
    min_requests: Threshold = 20
    """How many requests it takes to speak of a share."""
    eject: Duration = 5.0
    """How long it gets no requests. Twice as long when it is ejected again, three times the next time, and so on; one
    less for each `window` that it has been back."""
    max_eject: Duration = 300.0
    """The longest that `eject` grows to."""
    max_ejected: Percent = 0.5
    """The share of the targets that may be ejected at a time: of two or more, one may always be, unless this is 0%. The
    only target of an upstream never is."""


class HealthChecks(Settings):
    """Health checks of targets. An unhealthy target gets no requests, unless too many are unhealthy
    (`load_balancing.panic_threshold`).
    """

    active: ActiveHealth | None = None
    """Active health checks, by requests of the gateway's own. null = disabled."""
    passive: PassiveHealth | None = PassiveHealth()
    """Passive health checks, by the results of requests. null = disabled."""


class CircuitBreaker(Settings):
    """Spare an upstream that fails too often. Counted over all workers.

    Closed, everything passes. Too many errors open it: requests are answered 503, with a `Retry-After`. When `open` is
    over it is half-open: `probes` requests pass, on the whole node, and if all of them are answered well it is closed;
    one that is not opens it again. Where they come to nothing, because clients left, as many may pass after a further
    `open`."""

    error_rate: Percent = 0.5
    """The share of attempts within `window` that fail, or are answered 500 and above, which opens it."""
    min_requests: Threshold = 20
    """How many attempts it takes to speak of a share."""
    window: Duration = 10.0
    """The time over which they are counted."""
    open: Duration = 5.0
    """How long it stays open."""
    probes: Threshold = 3
    """How many requests pass while it is half-open, and have to be answered well."""


class Upstream(Settings):
    """A named group of targets that do the same work."""

    targets: Annotated[tuple[WrittenTarget, ...], OrFrom((TargetsFile, TargetsDns, TargetsSrv))]
    """Targets of the upstream: a list of `{url: …}`, or of URLs; or their source: `{file: path}`, `{dns: name, port:
    9000}` or `{srv: name}`. What changes there takes effect without a reload.
    """
    resolve: Resolve = Resolve()
    """Resolution of names to addresses."""
    load_balancing: LoadBalancing = LoadBalancing()
    """Load balancing among the targets."""
    host_header: HostHeader = "target"
    """`target`: the target's own host and port; `preserve`: what the client sent; anything else is sent as it is."""
    timeouts: UpstreamTimeouts = UpstreamTimeouts()
    """How long it is waited for."""
    pool: Pool = Pool()
    """Connection pool of the targets."""
    retries: Retries = Retries()
    """When a request is tried again."""
    hedge: Hedge | None = None
    """Hedged requests: when a slow request is also sent to another target. null = never."""
    health_checks: HealthChecks = HealthChecks()
    """Health checks of the targets."""
    circuit_breaker: CircuitBreaker | None = None
    """When requests are refused to spare it. null = never."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for `https` targets, which are spoken to by TLS 1.2 or 1.3.

    They may not renegotiate, and a response whose length nothing tells has to end with `close_notify`: else it is cut
    off (`upstream_incomplete`).
    """
    filters: Filters = NONE
    """Filters for what goes there."""
