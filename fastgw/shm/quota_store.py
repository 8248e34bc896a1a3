"""Quota file: quota counts that outlive the gateway, in an SQLite database, written by one process at a time.

Committed data is on disk (WAL, synchronous=FULL). The file holds digests of keys, and no key. Two gateways with one
file would overwrite each other's counts, so each gateway holds a `Claim` to its file.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, final

from fastgw.damaged_files import is_damaged_database, is_still_there, set_aside, write_identity
from fastgw.shm.quota_table import COUNT_MAX, PERIODS, KeyDigest, StoredCount

_APPLICATION_ID: Final = 0x66677771  # "fgwq"
_VERSION: Final = 1
_TIMEOUT_S: Final = 2.0
"""Seconds to wait for another writer, which is about to exit."""
_FORGOTTEN_S: Final = 86_400.0
"""Seconds that a count is kept after its period, to tolerate wrong clocks."""


_FARTHEST_S: Final = 100 * 366 * 86_400.0
"""Maximum seconds from now to the end of a period."""
_DIGEST: Final = 16


class CannotKeep(Exception):
    """The file cannot be read or written; the text is the reason in one line."""


class InUse(CannotKeep):
    """Another gateway uses the file."""


@final
class Claim:
    """Claim of one gateway to a file: a lock on a file beside it, which the kernel releases when the holder exits.

    `run`: identifies this run of the gateway and is known to all of its processes. It is written to the lock file, so
    each of them may hold the lock for all.
    """

    def __init__(self, path: str, run: bytes, fd: int = -1) -> None:
        """`fd`: descriptor with the lock, if it is already held."""
        self.path, self.fd = path, fd
        self._run = run

    def acquire(self) -> None:
        """Acquire the lock, unless another process of this gateway holds it. Raises `CannotKeep`."""
        if self.fd >= 0:
            return
        try:
            fd = os.open(os.path.realpath(self.path) + "-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(fd, len(self._run) + 1, 0)
                os.close(fd)
                if holder != self._run:
                    raise InUse(f"{self.path} is used by another gateway; each needs its own file") from None
                return
            except OSError:
                os.close(fd)
                raise
            self.fd = fd
            os.ftruncate(fd, 0)
            os.pwrite(fd, self._run, 0)
        except OSError as error:
            raise CannotKeep(f"{self.path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Release the claim in the process that holds it; a process that inherited it does not release it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@final
class QuotaFile:
    """Database of quota counts, opened on first use and again after a failure. `strange`: number of invalid rows
    read. `aside`: new name of the file, if it was damaged: it is a new one then, without counts; "" = it was not.
    `is_new`: whether the file was not there, so that it is a new one too, or is another one than before; `is_removed`:
    while it was in use. `identity`: device and inode of the file that was used last; (0, 0): not known.
    """

    def __init__(self, path: str, identity: tuple[int, int] = (0, 0)) -> None:
        self.path, self.identity = path, identity
        self.strange = 0
        self.aside = ""
        self.is_new = self.is_removed = False
        self._database: sqlite3.Connection | None = None
        self._follows_aside = False  # the next file is a new one because the damaged one was set aside

    def read(self, now_date: float) -> Iterator[StoredCount]:
        """Yield the rows whose period has not ended; none if the file does not exist. Raises `CannotKeep`."""
        self.strange = 0
        if not os.path.lexists(self.path):
            return
        try:
            found = self._open().execute("SELECT id, period, used, until FROM quota WHERE until > ?", (int(now_date),))
            for id_, period, used, until in found:
                if _is_sound(id_, period, used, until, now_date):
                    yield StoredCount(KeyDigest.read(id_), period, used, until)
                else:
                    self.strange += 1
        except (sqlite3.Error, OSError) as error:
            if not self._set_aside(error):
                raise self._failed("cannot be read", error) from error

    def try_to_write(self) -> None:
        """Check that the file is writable. Raises `CannotKeep`."""
        self.write((), 0.0)

    def write(self, rows: Iterable[StoredCount], now_date: float) -> None:
        """Write these counts and delete expired ones, in one transaction. Raises `CannotKeep`. Nothing is written if
        the file was set `aside`.
        """
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
            if not self._set_aside(error):
                raise self._failed("cannot be written", error) from error

    def close(self) -> None:
        """Close the database: afterwards everything is in the one file."""
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def _open(self) -> sqlite3.Connection:
        if self._database is not None:
            if is_still_there(self.path, self.identity):
                return self._database
            self.close()
            self.is_new = self.is_removed = True
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self.is_new = self.is_new or not self._follows_aside
            self._follows_aside = False
        found = os.stat(self.path)
        identity, before = (found.st_dev, found.st_ino), self.identity
        if before not in ((0, 0), identity):  # also after a failure, which has closed the former one
            self.is_new = self.is_removed = True
        self.identity = identity
        # Used by one thread at a time, but not always the same.
        database = sqlite3.connect(self.path, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        self._database = database
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (application,) = database.execute("PRAGMA application_id").fetchone()
        if application not in (0, _APPLICATION_ID):
            raise sqlite3.DatabaseError("it is a database of another program")
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"it was written by another version of fastgw ({version})")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        if not version:
            database.execute(
                "CREATE TABLE IF NOT EXISTS quota (id BLOB PRIMARY KEY, period INTEGER NOT NULL, used INTEGER NOT NULL,"
                " until INTEGER NOT NULL) WITHOUT ROWID"
            )
            database.execute("CREATE INDEX IF NOT EXISTS quota_until ON quota (until)")
            database.execute(f"PRAGMA user_version={_VERSION}")
        if not application:  # an earlier version did not set it
            database.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            write_identity(database)
        return database

    def _set_aside(self, error: Exception) -> bool:
        """Rename the file if it is damaged. False: it is not, or cannot be renamed."""
        try:
            if not isinstance(error, sqlite3.Error) or not is_damaged_database(self.path, error, _APPLICATION_ID):
                return False
            self.close()
            self.aside = set_aside(self.path, "-wal", "-shm")
            self._follows_aside, self.identity = True, (0, 0)
        except OSError:
            return False
        return True

    def _failed(self, what: str, error: Exception) -> CannotKeep:
        self.close()
        why = error.strerror if isinstance(error, OSError) else str(error)
        return CannotKeep(f"{self.path} {what}: {why}")


def _is_sound(id_: object, period: object, used: object, until: object, now_date: float) -> bool:
    """Whether a row is valid: SQLite columns hold any type, and others can write to the file."""
    return (
        isinstance(id_, bytes)
        and len(id_) == _DIGEST
        and isinstance(period, int)
        and 0 <= period < PERIODS
        and isinstance(used, int)
        and 0 <= used <= COUNT_MAX
        and isinstance(until, int)
        and until < now_date + _FARTHEST_S
    )
