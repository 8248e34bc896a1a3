"""Queries of analytics: rows by route, consumer, plan, status or method, over a time and by steps of it."""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

from msgspec import UNSET, UnsetType

from fastgw.analytics.queries import HOUR, MINUTE, STEPS, AnalyticsRow, By, Usage, UsageQuery
from fastgw.analytics.store import (
    CannotKeepAnalytics,
    connected,
    expect_analytics,
    is_damaged,
    minutes_since_date,
    reason_of,
)
from fastgw.observe.metrics.families import CACHE_HITS, OTHER
from fastgw.observe.metrics.series_layout import STATUS_CLASSES, SUM
from fastgw.observe.metrics.totals import quantile

GROUPS_MAX: Final = 100_000
"""Maximum number of rows that a query may have before paging."""
PARTS_MAX: Final = 500_000
"""Maximum number of counts that these rows are made of: up to 26 each."""
TIMEOUT_S: Final = 5.0
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
            is_whole = query.by in ("route", "consumer", "plan")
            rows = list(_whole_rows(database, query) if is_whole else _requests_alone(database, query))
            minutes_since = minutes_since_date(database)
    except sqlite3.OperationalError as error:
        if str(error) == "interrupted":
            raise TooMuch("the query takes too long; ask for a shorter time or a longer step") from error
        if "no such table" in str(error):  # nothing has been written yet
            return Usage((), 0)
        raise CannotKeepAnalytics(f"{path} cannot be read: {error}") from error
    except (sqlite3.Error, OSError) as error:
        raise CannotKeepAnalytics(f"{path} cannot be read: {reason_of(error)}") from error
    rows.sort(key=lambda row: (row.date or 0.0, -row.requests, _name(row)))
    return Usage(rows[query.offset : query.offset + query.limit], len(rows), minutes_since)


def _name(row: AnalyticsRow) -> str:
    labels = row.route, row.consumer, row.plan, row.status, row.status_class, row.method
    return str(next((each for each in labels if each is not UNSET), ""))


def _limit_time(database: sqlite3.Connection) -> None:
    """Interrupt a query that takes too long."""
    ends_at = monotonic() + TIMEOUT_S
    database.set_progress_handler(lambda: monotonic() > ends_at, _STEPS_OF_MACHINE)


_CLASS: Final = f"MIN(s.status / 100, {STATUS_CLASSES - 1})"
"""SQL of `status_class`."""
_LABEL_OF: Final[Mapping[By, str]] = {
    "route": "s.name",
    "consumer": "s.name",
    "plan": "s.detail",
    "status": "s.status",
    "status_class": f"CASE WHEN s.status < 100 THEN '{OTHER}' ELSE {_CLASS} || 'xx' END",
    "method": "s.method",
}
_PARTS_OF_ROUTES: Final = (
    f"CASE s.kind WHEN 'requests' THEN {_CLASS} WHEN 'cache' THEN s.detail IN {CACHE_HITS} ELSE s.detail END"
)
_PARTS_OF_CONSUMERS: Final = f"CASE s.kind WHEN 'consumers' THEN {_CLASS} ELSE s.status END"
_KINDS_OF_CONSUMERS: Final = {
    "consumers": "requests",
    "consumer_latency": "latency",
    "consumer_request_bytes": "request_bytes",
    "consumer_response_bytes": "response_bytes",
    "consumer_cache": "cache",
}
"""Kinds of counts of consumers, and those of routes with the same meaning."""


