"""rate_limit: limit the request rate, exactly for all workers of the node, or for all nodes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from math import ceil
from time import monotonic_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, final

from msgspec import Meta

from fastgw.config.base.value_types import FieldName, Method, Notation, Trait, parse_identity, write_duration
from fastgw.config.settings.gateway import NONE, Some
from fastgw.filters.api import (
    Duration,
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Network,
    Outcome,
    Phase,
    Reply,
    RequestHook,
    ResponseHook,
    Services,
    Settings,
    WarningContext,
)
from fastgw.filters.limiting.counter_store import Algorithm, LimitDecision, LimitSpec, NodeCounterStore, give_back
from fastgw.filters.limiting.keys import KEY, are_of_somebody, key_of, key_warnings, traits_of
from fastgw.filters.limiting.response_headers import LIMIT_LINES, LimitHeaders, Style, refusal, set_tightest_headers
from fastgw.filters.policies.ip.address_check import address_check
from fastgw.http.http1.methods import knows_method
from fastgw.observe.metrics.families import FilterEvent
from fastgw.shm import rate_limit_table
from fastgw.shm.rate_limit_table import Limit

if TYPE_CHECKING:
    from fastgw.filters.limiting.redis_counter_store import RedisCounters

SOON: Final = 0.0005
"""Seconds below which a request does not wait for its turn: timers are not finer."""

Key = Annotated[Trait, KEY]
GroupName = Annotated[str, Notation("the name of a group of consumers", parse_identity, {"type": "string"})]
MOST: Final = 10**9
Permits = Annotated[int, Meta(ge=1, le=MOST)]
Burst = Annotated[int, Meta(ge=0, le=MOST)]
_MOST_OF_WINDOW: Final[Mapping[Algorithm, int]] = MappingProxyType(
    {"sliding_window": rate_limit_table.SLIDING_MAX, "fixed_window": rate_limit_table.COUNT_MAX}
)


class GroupLimit(Settings):
    """Limit of the consumers of a group, instead of the general one."""

    limit: Permits
    """Maximum number of requests in a window."""
    window: Duration | None = None
    """Window of the limit. null = that of the filter."""
    burst: Burst | None = None
    """Burst of the limit. null = the default, derived from `limit` as for the filter."""


class Cost(Settings):
    """Cost of a request in permits. Default: 1."""

    methods: Mapping[Method, Burst] = NONE
    """Cost by method, such as `{POST: 5}`. 0 = free."""
    response_header: FieldName | None = None
    """Response header in which the upstream reports the cost of the request, a whole number. If it is higher than the
    cost counted at first, the difference is counted afterwards, even if it is more than what is left: the client goes
    into overdraft, by at most the burst. If it is lower, the difference is given back. Without the header, nothing
    changes. The header is forwarded to the client as well."""


class RateLimit(Filter, name="rate_limit", phase=Phase.LIMIT_CONSUMER):
    """Rate limiting: limit the number of requests in a window of time, per client address, consumer or other `key`.

    The limit applies to the node or, with `state`, to all nodes that share it. It is exact over all workers, and
    survives reloads, upgrades and dead workers. A new `burst` keeps the counts, and so does a new `limit` of
    `fixed_window` and `sliding_window`. `token_bucket` and `leaky_bucket` keep the time until the bucket is full: what
    was spent before counts in proportion to the new `limit` (50 requests of 200 count as 10 of 40, and 30 of 30 as 40
    of 40), so a higher limit admits clients that were refused only as the bucket refills. The same holds while nodes
    that share `state` have different limits. A new `window` or `algorithm`, or another name of the filter, starts again
    at zero. A filter on the gateway, a listener, an upstream or in a filter set counts all of its routes together; one
    on a route counts this route only. Requests above the limit are answered 429, with `Retry-After`, and do not count,
    neither here nor in other limits that admitted them before. A route may have any number of limits, each under its
    own name with `type: rate_limit`; all of them have to admit a request.

    On the gateway or a listener the filter runs before a route is found, for every request, if `key` and `groups` do
    not depend on the route or the identity of the client (`consumer`, `route`, `claim`). Only such limits count CORS
    preflights that the gateway answers.

    Up to a million keys at a time are counted separately, in 160 MiB of memory at most (32 MiB without sliding
    windows); a key takes 80 bytes (16). Further keys share counters: their requests may be refused because of others,
    but never admitted too often.
    """

    limit: Permits
    """Maximum number of requests in a `window`; at most 4194303 for `sliding_window`, 16777215 for `fixed_window`."""
    window: Duration
    """Window of time for `limit`; at least 200ms for `sliding_window` and `fixed_window`."""
    burst: Burst | None = None
    """For `token_bucket`: maximum number of requests that an idle client may send at once; null = `limit`. For
    `leaky_bucket`: maximum number of requests that wait; null = `limit`, but no more than pass within 10 s. The windows
    have no burst."""
    algorithm: Algorithm = "sliding_window"
    """`sliding_window`: at most `limit` requests in any interval as long as `window`, wherever it begins. A client that
    was refused waits no longer than `window`. Requests are counted in sevenths of the window, and those of a seventh
    are forgotten together, one window after the last of them: a client that always sends more gets at least 4/5 of the
    limit (6/7 with a window of a second or more).
    `token_bucket`: a bucket of `burst` permits, which is refilled evenly with `limit` permits per `window`: an idle
    client may send up to `burst` + `limit` requests in one window.
    `fixed_window`: at most `limit` requests in each window; windows begin at multiples of `window`, and around such a
    time up to twice as many may pass.
    `leaky_bucket`: requests pass one by one, at intervals of `window / limit`; requests that come earlier wait, at most
    `burst` of them."""
    scope: Literal["node", "shared"] | None = None
    """Scope of the counts if the configuration has `state`: `shared` = all nodes together in Redis, at the cost of a
    round trip to Redis; `node` = each node separately. null = `node` if the filter runs before a route is found, so
    that a flood from one address does not reach Redis, else `shared`. Nodes share counts of filters with the same name
    at the same place, by the clock of Redis. Redis stores hashes of keys, never their contents. While it is
    unreachable, `state.when_away` applies."""
    key: Key | Some[Key] = Trait("ip")
    """Key to count by: `ip`, `consumer` (the client's address if there is no consumer), `route`, `host`, `header:NAME`,
    `cookie:NAME`, `claim:NAME`, or a list, of which each combination is counted separately. Requests without the
    header, cookie or claim are counted together. Headers and cookies are those of the request as filters before this
    one have changed it."""
    ipv6_prefix: Annotated[int, Meta(ge=1, le=128)] = 64
    """Length of the IPv6 prefix that identifies a client: a subscriber has at least a /64."""
    exempt: tuple[Network, ...] = ()
    """Networks whose clients are neither counted nor limited."""
    cost: Cost = Cost()
    """Cost of a request in permits."""
    groups: Mapping[GroupName, GroupLimit] = NONE
    """Limits for the consumers of a group. If a consumer is in several of these groups, the first one here counts."""
    headers: Style = "draft"
    """Response headers about the limit: `draft` = `RateLimit-Policy` and `RateLimit`
    (draft-ietf-httpapi-ratelimit-headers); `legacy` = `X-RateLimit-Limit`, `-Remaining` and `-Reset`, in seconds from
    now; `legacy_epoch` = the same with `-Reset` as a Unix time; `none`. With several limits they describe the one with
    the fewest permits left. Headers with these names from the upstream are replaced."""

    def __post_init__(self) -> None:
        for name, terms in self.all_terms():
            self._check(name, terms)

    def _check(self, group: str, terms: LimitSpec) -> None:
        of = f" of the group {group}" if group else ""
        if (most := _MOST_OF_WINDOW.get(terms.algorithm)) is not None:
            if terms.burst is not None:
                raise ValueError(
                    f"`burst`{of} has no effect with {terms.algorithm}; leave it out, or set `algorithm: token_bucket`"
                )
            if terms.window < rate_limit_table.WINDOW_MIN:
                least = write_duration(rate_limit_table.WINDOW_MIN)
                raise ValueError(
                    f"`window`{of} is too short for {terms.algorithm}; expected {least} or more, or `algorithm: "
                    "token_bucket`"
                )
            if terms.limit > most:
                raise ValueError(
                    f"`limit`{of} is too high for {terms.algorithm}; expected {most} or less, or `algorithm: "
                    "token_bucket`"
                )
        elif terms.depth < 1:
            raise ValueError(f"`burst`{of} is 0, so every request would be refused; expected 1 or more")
        elif terms.depth * terms.step_s > rate_limit_table.SPAN_MAX_S:
            raise ValueError(f"`burst`{of} would take years to refill; expected less, or a shorter `window`")
        for method, cost in self.cost.methods.items():
            if cost > terms.depth:
                wrong = f"{method} costs {cost}, more than the bucket can ever hold{of}: {terms.depth}"
                raise ValueError(f"{wrong}; expected a lower cost")

    def all_terms(self) -> Iterable[tuple[str, LimitSpec]]:
        """Yield the general limit ("") and those of the groups."""
        yield "", LimitSpec(self.algorithm, self.limit, self.window, self.burst)
        for name, own in self.groups.items():
            window = self.window if own.window is None else own.window
            yield name, LimitSpec(self.algorithm, own.limit, window, own.burst)

    @property
    def traits(self) -> Sequence[Trait]:
        return traits_of(self.key)

    @property
    def asks_who(self) -> bool:
        """Whether it depends on the client's identity."""
        return bool(self.groups) or are_of_somebody(self.traits)

    @property
    def phase_of_listener(self) -> Phase:
        late = self.asks_who or any(trait.kind == "route" for trait in self.traits)
        return Phase.LIMIT_CONSUMER if late else Phase.LIMIT_CLIENT

    def warnings(self, context: WarningContext) -> Iterable[str]:
        last = max(terms.last_turn for _, terms in self.all_terms())
        if last > context.filter_timeout:
            most, given = write_duration(ceil(last)), f"{write_duration(context.filter_timeout)} (`timeouts.filters`)"
            yield f"the last request of the queue waits {most}, but filters may take {given}: it is answered 504"
        if self.scope == "shared" and not context.has_state:
            yield "`scope: shared` has no effect without `state`: each node counts for itself"
        for method in self.cost.methods:
            if not knows_method(method):
                yield f"`cost.methods`: {method} is always rejected: methods are case-sensitive"
        yield from key_warnings(context, self.asks_who, self.groups)

    def build(self, env: Env) -> Hooks:
        of_route = env.route if env.level == "route" else None
        # An early filter has no route and runs for every request.
        scope = self.scope or ("node" if env.route is None else "shared")
        state = env.state if scope == "shared" else None
        redis: RedisCounters | None = None
        if state is not None:
            from fastgw.filters.limiting.redis_counter_store import shared_by

            redis = shared_by(env, state)
        # A filter of 10,000 routes counts for all of them, and is built once.
        key = "rate_limit", env.level, of_route, env.instance, id(self), redis
        counts = env.shared(key, lambda: _Counts(self, f"{env.level}\n{of_route}\n{env.instance}", env.instance, redis))
        response: Callable[[Exchange], None] | None = None if self.headers == "none" else set_tightest_headers
        if self.cost.response_header is not None:
            response = counts.charging(self.cost.response_header, response)
        return Hooks(
            request=RequestHook(counts.step() if redis is None else counts.asking_step(), would=counts.would),
            response=ResponseHook(response, lines=LIMIT_LINES) if response is set_tightest_headers else response,
            start=counts.start,
            stop=None if redis is None else redis.limits.release,
            explain=counts.explain,
        )


@final
class _Group:
    """Limit with its counter store and response headers."""

    __slots__ = ("counter_store", "limit", "limit_headers", "longest", "name", "rounded", "spend", "terms", "why")

    def __init__(self, name: str, terms: LimitSpec, limit_headers: LimitHeaders | None, why: str) -> None:
        self.name, self.terms, self.limit_headers, self.why = name, terms, limit_headers, why
        self.rounded, self.longest = terms.rounding
        self.counter_store: Any = _NOT_STARTED  # a `CounterStore`
        self.limit: Limit = _NOT_STARTED
        self.spend: Callable[[bytes, int, int], float] = _not_started


@final
class _Counts:
    """Rate limiting: one use of the filter, for all of its routes."""

    def __init__(self, settings: RateLimit, name: str, instance: str, redis: "RedisCounters | None" = None) -> None:
        self._settings = settings  # kept, because shared objects are found by its identity
        self._instance, self._redis = instance, redis
        self._name = name.encode()
        self.key_of = key_of(settings.traits, settings.ipv6_prefix)
        self._by = " and ".join(map(str, settings.traits))
        style = settings.headers
        everybody, *self._groups = [
            _Group(
                group,
                terms,
                None if style == "none" else LimitHeaders(style, instance, terms),
                f"{instance}: {terms.limit} per {write_duration(terms.window)} by {self._by}",
            )
            for group, terms in settings.all_terms()
        ]
        self._everybody = everybody
        self._matches_addresses = address_check(settings.exempt, ()) if settings.exempt else None
        methods = {method.encode(): cost for method, cost in settings.cost.methods.items()}
        self._costs: Mapping[bytes, int] | None = MappingProxyType(methods) if methods else None

    def start(self, services: Services) -> None:
        if self._redis is not None:
            self._redis.limits.hold_connection()
        for group in (self._everybody, *self._groups):
            if group.counter_store is _NOT_STARTED:
                group.counter_store = NodeCounterStore(services.cells, self._name, group.terms)
                group.limit = group.counter_store.limit
                group.spend = group.limit.spend
                if self._redis is not None:
                    group.counter_store = self._redis.counter_store(self._name, group.terms, group.counter_store)

    def step(self) -> Callable[[Exchange], Outcome]:
        """Return the request step of a limit that is counted on this node."""
        everybody, groups, matches_addresses, costs = (
            self._everybody,
            self._groups,
            self._matches_addresses,
            self._costs,
        )
        key_of, turns = self.key_of, self._everybody.terms.algorithm == "leaky_bucket"
        clock, group_of, instance = monotonic_ns, self._group_of, self._instance
        is_plain = not groups and matches_addresses is None and costs is None and not turns

        # PERF: 0.27 us by address, including key and hash; 0.4 with groups, costs or exempt networks (CPython 3.11,
        # micro/limits).
        def plain(exchange: Exchange) -> Outcome:
            key, spend, now = key_of(exchange), everybody.spend, clock()
            wait = spend(key, 1, now)
            if wait:
                return _refuse(exchange, instance, everybody, key, wait)
            exchange.limits = everybody.limit_headers, everybody.counter_store, key, 1, now, exchange.limits
            return None

        def request(exchange: Exchange) -> Outcome:
            if matches_addresses is not None and matches_addresses(exchange.client_ip)[0]:
                return None
            group = group_of(exchange) if groups else everybody
            key, cost, now = key_of(exchange), 1 if costs is None else costs.get(exchange.method, 1), clock()
            turn = 0.0
            if cost:
                wait = group.spend(key, cost, now)
                if wait:
                    return _refuse(exchange, instance, group, key, wait)
                if turns:
                    turn = group.counter_store.queue_delay(cost, now)
            exchange.limits = group.limit_headers, group.counter_store, key, cost, now, exchange.limits
            return _delay(turn) if turn > SOON else None

        return plain if is_plain else request

    def asking_step(self) -> Callable[[Exchange], Outcome]:
        """Return the request step of a limit whose counter store may have to wait."""

        def settled(exchange: Exchange, group: _Group, key: bytes, cost: int, verdict: LimitDecision) -> Outcome:
            if verdict.is_away:
                exchange.client.counts.count_filter(self._instance, FilterEvent.AWAY)
            if verdict.fault is not Fault.RATE_LIMITED:
                give_back(exchange.limits)
                exchange.limits, exchange.why = None, f"{self._instance}: the Redis of `state` is unreachable"
                return refusal(verdict.fault, verdict.wait)
            if verdict.wait:
                return _refuse(exchange, self._instance, group, key, verdict.wait, verdict.mark)
            exchange.limits = group.limit_headers, group.counter_store, key, cost, verdict.mark, exchange.limits
            return _delay(verdict.turn) if verdict.turn > SOON else None

        async def asked(
            exchange: Exchange, group: _Group, key: bytes, cost: int, verdict: Awaitable[LimitDecision]
        ) -> Reply | None:
            outcome = settled(exchange, group, key, cost, await verdict)
            return outcome if outcome is None or type(outcome) is Reply else await outcome

        def request(exchange: Exchange) -> Outcome:
            if self._matches_addresses is not None and self._matches_addresses(exchange.client_ip)[0]:
                return None
            group, key = self._group_of(exchange), self.key_of(exchange)
            cost = 1 if self._costs is None else self._costs.get(exchange.method, 1)
            if not cost:
                exchange.limits = group.limit_headers, group.counter_store, key, 0, 0, exchange.limits
                return None
            verdict = group.counter_store.spend(key, cost)
            settle = settled if type(verdict) is LimitDecision else asked
            return settle(exchange, group, key, cost, verdict)

        return request

    def _group_of(self, exchange: Exchange) -> _Group:
        consumer = exchange.consumer
        if consumer is not None:
            for group in self._groups:
                if group.name in consumer.groups:
                    return group
        return self._everybody

    def charging(self, name: str, then: Callable[[Exchange], None] | None) -> Callable[[Exchange], None]:
        """Return the response step of a limit whose cost is reported by the upstream."""
        field = name.lower().encode()

        def response(exchange: Exchange) -> None:
            answer = exchange.response
            assert answer is not None
            if answer.head is not None:
                cost_header = answer.head.first(field)
                if cost_header is not None and cost_header.isdigit() and len(cost_header) <= _DIGITS:
                    self._settle(exchange, int(cost_header))
            if then is not None:
                then(exchange)

        return response

    def _settle(self, exchange: Exchange, cost: int) -> None:
        """Charge the cost of a request, of which a part was spent before."""
        counter_stores = [group.counter_store for group in (self._everybody, *self._groups)]
        record = exchange.limits
        while record is not None:
            _, counter_store, key, spent, mark, record = record
            if counter_store in counter_stores:
                if cost > spent:
                    counter_store.charge(key, cost - spent, mark)
                elif spent > cost:
                    counter_store.refund(key, spent - cost, mark)

    # for explain and shadow mode

    def would(self, exchange: Exchange) -> Outcome:
        self.key_of(exchange)
        if self._groups:
            self._group_of(exchange)
        return None

    def explain(self, exchange: Exchange) -> str:
        if self._matches_addresses is not None and (verdict := self._matches_addresses(exchange.client_ip))[0]:
            return f"exempt: {verdict[1]}"
        group = self._group_of(exchange)
        cost = 1 if self._costs is None else self._costs.get(exchange.method, 1)
        of = f" of the group {group.name}" if group.name else ""
        counts = f"counts {cost} of {group.terms.limit} per {write_duration(group.terms.window)}{of} by {self._by}"
        if self._redis is not None:
            return f"if any are left for all nodes, in the Redis of `state` (not queried here): it {counts}"
        if group.counter_store is _NOT_STARTED:
            return f"if any are left: it {counts}"
        permits, _ = group.counter_store.remaining(self.key_of(exchange), None)
        return f"{counts}; {permits} remaining"


def _refuse(exchange: Exchange, instance: str, group: _Group, key: bytes, wait: float, mark: Any = None) -> Outcome:
    exchange.client.counts.count_refusal(exchange, instance)
    if exchange.limits is not None:
        give_back(exchange.limits)
    exchange.limits = group.limit_headers, group.counter_store, key, 0, mark, None
    exchange.why = group.why
    return refusal(Fault.RATE_LIMITED, min(wait - group.rounded, group.longest))


async def _delay(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _not_started(key: bytes, cost: int, now: int) -> float:
    raise RuntimeError("a limit has to be started before it is asked")


_NOT_STARTED: Final[Any] = None
_DIGITS: Final = 12
