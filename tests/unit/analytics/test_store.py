"""The database of analytics: exact, bounded, and refused if it is none."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections import Counter, deque
from contextlib import closing
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from fastgw.analytics.queries import DAY, HOUR, MINUTE, AnalyticsRow, UsageQuery
from fastgw.analytics.readings import CELL, NO_NAMES, CounterReading, RowNames, SeriesLabels, labels_of, read_counters
from fastgw.analytics.store import AnalyticsStore, CannotKeepAnalytics
from fastgw.analytics.usage import TooMuch, read_usage, why_not_analytics
from fastgw.observe.metrics.counters import ExchangeCounters
from fastgw.observe.metrics.series_layout import ROUTES_AT, WORDS, Cell, CellKind, series_of
from fastgw.shm.slot_assignment import SlotNames, SlotTable, first
from tests.support import counted
from tests.support.small_file_system import small_file_system

NOW = 1_800_000_000.0 // DAY * DAY + 12 * HOUR
NAMES = RowNames({**NO_NAMES.routes, 2: "users"}, {**NO_NAMES.consumers, 1: ("alice", "gold,team")})


def request_cell(listener: int, method: int, status: int) -> int:
    """Return the key of the cell of a request of the route `users`."""
    return Cell(CellKind.REQUEST, 2, status, listener, method).key


USERS = request_cell(1, 1, 200)
FAILED = request_cell(1, 1, 503)


def reading(date: float, counts: dict[int, int], *, begins: bool = False) -> CounterReading:
    return CounterReading(date, counts, NAMES, begins)


def stored(path: Path, **query: object) -> list[AnalyticsRow]:
    asked = UsageQuery(**{"by": "route", "since_date": 0.0, "until_date": NOW + DAY, **query})  # type: ignore[arg-type]
    return list(read_usage(str(path), asked).rows)


def store_at(path: Path, *, keep: float = 30.0 * DAY, size: int = 1 << 24, memory: bytes = b"m") -> AnalyticsStore:
    return AnalyticsStore(str(path), keep, size, memory)


def test_counts_are_those_that_the_workers_have_counted(tmp_path: Path) -> None:
    slots = first(SlotNames(listeners=["main"], routes=["users"], consumers=["alice"], consumer_count=1))
    columns = [memoryview(bytearray(8 * WORDS)).cast("Q") for _ in range(2)]
    for column, status in zip(columns, (200, 503), strict=True):
        counters = ExchangeCounters(series_of(slots), column)
        words = counters.series_words("main", "users", "", b"GET", status)
        counted.count(counters, words, 0.02, 10, 300)
        counted.count_consumer(counters, "alice", status, 0.02, 10, 300, "hit" if status == 200 else "miss")
    names = NO_NAMES.following(slots, {"alice": "gold"})
    store = store_at(tmp_path / "a.db")
    store.write([read_counters(columns, names, NOW)])
    store.close()
    for by, label in (("route", "users"), ("consumer", "alice"), ("plan", "gold")):
        (row,) = stored(tmp_path / "a.db", by=by)
        assert (getattr(row, by), row.requests, row.client_errors, row.errors) == (label, 2, 0, 1)
        assert (row.request_bytes, row.response_bytes) == (20, 600)
        assert 0.01 < row.p50_s <= row.p99_s <= 0.025  # type: ignore[operator]
        assert (row.cache_hits, row.cache_requests) == ((UNSET, UNSET) if by == "route" else (1, 2))
    for name in ({"route": "users"}, {"consumer": "alice"}):
        by_class = stored(tmp_path / "a.db", by="status_class", **name)
        assert by_class == [AnalyticsRow(1, status_class="2xx"), AnalyticsRow(1, status_class="5xx")]
    by_status = stored(tmp_path / "a.db", by="status", route="users")
    assert by_status == [AnalyticsRow(1, status=200), AnalyticsRow(1, status=503)]
    assert stored(tmp_path / "a.db", by="method", route="other") == []


def test_the_consumers_and_statuses_of_one_plan(tmp_path: Path) -> None:
    """A consumer without groups has the plan "", which is a plan like others."""
    names = ["alice", "bob", "carol"]
    slots = first(SlotNames(listeners=["main"], consumers=names, consumer_count=3))
    column = memoryview(bytearray(8 * WORDS)).cast("Q")
    counters = ExchangeCounters(series_of(slots), column)
    for times, (name, status) in enumerate(zip(names, (200, 200, 404), strict=True), 1):
        for _ in range(times):
            counted.count_consumer(counters, name, status, 0.02, 10, 300, "")
    plans = NO_NAMES.following(slots, {"alice": "gold", "bob": "gold"})
    store = store_at(tmp_path / "a.db")
    store.write([read_counters([column], plans, NOW)])
    store.close()

    def asked(by: str, plan: str) -> dict[str, int]:
        return {str(getattr(row, by)): row.requests for row in stored(tmp_path / "a.db", by=by, plan=plan)}

    assert asked("consumer", "gold") == {"alice": 1, "bob": 2}
    assert asked("consumer", "") == {"carol": 3}
    assert asked("plan", "gold") == {"gold": 3}
    assert asked("status_class", "gold") == {"2xx": 3}
    assert asked("status_class", "") == {"4xx": 3}


def test_what_is_written_twice_or_by_two_processes_is_counted_once(tmp_path: Path) -> None:
    one, two = store_at(tmp_path / "a.db"), store_at(tmp_path / "a.db")
    one.write([reading(NOW, {USERS: 5})])
    two.write([reading(NOW, {USERS: 5}), reading(NOW + MINUTE, {USERS: 8})])
    one.write([reading(NOW, {USERS: 5}), reading(NOW + MINUTE, {USERS: 7})])
    one.write([reading(NOW + MINUTE, {USERS: 8, FAILED: 1})])
    other = store_at(tmp_path / "a.db", memory=b"another gateway or run")
    other.write([reading(NOW + MINUTE, {USERS: 100})])
    for each in (one, two, other):
        each.close()
    counts = [(row.date, row.requests) for row in stored(tmp_path / "a.db", step="minute")]
    assert counts == [(NOW, 5), (NOW + MINUTE, 104)]


def test_a_clock_that_goes_back_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    store = store_at(tmp_path / "a.db")
    dates = [NOW, NOW + MINUTE, NOW - 2 * HOUR, NOW - 2 * HOUR + MINUTE, NOW + 2 * MINUTE]
    for count, date in enumerate(dates, 1):
        store.write([reading(date, {USERS: 10 * count})])
    store.close()
    assert sum(row.requests for row in stored(tmp_path / "a.db")) == 50
    early = stored(tmp_path / "a.db", until_date=NOW - HOUR)
    assert sum(row.requests for row in early) == 20


def test_requests_before_analytics_began_are_not_counted(tmp_path: Path) -> None:
    store = store_at(tmp_path / "a.db")
    store.write([reading(NOW, {USERS: 1000}, begins=True), reading(NOW, {USERS: 1003})])
    store.close()
    assert [row.requests for row in stored(tmp_path / "a.db")] == [3]


def test_minutes_are_kept_with_their_hours_until_keep(tmp_path: Path) -> None:
    store = store_at(tmp_path / "a.db", keep=3.0 * DAY)
    store.write([reading(NOW + minute * MINUTE, {USERS: minute + 1}) for minute in range(120)])
    store.write([reading(NOW + 2 * DAY, {USERS: 121})])
    hours = [(row.date, row.requests) for row in stored(tmp_path / "a.db", step="hour", until_date=NOW + 9 * DAY)]
    assert hours == [(NOW, 60), (NOW + HOUR, 60), (NOW + 2 * DAY, 1)]
    minutes = [(row.date, row.requests) for row in stored(tmp_path / "a.db", step="minute", until_date=NOW + 9 * DAY)]
    assert minutes == [*((NOW + minute * MINUTE, 1) for minute in range(120)), (NOW + 2 * DAY, 1)]
    for number in range(3):
        store.write([reading(NOW + 9 * DAY + number, {USERS: 122 + number})])
    store.close()
    assert [row.requests for row in stored(tmp_path / "a.db", until_date=NOW + 10 * DAY)] == [3]
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        assert database.execute("SELECT COUNT(*) FROM series").fetchone() == (1,)


@settings(max_examples=25)
@given(st.sets(st.integers(0, 5 * 60 - 1), max_size=8), st.integers(0, 300), st.integers(1, 300), st.integers(0, 5))
def test_a_time_has_its_minutes_and_where_there_are_none_its_hours(
    minutes: set[int], since: int, length: int, hours_without: int
) -> None:
    """Of hours whose minutes were deleted, those that overlap the time count as a whole."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.db")
        store = store_at(path)
        total = 0
        for minute in sorted(minutes):
            total += minute + 1
            store.write([reading(NOW + minute * MINUTE, {USERS: total})])
        store.close()
        if minutes:
            with closing(sqlite3.connect(path)) as database:
                database.execute("DELETE FROM counts WHERE at < ?", (NOW + hours_without * HOUR,))
                database.commit()
        kept = {minute for minute in minutes if minute >= hours_without * 60}
        kept_since = min(kept) // 60 * 60 if kept else 10_000
        until = since + length
        wanted = sum(
            minute + 1
            for minute in minutes
            if (since <= minute < until)
            or (minute < kept_since and minute // 60 * 60 < until and minute // 60 * 60 + 60 > since)
        )
        for step in (None, "minute", "hour"):
            dates = {"since_date": NOW + since * MINUTE, "until_date": NOW + until * MINUTE}
            assert sum(row.requests for row in stored(path, step=step, **dates)) == wanted


def test_the_database_of_an_earlier_version_is_taken_over_while_its_process_still_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = store_at(path)
    store.write([reading(NOW, {USERS: 5, FAILED: 1})])
    store.close()
    with closing(sqlite3.connect(path)) as earlier:  # without `hours`: those of earlier days are among the counts
        earlier.executescript(
            "DROP TRIGGER hour_of_new_minute; DROP TRIGGER hour_of_grown_minute; DROP TABLE hours;"
            f"INSERT INTO counts SELECT {HOUR}, {int(NOW)} - {2 * DAY}, id, 7 FROM series WHERE status = 200;"
        )
        store.write([reading(NOW + MINUTE, {USERS: 6, FAILED: 1})])
        earlier.execute("UPDATE counts SET count = count + 2 WHERE series = (SELECT id FROM series WHERE status = 503)")
        earlier.execute("INSERT INTO counts SELECT 60, at + 3600, series, 4 FROM counts WHERE count = 1")
        earlier.commit()
    store.close()
    for step in (None, "hour"):
        found = Counter({row.status: 0 for row in stored(path, by="status")})
        for row in stored(path, by="status", step=step):
            found[row.status] += row.requests
        assert found == {200: 7 + 6 + 4, 503: 3}
    assert sum(row.requests for row in stored(path, step="minute", since_date=NOW)) == 5 + 1 + 3 + 4


def test_the_file_stays_within_its_size(tmp_path: Path) -> None:
    size = 1 << 18
    store = store_at(tmp_path / "a.db", size=size)
    cells = [request_cell(listener, 1, status) for listener in (1, 2) for status in range(100, 600)]
    for minute in range(60):
        store.write([reading(NOW + minute * 10 * MINUTE, dict.fromkeys(cells, minute + 1))])
    found = read_usage(str(tmp_path / "a.db"), UsageQuery("route", NOW, NOW + 30 * DAY))
    store.close()
    assert sum(row.requests for row in found.rows) > 0
    assert found.minutes_since_date is not None  # the earliest minutes went first
    assert found.minutes_since_date > NOW + HOUR
    assert (tmp_path / "a.db").stat().st_size <= size


def test_a_size_that_was_lowered_is_reached_while_counts_are_written(tmp_path: Path) -> None:
    """The earliest minutes go first, their hours stay, and no write fails for it."""
    path = tmp_path / "a.db"
    counts = [request_cell(1, method, status) for method in range(3) for status in range(200, 600, 10)]
    large = store_at(path)
    for at in range(180):
        large.write([reading(NOW + at * 10 * MINUTE, dict.fromkeys(counts, at + 1))])
    large.close()
    size = path.stat().st_size // 2
    small = store_at(path, size=size)
    more = [request_cell(1, method, status) for method in range(3) for status in range(205, 600, 10)]
    for at in range(180, 190):
        small.write([reading(NOW + at * 10 * MINUTE, {**dict.fromkeys(counts, at + 1), **dict.fromkeys(more, at)})])
    small.close()
    with closing(sqlite3.connect(path)) as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (free,) = database.execute("PRAGMA freelist_count").fetchone()
    assert (pages - free) * 4096 <= size
    assert sum(each.requests for each in stored(path, until_date=NOW + 3 * DAY)) == len(counts) * 190 + len(more) * 189


def test_a_full_disk_leaves_what_was_written_and_loses_nothing_later(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    with small_file_system(folder) as limited:
        store = store_at(folder / "a.db")
        store.write([reading(NOW, {USERS: 7})])
        cells = [request_cell(listener, 1, status) for listener in range(2, 60) for status in range(100, 600)]
        with limited():
            (folder / "others").write_bytes(b"x" * 20_000)
            minutes = [reading(NOW + each * MINUTE, {USERS: 7, **dict.fromkeys(cells, each)}) for each in range(1, 20)]
            with pytest.raises(CannotKeepAnalytics, match=r"full|disk I/O error"):
                deque(map(store.write, ([each] for each in minutes)))
        store.write([reading(NOW + 20 * MINUTE, {USERS: 9, **dict.fromkeys(cells, 20)})])
        store.close()
        counts = {row.date: row.requests for row in stored(folder / "a.db", step="minute")}
        assert counts[NOW] == 7
        assert sum(counts.values()) == 9 + 20 * len(cells)


def test_a_writer_that_is_killed_at_any_time_has_counted_each_request_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    program = (
        "import sys\n"
        "from tests.unit.analytics.test_store import *\n"
        "store = store_at(Path(sys.argv[1]))\n"
        "for count in range(int(sys.argv[2]), 1_000_000):\n"
        "    store.write([reading(NOW + count * MINUTE / 8, {USERS: count, FAILED: 2 * count})])\n"
        "    print(count, flush=True)\n"
    )
    written = 0
    for kills in range(1, 9):
        with subprocess.Popen([sys.executable, "-c", program, str(path), str(written + 1)], stdout=PIPE) as process:
            assert process.stdout is not None
            for _ in range(7 * kills):
                written = int(process.stdout.readline())
            process.kill()
            written = int(([b"%d" % written, *process.stdout.read().splitlines()])[-1])
        found = {row.status: row.requests for row in stored(path, by="status", until_date=NOW + 30 * DAY)}
        assert found in ({200: each, 503: 2 * each} for each in (written, written + 1))
        written = found[200]


def test_a_file_that_is_no_database_of_analytics_is_left_alone(tmp_path: Path) -> None:
    foreign, broken = tmp_path / "foreign.db", tmp_path / "broken.db"
    with closing(sqlite3.connect(foreign)) as database:
        database.execute("CREATE TABLE t (a)")
    broken.write_bytes(b"no database at all, but some text\n" * 200)
    for path, why in ((foreign, "it is a database of another program"), (broken, "file is not a database")):
        before = path.read_bytes()
        with pytest.raises(CannotKeepAnalytics, match=why):
            store_at(path).write([reading(NOW, {USERS: 1})])
        assert why in why_not_analytics(str(path))
        with pytest.raises(CannotKeepAnalytics, match=why):
            stored(path)
        assert path.read_bytes() == before
    missing = tmp_path / "none" / "a.db"
    with pytest.raises(CannotKeepAnalytics, match="No such file"):
        store_at(missing).write([reading(NOW, {USERS: 1})])
    assert "is not a directory" in why_not_analytics(str(missing))
    assert why_not_analytics(str(tmp_path / "new.db")) == ""
    assert stored(tmp_path / "new.db") == []


def test_a_new_database_that_is_damaged_before_its_log_was_copied_into_it_is_known_as_the_gateways(
    tmp_path: Path,
) -> None:
    written, path = tmp_path / "written.db", tmp_path / "a.db"
    first_store, store = store_at(written), store_at(path)
    first_store.write([reading(NOW, {USERS: 3})])  # it stays open: what was written is in the log
    path.write_bytes(written.read_bytes()[: written.stat().st_size // 2])
    assert Path(store.write([reading(NOW, {USERS: 3})])).name.startswith("a.db.damaged-")
    store.close()
    first_store.close()


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("damage", ["half", "pages"])
def test_a_damaged_database_is_set_aside_and_what_the_memory_has_counted_is_in_the_new_one(
    tmp_path: Path, damage: str, is_open: bool
) -> None:
    path = tmp_path / "a.db"
    first_store, store = store_at(path), store_at(path)
    first_store.write([reading(NOW, {request_cell(1, 1, status): 1 for status in range(200, 500)})])
    first_store.close()
    if is_open:
        store._open()
    whole = path.read_bytes()
    damaged = whole[: len(whole) // 2] if damage == "half" else whole[:4096] + b"\xaa" * (len(whole) - 4096)
    path.write_bytes(damaged)
    aside = Path(store.write([reading(NOW, {USERS: 3})]))
    assert aside.name.startswith("a.db.damaged-")
    assert aside.read_bytes() == damaged
    assert store.write([reading(NOW, {USERS: 5})]) == ""
    store.close()
    assert [row.requests for row in stored(path)] == [5]


def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    store = store_at(tmp_path / "a.db")
    store.write([reading(NOW, {USERS: 1})])
    for each in tmp_path.iterdir():
        each.unlink()
    store.write([reading(NOW, {USERS: 2})])
    store.close()
    assert [row.requests for row in stored(tmp_path / "a.db")] == [2]


def test_pages_of_rows(tmp_path: Path) -> None:
    store = store_at(tmp_path / "a.db")
    store.write([reading(NOW, {request_cell(1, 1, status): status for status in range(200, 210)})])
    store.close()
    query = UsageQuery("status", 0.0, NOW + DAY, offset=2, limit=3)
    usage = read_usage(str(tmp_path / "a.db"), query)
    assert (usage.total, [row.status for row in usage.rows]) == (10, [207, 206, 205])


def test_a_query_with_too_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_at(tmp_path / "a.db")
    store.write([reading(NOW, {USERS: 1, FAILED: 1})])
    store.close()
    monkeypatch.setattr("fastgw.analytics.usage.GROUPS_MAX", 1)
    with pytest.raises(TooMuch, match="more than 1 rows"):
        stored(tmp_path / "a.db", by="status")
    assert [row.requests for row in stored(tmp_path / "a.db")] == [2]  # one row, of two counts
    monkeypatch.setattr("fastgw.analytics.usage.PARTS_MAX", 1)
    with pytest.raises(TooMuch, match="more than 1 counts"):
        stored(tmp_path / "a.db")


def test_a_removed_name_is_known_until_its_row_has_another() -> None:
    names = NO_NAMES.following(SlotTable(routes={"a": 0}), {})
    gone = names.following(SlotTable(), {})
    assert labels_of(ROUTES_AT + 0, gone).name == "_other"
    assert labels_of(request_cell(1, 1, 200) | CELL, gone) == SeriesLabels("requests", "a", "GET", 200)
    assert labels_of(request_cell(1, 1, 200), gone.following(SlotTable(routes={"b": 0}), {})).name == "b"
