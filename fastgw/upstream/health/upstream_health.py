"""Health of an upstream in a worker: counts the results of attempts, and follows the node's decisions.

A response costs one or two stores; the rest happens when one fails (`outlier_ejection`, `circuit_breaker`), and in
ticks of the timer wheel when a process has changed something (`HealthPoller`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, final

from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Timed, Wheel
from fastgw.observe.metrics.series_layout import TARGET_FAULT_WORDS, TARGET_SERVER_ERRORS, UPSTREAM_HEDGES
from fastgw.shm.health_words import SHUNNED, HealthVerdict, HealthWords
from fastgw.shm.memory import Column
from fastgw.upstream.health.circuit_breaker import Breaker, BreakerPhase
from fastgw.upstream.health.outlier_ejection import Outliers, may_eject
from fastgw.upstream.targets.attempt_listener import AttemptKind, AttemptListener, AttemptRecord
from fastgw.upstream.targets.target import Target

if TYPE_CHECKING:
    from fastgw.upstream.upstream import Upstream


ERRORS: Final = 500
"""Statuses from this one on are errors."""


class AttemptStage(IntEnum):
    """Progress of an attempt when it failed."""

    NOTHING = 0
    REQUEST = 1
    HEAD = 2  # a response head, so that it was counted as answered


OWN_FAULTS: Final[Mapping[Fault, AttemptStage]] = {
    Fault.CONNECT_REFUSED: AttemptStage.NOTHING,
    Fault.CONNECT_TIMEOUT: AttemptStage.NOTHING,
    Fault.UPSTREAM_UNREACHABLE: AttemptStage.NOTHING,
    Fault.DNS_FAILED: AttemptStage.NOTHING,
    Fault.TLS_FAILED: AttemptStage.NOTHING,
    Fault.CONNECTION_LOST: AttemptStage.REQUEST,
    Fault.UPSTREAM_MALFORMED: AttemptStage.REQUEST,
    Fault.UPSTREAM_TIMEOUT: AttemptStage.REQUEST,
    Fault.UPSTREAM_INCOMPLETE: AttemptStage.HEAD,
    Fault.UPSTREAM_STALLED: AttemptStage.HEAD,
}
"""Faults caused by the target. The others are caused by the client, or by a full pool."""


class HealthObserver(Protocol):
    """Observer of changes by other processes."""

    def refresh_verdicts(self, now: float) -> float:
        """Follow the node's decisions. Returns when to check again even without a change (monotonic seconds)."""


class HealthWindows(NamedTuple):
    """Observations of a worker that are not in shared memory."""

    outliers: Outliers | None
    breaker: Breaker | None


