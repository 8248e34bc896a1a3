"""credentials: the filter that sends the gateway's credentials to an API in place of the client's.

Rule 1: only the route's own upstream gets them (`Exchange.keep_from_others`). Rule 2: a header has either the gateway's
or the client's value, never both: setting a header removes the client's, including names that differ only in
punctuation. Rule 3: a client with a token of its own has another identity at the API: it gets none of the gateway's
credentials, not even if the API rejects its token.
"""

import re
from base64 import b64encode
from collections.abc import Awaitable, Iterable, Mapping
from functools import lru_cache
from time import monotonic
from typing import Final, NamedTuple, TypeVar, final

from fastgw.config.base.value_types import FieldName, is_far_in_the_clear
from fastgw.config.settings.credentials import (
    READABLE,
    AwsSigV4,
    Basic,
    Csrf,
    GcpIdToken,
    OAuth2,
    TokenExchange,
    Values,
    check_own,
)
from fastgw.config.settings.gateway import NONE
from fastgw.config.settings.secrets import Secret
from fastgw.errors import Fault
from fastgw.exchange.request_ids import is_id_line
from fastgw.exchange.shadow_exchange import ShadowExchange
from fastgw.filters.api import (
    Env,
    Exchange,
    FeedSource,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    RequestHook,
    Services,
    WarningContext,
)
from fastgw.filters.outbound.tls_settings import check_tls
from fastgw.filters.policies.credentials.aws_signing import signing_hooks
from fastgw.filters.policies.credentials.csrf_tokens import CsrfHolder, CsrfSource, CsrfToken, Shown, csrf_cache
from fastgw.filters.policies.credentials.messages import Unavailable
from fastgw.filters.policies.credentials.oauth_tokens import (
    Token,
    TokenHolder,
    TokenSettings,
    TokenSource,
    token_cache,
)
from fastgw.filters.policies.credentials.secret_files import SecretFiles, look_anew
from fastgw.filters.policies.credentials.worker_cache import WorkerCache
from fastgw.filters.policies.request_parameters import field_lines, values_of
from fastgw.http.fields import folded, without_fields
from fastgw.http.http1.lines import REQUEST_ID
from fastgw.http.messages import ResponseHead

T = TypeVar("T", Token, CsrfToken)

_IS_TOKEN: Final = re.compile(rb"[!-~]+").fullmatch
_NO_TOKEN: Final = b"Authorization: Bearer {token}\r\n"
"""Placeholder for a token, for `explain`. It is shown as `***`."""
_NO_CSRF: Final = CsrfToken(b"{token}", ())
_AUTHORIZATION: Final = b"authorization"
_CSRF: Final = b"x-csrf-token"
_COOKIE: Final = b"cookie"


_WAYS: Final = ("basic", "bearer", "headers", "oauth2", "token_exchange", "gcp_id_token", "aws_sigv4")


