"""Queries of analytics: rows by route, consumer, plan, status or method, over a time and by steps of it."""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from time import monotonic
from typing import Final
from urllib.parse import quote

from msgspec import UNSET, UnsetType

from fastgw.analytics.queries import STEPS, AnalyticsRow, Usage, UsageQuery
from fastgw.analytics.store import CannotKeepAnalytics, connected, expect_analytics, is_damaged, reason_of
from fastgw.observe.metrics.series_layout import SUM
from fastgw.observe.metrics.totals import quantile

GROUPS_MAX: Final = 100_000
"""Maximum number of rows that a query may have before paging."""
TIMEOUT_S: Final = 5.0
_CACHE_HITS: Final = ("hit", "stale")
_STEPS_OF_MACHINE: Final = 10_000
"""Instructions of SQLite's virtual machine between two looks at the clock."""


class TooMuch(Exception):
    """A query has too many rows, or takes too long; the text says what to do."""


def read_usage(path: str, query: UsageQuery) -> Usage:
    """Read the rows of a query from the database. Raises `CannotKeepAnalytics` or `TooMuch`. It reads the disk."""
    if not os.path.lexists(path):
        return Usage((), 0)
    try:
        with closing(connected(path)) as database:
            expect_analytics(database)
            database.execute("PRAGMA query_only=1")
            _limit_time(database)
            rows = list(_routes(database, query) if query.by == "route" else _simple(database, query))
    except sqlite3.OperationalError as error:
        if str(error) == "interrupted":
            raise TooMuch("the query takes too long; ask for a shorter time or a longer step") from error
        if "no such table" in str(error):  # nothing has been written yet
            return Usage((), 0)
        raise CannotKeepAnalytics(f"{path} cannot be read: {error}") from error
    except (sqlite3.Error, OSError) as error:
        raise CannotKeepAnalytics(f"{path} cannot be read: {reason_of(error)}") from error
    rows.sort(key=lambda row: (row.date or 0.0, -row.requests, _name(row)))
    return Usage(rows[query.offset : query.offset + query.limit], len(rows))


def _name(row: AnalyticsRow) -> str:
    return str(
        next((each for each in (row.route, row.consumer, row.plan, row.status, row.method) if each is not UNSET), "")
    )


def _limit_time(database: sqlite3.Connection) -> None:
    """Interrupt a query that takes too long."""
    ends_at = monotonic() + TIMEOUT_S
    database.set_progress_handler(lambda: monotonic() > ends_at, _STEPS_OF_MACHINE)


_COLUMN_OF: Final = {"consumer": "name", "plan": "detail", "status": "status", "method": "method"}


def _where(query: UsageQuery) -> tuple[str, list[object]]:
    text, values = "c.at + c.step > ? AND c.at < ?", [query.since_date, query.until_date]
    wanted: list[object] = [*values]
    for name in (query.route, query.consumer):
        if name is not None:
            text += " AND s.name = ?"
            wanted.append(name)
    return text, wanted


def _bucket(query: UsageQuery) -> str:
    length = 0 if query.step is None else STEPS[query.step]
    return f"c.at - c.at % {length}" if length else "0"


def _date(query: UsageQuery, at: int) -> float | UnsetType:
    return UNSET if query.step is None else float(at)


def _rows(database: sqlite3.Connection, text: str, values: Sequence[object]) -> Iterator[tuple[object, ...]]:
    for number, row in enumerate(database.execute(text, values)):
        if number >= GROUPS_MAX:
            raise TooMuch(f"there are more than {GROUPS_MAX} rows; ask for a shorter time or a longer step")
        yield row


def _simple(database: sqlite3.Connection, query: UsageQuery) -> Iterator[AnalyticsRow]:
    """Yield rows that have requests only."""
    kind = "consumers" if query.by in ("consumer", "plan") else "requests"
    where, values = _where(query)
    text = (
        f"SELECT {_bucket(query)} AS bucket, s.{_COLUMN_OF[query.by]} AS label, SUM(c.count) FROM counts c"
        f" JOIN series s ON s.id = c.series WHERE s.kind = ? AND {where} GROUP BY bucket, label"
    )
    for at, label, count in _rows(database, text, (kind, *values)):
        yield AnalyticsRow(count, _date(query, at), **{query.by: label})  # type: ignore[arg-type]


def _routes(database: sqlite3.Connection, query: UsageQuery) -> Iterator[AnalyticsRow]:
    where, values = _where(query)
    text = (
        f"SELECT {_bucket(query)} AS bucket, s.name, s.kind, CASE s.kind WHEN 'requests' THEN s.status >= 500 ELSE"
        f" s.detail END AS part, SUM(c.count) FROM counts c JOIN series s ON s.id = c.series"
        f" WHERE s.kind NOT IN ('consumers', 'faults') AND {where} GROUP BY bucket, s.name, s.kind, part"
    )
    found: dict[tuple[int, str], Counter[tuple[str, str]]] = {}
    for at, name, kind, part, count in _rows(database, text, values):
        found.setdefault((at, name), Counter())[kind, str(part)] += count  # type: ignore[arg-type, index, operator]
    for (at, name), counts in found.items():
        yield _route_row(query, at, name, counts)


def _route_row(query: UsageQuery, at: int, name: str, counts: Mapping[tuple[str, str], int]) -> AnalyticsRow:
    def sum_of(kind: str, parts: Sequence[str] | None = None) -> int:
        return sum(count for (each, part), count in counts.items() if each == kind and (parts is None or part in parts))

    latency = [counts.get(("latency", str(bucket)), 0) for bucket in range(SUM)]
    p50, p95, p99 = (quantile(latency, share) for share in (0.5, 0.95, 0.99))
    cached = sum_of("cache")
    return AnalyticsRow(
        sum_of("requests"),
        _date(query, at),
        route=name,
        errors=sum_of("requests", ["1"]),
        request_bytes=sum_of("request_bytes"),
        response_bytes=sum_of("response_bytes"),
        p50_s=UNSET if p50 is None else p50,
        p95_s=UNSET if p95 is None else p95,
        p99_s=UNSET if p99 is None else p99,
        cache_hits=sum_of("cache", _CACHE_HITS) if cached else UNSET,
        cache_requests=cached if cached else UNSET,
    )


_THEN: Final = "counts would wait in memory"


def why_not_analytics(path: str) -> str:
    """Return why analytics cannot be kept in this file, and what then happens; "": they can."""
    try:
        if not os.path.lexists(path):
            folder = os.path.dirname(os.path.abspath(path))
            is_usable = os.access(folder, os.W_OK | os.X_OK)
            return "" if is_usable else f"{folder} is not a directory that can be written: {_THEN}"
        if not os.path.isfile(path):
            return f"{path} is not a regular file: {_THEN}"
        if not os.access(path, os.R_OK | os.W_OK):
            return f"{path} cannot be read and written: {_THEN}"
        with closing(connected(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True)) as database:
            expect_analytics(database)
    except (sqlite3.Error, OSError) as error:
        if isinstance(error, sqlite3.Error) and is_damaged(path, error):
            return f"{path} is damaged ({reason_of(error)}): it would be renamed, and a new one begun"
        return f"{path} cannot be used: {reason_of(error)}: {_THEN}"
    return ""
