"""Credentials, CSRF tokens and parameters that the gateway sends to an API in place of the client."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import NONE, Renamed, Settings, Some
from fastgw.config.base.value_types import Delay, Duration, EndpointUrl, FieldName, QueryText, Size
from fastgw.config.settings.secrets import RedisUrl, Secret
from fastgw.config.settings.upstreams import UpstreamTls, Violations
from fastgw.http.field_names import WRITTEN_HERE

Word = Annotated[str, Meta(min_length=1)]
READABLE: Final = "an attacker in between can read the credentials and the token"
Values = Secret | Some[Secret]
"""One value, or several, each sent as its own header line or parameter."""
ClientAuth = Literal["auto", "auto_raw", "basic", "basic_encoded", "body", "none", "private_key_jwt", "certificate"]
BY_SECRET: Final = frozenset(("auto", "auto_raw", "basic", "basic_encoded", "body"))
"""Values of `client_auth` that send a client secret as plain text."""


def check_own(names: Iterable[str]) -> None:
    """Reject headers that settings must not set. Raises `ValueError`."""
    for name in names:
        if name.lower().encode() in WRITTEN_HERE:
            raise ValueError(f"`{name}` is a connection header, which is set by the gateway")


class Basic(Settings):
    """A username and a password (RFC 7617)."""

    username: Secret
    """Username, without a colon."""
    password: Secret
    """The password."""


class OAuth2(Settings):
    """Access token that the gateway fetches for itself: OAuth 2.0 client credentials grant (RFC 6749 section 4.4).

    The token is fetched once per node, when it is first needed, and shared by all workers. It is renewed before it
    expires, while the old one is still used, and when the API rejects it. Two uses share a token only if all settings
    that affect it are the same.
    """

    token_url: EndpointUrl
    """URL of the token endpoint."""
    client_id: Secret
    """Client id of the gateway at the authorization server."""
    client_secret: Secret | None = None
    """Client secret of the gateway. null for `none`, `certificate` and `private_key_jwt`."""
    client_key: Secret | None = None
    """Private key for `private_key_jwt`, in PEM: RSA, P-256 or Ed25519."""
    client_auth: ClientAuth = "auto"
    """Authentication of the gateway to the token endpoint. `basic`: client id and secret in `Authorization: Basic`,
    unencoded; `basic_encoded`: the same, each form-encoded first (RFC 6749 section 2.3.1); `body`: in the request body;
    `none`: `client_id` only; `private_key_jwt` (RFC 7523); `certificate`: the client certificate of `tls` (RFC 8705).
    `auto`: `basic_encoded`, and if the server rejects the client, `basic` and then `body`, once each; the form that
    works is remembered. `auto_raw`: the same with `basic` first, as in Kyma's documents. Header and body are never used
    together (RFC 6749 section 2.3)."""
    assertion_audience: Word | None = None
    """Audience of the assertion, for `private_key_jwt`; some servers require their issuer. null = `token_url` without
    its query."""
    scopes: tuple[Word, ...] = ()
    """Scopes to request."""
    audience: Word | None = None
    """Audience of the token, sent as `audience`."""
    token_headers: Mapping[FieldName, Values] = NONE
    """Further headers of the token request."""
    token_query: Mapping[Word, Values] = NONE
    """Further query parameters of the token request."""
    token_form: Mapping[Word, Values] = NONE
    """Further parameters in the body of the token request."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the token endpoint, if its URL is https."""
    tolerate: Violations = ()
    """Violations of RFC 9110 and RFC 9112 that responses of the token endpoint may have, and their dangers: as in
    `tolerate` of an upstream. `[]` = none."""
    timeout: Duration = 5.0
    """Timeout for the whole token response; a request waits at most this long."""
    expiry_margin: Annotated[Delay, Meta(le=3600), Renamed("margin")] = 2.0
    """Time before expiry at which a token is no longer used."""
    negative_ttl: Annotated[Delay, Meta(le=3600)] = 1.0
    """Time for which the first failure is cached; it doubles with each further failure, up to half a minute."""
    second_level: RedisUrl | None = None
    """Redis in which nodes share tokens, encrypted: `redis://:password@host:6379/0`. Needs `fastgw[redis]`."""

    def __post_init__(self) -> None:
        needed = _NEEDED.get(self.client_auth, "client_secret")
        for name in ("client_secret", "client_key"):
            if getattr(self, name) is None and name == needed:
                raise ValueError(f"no `{name}`; expected one for `client_auth: {self.client_auth}`")
            if getattr(self, name) is not None and name != needed:
                raise ValueError(f"`{name}` has no effect with `client_auth: {self.client_auth}`")
        if self.assertion_audience is not None and self.client_auth != "private_key_jwt":
            raise ValueError(f"`assertion_audience` has no effect with `client_auth: {self.client_auth}`")
        check_own(self.token_headers)
        if self.client_auth in BY_SECRET and any(name.lower() == "authorization" for name in self.token_headers):
            raise ValueError(f"`token_headers` has Authorization, which `client_auth: {self.client_auth}` sets")
        if self.client_auth == "certificate" and self.tls.certificate is None:
            raise ValueError("no `tls.certificate`; expected one for `client_auth: certificate`")


