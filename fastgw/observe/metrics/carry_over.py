"""Adds the counts of removed names to `_other` when their slots are assigned to new names.

Workers never move a count. The value of a slot is the sum of its words over all columns. The supervisor has two further
columns: counts *returned* from a slot are subtracted from this sum, and *added* to `_other`. So the sum over all names
never changes, and columns of dead workers need no cleanup.

No name inherits counts. A slot is reassigned in generation N only when no process serves the generation that freed it
(`shm.slot_assignment`), so the old name is not counted any more; and its counts are moved before N is committed, so the
new name is not counted yet. A reader with the slots of the committed generation shows slots without a name as `_other`,
before and after the move alike. `CARRYING` is odd while words are being moved.
"""

from collections.abc import Iterable, Mapping, Sequence

from fastgw.observe.metrics.meter_rows import COUNTS, MeterKey, MeterRows, unpacked
from fastgw.observe.metrics.series_layout import (
    CARRYING,
    CONSUMER_WORDS,
    CONSUMERS_AT,
    FILTER_WORDS,
    FILTERS_AT,
    METERS_AT,
    ROUTE_WORDS,
    ROUTES_AT,
    TARGET_WORDS,
    TARGETS_AT,
    UPSTREAM_WORDS,
    UPSTREAMS_AT,
    CellKind,
    SeriesCells,
    cell_of,
    series_of,
)
from fastgw.observe.metrics.totals import measured_rows, sums
from fastgw.shm.node_limits import MemoryFence
from fastgw.shm.slot_assignment import SlotTable


class CounterCarryOver:
    """The supervisor's two columns. At most one process at a time may use it."""

    def __init__(self, added: memoryview, returned: memoryview) -> None:
        self._added, self._returned = added, returned
        self._added_cells, self._returned_cells = SeriesCells(added), SeriesCells(returned)
        self._added_rows, self._returned_rows = MeterRows(added, METERS_AT), MeterRows(returned, METERS_AT)
        self._fence = MemoryFence()

    def carry(self, columns: Sequence[memoryview], before: SlotTable, after: SlotTable) -> None:
        """Move the counts of slots that get another name in the next generation. `columns`: of the workers."""
        old, new = series_of(before), series_of(after)
        routes = _new_rows(old.routes, new.routes)
        upstreams = _new_rows(old.upstreams, new.upstreams)
        filters = _new_rows(old.filters, new.filters)
        consumers = _new_rows(old.consumers, new.consumers)
        targets = _new_rows(old.targets, new.targets)
        listeners = _new_rows(old.listeners, new.listeners)
        hosts = _new_rows(old.hosts, new.hosts)
        if not (routes or upstreams or filters or consumers or targets or listeners or hosts):
            return
        owners = {
            CellKind.REQUEST: listeners,
            CellKind.WEBSOCKET_MESSAGE: listeners,
            CellKind.WEBSOCKET_CLOSE: listeners,
            CellKind.FAULT: upstreams,
            CellKind.SHADOW: filters,
            CellKind.REFUSAL: filters,
        }
        words, cells = sums([*columns, self._added], self._returned)
        measured, _ = measured_rows([*columns, self._added], self._returned)
        self._added[CARRYING] += 1
        self._fence()
        self._carry_rows(words, routes, ROUTES_AT, ROUTE_WORDS)
        self._carry_rows(words, upstreams, UPSTREAMS_AT, UPSTREAM_WORDS)
        self._carry_rows(words, filters, FILTERS_AT, FILTER_WORDS)
        self._carry_rows(words, consumers, CONSUMERS_AT, CONSUMER_WORDS)
        self._carry_rows(words, targets, TARGETS_AT, TARGET_WORDS)
        for key, count in cells.items():
            cell = cell_of(key)
            kept = cell._replace(
                owner=0 if cell.owner in owners.get(cell.kind, ()) else cell.owner,
                route=0 if cell.route in (consumers if cell.kind is CellKind.REFUSAL else routes) else cell.route,
            )
            if count and kept != cell:
                self._carry_cell(key, kept.key, count)
        for (key, shape), counts in measured.items():
            slots = unpacked(key)
            left = slots._replace(
                route=0 if slots.route in routes else slots.route,
                upstream=0 if slots.upstream in upstreams else slots.upstream,
                consumer=0 if slots.consumer in consumers else slots.consumer,
                listener=0 if slots.listener in listeners else slots.listener,
                host=0 if slots.host in hosts else slots.host,
            )
            if left != slots and any(counts):
                self._carry_measured(key, left, shape, counts)
        self._fence()
        self._added[CARRYING] += 1

    def _carry_measured(self, key: int, kept: MeterKey, shape: int, counts: Sequence[int]) -> None:
        """Move a row of measured requests; without a free row, as `_carry_cell`."""
        to, back = self._added_rows.word(kept.packed(), shape), self._returned_rows.word(key, shape)
        if to is not None and back is not None:
            for word, count in enumerate(counts, COUNTS):
                self._added[to + word] += count
                self._returned[back + word] += count

    def _carry_rows(self, words: Sequence[int], rows: Iterable[int], at: int, width: int) -> None:
        for row in rows:
            first = at + row * width
            for word in range(width):
                if count := words[first + word]:
                    self._added[at + word] += count
                    self._returned[first + word] += count

    def _carry_cell(self, name: int, target: int, count: int) -> None:
        """Move the count of a cell. If either column has no free cell, the count stays, and is shown under the new
        name.
        """
        to, back = self._added_cells.word(target), self._returned_cells.word(name)
        if to is not None and back is not None:
            self._added[to] += count
            self._returned[back] += count


def _new_rows(before: Mapping[str, int], after: Mapping[str, int]) -> set[int]:
    """Return the rows assigned to a new name."""
    return {row for _, row in after.items() - before.items()}
