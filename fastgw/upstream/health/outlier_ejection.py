"""Outlier ejection: ejects targets that fail more often than the others (passive health checks), counted for the node.

The number of consecutive failures of a target is exact although workers only write their own columns. All of them count
successes (attempts minus failures); a streak is stored with the node's number of successes at that time. Streaks with
the same number add up; a success in any worker changes the number and ends all streaks. Two simultaneous failures may
each miss the other: then one more is needed.

Safeguards against a client whose requests make every target fail, so that it cannot eject all of them:
1. Unless `failures` is set, only failed connects count. If it is set, responses below 500 do not count, and a success
of any client ends a streak.
2. Requests go to all targets of a priority group in turn, so such a client affects the others of the group in the same
way. A target whose neighbours have half as many failures is not an outlier, and stays. Failed connects do not depend on
a request: they always count.
3. `max_ejected` applies to the node and to each priority group: an ejection is written first, and undone if there are
too many. While another group has an available target, all targets of a group may be ejected: otherwise no requests
would go to the backups of primaries that are down.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from math import inf
from typing import Final, final

from fastgw.config.base.value_types import count_within
from fastgw.config.settings.gateway import PassiveHealth, Upstream
from fastgw.config.settings.gateway import Target as ConfiguredTarget
from fastgw.shm.health_words import MOST_LEVEL, SHUNNED, Ejection, HealthWords
from fastgw.shm.memory import Column
from fastgw.upstream.health.error_window import SLOTS, Window
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
    return max(count_within(share, targets), 1)


def may_eject(settings: Upstream) -> bool:
    """Whether its targets are ever ejected. The only target of an upstream is not."""
    passive = settings.health_checks.passive
    return passive is not None and most_ejected(len(settings.targets), passive.max_ejected) > 0


@final
class _PriorityGroup:
    """Targets of one priority. `full_until`: no further ejections until then, because the maximum was reached."""

    __slots__ = ("at", "full_until", "most", "order", "others")

    def __init__(self, order: Sequence[int], others: Mapping[int, Target], share: float) -> None:
        """`order`: slots of its targets; `others`: targets of the other groups that have a weight, by slot."""
        self.order = order
        self.at = {slot: index for index, slot in enumerate(order)}
        self.others = others
        self.most = most_ejected(len(order), share)
        self.full_until = 0.0


def _priority_groups(
    targets: Sequence[Target], upstream: Upstream, slots: Mapping[Target, int], share: float
) -> Mapping[int, _PriorityGroup]:
    """Return the priority group of each slot. `targets`: of `upstream`, in its order.

    A target that is configured twice has one slot, in the first of its groups.
    """
    configured: dict[int, tuple[Target, ConfiguredTarget]] = {}
    for target, each in sorted(zip(targets, upstream.targets, strict=True), key=lambda pair: pair[1].priority):
        configured.setdefault(slots[target], (target, each))
    groups: dict[int, _PriorityGroup] = {}
    for priority in {each.priority for _, each in configured.values()}:
        order = tuple(slot for slot, (_, each) in configured.items() if each.priority == priority)
        others = {
            slot: target for slot, (target, each) in configured.items() if each.priority != priority and each.weight
        }
        groups |= dict.fromkeys(order, _PriorityGroup(order, others, share))
    return groups


@final
class Outliers:
    """Outlier ejection of one upstream, in one worker. `targets`: in the order of `upstream`; `slots`: theirs.

    `drained`: returns the targets drained by an operator. `on_eject`: called when this worker has ejected a target.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        upstream: Upstream,
        settings: PassiveHealth,
        words: HealthWords,
        column: Column,
        slots: Mapping[Target, int],
        drained: Callable[[], Container[Target]],
        on_eject: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._words = words
        self._column = column
        self._slots = slots
        self._groups = _priority_groups(targets, upstream, slots, settings.max_ejected)
        self._needed = settings.failures  # failures in a row; None: only failed connects count
        self._needed_connects = settings.connect_failures or settings.failures or 1
        self._drained = drained
        self._on_eject = on_eject
        self._read_at = 0.0
        self._windows: dict[int, Window] = {}  # of `error_rate`, by slot
        if settings.error_rate is not None:
            self._windows = {slot: Window(settings.window) for slot in slots.values()}

    def __repr__(self) -> str:
        return f"<Outliers of {len(self._groups)} in {len(set(self._groups.values()))} groups>"

    def take_over_from(self, before: "Outliers") -> None:
        """Keep the windows of targets that stay, if the settings were the same."""
        if self._settings != before._settings:
            return
        for target, slot in self._slots.items():
            if slot in self._windows and before._slots.get(target) == slot:
                self._windows[slot] = before._windows[slot]

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
            due = streak >= needed or (back and self._failed_before(slot, last.until, now))
            if due and sent and self._neighbours_fail(slot, now):
                due = False
        if not due and settings.error_rate is not None:
            due = self._rate_is_high(slot, now, settings.error_rate)
        if due and now >= self._groups[slot].full_until:
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

    def _failed_before(self, slot: int, until: float, now: float) -> bool:
        """Whether the streak began before the ejection ended: the target has not succeeded since its return."""
        at, successes, instant = self._words.streak + slot, self._successes(slot), int(now * 100) & _MASK
        age = instant - int(until * 100) & _MASK
        return any(
            self._counts(view[at], successes, instant, True) and (instant - (view[at] >> _COUNT_BITS)) & _MASK > age
            for view in self._column.views
        )

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
        if attempts < self._settings.min_requests or errors / attempts < rate:
            return False
        of_others, errors_of_others = sum(each[0] for each in others), sum(each[1] for each in others)
        return 2 * errors_of_others * attempts <= errors * of_others

    def _rate(self, slot: int, now: float, erred: bool) -> tuple[int, int]:
        words, views = self._words, self._column.views
        attempts, errors = words.attempts + slot, words.errors + slot
        counts = [(view[attempts], view[errors]) for view in views]
        return self._windows[slot].count_attempts(now, counts, erred, words.ejection(views, slot).until)

    def read_windows(self, now: float) -> float:
        """Count the attempts since the last reading: successes cause none. Returns when the next one is due (monotonic
        seconds).

        Errors before the end of an ejection do not count after it, even if no reading falls into the ejection.
        """
        if not self._windows:
            return inf
        if now >= self._read_at:
            self._read_at = now + self._settings.window / SLOTS
            slots = [*self._windows]
            for window, (counts, until) in zip(
                self._windows.values(), self._words.read_attempts(self._column, slots), strict=True
            ):
                window.read_counts(now, counts, until)
        return self._read_at

    def _neighbours(self, slot: int) -> Iterator[int]:
        group = self._groups[slot]
        order, at, count = group.order, group.at[slot], len(group.order)
        return (order[(at + step) % count] for step in range(1, min(NEIGHBOURS, count - 1) + 1))

    # --- ejections ---

    def _eject(self, slot: int, now: float, last: Ejection) -> None:
        words, column, settings = self._words, self._column, self._settings
        kept = max(last.level - int((now - last.until) / settings.window), 0) if last.level else 0
        level = min(kept + 1, MOST_LEVEL)
        words.eject(column, slot, Ejection(now + min(settings.eject * level, settings.max_eject), level))
        column.fence()
        group = self._groups[slot]
        ejected = sum(words.ejection(column.views, each).until > now for each in group.order)
        if ejected > group.most and not self._others_available(group, now):
            words.eject(column, slot, last)
            group.full_until = now + FULL_S
            return
        words.changed(column)
        self._on_eject()

    def _others_available(self, group: _PriorityGroup, now: float) -> bool:
        """Whether a target of another priority group is available."""
        others, drained = group.others, self._drained()
        verdicts = self._words.read_verdicts(self._column, [*others], now)
        return any(
            verdict not in SHUNNED and target not in drained
            for target, (verdict, _) in zip(others.values(), verdicts, strict=True)
        )