@final
class Health(AttemptListener):
    """Health of one upstream, in one worker: an `AttemptListener`. It calls `settle` of the upstream after every
    change.
    """

    def __init__(
        self,
        upstream: "Upstream",
        words: HealthWords,
        column: Column,
        slot: int,
        slots: Mapping[Target, int],
        count: "Callable[[HealthEvent], None]" = lambda event: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`slot`: slot of the upstream; `slots`: of its targets. `count`: called with the decisions of this
        worker.
        """
        settings = upstream.settings
        self._upstream = upstream
        self._words = words
        self._column = column
        self._mine = column.words
        self._slots = dict(slots)
        self._of_targets: Sequence[int] = tuple(self._slots.values())
        self._clock = clock
        self._attempts = words.upstream_attempts + slot
        self._attempts_at = {target: words.attempts + at for target, at in self._slots.items()}
        self._errors = words.upstream_errors + slot
        self._returns_at = inf
        self._outliers: Outliers | None = None
        self.breaker: Breaker | None = None
        self.tries = False
        """Whether the breaker is not closed, so that successes count."""
        self.watches = settings.circuit_breaker is not None
        """Whether it needs the result of every attempt; otherwise `connected` and failures are enough, without a cost
        per request. Active health checks of the control process need none.
        """
        if settings.health_checks.passive is not None and may_eject(settings):

            def ejected() -> None:
                count(HealthEvent.EJECTED)
                self._follow_targets(clock())

            passive = settings.health_checks.passive
            self._outliers = Outliers(
                upstream.targets, settings, passive, words, column, self._slots, lambda: upstream.drained, ejected
            )
            self.watches |= self._outliers.needs_answers
        if settings.circuit_breaker is not None:
            self.breaker = Breaker(
                settings.circuit_breaker,
                words,
                column,
                slot,
                clock,
                self._breaker_changed,
                lambda: count(HealthEvent.OPENED),
            )

    def __repr__(self) -> str:
        return f"<Health {self._outliers!r} {self.breaker!r}, {len(self._upstream.shunned)} shunned>"

    @property
    def windows(self) -> "HealthWindows":
        """Observations from which the health of the next configuration or list of targets continues."""
        return HealthWindows(self._outliers, self.breaker)

    def take_over_from(self, before: "HealthWindows") -> None:
        """Continue to count. Otherwise a list of targets that changes often would keep the breaker closed."""
        if self._outliers is not None and before.outliers is not None:
            self._outliers.take_over_from(before.outliers)
        if self.breaker is not None and before.breaker is not None:
            self.breaker.take_over_from(before.breaker)
            self.tries = self.breaker.phase is not BreakerPhase.CLOSED

    def clear_decisions(self, heir: "Health | None") -> None:
        """Clear the decisions in this worker that `heir`, the health of its successor, does not follow. If they are
        configured again later, they begin without a past.
        """
        if self.breaker is not None and (heir is None or heir.breaker is None):
            self.breaker.clear_words()
        if self._outliers is not None:
            kept = () if heir is None or heir._outliers is None else heir._of_targets
            for slot in set(self._of_targets).difference(kept):
                self._words.clear_ejection(self._column, slot)
        self._words.changed(self._column)

    def stop(self) -> None:
        """Stop when the upstream was removed from the configuration: objects that refer back here are released."""
        self._outliers = self.breaker = None
        self.tries = False

    def _breaker_changed(self) -> None:
        assert self.breaker is not None
        self.tries = self.breaker.phase is not BreakerPhase.CLOSED
        self._upstream.settle()

    def wait(self) -> float:
        """Seconds until the first ejected target returns; nearly 0 if the time is unknown."""
        return max(self._returns_at - self._clock(), 0.001) if self._returns_at != inf else 0.001

    # results of attempts (`AttemptListener`)

    def attempt_answered(self, attempt: AttemptRecord) -> None:
        words, target = self._mine, attempt.target
        counted_at = self._attempts_at.get(target)
        if counted_at is None:
            return  # the target was removed while the request was in flight
        words[self._attempts] += 1
        words[counted_at] += 1
        seconds = attempt.head_at - attempt.begun_at
        if attempt.status >= ERRORS:
            self._erred(target, seconds, sent=True)
        elif self.tries:
            assert self.breaker is not None
            self.breaker.succeeded(self._clock() - seconds)

    def attempt_given_up(self, attempt: AttemptRecord, fault: Fault | None, why: str) -> None:
        sent, target = None if fault is None else OWN_FAULTS.get(fault), attempt.target
        if sent is None or target not in self._slots:  # or the target was removed while the request was in flight
            return
        if not self.watches:
            if sent is AttemptStage.NOTHING:
                self._not_connected(target)
            return
        if sent is not AttemptStage.HEAD:
            words = self._mine
            words[self._attempts] += 1
            words[self._attempts_at[target]] += 1
        self._erred(target, attempt.ended_at - attempt.begun_at, sent=sent is not AttemptStage.NOTHING)

    # results of connects, if attempts are not watched

    def connected(self, target: Target) -> None:
        """End the streak of a target after a successful connect."""
        slot = self._attempts_at.get(target)
        if slot is not None and self._outliers is not None:
            self._mine[slot] += 1

    def _not_connected(self, target: Target) -> None:
        """Handle a failed connect for a request."""
        if self._outliers is not None:
            self._mine[self._attempts_at[target]] += 1
            self._erred(target, 0.0, sent=False)

    def _erred(self, target: Target, seconds: float, *, sent: bool) -> None:
        words, slot = self._mine, self._slots[target]
        failed = self._outliers is not None and self._outliers.counts(sent)
        words[self._errors] += 1
        words[self._words.errors + slot] += 1
        if failed:
            words[self._words.failures + slot] += 1
        now = self._clock()
        if (
            self._outliers is not None
            and self._outliers.erred(target, now, now - seconds, failed=failed, sent=sent)
            and target not in self._upstream.shunned
        ):
            self._follow_targets(now)  # before the next tick: a retry of this attempt would find the same target
        if self.breaker is not None:
            self.breaker.erred(now, now - seconds)

    # decisions of the node

    def refresh_verdicts(self, now: float) -> float:
        """Follow the node's decisions. Returns when the next change by time is due (monotonic seconds)."""
        at = self._follow_targets(now)
        if self._outliers is not None:
            at = min(at, self._outliers.read_windows(now))
        return at if self.breaker is None else min(at, self.breaker.refresh_state(now))

    def _follow_targets(self, now: float) -> float:
        words, column, upstream = self._words, self._column, self._upstream
        shunned, ejected, changes_at, returns_at = set(), set(), inf, inf
        for (target, slot), (verdict, until) in zip(
            self._slots.items(), words.read_verdicts(column, self._of_targets, now), strict=True
        ):
            if verdict in SHUNNED:
                shunned.add(target)
                changes_at = min(changes_at, until)
                if verdict is HealthVerdict.EJECTED:
                    ejected.add(target)
                    returns_at = min(returns_at, until)
                    if self._outliers is not None:
                        words.repeat_ejection(column, slot)  # in case the process that has ejected it dies
        self._returns_at = returns_at
        if ejected != upstream.ejected:
            upstream.ejected = frozenset(ejected)
        if shunned != upstream.shunned:
            upstream.shunned = frozenset(shunned)
            upstream.settle()
        return changes_at


class HealthEvent(IntEnum):
    """Decision that a worker has made for the node."""

    EJECTED = 0
    OPENED = 1


class HealthPoller(Timed):
    """Checks in each tick of the timer wheel whether anything has changed on the node, and then calls all observers.

    It costs nothing per request.
    """

    __slots__ = ("_changes", "_due_at", "_followers", "_seen", "_stopped", "_views", "_wheel")

    def __init__(self, wheel: Wheel, words: HealthWords, column: Column, followers: Iterable[HealthObserver]) -> None:
        super().__init__()
        self._wheel = wheel
        self._changes = words.changes
        self._views = column.views
        self._followers = [(-inf, follower) for follower in followers]  # and the latest time of each next check
        self._seen = -1
        self._due_at = inf
        self._stopped = False

    def start(self) -> None:
        """Check at once, and from then on."""
        if self._followers:
            self.expire(self._wheel.now)

    def stop(self) -> None:
        self._stopped = True
        self._followers.clear()

    def expire(self, now: float) -> None:
        if self._stopped:
            return
        self._wheel.watch(self, now)  # in the next tick
        changes, word = 0, self._changes
        for view in self._views:
            changes += view[word]
        if changes != self._seen or now >= self._due_at:
            changed, self._seen = changes != self._seen, changes
            self._followers = [
                (follower.refresh_verdicts(now) if changed or now >= due_at else due_at, follower)
                for due_at, follower in self._followers
            ]
            self._due_at = min(due_at for due_at, _ in self._followers)


Note = Callable[[Target, Fault, str], None]
"""Function that stores the last failure of a target, with its kind and reason."""


@final
class AttemptCounters(AttemptListener):
    """Counts hedges, failures caused by the target, and dropped responses of 500 and above.

    `counts`: this worker's counters, in which the upstream's row begins at `first`, and those of its targets at their
    own positions. `note`: stores a target's last error; None: targets have no rows.
    """

    __slots__ = ("_counts", "_first", "_note")

    def __init__(self, counts: memoryview, first: int, note: Note | None) -> None:
        self._counts, self._first, self._note = counts, first, note

    def attempt_begun(self, attempt: AttemptRecord) -> None:
        if attempt.kind is AttemptKind.HEDGE:
            self._counts[self._first + UPSTREAM_HEDGES] += 1

    def attempt_given_up(self, attempt: AttemptRecord, fault: Fault | None, why: str) -> None:
        if self._note is None:
            return
        target = attempt.target
        if fault is None:
            if attempt.refused and attempt.status >= 500:
                self._counts[target.counted + TARGET_SERVER_ERRORS] += 1
        elif (word := TARGET_FAULT_WORDS.get(fault)) is not None:
            self._counts[target.counted + word] += 1
            self._note(target, fault, why)
