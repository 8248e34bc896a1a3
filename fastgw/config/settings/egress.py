"""The egress role: external APIs that internal applications call by name.

The settings are expanded into ordinary routes, upstreams and filters (`config.egress.expand`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta
from msgspec.structs import fields

from fastgw.config.base.settings_base import NONE, Besides, Filters, Settings, Some
from fastgw.config.base.value_types import (
    Duration,
    EndpointUrl,
    FieldName,
    FileName,
    HostName,
    Identity,
    KeyFile,
    Name,
    ReadableFile,
    Segment,
    Size,
    TargetUrl,
)
from fastgw.config.settings.credentials import (
    AwsSigV4,
    ClientAuth,
    Csrf,
    RequestParameters,
    TokenType,
    Values,
    Word,
)
from fastgw.config.settings.discovery import Consul, Docker, Eureka, Nacos
from fastgw.config.settings.kubernetes import KubernetesProvider
from fastgw.config.settings.secrets import RedisUrl, Secret
from fastgw.config.settings.upstreams import ResponseLimits, Retries, UpstreamTimeouts, UpstreamTls, Violations

Addressing = Literal["path", "path_with_entry", "host", "secret"]
Namespace = Annotated[str, Meta(pattern="^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
SecretName = Annotated[str, Meta(pattern="^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


class EgressCredentials(Settings):
    """Credentials that the gateway sends to the API in place of the application."""

    type: Literal[
        "none",
        "basic",
        "oauth2",
        "oauth2_mtls",
        "certificate",
        "bearer",
        "headers",
        "aws_sigv4",
        "gcp_id_token",
        "token_exchange",
    ]
    """`none`: the application's own credentials are forwarded; `basic`: `username` and `password`; `oauth2`: a token
    fetched from `token_url` with `client_id` and `client_secret`; `oauth2_mtls`: the same with a client certificate
    (RFC 8705); `certificate`: a client certificate for the API itself; `bearer`: a static `token`; `headers`: secrets
    in headers; `aws_sigv4`: a signature of AWS; `gcp_id_token`: a Google-signed ID token; `token_exchange`: a
    token that is issued for `subject_token` (RFC 8693). See the filter `credentials`."""
    username: Secret | None = None
    """Username, for `basic`."""
    password: Secret | None = None
    """Password, for `basic`."""
    token: Secret | None = None
    """Token, for `bearer`."""
    headers: Mapping[FieldName, Values] = NONE
    """Headers with secrets, for `headers`."""
    token_url: EndpointUrl | None = None
    """Token endpoint, for `oauth2`, `oauth2_mtls` and `token_exchange`; for `gcp_id_token` in place of the one in the
    key, or of the metadata server."""
    client_id: Secret | None = None
    """Client id of the gateway at the authorization server, for `oauth2`, `oauth2_mtls` and `token_exchange`."""
    client_secret: Secret | None = None
    """Client secret of the gateway at the authorization server, for `oauth2` and `token_exchange`."""
    client_key: Secret | None = None
    """Private key in PEM, for `oauth2` with `client_auth: private_key_jwt`."""
    client_auth: ClientAuth = "auto"
    """Authentication of the gateway to the token endpoint, for `oauth2`. See the filter `credentials`."""
    scopes: tuple[Word, ...] = ()
    """Scopes that are requested, for `oauth2`, `oauth2_mtls` and `token_exchange`."""
    audience: Word | None = None
    """Audience of the token, for `oauth2`, `oauth2_mtls`, `token_exchange` and `gcp_id_token`."""
    aws: AwsSigV4 | None = None
    """Region, service and keys, for `aws_sigv4`."""
    subject_token: Secret | None = None
    """Token that is exchanged, for `token_exchange`: usually a file."""
    subject_token_type: TokenType = "jwt"
    """Type of `subject_token`, for `token_exchange`."""
    requested_token_type: TokenType | None = None
    """Type of the token to issue, for `token_exchange`. null = the server decides."""
    resource: Word | None = None
    """URL of the service that the token is for, for `token_exchange`."""
    service_account_key: Secret | None = None
    """Key of a service account, for `gcp_id_token`: its JSON file. null = the metadata server."""
    assertion_audience: Word | None = None
    """Audience of the assertion, for `oauth2` with `client_auth: private_key_jwt`. null = `token_url`."""
    token_headers: Mapping[FieldName, Values] = NONE
    """Further headers of the token request, for `oauth2` and `oauth2_mtls`."""
    token_query: Mapping[Word, Values] = NONE
    """Further query parameters of the token request, for `oauth2` and `oauth2_mtls`."""
    token_tls: UpstreamTls = UpstreamTls()
    """TLS settings for the token endpoint, for `oauth2`, `oauth2_mtls`, `token_exchange` and `gcp_id_token`."""
    token_tolerate: Violations = ()
    """Violations of RFC 9110 and RFC 9112 that responses of the token endpoint may have, and their dangers, for
    `oauth2`, `oauth2_mtls` and `token_exchange`: as in `tolerate` of an upstream. `[]` = none."""
    second_level: RedisUrl | None = None
    """Redis in which nodes share tokens, encrypted, for `oauth2` and `oauth2_mtls`."""
    certificate: ReadableFile | None = None
    """PEM file with the client certificate and its chain, for `certificate` and `oauth2_mtls`."""
    key: KeyFile | None = None
    """PEM file with the key of `certificate`."""

    secret_files_later = True

    def __post_init__(self) -> None:
        needed, possible = OF_TYPES[self.type]
        for name in needed:
            if not getattr(self, name):
                raise ValueError(f"no `{name}`; expected one for `type: {self.type}`")
        for name, default in _UNSAID.items():
            if name not in (*needed, *possible) and getattr(self, name) != default:
                fitting = " or ".join(type for type, (needs, may) in OF_TYPES.items() if name in (*needs, *may))
                raise ValueError(f"`{name}` has no effect with `type: {self.type}`; it is for {fitting}")


_OF_SECRETS: Final = ("client_secret", "client_key", "client_auth", "assertion_audience")
_OF_TOKENS: Final = (
    *("scopes", "audience", "token_headers", "token_query", "token_tls", "token_tolerate", "second_level"),
)
OF_TYPES: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "none": ((), ()),
    "basic": (("username", "password"), ()),
    "oauth2": (("token_url", "client_id"), (*_OF_SECRETS, *_OF_TOKENS)),
    "oauth2_mtls": (("token_url", "client_id", "certificate", "key"), _OF_TOKENS),
    "certificate": (("certificate", "key"), ()),
    "bearer": (("token",), ()),
    "headers": (("headers",), ()),
    "aws_sigv4": (("aws",), ()),
    "token_exchange": (
        ("token_url", "subject_token"),
        (
            *("subject_token_type", "requested_token_type", "resource", "client_id", "client_secret"),
            *("scopes", "audience", "token_tls", "token_tolerate"),
        ),
    ),
    "gcp_id_token": (("audience",), ("service_account_key", "token_url", "token_tls")),
}
"""Settings that credentials of each type require, and those that they allow."""
_UNSAID: Final[Mapping[str, Any]] = {
    field.name: field.default for field in fields(EgressCredentials) if field.name != "type"
}


CONNECT_S: Final = 10.0
BODY_BYTES: Final = 1024**2


class EgressTimeouts(UpstreamTimeouts):
    """Timeouts for APIs. Idle timeouts unless noted otherwise."""

    connect: Duration = CONNECT_S
    """Timeout for opening a connection: name lookup and connecting, and the TLS handshake as well if `tls` is null.
    Total. Answered 504."""
    tls: Duration | None = CONNECT_S
    """Timeout for the TLS handshake, once connected. Answered 504. null = the handshake is a part of `connect`."""


class EgressRetries(Retries):
    """Retries of a call on another connection. Sending a call again with a new token, after a 401 or 403, does not
    count as a retry."""

    body_bytes: Annotated[Size, Meta(ge=0, le=16 * 1024**2)] = BODY_BYTES
    """Maximum size of a request body that is kept for retries, those with a new token included. A request with a longer
    body is retried only if nothing of it was sent. The parts of bodies beyond 64 KiB each may use 64 MiB on the node
    (`fastgw_kept_body_bytes`); bodies that exceed this are not kept."""


class EgressEntry(Settings):
    """One external API."""

    url: TargetUrl
    """URL of the API. The rest of the path is appended to it, separated by exactly one slash."""
    credentials: EgressCredentials = EgressCredentials(type="none")
    """Credentials that the gateway sends to the API."""
    csrf: Csrf | None = None
    """CSRF token that the API requires. null = none. Its endpoint uses the TLS settings and `tolerate` of the API,
    unless it has a `tls` or `tolerate` of its own."""
    request_parameters: RequestParameters = RequestParameters()
    """Headers and query parameters that are added to requests unless the application has sent them itself."""
    parameters_for_token: bool = False
    """Whether `request_parameters` are sent to the token endpoint as well."""
    forwarded: Literal["append", "set", "strip", "pass"] | None = None
    """Handling of the forwarding headers. Left out = `strip` with `addressing: host` or `consumers`, else `pass`."""
    forwarded_header: bool = False
    """Whether `Forwarded` (RFC 7239) is written, too, with `forwarded: append` or `set`."""
    timeouts: EgressTimeouts = EgressTimeouts()
    """Timeouts for the API."""
    retries: EgressRetries = EgressRetries()
    """Retries of failed calls."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the API."""
    tolerate: Violations = ()
    """Violations of RFC 9110 and RFC 9112 that responses of the API may have, and their dangers: as in `tolerate` of an
    upstream. `[]` = none."""
    response_limits: ResponseLimits = ResponseLimits()
    """Limits on responses of the API."""
    cookies: Literal["keep", "rewrite"] = "keep"
    """Handling of `Set-Cookie`. `rewrite`: the domain is removed, and the path becomes that of the service at the
    gateway."""
    unavailable: Word | None = None
    """Reason why the API cannot be called. Calls are answered 500 with this reason. null = it can be called."""
    ambiguous: Word | None = None
    """Reason why it is ambiguous which API is meant. Calls are answered 400 with this reason. null = it is not
    ambiguous."""
    host: HostName | None = None
    """Host name of the service with `addressing: host`. null = `{app}-{service}`, for a service with a single API."""
    use: tuple[str, ...] = ()
    """Names of filter sets."""
    filters: Filters = NONE
    """Filters for this API only."""

    def __post_init__(self) -> None:
        if self.forwarded_header and self.forwarded not in ("append", "set"):
            raise ValueError("`forwarded_header` needs `forwarded: append` or `set`")


