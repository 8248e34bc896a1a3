"""CSRF tokens of an API: fetched with its own credentials once per node, cached by workers."""

import asyncio
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, final

import msgspec

from fastgw.config.base.settings_base import NONE
from fastgw.config.settings.credentials import Basic, Csrf, OAuth2, Values
from fastgw.config.settings.secrets import Secret
from fastgw.errors import Fault
from fastgw.filters.api import Env
from fastgw.filters.outbound.tls_settings import client_tls
from fastgw.filters.policies.credentials.control_fetcher import ControlFetch
from fastgw.filters.policies.credentials.messages import (
    FOR_EVER,
    FetchContext,
    FetchedRecord,
    FetchResult,
    Getter,
    Unavailable,
)
from fastgw.filters.policies.credentials.oauth_tokens import TOKENS, Token, TokenHolder, TokenSource
from fastgw.filters.policies.credentials.rejected_throttle import AGAIN_S
from fastgw.filters.policies.credentials.token_endpoint import (
    MOST,
    ReadFile,
    SecretReader,
    await_fetched,
    key_of,
    problem_of_status,
)
from fastgw.filters.policies.credentials.worker_cache import SLACK_S, WorkerCache
from fastgw.http.dates import parse_lenient_date
from fastgw.http.fields import Fields
from fastgw.token_tier import TokenSerializer
from fastgw.upstream.client.http_client import Fetched

