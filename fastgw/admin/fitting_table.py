"""Tables for narrow terminals: columns are left out, the least important first, and numbers are never cut."""

from copy import copy
from dataclasses import replace
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table

SHORTEST_TEXT: Final = 8
"""Columns of the terminal to which a text may be folded."""
_ANY_WIDTH: Final = 10_000


class FittingTable:
    """A table, and the headers of the columns that a narrow terminal does without, the least important first."""

    __slots__ = ("_spare", "_table")

    def __init__(self, table: Table, *spare: str) -> None:
        self._table, self._spare = table, spare
        for column in table.columns:
            if column.justify == "right":  # rich folds other columns first
                column.no_wrap = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table
        for header in self._spare:
            if _least_width(table, console, options) <= options.max_width:
                break
            table = _without(table, header)
        yield table


def _least_width(table: Table, console: Console, options: ConsoleOptions) -> int:
    """Return the width in which all numbers are whole."""
    wide = options.update(width=_ANY_WIDTH)
    width = console.measure(table, options=wide).maximum
    for column in table.columns:
        if column.justify != "right":
            cells = max((console.measure(each, options=wide).maximum for each in column.cells), default=0)
            width -= max(max(cells, len(str(column.header))) - SHORTEST_TEXT, 0)
    return width


def _without(table: Table, header: str) -> Table:
    kept: list[Column] = [each for each in table.columns if each.header != header]
    fitted = copy(table)
    fitted.columns = [replace(each, _index=index) for index, each in enumerate(kept)]
    return fitted
