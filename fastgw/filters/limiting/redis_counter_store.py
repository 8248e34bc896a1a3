"""Counter store for all nodes, in the Redis of `state`. Imported only if that is configured: it requires
`fastgw[redis]`.
"""

from collections.abc import Awaitable
from typing import Any, NamedTuple, final

from fastgw.config.settings.gateway import State
from fastgw.errors import Fault
from fastgw.filters.api import Env
from fastgw.filters.limiting.counter_store import Left, LimitDecision, LimitSpec, NodeCounterStore
from fastgw.redis.rate_limits import Answer, StateLimits, asking
from fastgw.shm import rate_limit_table


class RedisCounters(NamedTuple):
    """Shared counts: the Redis client, and the behaviour while Redis is unreachable."""

    limits: StateLimits
    prefix: str
    refuses: bool

    def counter_store(self, name: bytes, terms: LimitSpec, local: NodeCounterStore) -> "RedisCounterStore":
        return RedisCounterStore(self, name, terms, local)


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
