"""The configuration as typed structs: the same for YAML, TOML, JSON and the command line.

The docstring under each field is its entry in the manual and in the JSON schema. Every number means the node, not one
worker. All of it is immutable: mappings are read-only views.
"""

import copyreg
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeVar, dataclass_transform

import msgspec
from msgspec import Meta, Struct, StructMeta

from fastgw.config.secret import Secret
from fastgw.config.values import (
    Address,
    CertificateName,
    CertificateSubject,
    CheckPath,
    Delay,
    Destination,
    Duration,
    FieldName,
    FieldValue,
    Fingerprint,
    HostHeader,
    HostName,
    Identity,
    ListenAddress,
    LogSink,
    Method,
    Name,
    Network,
    Percent,
    Protocol,
    ReadableFile,
    Sha256,
    Size,
    Statuses,
    TargetUrl,
    Token,
    Trait,
    Url,
    Username,
    trait,
)

T = TypeVar("T")
Some = Annotated[tuple[T, ...], Meta(min_length=1)]
# Upper bounds: far above what serves anyone, and low enough that what is made from a number can be made.
MOST_WORKERS: Final = 1024
Connections = Annotated[int, Meta(ge=1, le=10_000_000)]
PoolNumber = Annotated[int, Meta(le=1_000_000)]
NONE: Final[Mapping[Any, Any]] = MappingProxyType({})


def view(held: dict[Any, Any]) -> Mapping[Any, Any]:
    """A read-only mapping."""
    return MappingProxyType(held) if held else NONE


def _pickled(mapping: MappingProxyType[Any, Any]) -> Any:
    return view, (dict(mapping),)


copyreg.pickle(MappingProxyType, _pickled)  # it has no pickled form of its own, and settings pass between processes


class SettingsMeta(StructMeta):
    """Makes every settings struct frozen, keyword-only and closed to unknown keys."""

    def __new__(mcls, class_name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        strict = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True}
        return super().__new__(mcls, class_name, bases, namespace, **(strict | options))


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Settings(Struct, metaclass=SettingsMeta, frozen=True):
    """What a part of the configuration may say."""


class FilterUse(Struct, frozen=True):
    """One filter instance, at one level.

    In the file: `name: {type: …, enforced: …, shadow: …, and its type's settings}`.
    """

    name: str
    """The instance: the same name at a nearer level replaces it."""
    type: str
    """The filter type; the instance's name unless the file says otherwise."""
    settings: Any
    """The filter type's struct."""
    enforced: bool = False
    """Whether nearer levels may neither replace nor remove it."""
    shadow: bool = False
    """Whether it decides and tells, but never acts."""


@dataclass(frozen=True)
class Inner:
    """Marks a `FilterUse` that stands within another filter: written as a mapping with one key, its type.

    Its name is its type, and it has none of the keys that every instance has.
    """

    phase: str
    """The only one that it may be of."""


Filters = Mapping[Name, FilterUse | None]
"""Instance name to its use; None removes what a farther level added under that name."""


class ServerCertificate(Settings):
    """What a listener shows of itself."""

    certificate: ReadableFile
    """A PEM file with the certificate and its chain."""
    key: ReadableFile
    """A PEM file with the certificate's key, without a password."""


class ClientAuth(Settings):
    """Certificates of clients.

    When anything of this changes, the contents of the files too, who was verified before has to connect again: the next
    request on an open connection is answered 421, and tunnels (WebSocket) end at once. An answer under way is sent.
    """

    mode: Literal["optional", "required"] = "required"
    """`required`: nobody connects without one; `optional`: one is verified where the client has it."""
    ca: ReadableFile
    """A PEM file of the certificates that clients' certificates must come from. When one of them expires, or a list of
    `crl` is out of date, sessions end (`session_tickets`). One that clients send with theirs ends none before their own
    has expired, unless it stands here too."""
    crl: ReadableFile | None = None
    """A PEM file of revocation lists, one of every authority that signs: without its list nobody is believed, nor by
    one that is out of date: `fastgw status` and the metrics tell until when it is good. null = nothing is revoked."""


