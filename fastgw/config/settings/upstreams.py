"""Settings of upstreams."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta
from msgspec.structs import replace

from fastgw.config.base.settings_base import NONE, Filters, OrFrom, Settings, Shorthand, Some
from fastgw.config.base.value_types import (
    CertificateName,
    CheckPath,
    CipherName,
    Delay,
    Duration,
    FieldName,
    HostHeader,
    HostName,
    KeyFile,
    Percent,
    PlainValue,
    ReadableFile,
    RetryCondition,
    Size,
    Statuses,
    TargetUrl,
    TlsName,
    Token,
    Trait,
    Url,
    trait,
)
from fastgw.config.settings.discovered_targets import TARGETS_BY_KIND
from fastgw.config.settings.secrets import Secret
from fastgw.net.tls_profiles import VersionName

_MOST: Final = 1_000_000
_MOST_FOR_REQUESTS: Final = 1024
PoolNumber = Annotated[int, Meta(le=_MOST)]
MOST_LISTED: Final = 5000
"""Maximum number of targets of one upstream. A worker sets up the targets of an upstream in one step: these take it
about 0.2 s, in which it answers nothing, and 60,000 so long that it would be killed.
"""


class Target(Settings):
    """Address of one target of an upstream."""

    url: TargetUrl
    """`http://host:port/base`, `https://…`, `unix:/path/of.sock` or `unix:/path/of.sock:/base`. For listeners with
    `protocol: tcp` or `tls`: `tcp://host:port` or `unix:/path/of.sock`; with `protocol: udp`: `udp://host:port`."""
    weight: Annotated[int, Meta(ge=0, le=1000)] = 1
    """Share of the requests, relative to the other targets. 0 = none: the target is drained."""
    priority: Annotated[int, Meta(ge=0, le=100)] = 0
    """Priority group of the target. Requests go to the group with the lowest number, and also to the next group while
    too few targets of the first are available (`load_balancing.spill_below`). A retry goes to the next group as well if
    all targets of the first were tried, except after `reset_before_response` and requests that the target has refused
    unprocessed."""


WrittenTarget = Annotated[Target, Shorthand("url", "a URL or an object")]
"""A target, which may be written as its URL alone."""
Targets = Annotated[tuple[WrittenTarget, ...], Meta(min_length=1, max_length=MOST_LISTED)]
"""Targets as written: a list."""


class TargetsFile(Settings):
    """List of targets in a separate file. The file is watched: a change takes effect at once, without a reload. While
    the file is invalid or missing, its previous contents stay in use."""

    file: ReadableFile
    """YAML or JSON file of at most 1 MiB, by its extension, which contains only the list."""


class TargetsDns(Settings):
    """Targets from DNS: every address of a name (A and AAAA records) is a target. The name itself is not sent: set
    `tls.server_name` to the name that the services expect, and `host_header` unless they expect the client's."""

    dns: HostName
    """DNS name."""
    port: Annotated[int, Meta(ge=1, le=65535)]
    """Port of all targets."""
    scheme: Literal["http", "https", "tcp", "udp"] = "http"
    """Scheme of the targets."""
    interval: Duration | None = None
    """Interval between lookups; null = `resolve.interval` of the upstream. A failed lookup is retried after 1 s, 2 s
    and so on, up to this interval. Meanwhile the previous targets stay in use; if there are none yet, as after a start,
    requests are answered 503 (`no_healthy_target`)."""


class TargetsSrv(Settings):
    """Targets from SRV records (RFC 2782): hosts, ports and weights, and priorities as priority groups. Weights above
    1,000 are scaled down in proportion. Needs `fastgw[dns]`."""

    srv: HostName
    """DNS name of the records, such as `_http._tcp.users.internal`."""
    scheme: Literal["http", "https", "tcp", "udp"] = "http"
    """Scheme of the targets."""
    interval: Duration | None = None
    """Interval between lookups; null = `resolve.interval` of the upstream. A failed lookup is retried after 1 s, 2 s
    and so on, up to this interval. Meanwhile the previous targets stay in use; if there are none yet, as after a start,
    requests are answered 503 (`no_healthy_target`)."""


