"""cache: answer requests from stored responses (RFC 9111)."""

from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from fastgw.config.base.value_types import MediaType, Method, Name, Network, Notation, Token, write_duration
from fastgw.config.settings.gateway import NONE, CacheStore, Some
from fastgw.exchange.hooks import TranslateHook
from fastgw.filters.api import (
    BodyHead,
    Duration,
    Env,
    Exchange,
    FieldName,
    Filter,
    Hooks,
    Phase,
    ResponseHook,
    ResponseLines,
    Services,
    Settings,
    Size,
    WarningContext,
)
from fastgw.filters.policies.cache.policy import CachePolicy, dropped_with, is_authenticated, purge_url
from fastgw.filters.policies.cache.ready_answers import ReadyMemory
from fastgw.filters.policies.cache.steps import CacheSteps
from fastgw.filters.policies.ip.address_check import address_check
from fastgw.http.caching.directives import parse_request
from fastgw.http.caching.invalidation import invalidates
from fastgw.http.caching.keys import NO_QUERY, QueryRule
from fastgw.http.caching.storing import RequestIdentity, StorePolicy, find_identity
from fastgw.http.caching.validation import FOR_ORIGIN
from fastgw.http.caching.vary import WRITTEN_FOR_EACH_CLIENT
from fastgw.upstream.client.response_action import ResponseAction
from fastgw.upstream.forwarding.forward_action import Forward

_CACHEABLE: Final = ("GET", "HEAD")
_POST: Final = b"POST"


def parse_status(text: str) -> str:
    """Validate a status code of a final response."""
    if len(text) != 3 or not text.isdecimal() or not 200 <= int(text) <= 599:
        raise ValueError(f'"{text}" is not a status code')
    return text


StatusCode = Annotated[
    str, Notation('a status code such as "404"', parse_status, {"type": "string", "pattern": "^[2-5][0-9]{2}$"})
]
_OWN_RESPONSES: Final = "responses of `files`, `respond` and `redirect` are not cached"


class QueryNames(Settings):
    """Query parameters by name. A `*` in a name stands for any characters."""

    only: Some[str] | None = None
    """Names of the parameters that are part of the key; others do not reach the upstream, with any method."""
    except_: Some[str] | None = field(default=None, name="except")
    """Names of the parameters that are not part of the key, and do not reach the upstream, with any method; all others
    are part of it."""

    def __post_init__(self) -> None:
        if (self.only is None) is (self.except_ is None):
            raise ValueError("expected either `only` or `except`")


class CacheKey(Settings):
    """Parts of the cache key in addition to route, scheme, host, path and upstream."""

    query: Literal["all", "none"] | QueryNames = "all"
    """Query parameters in the key: `all`, `none`, or by name, `{only: [...]}` or `{except: [utm_*]}`. Parameters that
    are not part of the key do not reach the upstream, not with other methods or past the cache either."""
    headers: tuple[FieldName, ...] = ()
    """Request headers in the key, with their names, in addition to those that a response names in `Vary`. After a
    change of these, of `cookies` or of `vary_by` all that the route has stored is fetched again. Headers that the
    gateway writes for each client (`X-Forwarded-For`, `X-Real-IP`, `Forwarded`, `Via`) are not possible."""
    cookies: tuple[Token, ...] = ()
    """Cookies in the key, with their names."""

    def __post_init__(self) -> None:
        for name in self.headers:
            if name.lower().encode() in WRITTEN_FOR_EACH_CLIENT:
                raise ValueError(f"headers: {name} is written by the gateway for each client; expected another header")

    def query_rule(self) -> QueryRule | None:
        """Return the rule for query parameters; None: all are part of the key."""
        query = self.query
        if isinstance(query, QueryNames):
            names = query.only or query.except_ or ()
            return QueryRule((name.encode() for name in names), keep=query.only is not None)
        return NO_QUERY if query == "none" else None

    def leaves_out(self, variable: str) -> bool:
        """Whether a variable stands for what neither the key has nor the upstream gets of a request: a query parameter
        (`query.NAME`) or a header (`header.NAME`), or for a query with such parameters (`query`).
        """
        source, _, name = variable.partition(".")
        if source == "header":
            return name.lower().encode() in dropped_with(tuple(sorted(each.lower().encode() for each in self.headers)))
        rule = self.query_rule()
        return source == "query" and rule is not None and not (name and rule.keeps(name.encode()))


