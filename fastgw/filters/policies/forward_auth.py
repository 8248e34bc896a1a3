"""forward_auth: external authorization by another service."""

from collections.abc import Coroutine, Iterable
from functools import partial
from time import monotonic
from typing import Annotated, Any, Final, NamedTuple, final

from msgspec import Meta
from msgspec.msgpack import Encoder

from fastgw.config.base.settings_base import Renamed
from fastgw.config.base.value_types import Duration, EndpointUrl, FieldName
from fastgw.config.base.value_types import Size as Bytes
from fastgw.config.settings.gateway import Settings, UpstreamTls
from fastgw.eventloop.single_flight import SingleFlight
from fastgw.filters.api import (
    Env,
    Exchange,
    Fault,
    Fetcher,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    RequestHook,
    Services,
)
from fastgw.filters.api.credential_locations import AUTHORIZATION, CredentialLocations
from fastgw.filters.api.warning_context import ClientIdentity
from fastgw.filters.authentication.identity_headers import check_written
from fastgw.filters.authentication.token_policy import LONGEST_NAME
from fastgw.filters.outbound.tls_settings import check_tls, client_tls
from fastgw.forwarded_headers import FAMILY, client_origin, fields_for_upstream
from fastgw.http.field_names import HOP_BY_HOP, WRITTEN_HERE
from fastgw.http.fields import Fields
from fastgw.observe.access_log.credential_names import is_credential_header
from fastgw.observe.tracing.tracer import Trace
from fastgw.sync.credential_cache import TokenCache
from fastgw.upstream.client.http_client import Fetched, FetchFailed

Names = Annotated[tuple[FieldName, ...], Meta(max_length=100)]
_QUESTION: Final = frozenset((b"x-forwarded-method", b"x-forwarded-uri"))
# Headers that are never sent: those of the connection and the body, of proxies, and of conditional requests, because a
# 304 would answer another question.
_NEVER_SHOWN: Final = (
    WRITTEN_HERE
    | FAMILY
    | _QUESTION
    | frozenset(b"host expect range if-match if-none-match if-modified-since if-unmodified-since if-range".split())
)
_WITH_THE_BODY: Final = (b"Content-Type", b"Content-Encoding", b"Content-Language")
_FAULTS: Final = {401: Fault.CREDENTIALS_INVALID, 403: Fault.FORBIDDEN}
_SHOW_WHO: Final = (b"authorization", b"cookie")
_encode: Final = Encoder().encode