class EgressService(EgressEntry):
    """One API, or several as `entries`."""

    url: TargetUrl | None = None  # type: ignore[assignment]  # it may have entries instead
    """URL of the API. The rest of the path is appended to it, separated by exactly one slash."""
    entries: Mapping[Segment, EgressEntry] = NONE
    """APIs by name, instead of a single one, for `path_with_entry`. With the other forms of addressing a service must
    have a single API; with `host`, entries with a `host` of their own are possible too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.url is None) == (not self.entries):
            raise ValueError("expected exactly one of `url` and `entries`")


class ApiOfSecret(EgressService):
    """API of a Kubernetes Secret without an Application, of the providers. Its application is the Secret."""


_CONSUMERS: Final = Besides(
    "consumers",
    Some[Identity],
    "Names of the `consumers` that may call as this application; other calls to its services are refused. An object "
    "with this name is a service. Left out = every client of the listener. With it, forwarding headers are stripped, "
    "unless the service has its own `forwarded`.",
)


class Egress(Settings):
    """External APIs that internal applications call as `/{app}/{service}/{rest}`, without secrets of their own."""

    listener: Name | None = None
    """Name of the listener that applications call. null = the only listener there is, or see `listeners`."""
    addressing: Addressing = "path"
    """Form of a service's address. `path`: `/{app}/{service}/{rest}`; `path_with_entry`:
    `/{app}/{service}/{entry}/{rest}`; `host`: by a host name `{app}-{service}`; `secret`:
    `/secret/{secret}/api/{api}/{rest}`, for the Secrets of `providers.kyma.secrets` only, which no other form
    reaches."""
    listeners: Mapping[Name, Addressing] = NONE
    """Several listeners, each with its form of addressing, instead of `listener` and `addressing`."""
    domains: tuple[HostName, ...] = ()
    """Domains of the host names, for `host`, such as `integration.svc.cluster.local`. They are accepted after the host
    name and a dot."""
    apps: Mapping[Segment, Annotated[Mapping[Segment, EgressService], _CONSUMERS]] = NONE
    """Applications, and the services that each of them may call. An application is identified only by the name in the
    path or host: every client of the listener can call as any application. With `consumers` it has to authenticate."""
    authentication: Filters = NONE
    """Filters that authenticate applications with `consumers`: `{jwt: …}`, or `{auth: {any_of: …}}`. Left out = by the
    credentials of these consumers (keys, passwords, signatures, certificates), unless the gateway or the listener has
    such a filter. These credentials are never forwarded to the API: `hide_credentials` is always on here."""
    access_token_header: FieldName | None = "Access-Token"
    """Header in which an application may send an access token of its own, which replaces the gateway's credentials. The
    header is not forwarded. null = none."""
    user_agent: Literal["empty", "pass"] = "empty"
    """`User-Agent` of calls whose application sends none, and without one in `request_parameters`: `empty`: an empty
    one is sent; `pass`: none is sent."""
    via: Literal["on", "off"] = "off"
    """Whether the gateway adds its `Via` to calls and responses. Some APIs do not compress responses to requests with
    `Via`."""
    target_errors: Literal["502", "pass"] = "502"
    """Response to the application if an API answers 5xx. `"502"`: a 502 with the original status in
    `Target-System-Status` and the original body; `pass`: the response as it is."""

    def __post_init__(self) -> None:
        if self.listener is not None and self.listeners:
            raise ValueError("`listener` and `listeners` are mutually exclusive")
        if self.listeners and self.addressing != "path":
            raise ValueError(
                "`addressing` and `listeners` are mutually exclusive; set the addressing of each listener in "
                "`listeners`"
            )


class Kubernetes(Settings):
    """Access to a Kubernetes API server. Needs `fastgw[kubernetes]`."""

    kubeconfig: ReadableFile | None = None
    """Kubeconfig file. null = the service account of the pod that the gateway runs in."""
    context: Word | None = None
    """Name of the context in the kubeconfig. null = the current one."""


class KymaDefaults(Settings):
    """Defaults for all services of Kyma's documents, where the documents have no setting."""

    timeouts: EgressTimeouts = EgressTimeouts()
    """Timeouts for APIs."""
    retries: EgressRetries = EgressRetries()
    """Retries of failed calls."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for APIs and token endpoints, such as the CA to trust. `spec.skipVerify` of an Application takes
    precedence."""
    tolerate: Violations = ()
    """Violations of RFC 9110 and RFC 9112 that responses of APIs and token endpoints may have, and their dangers: as in
    `tolerate` of an upstream. `[]` = none."""
    response_limits: ResponseLimits = ResponseLimits()
    """Limits on responses of APIs."""
    use: tuple[str, ...] = ()
    """Names of filter sets."""
    filters: Filters = NONE
    """Filters; `null` removes one that the gateway adds."""