class Bypass(Settings):
    """Requests that are forwarded past the cache."""

    header: FieldName
    """Requests with this header are neither answered from the store, nor is their response stored."""


class PurgeMethod(Settings):
    """Purges by the method PURGE."""

    allow: Some[Network]
    """Networks or addresses of the clients that may purge; others get 403."""


class Cache(Filter, name="cache", phase=Phase.CACHE):
    """Response cache: answer requests with stored responses of the upstream, as a shared cache (RFC 9111).

    Responses say whether they are stored, and for how long they are fresh: `Cache-Control`, `Expires`,
    `CDN-Cache-Control` and `fastgw-Cache-Control` (RFC 9213), `Vary`, and `No-Vary-Search` for query parameters that
    make no difference. Stale responses are validated with `ETag` or `Last-Modified`. Equal requests at the same time
    are one request to the upstream, over all workers; the waiting clients get the response while it arrives.
    Conditional requests, HEAD and single ranges are answered from the stored response to a GET. HEAD requests that none
    answers are forwarded each by itself, as no response to them is stored. A successful POST, PUT, PATCH or DELETE, and
    any other unsafe method, removes what is stored for its URL on this node and in Redis; other nodes keep what they
    have until it is stale or purged.

    The key is what was routed and what is forwarded: route, scheme, port of the listener, host, path, query, upstream,
    the `host_header` and `use` of the variant if the route has `variants`, and the name of a listener that has filters
    of its own. If the route changes the path, both are part of it, the client's and the one that is sent: two URLs of
    clients for which the same path is sent have a response each, because a purge names the URL of clients.
    Headers that change what many upstreams answer without being part of the key (`X-Forwarded-Host`, `X-Original-URL`,
    `X-Forwarded-Uri`, `X-Script-Name`, `X-HTTP-Method-Override` and the like) and bodies of GET requests do not
    reach the upstream, unless they are in `key`; with `forwarded: pass` neither do `X-Forwarded-Proto` and `Forwarded`.
    Scheme, host, port and prefix that trusted proxies report are a part of the key. A filter `headers` that would send
    a value of one of them, or of a query parameter that is not in `key.query`, is refused when the configuration is
    loaded, unless the header that it writes is in `key.headers`.
    Responses to clients that have authenticated are only stored if they are marked `public` or `s-maxage`, or with
    `vary_by: [consumer]`. Responses to requests with `Authorization`, the client's own or one that a filter writes for
    it (`access_token_header` of `credentials`, `headers` with values of the request), are only stored if they are
    marked `public`, `s-maxage` or `must-revalidate` (RFC 9111 section 3.5), unless it is in `key.headers`; the
    gateway's own credentials are the same for all. Responses with `Set-Cookie` are not stored.

    Responses of `compose` and `lambda` are stored as a whole. Their key also has the values of the request that the
    parts are made of. An incomplete composition is not stored, nor is the status of a required part that has failed.

    The filter runs behind authentication and limits, so a stored response is only sent to those that may get it.
    Every response has `Cache-Status` (RFC 9211), also of the gateway itself, unless a filter answers before the cache
    is asked.
    """

    store: Name = "main"
    """Name of the store in `caches`. The store `main` always exists."""
    ttl: Duration | None = None
    """Freshness of responses that do not state any; null = they are not stored, unless `Last-Modified` allows a
    heuristic of a tenth of their age. Caches count in seconds: a part of one counts as one, here and in the settings
    below. Only for statuses whose responses hold for longer (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501) and
    for responses with `public`; others, such as 302, 401, 429 or 500, have to state it, or need `ttl_by_status`."""
    ttl_by_status: Mapping[StatusCode, Duration] = NONE
    """Freshness of responses that do not state any, by status, such as `{404: 10s}`; it wins over `ttl`."""
    override_ttl: Duration | None = None
    """Freshness of responses in place of what they state, for the statuses of `ttl` and responses with `public`; others
    are fresh for at most as long. `no-store` and `private` are still obeyed, and so is `no-cache`: such a response is
    validated on each use, and not stored if it has no validator (`ETag`, `Last-Modified`)."""
    stale_while_revalidate: Duration | None = None
    """Maximum time since a response became stale in which it may be sent while it is validated in the background (RFC
    5861); null = only as responses say."""
    stale_if_error: Duration | None = None
    """Maximum time since a response became stale in which it may be sent if the upstream answers 500, 502, 503 or 504,
    or not properly; null = only as responses say."""
    stale_when_unreachable: Duration = 3600.0
    """Maximum time since a response became stale in which it may be sent if no target can be reached or the circuit
    breaker is open, unless the response forbids it (`must-revalidate`, `proxy-revalidate`, `no-cache`, `s-maxage`)."""
    key: CacheKey = CacheKey()
    """Parts of the cache key in addition to route, scheme, host, path and upstream."""
    vary_by: tuple[Literal["consumer"], ...] = ()
    """`consumer`: each authenticated consumer has responses of its own, stored as if they were public."""
    content_types: tuple[MediaType, ...] = ()
    """Media types that are stored: `text/html`, `text/*`, `application/*+json`. Other responses, and those without
    `Content-Type`, are not. [] = all."""
    storage_ttl: Annotated[Duration, Meta(ge=1)] | None = None
    """Maximum time that a response is kept after it was received or last validated, fresh or stale: as long it can be
    validated, or sent by `stale_if_error` and the like. Afterwards it is fetched as if it had never been stored. null =
    until its space is needed."""
    dangerously_ignore_cache_control: bool = False
    """Whether `Cache-Control` and `Expires` of responses are ignored, `private`, `no-store` and `no-cache` among them:
    what the upstream means for one client is then sent to all. Only for an upstream of which it is known that no
    response depends on who asks. Freshness is that of `ttl_by_status`, `ttl` or `override_ttl`. `CDN-Cache-Control` and
    `fastgw-Cache-Control` are obeyed. Responses with `Set-Cookie`, and those to clients that have authenticated, to
    requests with `Authorization` and with cookies, are still not stored, unless another setting allows it."""
    store_set_cookie: bool = False
    """Whether responses with `Set-Cookie` are stored, with the cookie, for all clients."""
    max_variants: Annotated[int, Meta(ge=1, le=1024)] = 32
    """Maximum number of responses that are stored for a URL because of `Vary`; beyond it the oldest one is removed."""
    lock_timeout: Duration = 5.0
    """Maximum time that a request waits for the response to an equal one; then it is forwarded itself."""
    methods: Some[Method] = _CACHEABLE
    """Methods that may be answered from the store: GET, HEAD and POST. With POST, for an API whose POST requests only
    read, as queries of GraphQL: the key has the body, `Content-Type`, `Content-Encoding` and `Content-Language`, and a
    POST removes nothing from the store. Responses to GET and POST are stored."""
    body_bytes: Annotated[Size, Meta(ge=1, le=1024 * 1024)] = 64 * 1024
    """Maximum size of the body of a POST with which `methods` has to do: it is received before the store is asked. A
    request with a longer one is forwarded past the cache."""
    bypass: Bypass | None = None
    """Requests that are forwarded past the cache; null = none."""
    tag_header: tuple[FieldName, ...] = ("Surrogate-Key", "Cache-Tag")
    """Response headers with the tags for purges, separated by spaces or commas. A response with
    more than 500 is not stored."""

    purge_method: PurgeMethod | None = None
    """Clients that may purge a URL, with all its variants, by a request to it with the method PURGE, which is answered
    200 with the number of objects: `{"objects":2}`, and with `"holds_after_restart":false` if a restart of the gateway
    may undo the purge, as `POST /cache/purge` is. With the header `Fastgw-Soft-Purge: 1` they become stale instead of
    being removed. It reaches all nodes, as `fastgw purge` does. null = PURGE is forwarded like any other method."""

    def __post_init__(self) -> None:
        if not {*self.methods} <= {*_CACHEABLE, "POST"}:
            raise ValueError("methods: expected GET, HEAD and POST, or some of them")
        if (
            self.dangerously_ignore_cache_control
            and self.ttl is None
            and not self.ttl_by_status
            and (self.override_ttl is None)
        ):
            raise ValueError(
                "`dangerously_ignore_cache_control` leaves responses without freshness; expected `ttl`, "
                "`ttl_by_status` or `override_ttl` besides"
            )

    def store_names(self) -> Iterable[tuple[str, str]]:
        return (("store", self.store),)

    def warnings(self, context: WarningContext) -> Iterable[str]:
        if context.protocols == {"grpc"}:
            yield "all upstreams behind it speak gRPC, whose responses are not cached"
        if self.dangerously_ignore_cache_control:
            yield (
                "`dangerously_ignore_cache_control`: responses that the upstream marks as private or no-store are "
                "stored, and sent to all clients"
            )
        if context.only_own_answers:
            yield f"{_OWN_RESPONSES}: the filter has no effect here"
        if context.methods and context.methods.isdisjoint((*self.methods, "GET")):
            methods = " and ".join(sorted(context.methods))
            yield f"{methods} requests are not answered from the cache: the filter has no effect here"
        if "consumer" in self.vary_by and not context.identified and not context.client_certificates:
            yield "`vary_by: [consumer]` has no effect: no filter before it authenticates clients"

    @property
    def unknown_in_shadow(self) -> str:
        return "stored responses"

    def build(self, env: Env) -> Hooks:
        tiers = _tiers_of(env.follow_caches().get(self.store))
        policy = self._compiled(env.shared(("cache", "ready answers"), ReadyMemory))
        may_purge = None if self.purge_method is None else address_check(self.purge_method.allow, ())
        steps = CacheSteps(policy, self.body_bytes, may_purge)

        def start(services: Services) -> None:
            steps.announce = services.announce_purge
            policy.worker_loop, policy.count = services.worker_loop, services.count_cache_miss
            store = services.caches(self.store)
            if store is not None:
                policy.store, policy.has_store = store, True
                if policy.ready is not None:
                    policy.ready.store = store

        def explain(exchange: Exchange) -> str:
            return self._explained(policy, exchange, tiers, may_purge)

        return Hooks(
            response=ResponseHook(steps.response, lines=ResponseLines((b"cache-status",))),
            request_body=None
            if _POST not in policy.methods
            else BodyHead(
                lambda exchange: None,
                self.body_bytes + 1,  # of a longer one, one byte more is seen
                lambda exchange: exchange.method == _POST and not exchange.head.upgrade,
                skips_calls=True,
            ),
            translate=TranslateHook(
                steps.translate,
                of_copies=steps.translate_copy,
                ready=None if policy.ready is None or policy.by_consumer else policy.ready.find,
            ),
            start=start,
            explain=explain,
        )

    def _compiled(self, ready_memory: ReadyMemory) -> CachePolicy:
        headers = tuple(sorted(name.lower().encode() for name in self.key.headers))
        cookies = tuple(sorted(name.encode() for name in self.key.cookies))
        by_consumer = "consumer" in self.vary_by
        return CachePolicy(
            store_name=self.store,
            storing=self._rules(identity_in_key=False),
            storing_apart=self._rules(identity_in_key=True),
            query_rule=self.key.query_rule(),
            key_headers=headers,
            key_cookies=cookies,
            by_consumer=by_consumer,
            methods=frozenset(method.encode() for method in self.methods),
            lock_timeout=self.lock_timeout,
            max_variants=self.max_variants,
            bypass_header=None if self.bypass is None else self.bypass.header.lower().encode(),
            tag_headers=tuple(name.lower().encode() for name in self.tag_header),
            ready_memory=ready_memory,
        )

    def _rules(self, *, identity_in_key: bool) -> StorePolicy:
        """Return what decides whether a response is stored."""
        return StorePolicy(
            ttl=None if self.ttl is None else _seconds(self.ttl),
            ttl_by_status={int(status): _seconds(ttl) for status, ttl in self.ttl_by_status.items()},
            override_ttl=None if self.override_ttl is None else _seconds(self.override_ttl),
            stale_while_revalidate=_seconds(self.stale_while_revalidate or 0),
            stale_if_error=_seconds(self.stale_if_error or 0),
            stale_when_unreachable=_seconds(self.stale_when_unreachable),
            store_set_cookie=self.store_set_cookie,
            content_types=frozenset(each.encode() for each in self.content_types),
            storage_ttl=None if self.storage_ttl is None else _seconds(self.storage_ttl),
            ignores_cache_control=self.dangerously_ignore_cache_control,
            cookies_in_key="cookie" in map(str.lower, self.key.headers),
            identity_in_key=identity_in_key,
        )

    def _explained(
        self,
        policy: CachePolicy,
        exchange: Exchange,
        tiers: str,
        may_purge: Callable[[str], tuple[bool, str]] | None,
    ) -> str:
        """Say what the cache does with a request, as far as it is known without the store and the response."""
        action = None if exchange.route is None else exchange.route.action
        if action is not None and not isinstance(action, Forward | ResponseAction):
            return f"has no effect: {_OWN_RESPONSES}"
        if exchange.method not in policy.methods:
            if may_purge is not None and exchange.method == b"PURGE":
                passes, denied = may_purge(exchange.client_ip)
                return "answers 200 and purges the URL" if passes else f"answers 403: {denied}"
            effect = "; a success removes what is stored for its URL" if invalidates(exchange.method, 200) else ""
            return f"forwards {exchange.method.decode('ascii', 'replace')} past the cache{effect}"
        why = _why_past(policy, exchange)
        if why is not None:
            return f"forwards it past the cache: {why}"
        parts = [purge_url(exchange, policy.query_of(exchange)).decode("latin-1")]
        parts += (name.decode() for name in (*policy.key_headers, *policy.key_cookies))
        parts += ("consumer",) if policy.by_consumer else ()
        parts += ("body",) if exchange.method == _POST else ()
        told = f"store {self.store}{tiers}, key {' + '.join(parts)}"
        return "; ".join((told, *_conditions(policy, exchange), *self._lifetimes()))

    def _lifetimes(self) -> Iterable[str]:
        """Say how long responses are fresh, and how long they may be sent stale, by the settings."""
        if self.override_ttl is not None:
            ttl = _shown(self.override_ttl)
            yield f"fresh for {ttl}, whatever the response says (at most {ttl}, if `ttl` is not for its status)"
        else:
            defaults = [] if self.ttl is None else [_shown(self.ttl)]
            defaults += [f"{_shown(ttl)} for {status}" for status, ttl in self.ttl_by_status.items()]
            yield f"fresh for as long as the response says{', else ' if defaults else ''}{', '.join(defaults)}"
        for stale_for, when in (
            (self.stale_while_revalidate, "while it is validated"),
            (self.stale_if_error, "on errors of the upstream"),
            (self.stale_when_unreachable, "if no target can be reached"),
        ):
            if stale_for is not None:
                yield f"stale up to {_shown(stale_for)} {when}"


