"""Queue of access log lines between the event loop, which adds them, and the log's thread, which takes them.

Rule 1: neither waits for the other; each step is atomic in CPython. Rule 2: the queue is bounded in bytes. Rule 3:
lines are taken whole and in order.
"""

from collections.abc import Callable
from typing import Final, final

PRESSING: Final[int]
"""Number of queued bytes at which the thread is woken at once."""

@final
class LineQueue:
    """Line queue of one log."""

    def __init__(self, most: int, wake: Callable[[], None], press: Callable[[], None]) -> None:
        """Create the queue. `most`: maximum size in bytes. `wake`: called when it is no longer empty; `press`: called
        when it reaches `PRESSING`.
        """

    @property
    def size(self) -> int:
        """Queued bytes."""

    def add(self, line: bytes) -> bool:
        """Add a line; False if the queue is full. For the loop's thread."""

    def pop_lines(self) -> bytes:
        """Remove and return the oldest lines, as many as make one write; b"" if the queue is empty. For the log's
        thread.
        """
