"""Queue of access log lines between the event loop, which adds them, and the log's thread, which takes them.

Rule 1: neither waits for the other; each step on shared data is atomic in CPython. Rule 2: the queue is bounded in
bytes. Rule 3: lines are taken whole and in order.
"""

from collections.abc import Callable
from typing import Final, final

LINES_AT_ONCE: Final = 128
"""Maximum number of lines per write: about 64 KiB."""
PRESSING: Final = 1024 * 1024
"""Number of queued bytes at which the thread is woken at once."""


@final
class LineQueue:
    """Line queue of one log. Compiled module: `fastgw.observe._recorder`."""

    __slots__ = ("_in", "_lines", "_most", "_out", "_press", "_wake")

    def __init__(self, most: int, wake: Callable[[], None], press: Callable[[], None]) -> None:
        """Create the queue. `most`: maximum size in bytes. `wake`: called when it is no longer empty; `press`: called
        when it reaches `PRESSING`.
        """
        self._most = most
        self._wake, self._press = wake, press
        self._lines: list[bytes] = []
        # Total bytes. Each is written by one thread only: the loop's and the log's.
        self._in = self._out = 0

    @property
    def size(self) -> int:
        """Queued bytes."""
        return self._in - self._out

    def add(self, line: bytes) -> bool:
        """Add a line; False if the queue is full. For the loop's thread."""
        length = len(line)
        if self._in - self._out + length > self._most:
            return False
        self._lines.append(line)
        self._in += length
        size = self._in - self._out  # read after the append: the thread may have emptied the queue
        if size == length:
            self._wake()
        elif size - length < PRESSING <= size:
            self._press()
        return True

    def pop_lines(self) -> bytes:
        """Remove and return the oldest lines, as many as make one write; b"" if the queue is empty. For the log's
        thread.
        """
        taken = self._lines[:LINES_AT_ONCE]
        del self._lines[: len(taken)]
        batch = b"".join(taken)
        self._out += len(batch)
        return batch