class ServerTls(Settings):
    """How TLS is spoken to clients. Files are read anew when they change; what is broken or does not belong together
    leaves the certificate that was there."""

    certificates: Some[ServerCertificate]
    """What to show: the one for the name that a client asks for, else the one for all names next to it (`*.`), else the
    first. Of two for the same names, whose keys are of different kinds (RSA, ECDSA), the one that the client can
    verify."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """The oldest version of TLS."""
    client_auth: ClientAuth | None = None
    """Whether clients show a certificate too. null = they are not asked."""
    session_tickets: bool = True
    """Whether a client that comes again may do without most of a handshake. It may at every worker, also after a
    reload; keys are new each day."""
    handshake_timeout: Duration = 10.0
    """For a whole handshake, from the opening of the connection. A total. Then it is closed without an answer."""


class Listener(Settings):
    """An address that clients connect to."""

    address: ListenAddress
    """`host:port`, `[ipv6]:port` (IPv6 only) or `unix:/path`. Port 0 lets the system choose."""
    protocols: Some[Literal["http1"]] = ("http1",)
    """What is spoken there: `http1` is HTTP/1.1 and HTTP/1.0."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of the proxies whose forwarding fields and PROXY protocol are believed.

    Of `X-Forwarded-For` and `Forwarded` the first counts where both come: a proxy that writes only `Forwarded` must
    take the other away."""
    proxy_protocol: Literal["off", "required"] = "off"
    """Whether each connection begins with a PROXY protocol header, v1 or v2. `required` needs `trusted_proxies`,
    but for a unix socket, whose permissions say who is trusted."""
    tls: ServerTls | None = None
    """How TLS is spoken there, behind the PROXY protocol header if there is one. null = not at all."""
    filters: Filters = NONE
    """Filters for what comes in here."""


class Unwritten(Settings):
    """What has a default that is told from the same settings in a file by its identity, also after pickling."""

    def __reduce__(self) -> Any:
        return UNWRITTEN.get(id(self)) or super().__reduce__()


class Status(Unwritten):
    """The read-only status listener: `/livez`, `/readyz` and `/metrics`."""

    address: ListenAddress = Address(host="127.0.0.1", port=9902)
    """`host:port`, `[ipv6]:port` or `unix:/path`."""


class Admin(Unwritten):
    """The admin listener: the API that changes the gateway, and the dashboard.

    An address that other machines can reach needs a `token`, or client certificates that are `required`.
    """

    address: ListenAddress = Address(host="127.0.0.1", port=9901)
    """`host:port`, `[ipv6]:port` or `unix:/path`."""
    token: Secret | None = None
    """What callers send as `Authorization: Bearer`. null = none."""
    tls: ServerTls | None = None
    """How TLS is spoken there. null = not at all."""


DEFAULT_STATUS: Final = Status()
"""The status listener when no file says anything of one. Where its port is taken the gateway does without."""
DEFAULT_ADMIN: Final = Admin()
"""The admin listener when no file says anything of one. Where its port is taken the gateway does without."""
UNWRITTEN: Final = {id(DEFAULT_STATUS): "DEFAULT_STATUS", id(DEFAULT_ADMIN): "DEFAULT_ADMIN"}
"""Their names in this module: what is pickled in their place."""


class DrainTimeouts(Settings):
    """How long a stop waits for what is under way. All are totals."""

    delay: Delay = 0.0
    """First of all: how long new connections are still served while readiness is off already. Make it longer than a
    load balancer or orchestrator takes to notice. 0 = not at all."""
    requests: Duration = 30.0
    """For requests."""
    tunnels: Duration = 300.0
    """For tunnels such as WebSocket connections."""


class Timeouts(Settings):
    """How long clients are waited for. Idle times: any byte begins them anew."""

    request_headers: Duration = 10.0
    """For a whole request head, from its first byte; on a new connection from its opening. A total. Answered 408."""
    request_body_idle: Duration = 30.0
    """For the next bytes of a request body. Answered 408."""
    response_idle: Duration = 60.0
    """For the client to take more of a response. Then the connection is cut."""
    keepalive: Duration = 75.0
    """For the next request on a connection. Then it is closed without an answer."""
    filters: Duration = 30.0
    """For filters that have to wait, such as for an authority's answer, where the route has no `timeout`. A total, from
    the beginning of the request. Answered 504."""
    drain: DrainTimeouts = DrainTimeouts()
    """For the end of what is under way when the gateway stops."""


class Limits(Settings):
    """What clients may send and hold."""

    header_bytes: Annotated[Size, Meta(ge=1024, le=16 * 1024**2)] = 32 * 1024
    """The longest request head, start line included. Answered 431, or 414 when the request target alone is longer."""
    header_count: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """The most field lines in a request head. Answered 431."""
    body_bytes: Annotated[Size, Meta(ge=0, le=2**63 - 1)] | None = None
    """The longest request body. Answered 413. null = any length."""
    connections: Connections = 20_000
    """The most client connections. Further ones are answered 503 and closed; over TLS they are closed at once."""
    connections_per_ip: Connections | None = None
    """The most connections from one address; IPv6 counts by /64. Further ones are answered 429; over TLS they are
    closed at once. null = no limit."""


class AccessLog(Settings):
    """Where one line per request is written."""

    sink: LogSink = "stdout"
    """`stdout`, or the path of a file, relative to the file that says so. Reopened on SIGUSR1."""
    format: Literal["json", "ecs", "combined"] = "json"
    """`json`: fastgw's own names; `ecs`: Elastic Common Schema; `combined`: the line that Apache and nginx write."""
    redact: tuple[str, ...] = ()
    """Parameters of queries, and of paths (`;name=value`), to mask, besides token, access_token, password, api_key,
    code and secret. Case is ignored."""


