"""The configuration as typed structs, the same for YAML, TOML, JSON and the command line.

The docstring under each field is its entry in the manual and in the JSON schema. Every number applies to the node, not
to one worker. Settings are immutable: mappings are read-only views.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from fastgw.config.base.settings_base import (
    NONE,
    Filters,
    FilterUse,
    Generated,
    Inner,
    OrEntry,
    OrFrom,
    Settings,
    SettingsMeta,
    Some,
    view,
)
from fastgw.config.base.value_types import (
    Address,
    AlgorithmName,
    AlpnProtocol,
    BaseName,
    CertificateName,
    CertificateSubject,
    CipherName,
    Delay,
    Destination,
    Duration,
    ErrorStatus,
    FieldName,
    FieldPattern,
    FieldValue,
    FileName,
    Fingerprint,
    HostHeader,
    HostName,
    HttpVersion,
    Identity,
    KeyFile,
    ListenAddress,
    LogSink,
    Method,
    Name,
    Network,
    Protocol,
    ReadableFile,
    Regex,
    RelativePath,
    RouteName,
    RpcMethod,
    RpcService,
    ServerNamePattern,
    Sha256,
    Size,
    Trait,
    Url,
    Username,
    trait,
    write_size,
)
from fastgw.config.settings.acme import Acme, AcmeCertificate
from fastgw.config.settings.compose import Compose, FlatmapStep, Part, StaticData
from fastgw.config.settings.egress import Egress, Providers
from fastgw.config.settings.functions import Lambda
from fastgw.config.settings.log_lines import LogCondition, LogField
from fastgw.config.settings.log_sinks import RemoteSink
from fastgw.config.settings.openapi import OpenApiRoutes
from fastgw.config.settings.origins import Origins
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.telemetry import Analytics, Slo, Stories, Telemetry
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
    ResponseLimits,
    Retries,
    RouteRetries,
    RouteTimeouts,
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
from fastgw.config.settings.value_maps import ValueMap
from fastgw.config.settings.vault import Vault
from fastgw.config.settings.websocket_api import WebsocketApi
from fastgw.http.error_templates import json_template
from fastgw.http.field_names import RESERVED
from fastgw.net.tls_profiles import PROFILES, GroupName, ProfileName, VersionName
from fastgw.observe.access_log.line_formats import FIXED, JSON_FORMATS
from fastgw.observe.access_log.log_fields import MOST_FIELDS, name_of

__all__ = [
    "DEFAULT_ADMIN",
    "DEFAULT_STATUS",
    "MOST_WORKERS",
    "NONE",
    "OF_HTTP_CHECKS",
    "AccessLog",
    "Acme",
    "AcmeCertificate",
    "ActiveHealth",
    "Admin",
    "Backoff",
    "Canary",
    "CircuitBreaker",
    "ClientAuth",
    "Compose",
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
    "ErrorPage",
    "ErrorPages",
    "Fallback",
    "FallbackCondition",
    "Files",
    "FilterUse",
    "Filters",
    "FlatmapStep",
    "HealthChecks",
    "Hedge",
    "Inner",
    "Limits",
    "Listener",
    "LoadBalancing",
    "Log",
    "OrFrom",
    "Part",
    "PassiveHealth",
    "PathForwarding",
    "Pool",
    "PoolNumber",
    "Quotas",
    "Redirect",
    "Resolve",
    "Respond",
    "ResponseLimits",
    "Retries",
    "Route",
    "RouteRetries",
    "RouteTimeouts",
    "ServerCertificate",
    "ServerTls",
    "Settings",
    "SettingsMeta",
    "Share",
    "Some",
    "Split",
    "State",
    "StaticData",
    "Status",
    "Sticky",
    "Target",
    "Targets",
    "TargetsDns",
    "TargetsFile",
    "TargetsSrv",
    "Telemetry",
    "Threshold",
    "Timeouts",
    "TlsRoute",
    "Upstream",
    "UpstreamTimeouts",
    "UpstreamTls",
    "ValueCondition",
    "Variant",
    "view",
]

# Upper bounds: far above any practical value, and low enough that resources of this size can be allocated.
MOST_WORKERS: Final = 1024
Connections = Annotated[int, Meta(ge=1, le=10_000_000)]


class ServerCertificate(Settings):
    """Certificate of a listener: its files, or `acme`."""

    ALTERNATIVES: ClassVar = (("certificate", "key"), ("acme",))
    """Sets of settings of which exactly one is given."""

    certificate: ReadableFile | None = None
    """PEM file with the certificate and its chain."""
    key: KeyFile | None = None
    """PEM file with the certificate's private key, without a password."""
    hosts: Some[ServerNamePattern] = ()
    """Server names (SNI) that the certificate is for, in place of those in it: `api.example.com`, or `*.example.com`
    for any number of labels before it. Left out = the names in the certificate."""
    acme: AcmeCertificate | None = None
    """Certificate that is obtained and renewed by ACME, instead of files. Until the first one is issued, clients get a
    self-signed one that has expired."""

    @property
    def certificate_file(self) -> str:
        """File with the certificate and its chain."""
        return self.acme.file if self.acme is not None else self.certificate or ""

    @property
    def key_file(self) -> str:
        """File with the private key."""
        return self.acme.file if self.acme is not None else self.key or ""


class ClientAuth(Settings):
    """Verification of client certificates (mTLS).

    When one of these settings or the contents of a file changes, clients that were verified before have to reconnect:
    the next request on an open connection is answered 421, and tunnels (WebSocket) are closed at once. A response in
    flight is completed.
    """

    mode: Literal["optional", "required"] = "required"
    """`required`: clients without a certificate are rejected; `optional`: a certificate is verified if the client sends
    one."""
    ca: ReadableFile
    """PEM file with the CA certificates that client certificates are verified against. When one of them expires, or a
    list in `crl` goes out of date, TLS sessions (`session_tickets`) end. When an intermediate certificate that a client
    sends expires, its sessions continue until the client's own certificate expires, unless the intermediate is in this
    file too."""
    crl: ReadableFile | None = None
    """PEM file with certificate revocation lists, one for every CA that signs. Without a current list, all certificates
    of a CA are rejected. `fastgw status` and the metrics show until when the lists are valid. null = revocation is not
    checked."""


class ServerTls(Settings):
    """TLS settings for clients. The files are read again when they change; if a new file is invalid or does not match
    the others, the previous certificate stays in use."""

    certificates: Some[ServerCertificate]
    """Certificates, selected by SNI: one for the exact name that the client asks for, else one with a wildcard for it
    (`*.`), else the first. If two certificates for that name have keys of different kinds (RSA, ECDSA), the client gets
    the one that it can verify; without a known name, it does if the second one is for all names of the first."""
    on_demand: bool = False
    """Whether clients that ask for another name (SNI) get a certificate of `acme.on_demand`, which is ordered when its
    name is first asked for. Listeners only, not the admin listener."""
    profile: ProfileName = "intermediate"
    """Mozilla's recommendation for versions, cipher suites and groups. `modern`: TLS 1.3 only; `intermediate`: TLS 1.2
    and 1.3, with forward secrecy and authenticated encryption; `old`: TLS 1.0 and later, also with CBC and without
    forward secrecy, for clients that cannot be replaced. The settings below take precedence over it."""
    min_version: VersionName | None = None
    """Minimum version of TLS. null = that of the profile."""
    max_version: Literal["1.2", "1.3"] | None = None
    """Maximum version of TLS. null = the latest."""
    ciphers: Annotated[tuple[CipherName, ...], Meta(max_length=64)] = ()
    """Cipher suites of TLS 1.2 and earlier by OpenSSL's names, the preferred one first: the order decides, not that of
    the client. `[]` = those of the profile, in the client's order. The suites of TLS 1.3 are always used."""
    groups: Annotated[tuple[GroupName, ...], Meta(max_length=16)] = ()
    """Groups (curves) for the key exchange, the preferred one first. `[]` = those of the profile, and X25519MLKEM768
    before them. X25519MLKEM768 needs OpenSSL 3.5; with an earlier one it is left out."""
    client_auth: ClientAuth | None = None
    """Verification of client certificates. null = clients are not asked for a certificate."""
    session_tickets: bool = True
    """Whether clients may resume TLS sessions, which saves most of a handshake. A session can be resumed at every
    worker, also after a reload. The ticket keys change every day."""
    ocsp_stapling: bool = False
    """Whether clients that ask for it get an OCSP response with the certificate, which shows that it is not revoked. It
    is fetched from the responder that the certificate names, by http, and renewed at half of its lifetime. The issuer's
    certificate has to follow in the file. Listeners only, not the admin listener; not for certificates on demand."""
    handshake_timeout: Duration = 10.0
    """Timeout for the whole handshake, from the time the connection was opened. Total. Then the connection is closed
    without an answer."""

    @property
    def least_version(self) -> str:
        """Minimum version."""
        return self.min_version or PROFILES[self.profile].min_version