_NEEDED: Final[Mapping[str, str]] = {"none": "", "certificate": "", "private_key_jwt": "client_key"}
"""Setting that each form of client authentication needs; forms that are not listed need a secret."""


class AwsSigV4(Settings):
    """Signature of each request with AWS Signature Version 4."""

    region: Annotated[str, Meta(pattern="^[a-z0-9-]+$", examples=["eu-central-1"])]
    """Region of the service."""
    service: Annotated[str, Meta(pattern="^[a-z0-9-]+$", examples=["lambda", "execute-api", "s3"])]
    """Name of the service in signatures."""
    access_key_id: Secret
    """Access key id of the user or role."""
    secret_access_key: Secret
    """Secret access key."""
    session_token: Secret | None = None
    """Token of temporary credentials. null = they are permanent."""
    body_bytes: Annotated[Size, Meta(ge=1, le=8 * 1024**2)] = 1024**2
    """Maximum size of a client's request body. A longer one is answered 413. For functions of AWS Lambda only their
    `max_bytes` applies."""
    sign_body: bool = True
    """Whether the signature covers the body. `false`: `UNSIGNED-PAYLOAD`, for services that accept it (S3 over TLS);
    the body is then sent as it arrives, whatever its size."""


class GcpIdToken(Settings):
    """Google-signed ID token, as Cloud Run, Cloud Functions and Identity-Aware Proxy require it.

    It is fetched and renewed as access tokens of `oauth2` are: once per node, before it expires, and when the API
    rejects it.
    """

    audience: Word
    """Audience of the token: the URL of the service, or the client id of Identity-Aware Proxy."""
    key: Secret | None = None
    """Key of a service account: its JSON file. The gateway signs an assertion with it, which the `token_uri` in it
    exchanges for the token. null = the token of the instance's own service account, by the metadata server."""
    token_url: EndpointUrl | None = None
    """URL in place of the `token_uri` of the key, or of the metadata server."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the token endpoint."""
    timeout: Duration = 5.0
    """Timeout for the whole token response."""
    negative_ttl: Annotated[Delay, Meta(le=3600)] = 1.0
    """Time for which the first failure is cached; it doubles with each further failure, up to half a minute."""


TokenType = Literal["access_token", "refresh_token", "id_token", "saml1", "saml2", "jwt"]
TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:"
_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"