class Credentials(Filter, name="credentials", phase=Phase.CREDENTIALS):
    """Send the gateway's own credentials to an API, so that clients need none.

    Exactly one of `basic`, `bearer`, `headers`, `oauth2`, `token_exchange`, `gcp_id_token` and `aws_sigv4`. The
    client's `Authorization`, and its headers with the names in `headers`, are removed; with `headers` or `csrf` alone
    `Authorization` is forwarded, unless `hide_authorization` is set.

    When the API answers 401 or 403, tokens are fetched again, and the request is sent once more if its body is still
    available (`retries.body_bytes`), whatever its method; the client gets the second response. All requests that were
    rejected with the same token share one renewal; there is at most one per second, and requests that come sooner wait
    for it. Secret files are read again, too: with `basic` the request is sent once more in any case, with `bearer` and
    `headers` only if the secret has changed. For a gRPC call the statuses UNAUTHENTICATED and PERMISSION_DENIED count
    as 401 and 403: a call that is answered with the status alone (Trailers-Only) is sent once more; a status after
    messages is forwarded, and the next calls get the newer token.

    The credentials are sent to this API only: not to the `fallback` of a route, unless that upstream has them too, and
    not to a `mirror`; redirects of the API are forwarded, not followed. No log and no response shows them. While a
    token cannot be fetched, clients are answered 502 or 504, within `timeout` of the token endpoint.
    """

    basic: Basic | None = None
    """Username and password, sent as `Authorization: Basic`."""
    bearer: Secret | None = None
    """Static token, sent as `Authorization: Bearer`."""
    headers: Mapping[FieldName, Values] = NONE
    """Secret headers, such as `X-API-Key`; several values are sent as several header lines."""
    oauth2: OAuth2 | None = None
    """Token that the gateway fetches for itself, sent as `Authorization: Bearer`."""
    token_exchange: TokenExchange | None = None
    """Token that a server issues for another token of the gateway (RFC 8693)."""
    gcp_id_token: GcpIdToken | None = None
    """Google-signed ID token that the gateway fetches for itself, sent as `Authorization: Bearer`."""
    aws_sigv4: AwsSigV4 | None = None
    """Signature of each request for a service of AWS (Signature Version 4).

    It covers method, host, path, query, body, and headers: `Content-MD5`, and all that begin with `X-Amz-`; with
    `service: s3` of those that clients send only `X-Amz-Meta-*`, `X-Amz-Checksum-*` and `X-Amz-Sdk-*`, because others
    are commands that S3 would obey with these keys, such as `X-Amz-Copy-Source` and `X-Amz-Acl`: it refuses them
    without a signature. All that filters set, such as `X-Amz-Storage-Class`, are signed unless the client has sent one
    of that name. The client's own `X-Amz-Date`, `X-Amz-Content-Sha256` and `X-Amz-Security-Token` are replaced. The
    body is held until it is complete. All targets of the API must have the same host and base path.
    """
    csrf: Csrf | None = None
    """CSRF token that the API requires as well. null = none."""
    access_token_header: FieldName | None = None
    """Header in which a client may send credentials of its own. The API gets its value as `Authorization`, as it is
    (`Bearer …`, `Basic …` or a bare token), instead of the gateway's; `csrf` is sent with it. The header itself is not
    forwarded; an empty one counts as none. With `aws_sigv4` it is removed, and all requests are signed. null = none."""
    hide_authorization: bool = False
    """Whether the client's `Authorization` is removed even if none is sent in its place: for an API with secrets in
    `headers`, or with a client certificate of the upstream."""

    for_its_upstream = True

    def __post_init__(self) -> None:
        ways = [name for name in _WAYS if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"{', '.join(f'`{name}`' for name in ways)} together; expected one of them")
        if not ways and self.csrf is None and self.access_token_header is None and not self.hide_authorization:
            raise ValueError("no credentials; expected `basic`, `bearer`, `headers`, `oauth2` or `csrf`")
        if self.aws_sigv4 is not None and self.csrf is not None:
            raise ValueError("`aws_sigv4` and `csrf` are mutually exclusive; expected one of them")
        check_own(self.headers)
        if self.oauth2 is not None:
            check_tls(self.oauth2.token_url, self.oauth2.tls)
        for fetched in (self.gcp_id_token, self.token_exchange):
            if fetched is not None and fetched.token_url is not None:
                check_tls(fetched.token_url, fetched.tls)
        taken = {folded(name.encode()) for name in self.headers}
        if self.csrf is not None:
            check_tls(self.csrf.token_url, self.csrf.tls)
            for name in ("gcp_id_token", "token_exchange"):
                if getattr(self, name) is not None:
                    raise ValueError(f"`{name}` and `csrf` are mutually exclusive; expected one of them")
            if taken & {_CSRF, _COOKIE}:
                raise ValueError("`csrf` sets X-CSRF-Token and Cookie; expected `headers` without them")
        if self.access_token_header is not None:
            check_own((self.access_token_header,))
            if folded(self.access_token_header.encode()) in {*taken, _AUTHORIZATION, _CSRF, _COOKIE}:
                raise ValueError(f"`{self.access_token_header}` is set by this filter; expected another header")

    def secret_names(self) -> Iterable[str]:
        return (*self.headers, *((self.access_token_header,) if self.access_token_header else ()))

    def feeds(self) -> Iterable[FeedSource]:
        if self._fetched is not None:
            yield TokenSource.of(self._fetched)
        if self.csrf is not None:
            yield CsrfSource.of(self.csrf, self._sent_credentials)
        if any(secret.file for secret in self._unfetched):
            yield SecretFiles()

    def warnings(self, context: WarningContext) -> Iterable[str]:
        if context.generated:
            return
        for name, fetched in (("oauth2", self.oauth2), ("token_exchange", self.token_exchange)):
            if fetched is not None and is_far_in_the_clear(fetched.token_url.origin):
                yield f"`{name}.token_url` is http: {READABLE}"
        if self.csrf is not None and is_far_in_the_clear(self.csrf.token_url.origin):
            yield f"`csrf.token_url` is http: {READABLE}"

    @property
    def _fetched(self) -> TokenSettings | None:
        """Return the settings of tokens that are fetched."""
        return self.oauth2 or self.token_exchange or self.gcp_id_token

    @property
    def _unfetched(self) -> Iterable[Secret]:
        """Return the secrets for the API that are not fetched."""
        if self.basic is not None:
            yield from (self.basic.username, self.basic.password)
        if self.bearer is not None:
            yield self.bearer
        for held in self.headers.values():
            yield from (held,) if isinstance(held, Secret) else held

    @property
    def _sent_credentials(self) -> Shown:
        return Shown(basic=self.basic, bearer=self.bearer, headers=self.headers, oauth2=self.oauth2)

    def build(self, env: Env) -> Hooks:
        if self.aws_sigv4 is not None:
            return signing_hooks(self.aws_sigv4, env, self.access_token_header)
        tokens = None if self._fetched is None else token_cache(env, self._fetched)
        ways = _Ways(
            _lines(self, env),
            tokens,
            None if self.csrf is None else csrf_cache(env, self.csrf, self._sent_credentials),
        )
        written = {name.lower().encode() for name in self.headers}
        if self.basic or self.bearer or tokens is not None or self.hide_authorization:
            written.add(_AUTHORIZATION)
        own = b"" if self.access_token_header is None else self.access_token_header.lower().encode()
        # Identifies the use of the filter over reloads.
        where = ("credentials in use", env.level, env.route if env.level == "route" else None, env.instance)
        again = _Again(self.basic is not None, any(secret.file for secret in self._unfetched))
        use = _CredentialsUse(ways, frozenset(written), own, env.shared(where, _Newest), again)
        waits = ways.tokens is not None or ways.csrf is not None
        return Hooks(
            request=RequestHook(use.request, asks=_describe_endpoints(self), would=use.would),
            renew=use.renew if waits or any(again) else None,
            start=use.start,
            stop=use.stop,
            explain=use.explain,
        )