FIRST_STREAM_WINDOW: Final = 65_536
"""Bytes of a request's body that a client may send before any was taken: the default of HTTP/2, rounded."""
MOST_STREAM_WINDOW: Final = 48 * 1024**2
"""Maximum window of a request by default: the bytes of 77 ms at 655 MB/s."""


class Http2(Settings):
    """Limits of an HTTP/2 connection. Data is read from a peer only as fast as its receiver accepts it."""

    max_concurrent_streams: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Number of requests that a client may have in flight on one connection. Beside the first, each counts as a
    connection in `limits.connections` and `limits.connections_per_ip`."""
    stream_window: Annotated[Size, Meta(ge=FIRST_STREAM_WINDOW, le=256 * 1024**2)] = MOST_STREAM_WINDOW
    """Maximum flow-control window of a request: bytes of its body that its client may send before the upstream takes
    them. Each begins with 64 KiB. The window of an upload that moves grows to what its path needs, by its round-trip
    time; on a path below 1 ms it does not grow."""
    connection_window: Annotated[Size, Meta(ge=FIRST_STREAM_WINDOW, le=1024**3)] | None = None
    """The same for all requests of a connection together. Each may use 64 KiB, so that no request waits for another;
    the rest is for uploads whose windows grow: half of it for one, a quarter for the next. null = 64 KiB for each of
    `max_concurrent_streams`, and 96 MiB."""

    @property
    def shared_window(self) -> int:
        """Bytes of `connection_window`, or of its default."""
        if self.connection_window is not None:
            return self.connection_window
        return FIRST_STREAM_WINDOW * self.max_concurrent_streams + 2 * MOST_STREAM_WINDOW


Share = Annotated[int, Meta(ge=0, le=1_000_000)]
Upstreams = Name | Annotated[Mapping[Name, Share], Meta(min_length=1, examples=["{db: 90, db_v2: 10}"])]
"""Upstream of connections, or several ones with their shares."""


def shares_of(said: str | Mapping[str, int]) -> Mapping[str, int]:
    """Return upstreams of connections with their shares."""
    return {said: 1} if isinstance(said, str) else said


class TlsRoute(Settings):
    """Connections routed to an upstream by their ClientHello. The route with the exact name comes first, then the
    longest wildcard, then routes without `sni`; among equal ones, the first in the file whose `alpn` matches."""

    sni: Some[ServerNamePattern] = ()
    """Server names (SNI): `api.example.com`, or `*.example.com` for any number of labels before it. Left out = any
    connection, including those without a server name."""
    alpn: Some[AlpnProtocol] = ()
    """Protocols of which the client offers at least one (ALPN), such as `h2` or `postgresql`; only where TLS is passed
    through. Left out = any."""
    upstream: Upstreams
    """Upstream of these connections, or several upstreams with their shares, one of which is random for each
    connection."""
    passthrough: bool = False
    """With `protocol: tcp`: whether the TLS of these connections is passed through, as with `protocol: tls`, while
    routes without it terminate TLS on the same port."""


class ErrorPage(Settings):
    """Page in place of the problem document of a fault: HTML for clients that prefer it by `Accept`, as browsers do,
    JSON for all others. `{status}`, `{title}`, `{detail}`, `{fault}` and `{request_id}` stand for the values of the
    fault, escaped; other braces are text. At most one of `file` and `html`."""

    file: ReadableFile | None = None
    """File with a page of HTML."""
    html: str | None = None
    """Page of HTML."""
    json: str | None = None
    """Document of JSON, with placeholders in its strings, and `{status}` also as a number. null = the problem document.
    """

    def __post_init__(self) -> None:
        if self.file is not None and self.html is not None:
            raise ValueError("`file` and `html` are mutually exclusive; expected one of them")
        if self.file is None and self.html is None and self.json is None:
            raise ValueError("no page; expected `file`, `html` or `json`")
        if self.json is not None:
            json_template(self.json)  # raises for what does not become JSON


ErrorPages = Mapping[ErrorStatus, ErrorPage]


class Listener(Settings):
    """Address that clients connect to."""

    address: ListenAddress
    """`host:port`, `[ipv6]:port` (IPv6 only), `:port` (every address of the machine, IPv4 and IPv6) or `unix:/path`.
    Port 0 lets the system choose."""
    protocol: Literal["http", "tcp", "tls", "udp"] = "http"
    """`http`: requests, which `routes` at the top direct. `tcp`: connections of any protocol, to `upstream`; with `tls`
    their TLS ends here, and `routes` may direct them by server name (SNI), and pass the TLS of some names through.
    `tls`: TLS passthrough: connections are directed by the server name (SNI) of their ClientHello, and not decrypted.
    `udp`: datagrams, to `upstream`; a client's address and port, with the address that it sends to, is a session, which
    stays with its target for as long as datagrams come (`timeouts.tunnel_idle` of the upstream)."""
    upstream: Upstreams | None = None
    """Upstream of a listener with `protocol: tcp` or `udp`, or several upstreams with their shares, one of which is
    random for each connection or session."""
    routes: tuple[TlsRoute, ...] = ()
    """Routes of a listener with `protocol: tls`, or with `protocol: tcp` and `tls`, in place of `upstream`."""
    protocols: Some[HttpVersion] | None = None
    """Versions of HTTP that clients may use: `http1` is HTTP/1.1 and HTTP/1.0. With TLS the client chooses by ALPN;
    without TLS a client of HTTP/2 begins with it ("prior knowledge"); `Upgrade: h2c` is never answered. null = both
    with `tls`, `http1` without."""
    http2: Http2 = Http2()
    """Bounds of HTTP/2 connections."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks of the proxies whose forwarding headers and PROXY protocol are trusted, by the connection's address.

    `X-Forwarded-For` takes precedence over `Forwarded`: a proxy that writes only `Forwarded` must remove
    `X-Forwarded-For`.
    """
    reserved_headers: tuple[FieldPattern, ...] = RESERVED
    """Headers that only `trusted_proxies` may send. From any other client they are removed before filters, routes and
    upstreams see them. A name that ends with `*` matches every name with this beginning. Case is ignored, and another
    character in place of a hyphen (`X_Original_URL`) makes no difference. A list replaces the default; `[]` = none.
    Headers with such a name that filters of the gateway set are sent. `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`,
    `-Prefix`, `-Client-Cert` and `X-Real-IP` are never among them: see `forwarded` of routes."""
    unreserved_headers: tuple[FieldName, ...] = ()
    """Headers of `reserved_headers` that every client may send all the same, such as `X-HTTP-Method-Override`."""
    proxy_protocol: Literal["off", "required"] = "off"
    """Whether every connection begins with a PROXY protocol header, v1 or v2. `required` needs `trusted_proxies` or
    `proxy_protocol_senders`, except on a unix socket, whose file permissions decide who may connect."""
    proxy_protocol_senders: tuple[Network, ...] = ()
    """Networks of TCP load balancers, which send a PROXY header and pass on the rest as it came: their PROXY header
    counts, but the forwarding headers behind it are the client's, and trusted only if the address in the PROXY header
    is one of `trusted_proxies`. An address that is in both is a TCP load balancer, and so is who connects to a unix
    socket. `[]` = every other sender is a proxy of `trusted_proxies` that removes or replaces the forwarding headers of
    its clients."""
    scheme: Literal["http", "https"] | None = None
    """Scheme that clients use, where neither a trusted proxy (`X-Forwarded-Proto`) nor a PROXY header says it. `https`
    is for a listener behind a load balancer that ends TLS and does not tell. null = `https` with `tls`, else `http`."""
    tls: ServerTls | None = None
    """TLS settings of the listener. With PROXY protocol, TLS begins after its header. null = plaintext."""
    ambiguous_paths: Literal["refuse", "allow"] = "refuse"
    """Handling of a path that servers may read in different ways, if in one of them it belongs to another route. If
    `/admin/*` is a route, `//admin`, `/x/..//admin`, `/admin%2Fa`, `/admin%5Ca` and `/admin%252Fa` are such paths; if
    `/orders/{id}:cancel` is one, `/orders/7%3Acancel`. `refuse`: answered 400; `allow`: the path is routed as it was
    received, and upstreams must read it in the same way. See docs/reference/routing.md."""
    tolerate_utf8_targets: bool = False
    """Whether a request target with UTF-8 characters that are not percent-encoded is accepted, from clients that do not
    encode them. They are encoded before anything else sees them: `/café` is `/caf%C3%A9`. Otherwise, and if the bytes
    are not UTF-8, the answer is 400."""
    half_close: Literal["cancel", "serve"] = "cancel"
    """Handling of HTTP/1.1 clients that end their direction of a connection before they have their response, as a FIN
    looks alike from those and from clients that have gone. `cancel`: the request is cancelled, as in nginx. `serve`:
    requests that were received whole are answered, the last one with `Connection: close`, as in HAProxy and Caddy; that
    a client has gone is noticed when a response is sent to it. Over TLS `close_notify` is such an end too, with or
    without a FIN. HTTP/2 ends each request by itself, and a FIN there the connection."""
    filters: Filters = NONE
    """Filters for requests of this listener."""
    error_pages: ErrorPages = NONE
    """Pages for faults of the gateway on this listener, by status or class. They take precedence over those at the top.
    """

    @property
    def wants_http2(self) -> bool:
        """Whether HTTP/2 is configured. It is offered if this installation supports it."""
        return self.tls is not None if self.protocols is None else "http2" in self.protocols

    @property
    def destinations(self) -> tuple[str, ...]:
        """Return the upstreams that the listener itself names."""
        said = (self.upstream, *(route.upstream for route in self.routes))
        return tuple(name for each in said if each is not None for name in shares_of(each))


class Status(Settings):
    """The read-only status listener: `/livez`, `/readyz` and `/metrics`."""

    address: ListenAddress = Address(host="127.0.0.1", port=9902)
    """`host:port`, `[ipv6]:port`, `:port` (every address of the machine) or `unix:/path`."""
    hosts: Some[ServerNamePattern] = ()
    """Further names by which the listener is called, such as `gw1.example.com` or `*.example.com`. Without them only
    requests are answered whose `Host` is an IP address, a name that is not public (`localhost`, `gateway`,
    `gateway.prod.svc`, `gw1.internal`) or the host of `address`, so that no page of another site can read the metrics
    by DNS rebinding."""


class Admin(Settings):
    """Admin listener: the API that changes the gateway, and the dashboard.

    An address that other machines can reach needs a `token`, or client certificates that are `required`.
    """

    address: ListenAddress = Address(host="127.0.0.1", port=9901)
    """`host:port`, `[ipv6]:port`, `:port` (every address of the machine) or `unix:/path`. A unix socket is accessible
    to its owner only, who needs no token there; with a `token` its group may connect too."""
    token: Secret | None = None
    """Bearer token of the admin API (`Authorization: Bearer`). null = a token is generated at the start and kept in the
    runtime directory, in a file that only the gateway's user can read: `fastgw token` prints it."""
    read_only_token: Secret | None = None
    """A second bearer token, whose holders may look at everything but the bodies of requests (taps and recordings), and
    change nothing. null = there is none."""
    connections_token: Secret | None = None
    """A bearer token of back ends, which may use the connections of WebSocket APIs (`/connections/{id}`) and nothing
    else. null = there is none."""
    tls: ServerTls | None = None
    """TLS settings of the listener. null = plaintext."""
    document_bytes: Annotated[Size, Meta(ge=1024, le=256 * 1024**2)] = 1024**2
    """Maximum size of a configuration, or of a list of targets, that is sent to the API; a longer one is answered 413.
    The maximum number of values in it is one eighth of this number; values that aliases repeat count each time. Files
    that the gateway reads itself have no such limits, except for YAML aliases: in any document they repeat 100,000
    values at most."""
    document_time: Duration = 30.0
    """Maximum processor time for the check of such a document. The check runs in a separate process, while everything
    else continues. A document that takes more, or four times as long in wall-clock time, is answered 413. 10,000 routes
    take 3 to 6 s."""
    document_memory: Annotated[Size, Meta(ge=8 * 1024**2)] = 512 * 1024**2
    """Maximum memory for the check of such a document, in addition to the memory of the control process. A document
    that takes more is answered 413. 10,000 routes take 100 MiB; 1 MiB of YAML takes 300 MiB at most, whatever it
    contains."""


