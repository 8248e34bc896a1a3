"""The file in which counts of quotas outlive the gateway: an SQLite database, written by one process at a time.

What is committed is on the disk (WAL, synchronous=FULL). The file holds digests of keys, and no key.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, final

from fastgw.node.quotas import Id, Row

_VERSION: Final = 1
_PATIENCE_S: Final = 2.0
"""How long another writer is waited for, who is on its way out."""
_FORGOTTEN_S: Final = 86_400.0
"""After its period a count is kept so long, for clocks that were wrong."""


class CannotKeep(Exception):
    """Why nothing can be read or written, in a line for people."""


@final
class QuotaFile:
    """Opened when it is first needed, and again after it failed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None

    def read(self, now_date: float) -> Iterator[Row]:
        """What still counts. A file that is not there says nothing. Raises `CannotKeep`."""
        if not os.path.lexists(self.path):
            return
        try:
            found = self._open().execute("SELECT id, period, used, until FROM quota WHERE until > ?", (int(now_date),))
            for id_, period, used, until in found:
                yield Row(Id.read(id_), period, used, until)
        except (sqlite3.Error, OSError, TypeError) as error:
            raise self._failed("cannot be read", error) from error

    def write(self, rows: Iterable[Row], now_date: float) -> None:
        """Keep these, and forget what is long over: all of it or nothing. Raises `CannotKeep`."""
        try:
            database = self._open()
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "INSERT OR REPLACE INTO quota (id, period, used, until) VALUES (?, ?, ?, ?)",
                ((row.id.digest, row.period, row.used, row.until) for row in rows),
            )
            database.execute("DELETE FROM quota WHERE until < ?", (int(now_date - _FORGOTTEN_S),))
            database.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise self._failed("cannot be written", error) from error

    def close(self) -> None:
        """What was written is in the one file then."""
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def _open(self) -> sqlite3.Connection:
        if self._database is not None:
            return self._database
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        # Each use is by one thread, though not always by the same.
        database = sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
        self._database = database
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"it is of another version of fastgw ({version})")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        if not version:
            database.execute(
                "CREATE TABLE IF NOT EXISTS quota (id BLOB PRIMARY KEY, period INTEGER NOT NULL, used INTEGER NOT NULL,"
                " until INTEGER NOT NULL) WITHOUT ROWID"
            )
            database.execute("CREATE INDEX IF NOT EXISTS quota_until ON quota (until)")
            database.execute(f"PRAGMA user_version={_VERSION}")
        return database

    def _failed(self, what: str, error: Exception) -> CannotKeep:
        self.close()
        why = error.strerror if isinstance(error, OSError) else str(error)
        return CannotKeep(f"{self.path} {what}: {why}")
