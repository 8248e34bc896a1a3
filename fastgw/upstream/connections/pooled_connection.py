"""A connection of a pool, as the pool sees it, and the pool as its connections see it."""

from typing import Any, Protocol

from fastgw.eventloop.timer_wheel import Timed
from fastgw.upstream.targets.target import Target


class PooledConnection(Timed):
    """Connection that a pool lends. It must be a `connect.Connecting` as well.

    `capacity`: number of streams that it carries at once when it is open, at least 1. `closed`: no more streams can be
    lent. Of the pool: `streams`, those lent now; `uses`, those lent so far, more than 1 while one is lent if the
    connection is reused; `idle_since`, monotonic seconds.
    """

    def __init__(self, target: Target, now: float) -> None:
        Timed.__init__(self)
        self.target = target
        self.capacity = 1
        self.closed = False
        self.streams = self.uses = 0
        self.idle_since = now

    def open_stream(self) -> Any:
        """Return a new stream, which reports its end by `Pool.give_back` or `discard`."""
        return self

    def close(self) -> None:
        """Close at once. No listener is called."""
        raise NotImplementedError

    def get_buffer(self, sizehint: int) -> Any:
        """Return the buffer for the next read, as an `asyncio.BufferedProtocol`."""
        raise NotImplementedError

    def buffer_updated(self, nbytes: int) -> None:
        """Handle the bytes that were read into the buffer."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Handle received bytes for asyncio's own event loop, which knows buffered protocols by their base class."""
        while data:
            with memoryview(self.get_buffer(-1)) as buffer:
                part = data[: len(buffer)]
                buffer[: len(part)] = part
            self.buffer_updated(len(part))
            data = data[len(part) :]

    @property
    def lost_by(self) -> str:
        """TLS error that has ended the connection, if any."""
        return ""


class Lender(Protocol):
    """Interface of the pool for its connections."""

    def give_back(self, connection: PooledConnection) -> None: ...
    def discard(self, connection: PooledConnection) -> None: ...
    def forget(self, connection: PooledConnection) -> None: ...
