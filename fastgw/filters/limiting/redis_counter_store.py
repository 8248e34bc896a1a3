"""Counter store and calls for all nodes, in the Redis of `state`. Imported only if that is configured: it requires
`fastgw[redis]`.
"""

from collections.abc import Awaitable
from typing import Any, Final, NamedTuple, final

from fastgw.config.settings.gateway import State
from fastgw.errors import Fault
from fastgw.filters.api import Env
from fastgw.filters.limiting.counter_store import Left, LimitDecision, LimitSpec, NodeCounterStore
from fastgw.redis.rate_limits import Answer, StateLimits, asking
from fastgw.shm import rate_limit_table

_FULL: Final = 2  # permits: a charge fills a bucket up to twice its size, whatever is in it


class RedisCounters(NamedTuple):
    """Shared counts: the Redis client, and the behaviour while Redis is unreachable."""

    limits: StateLimits
    prefix: str
    refuses: bool

    def counter_store(self, name: bytes, terms: LimitSpec, local: NodeCounterStore) -> "RedisCounterStore":
        return RedisCounterStore(self, name, terms, local)

    def calls(self, name: bytes, within: float) -> "RedisCalls":
        return RedisCalls(self, name, within)


def shared_by(env: Env, state: State) -> RedisCounters:
    """Return the shared connection: one per process, for all filters."""
    url, timeout = env.secret(state.url), state.timeout
    limits = env.shared(("state limits", url, timeout), lambda: StateLimits(url, timeout))
    return RedisCounters(limits, state.prefix, state.when_away == "refuse")


@final
class _Mark:
    """Result of a spending in Redis."""

    __slots__ = ("at", "left", "renewed_s")

    def __init__(self, at: int, left: int, renewed_s: float) -> None:
        self.at, self.left, self.renewed_s = at, left, renewed_s


@final
class RedisCounterStore:
    """Store in Redis; while it is unreachable the node's own counts decide, or requests are rejected."""

    __slots__ = ("_asking", "_depth", "_limits", "_local", "_refuses", "_turns")

    def __init__(self, counters: RedisCounters, name: bytes, terms: LimitSpec, local: NodeCounterStore) -> None:
        self._limits, self._refuses, self._local = counters.limits, counters.refuses, local
        self._turns = terms.algorithm == "leaky_bucket"
        is_bucket = terms.algorithm in ("token_bucket", "leaky_bucket")
        self._depth = terms.depth if is_bucket else terms.limit
        step = rate_limit_table.step_of(terms.limit, terms.window)
        self._asking = asking(counters.prefix, terms.algorithm, terms.window, self._depth, step, name)

    def spend(self, key: bytes, cost: int, /) -> LimitDecision | Awaitable[LimitDecision]:
        answer = self._limits.send_command(self._asking.question(b"s", key, cost))
        return self._spend_locally(key, cost) if answer is None else self._decision_of(answer, key, cost)

    async def _decision_of(self, answer: Awaitable[Answer | None], key: bytes, cost: int) -> LimitDecision:
        reply = await answer
        if reply is None:
            return self._spend_locally(key, cost)
        wait, left, renewed, at, turn = reply
        mark = _Mark(at, left, renewed / 1e6)
        return LimitDecision(wait / 1e6, mark, turn / 1e6 if self._turns and not wait else 0.0)

    def _spend_locally(self, key: bytes, cost: int) -> LimitDecision:
        if self._refuses:
            return LimitDecision(self._limits.retry_s, is_away=True, fault=Fault.LIMITS_UNAVAILABLE)
        return self._local.spend(key, cost)._replace(is_away=True)

    def refund(self, key: bytes, cost: int, mark: Any, /) -> None:
        if type(mark) is not _Mark:
            self._local.refund(key, cost, mark)
            return
        mark.left = min(mark.left + cost, self._depth)
        self._limits.send_without_reply(self._asking.question(b"r", key, cost, mark.at))

    def charge(self, key: bytes, cost: int, mark: Any, /) -> None:
        if type(mark) is _Mark:
            mark.left = max(mark.left - cost, 0)
        if type(mark) is int or not self._limits.send_without_reply(self._asking.question(b"c", key, cost)):
            self._local.charge(key, cost)

    def remaining(self, key: bytes, mark: Any = None, /) -> Left:
        return (mark.left, mark.renewed_s) if type(mark) is _Mark else self._local.remaining(key, mark)


@final
class RedisCalls:
    """Calls of clients, of which a filter asks whether one was made within a time, in seconds.

    A call is a bucket that one charge fills: what is left of it is the rest of the time.
    """

    __slots__ = ("_asking", "_limits", "refuses")

    def __init__(self, counters: RedisCounters, name: bytes, within: float) -> None:
        self._limits, self.refuses = counters.limits, counters.refuses
        step = max(1, round(within * 1e9 / _FULL))
        self._asking = asking(counters.prefix, "token_bucket", within, 1, step, name)

    @property
    def retry_s(self) -> float:
        """Seconds after which Redis may be reachable again."""
        return self._limits.retry_s

    def record(self, key: bytes) -> None:
        """Record a call, in place of an earlier one. It is lost while Redis is unreachable."""
        self._limits.send_without_reply(self._asking.question(b"c", key, _FULL))

    def was_made(self, key: bytes) -> Awaitable[bool | None] | None:
        """Return whether a call was made within the time. None, at once or later: Redis is unreachable."""
        answer = self._limits.send_command(self._asking.question(b"s", key, 0))
        return None if answer is None else _was_made(answer)


async def _was_made(answer: Awaitable[Answer | None]) -> bool | None:
    reply = await answer
    return None if reply is None else reply[1] == 0
