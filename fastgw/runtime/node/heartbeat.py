"""Heartbeats: a worker writes them to shared memory with the lag of its event loop; control only writes heartbeats."""

import asyncio
import time
from typing import Final

from fastgw.eventloop.timer_wheel import TICK
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.shm.memory import Column, SharedMemory

CONTROL_BEATS_S: Final = 0.25
"""Seconds between two heartbeats of control."""


class WorkerHeartbeat:
    """Heartbeat of a worker, written in each tick."""

    def __init__(self, loop: asyncio.AbstractEventLoop, words: ShmLayout, column: Column) -> None:
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


class ControlHeartbeat:
    """Heartbeat of control: it only reports that its loop is running."""

    def __init__(self, loop: asyncio.AbstractEventLoop, words: ShmLayout, shared: SharedMemory) -> None:
        self._loop = loop
        self._words = words
        self._shared = shared

    def beat(self) -> None:
        self._words.control_has_beaten(self._shared, time.monotonic_ns())
        self._loop.call_later(CONTROL_BEATS_S, self.beat)
