"""An access log: the queue that a worker's loop fills, and the thread that makes lines of it.

Rule 1: the loop never waits: a record that finds the queue full is dropped and counted. Rule 2: each finished exchange
becomes one line or one dropped record. Rule 3: a log has a thread of its own, so one that is stuck holds up no other.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from threading import Event, Thread
from typing import Final, Protocol

from fastgw.observe.lines import FORMATS, masker
from fastgw.observe.record import Record
from fastgw.observe.series import Tally
from fastgw.observe.sink import Sink

log = logging.getLogger("fastgw")

MAX_RECORDS: Final = 32_768
"""At 25,000 requests/s a disk may pause for more than a second. They hold about 25 MB while a log is stuck."""
MAX_PEER_BYTES: Final = 16 * 1024 * 1024
"""What peers have sent (paths, queries, fields) of all queued records together, so that long requests do not add up."""
_GATHER_S = 0.05  # one wake-up of the thread serves all that comes meanwhile
# The thread keeps the interpreter for a slice at most, about 0.3 ms, and then leaves it to the loop. `sleep(0)` would
# not do: without a real sleep the thread takes the interpreter back before the loop's thread has woken.
_SLICE = 64
_YIELD_S = 0.0005
_ABANDON_S = 0.5  # a thread that waits for a reader looks up five times as often


class AccessLog(Protocol):
    """The settings of an access log."""

    @property
    def sink(self) -> str:
        """`stdout`, or the path of a file."""

    @property
    def format(self) -> str:
        """A key of `lines.FORMATS`."""

    @property
    def redact(self) -> Sequence[str]:
        """Query parameters to mask besides `lines.ALWAYS_MASKED`."""


class Log:
    """One access log of one worker."""

    def __init__(self, settings: AccessLog, tally: Tally) -> None:
        self._line = FORMATS[settings.format]
        self._mask = masker(settings.redact)
        self._tally = tally
        self._sink = Sink(settings.sink)
        self._name = settings.sink
        self._told = False  # that lines are dropped; once is enough, the metric says how many
        self._queue: deque[Record] = deque()
        # Each is written by one thread alone: the loop's and ours. Their difference is what is queued.
        self._bytes_in = self._bytes_out = 0
        self._wake, self._stopping = Event(), Event()
        self._thread = Thread(target=self._run, name=f"access log {settings.sink}", daemon=True)

    def add(self, record: Record) -> None:
        """Queue a record, or drop it. Hot path."""
        queue = self._queue
        weight = _weight(record)
        if len(queue) >= MAX_RECORDS or self._bytes_in - self._bytes_out + weight > MAX_PEER_BYTES:
            self._tally.drop_unqueued()
            if not self._told:
                self._told = True
                log.warning("access log %s is not taken as fast as it grows: lines are dropped and counted", self._name)
            return
        self._bytes_in += weight
        queue.append(record)
        if len(queue) == 1:  # after the append: the thread may have emptied the queue before it, but not since
            self._wake.set()

    def start(self) -> None:
        self._wake.set()
        self._thread.start()

    def reopen(self) -> None:
        self._sink.expire()
        self._wake.set()

    def begin_stop(self) -> None:
        """Have the thread write what is queued and end."""
        self._stopping.set()
        self._wake.set()

    def stop(self, until: float) -> None:
        """Wait until then (monotonic) for the thread to end; what a reader has not taken by then is dropped."""
        self._thread.join(max(0.0, until - time.monotonic()))
        self._sink.abandoned = True
        self._thread.join(_ABANDON_S)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            self._wake.wait()
            self._wake.clear()  # before all that it may be about, so that nothing is missed
            stopping = self._stopping.wait(_GATHER_S)
            self._sink.refresh()
            while records := self._take():
                lost = self._write(records)
                if lost:
                    self._tally.drop_unwritten(lost)
                if not stopping:
                    time.sleep(_YIELD_S)
        self._sink.close()

    def _write(self, records: list[Record]) -> int:
        """How many of the records were lost."""
        if self._sink.abandoned:
            return len(records)
        return self._sink.write([self._line(record, self._mask) for record in records])

    def _take(self) -> list[Record]:
        queue = self._queue
        records = [queue.popleft() for _ in range(min(_SLICE, len(queue)))]
        self._bytes_out += sum(map(_weight, records))
        return records


def _weight(record: Record) -> int:
    """The bytes of a record that a peer has chosen."""
    return (
        len(record.method)
        + len(record.host)
        + len(record.path)
        + len(record.query or b"")
        + len(record.request_id)
        + len(record.user_agent or b"")
        + len(record.referer or b"")
    )
