"""Totals of the node: sums over all columns, by the names of one generation."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add, sub
from typing import Any, Final

from fastgw.observe.metrics.families import (
    BOUNDS_S,
    METHODS,
    NONE,
    OTHER,
    SHADOW_DECISIONS,
    FilterEvent,
    WebsocketMessage,
    WebsocketSide,
    close_label,
)
from fastgw.observe.metrics.meter_rows import FOLDED, claimed_rows
from fastgw.observe.metrics.series_layout import (
    CARRYING,
    CELL_LABELS,
    CELL_NAMES,
    CELLS_AT,
    DROPPED_UNQUEUED,
    DROPPED_UNWRITTEN,
    FAULTS_AT,
    FILTER_WORDS,
    METERS_AT,
    NO_CONSUMER,
    NO_UPSTREAM,
    ROWS,
    SPANS_DROPPED,
    SPANS_EXPORTED,
    SPANS_FAILED,
    UNCELLED,
    Cell,
    CellKind,
    Rows,
    Series,
    cell_of,
    claimed,
)
from fastgw.shm.node_limits import MemoryFence

_LOOKS: Final = 1000  # attempts to read all columns while the supervisor does not move counts, which takes milliseconds


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts by name, without zeros."""

    cells: Mapping[CellKind, Mapping[Any, int]]
    """Counts in cells, by the labels of their kind: see `_LABELS`. Requests have the status 0, any, if the cells were
    used up."""
    routes: Mapping[str, Sequence[int]]
    """Words of each route's row: see `series_layout`."""
    upstreams: Mapping[str, Sequence[int]]
    filters: Mapping[str, Sequence[int]]
    """Filter events by instance; words of each row: see `families.FilterEvent`. Those of refusals and of decisions in
    shadow mode are in cells as well."""
    consumers: Mapping[str, Sequence[int]]
    targets: Mapping[str, Sequence[int]]
    """Words of each target's row, by `target_name`."""
    measured: Mapping[tuple[int, int], Sequence[int]]
    """Rows of measured requests: see `meter_rows`."""
    measured_folded: int
    log_records_dropped: int
    spans: Mapping[str, int]
    """Spans of traces by what has become of them: `exported`, `dropped` or `failed`."""


def totals(
    series: Series, columns: Sequence[memoryview], added: memoryview | None = None, returned: memoryview | None = None
) -> Totals:
    """Return the sums of the workers' columns, and of the supervisor's `carry_over` columns if there are any.

    Raises `TimeoutError` if the supervisor has stopped while it moved counts.
    """
    if added is None or returned is None:
        (words, cells), (measured, folded) = sums(columns), measured_rows(columns)
    else:
        (words, cells), (measured, folded) = _at_rest(columns, added, returned)
    counts = _cell_counts(series, cells)
    if uncelled := words[UNCELLED]:
        counts[CellKind.REQUEST][OTHER, OTHER, OTHER, 0] += uncelled
    for label, row in series.faults.items():
        if uncelled := words[FAULTS_AT + row]:
            counts[CellKind.FAULT][label, OTHER, OTHER] += uncelled
    rows = {name: _rows(getattr(series, name), words, block) for name, block in ROWS.items()}
    rows["filters"] = _filter_events(rows["filters"], counts)
    return Totals(
        cells=counts,
        **rows,
        measured=measured,
        measured_folded=folded,
        log_records_dropped=words[DROPPED_UNQUEUED] + words[DROPPED_UNWRITTEN],
        spans={
            "dropped": words[SPANS_DROPPED],
            "exported": words[SPANS_EXPORTED],
            "failed": words[SPANS_FAILED],
        },
    )


def quantile(row: Sequence[int], share: float) -> float | None:
    """Return the upper bound of this share of the requests in a histogram's row: within a bucket, as if they were
    spread evenly.

    None: there are none. Values above all bounds count as the highest.
    """
    counts = row[: len(BOUNDS_S) + 1]
    wanted = share * sum(counts)
    if not wanted:
        return None
    below, lower = 0, 0.0
    for bound, count in zip(BOUNDS_S, counts, strict=False):
        if below + count >= wanted:
            return lower + (bound - lower) * (wanted - below) / count
        below, lower = below + count, bound
    return lower


