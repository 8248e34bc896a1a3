"""Directories of disk tiers, as the supervisor claims them: one gateway at a time uses a directory.

The claim is a lock on a file, which the processes of the gateway inherit: while one of them lives, no other gateway
uses the directory. So a directory that a reload leaves stays claimed, and can be used again; purges of the meantime are
not in its journal, so it is empty then. The same holds after a restart or an upgrade, by a file in the directory.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Mapping, Set
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, final

from fastgw.cache.shared._cells import Cells
from fastgw.cache.shared.layout import CONTROL, PURGE_FLOOR, PURGE_SEQUENCE, CacheMemory
from fastgw.cache.shared.purges import Purges
from fastgw.cache.tiers.purge_journal import JOURNAL, Run, begin_run, remove_journal
from fastgw.operator_events import OperatorEvent, log_event

LEAVING_S: Final = 2.0
"""Seconds that a start waits for a gateway that is ending."""
_LOCK: Final = "lock"
_LEFT: Final = "left"
_WAIT_S: Final = 0.05
_MOST_REMOVED: Final = 256
_FLAGS: Final = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class UnusableDisk(OSError):
    """A directory that a disk tier cannot use; the text is the reason in one line."""


def why_not_disk(path: str) -> str | None:
    """Return the reason why a directory cannot be used for a disk tier, as far as it is seen without using it. None:
    it can.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        folder = Path(path).absolute().parent
        if not folder.is_dir():
            return f"{path}: the directory {folder} does not exist"
        return None if os.access(folder, os.W_OK | os.X_OK) else f"{path} cannot be created: {folder} is not writable"
    except OSError as error:
        return f"{path}: {error.strerror}"
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a symbolic link; name the directory itself"
    if not stat.S_ISDIR(status.st_mode):
        return f"{path} is not a directory"
    if status.st_uid != os.geteuid():
        return f"{path} belongs to another user"
    if status.st_mode & 0o022:
        return f"{path} is writable for other users; chmod 0700"
    return None if os.access(path, os.R_OK | os.W_OK | os.X_OK) else f"{path} is not writable"


@final
class DiskClaims:
    """Claims of one gateway. `held`: those of the previous program, by path, with descriptors."""

    def __init__(self, held: Mapping[str, int]) -> None:
        self.held = dict(held)
        self._left: set[str] = set()

    @property
    def in_use(self) -> dict[str, int]:
        """The claims without those of directories that were left."""
        return {path: fd for path, fd in self.held.items() if path not in self._left}

    def begin_run(self, path: str, timeout: float) -> Run:
        """Claim a directory, which is made if need be, and begin a run of its journal. Raises `UnusableDisk`."""
        if (why := why_not_disk(path)) is not None:
            raise UnusableDisk(f"cache: {why}")
        is_new = path not in self.held
        try:
            if is_new:
                with suppress(FileExistsError):
                    os.mkdir(path, 0o700)
                self.held[path] = _locked(path, timeout)
            mark = os.path.join(path, _LEFT)
            if path in self._left or (is_new and os.path.lexists(mark)):
                remove_journal(path)
            run = _begin_with_space(path)
            with suppress(FileNotFoundError):
                os.unlink(mark)  # only now: the objects of before are gone
            return run
        except BlockingIOError:
            raise UnusableDisk(f"cache: {path} is used by another gateway; each needs its own directory") from None
        except OSError as error:
            if is_new and path in self.held:
                os.close(self.held.pop(path))
            raise UnusableDisk(f"cache: {path} cannot be written: {error.strerror}") from error

    def leave_others(self, used: Set[str]) -> None:
        """Note that these directories are in use, and no others."""
        self._left = self.held.keys() - used

    def release(self) -> None:
        """Release all directories. Processes that have inherited a claim go on to hold it."""
        while self.held:
            os.close(self.held.popitem()[1])


def mark_left(path: str) -> None:
    """Note in a directory that it was left by a reload: later purges are not in its journal, and it is empty when it
    is used again. Not for an event loop: the disk may hang. Problems are logged.
    """
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            try:
                os.close(os.open(_LEFT, os.O_WRONLY | _FLAGS, 0o600, dir_fd=folder))
            except OSError:  # it is full, for example
                os.unlink(JOURNAL, dir_fd=folder)
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileNotFoundError:
        pass  # without a directory or a journal it is empty
    except OSError as error:
        log_event(
            OperatorEvent.CACHE_DISK_TROUBLE,
            "cache: %s is not used any more, and cannot be marked as such: %s; remove its file `purges` before it is "
            "used again: it lacks later purges",
            path,
            error.strerror,
        )


def _locked(path: str, timeout: float) -> int:
    """Return a descriptor with the lock of a directory. Raises `BlockingIOError` and other `OSError`."""
    fd, ends_at = os.open(os.path.join(path, _LOCK), os.O_RDWR | _FLAGS, 0o600), time.monotonic() + timeout
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= ends_at:
                    raise
                time.sleep(_WAIT_S)
            else:
                return fd
    except OSError as error:
        os.close(fd)
        if error.errno == errno.ENOLCK:
            raise OSError(errno.ENOLCK, "the file system has no locks") from error
        raise


def _begin_with_space(path: str) -> Run:
    """Begin a run; on a full disk after the removal of as few files as that needs. Raises `OSError`."""
    files = islice(Path(path).glob("objects-*/*/*"), _MOST_REMOVED)
    evicted = 0
    while True:
        try:
            run = begin_run(path)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not any(map(_unlink, files)):
                raise
            evicted += 1
        else:
            break
    if evicted:
        log_event(
            OperatorEvent.CACHE_DISK_TROUBLE,
            "cache: %s is full: %d cached responses were removed to begin its file of purges",
            path,
            evicted,
        )
    return run._replace(evicted=evicted)


def _unlink(file: Path) -> bool:
    try:
        file.unlink()
    except OSError:
        return False
    return True


def restore_purges(memory: CacheMemory, run: Run) -> None:
    """Let new memory know the purges of former runs."""
    purges = Purges(memory, Cells(memory, CONTROL))
    for each in run.purges:
        if each.kind == "floor":
            memory.raise_to(PURGE_FLOOR, each.number)
        elif each.kind != "run":
            purges.restore(each.kind, each.value, each.number, soft=each.soft)
    memory.raise_to(PURGE_SEQUENCE, run.number)
