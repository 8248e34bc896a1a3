"""Files of the gateway that are damaged: they are set aside, so that it goes on with new ones, and nothing of them is
lost.

Rule: only for a file that is known to be the gateway's own. The path of another program's file may have been configured
by mistake.
"""

import os
import sqlite3
import time
from typing import Final

_SQLITE_MAGIC: Final = b"SQLite format 3\0"


def set_aside(path: str, *companions: str) -> str:
    """Rename a file to `PATH.damaged-20260131-235959` (UTC), and return the new name. `companions`: suffixes of files
    that belong to it, which may be missing. Raises `OSError`.
    """
    aside = f"{path}.damaged-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    if os.path.lexists(aside):
        aside += f"-{time.time_ns()}"
    os.rename(path, aside)
    for suffix in companions:
        if os.path.lexists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    return aside


def is_still_there(path: str, identity: tuple[int, int]) -> bool:
    """Whether the file of a path is the one with this device and inode, and not removed or replaced. Raises `OSError`,
    but not for a file that is not there.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == identity


def write_identity(database: sqlite3.Connection) -> None:
    """Copy what was committed from the write-ahead log into the file: its application id is read there when the file is
    damaged, which may be before SQLite would do so. Not within a transaction.
    """
    database.execute("PRAGMA wal_checkpoint(PASSIVE)")


def is_damaged_database(path: str, error: sqlite3.Error, application_id: int) -> bool:
    """Whether a file with which SQLite has failed is damaged, and a database with this id. Raises `OSError`."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return False
    with open(path, "rb") as file:
        head = file.read(100)
    return head.startswith(_SQLITE_MAGIC) and head[68:72] == application_id.to_bytes(4, "big")