def _describe_endpoints(settings: Credentials) -> str:
    """Describe the endpoint and the parameters."""
    asked = []
    if settings.oauth2 is not None:
        asked.append(f"{str(settings.oauth2.token_url).partition('?')[0]} to get a token")
    if settings.gcp_id_token is not None:
        asked.append(f"{TokenSource.of(settings.gcp_id_token).name} to get an ID token")
    if settings.token_exchange is not None:
        asked.append(f"{TokenSource.of(settings.token_exchange).name} to exchange a token")
    if settings.csrf is not None:
        asked.append(f"{str(settings.csrf.token_url).partition('?')[0]} to get a CSRF token")
    return " and ".join(asked)


def _lines(settings: Credentials, env: Env) -> bytes:
    """Return the constant headers. Raises `ValueError` and `SecretError`, without secrets."""
    if settings.basic is not None:
        username, password = env.secret(settings.basic.username), env.secret(settings.basic.password)
        if ":" in username:
            raise ValueError("the username has a colon, which is not allowed (RFC 7617)")
        if not (username + password).isprintable():
            raise ValueError("the username or the password has a control character")
        return b"Authorization: Basic %b\r\n" % b64encode(f"{username}:{password}".encode())
    if settings.bearer is not None:
        token = env.secret(settings.bearer).encode()
        if _IS_TOKEN(token) is None:
            raise ValueError("the `bearer` token has an invalid character")
        return b"Authorization: Bearer %b\r\n" % token
    return b"".join(field_lines(name, values_of(env, said)) for name, said in settings.headers.items())


