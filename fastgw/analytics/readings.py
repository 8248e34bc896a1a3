"""Readings of the workers' counters, and the labels of each counter.

A worker counts each request in its column of the shared memory, for metrics: analytics cost a request nothing. Counters
of workers only grow, and outlive their process (`shm.memory`). So the difference of two readings is exact, even if a
process was killed in between. The supervisor's columns of `carry_over` are left out: they move counts between names.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from fastgw.errors import Fault
from fastgw.observe.metrics.families import CACHE_RESULTS, METHODS, NONE, OTHER
from fastgw.observe.metrics.series_layout import (
    CONSUMER_CACHE,
    CONSUMER_CLASSES,
    CONSUMER_REQUEST_BYTES,
    CONSUMER_ROWS,
    CONSUMER_WORDS,
    CONSUMERS_AT,
    ROUTE_REQUEST_BYTES,
    ROUTE_RESPONSE_BYTES,
    ROUTE_ROWS,
    ROUTE_WORDS,
    ROUTES_AT,
    SUM,
    UNCELLED,
    CellKind,
    cell_of,
    kind_of,
    series_of,
)
from fastgw.observe.metrics.totals import sums
from fastgw.shm.slot_assignment import SlotTable

CELL: Final = 1 << 63
"""Bit of the counters that are cells; the others are numbers of words."""
_FAULTS: Final = (OTHER, *dict.fromkeys(fault.label for fault in Fault))
_KEPT: Final = frozenset((CellKind.REQUEST, CellKind.CACHE, CellKind.FAULT))
_KIND_OF_WORD: Final = {
    SUM: "microseconds",
    ROUTE_REQUEST_BYTES: "request_bytes",
    ROUTE_RESPONSE_BYTES: "response_bytes",
}


class SeriesLabels(NamedTuple):
    """Labels of a counter in the database."""

    kind: str
    """Kind: of routes `requests`, `latency`, `microseconds`, `request_bytes`, `response_bytes`, `cache` or `faults`; of
    consumers `consumers`, which are their requests, `consumer_latency`, `consumer_request_bytes`,
    `consumer_response_bytes` or `consumer_cache`."""
    name: str
    """The route or the consumer."""
    method: str = ""
    status: int = 0
    """Status; of `consumers` the first one of its class, such as 200; of `consumer_latency` the bucket; of
    `consumer_cache` 1 for a hit."""
    detail: str = ""
    """Bucket of `latency`, result of `cache`, fault, or groups of a consumer."""


class RowNames(NamedTuple):
    """Names by row. A name that was removed is known until its row has another."""

    routes: Mapping[int, str]
    consumers: Mapping[int, tuple[str, str]]
    """Consumer and its groups."""

    def following(self, slot_table: SlotTable, groups: Mapping[str, str]) -> "RowNames":
        """Return the names of another generation. `groups`: by consumer."""
        series = series_of(slot_table)
        routes = {row: name for name, row in series.routes.items()}
        consumers = {row: (name, groups.get(name, "")) for name, row in series.consumers.items()}
        return RowNames({**self.routes, **routes}, {**self.consumers, **consumers})


NO_NAMES: Final = RowNames({0: OTHER, 1: NONE}, {0: (OTHER, "")})


class CounterReading(NamedTuple):
    """All counters at a time. `date`: epoch seconds."""

    date: float
    counts: Mapping[int, int]
    names: RowNames
    begins: bool = False
    """Whether it is the begin of analytics in a gateway that runs: earlier requests are not counted."""


def read_counters(
    columns: Sequence[memoryview], names: RowNames, date: float, *, begins: bool = False
) -> CounterReading:
    """Read the columns of the workers. Takes some milliseconds."""
    words, cells = sums(columns)
    counts = {key: count for key, count in cells.items() if count and kind_of(key) in _KEPT}
    for first, length in (
        (UNCELLED, 1),
        (ROUTES_AT, ROUTE_ROWS * ROUTE_WORDS),
        (CONSUMERS_AT, CONSUMER_ROWS * CONSUMER_WORDS),
    ):
        for word, count in enumerate(words[first : first + length], first):
            if count:
                counts[word] = count
    return CounterReading(date, counts, names, begins)


def labels_of(counter: int, names: RowNames) -> SeriesLabels:
    """Return the labels of a counter of a reading."""
    if counter & CELL:
        return _labels_of_cell(counter, names)
    if counter == UNCELLED:
        return SeriesLabels("requests", OTHER, METHODS[0].decode(), 0)
    if counter >= CONSUMERS_AT:
        row, word = divmod(counter - CONSUMERS_AT, CONSUMER_WORDS)
        consumer, groups = names.consumers.get(row, (OTHER, ""))
        kind, number = _of_consumer(word)
        return SeriesLabels(kind, consumer, status=number, detail=groups)
    row, word = divmod(counter - ROUTES_AT, ROUTE_WORDS)
    route = names.routes.get(row, OTHER)
    if word < SUM:
        return SeriesLabels("latency", route, detail=str(word))
    return SeriesLabels(_KIND_OF_WORD[word], route)


def _of_consumer(word: int) -> tuple[str, int]:
    """Return kind and `status` of a word of a consumer's row."""
    if word < SUM:
        return "consumer_latency", word
    if word < CONSUMER_CLASSES:
        return "consumer_request_bytes" if word == CONSUMER_REQUEST_BYTES else "consumer_response_bytes", 0
    if word < CONSUMER_CACHE:
        return "consumers", (word - CONSUMER_CLASSES) * 100
    return "consumer_cache", word - CONSUMER_CACHE


def _labels_of_cell(key: int, names: RowNames) -> SeriesLabels:
    cell = cell_of(key)
    route = names.routes.get(cell.route, OTHER)
    if cell.kind is CellKind.FAULT:
        return SeriesLabels("faults", route, detail=_FAULTS[cell.number] if cell.number < len(_FAULTS) else OTHER)
    if cell.kind is CellKind.CACHE:
        return SeriesLabels("cache", route, detail=CACHE_RESULTS[cell.number])
    return SeriesLabels("requests", route, METHODS[cell.part].decode(), cell.number)