_TARGET_SOURCES: Final = (TargetsFile, TargetsDns, TargetsSrv, *TARGETS_BY_KIND.values())


class Resolve(Settings):
    """DNS resolution of the names of targets."""

    interval: Duration = 30.0
    """Interval between lookups of a name, in `url` as well as in `dns` and `srv`. If a lookup fails, the last known
    addresses stay in use, also after a reload or an upgrade and in workers that are started later; a restart of the
    gateway forgets them. While one is running they stay in use, too, and no reload or other change waits for it for
    more than half a second. Names of `dns` and `srv` that are new are waited for at most 10 s, all together.

    Each worker looks up a name in `url` while it uses the name or has connections to it. The first request after an
    interval without any waits for a lookup, half a second at most, so that it does not go to an address that may be
    another host's by now."""


SHORTEST_KEY: Final = 16
"""Minimum number of characters of the key that signs cookies."""


class Sticky(Settings):
    """Sticky sessions: a client stays with the target of its first request, by a cookie."""

    cookie: Token
    """Name of a cookie that the gateway sets. The cookie is signed, and does not reveal the target's address. A forged
    or expired cookie, or one whose target is not available, is ignored, and a new one is set. Clients stay with a
    target that is drained until it is removed, and with a target of another priority group than the one in use. No
    cookie is set for a backup to which only a retry was sent, while other targets are in use."""
    ttl: Duration | None = None
    """Lifetime of the session; after it the client may be given another target. null = until the browser is closed."""
    path: Annotated[str, Meta(pattern=r"^/[!-:<-~]*$")] = "/"
    """`Path` of the cookie."""
    secure: bool | None = None
    """Whether the cookie is sent over https only. null = only if the client's request came over https."""
    same_site: Literal["strict", "lax", "none"] = "lax"
    """`SameSite` of the cookie: whether browsers send it with requests that come from other sites. `none` needs
    `secure: true`."""
    key: Secret | None = None
    """Key that the cookie is signed with, at least 16 characters. All nodes behind one name need the same key. null = a
    key that the node generates at its start and keeps over reloads and upgrades."""

    def __post_init__(self) -> None:
        if self.same_site == "none" and self.secure is not True:
            raise ValueError("`same_site: none` without `secure: true`: browsers reject such a cookie")


class LoadBalancing(Settings):
    """Load balancing: selection of a target for each attempt. All algorithms respect weights; a retry goes to another
    target.

    With one target in use there is nothing to select.
    """

    algorithm: Literal["round_robin", "least_connections", "random", "ip_hash", "consistent_hash", "latency"] = (
        "round_robin"
    )
    """`round_robin`: targets in turn.
    `random`: a random target.
    `least_connections`: two random targets (power of two choices), of which the one with fewer requests in flight on
    the node is selected.
    `latency`: two random targets, of which the one with the lower product of response time (from the end of the
    request until the response head) and requests in flight is selected. A response slower than the average counts at
    once; a failed attempt counts as `timeouts.connect` or longer.
    `ip_hash`: by the client's address (IPv6 by /64), so that a client stays with its target.
    `consistent_hash`: by `hash_on`; when a target is added or removed, only its own share of the keys moves."""
    hash_on: Annotated[Trait, trait("ip", "header", "cookie", "consumer")] | None = None
    """Hash key of `consistent_hash`: `ip`, `header:NAME`, `cookie:NAME` or `consumer`; null = `ip`. A request without
    the key, or with several different values of it, is balanced round robin. Headers and cookies are those of the
    request as filters have changed it, except that headers of `credentials` are not used."""
    load_factor: Annotated[float, Meta(ge=1.01, le=100)] | None = 1.25
    """Bounded load of `consistent_hash`: a target gets no further requests while it has more than this many times its
    share of the requests in flight on the node, and at least 10; they go to the next target of their hash. null = no
    bound."""
    decay: Duration = 10.0
    """Time constant of the average that `latency` uses: a measurement this old counts for about a third."""
    sticky: Sticky | None = None
    """Sticky sessions by a cookie. null = disabled."""
    slow_start: Duration | None = None
    """Time in which a target that is healthy again, or new in a running gateway, rises to its full share. It begins
    with a tenth of its weight. Not for hashes, where it would move clients. null = the target gets its full share at
    once."""
    spill_below: Percent = 0.5
    """The next priority group (`targets.priority`) is used as well when less than this share of a group's weight is
    available. 0% = when no target of the group is available."""
    panic_threshold: Percent = 0.5
    """Health is ignored when less than this share of the weight of every priority group in use is available, because
    the remaining targets could not take all of the load. Drained targets stay drained. 0% = health is never ignored: if
    no target is available, requests are answered 503."""

    def __post_init__(self) -> None:
        if self.hash_on is not None and self.algorithm != "consistent_hash":
            raise ValueError("`hash_on` needs `algorithm: consistent_hash`")
        if self.slow_start is not None and self.algorithm in ("ip_hash", "consistent_hash"):
            raise ValueError(
                f"`slow_start` is not supported with `{self.algorithm}`: clients would change targets at each step"
            )