class Target(Settings):
    """One address of an upstream."""

    url: TargetUrl
    """`http://host:port/base`, `https://…`, `unix:/path/of.sock` or `unix:/path/of.sock:/base`."""
    weight: Annotated[int, Meta(ge=0, le=1000)] = 1
    """Its share of the requests, relative to the other targets. 0 = none: it is drained."""
    priority: Annotated[int, Meta(ge=0, le=100)] = 0
    """The group that it is of. Requests go to the group of the lowest number; to the next one as well while that has
    too few targets that may be picked (`load_balancing.spill_below`)."""


class TargetsFile(Settings):
    """A list of targets in a file of its own. It is watched: what it says takes effect at once, without a reload being
    asked for; while it is wrong or away, what it said before stays in force."""

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
    """How they are spoken to."""
    interval: Duration = 30.0
    """How often it is looked up. While that fails, the targets of before stay."""


class TargetsSrv(Settings):
    """What SRV records name (RFC 2782): hosts, ports, weights, and priorities as groups of targets. Needs
    `fastgw[dns]`."""

    srv: HostName
    """The name, such as `_http._tcp.users.internal`."""
    scheme: Literal["http", "https"] = "http"
    """How they are spoken to."""
    interval: Duration = 30.0
    """How often it is looked up. While that fails, the targets of before stay."""


@dataclass(frozen=True)
class OrFrom:
    """Marks a list that may come from elsewhere. What is found there is put in the place of this."""

    types: tuple[type[Settings], ...]


class Resolve(Settings):
    """How names of targets become addresses."""

    interval: Duration = 30.0
    """How often a name is resolved anew. When that fails the last good addresses stay."""


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
    """What it is signed with, at least 16 characters. All nodes behind one name need the same. null = a key of the
    node's own, made at its start and kept over reloads and upgrades."""

    def __post_init__(self) -> None:
        if self.same_site == "none" and self.secure is not True:
            raise ValueError("`same_site: none` without `secure: true`: browsers would not take the cookie")


