"""Settings of `oidc`."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import Renamed
from fastgw.config.base.value_types import Duration, FieldName, KeyFile, Notation, Size, check_no_user
from fastgw.config.settings.gateway import NONE, Settings, Some
from fastgw.config.settings.secrets import Secret
from fastgw.filters.policies.jwt import ClaimName, Scope
from fastgw.filters.policies.oidc.urls import is_safe, local
from fastgw.http.field_names import WRITTEN_HERE
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize

RESERVED: Final = frozenset(
    (
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "nonce",
        "redirect_uri",
        "request",
        "request_uri",
        "response_mode",
        "response_type",
        "scope",
        "state",
    )
)
"""Parameters of the authorization request that are set by the gateway."""


UNUSABLE: Final = WRITTEN_HERE | {b"cookie"}
"""Headers that cannot forward the access token."""


def parse_issuer(text: str) -> str:
    """Validate an issuer, unchanged: it is compared character by character."""
    check_no_user(text)
    if "?" in text or "#" in text:
        raise ValueError("a URL with a query or fragment")  # not shown: it may be a secret
    if not is_safe(text):
        raise ValueError(f'"{text}" is not an https URL')
    return text


def parse_local(text: str) -> str:
    raw = text.encode()
    try:
        fit = re.fullmatch(r"/[A-Za-z0-9._~/-]*", text) is not None and local(raw) == raw == normalize(raw)
    except Malformed:
        fit = False
    if not fit:
        raise ValueError(f'"{text}" is not a plain path')
    return text


def parse_place(text: str) -> str:
    """Validate a path of the same origin, or a URL."""
    check_no_user(text)
    if not is_safe(text) and local(text.encode()) != text.encode():
        raise ValueError(f'"{text}" is neither a path nor an https URL')
    return text


def parse_origin(text: str) -> str:
    check_no_user(text)
    if re.fullmatch(r"https?://[A-Za-z0-9.:\[\]_-]+", text) is None:
        raise ValueError(f'"{text}" is not a scheme and host')
    return text


def parse_cookie(text: str) -> str:
    if re.fullmatch(r"(?!__)[A-Za-z0-9_-]{1,64}", text) is None:
        raise ValueError(f'"{text}" is not the name of a cookie')
    return text


_TEXT: Final = {"type": "string"}
Issuer = Annotated[str, Notation('an https URL such as "https://idp.example" (http on loopback)', parse_issuer, _TEXT)]
LocalPath = Annotated[str, Notation('a path such as "/oauth2/callback"', parse_local, _TEXT)]
Place = Annotated[str, Notation('a path such as "/" or an https URL', parse_place, _TEXT)]
Origin = Annotated[str, Notation('an origin such as "https://app.example"', parse_origin, _TEXT)]
CookieName = Annotated[str, Notation('the name of a cookie such as "session"', parse_cookie, _TEXT)]


class Sessions(Settings):
    """Sessions of logged-in browsers."""

    secret: Secret
    """Secret that cookies are encrypted with: at least 32 random characters, the same on all nodes."""
    former_secrets: tuple[Secret, ...] = ()
    """Former secrets: cookies that were encrypted with one of them are still accepted."""
    cookie: CookieName | None = None
    """Name of the session cookie. null = `fastgw_oidc_` and digits that are different for each policy. On https it has
    the prefix `__Host-`.

    A session is valid only while `issuer`, `algorithms`, `client_id`, `scopes`, `parameters` and this name are the same
    as at its start: if one of them changes, browsers have to log in again. Other settings may change without ending
    sessions.
    """
    lifetime: Duration = 8 * 3600.0
    """Maximum time from one login to the next."""
    idle: Duration | None = 3600.0
    """Time after which an unused session expires. null = `lifetime` only."""


class Login(Settings):
    """Login in the browser."""

    client_id: Annotated[str, Meta(min_length=1)]
    """Client id of the gateway at the provider."""
    client_secret: Secret | None = None
    """Client secret of the gateway. null = none, or `client_key`."""
    client_key: KeyFile | None = None
    """Private key (PEM), for `client_auth: private_key_jwt`."""
    client_auth: Literal["basic", "post", "private_key_jwt", "none"] = "basic"
    """Authentication of the gateway to the provider (OpenID Connect Core section 9); `none` = PKCE only."""
    scopes: tuple[Scope, ...] = ("openid",)
    """Scopes to request; `openid` is always requested. Some providers issue refresh tokens only for `offline_access`. A
    node uses each refresh token once, whatever the number of workers; if several nodes serve the same browser,
    configure the provider to accept a refresh token for some seconds after its first use."""
    parameters: Mapping[str, str] = NONE
    """Further parameters of the authorization request, such as `prompt: login`, `ui_locales: fr` or `audience`."""
    callback: LocalPath = "/oauth2/callback"
    """Path of the callback URL, which the provider redirects browsers to. The full URL must be registered at the
    provider. If one host has several logins with different requests, each needs its own path."""
    login: LocalPath | None = None
    """Path that starts a login, for links. After the login the browser returns to the path in the parameter
    `return_to`."""
    logout: LocalPath | None = "/oauth2/logout"
    """Path that ends the session at the gateway and at the provider. null = none. Copies of the session's cookie become
    invalid too: on all workers, and on all nodes if they share a `state`. The path is for links on pages of the same
    origin, and for the address bar. A browser that comes from another site, or does not say where it comes from, has to
    confirm: it is answered 403 with a button."""
    backchannel_logout: LocalPath | None = None
    """Path for back-channel logout (OpenID Connect Back-Channel Logout 1.0): the provider reports logouts here, and the
    session in the logout token, or all sessions of its subject, end at the gateway too. null = none. The full URL must
    be registered at the provider, and its logout tokens must be signed with one of `algorithms`."""
    post_logout_redirect_uri: Annotated[Place, Renamed("after_logout")] = "/"
    """URL or path that a browser is redirected to after logout. The full URL must be registered at the provider."""
    public_url: Origin | None = None
    """Scheme and host of the gateway as browsers see them. null = those of the request (see `trusted_proxies`): then
    `redirect_uri` depends on the `Host` of each request, about which `check` warns."""
    session: Sessions
    """Sessions. They are kept in encrypted cookies, so that every worker and every node can read them. Those with more
    than about 13 kB of tokens, such as tokens that list many groups, are kept encrypted in the Redis of `state`; if
    there is none, their login is answered 502 (`session_too_large`). The cookies are not forwarded to the upstream,
    except by routes without this filter on the same host: use a separate host for services that you do not trust."""
    pass_access_token: FieldName | None = None
    """Header that forwards the access token to the upstream; in `Authorization` it follows `Bearer`. null = none."""
    timeout: Annotated[Duration, Renamed("patience")] = 600.0
    """Timeout of a login, from the redirect to the provider until the callback. A browser can have 16 logins pending at
    a time, such as in several tabs; fewer if their URLs are very long. Beyond that the oldest are dropped."""

    def __post_init__(self) -> None:
        if "openid" not in self.scopes:
            raise ValueError("the scope `openid` is missing; it is required (OpenID Connect Core section 3.1.2.1)")
        for name in self.parameters:
            if name in RESERVED:
                raise ValueError(f"the parameter `{name}` is set by the gateway")
        wants_secret, wants_key = self.client_auth in ("basic", "post"), self.client_auth == "private_key_jwt"
        if wants_secret != (self.client_secret is not None):
            raise ValueError(f"`client_auth: {self.client_auth}` {_needs(wants_secret)} a `client_secret`")
        if wants_key != (self.client_key is not None):
            raise ValueError(f"`client_auth: {self.client_auth}` {_needs(wants_key)} a `client_key`")
        passed = (self.pass_access_token or "").lower().encode()
        if passed in UNUSABLE:
            raise ValueError(f"`{self.pass_access_token}` cannot carry a token; expected another header")
        paths = (self.callback, self.login, self.logout, self.backchannel_logout)
        ours = [path for path in paths if path is not None]
        if len(set(ours)) != len(ours):
            raise ValueError("two of `callback`, `login`, `logout` and `backchannel_logout` are the same path")


class Bearer(Settings):
    """Authentication by access tokens."""

    audiences: tuple[Annotated[str, Meta(min_length=1)], ...]
    """Audiences, one of which must be in the token's `aud`. `"*"` = not checked."""
    types: Some[Annotated[str, Meta(min_length=1)]] = ("JWT", "at+jwt")
    """Valid values of `typ` in the header, if it is present. With only `at+jwt`, ID tokens are refused if the provider
    distinguishes the two (RFC 9068)."""
    required_claims: tuple[ClaimName, ...] = ("exp",)
    """Claims that must be there and not be null."""
    scopes: tuple[Scope, ...] = ()
    """Scopes that the token must have, all of them; if one is missing, the request is answered 403."""
    hide_credentials: bool = False
    """Whether to strip the token before forwarding."""
    max_token_bytes: Size = 8192
    """Maximum size of a token; a longer one is refused."""


def _needs(needed: bool) -> str:
    return "needs" if needed else "cannot be used with"