class UpstreamTimeouts(Settings):
    """Timeouts for upstreams. Idle timeouts unless noted otherwise."""

    connect: Duration = 1.0
    """Timeout for opening a connection: name lookup and connecting, and the TLS handshake as well unless `tls` is set.
    Total. Answered 504."""
    tls: Duration | None = None
    """Timeout for the TLS handshake, once connected. Answered 504. null = the handshake is a part of `connect`."""
    response_headers: Duration = 60.0
    """Timeout for the response head, once the request is sent. Over HTTP/2 the last 64 KiB of a request count as sent
    while they wait for the target's flow-control window. Answered 504."""
    idle: Duration = 60.0
    """Timeout for the next byte in either direction while bodies are transferred, also for a target that does not
    accept the rest of a request, except for what counts as sent (see `response_headers`). Answered 504 if no response
    has begun, else the connection is aborted."""
    tunnel_idle: Duration = 3600.0
    """Timeout for the next byte in either direction of a tunnel such as a WebSocket connection, of a connection of a
    TCP listener (at most 60 s once the service has ended its direction), and of a UDP session."""
    total: Duration | None = None
    """Timeout for the whole exchange, all attempts and the response body included; for a TCP or UDP listener, for
    the whole connection or session. null = no limit while bytes are transferred."""


class RouteTimeouts(Settings):
    """Timeouts for requests of one route. A setting that is left out is that of the upstream; `connect` and `tls` are
    always the upstream's, because its connections serve other routes too.
    """

    response_headers: Duration | None = None
    """Timeout for the response head of one attempt, once the request is sent. Answered 504."""
    idle: Duration | None = None
    """Timeout for the next byte in either direction while bodies are transferred."""
    tunnel_idle: Duration | None = None
    """Timeout for the next byte in either direction of a tunnel such as a WebSocket connection."""
    total: Duration | None = None
    """Timeout for the whole exchange, all attempts and the response body included."""

    def over(self, timeouts: UpstreamTimeouts) -> UpstreamTimeouts:
        """Return the settings of an upstream with those of the route in their place."""
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        return replace(timeouts, **given)


class Pool(Settings):
    """Connection pool for all targets of an upstream. The numbers apply to the node."""

    max_connections: Annotated[PoolNumber, Meta(ge=1)] | None = None
    """Maximum number of connections, in use and idle, those of retries included. Idle ones of a worker are closed when
    requests wait at another. With HTTP/2 set it to `workers` at least: a connection with requests in flight is not
    closed for another worker if it is the only one. null = 1024; for connections of `tcp` and `tls` listeners, no limit
    but that of their clients (`limits.connections`)."""
    max_idle: Annotated[PoolNumber, Meta(ge=0)] | None = None
    """Maximum number of idle connections that are kept for reuse. Divided among the workers, at least one for each,
    unless 0. Left out = 64, and more while they are needed: those beyond are closed when not used for 5 seconds."""
    idle_timeout: Duration = 55.0
    """Time for which an idle connection is kept. Keep it below the keep-alive timeout of the upstream."""
    max_pending: Annotated[PoolNumber, Meta(ge=0)] = 1024
    """Maximum number of requests that wait for a connection; further ones are answered 503: at once, or within 0.1
    seconds if another worker may have an idle connection, which is closed for them."""
    pending_timeout: Duration = 10.0
    """Timeout for a request that waits for a connection because `max_connections` are in use. Answered 503.
    Requests of all workers are served in the order in which they came; up to 0.1 seconds earlier, if their worker has a
    connection."""
    max_uses: Annotated[PoolNumber, Meta(ge=1)] | None = None
    """Number of requests after which a connection is closed. null = no limit."""

    def most_connections(self, *, for_requests: bool = True) -> int:
        """Return the maximum number of connections: `max_connections`, or its default."""
        return self.max_connections or (_MOST_FOR_REQUESTS if for_requests else _MOST)