class LoadBalancing(Settings):
    """How a target is picked. Weights count for all algorithms; a request that is tried again goes to another target.

    An upstream with one target in use has nothing to choose.
    """

    algorithm: Literal["round_robin", "least_connections", "random", "ip_hash", "consistent_hash", "latency"] = (
        "round_robin"
    )
    """`round_robin`: in turn.
    `random`: drawn by lot.
    `least_connections`: of two drawn by lot, the one with fewer requests under way on the node.
    `latency`: of two drawn by lot, the one where the time until the response head, times the requests under way, is
    less. An answer slower than the average counts at once, a failed attempt as `timeouts.connect` at least.
    `ip_hash`: by the client's address (IPv6: its /64), so that a client stays with its target.
    `consistent_hash`: by `hash_on`, likewise; a target that goes, or comes, moves its own share alone."""
    hash_on: Annotated[Trait, trait("ip", "header", "cookie", "consumer")] | None = None
    """What `consistent_hash` goes by: `ip`, `header:NAME`, `cookie:NAME` or `consumer`; null = `ip`. A request that has
    none, or several that differ, goes in turn, as with `round_robin`."""
    load_factor: Annotated[float, Meta(ge=1.01, le=100)] | None = 1.25
    """With `consistent_hash`: a target that has more than so many times its share of the requests under way on the
    node, and 10 at least, passes further ones on to the next target of their hash. null = it gets all that is its."""
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
            raise ValueError("`hash_on` is for `algorithm: consistent_hash`")
        if self.slow_start is not None and self.algorithm in ("ip_hash", "consistent_hash"):
            raise ValueError(f"`slow_start` is not for `{self.algorithm}`: clients would move with each step")


class UpstreamTimeouts(Settings):
    """How long an upstream is waited for. Idle times unless named otherwise."""

    connect: Duration = 1.0
    """For a connection, TLS included. A total. Answered 504."""
    response_headers: Duration = 30.0
    """For the response head, once the request is sent. Answered 504."""
    idle: Duration = 60.0
    """For any byte either way while bodies move. Answered 504 when no response has begun, else cut."""
    tunnel_idle: Duration = 3600.0
    """For any byte either way in a tunnel such as a WebSocket connection."""
    total: Duration | None = None
    """For the whole exchange, all attempts and the response body included. null = as long as bytes move."""


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
    """After how many requests a connection is closed. null = never for that reason."""


class Backoff(Settings):
    """How long is waited before a retry: a time between 0 and a bound, drawn anew each time."""

    base: Delay = 0.025
    """The bound of the first wait; that of each further one is twice as long. 0 = no wait."""
    max: Delay = 0.25
    """The longest bound. An answer whose `Retry-After` asks for a longer wait is passed on instead; a shorter one is
    respected."""

    def __post_init__(self) -> None:
        if self.base > self.max:
            raise ValueError("`base` is longer than `max`; expected the same or less")


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
    answer is passed on as it is."""
    budget: Percent = 0.2
    """The most retries under way, as a share of the requests to this upstream that are under way: each worker keeps to
    it for its own. Three more may always be under way, on the whole node. A failed connect that is followed by an
    attempt at another target does not count: nobody has had any work of it."""
    non_idempotent: bool = False
    """Whether a POST or PATCH may be sent again too, wherever a GET may. The upstream may then act twice."""
    per_try_timeout: Duration | None = None
    """For one attempt at a request that may be repeated: until the response head, from the beginning of the attempt or
    the end of the request, whichever is later. Answered 504 when no retry is left. null = no limit of its own."""
    backoff: Backoff = Backoff()
    """How long is waited before a target is asked again, and after an answer that is in `conditions` in any case. No
    wait follows `reset_before_response`."""
    body_bytes: Annotated[Size, Meta(ge=0, le=16 * 1024**2)] = 64 * 1024
    """The longest request body that is kept to be sent again. A request with a longer one is tried again only as long
    as nothing of it was sent."""

    def __post_init__(self) -> None:
        if self.per_try_timeout is not None and "per_try_timeout" not in self.conditions:
            raise ValueError('`per_try_timeout` without a retry; expected "per_try_timeout" among `conditions`')


class Hedge(Settings):
    """Ask another target as well when the first one is slow: what answers first counts, the other is given up.

    For GET, HEAD and OPTIONS without a body, within the budget of `retries`, and where there is another target."""

    after: Literal["p95"] | Duration = "p95"
    """How long the first target has. `p95`: what 95 of 100 answers took less than, as each worker has seen it lately:
    5 ms at least, and nothing is hedged before 100 answers."""
    max: Annotated[int, Meta(ge=1, le=3)] = 1
    """How many may be under way beside the first. Each comes `after` the one before."""


class UpstreamTls(Settings):
    """How `https` targets are spoken to."""

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
"""What a check by a connection alone has no use for, and what stands there when nothing is said."""


class ActiveHealth(Settings):
    """Ask each target regularly whether it is well: once for the node, whatever the number of workers.

    A target that is not gets no requests. While nobody can ask, what was found holds for three intervals; from then on
    nothing is known of a target, and it may be used."""

    type: Literal["http", "tcp"] = "http"
    """`http`: by a request, over TLS where the target is `https`; `tcp`: by a connection alone, with its TLS
    handshake. Each time on a new connection."""
    path: CheckPath = "/"
    """What is asked for, query included. It does not go behind the path of the target's URL."""
    method: Literal["GET", "HEAD", "OPTIONS"] = "GET"
    """How."""
    host: HostHeader | None = None
    """What `Host` says. null = what the upstream's `host_header` says, or the target's own where that is `preserve`."""
    headers: Mapping[FieldName, FieldValue] = NONE
    """Further fields of the request."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Where to ask, at the target's host. null = at the target's own port."""
    interval: Duration = 5.0
    """From one check of a target to the next, give or take a tenth."""
    timeout: Duration = 1.0
    """For a whole check. A total."""
    healthy_threshold: Threshold = 2
    """How many good answers in a row bring a target back. Of one that is new, the first is enough."""
    unhealthy_threshold: Threshold = 3
    """After how many failures in a row a target gets no more requests."""
    expected_statuses: Some[Statuses] = (range(200, 400),)
    """The statuses of good answers: ranges such as `"200-399"`, or single ones."""
    expected_body: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None
    """What the first 64 KiB of a good answer's body have in them. null = anything."""

    def __post_init__(self) -> None:
        if self.type == "tcp":
            for name, default in OF_HTTP_CHECKS.items():
                if getattr(self, name) != default:
                    raise ValueError(f"`{name}` means nothing for `type: tcp`")


