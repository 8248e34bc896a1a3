"""Layout of the metric series of a generation in a worker's column.

A column is an array of 64-bit words with one writer and any number of readers; a scrape sums the columns (`totals`).
Each count is one aligned store of an integer, so readers never see a partial value.

Routes, upstreams and faults have rows in the column, by their slots (`shm.slot_assignment`). Requests do not: listener
x route x method x status has far more combinations than are ever used, so a combination takes the next free *cell* on
first use: one word with its slots and one with its count. A replacement worker finds the cells of its column by these
keys and continues them; so does a worker that changes to a new generation, in which slots have other names
(`carry_over` explains why no name inherits counts). Faults by route and upstream use cells as well.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from fastgw.errors import Fault
from fastgw.http.grpc.status import GrpcStatus
from fastgw.observe.metrics.exemplars import EXEMPLAR_WORDS
from fastgw.observe.metrics.families import (
    BOUNDS_S,
    CACHE_MISS_REASONS,
    CACHE_RESULTS,
    NONE,
    OTHER,
    VALIDATED_MESSAGES,
    CodingOperation,
    ContentCoding,
    FilterEvent,
)
from fastgw.observe.metrics.meter_rows import METER_WORDS
from fastgw.shm.memory import Layout
from fastgw.shm.slot_assignment import MAX_CONSUMERS, MAX_FILTERS, MAX_ROWS, SlotTable, target_name

FAULT_ROWS: Final = 256
CELLS: Final = 32_768
"""Maximum number of combinations per column; further ones count with all labels `_other`."""

# Words within a row. A histogram is its buckets, followed by its sum in microseconds; that of a consumer has no sum.
SUM: Final = len(BOUNDS_S) + 1
ROUTE_REQUEST_BYTES, ROUTE_RESPONSE_BYTES, ROUTE_WORDS = SUM + 1, SUM + 2, SUM + 3
CONSUMER_REQUEST_BYTES, CONSUMER_RESPONSE_BYTES, CONSUMER_CLASSES = SUM, SUM + 1, SUM + 2
STATUS_CLASSES: Final = 6
"""Words from `CONSUMER_CLASSES` on: requests by the first digit of their status; from 500 on all count as 5."""
CONSUMER_CACHE: Final = CONSUMER_CLASSES + STATUS_CLASSES
"""Requests on routes with a cache that were not answered from its store; the next word: those that were."""
CONSUMER_WORDS: Final = CONSUMER_CACHE + 2
UPSTREAM_RETRIES, UPSTREAM_CONNECTS, UPSTREAM_WAITS = SUM + 1, SUM + 2, SUM + 3
UPSTREAM_EJECTIONS, UPSTREAM_OPENINGS = SUM + 4, SUM + 5
UPSTREAM_RETRIES_DENIED, UPSTREAM_HEDGES, UPSTREAM_WORDS = SUM + 6, SUM + 7, SUM + 8
FILTER_WORDS: Final = len(FilterEvent)
TARGET_FAULTS: Final = (
    Fault.CONNECT_REFUSED,
    Fault.CONNECT_TIMEOUT,
    Fault.UPSTREAM_UNREACHABLE,
    Fault.DNS_FAILED,
    Fault.TLS_FAILED,
    Fault.CONNECTION_LOST,
    Fault.UPSTREAM_MALFORMED,
    Fault.UPSTREAM_TIMEOUT,
    Fault.UPSTREAM_INCOMPLETE,
    Fault.UPSTREAM_STALLED,
)
"""Faults of a target, counted for each attempt, also if a retry succeeded."""
BROKEN_OFF: Final = (Fault.UPSTREAM_INCOMPLETE, Fault.UPSTREAM_STALLED)
"""Faults after the response head."""
TARGET_SERVER_ERRORS: Final = SUM + 1
"""Responses of 500 and above."""
TARGET_FAULTS_AT: Final = SUM + 2
TARGET_FAULT_WORDS: Final = {fault: TARGET_FAULTS_AT + slot for slot, fault in enumerate(TARGET_FAULTS)}
TARGET_WORDS: Final = TARGET_FAULTS_AT + len(TARGET_FAULTS)

# Words of a column: seven single ones, then rows, then cells.
DROPPED_UNQUEUED, DROPPED_UNWRITTEN, UNCELLED, CARRYING = range(4)
SPANS_EXPORTED, SPANS_DROPPED, SPANS_FAILED = range(4, 7)
FAULTS_AT: Final = 7
ROUTES_AT: Final = FAULTS_AT + FAULT_ROWS
ROUTE_ROWS: Final = 2 + 2 * MAX_ROWS  # `_other`, `_none`, and the slots
UPSTREAMS_AT: Final = ROUTES_AT + ROUTE_ROWS * ROUTE_WORDS
UPSTREAM_ROWS: Final = 1 + 2 * MAX_ROWS
FILTERS_AT: Final = UPSTREAMS_AT + UPSTREAM_ROWS * UPSTREAM_WORDS
FILTER_ROWS: Final = 1 + 2 * MAX_FILTERS
CONSUMERS_AT: Final = FILTERS_AT + FILTER_ROWS * FILTER_WORDS
CONSUMER_ROWS: Final = 1 + 2 * MAX_CONSUMERS
TARGETS_AT: Final = CONSUMERS_AT + CONSUMER_ROWS * CONSUMER_WORDS
TARGET_ROWS: Final = 1 + 2 * MAX_ROWS
CELLS_AT: Final = TARGETS_AT + TARGET_ROWS * TARGET_WORDS
METERS_AT: Final = CELLS_AT + 2 * CELLS
"""Rows of measured requests: see `meter_rows`."""
EXEMPLARS_AT: Final = METERS_AT + METER_WORDS
"""Exemplars of each route's row, one for each bucket."""
CARRIED: Final = EXEMPLARS_AT
"""Words that are counts; exemplars are not."""
WORDS: Final = EXEMPLARS_AT + ROUTE_ROWS * SUM * EXEMPLAR_WORDS
"""Length of a column in words."""


