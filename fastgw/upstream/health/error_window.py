"""Error window: how many of the node's attempts in the last seconds have failed, computed from monotonic counters.

Rule: the node's counters are in shared memory, but not their earlier values. Each worker reads them periodically, and
when an attempt of its own has failed, and stores the increments. So a success costs one store, and a killed process
loses only its own counts.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, final

SLOTS: Final = 10
"""Number of parts by which a window advances."""
BLIND: Final = SLOTS // 2
"""Number of parts without a reading after which the time of increments is unknown: the window starts again."""


@final
class Window:
    """Attempts and errors within the last `seconds`, of all columns."""

    __slots__ = ("_before", "_looked", "_seconds", "_slots")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._slots: deque[list[int]] = deque()  # index of the part, attempts, errors; at most SLOTS and one
        self._before: list[tuple[int, int]] = []  # by column: attempts and errors at the last reading
        self._looked = -BLIND - 1

    def __repr__(self) -> str:
        return f"<Window of {self._seconds:g} s: {[slot[1:] for slot in self._slots]}>"

    def count_attempts(self, now: float, counts: Sequence[tuple[int, int]], erred: bool = True) -> tuple[int, int]:
        """Return attempts and errors within the window. `counts`: both, by column. `erred`: an error was counted just
        now.
        """
        part = int(now * SLOTS / self._seconds)
        if part - self._looked > BLIND:
            attempts = errors = int(erred)
            self._slots.clear()
        else:
            attempts, errors = self._added(counts)
        self._looked, self._before = part, list(counts)
        slots = self._slots
        if slots and slots[-1][0] == part:
            slots[-1][1] += attempts
            slots[-1][2] += errors
        else:
            slots.append([part, attempts, errors])
        while slots[0][0] <= part - SLOTS:
            slots.popleft()
        return sum(slot[1] for slot in slots), sum(slot[2] for slot in slots)

    def clear(self) -> None:
        """Reset the window."""
        self._looked = -BLIND - 1

    def _added(self, counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
        attempts = errors = 0
        for column, (now_attempts, now_errors) in enumerate(counts):
            before_attempts, before_errors = self._before[column] if column < len(self._before) else (0, 0)
            if now_attempts < before_attempts:  # the column has a new process, which began at 0
                before_attempts = before_errors = 0
            attempts += now_attempts - before_attempts
            errors += max(now_errors - before_errors, 0)
        return attempts, errors
