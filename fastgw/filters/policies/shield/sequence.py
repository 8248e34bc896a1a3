"""sequence: a call is only allowed after other ones of the same client, within a time."""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from time import monotonic_ns
from typing import TYPE_CHECKING, Annotated, Any, Final, final

from msgspec import Meta

from fastgw.config.base.problems import format_value, suggest
from fastgw.config.base.settings_base import Some
from fastgw.config.base.settings_codec import digest
from fastgw.config.base.value_types import Name, Trait, write_duration
from fastgw.filters.api import (
    Duration,
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    Services,
    WarningContext,
)
from fastgw.filters.limiting.keys import KEY, are_of_somebody, complete_key_of, key_warnings, traits_of
from fastgw.filters.limiting.response_headers import refusal
from fastgw.observe.metrics.families import FilterEvent
from fastgw.shm.rate_limit_table import Limit

if TYPE_CHECKING:
    from fastgw.filters.limiting.redis_counter_store import RedisCalls, RedisCounters

_TRIES: Final = 3
_NOT_STARTED: Final[Any] = None


class CallSequence(Filter, name="sequence", phase=Phase.LIMIT_CONSUMER, order=50):  # type: ignore[literal-required]  # order: ours
    """Allow a call only after another one of the same client, as in a checkout: those who skip a step are automated.

    The filter stands on all routes of the sequence, with equal settings: at the gateway or in a filter set; `check`
    notes those without it, whose calls do not count for the next route. The first route is open to all; each other one
    is answered 403 unless the client has called the one before it within the time, and got a status below 400. Routes
    that are not in the list are not affected.

    The calls are kept in the node's table of rate limits, exactly for all workers, and with `state` in Redis as well,
    for all nodes. Redis is asked only about calls that the node itself does not know. While it is unreachable, the
    node's own calls count, or with `state.when_away: refuse` the others are answered 503. A call counts on other nodes
    as soon as Redis has it, to which it is sent with the response.
    """

    routes: Annotated[tuple[Name, ...], Meta(min_length=2, max_length=16)]
    """Names of the routes, in the order of the calls."""
    within: Duration
    """Time within which each call has to follow the one before it, which may be repeated."""
    key: Annotated[Trait, KEY] | Some[Annotated[Trait, KEY]] = Trait("consumer")
    """Identity of a client: `consumer` (the address if there is no consumer), `ip`, `header:NAME`, `cookie:NAME`,
    `claim:NAME` and others as in `rate_limit`, or a list. A client without the header, cookie or claim, or without one
    of those in a list, has called nothing."""
    ipv6_prefix: Annotated[int, Meta(ge=1, le=128)] = 64
    """Length of the IPv6 prefix that identifies a client."""

    def __post_init__(self) -> None:
        if len(set(self.routes)) < len(self.routes):
            raise ValueError("`routes` has a route twice; expected each once")

    @property
    def traits(self) -> Sequence[Trait]:
        return traits_of(self.key)

    def warnings(self, context: WarningContext) -> Iterable[str]:
        yield from key_warnings(context, are_of_somebody(self.traits), ())
        for name in self.routes:
            if name not in context.routes:
                yield f"`routes` has {format_value(name)}, which is no route; {suggest(name, context.routes)}"
        covered = context.shared("sequence", lambda: _routes_with(context)).get(digest(self), self.routes)
        for name, following in zip(self.routes, (*self.routes[1:], ""), strict=True):
            if name in context.routes and name not in covered:
                refused = f"{format_value(following)} is always refused"
                effect = refused if following in covered else "its calls are neither checked nor counted"
                yield f"no `sequence` with these settings is on the route {format_value(name)}: {effect}"

    def build(self, env: Env) -> Hooks:
        if env.route not in self.routes:
            return Hooks()
        redis: RedisCounters | None = None
        if env.state is not None:
            from fastgw.filters.limiting.redis_counter_store import shared_by

            redis = shared_by(env, env.state)
        use = _Step(self, self.routes.index(env.route), env.instance, redis)
        is_last = use.place == len(self.routes) - 1
        return Hooks(
            request=use.request if use.place else None,
            response=None if is_last else use.response,
            start=use.start,
            stop=None if redis is None else redis.limits.release,
            explain=use.explain,
        )


