"""Load tracking: attempts in flight to the targets of an upstream, on the whole node, and response times, in this
worker.
"""

from collections.abc import Callable, Sequence
from math import exp, inf
from time import monotonic
from typing import Final, final

from msgspec import Struct

from fastgw.errors import Fault, Side
from fastgw.upstream.targets.attempt_listener import AttemptListener, AttemptRecord
from fastgw.upstream.targets.target import Target

GATEWAY_ERRORS: Final = frozenset((502, 503, 504))
"""Statuses by which a target reports that it failed."""


NO_WORDS: Final = memoryview(b"")


@final
class Loads(AttemptListener):
    """Attempts in flight at each target on the node: an `AttemptListener` that counts them.

    Each worker counts in its own column of the shared memory; the node's value is the sum of all columns. The counts of
    a worker that dies are removed with it. A tunnel that outlives its target in the configuration may be counted for
    another target that has got its slot, until the tunnel ends.
    """

    __slots__ = ("_words", "first", "total", "views")

    def __init__(
        self,
        words: memoryview = NO_WORDS,
        views: Sequence[memoryview] = (),
        first: int = 0,
        total: int = 0,
    ) -> None:
        """`words`: the column of this worker; `views`: all columns, empty if nothing is counted.

        A target's count is at `first` plus its `Target.slot`, that of all targets of the upstream at `total`.
        """
        self._words = words
        self.views = views
        self.first = first
        self.total = total

    def word(self, target: Target) -> int:
        """Return the position of a target's count in each view."""
        return self.first + target.slot

    def of(self, target: Target) -> int:
        # PERF: a loop: 0.2 us for 5 columns, 0.4 with sum() over a generator (CPython 3.11, timeit).
        word, load = self.first + target.slot, 0
        for view in self.views:
            load += view[word]
        return load

    def of_all(self) -> int:
        word, load = self.total, 0
        for view in self.views:
            load += view[word]
        return load

    # calls of attempts

    def attempt_begun(self, attempt: AttemptRecord) -> None:
        words = self._words
        words[self.first + attempt.target.slot] += 1
        words[self.total] += 1

    def attempt_ended(self, attempt: AttemptRecord) -> None:
        words = self._words
        words[self.first + attempt.target.slot] -= 1
        words[self.total] -= 1

    def attempt_given_up(self, attempt: AttemptRecord, fault: Fault | None, why: str) -> None:
        self.attempt_ended(attempt)


@final
class _SeenLatency(Struct, eq=False):
    """Latency of a target: `cost` in seconds as of `at`."""

    at: float
    cost: float


def _begin_of(attempt: AttemptRecord, until: float) -> float:
    """Return when a latency begins that ends at this time: with the end of the request, if that was before it."""
    return attempt.sent_at if 0 < attempt.sent_at <= until else attempt.begun_at


@final
class Latencies(AttemptListener):
    """Latency of each target until its response head, from the end of the request: an average that rises at once and
    decreases slowly.

    (The "peak EWMA" of Finagle.) A value above the average replaces it at once; a lower one has the more weight the
    longer ago the last response was; and the average of an idle target decays. A failed attempt counts as at least
    `penalty` seconds, because otherwise a target that fails fast would look fast. If the head of a response precedes
    the end of the request, the latency counts from the beginning of the attempt. Measured in this worker only; the
    attempts in flight, with which the latency is multiplied, are those of the node (`loads`).
    """

    __slots__ = ("_clock", "_decay", "_loads", "_penalty", "_seen")

    def __init__(self, loads: Loads, decay: float, penalty: float, clock: Callable[[], float] = monotonic) -> None:
        self._loads = loads
        self._decay = decay
        self._penalty = penalty
        self._clock = clock
        self._seen: dict[Target, _SeenLatency] = {}

    def take_over_from(self, before: "Latencies", targets: Sequence[Target]) -> None:
        """Take over the known latencies of these targets."""
        self._seen = {target: before._seen[target] for target in targets if target in before._seen}

    def of(self, target: Target) -> float:
        """Return the latency in seconds; 0.0: the target has never answered in this worker."""
        seen = self._seen.get(target)
        return 0.0 if seen is None else seen.cost * exp((seen.at - self._clock()) / self._decay)

    def cost(self, target: Target) -> float:
        """Return the cost of one more request to a target. A target that has never answered is tried, with one request
        at first.
        """
        waiting = self._loads.of(target)
        seen = self._seen.get(target)
        if seen is None:
            return inf if waiting else 0.0
        return seen.cost * exp((seen.at - self._clock()) / self._decay) * (waiting + 1)

    # calls of attempts

    def attempt_answered(self, attempt: AttemptRecord) -> None:
        head_at, sent_at = attempt.head_at, attempt.sent_at
        # PERF: as `_begin_of`, without a call for each response.
        seconds = head_at - (sent_at if sent_at and sent_at <= head_at else attempt.begun_at)
        if attempt.status in GATEWAY_ERRORS:
            seconds = max(seconds, self._penalty)
        self._record_latency(attempt.target, seconds)

    def attempt_given_up(self, attempt: AttemptRecord, fault: Fault | None, why: str) -> None:
        if fault is not None and fault.side is Side.UPSTREAM:
            seconds = attempt.ended_at - _begin_of(attempt, attempt.ended_at)
            self._record_latency(attempt.target, max(seconds, self._penalty))

    def _record_latency(self, target: Target, seconds: float) -> None:
        now = self._clock()
        seen = self._seen.get(target)
        if seen is None:
            self._seen[target] = _SeenLatency(now, seconds)
            return
        kept = exp((seen.at - now) / self._decay)
        decayed = seen.cost * kept
        seen.cost = seconds if seconds > decayed else decayed + seconds * (1.0 - kept)
        seen.at = now