DEFAULT_STATUS: Final = Status()
"""Status listener if no file configures one. It is recognized by identity, in every process; an equal one in a file is
not the default. If its port is in use, the next free port is used."""
DEFAULT_ADMIN: Final = Admin()
"""Admin listener if no file configures one; recognized by identity, as above. If its port is in use, the next free port
is used.
"""


class DrainTimeouts(Settings):
    """Timeouts for requests in flight when the gateway stops, or when an upgrade replaces a worker. All are totals."""

    delay: Delay = 0.0
    """Time during which new connections are still served after readiness has been turned off, before the drain begins.
    Make it longer than a load balancer or orchestrator takes to notice. 0 = no delay."""
    requests: Duration = 30.0
    """Timeout for requests."""
    tunnels: Duration = 300.0
    """Timeout for tunnels such as WebSocket connections, and for connections of TCP listeners. It applies to workers
    that an upgrade replaces as well: it counts from the upgrade, with the settings as of then, also if the gateway
    stops meanwhile."""


class Timeouts(Settings):
    """Timeouts for clients. An idle timeout starts again with every byte; a total does not."""

    request_headers: Duration = 10.0
    """Timeout for a whole request head, from its first byte; on a new connection, from the time the connection was
    opened. Total. Answered 408. On a listener with `protocol: tls` it is the timeout for the whole ClientHello."""
    request_body_idle: Duration = 30.0
    """Timeout for the next bytes of a request body, until the response begins; then `timeouts.idle` of the upstream
    applies. Answered 408. The line before a chunk, with its extensions, and the trailers have to be complete within
    `request_headers`, from their first byte."""
    request_body_rate: Annotated[Size, Meta(ge=0, le=1024**2)] = 500
    """Minimum rate of a request body that is held in memory, for filters, `compose` or `lambda`, in bytes per second.
    It applies to what comes beyond each `request_body_idle`: a body has so much time for pauses, and gets more with its
    bytes. Answered 408. 0 = no minimum."""
    response_idle: Duration = 60.0
    """Timeout for the client to read more of a response. Then the connection is aborted."""
    keepalive: Duration = 75.0
    """Timeout for the next request on a connection. Then the connection is closed without an answer."""
    filters: Duration = 30.0
    """Timeout for filters that have to wait, for example for an authorization server, if the route has no `timeout`.
    Total, from the beginning of the request. Answered 504."""
    drain: DrainTimeouts = DrainTimeouts()
    """Timeouts for requests in flight when the gateway stops."""


