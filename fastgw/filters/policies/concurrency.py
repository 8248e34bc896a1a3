"""concurrency: limit concurrent requests, with a fixed or an adaptive limit."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from time import monotonic
from typing import Annotated, Final, Literal, final

from msgspec import Meta

from fastgw.config.base.value_types import Duration, FieldName, Identity, Percent, Trait, count_within
from fastgw.config.settings.gateway import NONE, Settings
from fastgw.filters.api import (
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Outcome,
    Phase,
    RequestHook,
    Services,
    WarningContext,
)
from fastgw.filters.limiting.adaptive_concurrency import AdaptiveLimit
from fastgw.filters.limiting.counter_store import give_back
from fastgw.filters.limiting.keys import KEY, are_of_somebody, key_of, key_warnings, traits_of
from fastgw.shm.node_limits import Cells, KeyCounts

Key = Annotated[Trait, KEY]
Level = Literal["high", "normal", "low"]
_HIGH_FIRST: Final[tuple[Level, ...]] = ("high", "normal", "low")
_FAULTS: Final = {503: Fault.OVERLOADED, 429: Fault.TOO_MANY_AT_ONCE}
_STRAINED: Final = frozenset(
    (
        Fault.CONNECT_REFUSED,
        Fault.CONNECT_TIMEOUT,
        Fault.CONNECTION_LOST,
        Fault.UPSTREAM_TIMEOUT,
        Fault.POOL_FULL,
        Fault.POOL_TIMEOUT,
    )
)
"""Faults of an upstream that is overloaded."""
_STRAINED_STATUSES: Final = frozenset((429, 503, 504))


class Adaptive(Settings):
    """Adaptive limit: it grows while the latency of the upstream stays as low as with few requests in flight, and
    shrinks as soon as latency rises or the upstream refuses requests.

    Each worker has a limit of its own, from its own measurements; `min` and `max` apply to the node and are divided
    evenly among the workers, so that together they admit `max` at most. Each worker admits at least one request: with a
    `max` below the number of workers, as many as there are workers may be in flight.
    """

    min: Annotated[int, Meta(ge=1)] = 10
    """Minimum of the limit, and its initial value. Each worker has at least one."""
    max: Annotated[int, Meta(ge=1)] = 1000
    """Maximum of the limit."""
    tolerance: Annotated[float, Meta(ge=1.1, le=10.0)] = 1.5
    """Latency that is accepted, as a multiple of the usual one; up to this, requests may queue in the upstream."""

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError("`min` is above `max`")


class Priority(Settings):
    """Priority of requests: requests of lower levels are refused first as load rises."""

    groups: Mapping[Identity, Level] = NONE
    """Levels by groups of the consumer; with several groups, the highest level counts."""
    header: FieldName | None = None
    """Request header with the value `high`, `normal` or `low`; it takes precedence over `groups`. Clients can send any
    value: a proxy in front, or a filter that runs before, should set or remove the header."""
    default: Level = "normal"
    """Level of all other requests."""
    normal: Percent = 0.9
    """Share of the limit for requests of level normal, above which they are refused. Requests of level high may use the
    whole limit."""
    low: Percent = 0.5
    """Share of the limit for requests of level low, above which they are refused."""

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.normal <= 1.0:
            raise ValueError("expected `low` above 0 %, not above `normal`, and neither above 100 %")


class Concurrency(Filter, name="concurrency", phase=Phase.LIMIT_CONSUMER, order=20):  # type: ignore[literal-required]  # order: ours
    """Limit concurrent requests, exactly for the node. Requests above the limit are refused at once.

    A request is in flight from this filter until its response has been sent, a WebSocket until it is closed. If a
    worker is killed, its requests no longer count. Best used at an upstream, so that all of its routes count together;
    at a route, only requests of that route count.
    """

    limit: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    """Maximum number of requests in flight. null = the limit of `adaptive`."""
    key: Key | tuple[Key, ...] = ()
    """Key to count by: `ip`, `consumer` (the client's address if there is no consumer), `route`, `host`, `header:NAME`,
    `cookie:NAME`, `claim:NAME`, or a list, of which each combination is counted separately. Requests without the
    header, cookie or claim are counted together. Headers and cookies are those of the request as filters before this
    one have changed it. [] = all requests together.

    Keys are counted in a fixed amount of memory, so that some share a counter by chance. A shared counter is too high,
    never too low: this affects less than 1 key in 40 when requests of as many keys are in flight as
    `limits.connections` allows.
    """
    adaptive: Adaptive | None = None
    """Adaptive limit, instead of `limit`: it follows the capacity of the upstream."""
    ipv6_prefix: Annotated[int, Meta(ge=1, le=128)] = 64
    """Length of the IPv6 prefix that identifies a client: a subscriber has at least a /64."""
    priority: Priority | None = None
    """Priority of requests under load. null = all requests are equal."""
    status: Literal[503, 429] = 503
    """Status of refused requests."""
    retry_after: Duration = 1.0
    """Value of `Retry-After`, in whole seconds: the time after which a client may try again."""

    def __post_init__(self) -> None:
        if (self.limit is None) == (self.adaptive is None):
            raise ValueError("expected exactly one of `limit` and `adaptive`")
        if self.adaptive is not None and self.key:
            raise ValueError("`adaptive` limits the upstream as a whole; `key` is not allowed with it")

    @property
    def asks_who(self) -> bool:
        """Whether it depends on the client's identity."""
        by_group = self.priority is not None and bool(self.priority.groups)
        return by_group or are_of_somebody(self.traits)

    @property
    def traits(self) -> Sequence[Trait]:
        return traits_of(self.key)

    def warnings(self, context: WarningContext) -> Iterable[str]:
        return key_warnings(context, self.asks_who, () if self.priority is None else self.priority.groups)

    def build(self, env: Env) -> Hooks:
        fault = _FAULTS[self.status]
        fields = ((b"Retry-After", b"%d" % ceil(self.retry_after)),)
        level_of, shares = _levels(self.priority)
        instance = env.instance

        def refuse(exchange: Exchange, level: Level) -> Outcome:
            why = "" if self.priority is None else f" for requests of {level} priority"
            give_back(exchange.limits)
            exchange.limits = None
            exchange.client.counts.count_refusal(exchange, instance)
            return exchange.refuse(fault, None, fields, f"the limit is reached{why}")

        if self.adaptive is not None:
            return self._adaptive(env, self.adaptive, level_of, shares, refuse)
        assert self.limit is not None
        return self._fixed(env, self.limit, level_of, shares, refuse)

    def _fixed(
        self, env: Env, limit: int, level_of: "LevelOf", shares: Mapping[Level, float], refuse: "Refuse"
    ) -> Hooks:
        most = {level: max(1, count_within(share, limit)) for level, share in shares.items()}
        read = key_of(self.traits, self.ipv6_prefix, _use(env).encode())
        keyed = bool(self.traits)
        held: dict[Exchange, Cells] = {}
        together: Cells = ()
        services: Services | None = None

        def start(given: Services) -> None:
            nonlocal services, together
            services = given
            together, _ = cells_of(given.in_flight, _use(env))

        def request(exchange: Exchange) -> Outcome:
            if services is None:  # nothing is served in this process
                return None
            level = level_of(exchange)
            cells = services.in_flight.cells(read(exchange)) if keyed else together
            if not services.in_flight.try_take(cells, most[level]):
                return refuse(exchange, level)
            held[exchange] = cells
            return None

        def finish(exchange: Exchange) -> None:
            cells = held.pop(exchange, None)
            if cells is not None and services is not None:
                services.in_flight.give_back(cells)

        def explain(exchange: Exchange) -> str:
            level, each = level_of(exchange), f" by {' and '.join(map(str, self.traits))}" if keyed else ""
            of = "" if self.priority is None else f" of {limit}, with {level} priority"
            return f"while fewer than {most[level]} are in flight{each}{of}"

        return Hooks(
            request=RequestHook(request, would=lambda exchange: None), finish=finish, start=start, explain=explain
        )

    def _adaptive(
        self, env: Env, adaptive: Adaptive, level_of: "LevelOf", shares: Mapping[Level, float], refuse: "Refuse"
    ) -> Hooks:
        name = _use(env)
        own = env.shared(("concurrency", name, adaptive), lambda: Divided(adaptive, name))
        limit = own.limit
        held: dict[Exchange, float] = {}

        use, start = own.use, own.start

        def request(exchange: Exchange) -> Outcome:
            level = level_of(exchange)
            if not limit.try_take(shares[level]):
                return refuse(exchange, level)
            held[exchange] = monotonic()
            use(1)
            return None

        def finish(exchange: Exchange) -> None:
            taken_at = held.pop(exchange, None)
            if taken_at is None:
                return
            use(-1)
            now, fault, body = monotonic(), exchange.fault, exchange.request_body
            if exchange.upstream_s >= 0.0:
                seconds = exchange.begun_at + exchange.upstream_s - taken_at
                status = 0 if exchange.response is None else exchange.response.status
                limit.record_response(now, taken_at, seconds, status in _STRAINED_STATUSES)
            elif fault in _STRAINED and (body is None or body.ended):
                limit.record_response(now, taken_at, now - taken_at, failed=True)
            elif fault is Fault.CLIENT_LEFT:
                limit.client_left(now, taken_at, now - taken_at)
            else:
                limit.give_back()

        def explain(exchange: Exchange) -> str:
            of = "" if self.priority is None else f"; {shares[level_of(exchange)]:.0%} of it with its priority"
            return f"while no more are in flight than the adaptive limit, {adaptive.min} to {adaptive.max}{of}"

        return Hooks(
            request=RequestHook(request, would=lambda exchange: None), finish=finish, start=start, explain=explain
        )


@final
class Divided:
    """Worker's share of an adaptive limit. Its value is also stored among the requests in flight, for metrics."""

    def __init__(self, adaptive: Adaptive, name: str) -> None:
        self._bounds = _Bounds(adaptive)
        self._name = name
        self._counts: KeyCounts | None = None
        self._in_use: Cells = ()
        self._limits: Cells = ()
        self._counted_limit = 0
        self.limit = AdaptiveLimit(self._bounds.now, adaptive.tolerance)

    def __del__(self) -> None:
        if self._counts is not None:
            self._counts.add_permits(self._limits, -self._counted_limit)

    def start(self, services: Services) -> None:
        self._bounds.workers, self._bounds.slot = services.workers, services.slot
        if self._counts is None:
            self.limit.use_bounds()
            self._counts = services.in_flight
            self._in_use, self._limits = cells_of(services.in_flight, self._name)
            self.use(0)

    def use(self, requests: int) -> None:
        """Count this many more requests in flight."""
        if self._counts is None:
            return
        self._counts.add_permits(self._in_use, requests)
        limit = int(self.limit.limit)
        if limit != self._counted_limit:
            self._counts.add_permits(self._limits, limit - self._counted_limit)
            self._counted_limit = limit


@final
class _Bounds:
    """Bounds of the adaptive limit of one worker, its share of the node's. A separate object, to avoid a reference
    cycle. `slot`: number of the worker, from 0.

    The maximum is a whole number, because a limit is rounded up when it admits requests: the first workers have the
    remainder.
    """

    def __init__(self, adaptive: Adaptive) -> None:
        self.workers: Callable[[], int] = lambda: 1
        self.slot = 0
        self._least, self._most = adaptive.min, adaptive.max

    def now(self) -> tuple[float, float]:
        workers = self.workers()
        most = max(1, self._most // workers + (self.slot < self._most % workers))
        return min(max(1.0, self._least / workers), most), most


def scope(level: str, route: str | None, instance: str) -> str:
    """Return the identity of a use of the filter, the same in all workers and after a reload."""
    return f"concurrency\n{level}\n{route if level == 'route' else None}\n{instance}"


def _use(env: Env) -> str:
    return scope(env.level, env.route, env.instance)


def cells_of(counts: KeyCounts, name: str) -> tuple[Cells, Cells]:
    """Return the cells for the requests in flight of one use, and the cells for its limit if that is adaptive."""
    return counts.cells(name.encode()), counts.cells(f"{name}\nlimit".encode())


LevelOf = Callable[[Exchange], Level]
Refuse = Callable[[Exchange, Level], Outcome]


def _levels(priority: Priority | None) -> tuple[LevelOf, Mapping[Level, float]]:
    """Return the function from a request to its level, and the share of the limit for each level."""
    if priority is None:
        return lambda exchange: "high", {"high": 1.0}
    named = {level.encode(): level for level in _HIGH_FIRST}
    header = None if priority.header is None else priority.header.lower().encode()
    groups, default = priority.groups, priority.default

    def level_of(exchange: Exchange) -> Level:
        if header is not None:
            values = exchange.current_values(header)
            level = named.get(values[0]) if values else None
            if level is not None:
                return level
        if groups and exchange.consumer is not None:
            levels = {groups[group] for group in exchange.consumer.groups if group in groups}
            return next((level for level in _HIGH_FIRST if level in levels), default)
        return default

    return level_of, {"high": 1.0, "normal": priority.normal, "low": priority.low}