class PassiveHealth(Settings):
    """Eject a target that keeps failing, and try it again after a pause. Counted over all workers.

    What counts is the target's own failure: no connection, no answer in time, an answer that is no HTTP or breaks off,
    or a status of 502, 503 or 504. Where its neighbours fail likewise, requests are the cause and none is ejected,
    unless it cannot even be connected to."""

    failures: Threshold = 5
    """How many failures in a row eject it. After an ejection one is enough, until it has answered well once."""
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
    """How it is noticed that a target is in trouble. It gets no requests then, unless too many are
    (`load_balancing.panic_threshold`)."""

    active: ActiveHealth | None = None
    """By asking it. null = it is not asked."""
    passive: PassiveHealth | None = None
    """By how it answers requests. null = nobody looks."""


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

    targets: Annotated[Some[Target], OrFrom((TargetsFile, TargetsDns, TargetsSrv))]
    """Where requests go; or from where to have them: `{file: path}`, `{dns: name, port: 9000}` or `{srv: name}`. What
    changes there takes effect without a reload."""
    resolve: Resolve = Resolve()
    """How names become addresses."""
    load_balancing: LoadBalancing = LoadBalancing()
    """How a target is picked."""
    host_header: HostHeader = "target"
    """`target`: the target's own host and port; `preserve`: what the client sent; anything else is sent as it is."""
    timeouts: UpstreamTimeouts = UpstreamTimeouts()
    """How long it is waited for."""
    pool: Pool = Pool()
    """Its connections."""
    retries: Retries = Retries()
    """When a request is tried again."""
    hedge: Hedge | None = None
    """When another target is asked beside one that is slow. null = never."""
    health_checks: HealthChecks = HealthChecks()
    """How it is noticed that a target is in trouble."""
    circuit_breaker: CircuitBreaker | None = None
    """When requests are refused to spare it. null = never."""
    tls: UpstreamTls = UpstreamTls()
    """How `https` targets are spoken to."""
    filters: Filters = NONE
    """Filters for what goes there."""


class Respond(Settings):
    """An answer that the gateway gives itself."""

    status: Annotated[int, Meta(ge=200, le=599)] = 200
    """The status code."""
    body: str = ""
    """The body, sent as UTF-8. Its type is `text/plain; charset=utf-8` unless `headers` names another."""
    headers: Mapping[FieldName, FieldValue] = NONE
    """Further fields."""


