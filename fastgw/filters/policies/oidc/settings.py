"""Settings of `oidc`."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Meta

from fastgw.config.base.settings_base import Renamed
from fastgw.config.base.value_types import Duration, FieldName, Notation, ReadableFile, Size
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
"""Parameters of the authorization request that are ours."""


UNUSABLE: Final = WRITTEN_HERE | {b"cookie"}
"""Fields that are not for a value of ours."""


def parse_issuer(text: str) -> str:
    """Validate an issuer, unchanged: it is compared character by character."""
    if not is_safe(text) or "?" in text:
        raise ValueError(f'"{text}" is not an https URL without query and fragment')
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
    """A path of the same origin, or a URL."""
    if not is_safe(text) and local(text.encode()) != text.encode():
        raise ValueError(f'"{text}" is neither a path nor an https URL')
    return text


def parse_origin(text: str) -> str:
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
    """Sessions of browsers."""

    secret: Secret
    """Secret that cookies are encrypted with: at least 32 random characters, the same on all nodes."""
    former_secrets: tuple[Secret, ...] = ()
    """Secrets that were in use before: what they have encrypted is still read."""
    cookie: CookieName | None = None
    """The cookie's name. null = `fastgw_oidc_` and digits that tell policies apart. On https it has the prefix
    `__Host-`.

    A session counts only where `issuer`, `algorithms`, `client_id`, `scopes`, `parameters` and this are the same as
    where it began: with one of them changed, browsers log in again. Other settings may change while sessions go on."""
    lifetime: Duration = 8 * 3600.0
    """How long after the login the next one is due."""
    idle: Duration | None = 3600.0
    """How long a session lives that is not used. null = as long as any other."""


class Login(Settings):
    """Logins of browsers."""

    client_id: Annotated[str, Meta(min_length=1)]
    """Client id of the gateway at the provider."""
    client_secret: Secret | None = None
    """Client secret of the gateway. null = none, or `client_key`."""
    client_key: ReadableFile | None = None
    """A private key (PEM), for `client_auth: private_key_jwt`."""
    client_auth: Literal["basic", "post", "private_key_jwt", "none"] = "basic"
    """Authentication of the gateway to the provider (OpenID Connect Core section 9); `none` = by PKCE alone."""
    scopes: tuple[Scope, ...] = ("openid",)
    """Scopes that are requested; `openid` always is. Some providers give a refresh token only for `offline_access`. A
    node uses one once, whatever its workers are asked; where several nodes serve one browser, let it be good for
    seconds more.
    """
    parameters: Mapping[str, str] = NONE
    """More parameters of the request for a login, such as `prompt: login`, `ui_locales: fr` or `audience`."""
    callback: LocalPath = "/oauth2/callback"
    """Path of the callback URL, to which the provider sends browsers back. The whole URL must be known to it. Where one
    host has logins that differ in what is asked for, each needs a path of its own.
    """
    login: LocalPath | None = None
    """A path that begins a login, for a link; it returns to the path that its parameter `return_to` names."""
    logout: LocalPath | None = "/oauth2/logout"
    """A path that ends the session here and at the provider. null = none. Copies of its cookie end with it: on all
    workers, and on all nodes where they share a `state`. Pages of the same origin lead there, and whoever types it. A
    browser that another site has sent, or that does not tell, is asked first: it is answered 403, with a button."""
    backchannel_logout: LocalPath | None = None
    """A path where the provider tells of logouts elsewhere (OpenID Connect Back-Channel Logout 1.0): the session that
    it names ends here too, or all of the subject. null = none. The provider has to know the whole URL, and its logout
    tokens have to be signed with one of `algorithms`."""
    after_logout: Place = "/"
    """Place that a browser is sent to after logout. The whole URL must be known to the provider."""
    public_url: Origin | None = None
    """The scheme and host as browsers see them. null = as the request has them (see `trusted_proxies`): `redirect_uri`
    then follows the Host of each request, which `check` notes."""
    session: Sessions
    """Sessions: kept in encrypted cookies alone, so every worker and every node reads them. The upstream does
    not see them; but those of routes without this filter on the same host do: have a host for whom you do not trust.
    """
    pass_access_token: FieldName | None = None
    """A header that forwards the access token to the upstream; in `Authorization` it follows `Bearer`. null = none."""
    timeout: Annotated[Duration, Renamed("patience")] = 600.0
    """Timeout of a login, from the redirect to the provider until the callback."""

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
    """Clients with an access token of their own."""

    audiences: tuple[Annotated[str, Meta(min_length=1)], ...]
    """Audiences, one of which must be in the token's `aud`. `"*"` = not checked."""
    types: Some[Annotated[str, Meta(min_length=1)]] = ("JWT", "at+jwt")
    """Valid values of `typ` in the header where it is present. Only `at+jwt` refuses ID tokens of providers that tell
    them apart (RFC 9068).
    """
    required_claims: tuple[ClaimName, ...] = ("exp",)
    """Claims that must be there and not be null."""
    scopes: tuple[Scope, ...] = ()
    """Scopes that the token must have, all of them; who lacks one is answered 403."""
    hide_credentials: bool = False
    """Whether to strip the token before forwarding."""
    max_token_bytes: Size = 8192
    """A longer token is refused."""


def _needs(needed: bool) -> str:
    return "needs" if needed else "cannot be used with"
