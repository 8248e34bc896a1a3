"""What the gateway says about itself: one line on stderr, from any process, and never a wait.

A pipe that nobody reads must not stop a worker: a line that could block is dropped. One `write` of at most `LINE_MAX`
bytes, so lines of several processes do not mix.
"""

import logging
import os
import select
import time
import traceback
from typing import Final

STDERR: Final = 2
LINE_MAX: Final = select.PIPE_BUF  # a pipe that polls as writable takes this much at once


def notice(text: str) -> None:
    line = text.replace("\n", " ").encode(errors="backslashreplace")[: LINE_MAX - 1] + b"\n"
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    try:
        if any(events & select.POLLOUT for _, events in poll.poll(0)):
            os.write(STDERR, line)
    except OSError:
        pass  # stderr is closed or its reader is gone: there is nobody to tell


class RareNotice:
    """A notice about what may happen thousands of times a second: once a minute at most, with a count of the rest.

    `kind`: each is told and counted by itself, `KINDS` of them; those beyond are one.
    """

    INTERVAL: Final = 60.0
    KINDS: Final = 64

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}  # by kind: when it is due again, and how often it was silenced

    def __call__(self, text: str, kind: str = "") -> None:
        now = time.monotonic()
        if kind not in self._told and len(self._told) >= self.KINDS:
            kind = ""
        due_at, silenced = self._told.get(kind, (now, 0))
        if now < due_at:
            self._told[kind] = due_at, silenced + 1
            return
        self._told[kind] = now + self.INTERVAL, 0
        notice(f"{text} ({silenced} more since the last such line)" if silenced else text)


class NoticeLog(logging.Handler):
    """What the rooms log, as notices. An exception becomes part of its line: what it says, and where it came from."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        notice(f"{text}: {described(error)}" if error else text)


def described(error: BaseException) -> str:
    """An unforeseen exception in one line, with the innermost places it passed through."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__}: {error} ({places})"


def notice_logs() -> None:
    """Send everything that is logged to `notice`."""
    logging.basicConfig(handlers=[NoticeLog()], level=logging.WARNING, force=True)