Violation = Literal[
    "content_length_with_chunked",
    "repeated_content_length",
    "transfer_encoding_identity",
    "repeated_chunked",
    "bare_lf",
    "padded_chunk_sizes",
    "statuses_above_599",
    "control_characters",
]
"""Name of a violation of RFC 9110 or RFC 9112 that the responses of an upstream may have."""
Violations = tuple[Violation, ...]
MOST_HEADERS: Final = 1000


class ResponseLimits(Settings):
    """Limits on the responses of an upstream. A response beyond them is answered 502 (`upstream_malformed`). Each
    request in flight may take this memory. Clients have limits of their own, such as 128 KiB for curl over HTTP/2."""

    header_bytes: Annotated[Size, Meta(ge=64 * 1024, le=1024**2)] = 64 * 1024
    """Maximum size of a response head, status line included, and of the trailers; over HTTP/2, of the header list (RFC
    9113)."""
    header_count: Annotated[int, Meta(ge=100, le=MOST_HEADERS)] = 100
    """Maximum number of header lines in a response head, and in the trailers."""


class Backoff(Settings):
    """Wait before a retry: a random time between 0 and a bound (exponential backoff with full jitter)."""

    base: Delay = 0.025
    """Bound of the first wait; each further bound is twice as long. 0 = no wait."""
    max: Delay = 0.25
    """Maximum of the bound. If the `Retry-After` of a response asks for a longer wait, the response is forwarded and
    there is no retry; a shorter `Retry-After` is respected."""

    def __post_init__(self) -> None:
        if self.base > self.max:
            raise ValueError("`base` is longer than `max`")


RetryConditions = tuple[RetryCondition, ...]


class Retries(Settings):
    """Retries of a request on another connection, and at another target if there is one.

    The route's `timeout` applies to all attempts together.
    """

    max: Annotated[int, Meta(ge=0, le=10)] = 1
    """Maximum number of retries after the first attempt. 0 = none."""
    conditions: RetryConditions = ("connect_failure", "reset_before_response")
    """`connect_failure`: no connection could be opened, so the upstream has not seen the request. In the other cases it
    may have processed the request, and would process it twice, so they apply only to idempotent requests (GET, HEAD,
    OPTIONS, PUT, DELETE): `reset_before_response`: a reused connection was closed before any response, in most cases
    because it had been idle; `reset`: the connection was lost before any response, also a new one (it includes
    `reset_before_response`); `per_try_timeout`: no response head within that time, or within
    `timeouts.response_headers`, or a target that does not accept the request for `timeouts.idle`; `"503"` or another
    status from 400 to 999: the target answered with it; `cancelled`,
    `deadline_exceeded`, `internal`, `resource_exhausted`, `unavailable`: the response to a call of gRPC is this status
    alone (Trailers-Only); after response headers the call is committed (gRFC A6). Calls are POST: see `non_idempotent`.
    The last response is forwarded as it is, also if no other target is available after it (all are ejected, or the
    circuit breaker has opened).

    A request that the target has refused unprocessed, over HTTP/2 by `GOAWAY` or `REFUSED_STREAM`, is sent again up to
    six times, POST too, with any conditions; not if `max` is 0."""
    budget: Percent = 0.2
    """Retry budget: maximum number of retries in flight, as a share of the requests in flight to this upstream; each
    worker applies it to its own requests. Three more are always allowed, on the whole node. A failed connect that is
    followed by an attempt at another target does not count, because it put no load on the upstream."""
    non_idempotent: bool = False
    """Whether POST and PATCH are retried too, in the same cases as GET. The upstream may then process a request twice.
    """
    per_try_timeout: Duration | None = None
    """Timeout for one attempt of an idempotent request: until the response head, from the beginning of the attempt or
    the end of the request, whichever is later. Answered 504 if no retry is left. A request whose body was not kept
    (`body_bytes`) has no such limit once it was sent. null = no separate limit."""
    backoff: Backoff = Backoff()
    """Wait before a retry at a target that was tried before, and after a response whose status is in `conditions` in
    any case. There is no wait after the loss of a reused connection."""
    body_bytes: Annotated[Size, Meta(ge=0, le=16 * 1024**2)] = 64 * 1024
    """Maximum size of a request body that is kept for retries. A request with a longer body is retried only if nothing
    of it was sent. The parts of bodies beyond 64 KiB each may use 64 MiB on the node, which `fastgw_kept_body_bytes`
    shows; bodies that exceed this are not kept."""

    def __post_init__(self) -> None:
        if self.per_try_timeout is not None and "per_try_timeout" not in self.conditions:
            raise ValueError('`per_try_timeout` is set, but "per_try_timeout" is not among `conditions`')


