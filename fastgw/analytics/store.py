"""Database of analytics: counts by minutes and their sums by hours, deleted after `keep`.

Rule 1: a transaction holds the counts and, for each counter, how much of it has been counted (`counted`), by the
identity of the shared memory. So a process that is killed loses nothing and counts nothing twice: the next one goes on
from there, and two that write at a time (an upgrade) share the work. Rule 2: the file has at most `size` bytes, a
tenth more with its write-ahead log: the earliest minutes go first, whole hours of them, and then the earliest hours.
Rule 3: `hours` has all counts, and queries over days read it; triggers keep it, so that the process of a version that
does not know it fills it as well.
"""

import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, final

from fastgw.analytics.queries import DAY, HOUR, MINUTE
from fastgw.analytics.readings import CELL, CounterReading, SeriesLabels, labels_of
from fastgw.damaged_files import is_damaged_database, is_still_there, set_aside, write_identity

HOURS_AT_ONCE: Final = 48
"""Maximum number of hours that a write deletes, so that it ends soon."""
_APPLICATION_ID: Final = 0x66677761  # "fgwa"
_VERSION: Final = 1
_TIMEOUT_S: Final = 2.0
_PAGE: Final = 4096
_FULL: Final = 0.9
"""Part of `size` from which on early counts are deleted."""
_SCHEMA: Final = (
    "CREATE TABLE series (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, method TEXT NOT NULL,"
    " status INTEGER NOT NULL, detail TEXT NOT NULL, UNIQUE (kind, name, method, status, detail))",
    "CREATE TABLE counts (step INTEGER NOT NULL, at INTEGER NOT NULL, series INTEGER NOT NULL, count INTEGER NOT NULL,"
    " PRIMARY KEY (step, at, series)) WITHOUT ROWID",
    "CREATE TABLE memories (id BLOB PRIMARY KEY, written_date REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE counted (memory BLOB NOT NULL, counter INTEGER NOT NULL, count INTEGER NOT NULL,"
    " PRIMARY KEY (memory, counter)) WITHOUT ROWID",
)
_HOUR_OF_NEW: Final = f"NEW.at - NEW.at % {HOUR}"
_HOURS_SCHEMA: Final = (
    "CREATE TABLE hours (at INTEGER NOT NULL, series INTEGER NOT NULL, count INTEGER NOT NULL,"
    " PRIMARY KEY (at, series)) WITHOUT ROWID",
    *(
        f"CREATE TRIGGER {name} AFTER {event} ON counts WHEN NEW.step = {MINUTE} BEGIN"
        f" INSERT INTO hours VALUES ({_HOUR_OF_NEW}, NEW.series, {more})"
        " ON CONFLICT (at, series) DO UPDATE SET count = count + excluded.count; END"
        for name, event, more in (
            ("hour_of_new_minute", "INSERT", "NEW.count"),
            ("hour_of_grown_minute", "UPDATE", "NEW.count - OLD.count"),
        )
    ),
)


class CannotKeepAnalytics(Exception):
    """The database cannot be read or written; the text is the reason in one line."""