class Remembering(Settings):
    """Cache of decisions: a request that the service has allowed is allowed again without asking, for a short time.
    Refusals are not cached."""

    key_headers: Annotated[tuple[FieldName, ...], Meta(min_length=1, max_length=16), Renamed("by")]
    """Headers of the cache key: request headers that the decision depends on, such as `Authorization`. Requests that
    have none of them are not cached.

    The decision of the service must not depend on anything that is neither here nor in `per_uri` and `per_address`.
    """
    per_uri: bool = True
    """Whether decisions are cached separately for each method, host, path and query. false only if the decision depends
    on the headers alone."""
    per_address: bool = True
    """Whether decisions are cached separately for each client address."""
    ttl: Annotated[Duration, Meta(le=3600)] = 5.0
    """Time for which a decision is cached."""
    entries: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Maximum number of decisions that a worker caches; the oldest are evicted first."""


class ForwardAuth(Filter, name="forward_auth", phase=Phase.AUTHENTICATE):
    """External authorization: ask a service whether a request is allowed, like Traefik's ForwardAuth and nginx's
    auth_request.

    The service gets a GET with the client's headers and, in `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and `-For`,
    the original request; the path is normalized, as it is matched and forwarded. A 2xx response allows the request; any
    other response is sent to the client as it is. If the service cannot be asked, requests are answered 503.
    """

    url: EndpointUrl
    """URL of the service, with path and query."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings for the service, if its URL is https."""
    timeout: Duration = 5.0
    """Timeout for the whole response."""
    request_headers: Names | None = None
    """Request headers that are sent to the service. null = all, except those of framing and of conditional requests."""
    copy_headers: Names = ()
    """Headers of the service's response that are added to the request. Headers with these names from the client are
    always removed."""
    client_headers: Names = ()
    """Headers of the service's response that are sent to the client if the request is allowed, replacing those of the
    upstream: for example `Set-Cookie`, if the service renews sessions (it is added to the upstream's). Not sent if the
    decision comes from the cache."""
    refusal_headers: Names = ("WWW-Authenticate", "Set-Cookie", "Location", "Cache-Control", "Retry-After")
    """Headers of the service's response that are sent to the client if the request is refused, in addition to those
    that describe the body."""
    consumer_header: FieldName | None = None
    """Header of the service's response with the name of the consumer: one of `consumers`, or else a consumer without
    groups."""
    cache: Remembering | None = None
    """Cache of positive decisions. null = the service is asked about each request. Equal requests that arrive while the
    service is being asked wait for its decision. A refusal is never shared, because its headers may belong to one
    client: the service is asked about each of them. A 5xx or 429 is no decision: all that wait get its status, with
    `Retry-After` alone."""
    max_body_bytes: Annotated[Bytes, Renamed("max_body")] = 65536
    """Maximum size of the body of the service's response, in bytes; a longer response is invalid."""

    def __post_init__(self) -> None:
        check_tls(self.url, self.tls)
        check_written(self.copy_headers, credentials_allowed=True)  # some services return credentials for the upstream
        for name in (*self.client_headers, *self.refusal_headers):
            if name.lower().encode() in HOP_BY_HOP:
                raise ValueError(f"`{name}` is a connection header, which is set by the gateway")

    def credential_places(self) -> CredentialLocations:
        return AUTHORIZATION  # cookies may be meant for the upstream

    def written_fields(self) -> Iterable[str]:
        return self.copy_headers

    def client_identity(self) -> ClientIdentity:
        return ClientIdentity(known=True, foreign_groups=True, foreign_names=self.consumer_header is not None)

    def build(self, env: Env) -> Hooks:
        use = _ForwardAuthUse(self, env)
        answers = bool(self.client_headers)
        return Hooks(
            request=RequestHook(use.request, asks=str(self.url.origin)),
            response=use.response if answers else None,
            finish=use.finish if answers else None,
            start=use.start,
        )


class Granted(NamedTuple):
    """Decision to let a request pass."""

    lines: bytes
    """Serialized header lines for the upstream."""
    to_client: bytes
    """Serialized header lines for the client, if the service was asked about its own request."""
    consumer: str


Answer = Granted | Fetched | str
"""Decision to let a request pass, another response of the service, or the reason why there is neither."""


@final
class _Memory:
    """Cache shared by all uses with the same settings, with pending requests to the service."""

    def __init__(self, settings: Remembering) -> None:
        self.key_headers = tuple(name.lower() for name in _names(settings.key_headers))
        self.per_uri, self.per_address = settings.per_uri, settings.per_address
        self.ttl = settings.ttl
        self.granted: TokenCache[Granted] = TokenCache(settings.entries)
        self.single_flight: SingleFlight[Answer] = SingleFlight()

    def key_of(self, exchange: Exchange) -> bytes | None:
        """Return the cache key of a request, from everything that the decision depends on; None: it has no such
        header.
        """
        parts: list[Any] = [exchange.current_values(name) for name in self.key_headers]
        if not any(parts):
            return None
        if self.per_uri:
            parts += exchange.method, exchange.scheme, exchange.authority, exchange.path, exchange.query_shown
            if exchange.peer.trusted:  # the service is told the origin that it reports
                parts += client_origin(exchange.head, exchange.peer)
        if self.per_address:
            parts.append(exchange.client_ip)
        # It contains lengths, so that different parts make different keys. PERF: 26,400 instructions for a cached
        # decision, 49,600 with `%` for each part (CPython 3.11, callgrind, micro/asking).
        return _encode(parts)