LEAST_ADDRESS_SHARE: Final = 100
"""Share of a client address that it has in any case: a browser with one page over HTTP/2 may need as much."""


def address_share(most: int) -> int:
    """Return how many of `most` connections or sessions one client address may have."""
    return max(most // 2, LEAST_ADDRESS_SHARE)


class Limits(Settings):
    """Limits on clients: sizes of requests, and connections."""

    header_bytes: Annotated[Size, Meta(ge=1024, le=16 * 1024**2)] = 32 * 1024
    """Maximum size of a request head, start line included, and of its trailers. Answered 431, or 414 if the request
    target alone is longer.
    """
    header_count: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Maximum number of header lines in a request head, and in its trailers. Answered 431."""
    body_bytes: Annotated[Size, Meta(ge=0, le=2**63 - 1)] | None = None
    """Maximum size of a request body. Answered 413. null = no limit."""
    connections: Connections = 20_000
    """Maximum number of client connections. For a further one the connection that is idle longest is closed, of those
    of the worker that accepts it: without a request, in a TLS handshake, or before the end of a request head. If none
    is idle, the further one is answered 503 and closed; over TLS it is closed at once."""
    connections_per_ip: Connections | None = None
    """Maximum number of connections from one address; IPv6 counts by /64. Further ones are answered 429; over TLS, and
    on listeners with `protocol: tcp` or `tls`, they are closed at once. Addresses in `trusted_proxies` of the listener,
    and unix sockets, have no limit. null = about half of `connections`, at least 100."""
    udp_sessions: Connections = 65_536
    """Maximum number of sessions of UDP listeners. For a further one, the session that is idle longest ends, those
    first whose client has sent nothing since the target's first response. One address has half of them at most, IPv6 by
    /64: its own session that is idle longest ends for its next one, also where open files bound the number."""

    @property
    def address_share(self) -> int:
        """Default of `connections_per_ip`."""
        return address_share(self.connections)


class AccessLog(Settings):
    """Access log, with one line per request."""

    sink: LogSink | RemoteSink = "stdout"
    """`stdout`; the path of a file, relative to the configuration file, which is reopened on SIGUSR1; or another sink:
    a file that the gateway rotates, or another machine."""
    format: Literal["json", "ecs", "gelf", "combined", "common", "w3c"] = "json"
    """`json`: fastgw's own names; `ecs`: Elastic Common Schema; `gelf`: Graylog Extended Log Format 1.1; `combined` and
    `common`: the formats of Apache and nginx; `w3c`: W3C Extended Log File Format."""
    fields: Annotated[tuple[LogField, ...], Meta(max_length=MOST_FIELDS)] = ()
    """Fields of the line, in this order, in place of those of the format: names of [log fields](log.md);
    `header.NAME` and `response_header.NAME`, a header of the request as the client sent it, or of the response as the
    upstream and filters made it, without the headers that the gateway adds at the end; `NAME=TEMPLATE`, a text with
    these in braces, such as `caller={consumer}@{client}`. Headers for credentials and those in `redact` are shown as
    `***`. `request_body` and `response_body` are the first 1024 bytes of bodies, with secrets as in
    [taps](../guides/debugging.md) and those in `redact` masked; requests that such a log may have are kept while they
    run, so `only` should name their routes. Not for `combined` and `common`, whose fields are fixed."""
    only: LogCondition | None = None
    """Condition of requests that are logged. null = all."""
    sample: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    """Share of these requests that is logged: 0.1 = one in ten, at random."""
    sample_routes: Mapping[str, Annotated[float, Meta(ge=0.0, le=1.0)]] = NONE
    """Share of the requests of a route, by its name, in place of `sample`."""
    always: LogCondition | None = None
    """Condition of requests that are logged even if `only` or the shares leave them out. null = none."""
    redact: tuple[str, ...] = ()
    """Parameters to mask in the query, the path, `Referer` and `User-Agent`, in addition to auth, code, key, pass,
    session, sig, ticket and all names that contain the name of a secret, such as access_token, new_password, X-Api-Key,
    jsessionid, SAMLResponse or X-Goog-Signature: see [taps](../guides/debugging.md). Case is ignored, and so is whether
    words are joined by `_`, `-` or nothing. Names with brackets are compared part by part: `user[password]`, `token[]`.
    Usernames and passwords in URLs are masked too."""

    def __post_init__(self) -> None:
        if self.fields and self.format in FIXED:
            raise ValueError(f"`format: {self.format}` has fixed fields; expected json, ecs, gelf or w3c with `fields`")
        needs_json = isinstance(self.sink, RemoteSink) and self.sink.elasticsearch is not None
        if needs_json and self.format not in JSON_FORMATS:
            raise ValueError(f"`format: {self.format}` is not JSON, as `elasticsearch` needs; expected `json`")
        names = [name_of(each) for each in self.fields]
        if len(set(names)) < len(names):
            raise ValueError("`fields` has a name twice")
        selects = self.only is not None or self.sample < 1.0 or self.sample_routes
        if self.always is not None and not selects:
            raise ValueError("`always` is set, but neither `only`, `sample` nor `sample_routes` leaves requests out")


class Log(Settings):
    """Operator log on stderr: one line per event, with time, level, process, event name and message. Changes take
    effect with a reload."""

    format: Literal["text", "json"] = "text"
    """`text`: `TIME LEVEL PROCESS[PID] EVENT: TEXT`; `json`: an object with `time`, `level`, `process`, `pid`, `event`
    and `message`."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of the log."""


class Respond(Settings):
    """Response of the gateway itself."""

    status: Annotated[int, Meta(ge=200, le=599)] = 200
    """Status code."""
    body: str = ""
    """Body, sent as UTF-8. Its type is `text/plain; charset=utf-8` unless `headers` has another `Content-Type`. In the
    `respond` of a route, path parameters and variables as in the `headers` filter (`{id}`, `{uuid}`, `{claim.sub}`) are
    replaced by their values, in body and headers; other braces are text. In JSON, HTML and XML values are escaped, and
    characters that XML does not allow become U+FFFD in HTML and XML; a missing value is empty in the body, and its
    header is left out."""
    headers: Mapping[FieldName, FieldValue] = NONE
    """Further headers."""

    def __post_init__(self) -> None:
        if self.status == 205 and self.body:
            raise ValueError("body: a response of status 205 has no content; expected an empty body or status 200")


class Redirect(Settings):
    """Redirect of the client to another URL: to the URL of `to`, or to the URL of the request with some of its parts
    replaced.
    """

    status: Literal[301, 302, 303, 307, 308] = 308
    """307 and 308 keep the method; clients may cache 301 and 308."""
    to: str | None = None
    """Value of `Location`: a URL or a path. `{name}` in its path, query or fragment stands for a path parameter of the
    route, or for a variable as in the `headers` filter, such as `{claim.tenant}` or `{query.page}`; its value is
    percent-encoded, only `{path}` and `{map.NAME}` keep their slashes, of which the first may stand before them
    (`/{path}`). If a value is missing, the request is answered 400, or 403 if it is the consumer's or a claim.

    If the value has no query, the query of the request is appended, before a fragment, without credentials that filters
    hide. null = the parts below.
    """
    scheme: Literal["http", "https"] | None = None
    """Scheme of the URL. null = the scheme of the request."""
    host: HostName | None = None
    """Host of the URL. null = the host of the request."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Port of the URL; the default port of the scheme is left out. null = the default port of `scheme`, or the port of
    the request if `scheme` is not set."""
    path: str | None = None
    """Path of the URL. null = the path of the request, changed by `strip_prefix` and `add_prefix`."""
    strip_prefix: str | None = None
    """Prefix to remove from the path, in whole path segments. null = nothing is removed."""
    add_prefix: str | None = None
    """Prefix to put before the path, once `strip_prefix` is removed. null = none."""

    def __post_init__(self) -> None:
        parts = (self.scheme, self.host, self.port, self.path, self.strip_prefix, self.add_prefix)
        if (self.to is None) == all(part is None for part in parts):
            raise ValueError("expected either `to`, or some of `scheme`, `host`, `port`, `path` and the prefixes")
        if self.path is not None and not (self.strip_prefix is self.add_prefix is None):
            raise ValueError("`path` replaces the whole path; expected it without `strip_prefix` and `add_prefix`")


class Variant(Settings):
    """One of several destinations of a route, with its share of the requests: exactly one of `upstream`, `respond` and
    `redirect`. Settings that are left out are those of the route.
    """

    weight: Share = 1
    """Share of the requests, relative to the other variants. 0 = none, except for those of a canary."""
    upstream: Destination | None = None
    """Destination of the requests: the name of an upstream, or the URL of a single target."""
    respond: Respond | None = None
    """Response of the gateway itself."""
    redirect: Redirect | None = None
    """Redirect of the client to another URL."""
    strip_prefix: str | None = None
    """Prefix to remove from the path before the request is sent, as in the route."""
    add_prefix: str | None = None
    """Prefix to put before the path, as in the route."""
    rewrite: str | None = None
    """Path to send instead of the request path, as in the route."""
    host_header: HostHeader | None = None
    """`Host` of the requests, as in the route."""
    use: tuple[str, ...] = ()
    """Names of further filter sets for these requests, in addition to those of the route."""

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.upstream, self.respond, self.redirect)) != 1:
            raise ValueError("expected exactly one of `upstream`, `respond` and `redirect`")
        if self.upstream is None and any(getattr(self, name) is not None for name in _OF_VARIANT):
            raise ValueError(f"expected {', '.join(f'`{name}`' for name in _OF_VARIANT)} only with `upstream`")

    @property
    def label(self) -> str:
        """Return a short name for people."""
        if self.upstream is not None:
            return str(self.upstream)
        if self.respond is not None:
            return f"respond {self.respond.status}"
        assert self.redirect is not None
        return f"redirect {self.redirect.status}"

    @property
    def sent_settings(self) -> bytes:
        """Return the settings that change what is sent to the upstream, but for its path; b"": there are none. Two
        variants with equal ones send the same requests to the same URL.
        """
        if self.host_header is None and not self.use:
            return b""
        return b"\xff".join(text.encode() for text in (self.host_header or "", *self.use))  # not a byte of UTF-8