class Rows(NamedTuple):
    """Rows of a column that have the counts of names of one kind."""

    at: int
    """First word of the first row."""
    width: int
    number: int


ROWS: Final[Mapping[str, Rows]] = {
    "routes": Rows(ROUTES_AT, ROUTE_WORDS, ROUTE_ROWS),
    "upstreams": Rows(UPSTREAMS_AT, UPSTREAM_WORDS, UPSTREAM_ROWS),
    "filters": Rows(FILTERS_AT, FILTER_WORDS, FILTER_ROWS),
    "consumers": Rows(CONSUMERS_AT, CONSUMER_WORDS, CONSUMER_ROWS),
    "targets": Rows(TARGETS_AT, TARGET_WORDS, TARGET_ROWS),
}
"""Rows by the kind of names, which is an attribute of `Series` and of `Totals`."""
NAMES: Final = (*ROWS, "listeners", "hosts")
"""Kinds of names of a generation."""
_CLAIMED: Final = 1 << 63  # the key of a used cell is never 0
NO_UPSTREAM: Final = 0x3FFF
"""Marker in place of an upstream's row: the fault happened before an upstream was selected."""
NO_CONSUMER: Final = 0xFFFF
"""Marker in place of a consumer's row: the client was not authenticated, or not yet."""


def answers_at(columns: Iterable[Sequence[int]], row: int) -> int:
    """Return the number of responses in a histogram's row, summed over all processes. `row`: its first word in each
    column.
    """
    return sum(sum(column[row : row + SUM]) for column in columns)


class Series:
    """The rows of one generation, by name."""

    def __init__(self, slot_table: SlotTable, faults: Iterable[str]) -> None:
        """Create the rows. `faults`: labels of all faults, always in the same order."""
        self.slot_table = slot_table
        self.listeners = _rows(slot_table.listeners, OTHER)
        self.routes = _rows(slot_table.routes, OTHER, NONE)
        self.routes_by_name = self.routes | {"": 1}
        self.upstreams = _rows(slot_table.upstream_rows, OTHER)
        self.filters = _rows(slot_table.filters, OTHER)
        self.consumers = _rows(slot_table.consumers, OTHER)
        self.hosts = _rows(slot_table.hosts, OTHER)
        self.targets = _rows(slot_table.target_rows, OTHER)
        self.faults = {name: row for row, name in enumerate(dict.fromkeys((OTHER, *faults)))}
        if len(self.faults) > FAULT_ROWS:
            raise ValueError("more faults than a column has room for")

    def upstream_words(self, upstream: str) -> int:
        """Return the first word of this upstream's row in a column."""
        return UPSTREAMS_AT + self.upstreams.get(upstream, 0) * UPSTREAM_WORDS

    def filter_words(self, instance: str) -> int:
        """Return the first word of this filter's row in a column."""
        return FILTERS_AT + self.filters.get(instance, 0) * FILTER_WORDS

    def target_words(self, upstream: str, label: str) -> int:
        """Return the first word of this target's row in a column."""
        return TARGETS_AT + self.targets.get(target_name(upstream, label), 0) * TARGET_WORDS


def _rows(slots: Mapping[str, int], *labels: str) -> dict[str, int]:
    """Return the rows of names, behind those of labels that every generation has."""
    return {name: slot + len(labels) for name, slot in slots.items()} | {name: row for row, name in enumerate(labels)}


def series_of(slot_table: SlotTable) -> Series:
    """Return the series of the generation with these slots."""
    return Series(slot_table, [fault.label for fault in Fault])


def counted_in(layout: Layout) -> int:
    """Reserve the counters in the node's memory, and return their offset in a worker's column."""
    return layout.counter("series by kind", WORDS)


