"""Output of `fastgw analytics`: a table, or CSV (RFC 4180)."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.table import Table

from fastgw.admin.node_interface import Analytics
from fastgw.admin.status_tables import console

_ORDER = ("date", "route", "consumer", "plan", "status", "status_class", "method", "requests")
_FORMULA = "=+-@\t\r"


def as_csv(analytics: Analytics) -> str:
    """Return the rows with a header. Text that a spreadsheet would take for a formula follows an apostrophe."""
    names, rows = _columns(analytics)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(name, row.get(name, "")) for name in names])
    return text.getvalue()


def _cell(name: str, value: Any) -> Any:
    if name == "date":
        return _time(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple(_FORMULA)) else value


def print_table(analytics: Analytics, step: str | None = None) -> None:
    """Print the rows as a table. `step`: the step that was asked for."""
    names, rows = _columns(analytics)
    table = Table(box=None, pad_edge=False)
    for name in names:
        is_label = name in _ORDER[:-1]
        table.add_column(name.removesuffix("_s").replace("_", " "), justify="left" if is_label else "right")
    for row in rows:
        table.add_row(*(_shown(name, row.get(name)) for name in names))
    out = console()
    out.print(table if rows else "no requests in this time")
    since = analytics.minutes_since_date
    if step == "minute" and since is not None and any(row["date"] < since for row in rows):
        out.print(f"minutes are kept since {_time(since)}: before it a row is an hour")
    if analytics.total > len(rows):
        out.print(f"{len(rows)} of {analytics.total} rows; --limit shows more")


def _columns(analytics: Analytics) -> tuple[Sequence[str], Sequence[Mapping[str, Any]]]:
    rows: list[Mapping[str, Any]] = [msgspec.to_builtins(row) | {"requests": row.requests} for row in analytics.rows]
    met = dict.fromkeys(name for row in rows for name in row)
    return [name for name in _ORDER if name in met] + [name for name in met if name not in _ORDER], rows


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "date":
        return _time(value)
    if name.endswith("_s"):
        return f"{value * 1000:,.1f} ms"
    return f"{value:,}" if isinstance(value, int) and name != "status" else str(value)


def _time(date: float) -> str:
    return datetime.fromtimestamp(date, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