_OF_VARIANT: Final = ("strip_prefix", "add_prefix", "rewrite", "host_header")


class Files(Settings):
    """Static files. A GET or HEAD is answered with the file that the path names beneath `root`; hidden files, whose
    names start with a dot, and symbolic links that lead out of `root` are answered 404."""

    root: Annotated[str, FileName(readable=False, is_directory=True)]
    """Directory with the files. It may be replaced while the gateway runs, also by changing a symbolic link."""
    index: tuple[BaseName, ...] = ("index.html",)
    """Names of the file that answers for a directory; the first one that exists is used. A directory without its
    trailing slash is redirected."""
    precompressed: tuple[Literal["zstd", "br", "gzip"], ...] = ("br", "zstd", "gzip")
    """Content codings of which compressed files are used: `app.js.br`, `app.js.zst` and `app.js.gz` instead of
    `app.js`, for clients that accept them, in this order of preference. A compressed file older than the file itself is
    not used. `[]` = none."""
    spa: RelativePath | None = None
    """Page of a single-page application, relative to `root`: answers for paths without a file, unless their last
    segment has an extension. null = they are answered 404."""
    listing: bool = False
    """Whether directories without an index file are listed."""


class PathForwarding(Settings):
    """Form of the path that is sent to the upstream."""

    forward: Literal["normal", "raw"] = "normal"
    """`normal`: the normalized path, as it was matched, with dot segments resolved; `raw`: the client's own bytes, also
    after `strip_prefix`. A raw path that could be read as the path of another route is answered 400: it has to begin
    with the prefix, and `..` must not lead out of the prefix or remove an empty segment. `raw` also says that the
    upstream takes `%5C`, escaped control characters and `%25` in names for themselves, as object stores do: they make
    no path ambiguous."""
    encoded_slash: Literal["keep", "reject"] = "keep"
    """`keep`: a `%2F` in the path is forwarded unchanged; `reject`: answered 400, and so are `%5C` and `%252F`, which
    some servers read as a slash."""
    root: Literal["slash", "bare"] = "slash"
    """Path that is sent if the request path is exactly `strip_prefix`. `slash`: the path of the target's URL and a
    slash (`/v2/`); `bare`: that path alone (`/v2`), or a slash if the URL has none."""


FallbackCondition = Literal["unavailable", "unreachable", "broken", "timeout"]


class Fallback(Settings):
    """Replacement for an upstream that fails before its response begins: exactly one of `upstream` and `respond`."""

    upstream: Name | None = None
    """Another upstream, for requests whose body is still available. A request that the first upstream may have
    processed is sent there only if its method is idempotent. Filters of this upstream do not run. Credentials that the
    gateway adds for the first upstream are not sent to this one, unless the `filters` of both have the same ones, or
    the gateway or the listener has them."""
    respond: Respond | None = None
    """Response of the gateway itself."""
    conditions: Some[FallbackCondition] = ("unavailable", "unreachable", "broken", "timeout")
    """`unavailable`: no target is available, the circuit breaker is open or no connection is free; `unreachable`: no
    connection can be opened; `broken`: the connection was lost, or the response was invalid; `timeout`: there was no
    response in time."""

    def __post_init__(self) -> None:
        if (self.upstream is None) == (self.respond is None):
            raise ValueError("expected exactly one of `upstream` and `respond`")


class Canary(Settings):
    """Canary: sends requests that meet all of its conditions to one upstream of the route, whatever its share."""

    upstream: Name
    """Name of the upstream, one of those of the route."""
    headers: Mapping[FieldName, str] = NONE
    """Headers and their required values, as in `headers` of a route."""
    cookies: Mapping[FieldName, str] = NONE
    """Cookies and their required values. If a cookie is sent more than once, any of its values counts."""

    def __post_init__(self) -> None:
        if not self.headers and not self.cookies:
            raise ValueError("no condition; expected `headers` or `cookies`")


class Split(Settings):
    """Distribution of requests over the upstreams of a route."""

    by: Annotated[Trait, trait("ip", "header", "cookie", "request")] = Trait("ip")
    """Key of the distribution: requests with the same key go to the same upstream. `ip` (IPv6 by /64), `header:NAME` or
    `cookie:NAME`; the address is the key of requests without that header or cookie. `request`: a random upstream for
    each request."""
    canaries: tuple[Canary, ...] = ()
    """Requests that are not distributed; the first match counts."""


class GrpcMatch(Settings):
    """Calls of gRPC, instead of `paths` and `methods`."""

    service: RpcService
    """Full name of the service, such as `helloworld.Greeter`."""
    methods: Some[RpcMethod] = ()
    """Names of methods. Left out = all methods of the service."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the paths of these methods."""
        return tuple(f"/{self.service}/{method}" for method in self.methods) or (f"/{self.service}/*",)


