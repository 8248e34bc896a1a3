"""Rotation of a log file that several workers write to, by size and time, without a process that coordinates them.

A writer holds a shared lock of the file meanwhile, and has checked under it that the file still has its name; renaming
holds the exclusive one. So nothing is written to a file that has been rotated, and no writer waits longer than for
other writes. Compression, which takes long, holds a lock of the compressed file only. A killed worker leaves no lock.
Rotated files that a killed worker has not compressed are compressed after the next rotation.
"""

import fcntl
import gzip
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, final

from fastgw.operator_events import OperatorEvent, OutageReports, log_event

_STAMP: Final = r"\.[0-9]{8}-[0-9]{6}-[0-9]{6}"
_PART: Final = ".gz.part"
_COPIED: Final = 256 * 1024
_LEVEL: Final = 6
_RETRY_S: Final = 60.0
"""Seconds until a rotation that has failed is tried again."""


@final
class Rotation:
    """Rotation of one file, used by one thread. `most`: size in bytes from which on it is rotated; `every_s`: interval
    in seconds; None: neither. `keep`: maximum number of rotated files.
    """

    def __init__(self, path: str, most: int | None, every_s: float | None, keep: int, compresses: bool) -> None:
        self._path, self._most, self._every_s, self._keep, self._compresses = path, most, every_s, keep, compresses
        self._retry_at = 0.0
        self._reports = OutageReports()

    def __repr__(self) -> str:
        return f"<Rotation of {self._path}>"

    @contextmanager
    def writing(self, fd: int) -> Iterator[bool]:
        """Hold the file in the block. False: it has been rotated, by this call or by another worker: open it again."""
        fcntl.flock(fd, fcntl.LOCK_SH)
        try:
            is_present = self._is_present(fd)
            if is_present and self._is_due(fd):
                fcntl.flock(fd, fcntl.LOCK_EX)  # not atomic: another worker may come first
                is_present = self._is_present(fd) and not (self._is_due(fd) and self._rotate())
            yield is_present
        finally:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)

    def _is_present(self, fd: int) -> bool:
        return _is_named(self._path, fd)

    def _is_due(self, fd: int) -> bool:
        seen = os.fstat(fd)
        if not seen.st_size or time.monotonic() < self._retry_at:
            return False
        if self._most is not None and seen.st_size >= self._most:
            return True
        return self._every_s is not None and seen.st_mtime // self._every_s < time.time() // self._every_s

    def _rotate(self) -> bool:
        """Rename the file, and let a thread compress it and delete the oldest. False: it cannot be renamed."""
        now = time.time()
        date = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
        target = f"{self._path}.{date}-{int(now % 1 * 1e6):06}"
        try:
            if os.path.lexists(target):
                raise FileExistsError(17, "the name of the rotated file is taken")
            os.rename(self._path, target)
        except OSError as error:
            tried_at = time.monotonic()
            self._retry_at = tried_at + _RETRY_S
            why = error.strerror or str(error)
            if self._reports.is_due(why, tried_at):
                log_event(
                    OperatorEvent.ACCESS_LOG_FAILED,
                    "access log %s: it cannot be rotated: %s; lines are written to it nevertheless",
                    self._path,
                    why,
                )
            return False
        self._reports.has_ended()
        threading.Thread(target=self.tidy, name=f"rotation of {self._path}", daemon=True).start()
        return True

    def tidy(self) -> None:
        """Delete the oldest rotated files, and compress the others."""
        folder, name = os.path.split(self._path)
        folder = folder or os.curdir
        pattern = re.compile(re.escape(name) + _STAMP + r"(\.gz)?")
        try:
            present = os.listdir(folder)
            rotated = sorted(each for each in present if pattern.fullmatch(each))
            for each in rotated[: -self._keep]:
                with suppress(FileNotFoundError):  # another worker was first
                    os.unlink(os.path.join(folder, each))
            if self._compresses:
                for each in rotated[-self._keep :]:
                    if not each.endswith(".gz"):
                        _compress(os.path.join(folder, each))
            for each in present:
                if each.endswith(_PART) and pattern.fullmatch(each.removesuffix(_PART)):
                    with suppress(OSError):  # of another user, or a link: it is no reason to report each rotation
                        _remove_abandoned(os.path.join(folder, each))
        except OSError as error:
            log_event(
                OperatorEvent.ACCESS_LOG_FAILED,
                "access log %s: its rotated files cannot be tidied: %s",
                self._path,
                error.strerror,
            )


def _is_named(path: str, fd: int) -> bool:
    try:
        there = os.stat(path)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def _remove_abandoned(temporary: str) -> None:
    """Remove what a killed worker has begun to compress, if no worker can go on with it: its source was deleted. Raises
    `OSError`.
    """
    if os.path.lexists(temporary.removesuffix(_PART)):
        return
    try:
        fd = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # another worker was first
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_named(temporary, fd):
            os.unlink(temporary)
    except BlockingIOError:
        pass  # a worker compresses it, and has the source open
    finally:
        os.close(fd)


def _compress(path: str) -> None:
    """Replace a rotated file by a compressed one. Raises `OSError`."""
    temporary = f"{path}{_PART}"
    with open(temporary, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another worker compresses it
        if not _is_named(temporary, file.fileno()):
            return  # another worker has compressed it, or failed to
        try:
            with open(path, "rb") as source:
                file.truncate(0)
                os.fchmod(file.fileno(), os.fstat(source.fileno()).st_mode & 0o777)
                with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as target:
                    shutil.copyfileobj(source, target, _COPIED)
            file.flush()
            os.rename(temporary, f"{path}.gz")
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            if isinstance(error, FileNotFoundError):
                return  # another worker was first
            raise
        with suppress(FileNotFoundError):  # another worker has compressed it as well, in between
            os.unlink(path)
