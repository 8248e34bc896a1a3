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

from fastgw.observe.metrics.meter_rows import COUNTS, METER_NAMES, MeterKey, MeterRows, unpacked
from fastgw.observe.metrics.series_layout import (
    CARRYING,
    CELL_NAMES,
    METERS_AT,
    NAMES,
    ROWS,
    Rows,
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
        moved = {name: _new_rows(getattr(old, name), getattr(new, name)) for name in NAMES}
        if not any(moved.values()):
            return
        words, cells = sums([*columns, self._added], self._returned)
        measured, _ = measured_rows([*columns, self._added], self._returned)
        self._added[CARRYING] += 1
        self._fence()
        for name, rows in ROWS.items():
            self._carry_rows(words, moved[name], rows)
        for key, count in cells.items():
            cell = cell_of(key)
            of_route, of_owner = CELL_NAMES[cell.kind]
            kept = cell._replace(
                owner=0 if cell.owner in moved.get(of_owner, ()) else cell.owner,
                route=0 if cell.route in moved[of_route] else cell.route,
            )
            if count and kept != cell:
                self._carry_cell(key, kept.key, count)
        for (key, shape), counts in measured.items():
            slots = unpacked(key)
            left = slots._replace(
                **{label: 0 for label, name in METER_NAMES.items() if getattr(slots, label) in moved[name]}
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

    def _carry_rows(self, words: Sequence[int], moved: Iterable[int], rows: Rows) -> None:
        for row in moved:
            first = rows.at + row * rows.width
            for word in range(rows.width):
                if count := words[first + word]:
                    self._added[rows.at + word] += count
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
