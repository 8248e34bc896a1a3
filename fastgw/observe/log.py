"""Access log of a worker: lines queued by the event loop, and the thread that writes them.

Rule 1: the loop never waits: if the queue is full, the line is dropped and counted. Rule 2: each finished exchange
results in one line or one dropped record. Rule 3: each log has its own thread, so a blocked one does not delay others.
Rule 4: the thread only writes, and wakes rarely, because it holds the GIL meanwhile.
"""

import logging
import threading
import time
from threading import Thread
from typing import Final

from fastgw.config.settings.gateway import AccessLog
from fastgw.observe.access_log.formats import json_line
from fastgw.observe.access_log.line_formats import format_of, w3c_directives
from fastgw.observe.access_log.line_queue import LineQueue
from fastgw.observe.access_log.record import Record
from fastgw.observe.access_log.secret_names import SecretNames
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.selection import selection_of
from fastgw.observe.sink_kinds import CallCollector, sink_of
from fastgw.operator_events import OperatorEvent, log_event

log = logging.getLogger("fastgw")

MAX_HELD: Final = 16 * 1024 * 1024
"""Maximum size of the queue in bytes: at 25,000 requests/s a disk may pause for a second."""
_GATHER_S: Final = 0.05  # lines that come meanwhile share one wake-up of the thread
ABANDON_S: Final = 0.5
"""Seconds in which a thread notices that it was abandoned: while it waits, it looks five times as often."""


class Log:
    """One access log of one worker."""

    def __init__(
        self,
        settings: AccessLog,
        counters: ExchangeCounters,
        call_collector: CallCollector | None = None,
    ) -> None:
        self.settings = settings
        self.format = format_of(settings.format, settings.fields, settings.redact)
        self._selects = selection_of(settings)
        self.is_plain_json = self.format is json_line and self._selects is None
        """Whether it logs every request as `json_line` does."""
        self.secrets = SecretNames(settings.redact)
        self._counters = counters
        directives = w3c_directives(settings.fields) if settings.format == "w3c" else b""
        self._sink = sink_of(settings.sink, directives, call_collector)
        self._is_failing = False  # lines are dropped: reported once, the metric has the number
        self._wake, self._press = threading.Event(), threading.Event()  # there are lines; write at once
        self._stopping = False
        self.held = LineQueue(MAX_HELD, self._wake.set, self._press.set)
        self._thread = Thread(target=self._run, name=f"access log {settings.sink}", daemon=True)

    def add(self, line: bytes) -> None:
        """Queue a line, or drop it. Hot path."""
        if not self.held.add(line):
            self.drop()

    def add_record(self, record: Record) -> None:
        """Queue the line of a record, if this log has it."""
        if self._selects is None or self._selects(record):
            self.add(self.format(record, self.secrets.mask))

    def drop(self) -> None:
        """Count a dropped line."""
        self._counters.drop_unqueued()
        if not self._is_failing:
            self._is_failing = True
            log_event(
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
        """Tell the thread to write the queued lines and end."""
        self._stopping = True
        self._press.set()
        self._wake.set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def abandon(self) -> None:
        """Stop waiting for a reader."""
        self._sink.abandoned = True

    def join(self, until: float) -> None:
        """Wait for the thread to end, until this time (monotonic)."""
        self._thread.join(max(0.0, until - time.monotonic()))

    def drop_left(self) -> None:
        """Drop, count and report lines that the thread has not written, if it hangs."""
        lost = 0
        while self.is_alive and (batch := self.held.pop_lines()):
            lost += batch.count(b"\n")
        if lost:
            self._counters.drop_unwritten(lost)
            log_event(
                OperatorEvent.ACCESS_LOG_FAILED,
                "access log %s: %d lines were not taken before the process ended: they are dropped and counted",
                self.settings.sink,
                lost,
            )

    def _run(self) -> None:
        stopping = False
        while not stopping:
            if self.held.size <= 0:
                self._wake.wait(self._sink.idle_s)
            self._wake.clear()  # cleared before the queue is read, so that no line is missed
            self._press.wait(_GATHER_S)
            self._press.clear()
            stopping = self._stopping  # set before both events
            self._sink.refresh()
            left = self.held.size
            # Lines that come meanwhile wait for the next round, unless this is the last.
            while (left > 0 or stopping) and (batch := self.held.pop_lines()):
                left -= len(batch)
                lost = self._sink.write(batch)
                if lost:
                    self._counters.drop_unwritten(lost)
            if lost := self._sink.flush():
                self._counters.drop_unwritten(lost)
        self._sink.close()
