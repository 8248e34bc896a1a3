"""What a worker does with an exchange that has ended: count it and hand it to the access logs."""

from collections.abc import Sequence
from typing import Protocol

from fastgw.observe.record import Record
from fastgw.observe.series import Series


class AccessLog(Protocol):
    """One configured access log."""

    @property
    def sink(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def redact(self) -> Sequence[str]: ...


class Observer:
    """Counts and logs the exchanges of one worker. `start`, `stop` and `reopen` belong to the worker, after the fork."""

    def __init__(self, *, logs: Sequence[AccessLog], column: memoryview | None, series: Series) -> None:
        self._tally = series.tally(memoryview(bytearray(8 * series.words)).cast("Q") if column is None else column)

    def finish(self, record: Record) -> None:
        """Count the exchange and queue its log lines. Called once per exchange; never waits and never raises."""
        self._tally.count(record)

    def start(self) -> None:
        """Begin to write."""

    def stop(self) -> None:
        """Write what is queued, for a bounded time."""

    def reopen(self) -> None:
        """Open the files anew, soon; lines queued until then may go to either."""