def _counts(database: sqlite3.Connection, query: UsageQuery) -> tuple[str, Sequence[object]]:
    """Return a common table expression `c` of the counts in the query's time, and its values.

    It is made of hours, and of minutes for what is no full hour: so a query over weeks reads few rows. Minutes alone
    are read if they are asked for. Hours that have no minutes any more count as a whole.
    """
    since, until, hours_only_until = query.since_date, query.until_date, minutes_since_date(database)
    if hours_only_until is None:
        hours_only_until = int(until) + HOUR
    hours_since = since // HOUR * HOUR
    if query.step == "minute":
        hours_until = min(hours_only_until, until)
    else:
        if hours_since >= hours_only_until:
            hours_since = -(-since // HOUR) * HOUR
        hours_until = until // HOUR * HOUR
        if hours_until < hours_only_until:
            hours_until = -(-until // HOUR) * HOUR
    hours_until = max(hours_since, hours_until)
    minutes_since = int(since - MINUTE) + 1
    text = (
        "WITH c AS (SELECT at, series, count FROM hours WHERE at >= ? AND at < ? UNION ALL"
        " SELECT at, series, count FROM counts WHERE step = ? AND at >= ? AND at < ? UNION ALL"
        " SELECT at, series, count FROM counts WHERE step = ? AND at >= ? AND at < ?)"
    )
    before = MINUTE, minutes_since, min(hours_since, until)
    after = MINUTE, max(hours_until, minutes_since), until
    return text, (hours_since, hours_until, *before, *after)


def _rows(
    database: sqlite3.Connection, query: UsageQuery, kinds: Iterable[str], part: str
) -> Iterator[tuple[Any, ...]]:
    """Yield begin of the step, label, kind, part and count of the series of these kinds. `part`: an SQL expression."""
    counts, values = _counts(database, query)
    length = 0 if query.step is None else STEPS[query.step]
    bucket = f"c.at - c.at % {length}" if length else "0"
    wanted = [*kinds]
    condition = f"s.kind IN ({', '.join('?' * len(wanted))})"
    names = []
    for column, name in (("s.name", query.route), ("s.name", query.consumer), ("s.detail", query.plan)):
        if name is not None:
            condition += f" AND {column} = ?"
            names.append(name)
    text = (
        f"{counts} SELECT {bucket} AS bucket, {_LABEL_OF[query.by]} AS label, s.kind, {part} AS part, SUM(c.count)"
        f" FROM c JOIN series s ON s.id = c.series WHERE {condition} GROUP BY bucket, label, s.kind, part"
    )
    groups = set[tuple[int, str]]()
    for number, row in enumerate(database.execute(text, (*values, *wanted, *names))):
        groups.add(row[:2])
        if len(groups) > GROUPS_MAX:
            raise TooMuch(f"there are more than {GROUPS_MAX} rows; ask for a shorter time or a longer step")
        if number >= PARTS_MAX:
            raise TooMuch(f"the rows have more than {PARTS_MAX} counts; ask for a shorter time or a longer step")
        yield row


def _date(query: UsageQuery, at: int) -> float | UnsetType:
    return UNSET if query.step is None else float(at)


def _requests_alone(database: sqlite3.Connection, query: UsageQuery) -> Iterator[AnalyticsRow]:
    """Yield rows that have requests only."""
    kind = "requests" if query.consumer is None and query.plan is None else "consumers"
    for at, label, _, _, count in _rows(database, query, (kind,), "0"):
        yield AnalyticsRow(count, _date(query, at), **{query.by: label})


def _whole_rows(database: sqlite3.Connection, query: UsageQuery) -> Iterator[AnalyticsRow]:
    """Yield rows of routes, consumers or plans."""
    if query.by == "route":
        found = _rows(database, query, _KINDS_OF_CONSUMERS.values(), _PARTS_OF_ROUTES)
    else:
        found = _rows(database, query, _KINDS_OF_CONSUMERS, _PARTS_OF_CONSUMERS)
    counts_of: dict[tuple[int, str], Counter[tuple[str, str]]] = {}
    for at, label, kind, part, count in found:
        counts_of.setdefault((at, label), Counter())[_KINDS_OF_CONSUMERS.get(kind, kind), str(part)] += count
    for (at, label), counts in counts_of.items():
        yield _whole_row(query, at, label, counts)


def _whole_row(query: UsageQuery, at: int, label: str, counts: Mapping[tuple[str, str], int]) -> AnalyticsRow:
    def sum_of(kind: str) -> int:
        return sum(count for (each, _), count in counts.items() if each == kind)

    latency = [counts.get(("latency", str(bucket)), 0) for bucket in range(SUM)]
    p50, p95, p99 = (quantile(latency, share) for share in (0.5, 0.95, 0.99))
    cached = sum_of("cache")
    return AnalyticsRow(
        sum_of("requests"),
        _date(query, at),
        client_errors=counts.get(("requests", "4"), 0),
        errors=counts.get(("requests", "5"), 0),
        request_bytes=sum_of("request_bytes"),
        response_bytes=sum_of("response_bytes"),
        p50_s=UNSET if p50 is None else p50,
        p95_s=UNSET if p95 is None else p95,
        p99_s=UNSET if p99 is None else p99,
        cache_hits=counts.get(("cache", "1"), 0) if cached else UNSET,
        cache_requests=cached if cached else UNSET,
        **{query.by: label},  # type: ignore[arg-type]  # a key of the struct
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