class _Ways(NamedTuple):
    """Sources of the credentials that are sent."""

    lines: bytes
    """Constant header lines; b"": none."""
    tokens: TokenHolder | None
    csrf: CsrfHolder | None

    async def obtain(self, repeatable: bool) -> tuple[bytes, CsrfToken | None]:
        """Return the credentials to send. `repeatable`: as in `WorkerCache.obtain`. Raises `Unavailable`."""
        line = self.lines if self.tokens is None else (await self.tokens.obtain(repeatable=repeatable)).line
        return line, None if self.csrf is None else await self.csrf.obtain(repeatable=repeatable)

    def renewed_earlier(self, line: bytes, csrf: CsrfToken | None, carried: bytes) -> bool:
        """Whether a value that is not in `carried` had been fetched before this renewal."""
        tokens_earlier = self.tokens is not None and line not in carried and self.tokens.fetched_earlier
        csrf_earlier = self.csrf is not None and csrf is not None and csrf.line not in carried
        return tokens_earlier or (csrf_earlier and self.csrf is not None and self.csrf.fetched_earlier)

    def renew(self, carried: bytes) -> None:
        """Start to renew the credentials in these lines after an API has rejected them; does not wait."""
        if self.tokens is not None:
            _renew(self.tokens, carried)
        if self.csrf is not None:
            _renew(self.csrf, carried)

    def with_client_line(self, line: bytes) -> "_Ways":
        """Return the sources for a client that sends this line itself."""
        return _Ways(line, None, self.csrf)

    async def obtain_newer(self, carried: bytes) -> tuple[bytes, CsrfToken | None]:
        """Return newer credentials than those in these lines, which an API has rejected. Raises `Unavailable`."""
        line, csrf, problem = self.lines, None, None
        if self.tokens is not None:
            token, problem = await _newer(self.tokens, carried)
            line = token.line
        if self.csrf is not None:
            csrf, other_problem = await _newer(self.csrf, carried)
            problem = problem or other_problem
        # One newer value of token and CSRF token is enough: it may be the rejected one.
        if problem is not None and line in carried and (csrf is None or csrf.line in carried):
            raise problem
        return line, csrf


def _renew(cache: WorkerCache[T], carried: bytes) -> None:
    held = cache.unexpired(monotonic())
    if held is not None and held.line in carried:
        cache.reject(held)


async def _newer(cache: WorkerCache[T], carried: bytes) -> tuple[T, Unavailable | None]:
    """Return a newer value than the one in `carried`; or the current one, and the reason why there is none. Raises
    `Unavailable`.
    """
    held = cache.unexpired(monotonic())
    if held is not None and held.line not in carried:
        return held, None
    try:
        return await cache.obtain(held), None
    except Unavailable as problem:
        if held is None:
            raise
        return held, problem


class _Again(NamedTuple):
    """Retry after an API has refused constant credentials."""

    always: bool
    """Whether the credentials are sent again even if they are unchanged."""
    looks: bool
    """Whether their files are read again first."""


@final
class _Newest:
    """The active use of the filter, which may replace an earlier one."""

    __slots__ = ("__weakref__", "use")

    def __init__(self) -> None:
        self.use: _CredentialsUse | None = None