_ASKS: Final = ((b"X-CSRF-Token", b"fetch"), (b"Accept", b"*/*"), (b"Cache-Control", b"no-cache"))
_IS_TOKEN: Final = re.compile(rb"[!-~]+").fullmatch
_COOKIE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([!#-:<-\[\]-~]*|\"[!#-:<-\[\]-~]*\")")
"""Cookie pair (RFC 6265 section 4.1.1), with commas, which some values contain."""
_IS_MAX_AGE: Final = re.compile(rb"-?[0-9]+").fullmatch
_NO_TOKENS: Final = frozenset((b"required", b"fetch"))
"""Header values that APIs send instead of a token if there is none."""


class CsrfToken(NamedTuple):
    """CSRF token, sent with each request. It is secret."""

    token: bytes
    cookies: tuple[tuple[bytes, bytes], ...]
    """Names and values."""

    @property
    def line(self) -> bytes:
        """The header line with the token."""
        return b"X-CSRF-Token: %b\r\n" % self.token

    def __repr__(self) -> str:
        return "<CsrfToken>"


CSRF_TOKENS: Final = TokenSerializer(
    msgspec.msgpack.encode,
    lambda stored: CsrfToken(*msgspec.msgpack.decode(stored, type=tuple[bytes, tuple[tuple[bytes, bytes], ...]])),
)

CsrfHolder = WorkerCache[CsrfToken]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The API's credentials: at most one of these."""

    basic: Basic | None = None
    bearer: Secret | None = None
    headers: Mapping[str, Values] = NONE
    oauth2: OAuth2 | None = None


class CsrfSource(ControlFetch, frozen=True, kw_only=True):
    """Source of an API's CSRF tokens, for one set of credentials."""

    settings: Csrf
    shown: Shown

    @classmethod
    def of(cls, settings: Csrf, shown: Shown) -> "CsrfSource":
        """Return the source; with `shown.oauth2` its `TokenSource` is needed too."""
        return cls(key=_key(settings, shown), settings=settings, shown=shown)

    @property
    def name(self) -> str:
        return str(self.settings.token_url).partition("?")[0]

    def getter(self, read_file: Callable[[str], bytes]) -> Getter:
        return CsrfEndpoint(self.key, self.settings, self.shown, read_file)


def csrf_cache(env: Env, settings: Csrf, shown: Shown) -> CsrfHolder:
    """Return the cache shared by all filters with the same settings, credentials and secrets. Its source is
    `CsrfSource.of`.

    Raises `ValueError`, `SecretError` and `OSError`, without secrets.
    """
    key = _key(settings, shown)
    endpoint = CsrfEndpoint(key, settings, shown, env.read)
    return env.shared(("csrf", key, endpoint.material), lambda: WorkerCache(key, endpoint, CSRF_TOKENS))


def _key(settings: Csrf, shown: Shown) -> str:
    return key_of("csrf", settings.token_url, settings, shown)


@final
class CsrfEndpoint:
    """Fetches CSRF tokens from one API, for one set of credentials."""

    def __init__(self, key: str, settings: Csrf, shown: Shown, read_file: ReadFile) -> None:
        """Raises `ValueError`, `SecretError` and `OSError`, without secrets."""
        reader = SecretReader(key, read_file)
        self._fields = _static(shown, reader)
        self._tls = client_tls(reader.file, settings.tls)
        self._tokens: TokenHolder | None = None
        timeout = settings.timeout
        if shown.oauth2 is not None:
            source = TokenSource.of(shown.oauth2)
            endpoint = source.getter(reader.file)
            self._tokens = WorkerCache(source.key, endpoint, TOKENS)
            timeout += AGAIN_S + shown.oauth2.timeout + SLACK_S
        self.material = reader.material + (b"" if self._tokens is None else endpoint.material)
        self.name = f"CSRF token of {str(settings.token_url).partition('?')[0]}"
        self.timeout = timeout
        self.negative_ttl = settings.negative_ttl
        self._url = settings.token_url
        self._fetch_s, self._tolerate = settings.timeout, settings.tolerate

    def __repr__(self) -> str:
        return f"<CsrfEndpoint {self.name}>"

    def start(self, around: FetchContext) -> None:
        if self._tokens is not None:
            self._tokens.start(around)

    def stop(self) -> None:
        if self._tokens is not None:
            self._tokens.stop()

    async def get(self, around: FetchContext, before: FetchedRecord) -> FetchResult:
        """Fetch a token. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(self.timeout):
                answer = await self._request_token(around)
        except TimeoutError as late:
            raise Unavailable(Fault.TOKEN_TIMEOUT, f"no answer within {self.timeout:g} s") from late
        return FetchResult(read_csrf(answer), FOR_EVER, FOR_EVER)  # until the API rejects it

    async def _request_token(self, around: FetchContext) -> Fetched:
        tokens = self._tokens
        if tokens is None:
            return await self._fetch(around, self._fields)
        token = await tokens.obtain()
        answer = await self._fetch(around, [_field(token)])
        if answer.status in (401, 403):
            token = await tokens.obtain(token)
            answer = await self._fetch(around, [_field(token)])
        return answer

    async def _fetch(self, around: FetchContext, shown: list[tuple[bytes, bytes]]) -> Fetched:
        return await await_fetched(
            around.fetcher.fetch(
                self._url,
                fields=[*_ASKS, *shown],
                tls=self._tls,
                timeout=self._fetch_s,
                most=MOST,
                tolerate=self._tolerate,
            )
        )


def read_csrf(answer: Fetched) -> bytes:
    """Return token and cookies of a response, packed. Raises `Unavailable`."""
    if not 200 <= answer.status < 300:
        raise problem_of_status(answer)
    token = answer.fields.get(b"x-csrf-token") or b""
    if not token or token.lower() in _NO_TOKENS:
        raise Unavailable(Fault.TOKEN_UNAVAILABLE, "its answer has no `X-CSRF-Token`")
    if not _IS_TOKEN(token):
        raise Unavailable(Fault.TOKEN_UNAVAILABLE, "its `X-CSRF-Token` has invalid characters")
    return CSRF_TOKENS.dumps(CsrfToken(token, _cookies_in(answer.fields.get_all(b"set-cookie"), time.time())))


def _cookies_in(lines: Iterable[bytes], now_date: float) -> tuple[tuple[bytes, bytes], ...]:
    """Return names and values of the cookies that these values of `Set-Cookie` store (RFC 6265 section 5.3)."""
    stored: dict[tuple[bytes, bytes, bytes], bytes] = {}
    for line in lines:
        first, *others = line.split(b";")
        pair = _COOKIE.fullmatch(first.strip(b" \t"))
        if pair is None:
            continue
        parts = (each.partition(b"=") for each in others)
        attributes = {name.strip(b" \t").lower(): value.strip(b" \t") for name, _, value in parts}
        identity = pair[1], attributes.get(b"domain", b"").lower(), attributes.get(b"path", b"")
        if _is_deletion(attributes, now_date):
            stored.pop(identity, None)
        else:
            stored[identity] = pair[2]
    return tuple({name: value for (name, _, _), value in stored.items()}.items())


def _is_deletion(attributes: Mapping[bytes, bytes], now_date: float) -> bool:
    """Whether a cookie with these attributes has expired. `Max-Age` has precedence."""
    max_age = attributes.get(b"max-age", b"")
    if _IS_MAX_AGE(max_age):
        return max_age.startswith(b"-") or not max_age.strip(b"0")
    expires_date = parse_lenient_date(attributes.get(b"expires", b""))
    return expires_date is not None and expires_date <= now_date


def _static(shown: Shown, reader: SecretReader) -> list[tuple[bytes, bytes]]:
    """Return the constant headers. Raises `ValueError` without values."""
    fields = []
    if shown.basic is not None:
        username, password = reader.secret(shown.basic.username), reader.secret(shown.basic.password)
        fields.append((b"Authorization", b"Basic " + b64encode(f"{username}:{password}".encode())))
    if shown.bearer is not None:
        fields.append((b"Authorization", b"Bearer " + reader.secret(shown.bearer).encode()))
    fields += [(name.encode(), value.encode()) for name, value in reader.secrets(shown.headers)]
    for name, value in fields:
        try:
            Fields([(name, value)])
        except ValueError:
            raise ValueError(f"the value of {name.decode()} has a control character") from None
    return fields


def _field(token: Token) -> tuple[bytes, bytes]:
    name, _, value = token.line.partition(b":")
    return name, value.strip()
