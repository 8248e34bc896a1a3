"""Outlier ejection: ejects targets that fail more often than the others (passive health checks), counted for the node.

The number of consecutive failures of a target is exact although workers only write their own columns. All of them count
successes (attempts minus failures); a streak is stored with the node's number of successes at that time. Streaks with
the same number add up; a success in any worker changes the number and ends all streaks. Two simultaneous failures may
each miss the other: then one more is needed.

Safeguards against a client whose requests make every target fail, so that it cannot eject all of them:
1. Unless `failures` is set, only failed connects count. If it is set, responses below 500 do not count, and a success
of any client ends a streak.
2. Requests go to all targets in turn, so such a client affects the other targets in the same way. A target whose
neighbours have half as many failures is not an outlier, and stays. Failed connects do not depend on a request: they
always count.
3. `max_ejected` applies to the node: an ejection is written first, and undone if there are too many.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, final

from fastgw.config.settings.gateway import PassiveHealth, Upstream
from fastgw.shm.health_words import MOST_LEVEL, Ejection, HealthWords
from fastgw.shm.memory import Column
from fastgw.upstream.health.error_window import Window
from fastgw.upstream.targets.target import Target

NEIGHBOURS: Final = 8
"""Number of neighbours that are compared: the next ones in the order of the file."""
FULL_S: Final = 0.05
"""Seconds without further ejections after the maximum was reached."""
_COUNT_BITS: Final = 16
_AT_BITS: Final = 24
_MOST: Final = (1 << _COUNT_BITS) - 1
_MASK: Final = (1 << _AT_BITS) - 1


def most_ejected(targets: int, share: float) -> int:
    """Return how many of this number of targets may be ejected at a time."""
    if targets < 2 or not share:
        return 0
    return min(max(int(targets * share + 1e-9), 1), targets)


def may_eject(settings: Upstream) -> bool:
    """Whether its targets are ever ejected. The only target of an upstream is not."""
    passive = settings.health_checks.passive
    return passive is not None and most_ejected(len(settings.targets), passive.max_ejected) > 0


@final
class Outliers:
    """Outlier ejection of one upstream, in one worker. `on_eject`: called when this worker has ejected a target."""

    __slots__ = (
        "_at",
        "_column",
        "_full_until",
        "_most",
        "_needed",
        "_needed_connects",
        "_on_eject",
        "_order",
        "_settings",
        "_slots",
        "_windows",
        "_words",
    )

    def __init__(
        self,
        settings: PassiveHealth,
        words: HealthWords,
        column: Column,
        slots: Mapping[Target, int],
        on_eject: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._words = words
        self._column = column
        self._slots = slots
        self._order: Sequence[int] = tuple(slots.values())
        self._at = {slot: index for index, slot in enumerate(self._order)}
        self._most = most_ejected(len(self._order), settings.max_ejected)
        self._needed = settings.failures  # failures in a row; None: only failed connects count
        self._needed_connects = settings.connect_failures or settings.failures or 1
        self._on_eject = on_eject
        self._full_until = 0.0
        self._windows: dict[int, Window] = {}

    def __repr__(self) -> str:
        return f"<Outliers of {len(self._order)}, {self._most} at a time>"

    @property
    def needs_answers(self) -> bool:
        """Whether it needs more results than those of connects."""
        return self._needed is not None or self._settings.error_rate is not None

    def counts(self, sent: bool) -> bool:
        """Whether a failure extends a streak. `sent`: the request was sent to the target."""
        return not sent or self._needed is not None

    def erred(self, target: Target, now: float, begun_at: float, *, failed: bool, sent: bool) -> bool:
        """Handle a failed attempt that began at this time. The attempt is counted already.

        `failed`: it extends a streak; `sent`: the request was sent to the target. Returns whether the target has been
        ejected since the attempt began, perhaps by another worker.
        """
        slot = self._slots[target]
        words, column, settings = self._words, self._column, self._settings
        last = words.ejection(column.views, slot)
        if begun_at < last.until:
            return now < last.until  # sent before the ejection of the target: no new information
        back = last.level > 0 and now - last.until < settings.window
        due = False
        if failed:
            streak = self._lengthen(slot, now, back)
            needed = self._needed if sent and self._needed is not None else self._needed_connects
            due = streak >= needed or (back and streak > 1)
            if due and sent and self._neighbours_fail(slot, now):
                due = False
        if not due and settings.error_rate is not None:
            due = self._rate_is_high(slot, now, settings.error_rate)
        if due and now >= self._full_until and self._most:
            self._eject(slot, now, last)
        return False

    # consecutive failures

    def _successes(self, slot: int) -> int:
        attempts, failures = self._words.attempts + slot, self._words.failures + slot
        return sum(view[attempts] - view[failures] for view in self._column.views) & _MASK

    def _lengthen(self, slot: int, now: float, back: bool) -> int:
        """Count one more consecutive failure; return their number on the node."""
        words, at = self._column.words, self._words.streak + slot
        successes, instant = self._successes(slot), int(now * 100) & _MASK
        own = words[at]
        if self._counts(own, successes, instant, back):
            words[at] = own + 1 if own & _MOST < _MOST else own
        else:
            words[at] = successes << _AT_BITS + _COUNT_BITS | instant << _COUNT_BITS | 1
        self._column.fence()
        return self._streak(slot, successes, instant, back)

    def _streak(self, slot: int, successes: int, instant: int, back: bool) -> int:
        at = self._words.streak + slot
        held = [view[at] for view in self._column.views]
        return sum(word & _MOST for word in held if self._counts(word, successes, instant, back))

    def _counts(self, word: int, successes: int, instant: int, back: bool) -> bool:
        """Whether a worker's streak continues: there was no success since it began, and it is recent enough.

        `back`: the target has recently returned from an ejection, and its earlier failures still count.
        """
        if not word & _MOST or word >> _AT_BITS + _COUNT_BITS != successes:
            return False
        begun = word >> _COUNT_BITS & _MASK
        return back or (instant - begun) & _MASK <= self._settings.window * 100

    def _neighbours_fail(self, slot: int, now: float) -> bool:
        """Whether the targets that are not ejected fail as often; False if there are none."""
        instant, looked = int(now * 100) & _MASK, False
        for other in self._neighbours(slot):
            if self._words.ejection(self._column.views, other).until > now:
                continue
            looked = True
            if 2 * self._streak(other, self._successes(other), instant, False) < (self._needed or 1):
                return False
        return looked

    # --- shares ---

    def _rate_is_high(self, slot: int, now: float, rate: float) -> bool:
        """Whether the error rate of the target is too high, and that of its neighbours is lower."""
        attempts, errors = self._rate(slot, now, erred=True)
        others = [self._rate(other, now, erred=False) for other in self._neighbours(slot)]
        if attempts < self._settings.min_requests or errors < rate * attempts:
            return False
        of_others, errors_of_others = sum(each[0] for each in others), sum(each[1] for each in others)
        return 2 * errors_of_others * attempts <= errors * of_others

    def _rate(self, slot: int, now: float, erred: bool) -> tuple[int, int]:
        window = self._windows.get(slot)
        if window is None:
            window = self._windows[slot] = Window(self._settings.window)
        attempts, errors = self._words.attempts + slot, self._words.errors + slot
        return window.count_attempts(now, [(view[attempts], view[errors]) for view in self._column.views], erred)

    def _neighbours(self, slot: int) -> Iterator[int]:
        at, count = self._at[slot], len(self._order)
        return (self._order[(at + step) % count] for step in range(1, min(NEIGHBOURS, count - 1) + 1))

    # --- ejections ---

    def _eject(self, slot: int, now: float, last: Ejection) -> None:
        words, column, settings = self._words, self._column, self._settings
        kept = max(last.level - int((now - last.until) / settings.window), 0) if last.level else 0
        level = min(kept + 1, MOST_LEVEL)
        words.eject(column, slot, Ejection(now + min(settings.eject * level, settings.max_eject), level))
        column.fence()
        if sum(words.ejection(column.views, each).until > now for each in self._order) > self._most:
            words.eject(column, slot, last)
            self._full_until = now + FULL_S
            return
        words.changed(column)
        self._on_eject()