class Redirect(Settings):
    """An answer that sends the client elsewhere."""

    status: Literal[301, 302, 303, 307, 308] = 308
    """308 and 307 keep the method; 301 and 308 may be remembered by clients."""
    to: str
    """The `Location`: a URL or a path, in which `{name}` stands for a parameter of the route's paths.

    The request's query is kept, without credentials that filters hide, unless this has one of its own."""


class PathForwarding(Settings):
    """Which form of the path an upstream is sent."""

    forward: Literal["normal", "raw"] = "normal"
    """`normal`: the form that was matched, dot segments resolved; `raw`: the client's own bytes."""
    encoded_slash: Literal["keep", "reject"] = "keep"
    """Whether a `%2F` in the path is passed on as it is, or answered 400."""


FallbackCondition = Literal["unavailable", "unreachable", "broken", "timeout"]


class Fallback(Settings):
    """What takes the place of an upstream that fails before its answer begins: one of `upstream` and `respond`."""

    upstream: Name | None = None
    """Another upstream, for requests whose body is still at hand. One that the first may have acted on is sent there
    only if its method may be repeated. Filters of this upstream do not run."""
    respond: Respond | None = None
    """An answer of the gateway's own."""
    conditions: Some[FallbackCondition] = ("unavailable", "unreachable", "broken", "timeout")
    """`unavailable`: no target may be asked, the circuit breaker is open or no connection is free; `unreachable`: none
    can be made; `broken`: it was lost, or what came was no answer; `timeout`: no answer came in time."""

    def __post_init__(self) -> None:
        if (self.upstream is None) == (self.respond is None):
            raise ValueError("not one thing to do; expected either `upstream` or `respond`")


Share = Annotated[int, Meta(ge=0, le=1_000_000)]


class Canary(Settings):
    """Requests that go to one of a route's upstreams whatever its share is: those that meet all conditions here."""

    upstream: Name
    """Which of them."""
    headers: Mapping[FieldName, str] = NONE
    """Request fields and the values they must have."""
    cookies: Mapping[FieldName, str] = NONE
    """Cookies and the values they must have."""

    def __post_init__(self) -> None:
        if not self.headers and not self.cookies:
            raise ValueError("no condition; expected `headers` or `cookies`")


class Split(Settings):
    """How requests are divided among the upstreams of a route."""

    by: Annotated[Trait, trait("ip", "header", "cookie", "request")] = Trait("ip")
    """Requests with the same one go to the same upstream: `ip` (IPv6 by its /64), `header:NAME` or `cookie:NAME`;
    without that field or cookie the address counts. `request`: each request is drawn for itself."""
    canaries: tuple[Canary, ...] = ()
    """Requests that are not divided; the first that fits counts."""


class Route(Settings):
    """Conditions, and what happens to a request that meets them all: one of `upstream`, `respond`, `redirect`."""

    name: Annotated[str, Meta(min_length=1)]
    """Its name in logs, metrics and `explain`."""
    listeners: Some[str] = ()
    """Names of the listeners it is served on. Left out = all."""
    hosts: Some[str] = ()
    """`api.example.com` or `*.example.org`; port and case are ignored. Left out = any."""
    paths: Some[str] = ()
    """`/users/{id}`, `/files/*`, `/apps/{app}/{rest:path}` or, after `~`, a regular expression. Left out = any.

    A regular expression has no parameters.
    """
    methods: Some[Method] = ()
    """GET answers HEAD too. Left out = any."""
    headers: Mapping[FieldName, str] = NONE
    """Request fields and the values they must have."""
    query: Mapping[str, str] = NONE
    """Query parameters and the values they must have."""
    upstream: (
        Destination | Annotated[Mapping[Name, Share], Meta(min_length=1, examples=["{users: 90, users_v2: 10}"])] | None
    ) = None
    """Where requests go: the name of an upstream, the URL of its only target, or the names of several with the share
    that each gets."""
    split: Split | None = None
    """How requests are divided among several upstreams. null = by the client's address."""
    respond: Respond | None = None
    """Answer without an upstream."""
    redirect: Redirect | None = None
    """Send the client elsewhere."""
    fallback: Fallback | None = None
    """What takes the place of an upstream that fails. null = the client is told."""
    strip_prefix: str | None = None
    """What is cut off the front of the path, by whole path elements, before it is sent."""
    rewrite: str | None = None
    """The path to send instead, in which `{name}` stands for a parameter of the route's paths."""
    path: PathForwarding = PathForwarding()
    """Which form of the path is sent."""
    forwarded: Literal["append", "set", "strip", "pass"] | None = None
    """What becomes of the forwarding fields. Left out = `append` when the peer is a trusted proxy, else `set`.

    `pass` leaves them alone, but for `X-Forwarded-Client-Cert` of a TLS client that is no trusted proxy."""
    upgrade: tuple[Protocol, ...] = ("websocket",)
    """Protocols that a connection may change to, becoming a tunnel. `h2c` never."""
    timeout: Duration | None = None
    """Until the response head, all attempts together. Answered 504. null = what the upstream's timeouts allow."""
    deadline_header: FieldName | None = None
    """A field such as `X-Request-Timeout` that tells the upstream how many milliseconds its answer is still waited for.
    What the client has sent under this name is removed. null = none."""
    use: tuple[str, ...] = ()
    """Filter sets, the later before the earlier; the route's own `filters` come before them all."""
    filters: Filters = NONE
    """Filters for this route alone."""

    @property
    def destinations(self) -> tuple[str | Url, ...]:
        """The upstreams, by name or URL."""
        if isinstance(self.upstream, Mapping):
            return tuple(self.upstream)
        return () if self.upstream is None else (self.upstream,)