class Kyma(Settings):
    """Kyma's documents: `Application` resources and the `Secret`s that they name. They become services of `egress`."""

    directory: Annotated[str, FileName(readable=False)] | None = None
    """Directory of YAML and JSON files, relative to this file, instead of `kubernetes`. It is watched; its
    subdirectories are not read."""
    kubernetes: Kubernetes | None = None
    """Kubernetes API server with the documents, instead of `directory`. It is watched."""
    namespace: Word = "kyma-system"
    """Namespace of the Secrets. Secrets without a namespace belong to it; those of other namespaces are ignored."""
    secrets: tuple[SecretName, ...] = ()
    """Names of Secrets in the form of Compass mode that need no Application: each key `{API}_TARGET_URL` is an API, for
    listeners with `addressing: secret`. Every client of these listeners can call it, unless
    `egress.apps.{secret}.consumers` says who may."""
    allow_local: bool = False
    """Whether documents may name addresses of the gateway's own machine and link: loopback and link-local addresses.
    For tests and development."""
    second_level: RedisUrl | None = None
    """Redis in which nodes share tokens, encrypted."""
    services: Literal["none", "create"] = "none"
    """Kubernetes Services for the services with an API, each named like its host `{app}-{id}`, with `kubernetes`.
    `create`: the leader of the replicas creates and updates them, and deletes those whose service is gone; Services
    that it has not made stay as they are. Listeners with `addressing: host` serve their names in the cluster without
    `domains`. `none`: none are made."""
    services_namespace: Namespace = "kyma-integration"
    """Namespace of the Services."""
    services_gateway: HostName = "fastgw-egress.kyma-system.svc.cluster.local"
    """DNS name of the gateway's own Service, which the Services are aliases of (`ExternalName`). Its port 80 leads to a
    listener with `addressing: host`."""
    defaults: KymaDefaults = KymaDefaults()
    """Defaults for all services, where the documents have no setting."""

    def __post_init__(self) -> None:
        if (self.directory is None) == (self.kubernetes is None):
            raise ValueError("expected exactly one of `directory` and `kubernetes`")
        if self.services == "create" and self.kubernetes is None:
            raise ValueError("`services: create` needs `kubernetes`; `fastgw kyma-services` prints those of files")

    @property
    def services_domains(self) -> tuple[str, ...]:
        """Domains that the names of the Services are in."""
        if self.services == "none":
            return ()
        of_cluster = self.services_gateway.partition(".svc.")[2] or "cluster.local"
        namespace = self.services_namespace
        return namespace, f"{namespace}.svc", f"{namespace}.svc.{of_cluster}"


class Providers(Settings):
    """Further sources of configuration, in addition to the files."""

    kyma: Kyma | None = None
    """Kyma's documents. They become services of `egress`. null = none."""
    kubernetes: KubernetesProvider | None = None
    """Gateway API and Ingress of a Kubernetes cluster. null = none."""
    consul: Consul | None = None
    """Consul, for `targets: {consul: …}`. null = none."""
    nacos: Nacos | None = None
    """Nacos, for `targets: {nacos: …}`. null = none."""
    eureka: Eureka | None = None
    """Eureka, for `targets: {eureka: …}`. null = none."""
    docker: Docker | None = None
    """Docker, for `targets: {docker: …}`. null = none."""
