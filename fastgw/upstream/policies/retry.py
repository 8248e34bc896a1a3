"""Retry policy: when another attempt may follow, and after which delay, according to `retries` of an upstream.

A condition names the reason why an attempt failed. The fault's row in `errors.py` defines for which conditions the
upstream cannot have acted, and which require a request that may be sent again (see the contract's "Retry and reuse"); a
status always requires it.

The retry budget (`retries.budget`) is the share of the upstream's requests in flight that may be retries or hedges.
Without it an overloaded upstream would get every request twice. Each worker limits retries to the share of its own
requests in flight, so the limit holds for the node as well. In addition, `SPARE_RETRIES` are allowed for the whole
node. A hedge is a second request to another target in parallel to a slow one: after a configured or learned time.
"""

from bisect import bisect_left
from collections.abc import Container, Sequence
from functools import lru_cache
from math import inf
from random import random
from typing import Final, final

from msgspec import Struct

from fastgw.config.base.value_types import count_within
from fastgw.config.settings import gateway as config
from fastgw.http.grpc.status import GrpcStatus
from fastgw.http.messages import ResponseHead
from fastgw.http.retry_after import wait_in
from fastgw.upstream.connections.pool_limit import LocalLimit, PoolLimit
from fastgw.upstream.targets.target import Target

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
"""Idempotent methods, which may be retried (RFC 9110 section 9.2.2)."""
SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""Safe methods (RFC 9110 section 9.2.1)."""

NEVER: Final = ""
CONNECT_FAILURE: Final = "connect_failure"
RESET: Final = "reset_before_response"
LOST: Final = "reset"
"""Condition: the connection was lost before any response, whether it was reused or not. It includes `RESET`."""
PER_TRY_TIMEOUT: Final = "per_try_timeout"
REFUSED: Final = "stream_refused"
"""Condition: the target reported over HTTP/2 that it has not processed the request. It needs no setting."""
MOST_REFUSED: Final = 6
"""Maximum number of retries of a request that targets refused unprocessed, in addition to `retries.max`: such a request
has put no load on them.
"""


@final
class RetryRules:
    """Retry policy, compiled from `retries`. `retries_lost`: whether requests on lost new connections are retried;
    `statuses`: response statuses that are retried; `grpc_statuses`:
    conditions for gRPC statuses.
    """

    def __init__(self, settings: config.Retries) -> None:
        self.max = settings.max
        of_reused = (RESET,) if LOST in settings.conditions else ()
        self._conditions: frozenset[str] = frozenset((*settings.conditions, *of_reused, REFUSED))
        self.retries_lost = LOST in self._conditions and self.max > 0
        self.statuses = frozenset(int(each) for each in settings.conditions if each.isdecimal()) if self.max else ()
        self.grpc_statuses = {
            GrpcStatus[each.upper()]: each for each in settings.conditions if each.upper() in GrpcStatus.__members__
        }
        self.any_method = settings.non_idempotent
        self.per_try = settings.per_try_timeout or inf  # seconds
        self.body_bytes = settings.body_bytes
        self._first_wait = settings.backoff.base
        self._longest_wait = settings.backoff.max

    def allow(self, condition: str, retried: int) -> bool:
        """Whether one more attempt may follow after this number of retries; for `REFUSED`: of such retries. The caller
        checks whether the request may be sent again.
        """
        most = MOST_REFUSED if condition == REFUSED and self.max else self.max
        return retried < most and condition in self._conditions

    def wait(self, condition: str, retried: int, others: bool, asked: float = 0.0) -> float:
        """Return the seconds until the next attempt; inf: none follows. `others`: it goes to a target that was not
        tried yet.

        `asked`: from `Retry-After` of the target. The delay is random from 0 to a bound that doubles each time ("full
        jitter"), so that simultaneous failures are not retried simultaneously. After a failed connect or a timeout, a
        retry at another target does not wait; a reused connection that was just closed says nothing about its target.
        """
        if (
            condition == RESET
            or (condition == REFUSED and not retried)
            or (others and condition in (CONNECT_FAILURE, PER_TRY_TIMEOUT))
        ):
            return 0.0
        if asked > self._longest_wait:
            return inf
        bound: float = min(self._longest_wait, self._first_wait * 2**retried)
        return max(random() * bound, asked)


@lru_cache(256)
def rules_of(settings: config.Retries) -> RetryRules:
    """Return the policy; cached, because thousands of upstreams may have equal settings."""
    return RetryRules(settings)


def asked_wait(head: ResponseHead) -> float:
    """Return the seconds in `Retry-After` (RFC 9110 section 10.2.3); 0: it is missing or invalid."""
    return wait_in(head.first(b"retry-after"))


def any_untried(targets: Sequence[Target], tried: Container[Target]) -> bool:
    return any(target not in tried for target in targets)


SPARE_RETRIES: Final = 3
"""Retries in flight that the node may have in addition to the budget, because the budget of a few requests is less than
one.
"""

_UNCOUNTED: Final = memoryview(bytearray(8)).cast("Q")
"""A counter that is not read."""


@final
class RetryBudget(Struct, eq=False):
    """Retry budget of one upstream in one worker. `in_use`: requests that are being retried or hedged."""

    _share: float
    _spare: PoolLimit | None = None  # without a counter of the node: created on demand
    _spared: int = 0  # number of retries in use that are counted in `_spare`
    _counts: memoryview = _UNCOUNTED
    _denied_at: int = 0
    in_use: int = 0

    def __repr__(self) -> str:
        return f"<RetryBudget of {self._share:.0%}, {self.in_use} in use>"

    def count_in(self, spare: PoolLimit, counts: memoryview, denied_at: int) -> None:
        """Share the budget with the node. `spare`: its limit of `SPARE_RETRIES`. `denied_at`: position in `counts` of
        the counter of denied retries.
        """
        self._spare, self._counts, self._denied_at = spare, counts, denied_at

    def try_take(self, active: int) -> bool:
        """Take one retry of the budget, which is returned at the end of the request. `active`: requests in flight."""
        if self.in_use - self._spared + 1 > count_within(self._share, active):
            self._spare = self._spare or LocalLimit(SPARE_RETRIES)
            if not self._spare.try_take():
                self._counts[self._denied_at] += 1
                return False
            self._spared += 1
        self.in_use += 1
        return True

    def give_back(self) -> None:
        self.in_use -= 1
        if self._spared and self._spare is not None:
            self._spared -= 1
            self._spare.give_back()


BOUNDS_S: Final = tuple(0.001 * 2 ** (step / 4) for step in range(65))
"""Upper bounds of the buckets, 1 ms to 65 s: a value read from them is at most a fifth too long."""
ENOUGH: Final = 100
"""Minimum number of responses for an estimate of the slowest 5 %."""
KEPT: Final = 2000
"""Number of counted values at which all counts are halved, so older values lose weight."""
EVERY: Final = 20
"""Number of responses between two evaluations."""
SHARE: Final = 0.05
SOONEST_S: Final = 0.005
"""Minimum delay of a hedge: below it a second request is not useful."""


@final
class HeadTimes:
    """Latency of an upstream until the response head, measured in this worker. `slow`: the 95th percentile (seconds).

    `slow` is `inf` until there are enough values.
    """

    __slots__ = ("_counts", "_seen", "slow")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._seen = 0
        self.slow = inf

    def add(self, seconds: float) -> None:
        """Record the duration of an attempt, or the time after which it was cancelled."""
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._seen += 1
        if self._seen % EVERY == 0:
            self._update_delay()

    def _update_delay(self) -> None:
        total = sum(self._counts)
        if total >= KEPT:
            self._counts = [count // 2 for count in self._counts]
            total = sum(self._counts)
        if total < ENOUGH:
            return
        above = 0
        for index in range(len(BOUNDS_S), -1, -1):
            above += self._counts[index]
            if above > SHARE * total:
                self.slow = max(BOUNDS_S[index], SOONEST_S) if index < len(BOUNDS_S) else inf
                return


@final
class Hedging:
    """`hedge` of an upstream, in one worker. `max`: hedges of one request."""

    __slots__ = ("_after", "max", "times")

    def __init__(self, settings: config.Hedge) -> None:
        self._after = None if settings.after == "p95" else float(settings.after)
        self.max = settings.max
        self.times = HeadTimes()

    def after(self) -> float:
        """Return the seconds without a response after which a hedge is sent; inf: never, because the latency is not
        known yet.
        """
        return self.times.slow if self._after is None else self._after
