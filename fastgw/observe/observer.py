"""Observer of a worker: counts finished exchanges, and writes the access logs."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastgw.config.settings.gateway import AccessLog
from fastgw.observe.access_log.finished_exchange import FinishedExchange, record_of
from fastgw.observe.log import ABANDON_S, Log
from fastgw.observe.metrics.counters import ExchangeCounters, Note
from fastgw.observe.metrics.families import FilterEvent
from fastgw.observe.metrics.request_meter import MeterPlan, RequestMeter
from fastgw.observe.metrics.series_layout import WORDS, CellKind, Series
from fastgw.observe.recorder import Recorder
from fastgw.observe.sink_kinds import CallCollector

if TYPE_CHECKING:
    from fastgw.observe.recorder import TakeBodies


class Observer:
    """Counts and logs the exchanges of one worker. Call `start`, `reopen` and `stop` in the worker, after the fork."""

    finish: Callable[[FinishedExchange], None]
    """Count an exchange and queue its log lines. Once per exchange, when it ends; never waits."""
    count_subrequest: Callable[[FinishedExchange, int], None]
    """Count a sub-request for its upstream. The second argument is its status: 0 = no complete response."""
    count_content_coding: Callable[[FinishedExchange, int, int, int, int], None]
    """Count the bytes of a body before and after (the last arguments) an operation (`CodingOperation`) with a content
    coding (`ContentCoding`)."""

    def __init__(
        self,
        *,
        logs: Sequence[AccessLog],
        column: memoryview | None,
        series: Series,
        note: Note | None = None,
        plan: MeterPlan | None = None,
        call_collector: CallCollector | None = None,
        take_bodies: "TakeBodies | None" = None,
    ) -> None:
        """Create the observer. `column`: `series_layout.WORDS` words, written by this worker alone. None: the counts
        are not read. `note`: records the last error of a route. `plan`: of the meter; None: there is none.
        `call_collector`: transport of logs over gRPC; None: no log uses it. `take_bodies`: for logs that
        show bodies; None: they show none."""
        if column is None:
            column = memoryview(bytearray(8 * WORDS)).cast("Q")
        self._counters = ExchangeCounters(series, column, note)
        self._call_collector = call_collector
        self._logs = [self._log(settings) for settings in logs]
        self._recorder = Recorder(self._counters, self._logs, self._meters(plan), take_bodies)
        self._ending: list[Log] = []  # of earlier generations; their threads may still write
        self.finish = self._recorder.finish
        self.count_subrequest = self._recorder.count_subrequest
        self.count_content_coding = self._recorder.count_content_coding
        self.count_cache_miss = self._recorder.count_cache_miss
        self.count_filter = self._counters.count_filter
        self.note_exemplar = self._counters.note_exemplar
        self.count_spans = self._counters.count_spans
        self.keep_stories = self._recorder.keep_stories

    def count_refusal(self, ended: FinishedExchange, instance: str) -> None:
        """Count a request that a filter has refused, by its consumer."""
        self._counters.count_refusal(instance, "" if ended.consumer is None else ended.consumer.name)

    def count_shadow_decision(self, ended: FinishedExchange, instance: str, decision: FilterEvent) -> None:
        """Count the decision of a filter in shadow mode, by the route of the exchange."""
        self._counters.count_shadow_decision(instance, "" if ended.route is None else ended.route.name, decision)

    def count_validation(self, route: str, message: str) -> None:
        """Count a message (`VALIDATED_MESSAGES`) that does not conform to its schema and passes. `route`: "" if none
        matched.
        """
        self._counters.count_label(CellKind.VALIDATION, route, message)

    def count_websocket(self, ended: FinishedExchange, side: int, what: int, count: int) -> None:
        """Count messages of a kind that a side has sent, or the end of a WebSocket with a close code."""
        route = "" if ended.route is None else ended.route.name
        self._counters.count_websocket(ended.listener.name, route, side, what, count)

    def log_message(
        self, passing: FinishedExchange, field: dict[str, object], request_bytes: int, response_bytes: int
    ) -> None:
        """Log a message of a WebSocket that goes on: the line of its exchange so far, with this `websocket` field."""
        record = record_of(passing, time.monotonic(), time.time())
        record.exchange, record.tunnel = passing, field
        record.request_bytes, record.response_bytes = request_bytes, response_bytes
        for log in self._logs:
            log.add_record(record)

    def _meters(self, plan: MeterPlan | None) -> list[RequestMeter]:
        return [] if plan is None else [self._counters.meter(plan)]

    def _log(self, settings: AccessLog) -> Log:
        return Log(settings, self._counters, self._call_collector)

    def adopt(self, logs: Sequence[AccessLog], series: Series, plan: MeterPlan | None = None) -> None:
        """Change to another generation, between two exchanges and without waiting.

        Exchanges in flight count for their route, upstream and listener by name, or as `_other` if these no longer
        exist. Logs with unchanged settings continue; others start, or write their queue and end.
        """
        for log in self._ending:
            log.abandon()  # it had the lifetime of a generation to end
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
        self._recorder.adopt(self._logs, self._meters(plan))
        for log in gone:
            log.begin_stop()
        self._ending += gone

    def start(self) -> None:
        """Start writing. A file that cannot be opened is reported in the operator log and retried with each batch."""
        for log in self._logs:
            log.start()

    def reopen(self) -> None:
        """Reopen the files. Queued lines go to either file; none is lost. Not for a raw signal handler."""
        for log in self._logs:
            log.reopen()

    def stop(self, seconds: float = 2.0) -> None:
        """Write the queue, for at most this many seconds; the rest is dropped and counted. Nothing may finish
        afterwards.

        A disk that hangs in a write (not one that is full), or a server that does not answer, leaves its thread
        behind, with a batch uncounted.
        """
        until = time.monotonic() + seconds
        logs = (*self._ending, *self._logs)
        for log in self._logs:
            log.begin_stop()
        for log in logs:
            log.join(until)
        for log in logs:
            log.abandon()
        until = max(until, time.monotonic()) + ABANDON_S
        for log in logs:
            log.join(until)
            log.drop_left()
