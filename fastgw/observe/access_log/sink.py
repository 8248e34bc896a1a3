"""Sink of an access log: stdout or a file that other workers write to at the same time.

Lines of different workers must not be interleaved. A regular file is written in batches of whole lines, one append each
(the kernel locks the file during a write). Anything else is written in batches of whole lines of at most PIPE_BUF
bytes, which are atomic for a pipe.
"""

import errno
import os
import select
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from fastgw.observe.access_log.rotation import Rotation
from fastgw.observe.access_log.sink_tls import sink_context
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.torn_lines import remove_torn_line

STDOUT: Final = "stdout"
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_MODE: Final = 0o640
_DROPPED: Final = "are dropped until it can be written"
_LOOK_MS: Final = 100  # interval at which a wait for a reader checks whether it was abandoned


def why_not(name: object) -> str | None:
    """Return the reason why this destination cannot be written to, as far as it can be checked in advance; None = it
    can. One on another machine is only reached when there are lines, but its files for TLS are read.
    """
    for kind in ("http", "loki", "elasticsearch", "otlp", "kafka"):
        if (remote := getattr(name, kind, None)) is not None:
            try:
                sink_context(remote.ca, remote.certificate, remote.key)
            except OSError as error:
                return error.strerror
    file = getattr(name, "file", None)  # one that is rotated
    name = name if file is None else file.path
    if name == STDOUT or not isinstance(name, str):
        return None
    if os.path.isdir(name):
        return f"{name} is a directory"
    folder = os.path.dirname(name) or os.curdir
    if not os.path.isdir(folder):
        return f"directory {folder} does not exist"
    if not os.access(name if os.path.exists(name) else folder, os.W_OK):
        return f"{name} is not writable"
    return None


