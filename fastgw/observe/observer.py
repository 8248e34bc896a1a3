"""What a worker does with the exchanges that have ended: count them, and write its access logs."""

import time
from collections.abc import Callable, Sequence

from fastgw.compiled import twin
from fastgw.observe.ended import Ended
from fastgw.observe.held import Held
from fastgw.observe.log import AccessLog, Log
from fastgw.observe.recorder import Recorder
from fastgw.observe.series import Series

_twin = twin("fastgw.observe._record")


class Observer:
    """Counts and logs the exchanges of one worker. `start`, `reopen` and `stop`: in the worker, after the fork."""

    finish: Callable[[Ended], None]
    """Count an exchange and hold its log lines. Once per exchange, when it ends; it never waits."""

    def __init__(self, *, logs: Sequence[AccessLog], column: memoryview | None, series: Series) -> None:
        """`column`: `series.words` words that this worker alone writes. None: nobody reads the counts."""
        if column is None:
            column = memoryview(bytearray(8 * series.words)).cast("Q")
        tally = series.tally(column)
        held = Held if _twin is None else _twin.Held
        self._logs = [Log(settings, tally, held) for settings in logs]
        recorder = Recorder(tally, self._logs)
        self.finish = recorder.finish if _twin is None else _twin.Recorder(recorder).finish

    def start(self) -> None:
        """Begin to write. A file that cannot be opened is told in the gateway's log and tried again with each batch."""
        for log in self._logs:
            log.start()

    def reopen(self) -> None:
        """Open the files anew. Lines held before go to either file; none is lost. Not for a raw signal handler."""
        for log in self._logs:
            log.reopen()

    def stop(self, seconds: float = 2.0) -> None:
        """Write what is held, for so long at most; the rest is dropped and counted. Then nothing may finish.

        A disk that hangs in a write (not one that is full) leaves its thread behind, with a batch uncounted.
        """
        until = time.monotonic() + seconds
        for log in self._logs:
            log.begin_stop()
        for log in self._logs:
            log.stop(until)