def _tiers_of(store: CacheStore | None) -> str:
    """Return what `explain` says about the slower tiers of a store."""
    tiers = [] if store is None else [name for name, tier in (("disk", store.disk), ("Redis", store.redis)) if tier]
    return f" ({', '.join(['memory', *tiers])})" if tiers else ""


def _why_past(policy: CachePolicy, exchange: Exchange) -> str | None:
    """Say why a request with a method of the cache is forwarded past it, as `translate` decides; None: it is not."""
    head, action = exchange.head, None if exchange.route is None else exchange.route.action
    if isinstance(action, Forward) and action.grpc:
        return "it is a gRPC call"
    if head.upgrade:
        return "it asks for another protocol"
    for name in (policy.bypass_header, *FOR_ORIGIN):
        if name is not None and head.first(name) is not None:
            return f"it has {name.decode()}"
    return None


def _conditions(policy: CachePolicy, exchange: Exchange) -> Iterable[str]:
    """Say what the request requires of the cache, and of responses that are stored."""
    directives, is_known = parse_request(exchange.head), is_authenticated(exchange)
    if directives.only_if_cached:
        yield "answers 504 unless a response is stored, as the request says only-if-cached"
        return
    if exchange.method == b"HEAD":
        yield "stores only responses to GET"
        return
    if directives.no_store:
        yield "stores nothing, as the request says no-store"
        return
    identity, cookies = find_identity(
        exchange.head,
        policy.storing_of(exchange.consumer, is_authenticated=is_known),
        authenticated=is_known,
        authorized=exchange.sends_client_authorization,
    )
    if identity is RequestIdentity.CONSUMER:
        yield "stores only what says public or s-maxage, as the client has authenticated"
    elif identity is RequestIdentity.AUTHORIZATION:
        yield "stores only what says public, s-maxage or must-revalidate, as the request has Authorization"
    if cookies:
        yield "stores only what states its freshness itself, as the request has cookies"


def _seconds(duration: float) -> int:
    """Return whole seconds, which caching counts in: a part of a second counts as one."""
    return ceil(duration)


def _shown(duration: float) -> str:
    return write_duration(_seconds(duration))