def _routes_with(context: WarningContext) -> Mapping[bytes, set[str]]:
    """Return the routes that filters of this type run for, by the digest of their settings."""
    found: dict[bytes, set[str]] = {}
    for settings, route in context.uses_of(CallSequence):
        found.setdefault(digest(settings), set()).add(route.name)
    return found


@final
class _Step:
    """One route of a sequence. A call is a permit of a bucket that is full again after the time."""

    def __init__(self, settings: CallSequence, place: int, instance: str, redis: "RedisCounters | None" = None) -> None:
        self.place = place
        self._settings, self._instance = settings, instance
        self._key_of = complete_key_of(settings.traits, settings.ipv6_prefix)
        self._name = b"sequence\n" + digest("sequence", settings.routes, settings.within, str(settings.key))
        self._before: Limit = _NOT_STARTED
        self._own: Limit = _NOT_STARTED
        self._redis = redis
        self._calls_before, self._own_calls = (
            None if redis is None else redis.calls(b"%b %d" % (self._name, each), settings.within)
            for each in (place - 1, place)
        )

    def start(self, services: Services) -> None:
        if self._redis is not None:
            self._redis.limits.hold_connection()
        cells, within = services.cells, self._settings.within
        self._before = cells.token_bucket(1, within, 1, b"%b %d" % (self._name, self.place - 1))
        self._own = cells.token_bucket(1, within, 1, b"%b %d" % (self._name, self.place))

    def request(self, exchange: Exchange) -> Outcome:
        key = self._key_of(exchange)
        if key and not self._before.remaining(key, monotonic_ns())[0]:
            return None
        calls = self._calls_before
        if not key or calls is None:
            return self._refuse(exchange)
        was_made = calls.was_made(key)
        return self._without_redis(exchange, calls) if was_made is None else self._asked(exchange, calls, was_made)

    async def _asked(self, exchange: Exchange, calls: "RedisCalls", was_made: Awaitable[bool | None]) -> Reply | None:
        answer = await was_made
        if answer is None:
            return self._without_redis(exchange, calls)
        return None if answer else self._refuse(exchange)

    def _without_redis(self, exchange: Exchange, calls: "RedisCalls") -> Reply:
        exchange.client.counts.count_filter(self._instance, FilterEvent.AWAY)
        if not calls.refuses:
            return self._refuse(exchange)
        exchange.why = f"{self._instance}: the Redis of `state` is unreachable"
        return refusal(Fault.LIMITS_UNAVAILABLE, calls.retry_s)

    def _refuse(self, exchange: Exchange) -> Reply:
        exchange.client.counts.count_refusal(exchange, self._instance)
        before = self._settings.routes[self.place - 1]
        why = f"{self._instance}: no call of route {before} within {write_duration(self._settings.within)}"
        return exchange.refuse(Fault.FORBIDDEN, "This call needs another one before it.", why=why)

    def response(self, exchange: Exchange) -> None:
        response = exchange.response
        if response is None or response.status >= 400:
            return
        key, limit, window = self._key_of(exchange), self._own, self._settings.within
        if not key:
            return  # all clients without it would share the call
        if self._own_calls is not None:
            self._own_calls.record(key)
        for _ in range(_TRIES):  # another worker may record a call of the same client
            now = monotonic_ns()
            if not limit.spend(key, 1, now):
                return
            _, left = limit.remaining(key, now)
            limit.refund(
                key, 1, now - round((window - left) * 1e9), monotonic_ns
            )  # recorded again with the current time

    def explain(self, exchange: Exchange) -> str:
        return f"if the client has called {self._settings.routes[self.place - 1]} before" if self.place else ""