class ConsumerKey(Settings):
    """A key that a consumer shows: one of `key` and `key_sha256`."""

    key: Secret | None = None
    """The key itself: visible ASCII characters."""
    key_sha256: Sha256 | None = None
    """Its SHA-256, so that nobody who reads the configuration has the key. Safe for keys that cannot be guessed."""

    def __post_init__(self) -> None:
        if (self.key is None) == (self.key_sha256 is None):
            raise ValueError("not one key; expected either `key` or `key_sha256`")


class ConsumerPassword(Settings):
    """A username and its password."""

    username: Username
    """It has no colon; compared in Unicode's form NFC."""
    password: Secret
    """The password."""


class ConsumerSubject(Settings):
    """Whom a token speaks of."""

    issuer: Annotated[str, Meta(min_length=1)]
    """The token's `iss`, character by character."""
    subject: Annotated[str, Meta(min_length=1)]
    """The token's `sub`, character by character."""


class ConsumerCertificate(Settings):
    """A client certificate: one of `subject`, `san` and `fingerprint_sha256`."""

    subject: CertificateSubject | None = None
    """Its subject, as RFC 4514 writes it: `CN=alice,O=Example`."""
    san: CertificateName | None = None
    """One of its alternative names: `DNS:host`, `URI:spiffe://…`, `email:a@b` or `IP:10.0.0.1`."""
    fingerprint_sha256: Fingerprint | None = None
    """The SHA-256 of the certificate."""

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.subject, self.san, self.fingerprint_sha256)) != 1:
            raise ValueError("not one mark; expected one of `subject`, `san` and `fingerprint_sha256`")


class ConsumerSigningKey(Settings):
    """A key that requests are signed with."""

    key_id: Annotated[str, Meta(min_length=1, max_length=256)]
    """What signatures call it: their `keyid`."""
    algorithm: Literal["hmac-sha256", "ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-pss-sha512"] = (
        "hmac-sha256"
    )
    """How is signed, by its name in RFC 9421. A key is good for one algorithm alone."""
    key: Secret
    """The secret that both sides share, of 16 bytes at least; for other algorithms than HMAC a public key in PEM."""
    encoding: Literal["text", "base64"] = "text"
    """How the shared secret is written: as it is, or in base64."""


class Consumer(Settings):
    """Somebody that the gateway knows, and how requests show that they are theirs."""

    name: Identity
    """What it is called in logs, limits and fields for upstreams."""
    groups: tuple[Identity, ...] = ()
    """The groups that it belongs to."""
    key_auth: tuple[ConsumerKey, ...] = ()
    """Its keys, for `key_auth`. Several while one takes the place of another."""
    basic_auth: tuple[ConsumerPassword, ...] = ()
    """Its passwords, for `basic_auth`."""
    hmac: tuple[ConsumerSigningKey, ...] = ()
    """The keys that it signs requests with, for `hmac`."""
    jwt: tuple[ConsumerSubject, ...] = ()
    """Whom tokens speak of when they are its own."""
    certificates: tuple[ConsumerCertificate, ...] = ()
    """Its client certificates."""


