"""The configuration as typed structs: the same for YAML, TOML, JSON and the command line.

The docstring under each field is its entry in the manual and in the JSON schema. Every number means the node, not one
worker. All of it is immutable: mappings are read-only views.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import NONE, Filters, FilterUse, Inner, OrFrom, Settings, SettingsMeta, Some, view
from fastgw.config.base.value_types import (
    Address,
    CertificateName,
    CertificateSubject,
    Delay,
    Destination,
    Duration,
    FieldName,
    FieldPattern,
    FieldValue,
    Fingerprint,
    Identity,
    ListenAddress,
    LogSink,
    Method,
    Name,
    Network,
    Protocol,
    ReadableFile,
    Sha256,
    Size,
    Trait,
    Url,
    Username,
    trait,
)
from fastgw.config.settings.egress import Egress, Providers
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import (
    OF_HTTP_CHECKS,
    ActiveHealth,
    Backoff,
    CircuitBreaker,
    HealthChecks,
    Hedge,
    LoadBalancing,
    PassiveHealth,
    Pool,
    PoolNumber,
    Resolve,
    Retries,
    Sticky,
    Target,
    Targets,
    TargetsDns,
    TargetsFile,
    TargetsSrv,
    Threshold,
    Upstream,
    UpstreamTimeouts,
    UpstreamTls,
)
from fastgw.http.field_names import RESERVED

__all__ = [
    "DEFAULT_ADMIN",
    "DEFAULT_STATUS",
    "MOST_WORKERS",
    "NONE",
    "OF_HTTP_CHECKS",
    "AccessLog",
    "ActiveHealth",
    "Admin",
    "Backoff",
    "Canary",
    "CircuitBreaker",
    "ClientAuth",
    "Config",
    "Connections",
    "Consumer",
    "ConsumerCertificate",
    "ConsumerFile",
    "ConsumerKey",
    "ConsumerPassword",
    "ConsumerSigningKey",
    "ConsumerSubject",
    "DrainTimeouts",
    "Fallback",
    "FallbackCondition",
    "FilterUse",
    "Filters",
    "HealthChecks",
    "Hedge",
    "Inner",
    "Limits",
    "Listener",
    "LoadBalancing",
    "Log",
    "OrFrom",
    "PassiveHealth",
    "PathForwarding",
    "Pool",
    "PoolNumber",
    "Quotas",
    "Redirect",
    "Resolve",
    "Respond",
    "Retries",
    "Route",
    "ServerCertificate",
    "ServerTls",
    "Settings",
    "SettingsMeta",
    "Share",
    "Some",
    "Split",
    "State",
    "Status",
    "Sticky",
    "Target",
    "Targets",
    "TargetsDns",
    "TargetsFile",
    "TargetsSrv",
    "Threshold",
    "Timeouts",
    "Upstream",
    "UpstreamTimeouts",
    "UpstreamTls",
    "view",
]

# Upper bounds: far above what serves anyone, and low enough that what is made from a number can be made.
MOST_WORKERS: Final = 1024
Connections = Annotated[int, Meta(ge=1, le=10_000_000)]


class ServerCertificate(Settings):
    """Certificate of a listener."""

    certificate: ReadableFile
    """A PEM file with the certificate and its chain."""
    key: ReadableFile
    """A PEM file with the certificate's key, without a password."""


class ClientAuth(Settings):
    """Certificates of clients.

    When anything of this changes, the contents of the files too, who was verified before has to connect again: the next
    request on an open connection is answered 421, and tunnels (WebSocket) end at once. A response in flight is
    completed."""

    mode: Literal["optional", "required"] = "required"
    """`required`: clients without one are rejected; `optional`: one is verified if the client sends it."""
    ca: ReadableFile
    """A PEM file of the certificates that clients' certificates must come from. When one of them expires, or a list of
    `crl` is out of date, sessions end (`session_tickets`). One that clients send with theirs ends none before their own
    has expired, unless it stands here too."""
    crl: ReadableFile | None = None
    """A PEM file of revocation lists, one of every authority that signs: without a current list all its certificates
    are rejected: `fastgw status` and the metrics tell until when it is good. null = nothing is revoked."""


