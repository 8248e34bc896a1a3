"""Quota file: quota counts that outlive the gateway, in an SQLite database, written by one process at a time.

Committed data is on disk (WAL, synchronous=FULL). The file holds digests of keys, and no key. Two gateways with one
file would overwrite each other's counts, so each gateway holds a `Claim` to its file.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from secrets import randbits
from typing import Final, final
from urllib.parse import quote

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
_TOKEN_BITS: Final = 62
"""Bits of the random token of a write: fits in an integer of SQLite and in a word of the shared memory."""
_TEXT: Final = partial(str, encoding="utf-8", errors="replace")
"""Decoder of text. Only invalid rows have any, and text that is not UTF-8 fails by default."""
Tokens = tuple[int, int]
"""Tokens of the last write that is known to be in the file, and of one that may be; (0, 0): not known."""


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
                os.pwrite(fd, self._run, 0)  # in place: on a full disk, too
                os.ftruncate(fd, len(self._run))
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
    while it was in use. `is_continued`: whether the counts in memory continue those of the file, as of its reading.

    Each write leaves its token in the file, in its own transaction. A file without the token of the last write is
    another one: a new one, or a copy that lacks writes. `remember` is called with the tokens before and after each
    write, except while `is_new` or `aside` is set: until counts are no longer marked as saved, the former tokens hold.
    """

    def __init__(
        self, path: str, last_write: Tokens = (0, 0), remember: Callable[[Tokens], None] = lambda tokens: None
    ) -> None:
        self.path, self.last_write = path, last_write
        self._remember = remember
        self._inode = (0, 0)  # device and inode of the file that is open
        self.strange = 0
        self.aside = ""
        self.is_new = self.is_removed = self.is_continued = False
        self._database: sqlite3.Connection | None = None
        self._follows_aside = False  # the next file is a new one because the damaged one was set aside

    def read(self, now_date: float) -> Iterator[StoredCount]:
        """Yield the rows whose period has not ended; none if the file does not exist. Raises `CannotKeep`."""
        self.strange = 0
        try:
            os.lstat(self.path)
            with self._reader() as database:
                wanted = "SELECT id, period, used, until FROM quota WHERE until > ?"
                for id_, period, used, until in database.execute(wanted, (int(now_date),)):
                    if _is_sound(id_, period, used, until, now_date):
                        yield StoredCount(KeyDigest.read(id_), period, used, until)
                    else:
                        self.strange += 1
        except FileNotFoundError as error:
            if not os.path.isdir(os.path.dirname(os.path.realpath(self.path))):  # it may be mounted later
                raise self._failed("cannot be read", error) from error
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
            database, token = self._open(), randbits(_TOKEN_BITS) | 1
            self._set_last_write((self.last_write[0], token))  # a crash may follow the commit
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "INSERT OR REPLACE INTO quota (id, period, used, until) VALUES (?, ?, ?, ?)",
                ((row.id.digest, row.period, row.used, row.until) for row in rows),
            )
            database.execute("DELETE FROM quota WHERE until < ?", (int(now_date - _FORGOTTEN_S),))
            database.execute("CREATE TABLE IF NOT EXISTS last_write (row INTEGER PRIMARY KEY, token INTEGER NOT NULL)")
            database.execute("INSERT OR REPLACE INTO last_write (row, token) VALUES (1, ?)", (token,))
            database.execute("COMMIT")
            self._set_last_write((token, token))
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
            if is_still_there(self.path, self._inode):
                return self._database
            self.close()
            self.is_new = self.is_removed = True
        is_created = False
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self.is_new = self.is_new or not self._follows_aside
            self._follows_aside, is_created = False, True
        found = os.stat(self.path)
        self._inode = found.st_dev, found.st_ino
        # Used by one thread at a time, but not always the same.
        database = sqlite3.connect(self.path, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        database.text_factory = _TEXT
        self._database = database
        version, application = _identity_of(database)
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
        self._compare_token(database, is_created)
        return database

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        try:
            database = self._open()
        except sqlite3.OperationalError as error:
            self.close()
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise
            try:
                database = self._open_alone()
            except sqlite3.Error:
                raise error  # noqa: B904 - the first failure says more
            with closing(database):
                yield database
        else:
            yield database

    def _open_alone(self) -> sqlite3.Connection:
        """Open the file for reading on a disk that is full or read-only: without the `-shm` file, which is shared with
        other processes and takes space. Commits in a write-ahead log that a killed process has left count, too.
        """
        path = os.path.realpath(self.path)
        has_log = any(os.path.exists(log) and os.path.getsize(log) for log in (f"{path}-wal", f"{path}-journal"))
        uri = f"file:{quote(os.fsencode(path))}?{'mode=rw' if has_log else 'immutable=1'}"
        database = sqlite3.connect(uri, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=True)
        database.text_factory = _TEXT
        try:
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            if not _identity_of(database)[0]:
                raise sqlite3.OperationalError("it has no counts yet")
            self._compare_token(database, is_created=False)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _compare_token(self, database: sqlite3.Connection, is_created: bool) -> None:
        token = _read_token(database)
        if self.last_write != (0, 0) and token not in self.last_write:  # replaced while no process had it open
            self.is_new = True
            self.is_removed = self.is_removed or is_created or token > 0  # 0: of an earlier version
        self.last_write = token, token

    def _set_last_write(self, tokens: Tokens) -> None:
        self.last_write = tokens
        if not self.is_new and not self.aside:
            self._remember(tokens)

    def _set_aside(self, error: Exception) -> bool:
        """Rename the file if it is damaged. False: it is not, or cannot be renamed."""
        try:
            if not isinstance(error, sqlite3.Error) or not is_damaged_database(self.path, error, _APPLICATION_ID):
                return False
            self.close()
            self.aside = set_aside(self.path, "-wal", "-shm")
            self._follows_aside, self.last_write = True, (0, 0)
        except OSError:
            return False
        return True

    def _failed(self, what: str, error: Exception) -> CannotKeep:
        self.close()
        why = error.strerror if isinstance(error, OSError) else str(error)
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE:
            why = "database or disk is full"  # SQLite says "disk I/O error"
        return CannotKeep(f"{self.path} {what}: {why}")


def _identity_of(database: sqlite3.Connection) -> tuple[int, int]:
    """Return the version and the application id; 0: not written yet. Raises `sqlite3.DatabaseError` for a database
    that this version cannot use.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    if application not in (0, _APPLICATION_ID):
        raise sqlite3.DatabaseError("it is a database of another program")
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"it was written by another version of fastgw ({version})")
    return version, application


def _read_token(database: sqlite3.Connection) -> int:
    """Return the token of the last write; 0: there is none, such as in a file of an earlier version."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'last_write'").fetchone():
        return 0
    (token,) = database.execute("SELECT max(token) FROM last_write").fetchone()
    return token if isinstance(token, int) and 0 < token < 1 << _TOKEN_BITS else 0


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
