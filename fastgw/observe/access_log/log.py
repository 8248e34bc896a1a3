"""An access log: the lines that a worker's loop makes, and the thread that writes them.

Rule 1: the loop never waits: a line that finds no room is dropped and counted. Rule 2: each finished exchange becomes
one line or one dropped record. Rule 3: a log has a thread of its own, so one that is stuck holds up no other. Rule 4:
the thread writes and nothing else, and wakes seldom: while it has the interpreter, the loop has not.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Final, Protocol

from fastgw.observe.access_log.formats import FORMATS, SecretNames
from fastgw.observe.access_log.line_queue import LineQueue
from fastgw.observe.access_log.sink import Sink
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.operator_events import OperatorEvent, say

log = logging.getLogger("fastgw")

MAX_HELD: Final = 16 * 1024 * 1024
"""Bytes of lines. At 25,000 requests/s a disk may pause for a second."""
_GATHER_S: Final = 0.05  # one wake-up of the thread serves all that comes meanwhile
_ABANDON_S: Final = 0.5  # a thread that waits for a reader looks up five times as often


class AccessLog(Protocol):
    """The settings of an access log."""

    @property
    def sink(self) -> str:
        """`stdout`, or the path of a file."""

    @property
    def format(self) -> str:
        """A key of `lines.FORMATS`."""

    @property
    def redact(self) -> Sequence[str]:
        """Query parameters to mask besides `lines.ALWAYS_MASKED`."""


class Lines(Protocol):
    """`LineQueue`, or the compiled one."""

    @property
    def size(self) -> int: ...
    def add(self, line: bytes) -> bool: ...
    def take(self) -> bytes: ...


class Log:
    """One access log of one worker."""

    def __init__(
        self,
        settings: AccessLog,
        counters: ExchangeCounters,
        held: Callable[[int, Callable[[], None], Callable[[], None]], Lines] = LineQueue,
    ) -> None:
        self.settings = settings
        self.format = FORMATS[settings.format]
        self.secrets = SecretNames(settings.redact)
        self._counters = counters
        self._sink = Sink(settings.sink)
        self._is_failing = False  # that lines are dropped; once is enough, the metric says how many
        self._wake, self._press = threading.Event(), threading.Event()  # there is something to do; at once
        self._stopping = False
        self.held = held(MAX_HELD, self._wake.set, self._press.set)
        self._thread = Thread(target=self._run, name=f"access log {settings.sink}", daemon=True)

    def add(self, line: bytes) -> None:
        """Hold a line until it is written, or drop it. Hot path."""
        if not self.held.add(line):
            self.drop()

    def drop(self) -> None:
        """Count a line for which there was no room."""
        self._counters.drop_unqueued()
        if not self._is_failing:
            self._is_failing = True
            say(
                OperatorEvent.ACCESS_LOG_FAILED,
                "access log %s cannot be written fast enough: lines are dropped and counted",
                self.settings.sink,
            )

    def start(self) -> None:
        self._wake.set()
        self._thread.start()

    def reopen(self) -> None:
        self._sink.expire()
        self._wake.set()

    def begin_stop(self) -> None:
        """Have the thread write what is held and end."""
        self._stopping = True
        self._press.set()
        self._wake.set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still writes."""
        return self._thread.is_alive()

    def abandon(self) -> None:
        """Wait no longer for a reader."""
        self._sink.abandoned = True

    def stop(self, until: float) -> None:
        """Wait until then (monotonic) for the thread to end; what a reader has not taken by then is dropped."""
        self._thread.join(max(0.0, until - time.monotonic()))
        self.abandon()
        self._thread.join(_ABANDON_S)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            if self.held.size <= 0:
                self._wake.wait()
            self._wake.clear()  # before all that it may be about, so that nothing is missed
            self._press.wait(_GATHER_S)
            self._press.clear()
            stopping = self._stopping  # set before both events
            self._sink.refresh()
            left = self.held.size
            # What comes while this is written waits for the next round, unless there is none.
            while (left > 0 or stopping) and (batch := self.held.take()):
                left -= len(batch)
                lost = self._sink.write(batch)
                if lost:
                    self._counters.drop_unwritten(lost)
        self._sink.close()
