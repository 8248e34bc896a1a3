"""Tokens for APIs: fetched once per node by control (`TokenSource`), cached by workers (`TokenHolder`)."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias

from fastgw.config.base.value_types import Endpoint
from fastgw.config.settings.credentials import GcpIdToken, OAuth2, TokenExchange
from fastgw.filters.api import Env
from fastgw.filters.policies.credentials import gcp_tokens
from fastgw.filters.policies.credentials.control_fetcher import ControlFetch
from fastgw.filters.policies.credentials.messages import Getter
from fastgw.filters.policies.credentials.token_endpoint import ReadFile, TokenEndpoint, key_of
from fastgw.filters.policies.credentials.worker_cache import WorkerCache
from fastgw.token_tier import TokenSerializer

TokenSettings: TypeAlias = OAuth2 | GcpIdToken | TokenExchange


class Token(NamedTuple):
    """Access token for an API."""

    line: bytes
    """Header line: `Authorization: Bearer …`, with its line end."""

    def __repr__(self) -> str:
        return "<Token>"


TOKENS: Final = TokenSerializer(attrgetter("line"), Token)

TokenHolder = WorkerCache[Token]


class TokenSource(ControlFetch, frozen=True, kw_only=True):
    """Source of tokens: a token endpoint, or a metadata server. Each kind of settings has a class of its own, by which
    the control process decodes them."""

    settings: TokenSettings

    @classmethod
    def of(cls, settings: TokenSettings) -> "TokenSource":
        """Return the source. Tokens are shared only if all settings are the same."""
        return _SOURCES[type(settings)](key=_key(settings), settings=settings)

    @property
    def name(self) -> str:
        settings = self.settings
        if isinstance(settings, GcpIdToken):
            return gcp_tokens.name_of(settings)
        return str(settings.token_url).partition("?")[0]

    def getter(self, read_file: Callable[[str], bytes]) -> Getter:
        return _getter(self.key, self.settings, read_file)


class AccessTokenSource(TokenSource, frozen=True, kw_only=True):
    """Source of access tokens by client credentials."""

    settings: OAuth2


class IdTokenSource(TokenSource, frozen=True, kw_only=True):
    """Source of Google-signed ID tokens."""

    settings: GcpIdToken


class ExchangedTokenSource(TokenSource, frozen=True, kw_only=True):
    """Source of exchanged tokens."""

    settings: TokenExchange


_SOURCES: Final[Mapping[type, Callable[..., TokenSource]]] = {
    OAuth2: AccessTokenSource,
    GcpIdToken: IdTokenSource,
    TokenExchange: ExchangedTokenSource,
}


def token_cache(env: Env, settings: TokenSettings) -> TokenHolder:
    """Return the cache shared by all filters with the same settings and secrets. Its source is `TokenSource.of`.

    Raises `ValueError`, `SecretError` and `OSError`, without secrets.
    """
    key = _key(settings)
    getter = _getter(key, settings, env.read)
    return env.shared(("token", key, getter.material), lambda: WorkerCache(key, getter, TOKENS))


def _getter(key: str, settings: TokenSettings, read_file: ReadFile) -> Getter:
    if isinstance(settings, GcpIdToken):
        return gcp_tokens.GcpIdentity(key, settings, read_file)
    return TokenEndpoint(key, settings.as_grant() if isinstance(settings, TokenExchange) else settings, read_file)


def _key(settings: TokenSettings) -> str:
    url: Endpoint = gcp_tokens.endpoint_of(settings) if isinstance(settings, GcpIdToken) else settings.token_url
    return key_of("token", url, settings)
