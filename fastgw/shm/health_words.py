"""Health words: health check results of targets, results of attempts at them, and circuit breakers.

Rule 1: control writes health check results to the supervisor's column; workers write ejections and breaker states from
their own observations, each to its own column. The most severe value counts. No process waits for another, and no
decision is lost with its process: a worker copies the decisions of others to its own column. Rule 2: every change is
counted in `changes`. Workers check only these words, in each tick of the timer wheel. Rule 3: before a process serves a
new name, it clears the slot in its own column (`enter`); no process writes for the old name by then, because freed
slots are not reused at once (`slot_assignment`). Rule 4: a process whose new configuration does not follow a
decision any more clears it in its own column (`clear_breaker`, `clear_ejection`), so that nothing is left when it is
followed again.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NamedTuple

from fastgw.shm.memory import Column, Layout
from fastgw.shm.slot_assignment import MAX_TARGETS, MAX_UPSTREAMS

_VERDICT_BITS: Final = 3
_LEVEL_BITS: Final = 8
MOST_LEVEL: Final = (1 << _LEVEL_BITS) - 1
_UNTIL_BITS: Final = 40  # hundredths of a second; one more bit for open; 24 remain for the round
_ROUND_BITS: Final = 24
_COUNT_BITS: Final = 64 - _ROUND_BITS


class HealthVerdict(IntEnum):
    """Health check result of a target."""

    UNKNOWN = 0  # usable: not checked, or not recently
    HEALTHY = 1
    UNHEALTHY = 2
    EJECTED = 3


SHUNNED: Final = frozenset((HealthVerdict.UNHEALTHY, HealthVerdict.EJECTED))
"""Results with which a target gets no requests."""


_NOT_KNOWN: Final = HealthVerdict.UNKNOWN, 0.0  # PERF: one tuple for all such targets (CPython 3.11, micro/health)


class Ejection(NamedTuple):
    """Ejection of a target, which gets no requests. `until`: monotonic seconds; 0: never ejected. `level`: multiplier
    of the duration.
    """

    until: float
    level: int


class BreakerState(NamedTuple):
    """Circuit breaker state of the node. Each transition begins a round; the highest round counts, and within a round
    an open breaker.
    """

    round: int
    until: float
    """Monotonic seconds: open until then, half-open afterwards. 0: closed."""
    is_open: bool

    @property
    def trial(self) -> int:
        """Key for what is counted over all half-open rounds since it was last open: they have the same `until`."""
        return round(self.until * 100) % (1 << _ROUND_BITS)


NEVER_OPEN: Final = BreakerState(0, 0.0, False)


class HealthWords:
    """Layout of the health words in a column; slots of targets and upstreams are in `SlotTable`."""

    def __init__(self, layout: Layout) -> None:
        self.changes = layout.counter("health_changes")
        self._names = layout.gauge("health_names", 2 * MAX_TARGETS)
        self._verdict = layout.gauge("target_verdict", 2 * MAX_TARGETS)
        self._ejection = layout.gauge("target_ejection", 2 * MAX_TARGETS)
        self.attempts = layout.gauge("target_attempts", 2 * MAX_TARGETS)
        """Finished attempts, by target."""
        self.errors = layout.gauge("target_errors", 2 * MAX_TARGETS)
        """Failed attempts, including responses with a status of 500 and above, by target."""
        self.failures = layout.gauge("target_failures", 2 * MAX_TARGETS)
        """Attempts that count as failures of the target, by target: see `upstream.health.outlier_ejection`."""
        self.streak = layout.gauge("target_streak", 2 * MAX_TARGETS)
        self._upstream_names = layout.gauge("breaker_names", 2 * MAX_UPSTREAMS)
        self.upstream_attempts = layout.gauge("upstream_attempts", 2 * MAX_UPSTREAMS)
        """Finished attempts, by upstream."""
        self.upstream_errors = layout.gauge("upstream_errors", 2 * MAX_UPSTREAMS)
        self._breaker = layout.gauge("breaker_state", 2 * MAX_UPSTREAMS)
        self.probes = layout.gauge("breaker_probes", 2 * MAX_UPSTREAMS)
        """Probes started in a half-open round."""
        self.proven = layout.gauge("breaker_proven", 2 * MAX_UPSTREAMS)
        """Successful probes of all half-open rounds since the breaker was last open."""
        self._of_target = (*(self._verdict, self._ejection, self.attempts, self.errors, self.failures, self.streak),)
        self._of_upstream = (*(self.upstream_attempts, self.upstream_errors, self._breaker, self.probes, self.proven),)

    # --- places ---

    def enter(self, column: Column, target: int, name: str) -> None:
        """Clear this process's words in the slot of a target, which may have belonged to another target."""
        _enter(column.words, self._names, self._of_target, target, name)

    def enter_upstream(self, column: Column, upstream: int, name: str) -> None:
        _enter(column.words, self._upstream_names, self._of_upstream, upstream, name)

    def changed(self, column: Column) -> None:
        """Notify the workers."""
        column.words[self.changes] += 1

    # health check results, written by control

    def set_verdict(self, column: Column, target: int, verdict: HealthVerdict, until: float) -> None:
        """Write this process's result for a target, and until when it is valid (monotonic seconds). A single atomic
        store.
        """
        column.words[self._verdict + target] = int(until * 1000) << _VERDICT_BITS | verdict

    def verdict_of(self, column: Column, target: int) -> tuple[HealthVerdict, float]:
        word = column.words[self._verdict + target]
        return HealthVerdict(word & (1 << _VERDICT_BITS) - 1), (word >> _VERDICT_BITS) / 1000

    # --- ejections ---

    def eject(self, column: Column, target: int, ejection: Ejection) -> None:
        column.words[self._ejection + target] = int(ejection.until * 1000) << _LEVEL_BITS | ejection.level

    def ejection(self, views: Iterable[memoryview], target: int) -> Ejection:
        """Return the ejection that lasts longest."""
        at = self._ejection + target
        word = max([view[at] for view in views])
        return Ejection((word >> _LEVEL_BITS) / 1000, word & MOST_LEVEL)

    def repeat_ejection(self, column: Column, target: int) -> None:
        """Copy the node's ejection to the own column."""
        at = self._ejection + target
        column.words[at] = max(view[at] for view in column.views)

    def clear_ejection(self, column: Column, target: int) -> None:
        """Clear this process's ejection of a target, and its streak of failures."""
        for word in (self._ejection, self.streak):
            column.words[word + target] = 0

    # the node's combined state

    def read_verdicts(self, column: Column, targets: Sequence[int], now: float) -> list[tuple[HealthVerdict, float]]:
        """Return for each of these targets the node's result and until when it is valid (monotonic seconds; 0:
        unlimited).
        """
        if not targets:
            return []
        # PERF: by slices: 0.2 ms for 500 targets of 4 workers, 1.4 word by word (CPython 3.11, micro/health).
        span = _span(targets)
        if span is None:
            return [self.read_verdicts(column, [target], now)[0] for target in targets]
        first, count = span
        verdict, ejection = self._verdict + first, self._ejection + first
        verdicts = column.views[0][verdict : verdict + count].tolist()
        ejected = list(map(max, *(view[ejection : ejection + count].tolist() for view in _two(column.views))))
        now_ms = int(now * 1000)
        found = []
        for target in targets:
            until_ms = ejected[target - first] >> _LEVEL_BITS
            if until_ms > now_ms:
                found.append((HealthVerdict.EJECTED, until_ms / 1000))
                continue
            word = verdicts[target - first]
            until_ms = word >> _VERDICT_BITS
            if until_ms > now_ms:
                found.append((HealthVerdict(word & (1 << _VERDICT_BITS) - 1), until_ms / 1000))
            else:
                found.append(_NOT_KNOWN)
        return found

    def read_attempts(self, column: Column, targets: Sequence[int]) -> list[tuple[tuple[tuple[int, int], ...], float]]:
        """Return for each of these targets its attempts and errors, by column, and the end of its ejection (monotonic
        seconds; 0: never ejected).
        """
        span = _span(targets)
        if span is None:
            return [self.read_attempts(column, [target])[0] for target in targets]
        first, count = span
        attempts, errors, ejection = (word + first for word in (self.attempts, self.errors, self._ejection))
        counts = [
            zip(view[attempts : attempts + count].tolist(), view[errors : errors + count].tolist(), strict=True)
            for view in column.views
        ]
        ejected = map(max, *(view[ejection : ejection + count].tolist() for view in _two(column.views)))
        found = [
            (each, (word >> _LEVEL_BITS) / 1000) for each, word in zip(zip(*counts, strict=True), ejected, strict=True)
        ]
        return [found[target - first] for target in targets]

    # --- breakers ---

    def set_breaker(self, column: Column, upstream: int, state: BreakerState) -> None:
        """Write this process's breaker state. A single atomic store."""
        until = int(state.until * 100 + 0.001) if state.is_open else 0  # as it was read: 0.29 * 100 is less than 29
        word = (state.round % (1 << _ROUND_BITS)) << _UNTIL_BITS | until << 1 | state.is_open
        column.words[self._breaker + upstream] = word

    def clear_breaker(self, column: Column, upstream: int) -> None:
        """Clear this process's breaker state, and its probes."""
        for word in (self._breaker, self.probes, self.proven):
            column.words[word + upstream] = 0

    def breaker(self, views: Iterable[memoryview], upstream: int) -> BreakerState:
        word = max(view[self._breaker + upstream] for view in views)
        until = (word & (1 << _UNTIL_BITS) - 1) >> 1
        return BreakerState(word >> _UNTIL_BITS, until / 100, bool(word & 1))

    def counted(self, view: memoryview, word: int, upstream: int, during: int) -> int:
        """Return the number that this process has counted: `probes` by round, `proven` by `BreakerState.trial`."""
        held = view[word + upstream]
        return held & (1 << _COUNT_BITS) - 1 if held >> _COUNT_BITS == during else 0

    def count(self, column: Column, word: int, upstream: int, during: int, number: int) -> None:
        column.words[word + upstream] = during << _COUNT_BITS | number

    def counted_by_all(self, column: Column, word: int, upstream: int, during: int) -> int:
        column.fence()
        return sum(self.counted(view, word, upstream, during) for view in column.views)


def _span(slots: Sequence[int]) -> tuple[int, int] | None:
    """Return the first of these slots, and the number up to the last one; None: they are far apart."""
    first, count = min(slots), max(slots) - min(slots) + 1
    return None if count > 4 * len(slots) + 64 else (first, count)


def _two(views: Sequence[memoryview]) -> Sequence[memoryview]:
    """`max` over columns needs at least two values; the supervisor's is always present."""
    return views if len(views) > 1 else (views[0], views[0])


def _enter(words: memoryview, names: int, held: Iterable[int], slot: int, name: str) -> None:
    tag = int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
    if words[names + slot] != tag:
        for word in held:
            words[word + slot] = 0
        words[names + slot] = tag
