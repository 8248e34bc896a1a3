"""OAuth tokens: fetched once per node by control (`TokenSource`), cached by workers (`TokenHolder`)."""

from collections.abc import Callable
from typing import NamedTuple

from fastgw.config.settings.credentials import OAuth2
from fastgw.filters.api import Env
from fastgw.filters.policies.credentials.control_fetcher import ControlFetch
from fastgw.filters.policies.credentials.messages import Getter
from fastgw.filters.policies.credentials.token_endpoint import TokenEndpoint, key_of
from fastgw.filters.policies.credentials.worker_cache import WorkerCache


class Token(NamedTuple):
    """Access token for an API."""

    line: bytes
    """Header line: `Authorization: Bearer …`, with its line end."""

    def __repr__(self) -> str:
        return "<Token>"


TokenHolder = WorkerCache[Token]


class TokenSource(ControlFetch, frozen=True, kw_only=True):
    """Source of tokens: a token endpoint."""

    settings: OAuth2

    @classmethod
    def of(cls, settings: OAuth2) -> "TokenSource":
        """Return the source. Tokens are shared only if all settings are the same."""
        return cls(key=_key(settings), settings=settings)

    @property
    def name(self) -> str:
        return str(self.settings.token_url).partition("?")[0]

    def getter(self, read_file: Callable[[str], bytes]) -> Getter:
        return TokenEndpoint(self.key, self.settings, read_file)


def token_cache(env: Env, settings: OAuth2) -> TokenHolder:
    """Return the cache shared by all filters with the same settings and secrets. Its source is `TokenSource.of`.

    Raises `ValueError`, `SecretError` and `OSError`, without secrets.
    """
    key = _key(settings)
    endpoint = TokenEndpoint(key, settings, env.read)
    return env.shared(("token", key, endpoint.material), lambda: TokenHolder(key, endpoint, Token))


def _key(settings: OAuth2) -> str:
    return key_of("token", settings.token_url, settings)
