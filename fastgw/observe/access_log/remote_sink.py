"""Sink on another machine: delivers batches of lines in order, retries, and keeps what cannot be delivered in a spool.

It is used by the thread of one log, which may wait; the event loop never does. Without a spool a failing sink holds its
thread, and lines wait in the log's queue until that is full. With a spool another thread delivers: a batch that takes
longer than `DELIVERY_WAIT_S` is put into the spool until it is known to be delivered, as are lines that come meanwhile.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from math import inf
from queue import SimpleQueue
from typing import Final, NamedTuple, Protocol, final

from fastgw.observe.access_log.spool import HeldLines, Spool, UnreadableLines
from fastgw.operator_events import OperatorEvent, OutageReports, log_event

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 30.0
MEASURE_S: Final = 30.0
"""Interval at which the spool is looked at for lines of other workers that have ended."""
DELIVER_S: Final = 0.2
"""Maximum seconds of deliveries from the spool at a time: the log's queue must not fill meanwhile."""
DELIVERY_WAIT_S: Final = 0.5
"""Maximum seconds that the thread of a log with a spool waits for a delivery: less than its queue lasts."""
REPORT_S: Final = 60.0
"""Minimum interval between reports of lines that a server refuses for ever."""
_LOOK_S: Final = 0.1


class Undelivered(Exception):
    """Lines were not delivered, but may be later; the text says why. `lines`: those of the batch that were not;
    `wait_s`: the server's own wish; `refused`: number of other lines of the batch that the server refuses for ever.
    """

    def __init__(self, why: str, lines: Sequence[bytes], wait_s: float = 0.0, *, refused: int = 0) -> None:
        self.lines, self.wait_s, self.refused = lines, wait_s, refused
        super().__init__(why)


class Transport(Protocol):
    """Delivery to one kind of server."""

    @property
    def refusal(self) -> str:
        """The reason why the server has refused lines that are not sent again."""

    def deliver(self, lines: Sequence[bytes]) -> int:
        """Deliver lines, without line feeds; return the number of those that the server refuses for ever. Raises
        `Undelivered`.
        """

    def close(self) -> None: ...


@final
class _DeliveryThread:
    """Thread that delivers one batch at a time, for a log that has a spool: a server that is slow or hangs holds this
    thread alone.
    """

    def __init__(self, name: str, transport: Transport) -> None:
        self._name, self._transport = name, transport
        self._batches: SimpleQueue[Sequence[bytes] | None] = SimpleQueue()
        self._done = threading.Event()
        self._outcome: int | Undelivered = 0
        self._thread: threading.Thread | None = None

    def begin_delivery(self, lines: Sequence[bytes]) -> None:
        """Deliver these lines. The batch before must have ended."""
        self._done.clear()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=f"delivery to {self._name}", daemon=True)
            self._thread.start()
        self._batches.put(lines)

    def has_ended(self, seconds: float) -> bool:
        """Wait for the end of the delivery, for at most this time."""
        return self._done.wait(seconds)

    def outcome(self) -> int:
        """Return the number of refused lines. Raises `Undelivered`."""
        if isinstance(self._outcome, Undelivered):
            raise self._outcome
        return self._outcome

    def end(self, *, is_idle: bool) -> None:
        """Close the transport: at once if there is no delivery, or when that has ended."""
        if self._thread is None or not self._thread.is_alive():
            self._transport.close()
            return
        self._batches.put(None)
        if is_idle:
            self._thread.join()

    def _run(self) -> None:
        while (lines := self._batches.get()) is not None:
            self._outcome = Undelivered("the delivery has failed", lines)
            try:
                self._outcome = self._transport.deliver(lines)
            except Undelivered as error:
                self._outcome = error
            finally:
                self._done.set()
        self._transport.close()


class _InFlight(NamedTuple):
    """Lines whose delivery takes long. `held`: their file in the spool; None: it had no space for them."""

    lines: Sequence[bytes]
    held: HeldLines | None