def sums(columns: Sequence[memoryview], returned: memoryview | None = None) -> tuple[memoryview, Mapping[int, int]]:
    """Return the words before the cells, and the cells by key: summed over the columns, less the returned counts."""
    return _summed([_read_names(column) for column in columns], None if returned is None else _read_names(returned))


_Sums = tuple[memoryview, Mapping[int, int]]
_Measured = tuple[Mapping[tuple[int, int], Sequence[int]], int]


def _at_rest(columns: Sequence[memoryview], added: memoryview, returned: memoryview) -> tuple[_Sums, _Measured]:
    """Return sums and measured rows, read while the supervisor moved no counts."""
    fence = MemoryFence()
    for _ in range(_LOOKS):
        before = added[CARRYING]
        fence()
        looks, taken_back = [_read_names(column) for column in (*columns, added)], _read_names(returned)
        measured = measured_rows([*columns, added], returned)
        fence()
        if before % 2 == 0 and before == added[CARRYING]:
            return _summed(looks, taken_back), measured
    raise TimeoutError("the supervisor does not finish moving counts")


_Look = tuple[Mapping[int, bytes], list[tuple[int, int]]]
"""Blocks with counts of the words of a column before the cells, by their first word, and the cells."""
_BLOCK: Final = 1024  # words
_NOTHING: Final = bytes(8 * _BLOCK)


def _read_names(column: memoryview) -> _Look:
    blocks = {first: column[first : min(first + _BLOCK, CELLS_AT)].tobytes() for first in range(0, CELLS_AT, _BLOCK)}
    return {first: block for first, block in blocks.items() if not _NOTHING.startswith(block)}, list(claimed(column))


def _summed(looks: Sequence[_Look], returned: _Look | None) -> tuple[memoryview, Mapping[int, int]]:
    # PERF: most rows are never used: blocks without counts are left out, and the words of each other block are summed
    # as one large integer: `totals` of two workers takes 0.9 ms instead of 11 (CPython 3.11).
    # No sum of words is negative or reaches 2**64, so there is no carry into the next word.
    sums: Counter[int] = Counter()
    for blocks, _ in looks:
        for first, block in blocks.items():
            sums[first] += int.from_bytes(block, sys.byteorder)
    for first, block in () if returned is None else returned[0].items():
        sums[first] -= int.from_bytes(block, sys.byteorder)
    words = bytearray(8 * CELLS_AT)
    for first, total in sums.items():
        block = total.to_bytes(8 * min(_BLOCK, CELLS_AT - first), sys.byteorder)
        words[8 * first : 8 * first + len(block)] = block
    cells: dict[int, int] = {}
    for _, claims in looks:
        for name, count in claims:
            cells[name] = cells.get(name, 0) + count
    for name, count in () if returned is None else returned[1]:
        cells[name] -= count
    return memoryview(words).cast("Q"), cells


class _NamesByRow(dict[int, str]):
    """Names of a generation by row. Rows without a name are `_other`. `unset`: marker in place of a row."""

    def __init__(self, rows: Mapping[str, int], unset: int | None = None) -> None:
        super().__init__({row: name for name, row in rows.items()})
        if unset is not None:
            self[unset] = NONE

    def __missing__(self, row: int) -> str:
        return OTHER


_Names = Mapping[str, Mapping[int, str]]
_LABELS: Final[Mapping[CellKind, Callable[[_Names, Cell, str, str], tuple[object, ...]]]] = {
    CellKind.REQUEST: lambda names, cell, route, owner: (owner, route, METHODS[cell.part].decode(), cell.number),
    CellKind.FAULT: lambda names, cell, route, owner: (names["faults"][cell.number], route, owner),
    CellKind.WEBSOCKET_MESSAGE: lambda names, cell, route, owner: (
        *(WebsocketMessage(cell.number).name.lower(), owner, route, WebsocketSide(cell.part).name.lower()),
    ),
    CellKind.WEBSOCKET_CLOSE: lambda names, cell, route, owner: (
        *(WebsocketSide(cell.part).name.lower(), close_label(cell.number), owner, route),
    ),
    CellKind.SLO: lambda names, cell, route, owner: (route, cell.number),
    CellKind.SHADOW: lambda names, cell, route, owner: (FilterEvent(cell.number).decision, owner, route),
    CellKind.REFUSAL: lambda names, cell, consumer, owner: (consumer, owner),
    **dict.fromkeys(CELL_LABELS, lambda names, cell, route, owner: (*_told(cell), route)),
}
"""Labels of a cell, in the alphabetical order of their names but for the method and status of a request. Arguments: all
names by row, the cell, and the names of its `route` and `owner`."""