class ValueCondition(Settings):
    """Condition on a value of a request: exactly one of these. Any value of a repeated one may match."""

    exact: str | None = None
    """The whole value."""
    prefix: Annotated[str, Meta(min_length=1)] | None = None
    """Beginning of the value."""
    regex: Regex | None = None
    """RE2 regular expression, which matches anywhere in the value unless anchored (`^`, `$`)."""
    present: bool | None = None
    """`true`: any value, also an empty one; `false`: it is absent."""

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.exact, self.prefix, self.regex, self.present)) != 1:
            raise ValueError("expected exactly one of `exact`, `prefix`, `regex` and `present`")

    def __str__(self) -> str:
        if self.present is not None:
            return "present" if self.present else "absent"
        conditions = (("exact", self.exact), ("prefix", self.prefix), ("regex", self.regex))
        return next(f"{kind} {value}" for kind, value in conditions if value is not None)


class Route(Settings):
    """Conditions, and the action for requests that meet all of them: one of `upstream`, `respond`, `redirect`,
    `variants`, `compose`, `lambda`, `websocket_api` and `files`."""

    name: RouteName
    """Name of the route in logs, metrics and `explain`."""
    listeners: Some[str] = ()
    """Names of the listeners that serve the route. Left out = all."""
    hosts: Some[str] = ()
    """`api.example.com` or `*.example.org`; port and case are ignored. Left out = any host."""
    paths: Some[str] = ()
    """`/users/{id}`, `/orders/{id}:cancel`, `/files/*`, `/apps/{app}/{rest:path}` or, after `~`, a regular expression.
    Left out = any path.

    The named groups of a regular expression, `(?P<name>…)` or `(?<name>…)`, are its path parameters.
    """
    trailing_slash: Literal["distinct", "same"] = "distinct"
    """Whether `/users/{id}` and `/users/{id}/` are different paths. `same`: the route matches both, unless another
    route has the other one as its own; the path is sent as it was received. Prefixes (`/files/*`) match both in any
    case; regular expressions match as written."""
    methods: Some[Method] = ()
    """HTTP methods. GET includes HEAD. Left out = any method."""
    head: Literal["as_get", "separate"] = "as_get"
    """Whether GET among the `methods` includes HEAD. `separate`: only if HEAD is among them."""
    grpc: GrpcMatch | None = None
    """Service and methods of gRPC, instead of `paths` and `methods`. null = any request."""
    headers: Mapping[FieldName, str | ValueCondition] = NONE
    """Headers and their required values: the value, or a condition such as `{prefix: v2}`. If a header is repeated, any
    of its lines counts, and so does any member of a comma-separated list: `X-Version: 1, 2` has both values."""
    query: Mapping[str, str | ValueCondition] = NONE
    """Query parameters and their required values, percent-decoded: the value, or a condition. If a parameter is
    repeated, any of its values counts."""
    cookies: Mapping[FieldName, str | ValueCondition] = NONE
    """Cookies and their required values: the value, or a condition. If a cookie is sent more than once, any of its
    values counts."""
    clients: Some[Network] = ()
    """Networks that the client's address belongs to. Left out = any client."""
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    """Routes with a higher priority are tried first, however specific their hosts, paths and conditions are."""
    rank: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Precedence among routes of the same host and path; the higher one is tried first. null = the number of conditions
    on headers, query, cookies and clients."""
    upstream: (
        Destination | Annotated[Mapping[Name, Share], Meta(min_length=1, examples=["{users: 90, users_v2: 10}"])] | None
    ) = None
    """Destination of requests: the name of an upstream, the URL of a single target, or the names of several upstreams
    with their shares."""
    variants: tuple[Variant, ...] = ()
    """Several destinations with their shares, which may differ in the path and `Host` that are sent and in filters, and
    may be responses of the gateway itself. `split` distributes the requests among them."""
    split: Split | None = None
    """Distribution of requests over several upstreams or variants. null = by the client's address."""
    respond: Respond | None = None
    """Response of the gateway itself, without an upstream."""
    redirect: Redirect | None = None
    """Redirect of the client to another URL."""
    files: Files | None = None
    """Static files of a directory."""
    compose: Compose | None = None
    """Response that is composed of several requests to upstreams."""
    lambda_: Lambda | None = msgspec.field(default=None, name="lambda")
    """Function of AWS Lambda."""
    websocket_api: WebsocketApi | None = None
    """API of a WebSocket gateway: the events of WebSocket connections are requests to upstreams."""
    fallback: Fallback | None = None
    """Replacement for an upstream that fails. null = the client gets the error."""
    strip_prefix: str | None = None
    """Prefix to remove from the path before the request is sent, or a file is looked up, in whole path segments. The
    service gets it in `X-Forwarded-Prefix`, unless another one is put in its place."""
    add_prefix: str | None = None
    """Prefix to put before the path, once `strip_prefix` is removed, before the request is sent. With both, the prefix
    is replaced: `/old` and `/old/x` become `/new` and `/new/x`."""
    rewrite: str | None = None
    """Path to send instead of the request path. `{name}` stands for a path parameter of the route, or for a variable as
    in `redirect.to`, such as `/tenants/{claim.tenant}/{path}`; missing values are answered as there."""
    path: PathForwarding = PathForwarding()
    """Form of the path that is sent to the upstream."""
    host_header: HostHeader | None = None
    """`Host` of requests to the upstream, as in `host_header` of the upstream. null = that of the upstream."""
    proxy_redirect: Literal["default", "off"] = "default"
    """Handling of absolute URLs in `Location`, `Content-Location` and `Refresh` that have the host and port of the
    target that has responded, and of those with the client's host and `http` where only the client speaks TLS.
    `default`: they get the scheme and host of the client's request, and what `strip_prefix`, `add_prefix` and the
    target's URL have changed in the path is undone; `off`: they do not change. A filter `response_urls` takes the place
    of `default`."""
    forwarded: Literal["append", "set", "strip", "pass"] | None = None
    """Handling of the forwarding headers: `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, `-Prefix`, `-Client-Cert`,
    `X-Real-IP` and `Forwarded`. Left out = `append` if the peer is a trusted proxy, else `set`.

    Scheme, host and port are the same in all of them, and those that the gateway uses itself. The port is that of the
    host, otherwise the `X-Forwarded-Port` of a trusted proxy, otherwise the default of the scheme; the prefix is the
    one that a trusted proxy reports, followed by `strip_prefix`. `set` writes what the gateway sees itself.
    `pass` forwards them unchanged, except `X-Forwarded-Client-Cert` of a TLS client that is not a trusted proxy.
    """
    forwarded_header: bool = False
    """Whether `Forwarded` (RFC 7239) is written, too. It lists the addresses of `X-Forwarded-For`, and its last element
    has the scheme and the host."""
    via: Literal["on", "off"] = "on"
    """Whether the gateway adds its `Via` to requests and responses (RFC 9110 section 7.6.3). Some upstreams do not
    compress responses to requests with `Via`. `off` leaves the `Via` of others unchanged."""
    upgrade: tuple[Protocol, ...] = ("websocket",)
    """Protocols that a connection may be upgraded to; it becomes a tunnel. `h2c` is never upgraded to."""
    timeout: Duration | None = None
    """Timeout for the response head, over all attempts. Answered 504. null = only the timeouts of the upstream apply.
    """
    timeouts: RouteTimeouts | None = None
    """Timeouts for the upstream, where they differ from `timeouts` of the upstream for requests of this route."""
    retries: RouteRetries | None = None
    """Retries of failed requests of this route, where they differ from `retries` of the upstream."""
    deadline_header: FieldName | None = None
    """Header such as `X-Request-Timeout` that tells the upstream how many milliseconds the gateway will still wait. A
    header with this name from the client is removed. null = none."""
    use: tuple[str, ...] = ()
    """Names of filter sets. A later one takes precedence over an earlier one, and the route's own `filters` take
    precedence over all."""
    filters: Filters = NONE
    """Filters for this route only."""
    error_pages: ErrorPages = NONE
    """Pages for faults of the gateway on this route, by status or class. They take precedence over those of the
    listener."""
    slo: Slo | None = None
    """Service level objectives of this route. null = those of `telemetry`."""

    completes_itself = True

    def __post_init__(self) -> None:
        if isinstance(self.grpc, GrpcMatch):
            msgspec.structs.force_setattr(self, "paths", self.grpc.paths)
            msgspec.structs.force_setattr(self, "methods", ("POST",))

    @property
    def destinations(self) -> tuple[str | Url, ...]:
        """Return the upstreams, by name or URL."""
        if self.variants:
            return tuple(each.upstream for each in self.variants if each.upstream is not None)
        if self.upstream is None or isinstance(self.upstream, str | Url):
            return () if self.upstream is None else (self.upstream,)
        return tuple(self.upstream)

    def with_variant(self, variant: Variant) -> "Route":
        """Return the route that forwards every request as this variant does."""
        given = {name: value for name in _OF_VARIANT if (value := getattr(variant, name)) is not None}
        ends = {"upstream": variant.upstream, "respond": variant.respond, "redirect": variant.redirect}
        if given.keys() & {"strip_prefix", "add_prefix", "rewrite"}:
            given = {"strip_prefix": None, "add_prefix": None, "rewrite": None, **given}
        return msgspec.structs.replace(self, variants=(), split=None, use=(*self.use, *variant.use), **ends, **given)

    @property
    def part_destinations(self) -> tuple[str | Url, ...]:
        """Return the upstreams of the gateway's own requests for the route: of the parts of a composed one, of a
        function, of the events of a WebSocket API.
        """
        if self.lambda_ is not None:
            return (self.lambda_.upstream,)
        if self.websocket_api is not None:
            return self.websocket_api.destinations
        return () if self.compose is None else self.compose.destinations