class RouteRetries(Settings):
    """Retries of requests of one route. A setting that is left out is that of the upstream; the budget is always the
    upstream's.
    """

    max: Annotated[int, Meta(ge=0, le=10)] | None = None
    """Maximum number of retries after the first attempt. 0 = none."""
    conditions: RetryConditions | None = None
    """Reasons for a retry, as in `retries.conditions` of an upstream."""
    non_idempotent: bool | None = None
    """Whether POST and PATCH are retried too. The upstream may then process a request twice."""
    per_try_timeout: Duration | None = None
    """Timeout for one attempt of an idempotent request. Needs `per_try_timeout` among the conditions."""
    backoff: Backoff | None = None
    """Wait before a retry."""

    def over(self, retries: Retries) -> Retries:
        """Return the settings of an upstream with those of the route in their place. Raises `ValueError` if they do not
        fit together.
        """
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        return replace(retries, **given)


class Hedge(Settings):
    """Hedged requests: send the request to a second target as well if the first is slow; the first response is used,
    and the other attempt is cancelled.

    For GET, HEAD and OPTIONS without a body, within the budget of `retries`, and if there is another target. A hedged
    request never waits for a connection: it is not sent if `pool.max_connections` are in use. None is sent while the
    circuit breaker is half-open.
    """

    after: Literal["p95"] | Duration = "p95"
    """Time to wait for the first target. `p95`: the 95th percentile of recent response times, as each worker has
    measured it, at least 5 ms; before 100 responses there are no hedged requests."""
    max: Annotated[int, Meta(ge=1, le=3)] = 1
    """Maximum number of hedged requests in addition to the first. Each is sent `after` the one before."""


class UpstreamTls(Settings):
    """TLS settings for `https` targets, and for `tcp` targets that use TLS."""

    ca: ReadableFile | None = None
    """PEM file with the CA certificates to trust. null = those of the system."""
    server_name: TlsName | None = None
    """Name to send as SNI and to verify. null = the target's host. `host_header`: the host of each request's `Host` as
    it is sent, which `host_header` of the upstream and of routes decide: for servers that answer 421 if the two differ
    (Apache). Connections are kept for each name, within the limits of `pool`. A request to an IP address has no SNI.
    If the target has no certificate for a name, the answer is 421, and the target counts as healthy. Where the gateway
    itself is the client, such as for discovery and tokens, it is the host of the URL."""
    subject_alt_names: Annotated[tuple[CertificateName, ...], Meta(max_length=100)] = ()
    """Subject alternative names, of which the target's certificate has to have one, in place of `server_name`:
    `DNS:host`, `URI:spiffe://…`, `email:a@b` or `IP:10.0.0.1`. A certificate for `*.example.com` has
    `DNS:a.example.com`. Left out = the certificate has to be valid for `server_name`."""
    certificate: ReadableFile | None = None
    """PEM file with the client certificate and its chain. Needs `key`."""
    key: KeyFile | None = None
    """PEM file with the private key of the client certificate. Needs `certificate`."""
    min_version: VersionName = "1.2"
    """Minimum version of TLS. `1.0` and `1.1` are for targets that cannot be replaced."""
    ciphers: Annotated[tuple[CipherName, ...], Meta(max_length=64)] = ()
    """Cipher suites of TLS 1.2 and earlier by OpenSSL's names, the preferred one first. `[]` = those of OpenSSL. The
    suites of TLS 1.3 are always offered."""
    verify: bool = True
    """Whether the target's certificate is verified. With false, an attacker in between can read and change everything.
    """

    @property
    def follows_host(self) -> bool:
        """Whether the server name is that of each request."""
        return self.server_name == "host_header"

    @property
    def fixed_server_name(self) -> str | None:
        """The server name, if it is the same for all requests; None: the target's host."""
        return None if self.follows_host else self.server_name

    def __post_init__(self) -> None:
        if self.subject_alt_names and not self.verify:
            raise ValueError("`subject_alt_names` is set, but `verify` is false; expected verification")