class RemoteSink:
    """Sink of one log. `name`: for messages. `batch`: maximum number of lines per delivery."""

    def __init__(self, name: str, transport: Transport, batch: int, spool: Spool | None) -> None:
        self._name, self._transport, self._batch, self._spool = name, transport, batch, spool
        self._lines: list[bytes] = []
        self._retry_s = RETRY_FIRST_S
        self._retry_at = 0.0
        self._measure_at = 0.0
        self._lost = 0  # lines that `refresh` has found lost; `flush` tells them
        self._refused = 0  # lines refused for ever since that was reported
        self._report_at = 0.0
        self._reports = OutageReports()
        self._is_full = False
        self._thread = _DeliveryThread(name, transport)
        self._in_flight: _InFlight | None = None
        self.abandoned = False
        """Set by another thread: stop waiting for the server."""

    @property
    def idle_s(self) -> float | None:
        """Seconds after which `refresh` has something to do; None: nothing."""
        if self._spool is None:
            return None
        if self._in_flight is not None:
            return DELIVERY_WAIT_S
        due_at = self._measure_at if self._spool.is_empty else self._retry_at
        return max(0.0, due_at - time.monotonic())

    def expire(self) -> None:
        """Do nothing: a server is not reopened."""

    def refresh(self) -> None:
        """Deliver lines of the spool, if that is due."""
        now, spool = time.monotonic(), self._spool
        if spool is None or self.abandoned:
            return
        if self._in_flight is not None:
            if not self._thread.has_ended(0.0):
                return
            in_flight, self._in_flight = self._in_flight, None
            self._lost += self._end_delivery(*in_flight)
        if now >= self._measure_at:
            self._measure_at = now + MEASURE_S
            self._measure(spool)
        ends_at = now + DELIVER_S
        while now >= self._retry_at and now < ends_at and not spool.is_empty and self._in_flight is None:
            try:
                held = spool.hold_oldest()
                if held is not None and not held.lines:
                    held.remove()
                elif held is not None:
                    lines = held.lines.splitlines()
                    self._thread.begin_delivery(lines)
                    if self._thread.has_ended(DELIVERY_WAIT_S):
                        self._lost += self._end_delivery(lines, held)
                    else:
                        self._in_flight = _InFlight(lines, held)
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
        lost, self._lost = self._lost, 0
        while self._lines:
            lost += self._deliver_batch()
        return lost

    def close(self) -> None:
        """Close the transport. Lines whose delivery takes long stay in the spool, and may arrive twice."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None and in_flight.held is not None:
            in_flight.held.release()
        self._thread.end(is_idle=in_flight is None)

    def _deliver_batch(self) -> int:
        batch, self._lines = self._lines[: self._batch], self._lines[self._batch :]
        if self._spool is None:
            return self._deliver_waiting(batch)
        spool = self._spool
        is_waiting = time.monotonic() < self._retry_at or not spool.is_empty
        if self.abandoned or is_waiting or self._in_flight is not None:
            return self._keep_lines(batch)
        self._thread.begin_delivery(batch)
        if self._thread.has_ended(DELIVERY_WAIT_S):
            return self._end_delivery(batch, None)
        try:
            held = spool.hold_lines(_joined(batch))
        except OSError:
            held = None
        self._in_flight = _InFlight(batch, held)
        return 0

    def _deliver_waiting(self, batch: Sequence[bytes]) -> int:
        """Deliver lines of a log without a spool, and retry until it succeeds; return the number of lost ones."""
        lost = 0
        while batch:
            now = time.monotonic()
            if self.abandoned:
                return lost + len(batch)
            if now < self._retry_at:
                time.sleep(min(_LOOK_S, self._retry_at - now))
                continue
            try:
                lost += self._count_refused(self._transport.deliver(batch))
                self._succeeded()
                return lost
            except Undelivered as error:
                lost += self._count_refused(error.refused)
                self._failed(str(error), error.wait_s)
                batch = error.lines
        return lost

    def _end_delivery(self, lines: Sequence[bytes], held: HeldLines | None) -> int:
        """Handle the outcome of a delivery, and return the number of lost lines."""
        try:
            lost = self._count_refused(self._thread.outcome())
        except Undelivered as error:
            lost = self._count_refused(error.refused)
            if error.lines:  # otherwise the connection was lost behind the last answer
                self._failed(str(error), error.wait_s)
                return lost + self._keep_undelivered(lines, error.lines, held)
        if held is not None:
            try:
                held.remove()
            except OSError as error:
                self._failed(f"its spool cannot be written: {error.strerror}", 0.0)
                return lost
        self._succeeded()
        return lost

    def _keep_undelivered(self, lines: Sequence[bytes], left: Sequence[bytes], held: HeldLines | None) -> int:
        """Keep the lines of a delivery that are left, and return the number of lost ones."""
        if held is None:
            return self._keep_lines(left)
        try:
            if len(left) < len(lines):
                held.replace(_joined(left))  # the others would be delivered or refused again
        except OSError as error:
            self._failed(f"its spool cannot be written: {error.strerror}", 0.0)
        finally:
            held.release()
        return 0

    def _keep_lines(self, batch: Sequence[bytes]) -> int:
        """Put lines into the spool, and return the number of lost ones."""
        if self._spool is None:
            return len(batch)
        try:
            if self._spool.store_lines(_joined(batch)):
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

    def _count_refused(self, count: int) -> int:
        """Report lines that the server has refused and that are not sent again, once in `REPORT_S`. Returns `count`."""
        self._refused += count
        now = time.monotonic()
        if self._refused and now >= self._report_at:
            log_event(
                OperatorEvent.ACCESS_LOG_FAILED,
                "access log %s: %s; %d lines were refused for ever: they are dropped and counted",
                self._name,
                self._transport.refusal,
                self._refused,
            )
            self._refused, self._report_at = 0, now + REPORT_S
        return count

    def _measure(self, spool: Spool) -> None:
        try:
            spool.measure()
        except OSError as error:
            self._failed(f"its spool {spool.path} cannot be read: {error.strerror}", 0.0)

    def _failed(self, why: str, wait_s: float) -> None:
        now = time.monotonic()
        self._retry_at = now + min(max(wait_s, self._retry_s), 2 * RETRY_MOST_S)
        self._retry_s = min(2 * self._retry_s, RETRY_MOST_S)
        if self._reports.is_due(why, now):
            kept = "kept in its spool" if self._spool is not None else "held in memory"
            log_event(OperatorEvent.ACCESS_LOG_FAILED, "access log %s: %s; lines are %s", self._name, why, kept)

    def _succeeded(self) -> None:
        self._retry_s, self._retry_at = RETRY_FIRST_S, -inf
        if self._reports.has_ended():
            log_event(OperatorEvent.ACCESS_LOG_BACK, "access log %s can be written again", self._name)


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"\n".join(lines) + b"\n"


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
