"""The egress role: APIs outside that applications inside call by name, and what the gateway brings along.

What stands here is turned into ordinary routes, upstreams and filters (`config.egress.expand`).
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
    Name,
    ReadableFile,
    Segment,
    Size,
    TargetUrl,
)
from fastgw.config.settings.credentials import ClientAuth, Csrf, RequestParameters, Values, Word
from fastgw.config.settings.secrets import RedisUrl, Secret
from fastgw.config.settings.upstreams import Retries, UpstreamTimeouts, UpstreamTls

Addressing = Literal["path", "path_with_entry", "host"]


class EgressCredentials(Settings):
    """Credentials that the gateway sends to the API in place of the application."""

    type: Literal["none", "basic", "oauth2", "oauth2_mtls", "certificate", "bearer", "headers"]
    """`none`: what the application sends passes; `basic`: `username` and `password`; `oauth2`: a token fetched from
    `token_url` with `client_id` and `client_secret`; `oauth2_mtls`: the same by a client certificate (RFC 8705);
    `certificate`: a client certificate to the API itself; `bearer`: a `token` that does not change; `headers`: secrets
    in headers."""
    username: Secret | None = None
    """User name, for `basic`."""
    password: Secret | None = None
    """Password, for `basic`."""
    token: Secret | None = None
    """Token, for `bearer`."""
    headers: Mapping[FieldName, Values] = NONE
    """Headers with secrets, for `headers`."""
    token_url: EndpointUrl | None = None
    """Token endpoint, for `oauth2` and `oauth2_mtls`."""
    client_id: Secret | None = None
    """Client id of the gateway at the authorization server, for `oauth2` and `oauth2_mtls`."""
    client_secret: Secret | None = None
    """For `oauth2`: what the gateway shows to the server."""
    client_key: Secret | None = None
    """Private key in PEM, for `oauth2` with `client_auth: private_key_jwt`."""
    client_auth: ClientAuth = "auto"
    """For `oauth2`: how the gateway shows who it is. See the filter `credentials`."""
    scopes: tuple[Word, ...] = ()
    """Scopes that are requested, for `oauth2` and `oauth2_mtls`."""
    audience: Word | None = None
    """Audience of the token, for `oauth2` and `oauth2_mtls`."""
    assertion_audience: Word | None = None
    """Audience of the assertion, for `oauth2` with `client_auth: private_key_jwt`. null = `token_url`."""
    token_headers: Mapping[FieldName, Values] = NONE
    """Further headers of the token request, for `oauth2` and `oauth2_mtls`."""
    token_query: Mapping[Word, Values] = NONE
    """Further query parameters of the token request, for `oauth2` and `oauth2_mtls`."""
    token_tls: UpstreamTls = UpstreamTls()
    """TLS settings for the token endpoint, for `oauth2` and `oauth2_mtls`."""
    second_level: RedisUrl | None = None
    """Redis in which nodes share tokens, encrypted, for `oauth2` and `oauth2_mtls`."""
    certificate: ReadableFile | None = None
    """PEM file with the client certificate and its chain, for `certificate` and `oauth2_mtls`."""
    key: ReadableFile | None = None
    """PEM file with the key of `certificate`."""

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
_OF_TOKENS: Final = ("scopes", "audience", "token_headers", "token_query", "token_tls", "second_level")
OF_TYPES: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "none": ((), ()),
    "basic": (("username", "password"), ()),
    "oauth2": (("token_url", "client_id"), (*_OF_SECRETS, *_OF_TOKENS)),
    "oauth2_mtls": (("token_url", "client_id", "certificate", "key"), _OF_TOKENS),
    "certificate": (("certificate", "key"), ()),
    "bearer": (("token",), ()),
    "headers": (("headers",), ()),
}
"""Settings that credentials of each type need, and further ones that they may have."""
_UNSAID: Final[Mapping[str, Any]] = {
    field.name: field.default for field in fields(EgressCredentials) if field.name != "type"
}


CONNECT_S: Final = 10.0
BODY_BYTES: Final = 1024**2


class EgressTimeouts(UpstreamTimeouts):
    """How long an API is waited for. Idle times unless named otherwise."""

    connect: Duration = CONNECT_S
    """For a connection: name lookup and connecting, and the TLS handshake as well if `tls` is null. A total. Answered
    504."""
    tls: Duration | None = CONNECT_S
    """Timeout for the TLS handshake, once connected. Answered 504. null = it is a part of `connect`."""


class EgressRetries(Retries):
    """When a call is tried again at another connection. That a call is sent once more with a fresh token, on a 401 or
    403, is not counted."""

    body_bytes: Annotated[Size, Meta(ge=0, le=16 * 1024**2)] = BODY_BYTES
    """The longest request body that is kept to be sent again, with a fresh token too. A request with a longer one is
    sent again only as long as nothing of it was sent. What is kept beyond 64 KiB of each may have 64 MiB on the
    node (`fastgw_kept_body_bytes`); bodies that find no room there are not kept."""


class EgressEntry(Settings):
    """One API."""

    url: TargetUrl
    """URL of the API. The rest of the path is joined to this by exactly one slash."""
    credentials: EgressCredentials = EgressCredentials(type="none")
    """Credentials that the gateway sends to the API."""
    csrf: Csrf | None = None
    """The CSRF token that the API requires. null = none. Its endpoint is called like the API itself, unless it has a
    `tls` of its own."""
    request_parameters: RequestParameters = RequestParameters()
    """Headers and query parameters that are added to requests unless the application has sent them itself."""
    parameters_for_token: bool = False
    """Whether `request_parameters` go to the token endpoint as well."""
    forwarded: Literal["append", "set", "strip", "pass"] | None = None
    """Handling of the forwarding headers. Left out = `strip` where services are hosts, else `pass`."""
    timeouts: EgressTimeouts = EgressTimeouts()
    """How long it is waited for."""
    retries: EgressRetries = EgressRetries()
    """When a call is tried again, and the bodies that are kept for that."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the API."""
    cookies: Literal["keep", "rewrite"] = "keep"
    """Handling of `Set-Cookie`. `rewrite`: its domain goes, and its path is that of the service here."""
    unavailable: Word | None = None
    """Reason why the API cannot be called, sent to the application in a 500. null = it can."""
    ambiguous: Word | None = None
    """Reason why it is ambiguous which API is meant, sent to the application in a 400. null = it can."""
    host: HostName | None = None
    """Host name of the service with `addressing: host`. null = `{app}-{service}`, for a service of one API."""
    use: tuple[str, ...] = ()
    """Filter sets."""
    filters: Filters = NONE
    """Filters for this API alone."""