_DEFAULT_TLS: Final = UpstreamTls()

Threshold = Annotated[int, Meta(ge=1, le=1000)]
OF_HTTP_CHECKS: Final[Mapping[str, Any]] = {
    "path": "/",
    "method": "GET",
    "host": None,
    "headers": NONE,
    "expected_statuses": (range(200, 400),),
    "expected_body": None,
}
"""Settings of health checks by a request, with their defaults: a check of type `tcp` does not use them."""


class ActiveHealth(Settings):
    """Active health checks: each target is probed regularly, once for the node, whatever the number of workers.

    An unhealthy target gets no requests. If probing is not possible, the last result is valid for three intervals;
    after that the target's health is unknown, and it may be used.
    """

    type: Literal["http", "tcp", "grpc"] = "http"
    """`http`: by a request, over TLS if the target is `https`; `tcp`: by opening a connection, with its TLS handshake;
    `grpc`: by a call of `grpc.health.v1.Health/Check`, which must answer SERVING. Each check opens a new connection."""
    service: str = ""
    """Name of the service that is checked, for `type: grpc`. "" = the server as a whole."""
    path: CheckPath = "/"
    """Path of the request, query included. The path of the target's URL is not prepended."""
    method: Literal["GET", "HEAD", "OPTIONS"] = "GET"
    """Method of the request."""
    host: HostHeader | None = None
    """Value of `Host`. null = as in `host_header` of the upstream; the target's own where that is the client's."""
    headers: Mapping[FieldName, PlainValue] = NONE
    """Further headers of the request."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Port of the check, on the target's host. null = the target's own port."""
    interval: Duration = 5.0
    """Time between two checks of a target, with a random deviation of up to a tenth."""
    timeout: Duration = 1.0
    """Timeout for a whole check. Total."""
    healthy_threshold: Threshold = 2
    """Number of successful checks in a row after which an unhealthy target is healthy again. For a new target one is
    enough."""
    unhealthy_threshold: Threshold = 3
    """Number of failed checks in a row after which a target is unhealthy."""
    expected_statuses: Some[Statuses] = (range(200, 400),)
    """Statuses of a successful check: ranges such as `"200-399"`, or single ones."""
    expected_body: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    """Text that the first 64 KiB of the response body must contain. null = any body."""

    def __post_init__(self) -> None:
        if self.type != "http":
            for name, default in OF_HTTP_CHECKS.items():
                if getattr(self, name) != default and not (self.type == "grpc" and name in ("host", "headers")):
                    raise ValueError(f"`{name}` has no effect with `type: {self.type}`")
        if self.service and self.type != "grpc":
            raise ValueError(f"`service` has no effect with `type: {self.type}`")