class ServerTls(Settings):
    """TLS settings for clients. Files are read anew when they change; what is broken or does not belong together
    leaves the certificate that was there.
    """

    certificates: Some[ServerCertificate]
    """Certificates, selected by SNI: the one for the name that a client asks for, else the wildcard for it (`*.`), else
    the first. Of two for the same names, whose keys are of different kinds (RSA, ECDSA), the one that the client can
    verify.
    """
    min_version: Literal["1.2", "1.3"] = "1.2"
    """The oldest version of TLS."""
    client_auth: ClientAuth | None = None
    """Whether clients show a certificate too. null = they are not asked."""
    session_tickets: bool = True
    """Whether a client that comes again may do without most of a handshake. It may at every worker, also after a
    reload; keys are new each day."""
    handshake_timeout: Duration = 10.0
    """Timeout for a whole handshake, from the opening of the connection. A total. Then it is closed without an
    answer.
    """


class Listener(Settings):
    """An address that clients connect to."""

    address: ListenAddress
    """`host:port`, `[ipv6]:port` (IPv6 only), `:port` (every address of the machine, IPv4 and IPv6) or `unix:/path`.
    Port 0 lets the system choose."""
    protocols: Some[Literal["http1"]] = ("http1",)
    """Protocols of the listener: `http1` is HTTP/1.1 and HTTP/1.0."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of the proxies whose forwarding headers and PROXY protocol are believed.

    Of `X-Forwarded-For` and `Forwarded` the first counts where both come: a proxy that writes only `Forwarded` must
    take the other away."""
    reserved_headers: tuple[FieldPattern, ...] = RESERVED
    """Headers that only `trusted_proxies` may send: from any other client they are dropped before filters, routes and
    upstreams see them. A name with `*` at its end stands for all that begin so. Case is ignored, and another sign in
    the place of a hyphen (`X_Original_URL`) makes no difference. A list replaces the default; `[]` = none. What filters
    of the gateway set under such a name is sent. `X-Forwarded-For` and its like: see `forwarded` of routes."""
    proxy_protocol: Literal["off", "required"] = "off"
    """Whether each connection begins with a PROXY protocol header, v1 or v2. `required` needs `trusted_proxies`,
    but for a unix socket, whose permissions say who is trusted."""
    tls: ServerTls | None = None
    """TLS settings of the listener; TLS comes after the PROXY protocol header if there is one. null = plaintext."""
    ambiguous_paths: Literal["refuse", "allow"] = "refuse"
    """Handling of a path that servers read in different ways, and that is another route's in one of them. Where
    `/admin/*` is a route, `//admin`, `/x/..//admin` and `/admin%2Fa` are. `refuse` answers 400; `allow` goes by the
    path as it came, and relies on upstreams to read it so. See docs/reference/routing.md.
    """
    filters: Filters = NONE
    """Filters for what comes in here."""


class Status(Settings):
    """The read-only status listener: `/livez`, `/readyz` and `/metrics`."""

    address: ListenAddress = Address(host="127.0.0.1", port=9902)
    """`host:port`, `[ipv6]:port`, `:port` (every address of the machine) or `unix:/path`."""


class Admin(Settings):
    """The admin listener: the API that changes the gateway, and the dashboard.

    An address that other machines can reach needs a `token`, or client certificates that are `required`.
    """

    address: ListenAddress = Address(host="127.0.0.1", port=9901)
    """`host:port`, `[ipv6]:port`, `:port` (every address of the machine) or `unix:/path`. A unix socket is for its
    owner alone, who needs no token there; with a `token` its group may connect too."""
    token: Secret | None = None
    """Bearer token of the admin API, which callers send as `Authorization: Bearer`. null = one is made at the start,
    and kept in the runtime directory in a file that only the gateway's user can read: `fastgw token` prints it. """
    tls: ServerTls | None = None
    """TLS settings of the listener. null = plaintext."""
    document_bytes: Annotated[Size, Meta(ge=1024, le=256 * 1024**2)] = 1024**2
    """How long a configuration, or a list of targets, may be that is sent to the API: a longer one is answered 413. One
    eighth of it is how many values may be in one, those that aliases repeat counted each time. Files that the gateway
    reads itself have no such bounds, but for YAML's aliases: in any document they repeat 100,000 values at most."""
    document_time: Duration = 30.0
    """How much processor time it may take to check one, in a process of its own, while everything else goes on: one
    that takes more, or four times as long by the clock, is answered 413. 10,000 routes take 3 to 6 s."""
    document_memory: Annotated[Size, Meta(ge=8 * 1024**2)] = 512 * 1024**2
    """How much memory that may take, beyond what the control process has in use: a document that takes more is answered
    413. 10,000 routes take 100 MiB; 1 MiB of YAML takes 300 MiB at most, whatever stands in it."""


