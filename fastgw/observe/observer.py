"""What a worker does with an exchange that has ended: count it, and hand it to the access logs."""

import time
from collections.abc import Sequence

from fastgw.observe.ended import Ended, record_of
from fastgw.observe.log import AccessLog, Log
from fastgw.observe.series import Series


class Observer:
    """Counts and logs the exchanges of one worker. `start`, `reopen` and `stop`: in the worker, after the fork."""

    def __init__(self, *, logs: Sequence[AccessLog], column: memoryview | None, series: Series) -> None:
        """`column`: `series.words` words that this worker alone writes. None: nobody reads the counts."""
        if column is None:
            column = memoryview(bytearray(8 * series.words)).cast("Q")
        tally = series.tally(column)
        self._count = tally.count
        self._logs = [Log(settings, tally) for settings in logs]

    def finish(self, ended: Ended) -> None:
        """Count the exchange and queue its log lines. Once per exchange, when it ends; it never waits."""
        record = record_of(ended, time.monotonic(), time.time())
        self._count(record)
        for log in self._logs:
            log.add(record)

    def start(self) -> None:
        """Begin to write. A file that cannot be opened is told in the gateway's log and tried again with each batch."""
        for log in self._logs:
            log.start()

    def reopen(self) -> None:
        """Open the files anew. Lines queued before go to either file; none is lost. Not for a raw signal handler."""
        for log in self._logs:
            log.reopen()

    def stop(self, seconds: float = 2.0) -> None:
        """Write what is queued, for so long at most; the rest is dropped and counted. Then nothing may finish.

        A disk that hangs in a write (not one that is full) leaves its thread behind, with a slice uncounted.
        """
        until = time.monotonic() + seconds
        for log in self._logs:
            log.begin_stop()
        for log in self._logs:
            log.stop(until)
