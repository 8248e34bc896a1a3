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
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from fastgw.errors import Fault
from fastgw.observe.metrics.exemplars import EXEMPLAR_WORDS
from fastgw.observe.metrics.families import BOUNDS_S, NONE, OTHER, FilterEvent
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

_CLAIMED: Final = 1 << 63  # the key of a used cell is never 0
_FAULT: Final = 1 << 62  # set in the key of a fault by route and upstream
_WEBSOCKET: Final = 1 << 31  # it counts messages or ends of WebSockets: the top bit of the method's place
_CODING: Final = 1 << 30  # it counts bytes before and after a content coding: the next bit
_CACHE: Final = 1 << 29  # it counts results of caches: the bit after that
_MISS: Final = 1 << 15  # with it: reasons of their misses
_SLO: Final = 1 << 28  # it counts requests of a service level objective: the bit after that
_GRPC: Final = 1 << 27  # it counts gRPC calls: the bit after that
_VALIDATION: Final = 1 << 26  # it counts messages that do not conform and pass: the bit after that
_SHADOW: Final = 1 << 25  # it counts decisions of filters in shadow mode: the bit after that
_REFUSAL: Final = 1 << 24  # it counts requests that filters have refused: the bit after that
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
        self.listeners = {name: listener_row(slot) for name, slot in slot_table.listeners.items()} | {OTHER: 0}
        self.routes = {name: route_row(slot) for name, slot in slot_table.routes.items()} | {OTHER: 0, NONE: 1}
        self.routes_by_name = self.routes | {"": 1}
        self.upstreams = {name: upstream_row(slot) for name, slot in slot_table.upstream_rows.items()} | {OTHER: 0}
        self.filters = {name: filter_row(slot) for name, slot in slot_table.filters.items()} | {OTHER: 0}
        self.consumers = {name: consumer_row(slot) for name, slot in slot_table.consumers.items()} | {OTHER: 0}
        self.hosts = {name: host_row(slot) for name, slot in slot_table.hosts.items()} | {OTHER: 0}
        self.targets = {name: target_row(slot) for name, slot in slot_table.target_rows.items()} | {OTHER: 0}
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


def series_of(slot_table: SlotTable) -> Series:
    """Return the series of the generation with these slots."""
    return Series(slot_table, [fault.label for fault in Fault])


def counted_in(layout: Layout) -> int:
    """Reserve the counters in the node's memory, and return their offset in a worker's column."""
    return layout.counter("series", WORDS)


def listener_row(slot: int) -> int:
    return slot + 1


def route_row(slot: int) -> int:
    return slot + 2


def upstream_row(slot: int) -> int:
    return slot + 1


def filter_row(slot: int) -> int:
    return slot + 1


def consumer_row(slot: int) -> int:
    return slot + 1


def host_row(slot: int) -> int:
    return slot + 1


def target_row(slot: int) -> int:
    return slot + 1


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


def cell_name(listener: int, route: int, method: int, status: int) -> int:
    """Return the key of a cell, made of rows and the method's index in `METHODS`."""
    return _CLAIMED | listener << 48 | route << 32 | method << 16 | status


def cell_labels(name: int) -> tuple[int, int, int, int]:
    """Return the arguments of `cell_name` for a key."""
    return name >> 48 & 0x3FFF, name >> 32 & 0xFFFF, name >> 16 & 0xFFFF, name & 0xFFFF


def fault_cell_name(upstream: int, route: int, fault: int) -> int:
    """Return the key of a cell that counts a fault, made of rows. `upstream`: a row, or `NO_UPSTREAM`."""
    return _CLAIMED | _FAULT | upstream << 48 | route << 32 | fault


def websocket_cell_name(listener: int, route: int, side: int, what: int) -> int:
    """Return the name of a cell that counts messages of a kind, or ends with a close code (1000 and above)."""
    return _CLAIMED | listener << 48 | route << 32 | _WEBSOCKET | side << 16 | what


def is_websocket_cell(name: int) -> bool:
    return not name & _FAULT and bool(name & _WEBSOCKET)


def websocket_cell_labels(name: int) -> tuple[int, int, int, int]:
    """Return the arguments that `websocket_cell_name` was given."""
    return name >> 48 & 0x3FFF, name >> 32 & 0xFFFF, name >> 16 & 0x7FFF, name & 0xFFFF


def coding_cell_name(route: int, operation: int, coding: int, output: bool) -> int:
    """Return the name of a cell that counts the bytes before or after (`output`) an operation with a content coding."""
    return _CLAIMED | route << 32 | _CODING | operation << 16 | coding << 1 | output


def is_coding_cell(name: int) -> bool:
    return not name & (_FAULT | _WEBSOCKET) and bool(name & _CODING)


def coding_cell_labels(name: int) -> tuple[int, int, int, bool]:
    """Return the arguments that `coding_cell_name` was given."""
    return name >> 32 & 0xFFFF, name >> 16 & 0x3FFF, (name & 0xFFFF) >> 1, bool(name & 1)


def cache_cell_name(route: int, result: int) -> int:
    """Return the key of a cell that counts a result of a cache, by its index in `CACHE_RESULTS`."""
    return _CLAIMED | route << 32 | _CACHE | result