DEFAULT_STATUS: Final = Status()
"""The status listener when no file says anything of one, told from an equal one in a file by its identity, in every
process. Where its port is taken it is the next that is free."""
DEFAULT_ADMIN: Final = Admin()
"""The admin listener when no file says anything of one, likewise. Where its port is taken it is the next that is free.
"""


class DrainTimeouts(Settings):
    """How long a stop waits for requests in flight. All are totals."""

    delay: Delay = 0.0
    """First of all: how long new connections are still served while readiness is off already. Make it longer than a
    load balancer or orchestrator takes to notice. 0 = not at all."""
    requests: Duration = 30.0
    """Timeout for requests."""
    tunnels: Duration = 300.0
    """Timeout for tunnels such as WebSocket connections."""


class Timeouts(Settings):
    """Timeouts for clients. Idle timeouts: any byte restarts them."""

    request_headers: Duration = 10.0
    """Timeout for a whole request head, from its first byte; on a new connection from its opening. A total. Answered
    408.
    """
    request_body_idle: Duration = 30.0
    """Timeout for the next bytes of a request body. Answered 408."""
    response_idle: Duration = 60.0
    """Timeout for the client to take more of a response. Then the connection is cut."""
    keepalive: Duration = 75.0
    """Timeout for the next request on a connection. Then it is closed without an answer."""
    filters: Duration = 30.0
    """Timeout for filters that have to wait, such as for an authority's response, where the route has no `timeout`. A
    total, from the beginning of the request. Answered 504.
    """
    drain: DrainTimeouts = DrainTimeouts()
    """Timeouts for what is in flight when the gateway stops."""


class Limits(Settings):
    """Limits on what clients may send and hold."""

    header_bytes: Annotated[Size, Meta(ge=1024, le=16 * 1024**2)] = 32 * 1024
    """The longest request head, start line included. Answered 431, or 414 when the request target alone is longer."""
    header_count: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """The maximum number of header lines in a request. Exceeded: 431."""
    body_bytes: Annotated[Size, Meta(ge=0, le=2**63 - 1)] | None = None
    """The longest request body. Answered 413. null = any length."""
    connections: Connections = 20_000
    """The most client connections. Further ones are answered 503 and closed; over TLS they are closed at once."""
    connections_per_ip: Connections | None = None
    """The most connections from one address; IPv6 counts by /64. Further ones are answered 429; over TLS they are
    closed at once. null = no limit."""


class AccessLog(Settings):
    """Access log with one line per request."""

    sink: LogSink = "stdout"
    """`stdout`, or the path of a file, relative to the file that says so. Reopened on SIGUSR1."""
    format: Literal["json", "ecs", "combined"] = "json"
    """`json`: fastgw's own names; `ecs`: Elastic Common Schema; `combined`: the line that Apache and nginx write."""
    redact: tuple[str, ...] = ()
    """Parameters to mask in the query, the path, `Referer` and `User-Agent`, besides token, access_token, id_token,
    refresh_token, auth_token, api_token, id_token_hint, logout_token, jwt, bearer, authorization, auth, session,
    assertion, client_assertion, code, secret, client_secret, password, passwd, pwd, pass, credential, credentials, key,
    api_key, x-api-key, secret_key, private_key, sig, signature, x-amz-signature, x-amz-credential and
    x-amz-security-token. Case is ignored, and so is whether words are joined by `_`, `-` or nothing. Names with
    brackets are looked at part by part: `user[password]`, `token[]`. Users and passwords in URLs are masked too."""


class Log(Settings):
    """Operator log on stderr: a line for each event, with time, level, process, the event's name and a text. A change
    takes effect with a reload.
    """

    format: Literal["text", "json"] = "text"
    """`text`: `TIME LEVEL PROCESS[PID] EVENT: TEXT`; `json`: an object with `time`, `level`, `process`, `pid`, `event`
    and `message`."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""


class Respond(Settings):
    """An answer that the gateway gives itself."""

    status: Annotated[int, Meta(ge=200, le=599)] = 200
    """The status code."""
    body: str = ""
    """The body, sent as UTF-8. Its type is `text/plain; charset=utf-8` unless `headers` names another."""
    headers: Mapping[FieldName, FieldValue] = NONE
    """Further headers."""


class Redirect(Settings):
    """An answer that sends the client elsewhere."""

    status: Literal[301, 302, 303, 307, 308] = 308
    """308 and 307 keep the method; 301 and 308 may be remembered by clients."""
    to: str
    """The `Location`: a URL or a path, in which `{name}` stands for a parameter of the route's paths.

    The request's query is kept, without credentials that filters hide, unless this has one of its own."""


