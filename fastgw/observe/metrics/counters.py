"""Counts finished exchanges into the column of one worker."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from threading import Lock
from typing import NamedTuple, TypeAlias

from fastgw.observe.metrics.families import BOUNDS_S, METHOD_PLACES, FilterEvent
from fastgw.observe.metrics.series_layout import (
    DROPPED_UNQUEUED,
    DROPPED_UNWRITTEN,
    FAULTS_AT,
    NO_UPSTREAM,
    ROUTE_REQUEST_BYTES,
    ROUTE_RESPONSE_BYTES,
    ROUTE_WORDS,
    ROUTES_AT,
    SUM,
    TARGET_SERVER_ERRORS,
    UNCELLED,
    UPSTREAM_RETRIES,
    WORDS,
    Series,
    SeriesCells,
    cell_name,
    fault_cell_name,
)
from fastgw.shm.slot_assignment import SlotTable

Note = Callable[[SlotTable, str, str, str], None]
"""Takes the places of the generation, a route, its fault, and why."""


Words: TypeAlias = tuple[int, int, int, int, int, int]
"""Words of a `SeriesPlace`, as a tuple without names. PERF: it is taken apart in 60 instructions, a named one in 400
(CPython 3.11, callgrind, micro/observe).
"""


class SeriesPlace(NamedTuple):
    """The words that count one kind of exchange."""

    request: int
    row: int
    """The first word of its route's row."""
    upstream_row: int
    target_row: int
    server_error: int
    """Word in which an answer of 500 and above that came from the target counts; 0: it is none."""
    fault: int
    """0: it has none."""


class ExchangeCounters:
    """The writer of a worker's own column, which is zeroed or was left by the worker that this one replaces."""

    def __init__(self, series: Series, column: memoryview, note: Note | None = None) -> None:
        """`note`: remembers the last error of a route."""
        self._note = note
        self.column = column[:WORDS]
        self.cells = SeriesCells(self.column)
        self._series = series
        self._unwritten = Lock()

    @property
    def consumers(self) -> Mapping[str, int]:
        """Rows of those who have one, from `series.CONSUMERS_AT` on. All others are in the first, 0."""
        return self._series.consumers

    def adopt(self, series: Series) -> None:
        """Count by the places of another generation from now on. Places asked for before are no longer good."""
        self._series = series

    def place(
        self, listener: str, route: str, upstream: str, method: bytes, status: int, fault: str = "", target: str = ""
    ) -> SeriesPlace:
        """Return the words in which such an exchange counts. A name that the series does not know counts as `_other`.

        `route`: "" where none matched.
        """
        series = self._series
        row = series.routes_by_name.get(route, 0)
        name = cell_name(series.listeners.get(listener, 0), row, METHOD_PLACES.get(method, 0), status)
        request = self.cells.word(name)
        target_row = series.target_words(upstream, target)
        return SeriesPlace(
            UNCELLED if request is None else request,
            ROUTES_AT + row * ROUTE_WORDS,
            series.upstream_words(upstream),
            target_row,
            target_row + TARGET_SERVER_ERRORS if status >= 500 and not fault else 0,
            self._fault_word(row, upstream, fault) if fault else 0,
        )

    def _fault_word(self, route: int, upstream: str, fault: str) -> int:
        series = self._series
        fault_row = series.faults.get(fault, 0)
        upstream_row = series.upstreams.get(upstream, 0) if upstream else NO_UPSTREAM
        word = self.cells.word(fault_cell_name(upstream_row, route, fault_row))
        return FAULTS_AT + fault_row if word is None else word

    def count(
        self,
        place: Words,
        duration_s: float,
        request_bytes: int = 0,
        response_bytes: int = 0,
        upstream_s: float = -1.0,
        retries: int = 0,
    ) -> None:
        """Count one finished exchange. `upstream_s`: negative when no upstream's head was complete."""
        column = self.column
        request, row, upstream_row, target_row, server_error, fault = place
        column[request] += 1
        column[row + bisect_left(BOUNDS_S, duration_s)] += 1
        column[row + SUM] += int(duration_s * 1e6)
        # PERF: words that stay as they are left alone: 0.1 us (CPython 3.11, micro/observe).
        if request_bytes:
            column[row + ROUTE_REQUEST_BYTES] += request_bytes
        if response_bytes:
            column[row + ROUTE_RESPONSE_BYTES] += response_bytes
        self.count_upstream(upstream_row, target_row, server_error, upstream_s, retries)
        if fault:
            column[fault] += 1

    def count_upstream(
        self, upstream_row: int, target_row: int, server_error: int, upstream_s: float, retries: int
    ) -> None:
        """Count what a request was to its upstream: as in `count`."""
        column = self.column
        if upstream_s >= 0.0:
            bucket, taken_us = bisect_left(BOUNDS_S, upstream_s), int(upstream_s * 1e6)
            column[upstream_row + bucket] += 1
            column[upstream_row + SUM] += taken_us
            column[target_row + bucket] += 1
            column[target_row + SUM] += taken_us
            if server_error:
                column[server_error] += 1
        if retries:
            column[upstream_row + UPSTREAM_RETRIES] += retries

    def upstream_place(self, upstream: str, target: str, status: int) -> tuple[int, int, int]:
        """Return the words that count a request for its upstream: `upstream_row`, `target_row`, `server_error`."""
        series = self._series
        target_row = series.target_words(upstream, target)
        return series.upstream_words(upstream), target_row, target_row + TARGET_SERVER_ERRORS if status >= 500 else 0

    def remember(self, route: str, target: str, fault: str, why: str) -> None:
        """An exchange of this route has ended in a fault of the gateway or of the upstream."""
        if self._note is not None:
            self._note(self._series.places, route, fault, ": ".join(filter(None, (target, why))))

    def count_consumer(self, name: str) -> None:
        """Count a request of somebody who is known."""
        self.column[self._series.consumer_word(name)] += 1

    def count_filter(self, instance: str, event: FilterEvent) -> None:
        """Count what became of a filter, or in shadow would have. Seldom enough to look its name up."""
        self.column[self._series.filter_words(instance) + event] += 1

    def drop_unqueued(self) -> None:
        """Count a log line that found no place in its queue. For the thread that calls `count`."""
        self.column[DROPPED_UNQUEUED] += 1

    def drop_unwritten(self, lines: int) -> None:
        """Count log lines that were queued in vain. For the threads that write: they have a word of their own."""
        with self._unwritten:
            self.column[DROPPED_UNWRITTEN] += lines
