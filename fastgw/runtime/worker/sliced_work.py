"""Long work on an event loop that serves requests: it is done in slices, between which other callbacks run."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Final

SLICE_S: Final = 0.0005
"""Maximum duration of a slice in seconds, except for its last step."""

Steps = Generator[None, None, Any]
Done = Callable[[Any], None]
Failed = Callable[[Exception], None]


class Slices:
    """Runs generators one after another, each until it returns; `done` gets its return value."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[Steps, Done, Failed]] = deque()
        self._next: asyncio.Handle | None = None

    def run(self, steps: Steps, done: Done, failed: Failed) -> None:
        self._waiting.append((steps, done, failed))
        if self._next is None:
            self._next = self._loop.call_soon(self._run_slice)

    def stop(self) -> None:
        """Drop everything."""
        if self._next is not None:
            self._next.cancel()
        for steps, *_ in self._waiting:
            steps.close()
        self._waiting.clear()

    def _run_slice(self) -> None:
        self._next = None
        until = time.perf_counter() + SLICE_S
        try:
            while self._waiting and time.perf_counter() < until:
                self._step()
        finally:
            if self._waiting and self._next is None:
                self._next = self._loop.call_soon(self._run_slice)

    def _step(self) -> None:
        steps, done, failed = self._waiting[0]
        try:
            next(steps)
        except StopIteration as end:
            self._waiting.popleft()
            done(end.value)
        except Exception as error:
            self._waiting.popleft()
            failed(error)