class PathForwarding(Settings):
    """Form of the path that an upstream is sent."""

    forward: Literal["normal", "raw"] = "normal"
    """`normal`: the form that was matched, dot segments resolved; `raw`: the client's own bytes, behind `strip_prefix`
    too. A raw path is answered 400 where it could be read as that of another route: its first segments have to be the
    prefix, and `..` has to stay behind that and may not take back an empty segment."""
    encoded_slash: Literal["keep", "reject"] = "keep"
    """Whether a `%2F` in the path is forwarded unchanged, or rejected with 400."""
    root: Literal["slash", "bare"] = "slash"
    """Path that is sent for a path that is `strip_prefix` and nothing more: `slash`: the path of the target's URL and a
    slash (`/v2/`); `bare`: that path alone (`/v2`), or a slash where it has none.
    """


FallbackCondition = Literal["unavailable", "unreachable", "broken", "timeout"]


class Fallback(Settings):
    """Replacement for an upstream that fails before its response begins: one of `upstream` and `respond`."""

    upstream: Name | None = None
    """Another upstream, for requests whose body is still at hand. One that the first may have acted on is sent there
    only if its method may be repeated. Filters of this upstream do not run. Credentials that the gateway brings for the
    other one do not go there, unless `filters` of both have the same, or they are those of the gateway or a listener.
    """
    respond: Respond | None = None
    """An answer of the gateway's own."""
    conditions: Some[FallbackCondition] = ("unavailable", "unreachable", "broken", "timeout")
    """`unavailable`: no target may be asked, the circuit breaker is open or no connection is free; `unreachable`: none
    can be made; `broken`: it was lost, or what came was no answer; `timeout`: no answer came in time."""

    def __post_init__(self) -> None:
        if (self.upstream is None) == (self.respond is None):
            raise ValueError("expected exactly one of `upstream` and `respond`")


Share = Annotated[int, Meta(ge=0, le=1_000_000)]


class Canary(Settings):
    """Requests that go to one of a route's upstreams whatever its share is: those that meet all conditions here."""

    upstream: Name
    """Upstream of the canary, one of those of the route."""
    headers: Mapping[FieldName, str] = NONE
    """Headers and the values they must have, as in the `headers` of a route."""
    cookies: Mapping[FieldName, str] = NONE
    """Cookies and the values they must have. Of a repeated one any value counts."""

    def __post_init__(self) -> None:
        if not self.headers and not self.cookies:
            raise ValueError("no condition; expected `headers` or `cookies`")


class Split(Settings):
    """Division of requests among the upstreams of a route."""

    by: Annotated[Trait, trait("ip", "header", "cookie", "request")] = Trait("ip")
    """Requests with the same one go to the same upstream: `ip` (IPv6 by its /64), `header:NAME` or `cookie:NAME`;
    without that header or cookie the address counts. `request`: random for each request."""
    canaries: tuple[Canary, ...] = ()
    """Requests that are not divided; the first that fits counts."""


