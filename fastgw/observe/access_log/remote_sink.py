"""Sink on another machine: delivers batches of lines in order, retries, and keeps what cannot be delivered in a spool.

It is used by the thread of one log, which may wait; the event loop never does. Without a spool a failing sink holds its
thread, and lines wait in the log's queue until that is full. With a spool the thread goes on.
"""

import time
from collections.abc import Iterator, Sequence
from math import inf
from typing import Final, Protocol

from fastgw.observe.access_log.spool import Spool, UnreadableLines
from fastgw.operator_events import OperatorEvent, log_event

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 30.0
MEASURE_S: Final = 30.0
"""Interval at which the spool is looked at for lines of other workers that have ended."""
DELIVER_S: Final = 0.2
"""Maximum seconds of deliveries from the spool at a time: the log's queue must not fill meanwhile."""
_LOOK_S: Final = 0.1


class Undelivered(Exception):
    """Lines were not delivered, but may be later; the text says why. `lines`: those of the batch that were not;
    `wait_s`: the server's own wish.
    """

    def __init__(self, why: str, lines: Sequence[bytes], wait_s: float = 0.0) -> None:
        self.lines, self.wait_s = lines, wait_s
        super().__init__(why)


class Transport(Protocol):
    """Delivery to one kind of server."""

    def deliver(self, lines: Sequence[bytes]) -> int:
        """Deliver lines, without line feeds; return the number of those that the server refuses for ever. Raises
        `Undelivered`.
        """

    def close(self) -> None: ...


class RemoteSink:
    """Sink of one log. `name`: for messages. `batch`: maximum number of lines per delivery."""

    def __init__(self, name: str, transport: Transport, batch: int, spool: Spool | None) -> None:
        self._name, self._transport, self._batch, self._spool = name, transport, batch, spool
        self._lines: list[bytes] = []
        self._retry_s = RETRY_FIRST_S
        self._retry_at = 0.0
        self._measure_at = 0.0
        self._refused = 0  # lines of the spool that the server refuses for ever; `flush` tells them
        self._fails = self._is_full = False
        self.abandoned = False
        """Set by another thread: stop waiting for the server."""

    @property
    def idle_s(self) -> float | None:
        """Seconds after which `refresh` has something to do; None: nothing."""
        if self._spool is None:
            return None
        due_at = self._measure_at if self._spool.is_empty else self._retry_at
        return max(0.0, due_at - time.monotonic())

    def expire(self) -> None:
        """Do nothing: a server is not reopened."""

    def refresh(self) -> None:
        """Deliver lines of the spool, if that is due."""
        now = time.monotonic()
        if self._spool is None or self.abandoned:
            return
        if now >= self._measure_at:
            self._measure_at = now + MEASURE_S
            self._measure(self._spool)
        ends_at = now + DELIVER_S
        while now >= self._retry_at and now < ends_at and not self._spool.is_empty:
            try:
                with self._spool.oldest() as lines:
                    if lines:
                        self._refused += self._transport.deliver(lines.splitlines())
                        self._succeeded()
            except Undelivered as error:
                self._failed(str(error), error.wait_s)
            except UnreadableLines as error:
                log_event(OperatorEvent.FILE_SET_ASIDE, "access log %s: %s", self._name, error.strerror)
            except OSError as error:
                self._failed(f"its spool cannot be read: {error.strerror}", 0.0)
            now = time.monotonic()

    def write(self, lines: bytes) -> int:
        """Take whole lines, deliver full batches, and return the number of lost lines."""
        self._lines += lines.splitlines()
        lost = 0
        while len(self._lines) >= self._batch:
            lost += self._deliver_batch()
        return lost

    def flush(self) -> int:
        """Deliver what was taken, and return the number of lost lines, with those of the spool."""
        lost, self._refused = self._refused, 0
        while self._lines:
            lost += self._deliver_batch()
        return lost

    def close(self) -> None:
        self._transport.close()

    def _deliver_batch(self) -> int:
        batch, self._lines = self._lines[: self._batch], self._lines[self._batch :]
        spool, lost = self._spool, 0
        while batch:
            now = time.monotonic()
            if self.abandoned or (spool is not None and (now < self._retry_at or not spool.is_empty)):
                return lost + self._keep_lines(batch)
            if now < self._retry_at:
                time.sleep(min(_LOOK_S, self._retry_at - now))
                continue
            try:
                lost += self._transport.deliver(batch)
                self._succeeded()
                return lost
            except Undelivered as error:
                self._failed(str(error), error.wait_s)
                batch = list(error.lines)
        return lost

    def _keep_lines(self, batch: Sequence[bytes]) -> int:
        """Put lines into the spool, and return the number of lost ones."""
        if self._spool is None:
            return len(batch)
        try:
            if self._spool.store_lines(b"\n".join(batch) + b"\n"):
                self._is_full = False
                return 0
            why = "its spool is full"
        except OSError as error:
            why = f"its spool cannot be written: {error.strerror}"
        if not self._is_full:
            self._is_full = True
            log_event(
                OperatorEvent.ACCESS_LOG_FAILED, "access log %s: %s; lines are dropped and counted", self._name, why
            )
        return len(batch)

    def _measure(self, spool: Spool) -> None:
        try:
            spool.measure()
        except OSError as error:
            self._failed(f"its spool {spool.path} cannot be read: {error.strerror}", 0.0)

    def _failed(self, why: str, wait_s: float) -> None:
        self._retry_at = time.monotonic() + min(max(wait_s, self._retry_s), 2 * RETRY_MOST_S)
        self._retry_s = min(2 * self._retry_s, RETRY_MOST_S)
        if not self._fails:
            self._fails = True
            kept = "kept in its spool" if self._spool is not None else "held in memory"
            log_event(OperatorEvent.ACCESS_LOG_FAILED, "access log %s: %s; lines are %s", self._name, why, kept)

    def _succeeded(self) -> None:
        self._retry_s, self._retry_at = RETRY_FIRST_S, -inf
        if self._fails:
            self._fails = False
            log_event(OperatorEvent.ACCESS_LOG_BACK, "access log %s can be written again", self._name)


def split_by_size(lines: Sequence[bytes], most: int) -> Iterator[Sequence[bytes]]:
    """Yield lines in parts of at most `most` bytes; a longer line is a part of its own."""
    begin = size = 0
    for index, line in enumerate(lines):
        if size and size + len(line) > most:
            yield lines[begin:index]
            begin, size = index, 0
        size += len(line)
    if begin < len(lines):
        yield lines[begin:]