@final
class _CredentialsUse:
    """One use of the filter. `written`: lower-case names of the headers with the gateway's credentials.

    `own`: header for a client's own token; b"": none.
    """

    __slots__ = ("_again", "_dropped", "_names", "_newest", "_own", "_own_names", "_ready", "_services", "_ways")

    def __init__(self, ways: _Ways, written: frozenset[bytes], own: bytes, newest: _Newest, again: _Again) -> None:
        self._ways = ways
        self._own = own
        self._newest = newest
        self._again = again
        self._names = _names_of(written, ways.csrf is not None)
        self._own_names = _names_of(written | {_AUTHORIZATION, own}, ways.csrf is not None) if own else self._names
        self._dropped = self._names.dropped
        self._ready = _NOT_READY
        self._services: Services | None = None

    def __repr__(self) -> str:
        return f"<credentials in {', '.join(name.decode() for name in self._names.written) or 'no field'}>"

    def start(self, services: Services) -> None:
        self._newest.use, self._services = self, services
        for cache in (self._ways.tokens, self._ways.csrf):
            if cache is not None:
                cache.start(services)

    def stop(self) -> None:
        if self._newest.use is self:
            self._newest.use = None
        for cache in (self._ways.tokens, self._ways.csrf):
            if cache is not None:
                cache.stop()
        if self._again.looks and self._services is not None:
            self._services.feeds.drop(SecretFiles().key)

    # request

    def request(self, exchange: Exchange, *, own_is_empty: bool = False) -> Outcome:
        ways = self._ways
        if self._own and exchange.head.first(self._own) is not None and not own_is_empty:
            return self._request_with_own(exchange)
        line = ways.lines
        if ways.tokens is not None:
            token: Token | None = ways.tokens.peek(exchange.begun_at)
            if token is None:
                return self._wait(exchange)
            line = token.line
        if ways.csrf is not None:
            csrf = ways.csrf.peek(exchange.begun_at)
            if csrf is None:
                return self._wait(exchange)
            self._write_both(exchange, line, csrf, self._names)
        elif line:
            added = exchange.request_added
            if (
                exchange.for_others is None
                and not exchange.request_dropped
                and (not added or (is_id_line(exchange) and REQUEST_ID not in self._names.alike))
            ):
                # Same as below, if only the request id has to be joined.
                dropped = self._dropped
                exchange.for_others = added, dropped, exchange.query_sent
                exchange.request_added, exchange.request_dropped = added + line if added else line, dropped
            else:
                self._write(exchange, line, self._names)
        elif self._dropped:
            self._write(exchange, b"", self._names)
        return None

    def would(self, exchange: Exchange) -> Outcome:
        """Return the credentials that would be sent, without a fetch."""
        ways = self._ways
        tokens = None if self._shows_own(exchange) else ways.tokens
        if tokens is None and ways.csrf is None:
            return self.request(exchange)
        self._stand_in(exchange)
        return _unknown()

    def explain(self, exchange: Exchange) -> str:
        if not self._shows_own(exchange):
            return ""
        return "the client's own credentials: it shares no stored response with requests that have the gateway's"

    def _stand_in(self, exchange: Exchange) -> None:
        """Add placeholders for credentials that would be fetched."""
        ways = self._ways
        csrf = None if ways.csrf is None else _NO_CSRF
        if self._shows_own(exchange):
            exchange.sends_client_authorization = True
            self._write_credentials(exchange, self._own_line(exchange), csrf, self._own_names)
        else:
            self._write_credentials(exchange, ways.lines if ways.tokens is None else _NO_TOKEN, csrf, self._names)

    def _wait(self, exchange: Exchange) -> Outcome:
        if isinstance(exchange, ShadowExchange):
            self._stand_in(exchange)
            return None
        return self._obtain(exchange)

    async def _obtain(self, exchange: Exchange) -> Reply | None:
        use = self._newest.use or self
        own = self._shows_own(exchange)
        repeatable = exchange.request_body is None
        while True:
            try:
                line, csrf = await self._ways_of(use, exchange, own).obtain(repeatable)
            except Unavailable as problem:
                newest = self._newest.use or use
                if newest is not use:  # its secret has changed in between
                    use = newest
                    continue
                after = ((b"Retry-After", b"%d" % problem.retry_after),) if problem.retry_after else ()
                return exchange.refuse(problem.fault, fields=after, why=problem.why)
            use._write_credentials(exchange, line, csrf, self._names_of(use, own))
            return None

    # clients with their own credentials

    def _shows_own(self, exchange: Exchange) -> bool:
        return bool(self._own) and bool(exchange.head.first(self._own))

    def _own_line(self, exchange: Exchange) -> bytes:
        return b"Authorization: %b\r\n" % exchange.head.values(self._own)[0]

    def _ways_of(self, use: "_CredentialsUse", exchange: Exchange, own: bool) -> _Ways:
        """Return the sources of credentials. `own`: the client sends its own token. `use`: the active use, which may
        not have a header for that.
        """
        return use._ways.with_client_line(self._own_line(exchange)) if own else use._ways

    def _names_of(self, use: "_CredentialsUse", own: bool) -> "_Names":
        if not own:
            return use._names
        return use._own_names if use._own else self._own_names

    def _request_with_own(self, exchange: Exchange) -> Outcome:
        values = exchange.head.values(self._own)
        if len(values) > 1:
            return exchange.refuse(Fault.BAD_REQUEST, f"There is more than one {self._own.decode()}.")
        if not values[0]:  # the header is empty
            outcome = self.request(exchange, own_is_empty=True)
            exchange.request_dropped = exchange.request_dropped | {self._own}
            return outcome
        exchange.sends_client_authorization = True
        csrf = None
        if self._ways.csrf is not None:
            csrf = self._ways.csrf.peek(exchange.begun_at)
            if csrf is None:
                return self._wait(exchange)
        self._write_credentials(exchange, self._own_line(exchange), csrf, self._own_names)
        return None

    # header lines

    def _write_credentials(self, exchange: Exchange, line: bytes, csrf: CsrfToken | None, names: "_Names") -> None:
        if csrf is None:
            self._write(exchange, line, names)
        else:
            self._write_both(exchange, line, csrf, names)

    def _write(self, exchange: Exchange, lines: bytes, names: "_Names") -> None:
        """Add the lines. `names`: headers that belong to the gateway from now on."""
        exchange.keep_from_others(names.dropped)
        added, dropped = exchange.request_added, exchange.request_dropped
        if added:
            lines = without_fields(added, names.alike) + lines
        exchange.request_added = lines
        exchange.request_dropped = dropped | names.dropped if dropped else names.dropped

    def _write_both(self, exchange: Exchange, line: bytes, csrf: CsrfToken, of: "_Names") -> None:
        """Add a token together with a CSRF token, whose cookies are appended to the client's."""
        ready = self._ready
        if ready.csrf is not csrf:
            ready = self._ready = _Ready(csrf)
        exchange.keep_from_others(of.dropped)
        added, dropped = exchange.request_added, exchange.request_dropped
        lines, names, alike = line + ready.line, of.dropped, of.alike
        if csrf.cookies or _COOKIE in dropped:
            lines += ready.cookie_line(_clients_cookies(exchange))
            names, alike = of.dropped_with_cookies, of.alike_with_cookies
        exchange.request_added = without_fields(added, alike) + lines if added else lines
        exchange.request_dropped = dropped | names if dropped else names

    # response

    def renew(self, exchange: Exchange, head: ResponseHead) -> Awaitable[bool] | None:
        """Renew the credentials after the API has rejected them, if there are others."""
        if exchange.for_others is None:
            return None  # it was sent to another upstream
        use = self._newest.use or self
        own = self._shows_own(exchange)
        ways = self._ways_of(use, exchange, own)
        again = _NOT_AGAIN if own or ways.tokens is not None else use._again
        is_other = bool(ways.lines) and ways.lines not in exchange.request_added
        if ways.tokens is None and ways.csrf is None and not is_other and not any(again):
            return None
        if not exchange.may_be_sent_again:
            ways.renew(exchange.request_added)
            return None
        return self._renewed(exchange, own, again)

    async def _renewed(self, exchange: Exchange, own: bool, again: _Again) -> bool:
        use, carried = self._newest.use or self, exchange.request_added
        if again.looks and use._services is not None and use._ways.lines in carried:
            await look_anew(use._services)
            use = self._newest.use or self
        ways = self._ways_of(use, exchange, own)
        try:
            newer = await ways.obtain_newer(carried)
            if not exchange.renewed_earlier and ways.renewed_earlier(*newer, carried):
                # It may have been invalidated by a newer one that this worker does not have yet: if rejected too, it is
                # renewed.
                exchange.renewed, exchange.renewed_earlier = False, True
        except Unavailable as problem:
            exchange.why = exchange.why or problem.why
            return False
        if ways.tokens is None and ways.csrf is None and ways.lines in carried and not again.always:
            return False
        names = self._own_names if own else self._names
        exchange.request_added = without_fields(carried, names.alike)
        use._write_credentials(exchange, *newer, self._names_of(use, own))
        return True