class PassiveHealth(Settings):
    """Passive health checks (outlier detection): a target that keeps failing is ejected for a time, and then tried
    again. Counted over all workers.

    Failed connects count, name lookup and TLS handshake included. If `failures` is set, other failures of a target
    count as well: no response in time, a response that is not valid HTTP or is incomplete, or a status of 500 and
    above. If the other targets of the priority group fail in the same way, the requests are the cause and none is
    ejected, unless it cannot be connected to.
    """

    failures: Threshold | None = None
    """Number of failures in a row that eject a target. After an ejection one failure is enough, until the target has
    answered successfully once. null = only failed connects count."""
    connect_failures: Threshold | None = None
    """Number of failures in a row that eject a target if the last one is a failed connect. null = the value of
    `failures`, or 1 if that is not set, as with nginx's `max_fails`."""
    window: Duration = 10.0
    """Time within which failures in a row must happen, and over which `error_rate` is measured."""
    error_rate: Percent | None = None
    """Share of failures, and of responses with a status of 500 and above, within `window`, that ejects a target as
    well. null = disabled."""
    min_requests: Threshold = 20
    """Minimum number of requests for `error_rate`."""
    eject: Duration = 5.0
    """Ejection time. It is twice as long when the target is ejected again, three times as long the next time, and so
    on; each `window` without an ejection takes one step back."""
    max_eject: Duration = 300.0
    """Maximum ejection time."""
    max_ejected: Percent = 0.5
    """Share of the targets of each priority group (`targets.priority`) that may be ejected at the same time. Of two or
    more targets, one may always be ejected, unless this is 0%. While a target of another priority group is available,
    all targets of a group may be ejected, so that requests go to the other group; 0% = none is ever ejected. The only
    target of an upstream is never ejected."""


class HealthChecks(Settings):
    """Health checks of targets. An unhealthy target gets no requests, unless too many targets are unhealthy
    (`load_balancing.panic_threshold`)."""

    active: ActiveHealth | None = None
    """Active health checks, by the gateway's own requests. null = disabled."""
    passive: PassiveHealth | None = PassiveHealth()
    """Passive health checks, by the results of clients' requests. null = disabled."""


class CircuitBreaker(Settings):
    """Circuit breaker: refuse requests to an upstream that fails too often. Counted over all workers.

    Closed: all requests pass. Too many errors open the breaker: requests are answered 503 with `Retry-After`. After the
    time `open` it is half-open: `probes` requests pass, on the whole node. If all of them succeed the breaker closes;
    if one fails it opens again. If some have no result, because their clients have left or the target refused them, as
    many pass after a further `open`, and so on: the breaker closes as soon as `probes` requests have succeeded.
    """

    error_rate: Percent = 0.5
    """Share of attempts within `window` that fail, or are answered with a status of 500 and above, at which the breaker
    opens."""
    min_requests: Threshold = 20
    """Minimum number of attempts for `error_rate`."""
    window: Duration = 10.0
    """Time over which attempts are counted."""
    open: Duration = 5.0
    """Time for which the breaker stays open."""
    probes: Threshold = 3
    """Number of requests that pass while the breaker is half-open, in each further `open`, and that must succeed to
    close it."""


