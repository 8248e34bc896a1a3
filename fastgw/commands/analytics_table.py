"""Output of `fastgw analytics`: a table."""

from typing import Any

from rich.table import Table

from fastgw.admin.analytics_csv import LABELS, columns_of, time_text
from fastgw.admin.node_interface import Analytics
from fastgw.admin.status_tables import console


def print_table(analytics: Analytics, step: str | None = None) -> None:
    """Print the rows as a table. `step`: the step that was asked for."""
    names, rows = columns_of(analytics)
    table = Table(box=None, pad_edge=False)
    for name in names:
        title = name.removesuffix("_s").replace("_", " ")
        table.add_column(title, justify="left" if name in LABELS else "right")
    for row in rows:
        table.add_row(*(_shown(name, row.get(name)) for name in names))
    out = console()
    out.print(table if rows else "no requests in this time")
    since = analytics.minutes_since_date
    if step == "minute" and since is not None and any(row["date"] < since for row in rows):
        out.print(f"minutes are kept since {time_text(since)}: before it a row is an hour")
    if analytics.total > len(rows):
        out.print(f"{len(rows)} of {analytics.total} rows; --limit shows more")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "date":
        return time_text(value)
    if name.endswith("_s"):
        return f"{value * 1000:,.1f} ms"
    return f"{value:,}" if isinstance(value, int) and name != "status" else str(value)