class _Names(NamedTuple):
    """Header names that belong to the gateway, shared by thousands of services."""

    written: frozenset[bytes]
    dropped: frozenset[bytes]
    dropped_with_cookies: frozenset[bytes]
    alike: frozenset[bytes]
    """Names of headers whose values from earlier filters are discarded."""
    alike_with_cookies: frozenset[bytes]


@lru_cache(256)
def _names_of(written: frozenset[bytes], with_csrf: bool) -> _Names:
    dropped = written | {_CSRF} if with_csrf else written
    alike = frozenset(map(folded, dropped))
    return _Names(written, dropped, dropped | {_COOKIE}, alike, alike | {_COOKIE})


@final
class _Ready:
    """CSRF token and its cookies, serialized."""

    __slots__ = ("_names", "_pairs", "csrf", "line")

    def __init__(self, csrf: CsrfToken) -> None:
        self.csrf = csrf
        self.line = csrf.line
        self._names = frozenset(name for name, _ in csrf.cookies)
        self._pairs = b"; ".join(b"%b=%b" % cookie for cookie in csrf.cookies)

    def cookie_line(self, clients: list[bytes]) -> bytes:
        """Return the cookies together with the client's; for duplicate names, the API's. b"": none."""
        cookies = b"; ".join(filter(None, clients)).rstrip(b"; \t")
        for name in self._names:
            if name in cookies:
                cookies = self._less_ours(cookies)
                break
        if not cookies or not self._pairs:
            cookies = cookies or self._pairs
            return b"Cookie: %b\r\n" % cookies if cookies else b""
        return b"Cookie: %b; %b\r\n" % (cookies, self._pairs)

    def _less_ours(self, cookies: bytes) -> bytes:
        pairs = (pair.strip(b" \t") for pair in cookies.split(b";"))
        return b"; ".join(pair for pair in pairs if pair and pair.partition(b"=")[0].rstrip(b" \t") not in self._names)


_NOT_READY: Final = _Ready(_NO_CSRF)
_NOT_AGAIN: Final = _Again(always=False, looks=False)


def _clients_cookies(exchange: Exchange) -> list[bytes]:
    """Return the client's cookie lines as changed by other filters."""
    assert exchange.for_others is not None
    added, dropped, _ = exchange.for_others
    lines = [] if _COOKIE in dropped else exchange.values(_COOKIE)
    for line in added.split(b"\r\n") if added else ():
        name, _, value = line.partition(b":")
        if name.lower() == _COOKIE:
            lines.append(value.strip(b" \t"))
    return lines


async def _unknown() -> None:
    """Replace a fetch whose result is unknown."""