def is_cache_cell(name: int) -> bool:
    return not name & (_FAULT | _WEBSOCKET | _CODING | _MISS) and bool(name & _CACHE)


def cache_cell_labels(name: int) -> tuple[int, int]:
    """Return the arguments of `cache_cell_name` for a key."""
    return name >> 32 & 0xFFFF, name & 0xFFFF


def cache_miss_cell_name(route: int, reason: int) -> int:
    """Return the key of a cell that counts misses of a cache, by the index of the reason in `CACHE_MISS_REASONS`."""
    return _CLAIMED | route << 32 | _CACHE | _MISS | reason


def is_cache_miss_cell(name: int) -> bool:
    return not name & (_FAULT | _WEBSOCKET | _CODING) and bool(name & _CACHE) and bool(name & _MISS)


def cache_miss_cell_labels(name: int) -> tuple[int, int]:
    """Return the arguments of `cache_miss_cell_name` for a key."""
    return name >> 32 & 0xFFFF, name & (_MISS - 1)


def slo_cell_name(route: int, count: int) -> int:
    """Return the key of a cell that counts requests of an objective, by its number in `families.SloCount`."""
    return _CLAIMED | route << 32 | _SLO | count


def is_slo_cell(name: int) -> bool:
    return not name & (_FAULT | _WEBSOCKET | _CODING | _CACHE) and bool(name & _SLO)


def slo_cell_labels(name: int) -> tuple[int, int]:
    """Return the arguments of `slo_cell_name` for a key."""
    return name >> 32 & 0xFFFF, name & 0xFFFF


def grpc_cell_name(route: int, status: int) -> int:
    """Return the key of a cell that counts gRPC calls, by the number of their status."""
    return _CLAIMED | route << 32 | _GRPC | status


def is_grpc_cell(name: int) -> bool:
    return not name & (_FAULT | _WEBSOCKET | _CODING | _CACHE | _SLO) and bool(name & _GRPC)


def grpc_cell_labels(name: int) -> tuple[int, int]:
    """Return the arguments of `grpc_cell_name` for a key."""
    return name >> 32 & 0xFFFF, name & 0xFFFF


def validation_cell_name(route: int, message: int) -> int:
    """Return the key of a cell that counts messages that do not conform and pass, by the index in
    `VALIDATED_MESSAGES`."""
    return _CLAIMED | route << 32 | _VALIDATION | message


def is_validation_cell(name: int) -> bool:
    return not name & (_FAULT | _WEBSOCKET | _CODING | _CACHE | _SLO | _GRPC) and bool(name & _VALIDATION)


def validation_cell_labels(name: int) -> tuple[int, int]:
    """Return the arguments of `validation_cell_name` for a key."""
    return name >> 32 & 0xFFFF, name & 0xFFFF


def shadow_cell_name(filter_row_number: int, route: int, decision: int) -> int:
    """Return the key of a cell that counts decisions of a filter in shadow mode, by their `FilterEvent`."""
    return _CLAIMED | filter_row_number << 48 | route << 32 | _SHADOW | decision


def is_shadow_cell(name: int) -> bool:
    kinds = _FAULT | _WEBSOCKET | _CODING | _CACHE | _SLO | _GRPC | _VALIDATION
    return not name & kinds and bool(name & _SHADOW)


def shadow_cell_labels(name: int) -> tuple[int, int, int]:
    """Return the arguments of `shadow_cell_name` for a key."""
    return name >> 48 & 0x3FFF, name >> 32 & 0xFFFF, name & 0xFFFF


def refusal_cell_name(filter_row_number: int, consumer: int) -> int:
    """Return the key of a cell that counts refused requests. `consumer`: a row, or `NO_CONSUMER`."""
    return _CLAIMED | filter_row_number << 48 | consumer << 32 | _REFUSAL


def is_refusal_cell(name: int) -> bool:
    kinds = _FAULT | _WEBSOCKET | _CODING | _CACHE | _SLO | _GRPC | _VALIDATION | _SHADOW
    return not name & kinds and bool(name & _REFUSAL)


def refusal_cell_labels(name: int) -> tuple[int, int]:
    """Return the arguments of `refusal_cell_name` for a key."""
    return name >> 48 & 0x3FFF, name >> 32 & 0xFFFF


def is_request_cell(name: int) -> bool:
    return not name & (_FAULT | _WEBSOCKET | _CODING | _CACHE | _SLO | _GRPC | _VALIDATION | _SHADOW | _REFUSAL)


def exemplar_word(route_row_number: int, bucket: int) -> int:
    """Return the first word of the exemplar of a bucket of a route's row."""
    return EXEMPLARS_AT + (route_row_number * SUM + bucket) * EXEMPLAR_WORDS


def is_fault_cell(name: int) -> bool:
    return bool(name & _FAULT)


def fault_cell_labels(name: int) -> tuple[int, int, int]:
    """Return the arguments of `fault_cell_name` for a key."""
    return name >> 48 & 0x3FFF, name >> 32 & 0xFFFF, name & 0xFFFF