class Route(Settings):
    """Conditions, and what happens to a request that meets them all: one of `upstream`, `respond`, `redirect`."""

    name: Annotated[str, Meta(min_length=1)]
    """Name of the route in logs, metrics and `explain`."""
    listeners: Some[str] = ()
    """Names of the listeners it is served on. Left out = all."""
    hosts: Some[str] = ()
    """`api.example.com` or `*.example.org`; port and case are ignored. Left out = any."""
    paths: Some[str] = ()
    """`/users/{id}`, `/files/*`, `/apps/{app}/{rest:path}` or, after `~`, a regular expression. Left out = any.

    A regular expression has no parameters.
    """
    trailing_slash: Literal["distinct", "same"] = "distinct"
    """Whether `/users/{id}` and `/users/{id}/` are one path or two. `same`: the route takes both, unless another route
    has the other one as its own; the path is sent as it came. Prefixes (`/files/*`) match both anyway, regular
    expressions what they say."""
    methods: Some[Method] = ()
    """GET answers HEAD too. Left out = any."""
    headers: Mapping[FieldName, str] = NONE
    """Headers and the values they must have. Of a repeated header any line counts, and any member of a list that is
    separated by commas: `X-Version: 1, 2` has both values."""
    query: Mapping[str, str] = NONE
    """Query parameters and the values they must have, escapes decoded. Of a repeated one any value counts."""
    upstream: (
        Destination | Annotated[Mapping[Name, Share], Meta(min_length=1, examples=["{users: 90, users_v2: 10}"])] | None
    ) = None
    """Destination of requests: the name of an upstream, the URL of its only target, or the names of several with the
    share that each gets.
    """
    split: Split | None = None
    """Division of requests among several upstreams. null = by the client's address."""
    respond: Respond | None = None
    """Answer without an upstream."""
    redirect: Redirect | None = None
    """Send the client elsewhere."""
    fallback: Fallback | None = None
    """Replacement for an upstream that fails. null = the client gets the error."""
    strip_prefix: str | None = None
    """Prefix that is cut off the path, by whole path elements, before it is sent."""
    rewrite: str | None = None
    """The path to send instead, in which `{name}` stands for a parameter of the route's paths."""
    path: PathForwarding = PathForwarding()
    """Form of the path that is sent."""
    forwarded: Literal["append", "set", "strip", "pass"] | None = None
    """Handling of the forwarding headers. Left out = `append` when the peer is a trusted proxy, else `set`.

    `pass` leaves them alone, but for `X-Forwarded-Client-Cert` of a TLS client that is no trusted proxy.
    """
    via: Literal["on", "off"] = "on"
    """Whether requests and answers get a `Via` of the gateway's (RFC 9110 section 7.6.3). Some upstreams compress
    nothing for requests that have one. `off` leaves those of others as they are."""
    upgrade: tuple[Protocol, ...] = ("websocket",)
    """Protocols that a connection may change to, becoming a tunnel. `h2c` never."""
    timeout: Duration | None = None
    """Timeout for the response head, all attempts together. Answered 504. null = what the upstream's timeouts allow."""
    deadline_header: FieldName | None = None
    """A header such as `X-Request-Timeout` that tells the upstream for how many more milliseconds we wait for it.
    What the client has sent under this name is removed. null = none."""
    use: tuple[str, ...] = ()
    """Filter sets, the later before the earlier; the route's own `filters` come before them all."""
    filters: Filters = NONE
    """Filters for this route alone."""

    @property
    def destinations(self) -> tuple[str | Url, ...]:
        """The upstreams, by name or URL."""
        if self.upstream is None or isinstance(self.upstream, str | Url):
            return () if self.upstream is None else (self.upstream,)
        return tuple(self.upstream)


class ConsumerKey(Settings):
    """A key that a consumer shows: one of `key` and `key_sha256`."""

    key: Secret | None = None
    """The key itself: visible ASCII characters."""
    key_sha256: Sha256 | None = None
    """SHA-256 of the key, so that the configuration does not contain the key. Safe for keys that cannot be guessed.
    """

    def __post_init__(self) -> None:
        if (self.key is None) == (self.key_sha256 is None):
            raise ValueError("expected exactly one of `key` and `key_sha256`")


class ConsumerPassword(Settings):
    """A username and its password."""

    username: Username
    """User name, without a colon; compared in Unicode's form NFC."""
    password: Secret
    """The password."""


class ConsumerSubject(Settings):
    """Subject of a token, with its issuer."""

    issuer: Annotated[str, Meta(min_length=1)]
    """The token's `iss`, character by character."""
    subject: Annotated[str, Meta(min_length=1)]
    """The token's `sub`, character by character."""


class ConsumerCertificate(Settings):
    """A client certificate: one of `subject`, `san` and `fingerprint_sha256`."""

    subject: CertificateSubject | None = None
    """Subject of the certificate, as RFC 4514 writes it: `CN=alice,O=Example`."""
    san: CertificateName | None = None
    """One of its alternative names: `DNS:host`, `URI:spiffe://…`, `email:a@b` or `IP:10.0.0.1`."""
    fingerprint_sha256: Fingerprint | None = None
    """The SHA-256 of the certificate."""

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.subject, self.san, self.fingerprint_sha256)) != 1:
            raise ValueError("expected exactly one of `subject`, `san` and `fingerprint_sha256`")