class SeriesCells:
    """Cells of a column, for its writer."""

    def __init__(self, column: memoryview) -> None:
        self._column = column
        self._words = {name: CELLS_AT + 2 * cell + 1 for cell, (name, _) in enumerate(claimed(column))}

    def __len__(self) -> int:
        return len(self._words)

    def word(self, name: int) -> int | None:
        """Return the word that counts a combination; a new combination takes a free cell. None: there is none left."""
        word = self._words.get(name)
        if word is None and len(self._words) < CELLS:
            word = self._words[name] = CELLS_AT + 2 * len(self._words) + 1
            self._column[word - 1] = name
        return word


def claimed(column: memoryview) -> Iterator[tuple[int, int]]:
    """Yield key and count of the used cells, in order."""
    # Cells are used one after the other. Those after the last are not read, which would allocate their memory.
    used = bisect_left(range(CELLS), 1, key=lambda cell: column[CELLS_AT + 2 * cell] == 0)
    words = column[CELLS_AT : CELLS_AT + 2 * used].tolist()
    return zip(words[::2], words[1::2], strict=True)


class CellKind(IntEnum):
    """Kinds of counts in cells, with the labels of each beside its route."""

    REQUEST = 0
    """`owner`: listener; `part`: index in `METHODS`; `number`: status."""
    FAULT = 1
    """`owner`: upstream, or `NO_UPSTREAM`; `number`: row of the fault."""
    WEBSOCKET_MESSAGE = 2
    """`owner`: listener; `part`: `WebsocketSide`; `number`: `WebsocketMessage`."""
    WEBSOCKET_CLOSE = 3
    """`owner`: listener; `part`: `WebsocketSide`; `number`: close code."""
    CODING_INPUT = 4
    """Bytes before an operation with a content coding. `number`, here and of the next kinds: index in `CELL_LABELS`."""
    CODING_OUTPUT = 5
    """Bytes after it."""
    CACHE = 6
    """Requests by result of a cache."""
    CACHE_MISS = 7
    """Responses that a cache has fetched."""
    GRPC = 8
    """Calls by status."""
    VALIDATION = 9
    """Messages that do not conform and pass."""
    SLO = 10
    """`number`: `SloCount`."""
    SHADOW = 11
    """`owner`: filter in shadow mode; `number`: `FilterEvent` of its decision."""
    REFUSAL = 12
    """`owner`: filter that has refused requests; `route`: consumer, or `NO_CONSUMER`."""


_CODINGS: Final = tuple(
    (coding.name.lower(), operation.name.lower()) for coding in ContentCoding for operation in CodingOperation
)
CELL_LABELS: Final[Mapping[CellKind, Sequence[object]]] = {
    CellKind.CODING_INPUT: _CODINGS,
    CellKind.CODING_OUTPUT: _CODINGS,
    CellKind.CACHE: CACHE_RESULTS,
    CellKind.CACHE_MISS: CACHE_MISS_REASONS,
    CellKind.GRPC: tuple(status.name for status in GrpcStatus),
    CellKind.VALIDATION: VALIDATED_MESSAGES,
}
"""Labels of the kinds whose cells have the index of one."""


CELL_NAMES: Final[Mapping[CellKind, tuple[str, str]]] = {
    **dict.fromkeys(CellKind, ("routes", "")),
    CellKind.REQUEST: ("routes", "listeners"),
    CellKind.FAULT: ("routes", "upstreams"),
    CellKind.WEBSOCKET_MESSAGE: ("routes", "listeners"),
    CellKind.WEBSOCKET_CLOSE: ("routes", "listeners"),
    CellKind.SHADOW: ("routes", "filters"),
    CellKind.REFUSAL: ("consumers", "filters"),
}
"""Kinds of names of a cell's `route` and `owner`; "": it has no owner."""


class Cell(NamedTuple):
    """Labels of a cell: rows of names, and numbers."""

    kind: CellKind
    route: int
    number: int = 0
    owner: int = 0
    part: int = 0

    @property
    def key(self) -> int:
        """Number that identifies the cell in a column."""
        return _CLAIMED | self.owner << 48 | self.route << 32 | self.kind << 28 | self.part << 16 | self.number


def cell_of(key: int) -> Cell:
    """Return the labels of the cell with this key."""
    return Cell(kind_of(key), key >> 32 & 0xFFFF, key & 0xFFFF, key >> 48 & 0x7FFF, key >> 16 & 0xFFF)


def kind_of(key: int) -> CellKind:
    """Return the kind of the cell with this key."""
    return CellKind(key >> 28 & 0xF)


def exemplar_word(route_row_number: int, bucket: int) -> int:
    """Return the first word of the exemplar of a bucket of a route's row."""
    return EXEMPLARS_AT + (route_row_number * SUM + bucket) * EXEMPLAR_WORDS
