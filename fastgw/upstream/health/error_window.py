"""How many of the node's attempts of the last seconds have failed: read from counts that only grow.

Rule: the node's counts are in shared memory, what they were a while ago is not. Each worker looks once in a while, and
when an attempt of its own has failed, and keeps what has been added from one look to the next. So a success costs one
store, and a process that is killed takes nothing along but what it had counted itself.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, final

SLOTS: Final = 10
"""Parts that a window moves on by."""
BLIND: Final = SLOTS // 2
"""Parts without a look after which nobody knows any more when something was added: the window begins anew."""


@final
class Window:
    """Attempts and errors within the last `seconds`, of all columns."""

    __slots__ = ("_before", "_looked", "_seconds", "_slots")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._slots: deque[list[int]] = deque()  # which part of time, attempts, errors; at most SLOTS and one
        self._before: list[tuple[int, int]] = []  # by column: attempts and errors at the last look
        self._looked = -BLIND - 1

    def __repr__(self) -> str:
        return f"<Window of {self._seconds:g} s: {[slot[1:] for slot in self._slots]}>"

    def look(self, now: float, counts: Sequence[tuple[int, int]], erred: bool = True) -> tuple[int, int]:
        """Attempts and errors within the window. `counts`: both, by column. `erred`: just now, and counted."""
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
        """Begin anew."""
        self._looked = -BLIND - 1

    def _added(self, counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
        attempts = errors = 0
        for column, (now_attempts, now_errors) in enumerate(counts):
            before_attempts, before_errors = self._before[column] if column < len(self._before) else (0, 0)
            if now_attempts < before_attempts:  # another process has the column now: it has begun at 0
                before_attempts = before_errors = 0
            attempts += now_attempts - before_attempts
            errors += max(now_errors - before_errors, 0)
        return attempts, errors