class ConsumerSigningKey(Settings):
    """A key that requests are signed with."""

    key_id: Annotated[str, Meta(min_length=1, max_length=256)]
    """Name of the key in signatures: their `keyid`."""
    algorithm: Literal["hmac-sha256", "ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-pss-sha512"] = (
        "hmac-sha256"
    )
    """Signature algorithm, by its name in RFC 9421. A key is good for one algorithm alone."""
    key: Secret
    """The secret that both sides share, of 16 bytes at least; for other algorithms than HMAC a public key in PEM."""
    encoding: Literal["text", "base64"] = "text"
    """Encoding of the shared secret: as it is, or in base64."""


class Consumer(Settings):
    """API consumer: a client that the gateway knows by name, and how requests authenticate as it."""

    name: Identity
    """Name of the consumer in logs, limits and headers for upstreams."""
    groups: tuple[Identity, ...] = ()
    """The groups that it belongs to."""
    key_auth: tuple[ConsumerKey, ...] = ()
    """Keys for `key_auth`. Several while one takes the place of another."""
    basic_auth: tuple[ConsumerPassword, ...] = ()
    """Passwords for `basic_auth`."""
    hmac: tuple[ConsumerSigningKey, ...] = ()
    """The keys that it signs requests with, for `hmac`."""
    jwt: tuple[ConsumerSubject, ...] = ()
    """Subjects of the consumer's tokens."""
    certificates: tuple[ConsumerCertificate, ...] = ()
    """Client certificates of the consumer."""


class ConsumerFile(Settings):
    """Contents of a file of `consumer_files`."""

    consumers: tuple[Consumer, ...]
    """Consumers, as in a configuration."""


class State(Settings):
    """A Redis or Valkey in which several nodes share what was revoked and what limits count. Needs `fastgw[redis]`."""

    url: Secret
    """URL of the Redis: `redis://[user]:password@host:6379/0`, `rediss://` for TLS, or `unix:///path?db=0`. Redis 6.2
    or newer, or Valkey.
    """
    when_away: Literal["local", "refuse"] = "local"
    """Fallback while Redis is unreachable: the counts of this node alone, or nothing, so that requests that would have
    to ask it are refused (503, `limits_unavailable`). The node's own counts begin at nothing when Redis goes away: each
    of N nodes then admits as much as all together may. Revocations always go by the node's own list, and are merged
    when it is back.
    """
    timeout: Duration = 0.1
    """How long a request waits for it. After a timeout requests do not wait for it until it is reachable again; it is
    tried in the background."""
    prefix: Annotated[str, Meta(min_length=1, max_length=64)] = "fastgw"
    """Prefix of all names in Redis. Gateways with another prefix share nothing."""


class Quotas(Settings):
    """Persistence of the counts of `quota`."""

    file: Annotated[str, Meta(min_length=1)] | None = None
    """A file to keep counts in, an SQLite database: read at the start, written about once a second and at the end. It
    is made if it is not there, readable by the gateway's user alone; a lock beside it (`-lock`) keeps a second gateway
    from starting with the same one. Where it cannot be written, counts go on in memory: log and status say so. null =
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
    """Limits on what clients may send and hold."""
    access_logs: tuple[AccessLog, ...] = (AccessLog(),)
    """Access logs. `[]` = none."""
    log: Log = Log()
    """Operator log on stderr."""
    upstreams: Mapping[Name, Upstream] = NONE
    """Groups of targets, by name."""
    filter_sets: Mapping[Name, Filters] = NONE
    """Bundles of filters, by name, for routes to `use`."""
    filters: Filters = NONE
    """Filters for every request, known route or not."""
    consumers: tuple[Consumer, ...] = ()
    """API consumers: clients that the gateway knows by name."""
    consumer_files: tuple[str, ...] = ()
    """Further files of `consumers`, by name or pattern, relative to this one. They are watched: what is changed,
    added or removed there takes effect at once, without a reload being asked for. A file that is wrong keeps what it
    said before, which the log tells, and holds up none of the others."""
    state: State | None = None
    """Shared state of nodes. null = none: each node counts for itself."""
    quotas: Quotas = Quotas()
    """Persistence of the counts of quotas."""
    egress: Egress | None = None
    """APIs outside that applications inside call by name. They become routes and upstreams called `egress/…`, behind
    those of the files. null = none."""
    providers: Providers = Providers()
    """Further sources of services of `egress`, besides the files."""
    routes: tuple[Route, ...] = ()
    """Routes of requests. The order counts only between routes that match equally well."""