class ConsumerFile(Settings):
    """What a file of `consumer_files` says."""

    consumers: tuple[Consumer, ...]
    """Consumers, as in a configuration."""


class State(Settings):
    """A Redis or Valkey in which several nodes share what was revoked and what limits count. Needs `fastgw[redis]`."""

    url: Secret
    """Where it is: `redis://[user]:password@host:6379/0`, `rediss://` for TLS, or `unix:///path?db=0`. Redis 6.2 or
    newer, or Valkey."""
    when_away: Literal["local", "refuse"] = "local"
    """What counts while it does not answer: what this node knows by itself, or nothing, so that what would have to ask
    it is refused (503, `limits_unavailable`). Revocations always go by the node's own list, and are merged when it is
    back."""
    timeout: Duration = 0.1
    """How long a request waits for it. Once an answer was late nobody waits until it has answered again; it is tried in
    the background."""
    prefix: Annotated[str, Meta(min_length=1, max_length=64)] = "fastgw"
    """What all names in it begin with. Gateways with another prefix share nothing."""


class Quotas(Settings):
    """How what `quota` counts outlives the gateway."""

    file: Annotated[str, Meta(min_length=1)] | None = None
    """A file to keep counts in, an SQLite database: read at the start, written about once a second and at the end. It
    is made if it is not there, readable by the gateway's user alone; two gateways must not share one. null =
    `quotas.sqlite3` in the directory that systemd gives to the service (`StateDirectory`), else counts end with the
    gateway."""


class Config(Settings):
    """A whole configuration, its includes merged."""

    version: Literal[1]
    """The version of this format."""
    workers: Annotated[int, Meta(ge=1, le=MOST_WORKERS)] | Literal["auto"] = "auto"
    """How many processes serve. `auto`: what CPU affinity and the container's CPU quota allow."""
    include: tuple[str, ...] = ()
    """Further files, by name or pattern, relative to this one. They add to what is here; names must not repeat."""
    extensions: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Installed packages whose filters may be used: those that they offer as entry points of `fastgw.filters`, by name,
    and any other as `type: "package.module:Class"`. No other package is imported."""
    listeners: Annotated[Mapping[Name, Listener], Meta(min_length=1, examples=['{main: {address: "127.0.0.1:8080"}}'])]
    """The addresses that clients connect to, by name."""
    status: Status | None = DEFAULT_STATUS
    """The status listener. null = none. Left out = 127.0.0.1:9902 unless that is taken."""
    admin: Admin | None = DEFAULT_ADMIN
    """The admin listener. null = none. Left out = 127.0.0.1:9901 unless that is taken."""
    timeouts: Timeouts = Timeouts()
    """How long clients are waited for."""
    limits: Limits = Limits()
    """What clients may send and hold."""
    access_logs: tuple[AccessLog, ...] = (AccessLog(),)
    """Where requests are logged. `[]` = nowhere."""
    upstreams: Mapping[Name, Upstream] = NONE
    """Groups of targets, by name."""
    filter_sets: Mapping[Name, Filters] = NONE
    """Bundles of filters, by name, for routes to `use`."""
    filters: Filters = NONE
    """Filters for every request, known route or not."""
    consumers: tuple[Consumer, ...] = ()
    """Those that the gateway knows by name."""
    consumer_files: tuple[str, ...] = ()
    """Further files of `consumers`, by name or pattern, relative to this one. They are watched: what is changed,
    added or removed there takes effect at once, without a reload being asked for. A file that is wrong keeps what it
    said before, which the log tells, and holds up none of the others."""
    state: State | None = None
    """Where nodes share what they know. null = each node knows for itself."""
    quotas: Quotas = Quotas()
    """How what is counted for long periods is kept."""
    routes: tuple[Route, ...] = ()
    """What happens to requests. The order counts only between routes that match equally well."""
