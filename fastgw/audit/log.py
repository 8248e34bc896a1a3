"""Writer of an audit log, in each process that has something to tell: a lock orders the entries of several.

An entry is on disk (fsync) when `write` returns. Nothing is lost while the file cannot be written: entries wait in
memory and are written later, with their own time, and the log says how many there were too many of. The file may be
renamed by log rotation at any time: the chain goes on in the next one.
"""

import fcntl
import os
import stat
import threading
import time
from collections import deque
from contextlib import suppress
from math import inf
from typing import Final, final

from fastgw.audit.chain import BEGIN, LINE_MAX, AuditEntry, BrokenChain, Link, chained_line, read_link
from fastgw.damaged_files import set_aside
from fastgw.operator_events import OperatorEvent, OutageReports
from fastgw.operator_log import notice

WAITING_MAX: Final = 1_000
"""Maximum number of entries that wait while the file cannot be written."""
RETRY_S: Final = 5.0
LOCK_S: Final = 2.0
"""Seconds to wait for another process that writes."""
_LOCK_LOOK_S: Final = 0.01


class CannotWrite(Exception):
    """The file cannot be written; the text says why."""


class _Damaged(CannotWrite):
    """The file is an audit log, and its end is none."""


@final
class AuditLog:
    """Audit log of one process. `path` may be changed; None: there is none, and nothing is recorded."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.due_at = inf
        """When to `write` again after a failure, monotonic seconds."""
        self._waiting: deque[AuditEntry] = deque()
        self._lost = 0
        self._fd = -1  # stays open: after a rotation the chain goes on from the end of that file
        self._last = Link()
        self._known_path: str | None = None  # of the file that `_last` is of
        self._broken_at: Link | None = None
        self._lock = threading.Lock()
        self._reports = OutageReports()

    def record(self, entry: AuditEntry) -> None:
        """Add an entry, to be written by `write`."""
        if self.path is None:
            return
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append(entry)
        else:
            self._lost += 1

    def write(self) -> None:
        """Write the entries that wait. It may block on the disk: a thread's work in a process with a loop."""
        with self._lock:
            self.due_at = inf
            if self.path is None or not (self._waiting or self._lost):
                return
            try:
                self._append(self.path)
            except (OSError, CannotWrite) as error:
                now = time.monotonic()
                self.due_at = now + RETRY_S
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                if self._reports.is_due(why, now):
                    notice(
                        OperatorEvent.AUDIT_NOT_WRITTEN,
                        f"audit: {self.path} cannot be written: {why}; entries wait in memory",
                    )
                return
            if self._reports.has_ended():
                notice(OperatorEvent.AUDIT_WRITTEN, f"audit: {self.path} is written again")

    def close(self) -> None:
        """Close the file. Entries that wait are lost, and the gateway's log has them."""
        if (count := len(self._waiting) + self._lost) and self.path is not None:
            notice(
                OperatorEvent.AUDIT_NOT_WRITTEN,
                f"audit: {count} entries could not be written to {self.path}, and are lost",
            )
        self._waiting.clear()
        self._lost = 0
        self._release()

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, path: str) -> None:
        fd = self._use(path)
        try:
            size = self._find_locked_end(fd)
        except _Damaged as flaw:
            fd = self._set_aside(path, fd, flaw)
            size = self._find_locked_end(fd)
        try:
            lines, last, entries = bytearray(), self._last, list(self._waiting)
            for entry in [*entries, *_loss_entries(self._lost)]:
                line, last = chained_line(entry, last)
                lines += line
            try:
                _write_all(fd, lines)
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)  # whole entries or none
                raise
            self._last, self._known_path, self._lost = last, path, 0
            for _ in entries:
                self._waiting.popleft()
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def _find_locked_end(self, fd: int) -> int:
        """Lock the file, and return `_find_end` of it. A damaged one stays locked."""
        _acquire(fd)
        try:
            return self._find_end(fd)
        except _Damaged:
            raise
        except BaseException:
            fcntl.flock(fd, fcntl.LOCK_UN)
            raise

    def _set_aside(self, path: str, fd: int, flaw: "_Damaged") -> int:
        """Rename a log whose end is damaged, and return the descriptor of a new one, whose first entry says so."""
        try:
            if os.path.samestat(os.stat(path), os.fstat(fd)):  # no other process was faster
                aside = set_aside(path)
                told = f"audit: {path} is damaged ({flaw}), and is {aside} now; a new one begins"
                notice(OperatorEvent.FILE_SET_ASIDE, told)
                text = f"the log before is damaged, and was renamed to {os.path.basename(aside)}: {flaw}"
                self._waiting.appendleft(AuditEntry(time.time(), "audit", "repair", text))
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
        return self._use(path)

    def _use(self, path: str) -> int:
        """Return the descriptor of the file of this path, which may be another one since the last time."""
        # O_NONBLOCK: a FIFO without a reader would block.
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise CannotWrite("it is not a regular file")
            is_renamed = self._fd >= 0 and self._known_path == path
            if is_renamed and not os.path.samestat(found, os.fstat(self._fd)):
                with suppress(CannotWrite):  # a damaged one, too
                    self._find_end(self._fd)  # entries of other processes since this one's last
        except BaseException:
            os.close(fd)
            raise
        self._release()
        self._fd = fd
        return fd

    def _find_end(self, fd: int) -> int:
        """Remove an incomplete entry of a process that was killed, find the last entry, and return the size."""
        size = os.fstat(fd).st_size
        tail = os.pread(fd, 2 * LINE_MAX, max(0, size - 2 * LINE_MAX))
        complete = tail.rfind(b"\n") + 1
        torn = tail[complete:]
        is_ours = os.pread(fd, len(BEGIN), 0) == BEGIN
        if len(torn) > LINE_MAX:
            if is_ours:
                raise _Damaged("its last line is too long")
            raise CannotWrite("it is not an audit log: its last line is too long")
        if complete:
            start = tail.rfind(b"\n", 0, complete - 1) + 1
            try:
                self._go_on_from(read_link(tail[start : complete - 1]))
            except BrokenChain as flaw:
                if is_ours:
                    raise _Damaged(f"its last line: {flaw}") from flaw
                raise CannotWrite(f"it is not an audit log, or was changed; its last line: {flaw}") from flaw
        elif torn and not is_ours:
            raise CannotWrite("it is not an audit log")
        if torn:
            os.ftruncate(fd, size - len(torn))
            found = f"an incomplete entry of {len(torn)} bytes was removed"
            self._waiting.appendleft(AuditEntry(time.time(), "audit", "repair", found))
        return size - len(torn)

    def _go_on_from(self, found: Link) -> None:
        """Go on from the last entry of the file, unless this process knows a later one: then entries were removed or
        rewritten, and the chain breaks there, so that `verify` finds it.
        """
        known = self._last
        if found.number > known.number or found == known or self._known_path != self.path:
            self._last, self._known_path = found, self.path
        elif self._broken_at != found:
            self._broken_at = found
            gone = f"entries behind {found.number - (found.number == known.number)} were removed or rewritten"
            self._waiting.appendleft(AuditEntry(time.time(), "audit", "repair", f"{gone}; the last was {known.number}"))


def _loss_entries(lost: int) -> list[AuditEntry]:
    if not lost:
        return []
    return [AuditEntry(time.time(), "audit", "loss", f"{lost} entries were lost while the file could not be written")]


def _acquire(fd: int) -> None:
    """Lock the file until it is closed. Raises `CannotWrite`."""
    ends_at = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends_at:
                raise CannotWrite("another process holds its lock") from None
            time.sleep(_LOCK_LOOK_S)
        else:
            return


def _write_all(fd: int, lines: bytearray) -> None:
    written = 0
    with memoryview(lines) as view:
        while written < len(lines):
            written += os.write(fd, view[written:])
