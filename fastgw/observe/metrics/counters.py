"""Counts finished exchanges in the column of one worker."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from threading import Lock
from typing import NamedTuple

from fastgw.observe.metrics.exemplars import write_exemplar
from fastgw.observe.metrics.families import BOUNDS_S, METHOD_INDEXES, FilterEvent, WebsocketMessage
from fastgw.observe.metrics.request_meter import MeterPlan, RequestMeter
from fastgw.observe.metrics.series_layout import (
    CELL_LABELS,
    DROPPED_UNQUEUED,
    DROPPED_UNWRITTEN,
    FAULTS_AT,
    NO_CONSUMER,
    NO_UPSTREAM,
    ROUTE_WORDS,
    ROUTES_AT,
    SPANS_DROPPED,
    SPANS_EXPORTED,
    SPANS_FAILED,
    TARGET_SERVER_ERRORS,
    UNCELLED,
    WORDS,
    Cell,
    CellKind,
    Series,
    SeriesCells,
    exemplar_word,
)
from fastgw.shm.slot_assignment import SlotTable

Note = Callable[[SlotTable, str, str, str], None]
"""Function that records an error: slots of the generation, route, fault, and detail."""


class SeriesWords(NamedTuple):
    """Words in which one kind of exchange is counted."""

    request: int
    row: int
    """First word of the route's row."""
    upstream_row: int
    target_row: int
    server_error: int
    """Word for responses of 500 and above from the target; 0 = not such a response."""
    fault: int
    """Word of the fault; 0 = none."""


class ExchangeCounters:
    """Writer of a worker's own column, which is zeroed or comes from the worker that this one replaces."""

    def __init__(self, series: Series, column: memoryview, note: Note | None = None) -> None:
        """Create the counters. `note`: records the last error of a route."""
        self._note = note
        self.column = column[:WORDS]
        self.cells = SeriesCells(self.column)
        self._series = series
        self._unwritten = Lock()

    @property
    def consumers(self) -> Mapping[str, int]:
        """Numbers of the rows of the consumers that have one. All others share the first, 0."""
        return self._series.consumers

    def adopt(self, series: Series) -> None:
        """Use the slots of another generation. Places returned before are invalid from now on."""
        self._series = series

    def series_words(
        self, listener: str, route: str, upstream: str, method: bytes, status: int, fault: str = "", target: str = ""
    ) -> SeriesWords:
        """Return the words for such an exchange. Names without a slot count as `_other`.

        `route`: "" if no route matched.
        """
        series = self._series
        row = series.routes_by_name.get(route, 0)
        place = series.listeners.get(listener, 0), METHOD_INDEXES.get(method, 0)
        request = self.cells.word(Cell(CellKind.REQUEST, row, status, *place).key)
        target_row = series.target_words(upstream, target)
        return SeriesWords(
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
        word = self.cells.word(Cell(CellKind.FAULT, route, fault_row, upstream_row).key)
        return FAULTS_AT + fault_row if word is None else word

    def upstream_rows(self, upstream: str, target: str) -> tuple[int, int]:
        """Return the rows of an upstream and of its target."""
        return self._series.upstream_words(upstream), self._series.target_words(upstream, target)

    def remember(self, route: str, target: str, fault: str, why: str) -> None:
        """Record a fault of the gateway or the upstream as the last error of this route."""
        if self._note is not None:
            self._note(self._series.slot_table, route, fault, ": ".join(filter(None, (target, why))))

    def count_websocket(self, listener: str, route: str, side: int, what: int, count: int) -> None:
        """Count messages of a kind (`WebsocketMessage`) that a side has sent, or ends with a close code. `route`: "" if
        none matched. Not counted if the column has no free cell.
        """
        series = self._series
        kind = CellKind.WEBSOCKET_MESSAGE if what < len(WebsocketMessage) else CellKind.WEBSOCKET_CLOSE
        cell = Cell(kind, series.routes_by_name.get(route, 0), what, series.listeners.get(listener, 0), side)
        self._count_in(cell, count)

    def _count_in(self, cell: Cell, count: int = 1) -> bool:
        """Add to the count of a cell. False: the column has no free one."""
        word = self.cells.word(cell.key)
        if word is not None:
            self.column[word] += count
        return word is not None

    def label_word(self, kind: CellKind, route: str, label: str | int) -> int | None:
        """Return the word that counts a label of a kind of `CELL_LABELS`, or the label with this index.

        None: the column has no free cell. `route`: "" if none matched.
        """
        number = label if isinstance(label, int) else CELL_LABELS[kind].index(label)
        return self.cells.word(Cell(kind, self._series.routes_by_name.get(route, 0), number).key)

    def count_label(self, kind: CellKind, route: str, label: str) -> None:
        """Count a label of a kind of `CELL_LABELS`. Not counted if the column has no free cell."""
        word = self.label_word(kind, route, label)
        if word is not None:
            self.column[word] += 1

    def count_filter(self, instance: str, event: FilterEvent) -> None:
        """Count an event of a filter. Rare, so its name is looked up each time."""
        self.column[self._series.filter_words(instance) + event] += 1

    def count_refusal(self, instance: str, consumer: str) -> None:
        """Count a request that a filter has refused. `consumer`: "" if there was none. If the column has no free cell,
        it counts for the consumer `_other`, among the events of the filter.
        """
        series = self._series
        row = series.consumers.get(consumer, 0) if consumer else NO_CONSUMER
        if not self._count_in(Cell(CellKind.REFUSAL, row, owner=series.filters.get(instance, 0))):
            self.count_filter(instance, FilterEvent.REFUSED)

    def count_shadow_decision(self, instance: str, route: str, decision: FilterEvent) -> None:
        """Count the decision of a filter in shadow mode. `route`: "" if none matched. If the column has no free cell,
        it counts for the route `_other`, among the events of the filter.
        """
        series = self._series
        row = series.routes_by_name.get(route, 0)
        if not self._count_in(Cell(CellKind.SHADOW, row, decision, series.filters.get(instance, 0))):
            self.count_filter(instance, decision)

    def meter(self, plan: MeterPlan) -> RequestMeter:
        """Return the meter for a plan, with the names of this generation."""
        return RequestMeter(plan, self._series, self.column, self.cells)

    def note_exemplar(self, route: str, trace_id: bytes, duration_s: float, date: float) -> None:
        """Record a request whose spans are exported as the example of its bucket. `route`: "" if none matched."""
        row = self._series.routes_by_name.get(route, 0)
        write_exemplar(
            self.column, exemplar_word(row, bisect_left(BOUNDS_S, duration_s)), route, trace_id, duration_s, date
        )

    def count_spans(self, exported: int = 0, dropped: int = 0, failed: int = 0) -> None:
        """Count spans by what has become of them."""
        column = self.column
        column[SPANS_EXPORTED] += exported
        column[SPANS_DROPPED] += dropped
        column[SPANS_FAILED] += failed

    def drop_unqueued(self) -> None:
        """Count a log line that did not fit in its queue. For the thread that calls `count`."""
        self.column[DROPPED_UNQUEUED] += 1

    def drop_unwritten(self, lines: int) -> None:
        """Count log lines that could not be written. For log threads, which have a word of their own."""
        with self._unwritten:
            self.column[DROPPED_UNWRITTEN] += lines