class EgressService(EgressEntry):
    """An API, or several of them as `entries`."""

    url: TargetUrl | None = None  # type: ignore[assignment]  # it may have entries instead
    """URL of the API. The rest of the path is joined to this by exactly one slash."""
    entries: Mapping[Segment, EgressEntry] = NONE
    """APIs by name, in place of one: for `path_with_entry`. The other addressings take one that is alone, and `host`
    those with a `host` of their own."""

    def __post_init__(self) -> None:
        if (self.url is None) == (not self.entries):
            raise ValueError("expected exactly one of `url` and `entries`")


_CONSUMERS: Final = Besides(
    "consumers",
    Some[Identity],
    "Which of `consumers` call as this application, by name: nobody else may call its services. A mapping of this name "
    "is a service. Left out = whoever reaches the listener. With it forwarding fields are stripped, unless the service "
    "says otherwise.",
)


class Egress(Settings):
    """APIs outside that applications inside call as `/{app}/{service}/{rest}`, without secrets of their own."""

    listener: Name | None = None
    """Name of the listener that applications call. null = the only listener there is, or see `listeners`."""
    addressing: Addressing = "path"
    """Form of a service's address: `path`: `/{app}/{service}/{rest}`; `path_with_entry`:
    `/{app}/{service}/{entry}/{rest}`; `host`: a host `{app}-{service}`.
    """
    listeners: Mapping[Name, Addressing] = NONE
    """Several listeners, each with its addressing, in place of `listener` and `addressing`."""
    domains: tuple[HostName, ...] = ()
    """With `host`: what may follow the host's name behind a dot, such as `integration.svc.cluster.local`."""
    apps: Mapping[Segment, Annotated[Mapping[Segment, EgressService], _CONSUMERS]] = NONE
    """Applications, and the services that each of them may call. An application is identified by the name in the path
    or host only: every client of the listener can call as any of them. With `consumers` it has to authenticate."""
    authentication: Filters = NONE
    """Filters that authenticate applications with `consumers`: `{jwt: …}`, or `{auth: {any_of: …}}`. Left out = by what
    these consumers have (keys, passwords, signatures, certificates), unless the gateway or the listener has such a
    filter. Their credentials are never forwarded to the API: `hide_credentials` is always on here."""
    access_token_header: FieldName | None = "Access-Token"
    """A header in which an application may send a token of its own, which takes the place of the gateway's credentials.
    It does not go further. null = none."""
    user_agent: Literal["empty", "pass"] = "empty"
    """Handling of `User-Agent` where an application sends none: `empty`: the API sees an empty one."""
    via: Literal["on", "off"] = "off"
    """Whether calls and answers get a `Via` of the gateway's. Some APIs compress nothing for requests that have one."""
    target_errors: Literal["502", "pass"] = "502"
    """Response to the application for an API's 5xx: `"502"`: a 502 with the status in `Target-System-Status`, the body
    as it came; `pass`: the answer as it is.
    """

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
    """A kubeconfig file. null = as a pod in the cluster, by its service account."""
    context: Word | None = None
    """Name of the context in the kubeconfig. null = the current one."""


class KymaDefaults(Settings):
    """Defaults for all services of Kyma's documents, where the documents have no setting."""

    timeouts: EgressTimeouts = EgressTimeouts()
    """How long APIs are waited for."""
    retries: EgressRetries = EgressRetries()
    """When a call is tried again, and the bodies that are kept for that."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for APIs and token endpoints, such as the authority to trust. `spec.skipVerify` of an Application
    counts more.
    """
    use: tuple[str, ...] = ()
    """Filter sets."""
    filters: Filters = NONE
    """Filters; `null` takes one away that is made."""


class Kyma(Settings):
    """Kyma's documents: `Application` resources and the `Secret`s that they name. They become services of `egress`."""

    directory: Annotated[str, FileName(readable=False)] | None = None
    """A directory of YAML and JSON files, relative to this file, which is watched; or see `kubernetes`. Those in
    directories below it are not read."""
    kubernetes: Kubernetes | None = None
    """The Kubernetes API that has them, which is watched."""
    namespace: Word = "kyma-system"
    """Namespace of the Secrets; those without one are taken to be there."""
    allow_local: bool = False
    """Whether documents may have the gateway call its own machine and what is of its network alone: loopback and
    link-local addresses. For tests and development."""
    second_level: RedisUrl | None = None
    """A Redis in which nodes share tokens, encrypted."""
    defaults: KymaDefaults = KymaDefaults()
    """Defaults for all services, where the documents have no setting."""

    def __post_init__(self) -> None:
        if (self.directory is None) == (self.kubernetes is None):
            raise ValueError("expected exactly one of `directory` and `kubernetes`")


class Providers(Settings):
    """Further sources of services of `egress`, besides the file itself."""

    kyma: Kyma | None = None
    """Kyma's documents. null = none."""
