"""Counts finished exchanges in the column of one worker."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from threading import Lock
from typing import NamedTuple

from fastgw.http.grpc.status import GrpcStatus
from fastgw.observe.metrics.exemplars import write_exemplar
from fastgw.observe.metrics.families import (
    BOUNDS_S,
    CACHE_MISS_REASONS,
    CACHE_RESULTS,
    METHOD_INDEXES,
    VALIDATED_MESSAGES,
    FilterEvent,
)
from fastgw.observe.metrics.request_meter import MeterPlan, RequestMeter
from fastgw.observe.metrics.series_layout import (
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
    Series,
    SeriesCells,
    cache_cell_name,
    cache_miss_cell_name,
    cell_name,
    coding_cell_name,
    exemplar_word,
    fault_cell_name,
    grpc_cell_name,
    refusal_cell_name,
    shadow_cell_name,
    validation_cell_name,
    websocket_cell_name,
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
        self.cache_words: dict[tuple[str, str], int] = {}
        """Words of the counters of `count_cache` that are known, by route and result. It stays the same object."""
        self.grpc_words: dict[tuple[str, str], int] = {}
        """Words of the counters of `count_grpc` that are known, by route and status. It stays the same object."""
        self.cache_miss_words: dict[tuple[str, str], int] = {}
        """Words of the counters of `count_cache_miss` that are known, by route and reason. It stays the same object."""
        self._unwritten = Lock()

    @property
    def consumers(self) -> Mapping[str, int]:
        """Numbers of the rows of the consumers that have one. All others share the first, 0."""
        return self._series.consumers

    def adopt(self, series: Series) -> None:
        """Use the slots of another generation. Places returned before are invalid from now on."""
        self._series = series
        self.cache_words.clear()
        self.grpc_words.clear()
        self.cache_miss_words.clear()

    def series_words(
        self, listener: str, route: str, upstream: str, method: bytes, status: int, fault: str = "", target: str = ""
    ) -> SeriesWords:
        """Return the words for such an exchange. Names without a slot count as `_other`.

        `route`: "" if no route matched.
        """
        series = self._series
        row = series.routes_by_name.get(route, 0)
        name = cell_name(series.listeners.get(listener, 0), row, METHOD_INDEXES.get(method, 0), status)
        request = self.cells.word(name)
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
        word = self.cells.word(fault_cell_name(upstream_row, route, fault_row))
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
        listener_row, route_row = series.listeners.get(listener, 0), series.routes_by_name.get(route, 0)
        word = self.cells.word(websocket_cell_name(listener_row, route_row, side, what))
        if word is not None:
            self.column[word] += count

    def coding_words(self, route: str, operation: int, coding: int) -> tuple[int | None, int | None]:
        """Return the words that count the bytes of a body before and after an operation with a content coding.

        None: the column has no free cell. `route`: "" if none matched.
        """
        row = self._series.routes_by_name.get(route, 0)
        return (
            self.cells.word(coding_cell_name(row, operation, coding, False)),
            self.cells.word(coding_cell_name(row, operation, coding, True)),
        )

    def count_cache(self, route: str, result: str) -> None:
        """Count a request by the result of its route's cache (`CacheResult`). Not counted if the column has no free
        cell.
        """
        self._count_labelled(self.cache_words, route, result, cache_cell_name, CACHE_RESULTS.index)

    def count_cache_miss(self, route: str, reason: str) -> None:
        """Count a response that a cache has fetched (`CACHE_MISS_REASONS`). Not counted if the column has no free
        cell.
        """
        self._count_labelled(self.cache_miss_words, route, reason, cache_miss_cell_name, CACHE_MISS_REASONS.index)

    def count_grpc(self, route: str, status: str) -> None:
        """Count a gRPC call by the name of its status. Not counted if the column has no free cell."""
        self._count_labelled(self.grpc_words, route, status, grpc_cell_name, GrpcStatus.__getitem__)

    def _count_labelled(
        self,
        words: dict[tuple[str, str], int],
        route: str,
        label: str,
        cell_name: Callable[[int, int], int],
        number_of: Callable[[str], int],
    ) -> None:
        """Count by route and label. `words`: those that are known; `number_of`: returns the number of the label in the
        name of its cell.
        """
        key = route, label
        word = words.get(key)
        if word is None:
            word = self.cells.word(cell_name(self._series.routes_by_name.get(route, 0), number_of(label)))
            if word is None:
                return
            words[key] = word
        self.column[word] += 1

    def count_validation(self, route: str, message: str) -> None:
        """Count a message (`VALIDATED_MESSAGES`) that does not conform to its schema and passes. `route`: "" if none
        matched. Not counted if the column has no free cell.
        """
        row = self._series.routes_by_name.get(route, 0)
        word = self.cells.word(validation_cell_name(row, VALIDATED_MESSAGES.index(message)))
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
        word = self.cells.word(refusal_cell_name(series.filters.get(instance, 0), row))
        if word is None:
            self.count_filter(instance, FilterEvent.REFUSED)
        else:
            self.column[word] += 1

    def count_shadow_decision(self, instance: str, route: str, decision: FilterEvent) -> None:
        """Count the decision of a filter in shadow mode. `route`: "" if none matched. If the column has no free cell,
        it counts for the route `_other`, among the events of the filter.
        """
        series = self._series
        row = series.routes_by_name.get(route, 0)
        word = self.cells.word(shadow_cell_name(series.filters.get(instance, 0), row, decision))
        if word is None:
            self.count_filter(instance, decision)
        else:
            self.column[word] += 1

    def meter(self, plan: MeterPlan) -> RequestMeter:
        """Return the meter for a plan, with the names of this generation."""
        return RequestMeter(plan, self._series, self.column, self.cells)

    def note_exemplar(self, route: str, trace_id: bytes, duration_s: float, date: float) -> None:
        """Record a request whose spans are exported as the example of its bucket. `route`: "" if none matched."""
        row = self._series.routes_by_name.get(route, 0)
        write_exemplar(
            self.column, exemplar_word(row, bisect_left(BOUNDS_S, duration_s)), route, trace_id, duration_s, date
        )

    def count_spans(self, exported: int, dropped: int, failed: int) -> None:
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