@final
class AnalyticsStore:
    """Database of analytics, opened on first use and again after a failure. Used by one thread at a time."""

    def __init__(self, path: str, keep_s: float, size: int, memory: bytes) -> None:
        """`memory`: identity of the shared memory whose counters are read."""
        self.path, self._keep_s, self._size, self._memory = path, keep_s, size, memory
        self._database: sqlite3.Connection | None = None
        self._file = (0, 0)

    def write(self, readings: Sequence[CounterReading]) -> str:
        """Add what was counted up to each of the readings, in their order, to its minute. Raises
        `CannotKeepAnalytics`; then nothing was written.

        A damaged database is set aside: returns its new name, else "". Everything that the memory has counted is in the
        new one.
        """
        if not readings:
            return ""
        aside = ""
        try:
            try:
                self._write(readings)
            except sqlite3.DatabaseError as error:
                is_ours = is_still_there(self.path, self._file)  # else another process was faster
                if not is_ours or not is_damaged(self.path, error):
                    raise
                self.close()
                aside = set_aside(self.path, "-wal", "-shm")
                self._write(readings)
        except (sqlite3.Error, OSError) as error:
            raise self._failed("cannot be written", error) from error
        return aside

    def _write(self, readings: Sequence[CounterReading]) -> None:
        database = self._open()
        database.execute("BEGIN IMMEDIATE")
        try:
            self._make_space(database, readings[-1].date)
            self._add(database, readings)
            self._thin_out(database, readings[-1].date)
            database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the database: afterwards everything is in the one file."""
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def _add(self, database: sqlite3.Connection, readings: Sequence[CounterReading]) -> None:
        found = database.execute("SELECT counter, count FROM counted WHERE memory = ?", (self._memory,))
        counted: dict[int, int] = dict(found)
        changed: set[int] = set()
        more: Counter[tuple[int, SeriesLabels]] = Counter()
        for reading in readings:
            at = int(reading.date) // MINUTE * MINUTE
            for counter, count in reading.counts.items():
                key = counter - (1 << 64) if counter & CELL else counter  # SQLite's integers are signed
                difference = count - counted.get(key, 0)
                if difference > 0:
                    if not reading.begins:
                        more[at, labels_of(counter, reading.names)] += difference
                    counted[key] = count
                    changed.add(key)
        ids = _series_ids(database, {series for _, series in more})
        database.executemany(
            "INSERT INTO counts VALUES (?, ?, ?, ?)"
            " ON CONFLICT (step, at, series) DO UPDATE SET count = count + excluded.count",
            sorted((MINUTE, at, ids[series], count) for (at, series), count in more.items()),
        )
        database.executemany(
            "INSERT OR REPLACE INTO counted VALUES (?, ?, ?)", ((self._memory, key, counted[key]) for key in changed)
        )
        database.execute("INSERT OR REPLACE INTO memories VALUES (?, ?)", (self._memory, readings[-1].date))

    def _make_space(self, database: sqlite3.Connection, now: float) -> None:
        """Delete before anything is added: after `size` was lowered, there may be no page for it."""
        for _ in range(HOURS_AT_ONCE):
            used = _used(database)
            if used <= _FULL * self._size:
                return
            self._thin_out(database, now)
            if _used(database) >= used:
                return

    def _thin_out(self, database: sqlite3.Connection, now: float) -> None:
        """Delete what is too old, or too much for the file."""
        (first,) = database.execute("SELECT MIN(at) FROM hours").fetchone()
        if first is not None and first + HOUR <= now - self._keep_s:
            ends = min(first + HOURS_AT_ONCE * HOUR, int(now - self._keep_s) // HOUR * HOUR)
            _delete_before(database, ends)
            gone = "SELECT id FROM memories WHERE written_date < ? AND id <> ?"
            database.execute(f"DELETE FROM counted WHERE memory IN ({gone})", (now - self._keep_s, self._memory))
            database.execute(f"DELETE FROM memories WHERE id IN ({gone})", (now - self._keep_s, self._memory))
            database.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM hours)")
        if _used(database) > _FULL * self._size:
            minutes_since = minutes_since_date(database)
            if minutes_since is not None and minutes_since < int(now) // HOUR * HOUR - HOUR:  # they are the most
                database.execute("DELETE FROM counts WHERE at < ?", (minutes_since + HOUR,))
            else:
                (first, last) = database.execute("SELECT MIN(at), MAX(at) FROM hours").fetchone()
                _delete_before(database, last if first is None or first >= last - DAY else first + DAY)

    def _open(self) -> sqlite3.Connection:
        if self._database is not None and is_still_there(self.path, self._file):
            return self._database
        self.close()
        # O_NONBLOCK: a FIFO without a reader would block.
        fd = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        if not stat.S_ISREG(found.st_mode):
            raise sqlite3.DatabaseError("it is not a regular file")
        database = connected(self.path)
        self._database = database
        self._file = found.st_dev, found.st_ino
        is_new = not found.st_size
        if is_new:
            database.execute(f"PRAGMA page_size={_PAGE}")
        else:
            expect_analytics(database)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"PRAGMA max_page_count={max(self._size // _PAGE, 16)}")
        database.execute(f"PRAGMA journal_size_limit={self._size // 10}")
        database.execute("BEGIN IMMEDIATE")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if not version:
            for statement in _SCHEMA:
                database.execute(statement)
            database.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            database.execute(f"PRAGMA user_version={_VERSION}")
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'hours'").fetchone() is None:
            for statement in _HOURS_SCHEMA:
                database.execute(statement)
            _move_hours(database)
        database.execute("COMMIT")
        if not version:
            write_identity(database)
        return database

    def _failed(self, what: str, error: Exception) -> CannotKeepAnalytics:
        self.close()
        return CannotKeepAnalytics(f"{self.path} {what}: {reason_of(error)}")


def is_damaged(path: str, error: sqlite3.Error) -> bool:
    """Whether a file with which SQLite has failed is a database of analytics. Raises `OSError`."""
    return is_damaged_database(path, error, _APPLICATION_ID)


def connected(path: str, *, uri: bool = False) -> sqlite3.Connection:
    """Return a connection, used by one thread at a time, but not always the same."""
    return sqlite3.connect(path, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=uri)


def reason_of(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def expect_analytics(database: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` for a database of something else, or of another version."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if application != _APPLICATION_ID and (tables or version or application):
        raise sqlite3.DatabaseError("it is a database of another program")
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"it was written by another version of fastgw ({version})")


def _series_ids(database: sqlite3.Connection, wanted: Iterable[SeriesLabels]) -> dict[SeriesLabels, int]:
    ids: dict[SeriesLabels, int] = {}
    for labels in wanted:
        database.execute(
            "INSERT OR IGNORE INTO series (kind, name, method, status, detail) VALUES (?, ?, ?, ?, ?)", labels
        )
        (ids[labels],) = database.execute(
            "SELECT id FROM series WHERE kind = ? AND name = ? AND method = ? AND status = ? AND detail = ?", labels
        ).fetchone()
    return ids


def minutes_since_date(database: sqlite3.Connection) -> int | None:
    """Return the begin of the first hour whose minutes are kept. None: no minutes are kept."""
    (first,) = database.execute("SELECT MIN(at) FROM counts WHERE step = ?", (MINUTE,)).fetchone()
    return None if first is None else first // HOUR * HOUR


def _move_hours(database: sqlite3.Connection) -> None:
    """Move the hours that a database of an earlier version has among its counts, and sum up the minutes."""
    (first, last) = database.execute("SELECT MIN(at), MAX(at) FROM counts").fetchone()
    if first is None:
        return
    for day in range(first // DAY * DAY, last + 1, DAY):  # by days, so that the pages of one serve for the next
        database.execute(
            "INSERT INTO hours SELECT at - at % ?, series, SUM(count) FROM counts WHERE at >= ? AND at < ?"
            " GROUP BY 1, 2",
            (HOUR, day, day + DAY),
        )
        database.execute("DELETE FROM counts WHERE step = ? AND at >= ? AND at < ?", (HOUR, day, day + DAY))


def _delete_before(database: sqlite3.Connection, ends: int) -> None:
    database.execute("DELETE FROM hours WHERE at < ?", (ends,))
    database.execute("DELETE FROM counts WHERE at < ?", (ends,))


def _used(database: sqlite3.Connection) -> int:
    """Return the bytes of the pages that are in use."""
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free) * _PAGE
