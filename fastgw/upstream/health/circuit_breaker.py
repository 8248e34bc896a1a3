"""Circuit breaker: one for the node, although workers do not communicate with each other.

Rule 1: every transition begins a round, which the deciding worker writes to shared memory and the others copy; the
highest round is the state of the node (`shm.health_words`). The half-open state is not written: it follows from the
time. Rule 2: probes are counted by round, over all workers: add, check the sum, subtract again if it is too high (as in
`shm.node_limits.NodeLimit`). Rule 3: attempts that began before a round do not count in it. Attempts in flight when the
breaker opened fail late. Rule 4: a probe that ends without a result (its client has left, the target refused it) is
not given back, otherwise a failing upstream would get any number of requests. If all probes of a round are taken and
the breaker is still half-open after a further `open`, the next round begins: so at most `probes` requests pass in each
`open`. Successes are counted over all rounds since it was last open, so that it closes although probes of each round
have no result. Rule 5: the retry of a probe that its target has not processed (it had closed the idle connection, or
refused the stream) is the same probe, because it is the same request.
"""

from collections.abc import Callable, Container
from enum import Enum
from typing import final

from msgspec import Struct

from fastgw.config.settings.gateway import CircuitBreaker
from fastgw.shm.health_words import NEVER_OPEN, BreakerState, HealthWords
from fastgw.shm.memory import Column
from fastgw.upstream.health.error_window import SLOTS, Window
from fastgw.upstream.load_balancing import Balancer, BalancingRequest, NoTarget
from fastgw.upstream.targets.target import Target