class ConsumerKey(Settings):
    """API key of a consumer: exactly one of `key` and `key_sha256`."""

    key: Secret | None = None
    """The key in plaintext: visible ASCII characters."""
    key_sha256: Sha256 | None = None
    """SHA-256 of the key, so that the configuration does not contain the key. Safe only for keys that cannot be
    guessed."""

    def __post_init__(self) -> None:
        if (self.key is None) == (self.key_sha256 is None):
            raise ValueError("expected exactly one of `key` and `key_sha256`")


class ConsumerPassword(Settings):
    """A username and its password."""

    username: Username
    """Username, without a colon; compared in Unicode normalization form NFC."""
    password: Secret
    """The password."""


class ConsumerSubject(Settings):
    """Tokens of a consumer: those with a subject of an issuer (`issuer` and `subject`), or those that are signed with
    a key of the consumer (`key_id`, `algorithm` and `key`).
    """

    issuer: Annotated[str, Meta(min_length=1)] | None = None
    """`issuer` of the filter that verifies the token, and so its `iss`, compared character by character."""
    subject: Annotated[str, Meta(min_length=1)] | None = None
    """`sub` of the token, compared character by character."""
    key_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    """Value by which tokens name the key, as `consumer_keys` of the filter `jwt` says: their `kid`, or a claim such as
    `iss`. No other consumer may have the same."""
    algorithm: AlgorithmName | None = None
    """Signature algorithm of the key. It is used for this one only."""
    key: Secret | None = None
    """The key: for `HS256` (at least 32 bytes), `HS384` (48) and `HS512` (64) a shared secret, for others a public key
    or certificate in PEM; or a JWK."""
    secret_is_base64: bool = False
    """Whether `key` is a shared secret in base64 or base64url, whose padding may be left out."""

    def __post_init__(self) -> None:
        named = [self.issuer is not None, self.subject is not None]
        keyed = [self.key_id is not None, self.algorithm is not None, self.key is not None]
        if not (all(named) and not any(keyed)) and not (all(keyed) and not any(named)):
            raise ValueError("expected `issuer` and `subject`, or `key_id`, `algorithm` and `key`")
        if self.secret_is_base64 and not (self.algorithm or "").startswith("HS"):
            raise ValueError("`secret_is_base64` is for a shared secret of `HS256`, `HS384` or `HS512`")


class ConsumerCertificate(Settings):
    """Client certificate of a consumer: exactly one of `subject`, `san` and `fingerprint_sha256`."""

    subject: CertificateSubject | None = None
    """Subject of the certificate, in the form of RFC 4514: `CN=alice,O=Example`."""
    san: CertificateName | None = None
    """One of the subject alternative names of the certificate: `DNS:host`, `URI:spiffe://…`, `email:a@b` or
    `IP:10.0.0.1`."""
    fingerprint_sha256: Fingerprint | None = None
    """SHA-256 of the certificate."""

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.subject, self.san, self.fingerprint_sha256)) != 1:
            raise ValueError("expected exactly one of `subject`, `san` and `fingerprint_sha256`")


class ConsumerSigningKey(Settings):
    """Key that a consumer signs requests with."""

    key_id: Annotated[str, Meta(min_length=1, max_length=256)]
    """Name of the key, the `keyid` of signatures."""
    algorithm: Literal["hmac-sha256", "ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-pss-sha512"] = (
        "hmac-sha256"
    )
    """Signature algorithm, by its name in RFC 9421. A key is valid for this algorithm only."""
    key: Secret
    """Shared secret, at least 16 bytes; for algorithms other than HMAC, a public key in PEM."""
    encoding: Literal["text", "base64"] = "text"
    """Encoding of the shared secret: plain text, or base64."""


class Consumer(Settings):
    """API consumer: a client that the gateway knows by name, with its credentials."""

    name: Identity
    """Name of the consumer in logs, limits and headers for upstreams."""
    groups: tuple[Identity, ...] = ()
    """Groups of the consumer."""
    namespace: Annotated[str, Meta(min_length=1, max_length=63)] | None = None
    """Kubernetes namespace whose FastgwPolicies alone know the consumer, as if it were a FastgwConsumer there. null =
    all filters and FastgwPolicies know it."""
    key_auth: tuple[ConsumerKey, ...] = ()
    """Keys for `key_auth`. Several keys allow one to be replaced by another."""
    basic_auth: tuple[ConsumerPassword, ...] = ()
    """Passwords for `basic_auth`."""
    hmac: tuple[ConsumerSigningKey, ...] = ()
    """Keys for `hmac`, which the consumer signs requests with."""
    jwt: tuple[ConsumerSubject, ...] = ()
    """Tokens of the consumer: by subject, or by keys of the consumer. Several keys allow one to be replaced by another.
    """
    certificates: tuple[ConsumerCertificate, ...] = ()
    """Client certificates of the consumer."""


class ConsumerFile(Settings):
    """Contents of a file of `consumer_files`."""

    consumers: tuple[Consumer, ...]
    """Consumers, as in a configuration."""


class State(Settings):
    """Redis or Valkey in which several nodes share revoked tokens, the counts of limits, purges of caches, stored
    responses of caches with `redis`, sessions of `oidc` that are too large for cookies, and certificates by ACME. Needs
    `fastgw[redis]`."""

    url: Secret
    """URL of Redis: `redis://[user]:password@host:6379/0`, `rediss://` for TLS, or `unix:///path?db=0`. Redis 6.2 or
    newer, or Valkey. A Redis Cluster is not supported, because what belongs together has to be on one server: a start
    or a reload with a node of one is refused, and a server that becomes one counts as unreachable. The same holds for
    the address of a Sentinel."""
    when_away: Literal["local", "refuse"] = "local"
    """Behavior while Redis is unreachable. `local`: this node counts on its own; `refuse`: requests whose limits need
    Redis are refused (503, `limits_unavailable`). The node's own counts start at zero when Redis becomes unreachable,
    so each of N nodes then admits as much as all nodes together are allowed. Token revocations always use the node's
    own list, and lists are merged when Redis is reachable again."""
    timeout: Duration = 0.1
    """Maximum time that a request waits for Redis. After a timeout, requests do not wait for Redis until it is
    reachable again; the gateway tries to reach it in the background."""
    prefix: Annotated[str, Meta(min_length=1, max_length=64)] = "fastgw"
    """Prefix of all keys in Redis. Gateways with different prefixes share nothing."""