@final
class _ForwardAuthUse:
    """forward_auth: one use of the filter."""

    def __init__(self, settings: ForwardAuth, env: Env) -> None:
        self._instance = env.instance
        self._roster = env.roster
        self._url = settings.url
        self._tls = client_tls(env.read, settings.tls)
        self._timeout = settings.timeout
        self._most = settings.max_body_bytes
        self._shown: frozenset[bytes] | None = None
        if settings.request_headers is not None:
            self._shown = frozenset(name.lower() for name in _names(settings.request_headers))
        self._copied = _names(settings.copy_headers)
        self._written = frozenset(name.lower() for name in self._copied)
        # The client's own are not what the service decides; but credentials it decides by, and returns others.
        self._hidden = _NEVER_SHOWN | {name for name in self._written if not is_credential_header(name)}
        self._to_client = (*_names(settings.refusal_headers), *_WITH_THE_BODY)
        self._consumer = settings.consumer_header.encode() if settings.consumer_header else None
        self._memory = None
        if settings.cache is not None:
            cache = settings.cache
            self._memory = env.shared(("forward_auth", env.policy), lambda: _Memory(cache))
        self._passed_on = _names(settings.client_headers)
        self._replaced = frozenset(name.lower() for name in self._passed_on) - {b"set-cookie"}
        self._to_clients: dict[Exchange, bytes] = {}
        """Response headers by exchange, from the request step to the response."""
        self._fetcher: Fetcher | None = None

    def start(self, services: Services) -> None:
        self._fetcher = services.fetcher

    def request(self, exchange: Exchange) -> Outcome:
        memory = self._memory
        key = None if memory is None else memory.key_of(exchange)
        if memory is None or key is None:
            return self._decide(exchange, self._request_decision(exchange.trace, self._question(exchange)))
        granted = memory.granted.get(key)
        if granted is not None:
            self._let_pass(exchange, granted)
            return None
        return self._decide(exchange, self._ask_once(memory, key, exchange.trace, self._question(exchange)))

    async def _decide(self, exchange: Exchange, asked: Coroutine[Any, Any, Answer]) -> Reply | None:
        answer = await asked
        if isinstance(answer, Granted):
            self._let_pass(exchange, answer)
            return None
        if isinstance(answer, Fetched):
            return self._refusal(exchange, answer)
        return exchange.refuse(Fault.AUTH_UNAVAILABLE, why=answer)

    async def _ask_once(
        self, memory: _Memory, key: bytes, trace: Trace | None, question: Iterable[tuple[bytes, bytes]]
    ) -> Answer:
        """Ask the service, unless an equal request is pending. Headers for the client go to the request that has
        asked, and so do refusals: their cookie, the `state` in their location or the nonce of their challenge may be
        that of one client, even where several have the same cache key. Requests that have waited for a refusal ask the
        service themselves, all at once, as they would without a cache; but not if it is overloaded or fails.
        """
        is_own = not memory.single_flight.has(key)
        ask = partial(self._request_decision, trace, question, key)
        answer = await memory.single_flight.join(key, ask)
        if is_own or isinstance(answer, str):
            return answer
        if isinstance(answer, Granted):
            return answer._replace(to_client=b"")
        return _failure(answer) if answer.status == 429 or answer.status >= 500 else await ask()

    async def _request_decision(
        self, trace: Trace | None, question: Iterable[tuple[bytes, bytes]], key: bytes = b""
    ) -> Answer:
        """Ask the service, and cache a positive decision under `key`, if there is one."""
        assert self._fetcher is not None
        try:
            answer = await self._fetcher.fetch(
                self._url, fields=question, tls=self._tls, timeout=self._timeout, most=self._most, trace=trace
            )
        except FetchFailed as failed:
            return failed.reason
        if not 200 <= answer.status < 300:
            return answer
        consumers = [] if self._consumer is None else answer.fields.get_all(self._consumer)
        if len(consumers) > 1 or any(len(name) > LONGEST_NAME or not name.isascii() for name in consumers):
            return "the answer of the authorization service does not have exactly one consumer"
        copied, passed_on = _lines(answer.fields, self._copied), _lines(answer.fields, self._passed_on)
        granted = Granted(copied, passed_on, consumers[0].decode("ascii") if consumers else "")
        if key and self._memory is not None:
            self._memory.granted.store(key, granted._replace(to_client=b""), monotonic() + self._memory.ttl)
        return granted

    def _question(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        _, added = fields_for_upstream(None, exchange.peer, exchange.head, exchange.client_ip)
        query = exchange.query_shown
        uri = exchange.path if query is None else b"%b?%b" % (exchange.path, query)
        shown = [*self._from_client(exchange), *Fields.parse(added, 0)]
        return [*shown, (b"X-Forwarded-Method", exchange.method), (b"X-Forwarded-Uri", uri)]

    def _from_client(self, exchange: Exchange) -> Iterable[tuple[bytes, bytes]]:
        """Return the client's headers, with changes of earlier filters."""
        fields = exchange.client_lines(self._hidden)
        fields += Fields.parse(exchange.changes_for_others[0], 0).without(_NEVER_SHOWN)
        return fields if self._shown is None else [line for line in fields if line[0].lower() in self._shown]

    def _let_pass(self, exchange: Exchange, granted: Granted) -> None:
        exchange.request_dropped |= self._written
        exchange.request_added += granted.lines
        if granted.to_client:
            self._to_clients[exchange] = granted.to_client
        if who := granted.consumer:
            exchange.consumer = self._roster.called(who)
        else:
            exchange.is_authenticated = True

    def response(self, exchange: Exchange) -> None:
        lines = self._to_clients.pop(exchange, b"")
        if lines:
            assert exchange.response is not None
            exchange.response.dropped |= self._replaced.intersection(_names_in(lines))
            exchange.add_response_fields(lines)

    def finish(self, exchange: Exchange) -> None:
        self._to_clients.pop(exchange, None)

    def _refusal(self, exchange: Exchange, answer: Fetched) -> Reply:
        """Return the service's response as a reply: status, body, and selected headers."""
        status = answer.status
        fields = [(name, value) for name in self._to_client for value in answer.fields.get_all(name)]
        fault = _FAULTS.get(status, Fault.AUTH_UNAVAILABLE if status >= 500 else Fault.FORBIDDEN)
        shown = any(exchange.field(name) for name in _SHOW_WHO)
        elsewhere = 300 <= status < 400
        if status == 401:
            if not shown:
                fault = Fault.CREDENTIALS_MISSING
            if answer.fields.get(b"www-authenticate") is None:  # required with a 401 (RFC 9110 section 15.5.2)
                fields.append((b"WWW-Authenticate", b"ForwardAuth"))
        exchange.why = f"the authorization service answered {status}"
        return Reply(status, answer.body, fields, None if elsewhere else fault, invites=elsewhere and not shown)


def _failure(answer: Fetched) -> Fetched:
    """Return what an answer of an overloaded or failing service says to any client: not its body and other headers."""
    return Fetched(answer.status, Fields.parse(_lines(answer.fields, (b"Retry-After",)), 0), b"")


def _lines(fields: Fields, names: Iterable[bytes]) -> bytes:
    return b"".join(b"%b: %b\r\n" % (name, value) for name in names for value in fields.get_all(name))


def _names_in(lines: bytes) -> list[bytes]:
    """Return the names in serialized lines, in lower case."""
    return [line.partition(b":")[0].lower() for line in lines.split(b"\r\n")[:-1]]


def _names(names: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(name.encode() for name in names)