class Upstream(Settings):
    """Upstream: a named group of targets that serve the same requests."""

    targets: Annotated[tuple[WrittenTarget, ...], OrFrom(_TARGET_SOURCES), Meta(max_length=MOST_LISTED)]
    """Targets of the upstream: a list of `{url: …}` or of URLs, or a source of targets: `{file: path}`, `{dns: name,
    port: 9000}`, `{srv: name}`, `{consul: name}`, `{nacos: name}`, `{eureka: name}` or `{docker: label}`. Changes in a
    source take effect without a reload. At most 5,000 targets, and 65,536 in all upstreams together."""
    protocol: Literal["http1", "http2", "auto", "grpc"] = "auto"
    """Protocol spoken to the targets. `http1`: HTTP/1.1; `http2`: HTTP/2, which `https` targets must select by ALPN and
    others must support by prior knowledge; `auto`: the version that an `https` target selects by ALPN, HTTP/1.1 for
    others; `grpc`: HTTP/2 with the deadlines and statuses of gRPC. A connection of HTTP/2 carries up to 100 requests at
    once, or fewer where the target says so. Upgrades, such as to WebSocket, need HTTP/1.1: `auto` opens a connection of
    it for them."""
    resolve: Resolve = Resolve()
    """DNS resolution of the names of targets."""
    load_balancing: LoadBalancing = LoadBalancing()
    """Load balancing among the targets."""
    host_header: HostHeader = "auto"
    """`Host` of requests to the upstream. `preserve`: the value from the client, or the target's own if it has sent
    none; `target`: the target's own host and port; `auto`: the client's, except for an `https` target that is a name
    and has no `tls.server_name`; anything else is sent as it is."""
    timeouts: UpstreamTimeouts = UpstreamTimeouts()
    """Timeouts for the upstream."""
    pool: Pool = Pool()
    """Connection pool for the targets."""
    retries: Retries = Retries()
    """Retries of failed requests."""
    hedge: Hedge | None = None
    """Hedged requests: a slow request is sent to another target as well. null = disabled."""
    health_checks: HealthChecks = HealthChecks()
    """Health checks of the targets."""
    circuit_breaker: CircuitBreaker | None = None
    """Circuit breaker: refuses requests while the upstream fails too often. null = disabled."""
    tls: UpstreamTls | None = None
    """TLS settings for `https` targets. TLS 1.2 and 1.3 are supported. Connections to `tcp` targets use TLS if this is
    set: `tls: {}` is enough.

    Targets must not renegotiate. A response that has neither a length nor chunked encoding must end with
    `close_notify`, else it is treated as incomplete (`upstream_incomplete`).
    """
    proxy_protocol: Literal["v1", "v2"] | None = None
    """PROXY protocol header with the client's address, sent first on each connection to a `tcp` target, before TLS.
    `v2` also has the server name (SNI), an id of the connection (the one of the header that it came with, or a new
    one), which is `request_id` in the access log, and, if the gateway terminates TLS, its version and cipher and the
    common name of a verified client certificate. The ALPN protocol of a header that it came with is passed on. null =
    none."""
    tolerate: Violations = ()
    """Violations of RFC 9110 and RFC 9112 that responses over HTTP/1.1 may have, in place of a 502
    (`upstream_malformed`). Clients get them in valid form. `[]` = none. Name only those that the upstream commits: a
    response with two readings is what response splitting and cache poisoning are made of. Where the end of a response
    is in doubt, its connection is closed, so that what follows it is no response to another request.
    `content_length_with_chunked`: both framings; chunked counts. Danger: a proxy or cache on the way that believes
    the length sees another response. The connection is closed.
    `repeated_content_length`: the same number several times. Danger: two programs have written the head, and one of
    them may be wrong about the rest.
    `transfer_encoding_identity`: `Transfer-Encoding: identity`, which is ignored; the length counts, or else the end of
    the connection. Danger: a reader that honours it reads until the end. The connection is closed.
    `repeated_chunked`: `chunked` several times, for a body in chunks once. Danger: a body that is indeed in chunks
    twice arrives with the inner chunks as its text. The connection is closed.
    `bare_lf`: lines that end with LF alone, in heads, chunks and trailers. Danger: a service that copies text with a
    line feed into a header lets its clients write headers, and whole responses. The connection is closed.
    `padded_chunk_sizes`: spaces and tabs after the size of a chunk. Danger: little; a reader in between may disagree.
    `statuses_above_599`: statuses from 600 to 999, which are forwarded as they are. Danger: clients may not know them,
    or take them for success; here they count as failures, as 5xx do.
    `control_characters`: control characters in values of headers and trailers, and in the reason: they are removed; NUL
    and CR become a space. Not in headers about the connection and the length. Danger: the value is another one than a
    filter of the service has checked."""
    response_limits: ResponseLimits = ResponseLimits()
    """Limits on responses."""
    filters: Filters = NONE
    """Filters for requests to this upstream."""

    @property
    def client_tls(self) -> UpstreamTls:
        """Return the TLS settings for targets that use TLS."""
        return _DEFAULT_TLS if self.tls is None else self.tls

    @property
    def needs_tls(self) -> bool:
        """Whether connections to a target use TLS; without targets, whether those to the next ones may."""
        return any(self.speaks_tls(each.url) for each in self.targets) if self.targets else self.tls is not None

    def speaks_tls(self, url: Url) -> bool:
        """Whether connections to the target at this URL use TLS."""
        return url.tls or (url.scheme == "tcp" and self.tls is not None)
