"""Analytics as CSV (RFC 4180), for spreadsheets."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from fastgw.admin.node_interface import Analytics

CSV: Final = "text/csv; charset=utf-8"
LABELS: Final = ("date", "route", "consumer", "plan", "status", "status_class", "method")
"""Columns that precede the figures, in their order."""
_FORMULA: Final = "=+-@\t\r"


def as_csv(analytics: Analytics) -> str:
    """Return the rows with a header. Text that a spreadsheet would take for a formula follows an apostrophe."""
    names, rows = columns_of(analytics)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(name, row.get(name, "")) for name in names])
    return text.getvalue()


def columns_of(analytics: Analytics) -> tuple[Sequence[str], Sequence[Mapping[str, Any]]]:
    """Return the names of the columns that have values, and the rows."""
    rows: list[Mapping[str, Any]] = [msgspec.to_builtins(row) | {"requests": row.requests} for row in analytics.rows]
    met = dict.fromkeys(name for row in rows for name in row)
    order = (*LABELS, "requests")
    return [name for name in order if name in met] + [name for name in met if name not in order], rows


def time_text(date: float) -> str:
    return datetime.fromtimestamp(date, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cell(name: str, value: Any) -> Any:
    if name == "date":
        return time_text(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple(_FORMULA)) else value