class TokenExchange(Settings):
    """Token that a server issues for another token of the gateway itself: OAuth 2.0 Token Exchange (RFC 8693).

    With it, workloads authenticate by an identity that their platform gives them, such as the service account token of
    Kubernetes, at function platforms and clouds, without a secret of their own. The issued token is sent as
    `Authorization: Bearer`. It is fetched and renewed as access tokens of `oauth2` are: once per node, before it
    expires, and when the API rejects it.
    """

    token_url: EndpointUrl
    """URL of the token endpoint."""
    subject_token: Secret
    """Token that is exchanged: usually a file, which is read again when it changes."""
    subject_token_type: TokenType = "jwt"
    """Type of `subject_token`."""
    requested_token_type: TokenType | None = None
    """Type of the token to issue. null = the server decides."""
    audience: Word | None = None
    """Name of the service that the token is for, at the server."""
    resource: Word | None = None
    """URL of the service that the token is for."""
    scopes: tuple[Word, ...] = ()
    """Scopes to request."""
    client_id: Secret | None = None
    """Client id of the gateway at the server. null = the client does not authenticate."""
    client_secret: Secret | None = None
    """Client secret of the gateway. null = with `client_id`, a public client."""
    client_auth: Literal["auto", "basic", "basic_encoded", "body"] = "auto"
    """Way in which `client_secret` is sent, as in `oauth2`."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the token endpoint, if its URL is https."""
    tolerate: Violations = ()
    """Violations of RFC 9110 and RFC 9112 that responses of the token endpoint may have, and their dangers: as in
    `tolerate` of an upstream. `[]` = none."""
    timeout: Duration = 5.0
    """Timeout for the whole token response; a request waits at most this long."""
    negative_ttl: Annotated[Delay, Meta(le=3600)] = 1.0
    """Time for which the first failure is cached; it doubles with each further failure, up to half a minute."""

    def __post_init__(self) -> None:
        if self.client_secret is not None and self.client_id is None:
            raise ValueError("`client_secret` without `client_id`; expected both")
        if self.client_secret is None and self.client_auth != "auto":
            raise ValueError(f"`client_auth: {self.client_auth}` without `client_secret`; expected both")

    def as_grant(self) -> OAuth2:
        """Return the settings of the request. Without a client id its text is empty."""
        form = {
            "grant_type": Secret(text=_EXCHANGE),
            "subject_token": self.subject_token,
            "subject_token_type": Secret(text=TOKEN_TYPE + self.subject_token_type),
        }
        if self.requested_token_type is not None:
            form["requested_token_type"] = Secret(text=TOKEN_TYPE + self.requested_token_type)
        if self.resource is not None:
            form["resource"] = Secret(text=self.resource)
        return OAuth2(
            token_url=self.token_url,
            client_id=self.client_id or Secret(),
            client_secret=self.client_secret,
            client_auth="none" if self.client_secret is None else self.client_auth,
            scopes=self.scopes,
            audience=self.audience,
            token_form=form,
            tls=self.tls,
            tolerate=self.tolerate,
            timeout=self.timeout,
            negative_ttl=self.negative_ttl,
        )


class Csrf(Settings):
    """CSRF token, which the API issues to authenticated clients.

    The gateway sends `GET token_url` with `X-CSRF-Token: fetch`. The token is added to each request as `X-CSRF-Token`,
    and the cookies of its response are added to those of the client. It is fetched once per node for each set of
    credentials, and again when the API rejects it.
    """

    token_url: EndpointUrl
    """URL where the API issues the token."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for this URL, if it is https. They should match those of the API, including its client certificate.
    """
    tolerate: Violations = ()
    """Violations of RFC 9110 and RFC 9112 that its responses may have, and their dangers: as in `tolerate` of an
    upstream. `[]` = none."""
    timeout: Duration = 5.0
    """Timeout for the whole token response."""
    negative_ttl: Annotated[Delay, Meta(le=3600)] = 1.0
    """Time for which the first failure is cached; it doubles with each further failure, up to half a minute."""


class RequestParameters(Settings):
    """Headers and query parameters that are added to requests unless the client has sent them itself."""

    headers: Mapping[FieldName, Values] = NONE
    """Headers; several values are sent as several header lines."""
    query: Mapping[Word, Values] = NONE
    """Query parameters; several values are sent as several parameters."""
    query_first: QueryText = ""
    """Query that is put before the client's query unchanged, whatever the client sends: `version=2&lang=de`."""

    def __post_init__(self) -> None:
        check_own(self.headers)
