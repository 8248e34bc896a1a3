"""Error window: how many of the node's attempts in the last seconds have failed, computed from monotonic counters.

Rule: the node's counters are in shared memory, but not their earlier values. Each worker reads them periodically, and
when an attempt of its own has failed, and stores the increments. So a success costs one store, and a killed process
loses only its own counts.
"""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Final, final

SLOTS: Final = 10
"""Number of parts by which a window advances."""
BLIND: Final = SLOTS // 2
"""Number of parts without a reading after which the time of increments is unknown: the window starts again."""

Counts = Sequence[tuple[int, int]]
"""Attempts and errors, by column."""


@final
class Window:
    """Attempts and errors within the last `seconds`, of all columns."""

    __slots__ = ("_before", "_read_at", "_seconds", "_slots")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._slots: deque[list[int]] = deque()  # index of the part, attempts, errors; at most SLOTS and one
        self._before: Counts = ()  # at the last reading
        self._read_at = -inf

    def __repr__(self) -> str:
        return f"<Window of {self._seconds:g} s: {[slot[1:] for slot in self._slots]}>"

    def count_attempts(self, now: float, counts: Counts, erred: bool = True, since: float = -inf) -> tuple[int, int]:
        """Return attempts and errors within the window. `erred`: an error was counted just now. `since`: if it was
        last read before this time, it starts again.
        """
        self._add(now, counts, erred, since)
        attempts = errors = 0
        for _, of_part, failed in self._slots:
            attempts += of_part
            errors += failed
        return attempts, errors

    def read_counts(self, now: float, counts: Counts, since: float) -> None:
        """Read the counters, although no error was counted just now: next to nothing to do if there were no attempts.

        `since`: as in `count_attempts`.
        """
        if counts == self._before and since <= self._read_at:
            self._read_at = now
        else:
            self._add(now, counts, False, since)

    def clear(self) -> None:
        """Reset the window."""
        self._read_at = -inf

    def _add(self, now: float, counts: Counts, erred: bool, since: float) -> None:
        part, slots = int(now * SLOTS / self._seconds), self._slots
        if now - self._read_at > self._seconds * BLIND / SLOTS or since > self._read_at:
            attempts = errors = int(erred)
            slots.clear()
        else:
            attempts, errors = self._added(counts)
        self._read_at, self._before = now, tuple(counts)
        if slots and slots[-1][0] == part:
            slots[-1][1] += attempts
            slots[-1][2] += errors
        else:
            slots.append([part, attempts, errors])
        while slots[0][0] <= part - SLOTS:
            slots.popleft()

    def _added(self, counts: Counts) -> tuple[int, int]:
        attempts = errors = 0
        earlier = self._before
        known = len(earlier)
        for column, now in enumerate(counts):
            before = earlier[column] if column < known else (0, 0)
            if now == before:
                continue
            if now[0] < before[0]:  # the column has a new process, which began at 0
                before = (0, 0)
            attempts += now[0] - before[0]
            errors += max(now[1] - before[1], 0)
        return attempts, errors
