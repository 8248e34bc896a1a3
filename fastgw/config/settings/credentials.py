"""Credentials, CSRF tokens and parameters that the gateway sends to an API in place of the client."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import NONE, Settings, Some
from fastgw.config.base.value_types import Delay, Duration, EndpointUrl, FieldName
from fastgw.config.settings.secrets import RedisUrl, Secret
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.http.field_names import WRITTEN_HERE

Word = Annotated[str, Meta(min_length=1)]
READABLE: Final = "an attacker in between can read the credentials and the token"
Values = Secret | Some[Secret]
"""One value, or several, each a line or a parameter of its own."""
QueryText = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*$")]
"""A query as it is sent."""
ClientAuth = Literal["auto", "auto_raw", "basic", "basic_encoded", "body", "none", "private_key_jwt", "certificate"]
BY_SECRET: Final = frozenset(("auto", "auto_raw", "basic", "basic_encoded", "body"))
"""Values of `client_auth` that send a client secret as it is."""


def check_own(names: Iterable[str]) -> None:
    """Whether fields called so may be written by settings. Raises `ValueError`."""
    for name in names:
        if name.lower().encode() in WRITTEN_HERE:
            raise ValueError(f"`{name}` is a connection header, which is set by the gateway")


class Basic(Settings):
    """A username and a password (RFC 7617)."""

    username: Secret
    """User name, without a colon."""
    password: Secret
    """The password."""


class OAuth2(Settings):
    """A token that the gateway fetches for itself: OAuth 2.0 client credentials (RFC 6749 section 4.4).

    It is fetched once per node, when it is first needed, and shared by all workers; anew before it expires, while the
    old one still serves, and when the API refuses it. Two uses share a token only if everything that shapes it is the
    same.
    """

    token_url: EndpointUrl
    """The token endpoint."""
    client_id: Secret
    """Client id of the gateway at the authorization server."""
    client_secret: Secret | None = None
    """Client secret of the gateway. null for `none`, `certificate` and `private_key_jwt`."""
    client_key: Secret | None = None
    """For `private_key_jwt`: the private key in PEM, RSA, P-256 or Ed25519."""
    client_auth: ClientAuth = "auto"
    """Authentication of the gateway to the token endpoint. `basic`: client id and secret in `Authorization: Basic`, as
    they are; `basic_encoded`: likewise, each form-encoded first (RFC 6749 section 2.3.1); `body`: in the request body;
    `none`: its `client_id` alone; `private_key_jwt` (RFC 7523); `certificate`: the one of `tls` (RFC 8705). `auto`:
    `basic_encoded`, and where the server refuses that client, `basic`, then `body`, once each: the form that it takes
    is remembered. `auto_raw`: the same with `basic` first, as in Kyma's documents. Header and body are never used at
    once (RFC 6749 section 2.3).
    """
    assertion_audience: Word | None = None
    """For `private_key_jwt`: whom the assertion is for; some servers want their issuer. null = `token_url` without its
    query."""
    scopes: tuple[Word, ...] = ()
    """The requested scopes."""
    audience: Word | None = None
    """Audience of the token, sent as `audience`."""
    token_headers: Mapping[FieldName, Values] = NONE
    """Further headers of the request for a token."""
    token_query: Mapping[Word, Values] = NONE
    """Further parameters behind the token endpoint's URL."""
    token_form: Mapping[Word, Values] = NONE
    """Further parameters in the body."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the token endpoint, where its URL is https."""
    timeout: Duration = 5.0
    """Timeout for the whole response; a request waits so long at most."""
    margin: Annotated[Delay, Meta(le=3600)] = 2.0
    """How long before it expires a token is used no more."""
    negative_ttl: Annotated[Delay, Meta(le=3600)] = 1.0
    """Time for which a failure is remembered, at first; twice as long with each further one, half a minute at most."""
    second_level: RedisUrl | None = None
    """A Redis in which nodes share tokens, encrypted: `redis://:password@host:6379/0`. Needs `fastgw[redis]`."""

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
"""Setting that a way of client authentication needs; the others need a secret."""


class Csrf(Settings):
    """A CSRF token, which the API issues to clients with its credentials.

    `GET token_url` with `X-CSRF-Token: fetch`. The token goes into each request as `X-CSRF-Token`, and the cookies that
    came with it beside those of the client. It is fetched once per node for each set of credentials, and anew when the
    API refuses it.
    """

    token_url: EndpointUrl
    """URL where the API issues the token."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for this URL, where it is https: as for the API itself, its client certificate included."""
    timeout: Duration = 5.0
    """Timeout for the whole response."""
    negative_ttl: Annotated[Delay, Meta(le=3600)] = 1.0
    """Time for which a failure is remembered, at first; twice as long with each further one, half a minute at most."""


class RequestParameters(Settings):
    """Headers and query parameters that are added to requests unless the client has sent them itself."""

    headers: Mapping[FieldName, Values] = NONE
    """Fields; several values are several lines."""
    query: Mapping[Word, Values] = NONE
    """Parameters of the query; several values are several parameters."""
    query_first: QueryText = ""
    """A query that stands in front of the client's as it is, whatever the client sends: `version=2&lang=de`."""

    def __post_init__(self) -> None:
        check_own(self.headers)
