"""Counts finished exchanges into the column of one worker."""

from bisect import bisect_left
from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple

from fastgw.observe.families import BOUNDS_S, METHOD_PLACES, FilterEvent
from fastgw.observe.series import (
    DROPPED_UNQUEUED,
    DROPPED_UNWRITTEN,
    FAULTS_AT,
    ROUTE_REQUEST_BYTES,
    ROUTE_RESPONSE_BYTES,
    ROUTE_WORDS,
    ROUTES_AT,
    SUM,
    UNCELLED,
    UPSTREAM_RETRIES,
    WORDS,
    Cells,
    Series,
    cell_name,
)


class Place(NamedTuple):
    """The words that count one kind of exchange."""

    request: int
    row: int
    """The first word of its route's row."""
    upstream_row: int
    fault: int
    """0: it has none."""


class Tally:
    """The writer of a worker's own column, which is zeroed or was left by the worker that this one replaces."""

    def __init__(self, series: Series, column: memoryview) -> None:
        self.column = column[:WORDS]
        self.cells = Cells(self.column)
        self._series = series
        self._unwritten = Lock()

    @property
    def consumers(self) -> Mapping[str, int]:
        """Rows of those who have one, from `series.CONSUMERS_AT` on. All others are in the first, 0."""
        return self._series.consumers

    def adopt(self, series: Series) -> None:
        """Count by the places of another generation from now on. Places asked for before are no longer good."""
        self._series = series

    def place(self, listener: str, route: str, upstream: str, method: bytes, status: int, fault: str = "") -> Place:
        """Where such an exchange counts. A name that the series does not know counts as `_other`.

        `route`: "" where none matched.
        """
        series = self._series
        row = series.routes_by_name.get(route, 0)
        name = cell_name(series.listeners.get(listener, 0), row, METHOD_PLACES.get(method, 0), status)
        request = self.cells.word(name)
        return Place(
            UNCELLED if request is None else request,
            ROUTES_AT + row * ROUTE_WORDS,
            series.upstream_words(upstream),
            FAULTS_AT + series.faults.get(fault, 0) if fault else 0,
        )

    def count(
        self,
        place: Place,
        duration_s: float,
        request_bytes: int = 0,
        response_bytes: int = 0,
        upstream_s: float = -1.0,
        retries: int = 0,
    ) -> None:
        """Count one finished exchange. `upstream_s`: negative when no upstream's head was complete."""
        column = self.column
        request, row, upstream_row, fault = place
        column[request] += 1
        column[row + bisect_left(BOUNDS_S, duration_s)] += 1
        column[row + SUM] += int(duration_s * 1e6)
        # PERF: words that stay as they are left alone: 0.1 us (CPython 3.11, micro/observe).
        if request_bytes:
            column[row + ROUTE_REQUEST_BYTES] += request_bytes
        if response_bytes:
            column[row + ROUTE_RESPONSE_BYTES] += response_bytes
        if upstream_s >= 0.0:
            column[upstream_row + bisect_left(BOUNDS_S, upstream_s)] += 1
            column[upstream_row + SUM] += int(upstream_s * 1e6)
        if retries:
            column[upstream_row + UPSTREAM_RETRIES] += retries
        if fault:
            column[fault] += 1

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