class Sink:
    """One destination, used by one thread. Errors are logged once, in the operator log; they are never raised."""

    def __init__(self, name: str, directives: bytes = b"", rotation: Rotation | None = None) -> None:
        """Open the destination. `name`: `stdout` or the path of a file, which is created if missing. `directives`:
        lines that each worker writes first, also after the file was opened again. `rotation`: of the file.
        """
        self._name, self._directives, self._rotation = name, directives, rotation
        self._due = b""  # directives that the file does not have yet
        self._fd = -1
        self._regular = False
        self._poll = select.poll()
        self._current = False
        self._torn = False
        self._reopen_trouble: tuple[int | None, bool] | None = None  # and whether lines go to the open file
        self._write_trouble: int | None = None
        self.abandoned = False
        """Set by another thread: stop waiting for a reader."""

    def expire(self) -> None:
        """Have the destination reopened before the next line. Thread-safe."""
        self._current = False

    def refresh(self) -> None:
        """Reopen the destination if that is due. If it cannot be opened, lines are still written to the previous
        one, unless that was deleted: then they are lost.
        """
        if self._current:
            return
        self._current = True  # before opening, so that an `expire` in the meantime is not lost
        try:
            fd = _open_stdout() if self._name == STDOUT else os.open(self._name, _FLAGS | os.O_CREAT, _MODE)
        except OSError as error:
            self._current = False
            self._report_reopening(error, is_kept=self._fd >= 0 and not self._is_deleted)
            return
        self.close()
        self._fd, self._torn = fd, False
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._poll.register(fd, select.POLLOUT)
        self._due = self._directives
        if self._directives and self._regular and self._rotation is not None:
            with self._rotation.writing(fd) as is_present:
                if is_present:
                    self._append(b"")
            if not is_present:
                self._current = False
                self.refresh()
        elif self._directives:
            self._append(b"")

    def close(self) -> None:
        if self._fd >= 0:
            self._poll.unregister(self._fd)
            os.close(self._fd)
        self._fd = -1

    @property
    def idle_s(self) -> float | None:
        """Seconds after which `refresh` has something to do; None: nothing by itself."""
        return None

    def flush(self) -> int:
        """Do nothing: `write` holds no lines back."""
        return 0

    def write(self, lines: bytes) -> int:
        """Append whole lines, and return the number of lost ones. Waits while a pipe is full."""
        if self.abandoned:
            return lines.count(b"\n")
        self.refresh()
        if self._fd < 0:
            return lines.count(b"\n")
        if self._regular and self._rotation is not None:
            return self._append_rotated(lines, self._rotation)
        return self._append_regular(lines) if self._regular else sum(map(self._append, _packed(lines)))

    @property
    def _is_deleted(self) -> bool:
        """Whether the open file has no name any more."""
        return self._regular and not os.fstat(self._fd).st_nlink

    def _append_regular(self, lines: bytes) -> int:
        """Append lines to the open file, which is the previous one if the destination cannot be opened."""
        return lines.count(b"\n") if not self._current and self._is_deleted else self._append(lines)

    def _append_rotated(self, lines: bytes, rotation: Rotation) -> int:
        """Append lines to the present file, which may have to be rotated first."""
        while True:
            fd = self._fd
            with rotation.writing(fd) as is_present:
                if is_present:
                    return self._append(lines)
            self.expire()
            self.refresh()
            if not self._current:  # it cannot be opened
                return self._append_regular(lines)

    def _append(self, batch: bytes) -> int:
        """Append lines, after directives that are due, and return the number of lost ones."""
        if self._due:
            due, self._due = self._due, b""
            if lost := self._append(due):
                self._due = b"".join(due.splitlines(keepends=True)[-lost:])
                return batch.count(b"\n")
        written = 0
        try:
            if self._torn:
                os.write(self._fd, b"\n")
                self._torn = False
            while written < len(batch):
                if not self._regular:
                    self._wait()
                with suppress(BlockingIOError):  # another worker has filled the pipe in the meantime
                    written += os.write(self._fd, batch[written:])
        except OSError as error:
            self._report_writing(error)
            begun = written - (batch.rfind(b"\n", 0, written) + 1)
            if begun:  # another worker would append its next line to it; this one can begin its own with a newline
                self._torn = not remove_torn_line(self._fd, begun)
        else:
            if self._current:
                self._report_end()
        return batch.count(b"\n", written)

    def _wait(self) -> None:
        while not self._poll.poll(0 if self.abandoned else _LOOK_MS):
            if self.abandoned:
                raise TimeoutError(errno.ETIMEDOUT, "no process reads it")

    def _report_reopening(self, error: OSError, *, is_kept: bool) -> None:
        """Report an error of opening, if it is new. `is_kept`: lines go to the file that was open before."""
        trouble = (error.errno, is_kept)
        if trouble != self._reopen_trouble:
            self._reopen_trouble = trouble
            self._report(error, "go to the file that is open until it can be opened" if is_kept else _DROPPED)

    def _report_writing(self, error: OSError) -> None:
        """Report an error of writing, if it is new. Both may last at a time, as on a file system that is read-only."""
        if error.errno != self._write_trouble:
            self._write_trouble = error.errno
            self._report(error, _DROPPED)

    def _report(self, error: OSError, lines: str) -> None:
        log_event(OperatorEvent.ACCESS_LOG_FAILED, "access log %s: %s; lines %s", self._name, error.strerror, lines)

    def _report_end(self) -> None:
        """Report the end of what was reported."""
        if self._reopen_trouble is not None or self._write_trouble is not None:
            self._reopen_trouble = self._write_trouble = None
            log_event(OperatorEvent.ACCESS_LOG_BACK, "access log %s can be written again", self._name)


def _open_stdout() -> int:
    """Return a file descriptor for stdout. A pipe is reopened if possible.

    `O_NONBLOCK` belongs to the open file description, which is shared with the process that started the gateway, so it
    must not be changed. A regular file is not reopened: with two offsets, one writer would overwrite the other.
    """
    stdout = 1
    if stat.S_ISFIFO(os.fstat(stdout).st_mode):
        with suppress(PermissionError):
            return os.open(f"/proc/self/fd/{stdout}", _FLAGS)
    return os.dup(stdout)


def _packed(lines: bytes) -> Iterator[bytes]:
    """Yield whole lines in batches of at most PIPE_BUF bytes; no line is longer than that."""
    begin = 0
    while begin < len(lines):
        end = lines.rfind(b"\n", begin, begin + select.PIPE_BUF) + 1
        yield lines[begin:end]
        begin = end
