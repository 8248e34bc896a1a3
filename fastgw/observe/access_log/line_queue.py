"""Lines of an access log between the loop, which adds them, and the log's thread, which takes them.

Rule 1: neither waits for the other; each step on what both share is one that the interpreter does not divide.
Rule 2: what is held is bounded in bytes. Rule 3: what is taken are whole lines, in their order.
"""

from collections.abc import Callable
from typing import Final, final

LINES_AT_ONCE: Final = 128
"""How many lines make one write: some 64 KiB, and 512 at most."""
PRESSING: Final = 1024 * 1024
"""Bytes that are not left to lie until the thread's next round."""


@final
class LineQueue:
    """The lines of one log. `fastgw.observe._recorder` has it compiled."""

    __slots__ = ("_in", "_lines", "_most", "_out", "_press", "_wake")

    def __init__(self, most: int, wake: Callable[[], None], press: Callable[[], None]) -> None:
        """`most`: bytes. `wake` is called when there is something to take again, `press` when there is much."""
        self._most = most
        self._wake, self._press = wake, press
        self._lines: list[bytes] = []
        # Bytes so far. Each is written by one thread alone: the loop's and the log's.
        self._in = self._out = 0

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self._in - self._out

    def add(self, line: bytes) -> bool:
        """Hold a line; False when there is no room for it. For the loop's thread."""
        length = len(line)
        if self._in - self._out + length > self._most:
            return False
        self._lines.append(line)
        self._in += length
        size = self._in - self._out  # asked after the append: the thread may have taken all that was before it
        if size == length:
            self._wake()
        elif size - length < PRESSING <= size:
            self._press()
        return True

    def take(self) -> bytes:
        """The oldest lines, as many as make one write; none when nothing is held. For the log's thread."""
        taken = self._lines[:LINES_AT_ONCE]
        del self._lines[: len(taken)]
        batch = b"".join(taken)
        self._out += len(batch)
        return batch
