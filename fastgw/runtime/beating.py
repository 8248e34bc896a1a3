"""A worker's heart: it beats in shared memory, and notes how late it is, which is how late everything else is."""

import asyncio
import time

from fastgw.node.shared import Column
from fastgw.node.timers import TICK
from fastgw.runtime.words import Words


class Heart:
    """Beats once a tick."""

    def __init__(self, loop: asyncio.AbstractEventLoop, words: Words, column: Column) -> None:
        self._loop = loop
        self._words = words
        self._column = column
        self._due_at = 0.0

    def start(self) -> None:
        self._due_at = time.monotonic()
        self._beat()

    def _beat(self) -> None:
        now = time.monotonic()
        self._words.beaten(self._column, time.monotonic_ns(), now - self._due_at)
        self._due_at = now + TICK
        self._loop.call_later(TICK, self._beat)