class CacheDisk(Settings):
    """Directory in which a cache store keeps its responses, also over restarts of the gateway."""

    path: Annotated[str, Meta(min_length=1)]
    """Directory of the files, for this store alone: a second gateway that is started with it stops with an error. The
    gateway creates it if it does not exist, accessible only by its own user; the directory above it has to exist."""
    size: Size
    """Maximum size of all files, at least 16MiB, and at least `max_object`, which is 64MiB unless it is set. Responses
    that are not requested again are evicted first."""

    def __post_init__(self) -> None:
        if self.size < 1 << 24:
            raise ValueError("`size` is less than 16MiB")
        if "\0" in self.path:
            raise ValueError("`path` has a null byte; expected the name of a directory")


class CacheStore(Settings):
    """A store of the response cache, shared by all workers of the node."""

    memory: Annotated[Size, Meta(ge=1 << 20, le=1 << 36)] = 64 * 1024**2
    """Memory of the store, from 1MiB to 64GiB, with at least 256KiB for each worker. It is allocated as responses are
    stored. A reload that changes it begins with empty memory."""
    disk: CacheDisk | None = None
    """Files behind the memory: every stored response is written there as well, and found there when memory has lost
    it. null = none. A reload that changes its path begins with empty memory; a directory that an earlier reload has
    left is empty, too."""
    max_object: Size = 64 * 1024**2
    """Maximum size of a response's body. In addition, a response takes at most an eighth of `memory`; with `disk`,
    larger ones that state their length are only on disk, and take at most an eighth of its `size`."""

    redis: bool = False
    """Whether responses are also kept in the Redis of `state`, shared by all gateways with the same `state.prefix` and
    store: complete responses of up to 256KiB, for at most a day. Purges reach them. While Redis is unreachable the
    store does without it. Limit the memory of Redis (`maxmemory`, `maxmemory-policy`)."""

    def __post_init__(self) -> None:
        if self.disk is not None and self.disk.size < self.max_object:
            size, least = write_size(self.disk.size), write_size(self.max_object)
            raise ValueError(f"disk.size: {size} is less than `max_object`; expected at least {least}")


class Quotas(Settings):
    """Persistence of the counts of `quota`."""

    file: Annotated[str, Meta(min_length=1)] | None = None
    """SQLite database that stores the counts: read at the start, written about once a second and at the end. The
    gateway creates it if it does not exist, readable only by its own user; a lock file beside it (`-lock`) prevents
    a second gateway from starting with the same file. If the file cannot be written, counting continues in memory,
    and log and status report it. If it cannot be read, counting begins at zero, and the file is not written until
    it can be read: then the higher count of each key holds. null = `quotas.sqlite3` in the directory that
    systemd gives to the service (`StateDirectory`), else counts are lost when the gateway stops."""


class Audit(Settings):
    """Audit log: who changed what."""

    path: Annotated[str, FileName(readable=False)]
    """File that entries are added to, relative to the configuration file. The gateway creates it if it does not exist,
    readable only by its own user. Log rotation may rename it at any time; the chain goes on in the next file. While it
    cannot be written, entries wait in memory, and the log reports it."""


class Config(Settings):
    """The whole configuration, with its includes merged."""

    version: Literal[1]
    """Version of the configuration format."""
    workers: Annotated[int, Meta(ge=1, le=MOST_WORKERS)] | Literal["auto"] = "auto"
    """Number of worker processes. `auto`: as many as CPU affinity and the container's CPU quota allow."""
    include: tuple[str, ...] = ()
    """Further configuration files, by name or pattern, relative to this one. They add to this file; names must be
    unique over all files."""
    extensions: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Installed packages whose filters may be used: by name, those that the package declares as entry points of
    `fastgw.filters`; any other as `type: "package.module:Class"`. No other package is imported."""
    listeners: Annotated[Mapping[Name, Listener], Meta(examples=['{main: {address: "127.0.0.1:8080"}}'])] = NONE
    """Addresses that clients connect to, by name: at least one, unless `providers.kubernetes` adds them."""
    status: Status | None = DEFAULT_STATUS
    """The status listener. null = none. Left out = 127.0.0.1:9902 unless that is taken."""
    admin: Admin | None = DEFAULT_ADMIN
    """The admin listener. null = none. Left out = 127.0.0.1:9901 unless that is taken."""
    timeouts: Timeouts = Timeouts()
    """Timeouts for clients."""
    limits: Limits = Limits()
    """Limits on clients: sizes of requests, and connections."""
    access_logs: tuple[AccessLog, ...] = (AccessLog(),)
    """Access logs. `[]` = none."""
    log: Log = Log()
    """Operator log on stderr."""
    upstreams: Mapping[Name, Upstream] = NONE
    """Groups of targets, by name."""
    maps: Mapping[Name, ValueMap] = NONE
    """Tables of values by name: `{map.NAME}` stands for the result wherever a variable of a request may be written: in
    `rewrite`, `redirect`, `respond` and `compose`, and in filters such as `headers`, `query_parameters` and
    `transform`. Tables that look up a value of the response are for values in responses."""
    filter_sets: Mapping[Name, Filters] = NONE
    """Bundles of filters, by name, for routes to `use`."""
    filters: Filters = NONE
    """Filters for every request, also for requests that match no route."""
    error_pages: ErrorPages = NONE
    """Pages for faults of the gateway, by status (`404`) or class (`5xx`): the status takes precedence over its class
    on the same level. For others, clients that prefer HTML by `Accept` get a plain page, and all others the problem
    document. Responses of upstreams, and replies that filters make of their own, are not replaced."""
    consumers: tuple[Consumer, ...] = ()
    """API consumers: clients that the gateway knows by name."""
    consumer_files: tuple[str, ...] = ()
    """Files with further `consumers`, by name or pattern, relative to this one. They are watched: changed, added and
    removed files take effect at once, without a reload. If a file is invalid, its previous contents stay in use, the
    log reports it, and the other files are not affected."""
    acme: Acme | None = None
    """Certificates that the gateway obtains and renews by itself. null = none."""
    vault: Vault | None = None
    """Vault, for secrets that are written `{vault: path#key}`. null = none."""
    state: State | None = None
    """Shared state of several nodes. null = none: each node counts on its own."""
    quotas: Quotas = Quotas()
    """Persistence of the counts of quotas."""
    audit: Audit | None = None
    """Audit log of changes: requests to the admin API, reloads, drains, upgrades, start and stop, one JSON object per
    line, chained by hashes (`fastgw audit verify`). null = none."""
    analytics: Analytics | None = None
    """Analytics kept by the gateway: `fastgw analytics` shows them. null = none."""
    stories: Stories | None = None
    """Stories of failed and slow requests: `fastgw stories` and the dashboard show them. null = none."""
    caches: Mapping[Name, CacheStore] = NONE
    """Stores of the response cache, by name. The store `main` exists, with these defaults, unless it is given here."""
    telemetry: Telemetry = Telemetry()
    """Telemetry that is sent to collectors."""
    egress: Egress | None = None
    """External APIs that internal applications call by name. They become routes and upstreams named `egress/…`, after
    those of the files. null = none."""
    providers: Providers = Providers()
    """Further sources of configuration, in addition to the files."""
    routes: tuple[Annotated[Route, OrEntry(OpenApiRoutes)], ...] = ()
    """Routes. Their order matters only between routes that match equally well. An entry `{openapi: …}` stands for the
    routes of an OpenAPI document."""
    origins: Annotated[Origins, Generated()] = Origins()
    """Origins of the generated parts."""
