"""Totals of the node: the sums over all columns, under the names of one generation."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fastgw.observe.metrics.families import METHODS, NONE, OTHER
from fastgw.observe.metrics.series_layout import (
    CARRYING,
    CELLS_AT,
    CONSUMER_ROWS,
    CONSUMERS_AT,
    DROPPED_UNQUEUED,
    DROPPED_UNWRITTEN,
    FAULTS_AT,
    FILTER_ROWS,
    FILTER_WORDS,
    FILTERS_AT,
    NO_UPSTREAM,
    ROUTE_ROWS,
    ROUTE_WORDS,
    ROUTES_AT,
    TARGET_ROWS,
    TARGET_WORDS,
    TARGETS_AT,
    UNCELLED,
    UPSTREAM_ROWS,
    UPSTREAM_WORDS,
    UPSTREAMS_AT,
    Series,
    cell_labels,
    claimed,
    fault_cell_labels,
    is_fault_cell,
)
from fastgw.shm.node_limits import MemoryFence

_LOOKS: Final = 1000  # at all columns, while the supervisor is busy with its own; that takes it milliseconds


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts by name. What has counted nothing is left out."""

    requests: Mapping[tuple[str, str, str, int], int]
    """Requests by listener, route, method and status; the status 0 stands for all, where combinations have run out."""
    routes: Mapping[str, Sequence[int]]
    """The words of each route's row: see `series`."""
    upstreams: Mapping[str, Sequence[int]]
    filters: Mapping[str, Sequence[int]]
    """Filter events by instance; the words of each one's row: see `families.FilterEvent`."""
    consumers: Mapping[str, Sequence[int]]
    """Requests, by consumer: one word each."""
    faults: Mapping[tuple[str, str, str], int]
    """Faults by label, route and upstream."""
    targets: Mapping[str, Sequence[int]]
    """The words of each target's row, by `target_name`."""
    log_records_dropped: int


def totals(
    series: Series, columns: Sequence[memoryview], added: memoryview | None = None, returned: memoryview | None = None
) -> Totals:
    """Sum the columns of the workers, and those of the supervisor's `carry_over`, if there is one.

    Raises `TimeoutError` when the supervisor has stopped while it moved counts.
    """
    if added is None or returned is None:
        words, cells = sums(columns)
    else:
        words, cells = _at_rest(columns, added, returned)
    return Totals(
        requests=_requests(series, cells, words[UNCELLED]),
        routes=_rows(series.routes, words, ROUTES_AT, ROUTE_WORDS, ROUTE_ROWS),
        upstreams=_rows(series.upstreams, words, UPSTREAMS_AT, UPSTREAM_WORDS, UPSTREAM_ROWS),
        filters=_rows(series.filters, words, FILTERS_AT, FILTER_WORDS, FILTER_ROWS),
        consumers=_rows(series.consumers, words, CONSUMERS_AT, 1, CONSUMER_ROWS),
        faults=_faults(series, cells, words),
        targets=_rows(series.targets, words, TARGETS_AT, TARGET_WORDS, TARGET_ROWS),
        log_records_dropped=words[DROPPED_UNQUEUED] + words[DROPPED_UNWRITTEN],
    )


def sums(columns: Sequence[memoryview], returned: memoryview | None = None) -> tuple[Sequence[int], Mapping[int, int]]:
    """The words before the cells, and the cells by name: summed over the columns, less what was returned."""
    return _summed([_look(column) for column in columns], None if returned is None else _look(returned))


def _at_rest(
    columns: Sequence[memoryview], added: memoryview, returned: memoryview
) -> tuple[Sequence[int], Mapping[int, int]]:
    """Sums of what was looked at while the supervisor moved nothing."""
    fence = MemoryFence()
    for _ in range(_LOOKS):
        before = added[CARRYING]
        fence()
        looks, taken_back = [_look(column) for column in (*columns, added)], _look(returned)
        fence()
        if before % 2 == 0 and before == added[CARRYING]:
            return _summed(looks, taken_back)
    raise TimeoutError("the supervisor does not finish moving counts")


_Look = tuple[int, list[tuple[int, int]]]
"""The words of a column before the cells, as one number, and the cells."""


def _look(column: memoryview) -> _Look:
    return int.from_bytes(column[:CELLS_AT], sys.byteorder), list(claimed(column))


def _summed(looks: Sequence[_Look], returned: _Look | None) -> tuple[Sequence[int], Mapping[int, int]]:
    # PERF: the words of a column as one long number: 40,000 words of 4 columns are summed in 0.1 ms, one by one in 10
    # (CPython 3.11). No word of a sum is below 0 or reaches 2**64, so none carries over into its neighbour.
    total = sum(number for number, _ in looks)
    cells: dict[int, int] = {}
    for _, claims in looks:
        for name, count in claims:
            cells[name] = cells.get(name, 0) + count
    if returned is not None:
        total -= returned[0]
        for name, count in returned[1]:
            cells[name] -= count
    return memoryview(total.to_bytes(8 * CELLS_AT, sys.byteorder)).cast("Q").tolist(), cells


def _requests(series: Series, cells: Mapping[int, int], uncelled: int) -> Mapping[tuple[str, str, str, int], int]:
    listeners = {row: name for name, row in series.listeners.items()}
    routes = {row: name for name, row in series.routes.items()}
    methods = [method.decode() for method in METHODS]
    found: Counter[tuple[str, str, str, int]] = Counter()
    for name, count in cells.items():
        if count and not is_fault_cell(name):
            listener, route, method, status = cell_labels(name)
            found[listeners.get(listener, OTHER), routes.get(route, OTHER), methods[method], status] += count
    if uncelled:
        found[OTHER, OTHER, OTHER, 0] += uncelled
    return found


def _faults(series: Series, cells: Mapping[int, int], words: Sequence[int]) -> Mapping[tuple[str, str, str], int]:
    faults = {row: name for name, row in series.faults.items()}
    routes = {row: name for name, row in series.routes.items()}
    upstreams = {row: name for name, row in series.upstreams.items()} | {NO_UPSTREAM: NONE}
    found: Counter[tuple[str, str, str]] = Counter()
    for name, count in cells.items():
        if count and is_fault_cell(name):
            upstream, route, fault = fault_cell_labels(name)
            found[faults.get(fault, OTHER), routes.get(route, OTHER), upstreams.get(upstream, OTHER)] += count
    for row, label in faults.items():
        if uncelled := words[FAULTS_AT + row]:
            found[label, OTHER, OTHER] += uncelled
    return found


def _rows(
    names: Mapping[str, int], words: Sequence[int], first: int, width: int, rows: int
) -> Mapping[str, Sequence[int]]:
    """Return the rows by name; those without a name are added up as `_other`."""
    named = {row: name for name, row in names.items() if row}
    found: dict[str, Sequence[int]] = {}
    rest = [0] * width
    for row in range(rows):
        at = first + row * width
        if any(counted := words[at : at + width]):
            if row in named:
                found[named[row]] = counted
            else:
                rest = [one + other for one, other in zip(rest, counted, strict=True)]
    if any(rest):
        found[OTHER] = rest
    return found
