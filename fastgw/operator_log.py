"""Operator log of the gateway: one line on stderr, from any process, without blocking.

A line has the time, the level, the process, the event (`fastgw.operator_events`) and a text; as text or as JSON, by the
setting `log`. A full pipe must not stop a worker: a line that would block is dropped, and so is one that a full disk
does not take whole. The next line is preceded by one with the number of dropped ones. A line is a single `write` of at
most `LINE_MAX` bytes, so lines of several processes do not mix. No lock is taken: a signal handler or a fork may come
at any moment.
"""

import logging
import os
import select
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Final

import orjson

from fastgw.config.settings.gateway import Log
from fastgw.operator_events import LEVELS, OperatorEvent
from fastgw.torn_lines import remove_torn_line

STDERR: Final = 2
LINE_MAX: Final = select.PIPE_BUF  # bytes that a writable pipe accepts at once
_LEVEL_NAMES: Final = {number: name for name, number in LEVELS.items()}


class _Form:
    """Format of this process's lines. A child process gets it from the supervisor."""

    settings = Log()
    process = "fastgw"
    least = LEVELS[Log().level]


class _Losses:
    """Lines of this process that could not be written since the last one that could."""

    count = 0
    is_torn = False
    """Whether the last bytes in the file are the beginning of such a line."""


def configure(settings: Log) -> None:
    """Set the format of this process's lines."""
    _Form.settings, _Form.least = settings, LEVELS[settings.level]


def call_process(name: str) -> None:
    """Set the name of this process in its lines: `supervisor`, `control`, `worker 1`."""
    _Form.process = name
    _Losses.count, _Losses.is_torn = 0, False  # after a fork: those of the parent are its own


def call_ourselves(name: str) -> None:
    """Set the process name that `ps -o comm` and `top` show."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def notice(event: OperatorEvent, text: str, level: int | None = None) -> None:
    """Write a message. `level`: overrides the level of the event."""
    level = event.level if level is None else level
    if level < _Form.least:
        return
    now = time.time()
    if lost := _Losses.count:
        event_level = max(OperatorEvent.MESSAGES_LOST.level, _Form.least)
        text_of_losses = f"{lost} message{' was' if lost == 1 else 's were'} lost: stderr could not be written"
        if _write(line_of(OperatorEvent.MESSAGES_LOST, text_of_losses, event_level, now)):
            _Losses.count -= lost
    if not _write(line_of(event, text, level, now)):
        _Losses.count += 1


def _write(line: bytes) -> bool:
    """Write a line, unless that would block. False: it is lost."""
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    end = b"\n" if _Losses.is_torn else b""
    try:
        if not any(events & select.POLLOUT for _, events in poll.poll(0)):
            return False
        written = os.write(STDERR, end + line)
    except OSError:
        return False  # stderr is closed, its reader is gone, or the disk is full
    if written:
        _Losses.is_torn = False
    begun = written - len(end)
    if begun == len(line):
        return True
    if begun > 0:
        _Losses.is_torn = not remove_torn_line(STDERR, begun)
    return False


def line_of(event: OperatorEvent, text: str, level: int, date: float) -> bytes:
    """Return the line to write: always a single line, cut to the maximum length."""
    second, ms = divmod(int(date * 1000), 1000)
    at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{ms:03d}Z"
    name, pid = _LEVEL_NAMES.get(level, "error"), os.getpid()
    if _Form.settings.format == "text":
        plain = "".join(sign if sign.isprintable() else " " for sign in text)
        line = f"{at} {name} {_Form.process}[{pid}] {event.label}: {plain}"
        return line.encode(errors="backslashreplace")[: LINE_MAX - 1] + b"\n"
    fields = {"time": at, "level": name, "process": _Form.process, "pid": pid, "event": event.label, "message": ""}
    text = text.encode(errors="backslashreplace").decode()
    while True:  # it ends: a line without text fits
        line_json = orjson.dumps(fields | {"message": text}, option=orjson.OPT_APPEND_NEWLINE)
        if len(line_json) <= LINE_MAX:
            return line_json
        text = text[: len(text) // 2]


class RareNotice:
    """Rate limit for a message that may occur thousands of times per second: at most one per minute, with the number of
    suppressed ones.

    `kind`: limited separately, up to `KINDS` of them; further kinds share one limit.
    """

    INTERVAL: Final = 60.0
    KINDS: Final = 64

    def __init__(self) -> None:
        self._due: dict[str, tuple[float, int]] = {}  # by kind: when the next one is due, and the number suppressed

    def __call__(self, event: OperatorEvent, text: str, kind: str = "") -> None:
        now = time.monotonic()
        if kind not in self._due and len(self._due) >= self.KINDS:
            kind = ""
        due_at, silenced = self._due.get(kind, (now, 0))
        if now < due_at:
            self._due[kind] = due_at, silenced + 1
            return
        self._due[kind] = now + self.INTERVAL, 0
        notice(event, f"{text} ({silenced} more since the last such line)" if silenced else text)


class NoticeLog(logging.Handler):
    """Handler that writes records of `logging` to this log. An exception is part of the line, with the place that
    raised it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        event = getattr(record, "event", None)
        line = f"{text}: {described(error)}" if error else text
        if isinstance(event, OperatorEvent):
            notice(event, line)
        else:
            notice(OperatorEvent.LIBRARY, f"{record.name}: {line}", record.levelno)


def described(error: BaseException) -> str:
    """Return an unexpected exception in one line, with the innermost frames of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__}: {error} ({places})"


def notice_logs() -> None:
    """Write all records of `logging` to this log: of fastgw those at `log.level` and above, of libraries warnings."""
    logging.basicConfig(handlers=[NoticeLog()], level=logging.WARNING, force=True)
    logging.getLogger("fastgw").setLevel(logging.DEBUG)
