"""A coarse timer wheel: thousands of deadlines, one check of the clock per tick.

A connection moves its deadline with every byte, so moving must cost nothing: `deadline` is a plain attribute that is
only stored. The wheel checks it when its slot is due, and files it again if it has moved.
Finished objects are dropped explicitly: their deadline may be a minute away, and thousands per second would accumulate.
No event loop here: the worker calls `advance` every `tick` seconds.
"""

from collections.abc import Iterable
from math import inf
from typing import Final

TICK: Final = 0.05
"""Seconds between two calls of `advance`: how late a deadline may be noticed (at most two ticks)."""
_TICK = TICK  # a C double


class Timed:
    """Timed object: it has one deadline at a time. `deadline`: monotonic seconds, `inf` = none."""

    def __cinit__(self) -> None:  # before `__init__` of any class, which need not call this one's
        self.deadline = inf
        self.filed_at = inf  # the earliest instant at which the wheel checks this object; inf = not filed

    def expire(self, now: float) -> None:
        """Handle the deadline. It has been set to `inf`; set it again to be called again."""
        raise NotImplementedError


class Wheel:
    """Files `Timed` by the tick of their deadline. `now` is the monotonic time of the last `advance`."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._ticks = _tick_of(now)
        self._slots: dict[int, set[Timed]] = {}

    def watch(self, timed: Timed, deadline: float) -> None:
        """Set a deadline. If it is later than the previous one: one store. If earlier: it is filed again."""
        timed.deadline = deadline
        if deadline < timed.filed_at:
            self.file(timed, deadline)

    def file(self, timed: Timed, at: float) -> None:
        """File it for this instant: part of `watch`, which code that sets a deadline per request does itself."""
        if timed.filed_at != inf:
            self._unfile(timed)
        timed.filed_at = at
        tick = max(_tick_of(at), self._ticks) + 1
        slot = self._slots.get(tick)
        if slot is None:
            self._slots[tick] = {timed}
        else:
            slot.add(timed)

    def drop(self, timed: Timed) -> None:
        """Remove an entry: it has no deadline, and is no longer referenced."""
        timed.deadline = inf
        if timed.filed_at != inf:
            self._unfile(timed)
            timed.filed_at = inf

    def _unfile(self, timed: Timed) -> None:
        slot = self._slots.get(_tick_of(timed.filed_at) + 1)
        if slot is not None:  # otherwise it is in the next one, like entries that were due when they were filed
            slot.discard(timed)

    def advance(self, now: float) -> None:
        """Expire entries that are due at `now` (monotonic seconds). It visits the due slots only, never all timers."""
        self.now = now
        slots = self._slots
        last = _tick_of(now)
        for tick in range(self._ticks + 1, last + 1):
            self._ticks = tick
            due = iter(slots.pop(tick, ()))
            try:
                self._look_at(due, now)
            finally:
                if left := set(due):  # an expiry raised: the next `advance` checks the others
                    slots.setdefault(tick + 1, set()).update(left)

    def _look_at(self, due: Iterable[Timed], now: float) -> None:
        for timed in due:
            if timed.filed_at > now:
                continue  # filed again for later, or dropped, by an earlier one
            timed.filed_at = inf
            if timed.deadline <= now:
                timed.deadline = inf
                timed.expire(now)
            elif timed.deadline != inf:
                self.file(timed, timed.deadline)


def _tick_of(at: float) -> int:
    """Return the number of the tick in which this instant lies."""
    return int(at / _TICK)
