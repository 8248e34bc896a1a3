"""Spool of an access log: a directory of files with lines, for a sink that is unreachable.

All workers share it, also with those of the previous run: a file belongs to the worker that has locked it. It is
complete when it has its name (a rename), and is removed when its lines are delivered, or replaced by one with the rest
when a part of them is; so a killed worker loses nothing, and at most the lines of one file arrive twice.
"""

import fcntl
import os
import re
import time
from collections import deque
from contextlib import suppress
from typing import BinaryIO, Final, final

from fastgw.damaged_files import set_aside

_NAME: Final = re.compile(r"[0-9]{20}-[0-9]+-[0-9]+\.lines")
_TEMPORARY: Final = re.compile(r"[0-9]{20}-[0-9]+-[0-9]+\.lines\.part")
_ABANDONED_S: Final = 60.0
MEASURED_EVERY: Final = 16
"""Number of own files after which the size of the directory is measured again."""


class UnreadableLines(OSError):
    """A file of the spool could not be read, and was renamed, so that the others are delivered."""


@final
class Spool:
    """Files of one sink, used by one thread. `most`: maximum size of all files in bytes; several workers together may
    exceed it by some files.
    """

    def __init__(self, path: str, most: int) -> None:
        self.path, self._most = path, most
        self._known: deque[str] = deque()  # names, the oldest first
        self._size = 0
        self._count = 0
        self._is_measured = False

    def store_lines(self, lines: bytes) -> bool:
        """Keep whole lines; False if there is no space for them. Raises `OSError`."""
        held = self.hold_lines(lines)
        if held is not None:
            held.release()
        return held is not None

    def hold_lines(self, lines: bytes) -> "HeldLines | None":
        """Keep whole lines in a file that no other worker delivers until it is released; None if there is no space for
        them. Raises `OSError`.
        """
        if not self._is_measured or self._count % MEASURED_EVERY == 0:
            self.measure()
        if self._size + len(lines) > self._most:
            return None
        name = f"{time.time_ns():020}-{os.getpid()}-{self._count}.lines"
        file = self.write_file(name, lines)
        self._count += 1
        self._size += len(lines)
        return HeldLines(self, name, file, lines)

    def write_file(self, name: str, lines: bytes, *, replaces: bool = False) -> BinaryIO:
        """Write a locked file and give it its name when it is complete. `replaces`: in place of the one that has the
        name, whose lines may be on the disk already. Raises `OSError`, and leaves that one as it was.
        """
        temporary = os.path.join(self.path, f"{name}.part")
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            file = open(fd, "r+b")  # noqa: SIM115  # held by what is returned
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                file.write(lines)
                file.flush()
                if replaces:
                    os.fsync(fd)
                os.rename(temporary, os.path.join(self.path, name))
            except OSError:
                with suppress(OSError):  # closing writes what is left
                    file.close()
                raise
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return file

    def measure(self) -> None:
        """Read the directory, which is created if it does not exist. Raises `OSError`."""
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        size, names, now = 0, [], time.time()
        with os.scandir(self.path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # delivered by another worker
                    if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        size += entry.stat(follow_symlinks=False).st_size
                        names.append(entry.name)
                    elif _TEMPORARY.fullmatch(entry.name) and entry.stat().st_mtime < now - _ABANDONED_S:
                        os.unlink(entry.path)  # of a worker that was killed
        self._known, self._size, self._is_measured = deque(sorted(names)), size, True

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known to wait here."""
        return not self._known

    def hold_oldest(self) -> "HeldLines | None":
        """Hold the oldest lines that no other worker holds; None if there are none. Raises `OSError`."""
        while self._known:
            name = self._known[0]
            path = os.path.join(self.path, name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:  # delivered by another worker
                self._known.popleft()
                continue
            except OSError as error:
                raise self._set_aside(path, error) from error
            file = open(fd, "rb")  # noqa: SIM115  # held by what is returned
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another worker delivers it
                file.close()
                self._known.popleft()
                continue
            if not _is_named(fd, path):  # delivered between the two calls, or replaced by the rest of its lines
                file.close()
                if not os.path.exists(path):
                    self._known.popleft()
                continue
            try:
                lines = file.read(self._most)
            except OSError as error:
                file.close()
                raise self._set_aside(path, error) from error
            self._known.popleft()
            return HeldLines(self, name, file, lines)
        return None

    def shrink(self, size: int) -> None:
        """Count bytes that no longer wait."""
        self._size = max(0, self._size - size)

    def forget(self, name: str, size: int) -> None:
        """Forget a file that was delivered."""
        self.shrink(size)
        with suppress(ValueError):  # measured meanwhile
            self._known.remove(name)

    def return_file(self, name: str) -> None:
        """Have a file delivered that is no longer held: in its place by date."""
        if name not in self._known:
            if self._known and name < self._known[-1]:
                self._known = deque(sorted((*self._known, name)))
            else:
                self._known.append(name)

    def _set_aside(self, path: str, error: OSError) -> OSError:
        """Rename a file that cannot be read, and return the exception that says so. Raises `OSError`."""
        aside = set_aside(path)
        self._known.popleft()
        self._size = max(0, self._size - os.lstat(aside).st_size)
        return UnreadableLines(error.errno, f"{path} cannot be read ({error.strerror}), and is {aside} now")


@final
class HeldLines:
    """Lines in a file of the spool that this worker holds, so that no other process delivers them."""

    def __init__(self, spool: Spool, name: str, file: BinaryIO, lines: bytes) -> None:
        self._spool, self._name, self._file = spool, name, file
        self.lines = lines

    def __repr__(self) -> str:
        return f"<HeldLines {self._name}>"

    def remove(self) -> None:
        """Remove lines that were delivered. Raises `OSError`."""
        with self._file:
            os.unlink(os.path.join(self._spool.path, self._name))
        self._spool.forget(self._name, len(self.lines))

    def replace(self, lines: bytes) -> None:
        """Keep these of the lines alone: the others were delivered. A crash loses none. Raises `OSError`."""
        file = self._spool.write_file(self._name, lines, replaces=True)
        self._file.close()
        self._spool.shrink(len(self.lines) - len(lines))
        self._file, self.lines = file, lines

    def release(self) -> None:
        """Stop holding the lines, so that any process may deliver them."""
        self._file.close()
        self._spool.return_file(self._name)


def _is_named(fd: int, path: str) -> bool:
    """Whether an open file is the one that has this name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    return False