class BreakerPhase(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


def phase_of(state: BreakerState, now: float) -> BreakerPhase:
    if not state.is_open:
        return BreakerPhase.CLOSED
    return BreakerPhase.OPEN if now < state.until else BreakerPhase.HALF_OPEN


@final
class Breaker:
    """Circuit breaker of one upstream, in one worker. `on_change`: called when the set of permitted requests
    changes.
    """

    def __init__(
        self,
        settings: CircuitBreaker,
        words: HealthWords,
        column: Column,
        slot: int,
        clock: Callable[[], float],
        on_change: Callable[[], None],
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        """`slot`: slot of the upstream. `on_open`: called by the worker that has opened it, so that this is counted
        once.
        """
        self._settings = settings
        self._words = words
        self._column = column
        self._slot = slot
        self._clock = clock
        self._on_change = on_change
        self._on_open = on_open
        self._state = NEVER_OPEN
        self._full_round = -1  # the round of which all probes were taken at the last check; -1: none
        self._full_at = 0.0  # when this was seen first
        self._trying_since = 0.0  # when it first became half-open; attempts from then on are probes
        self._window = Window(settings.window)
        self.phase = BreakerPhase.CLOSED

    def __repr__(self) -> str:
        return f"<Breaker {self.phase.value}, round {self._state.round}>"

    def take_over_from(self, before: "Breaker") -> None:
        """Continue from the state of the previous breaker of this upstream, if its settings were the same."""
        if (self._settings, self._slot) != (before._settings, before._slot):
            return
        self._state, self.phase = before._state, before.phase
        self._full_round, self._full_at = before._full_round, before._full_at
        self._trying_since = before._trying_since
        self._window = before._window

    def clear_words(self) -> None:
        """Clear the state in this worker, because no later configuration follows it."""
        self._words.clear_breaker(self._column, self._slot)

    # permitted requests

    def guard(self, balancer: Balancer) -> Balancer:
        """Return the balancer that replaces `balancer` in the current phase."""
        if self.phase is BreakerPhase.CLOSED:
            return balancer
        return NoTarget() if self.phase is BreakerPhase.OPEN else HalfOpenGate(self, balancer)

    def take_probe(self) -> bool:
        """Whether one more request of the node may pass while it is half-open."""
        words, round, slot = self._words, self._state.round, self._slot
        own = words.counted(self._column.words, words.probes, slot, round)
        words.count(self._column, words.probes, slot, round, own + 1)
        begun = words.counted_by_all(self._column, words.probes, slot, round)
        # Workers that know of a later round count no longer in this one.
        if begun <= self._settings.probes and words.breaker(self._column.views, slot) == self._state:
            return True
        words.count(self._column, words.probes, slot, round, own)
        return False

    def is_probe(self, begun_at: float) -> bool:
        """Whether an attempt that began at this time is a probe of the half-open state that lasts."""
        return self.phase is BreakerPhase.HALF_OPEN and begun_at >= self._trying_since

    def wait(self) -> float:
        """Seconds until a retry may be useful; 0: it is closed."""
        if self.phase is BreakerPhase.CLOSED:
            return 0.0
        return max(self._state.until - self._clock(), 1.0 if self.phase is BreakerPhase.HALF_OPEN else 0.001)

    # results

    def erred(self, now: float, begun_at: float) -> None:
        """Handle the failure of an attempt that began at this time."""
        if self.phase is BreakerPhase.HALF_OPEN:
            if self.is_probe(begun_at):
                self._open(now)
        elif self.phase is BreakerPhase.CLOSED:
            attempts, errors = self._window.count_attempts(now, self._counts())
            if attempts >= self._settings.min_requests and errors / attempts >= self._settings.error_rate:
                self._open(now)

    def succeeded(self, begun_at: float) -> None:
        """Handle the success of an attempt that began at this time; called while it is half-open."""
        if not self.is_probe(begun_at):
            return
        words, trial, slot = self._words, self._state.trial, self._slot
        own = words.counted(self._column.words, words.proven, slot, trial)
        words.count(self._column, words.proven, slot, trial, own + 1)
        proven = words.counted_by_all(self._column, words.proven, slot, trial)
        if proven >= self._settings.probes and self._is_current(self._clock()):
            self._start_transition(BreakerState(self._state.round + 1, 0.0, False))

    def _counts(self) -> list[tuple[int, int]]:
        attempts, errors = self._words.upstream_attempts + self._slot, self._words.upstream_errors + self._slot
        return [(view[attempts], view[errors]) for view in self._column.views]

    # --- transitions ---

    def refresh_state(self, now: float) -> float:
        """Follow the decisions of the node, and transitions by time. Returns when to check again (monotonic
        seconds).
        """
        words = self._words
        state = words.breaker(self._column.views, self._slot)
        if state != self._state or (self.phase is BreakerPhase.OPEN and now >= state.until):
            self._adopt_state(state, now)
        elif self.phase is BreakerPhase.HALF_OPEN:
            self._replace_stuck_round(now)
        if self.phase is BreakerPhase.CLOSED:
            self._window.count_attempts(now, self._counts(), erred=False)
            return now + self._settings.window / SLOTS
        return self._state.until if self.phase is BreakerPhase.OPEN else now + self._settings.open / SLOTS

    def _replace_stuck_round(self, now: float) -> None:
        """Let as many requests pass again if all probes of the round were taken and some have no result: their clients
        have left, their target refused them, they last, or a worker was killed. While some are left, requests pass.
        """
        words, round = self._words, self._state.round
        if words.counted_by_all(self._column, words.probes, self._slot, round) < self._settings.probes:
            self._full_round = -1
        elif round != self._full_round:
            self._full_round, self._full_at = round, now
        elif now >= self._full_at + self._settings.open:
            self._start_transition(self._state._replace(round=round + 1))

    def _open(self, now: float) -> None:
        if self._is_current(now):
            self._on_open()
            self._start_transition(BreakerState(self._state.round + 1, now + self._settings.open, True))

    def _is_current(self, now: float) -> bool:
        """Whether no other worker has opened or closed it meanwhile. A new round of probes changes nothing of what has
        been decided: it is adopted.
        """
        before, state = self._state, self._words.breaker(self._column.views, self._slot)
        if state != before:
            self._adopt_state(state, now)
        return state == before or (self.phase is BreakerPhase.HALF_OPEN and state.trial == before.trial)

    def _start_transition(self, state: BreakerState) -> None:
        """Make a transition in this worker."""
        words, column = self._words, self._column
        words.set_breaker(column, self._slot, state)
        words.changed(column)
        self._adopt_state(words.breaker(column.views, self._slot), self._clock())  # another worker may have opened it

    def _adopt_state(self, state: BreakerState, now: float) -> None:
        self._words.set_breaker(self._column, self._slot, state)  # in case the deciding worker dies
        before, self._state = self.phase, state
        self.phase = phase_of(state, now)
        if self.phase is BreakerPhase.HALF_OPEN and before is not BreakerPhase.HALF_OPEN:
            self._trying_since = state.until
        if self.phase is BreakerPhase.CLOSED:
            self._window.clear()
        if self.phase is not before:
            self._on_change()


@final
class HalfOpenGate(Struct, eq=False):
    """Balancer that lets as many requests pass as a half-open breaker allows."""

    _breaker: Breaker
    balancer: Balancer
    """The balancer behind the gate: it selects the target for a request that has its probe already."""

    def pick(self, asked: BalancingRequest, tried: Container[Target] = ()) -> Target | None:
        target = self.balancer.pick(asked, tried)
        return target if target is not None and self._breaker.take_probe() else None