def _told(cell: Cell) -> tuple[object, ...]:
    label = CELL_LABELS[cell.kind][cell.number]
    return label if isinstance(label, tuple) else (label,)


def _cell_counts(series: Series, cells: Mapping[int, int]) -> Mapping[CellKind, Counter[Any]]:
    """Return the counts of the cells of each kind, by their labels."""
    unset = {"upstreams": NO_UPSTREAM, "consumers": NO_CONSUMER}
    kinds = "listeners", "routes", "upstreams", "filters", "consumers", "faults"
    names = {kind: _NamesByRow(getattr(series, kind), unset.get(kind)) for kind in kinds}
    found: dict[CellKind, Counter[Any]] = {kind: Counter() for kind in CellKind}
    for key, count in cells.items():
        if count:
            cell = cell_of(key)
            of_route, of_owner = CELL_NAMES[cell.kind]
            owner = names[of_owner][cell.owner] if of_owner else ""
            found[cell.kind][_LABELS[cell.kind](names, cell, names[of_route][cell.route], owner)] += count
    return found


def _filter_events(
    filters: Mapping[str, Sequence[int]], counts: Mapping[CellKind, Counter[Any]]
) -> Mapping[str, Sequence[int]]:
    """Return the events of filters with the refused requests in cells. Refusals and decisions among the events, for
    which no cell was free, are added to `counts`.
    """
    refusals, decisions = counts[CellKind.REFUSAL], counts[CellKind.SHADOW]
    found = {name: [*events] for name, events in filters.items()}
    for instance, events in filters.items():
        if uncelled := events[FilterEvent.REFUSED]:
            refusals[OTHER, instance] += uncelled
        found[instance][FilterEvent.REFUSED] = 0
        for event in SHADOW_DECISIONS:
            if uncelled := events[event]:
                decisions[event.decision, instance, OTHER] += uncelled
    for (_, instance), count in refusals.items():
        found.setdefault(instance, [0] * FILTER_WORDS)[FilterEvent.REFUSED] += count
    return found


def measured_rows(
    columns: Sequence[memoryview], returned: memoryview | None = None
) -> tuple[Mapping[tuple[int, int], Sequence[int]], int]:
    """Return the rows of measured requests by key and shape, summed over the columns, less the returned counts; and the
    number of requests that were folded.
    """
    rows: dict[tuple[int, int], list[int]] = {}
    for column in columns:
        for key, shape, counts in claimed_rows(column, METERS_AT):
            known = rows.get((key, shape))
            rows[key, shape] = [*counts] if known is None else [*map(add, known, counts)]
    for key, shape, counts in () if returned is None else claimed_rows(returned, METERS_AT):
        if (key, shape) in rows:
            rows[key, shape] = [*map(sub, rows[key, shape], counts)]
    return rows, sum(column[METERS_AT + FOLDED] for column in columns)


def _rows(names: Mapping[str, int], words: memoryview, rows: Rows) -> Mapping[str, Sequence[int]]:
    """Return the rows by name; those without a name are summed as `_other`."""
    named = {row: name for name, row in names.items() if row}
    found: dict[str, Sequence[int]] = {}
    rest = [0] * rows.width
    for row in _used(words, rows):
        at = rows.at + row * rows.width
        if any(counted := words[at : at + rows.width].tolist()):
            if row in named:
                found[named[row]] = counted
            else:
                rest = [one + other for one, other in zip(rest, counted, strict=True)]
    if any(rest):
        found[OTHER] = rest
    return found


def _used(words: memoryview, rows: Rows) -> Iterator[int]:
    """Yield all rows with counts, and few others."""
    step = _BLOCK // rows.width
    for row in range(0, rows.number, step):
        until = min(row + step, rows.number)
        if not _NOTHING.startswith(words[rows.at + row * rows.width : rows.at + until * rows.width].tobytes()):
            yield from range(row, until)
