"""Observer of a worker: counts finished exchanges, and writes the access logs."""

import time
from collections.abc import Callable, Sequence

from fastgw.compiled import twin
from fastgw.observe.access_log.line_queue import LineQueue
from fastgw.observe.access_log.log import AccessLog, Log
from fastgw.observe.finished_exchange import FinishedExchange
from fastgw.observe.metrics.counters import ExchangeCounters, Note
from fastgw.observe.metrics.series_layout import WORDS, Series
from fastgw.observe.recorder import Recorder

_twin = twin("fastgw.observe._recorder")


class Observer:
    """Counts and logs the exchanges of one worker. `start`, `reopen` and `stop`: in the worker, after the fork."""

    finish: Callable[[FinishedExchange], None]
    """Count an exchange and hold its log lines. Once per exchange, when it ends; it never waits."""

    def __init__(
        self, *, logs: Sequence[AccessLog], column: memoryview | None, series: Series, note: Note | None = None
    ) -> None:
        """`column`: `series.WORDS` words that this worker alone writes. None: nobody reads the counts. `note`:
        remembers the last error of a route."""
        if column is None:
            column = memoryview(bytearray(8 * WORDS)).cast("Q")
        self._counters = ExchangeCounters(series, column, note)
        self._logs = [self._log(settings) for settings in logs]
        recorder = Recorder(self._counters, self._logs)
        self._recorder = recorder if _twin is None else _twin.Recorder(recorder)
        self._ending: list[Log] = []  # of older generations; their threads may still write
        self.finish = self._recorder.finish
        self.count_filter = self._counters.count_filter

    def count_subrequest(self, ended: FinishedExchange, status: int) -> None:
        """Count what a sub-request was to its upstream. `status`: 0 for no whole response."""
        place = self._counters.upstream_place(ended.upstream, ended.target, status)
        self._counters.count_upstream(*place, ended.upstream_s, ended.retries)

    def _log(self, settings: AccessLog) -> Log:
        return Log(settings, self._counters, LineQueue if _twin is None else _twin.LineQueue)

    def adopt(self, logs: Sequence[AccessLog], series: Series) -> None:
        """Count and log by another generation from now on: between two exchanges, without waiting.

        An exchange that began before counts for its route, upstream and listener by their names, or as `_other` when
        they are gone. A log whose settings are the same goes on; others begin, or write what they hold and end.
        """
        for log in self._ending:
            log.abandon()  # it has had a generation's time
        self._ending = [log for log in self._ending if log.is_alive]
        gone, self._logs = self._logs, []
        for settings in logs:
            same = next((log for log in gone if log.settings == settings), None)
            if same is None:
                begun = self._log(settings)
                begun.start()
                self._logs.append(begun)
            else:
                gone.remove(same)
                self._logs.append(same)
        self._counters.adopt(series)
        self._recorder.adopt(self._logs)
        for log in gone:
            log.begin_stop()
        self._ending += gone

    def start(self) -> None:
        """Begin to write. A file that cannot be opened is told in the gateway's log and tried again with each batch."""
        for log in self._logs:
            log.start()

    def reopen(self) -> None:
        """Open the files anew. Lines held before go to either file; none is lost. Not for a raw signal handler."""
        for log in self._logs:
            log.reopen()

    def stop(self, seconds: float = 2.0) -> None:
        """Write what is held, for so long at most; the rest is dropped and counted. Then nothing may finish.

        A disk that hangs in a write (not one that is full) leaves its thread behind, with a batch uncounted.
        """
        until = time.monotonic() + seconds
        for log in self._logs:
            log.begin_stop()
        for log in (*self._ending, *self._logs):
            log.stop(until)
