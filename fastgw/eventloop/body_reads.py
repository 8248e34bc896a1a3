"""Reading bodies: how much at once, and when other connections have their turn."""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import cython

from fastgw.eventloop.socket_transport import SocketTransport, StreamProtocol, room
from fastgw.http.http1.parser import body_buffer

READ_BYTES: Final = 32768
"""Maximum bytes per read, except for fast bodies (`BodyReads.buffer_for`)."""
BODY_READ_BYTES: Final = 8 * READ_BYTES
"""Maximum bytes per read of a body, if at least as many will follow and the receiver has room for them."""
BODY_BYTES_PER_TURN: Final = 1048576
"""Bytes of one body that are read per turn of the loop; then other connections are served. libuv would read 32 times,
whatever the size of a read.
"""
FRAMING_COST: Final = 512
"""Bytes of payload that cost as much as one byte of framing: chunk sizes and line ends, headers of TLS records.

A chunk of one byte has five of them, and costs 60 ns, or 1.5 us in plain Python; a MiB of payload costs a millisecond.
"""
READERS_PER_TURN: Final = 4
"""Connections that have used up their turn and are read again in one turn of the loop: a bound on the wait of
others.
"""
# PERF: a GiB in bodies of 1 MiB takes 0.30 s, 0.39 if reads are limited to 32 KiB after 2 MiB of all bodies per turn
# (`bench upload`, CPython 3.11). The cost: during 8 endless uploads a request waits 11 ms, not 5 (`wrk -c 1`, by hand).
MEDIUM_READ_BYTES: Final = 8192
"""Maximum bytes per read of a body with small chunks, or before their size is known."""
SMALL_READ_BYTES: Final = 2048
"""Maximum bytes per read from a peer whose bytes are expensive to process (`BodyReads.buffer_for`)."""
# The same, as numbers of C
_READ_BYTES, _BODY_READ_BYTES, _PER_TURN, _FRAMING_COST = READ_BYTES, BODY_READ_BYTES, BODY_BYTES_PER_TURN, FRAMING_COST


class Resting(Protocol):
    """A connection that is not read from while it rests."""

    resting: bool
    read_since_rest: int
    """Cost of the data read since the last rest, in bytes of payload."""

    def end_rest(self) -> None:
        """Continue reading, unless there is another reason not to."""


class Rests:
    """Queue of connections that have used up their turn: each turn, `READERS_PER_TURN` of them continue reading.

    So the cost of a turn, and the wait of other connections, do not grow with their number. A connection that has cost
    several turns waits once for each.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Create the queue. `call_soon`: of the loop."""
        self._call_soon = call_soon
        self._line: deque[Resting] = deque()
        self._turn_is_due = False

    def start_rest(self, connection: Resting, transport: SocketTransport) -> None:
        """Pause reading from `transport` until it is the connection's turn again: then `end_rest` is called."""
        if connection.resting or transport.is_closing():
            return
        transport.pause_reading()
        self.wait_for_turn(connection)

    def wait_for_turn(self, connection: Resting) -> None:
        """Call `end_rest` when it is the turn of the connection, which keeps the data that it has read already."""
        connection.resting = True
        self._line.append(connection)
        if not self._turn_is_due:
            self._turn_is_due = True
            self._call_soon(self._read_resting)

    def _read_resting(self) -> None:
        line = self._line
        left = min(len(line), READERS_PER_TURN)  # a connection that pauses again is not read twice
        try:
            while left:
                left -= 1
                connection = line.popleft()
                connection.read_since_rest -= BODY_BYTES_PER_TURN
                if connection.read_since_rest >= BODY_BYTES_PER_TURN:
                    line.append(connection)
                else:
                    connection.resting = False
                    connection.end_rest()
        finally:
            self._turn_is_due = bool(line)
            if line:
                self._call_soon(self._read_resting)


@cython.cclass
class BodyReading(StreamProtocol):
    """A connection that reads bodies or for a tunnel. `reads`: of its loop. `transport`: set before anything else is
    called. `resting`, `read_since_rest`: see `Resting`.
    """

    reads: "BodyReads"
    transport: SocketTransport
    resting: bool
    read_since_rest: int

    def end_rest(self) -> None:
        """Continue reading, unless there is another reason not to."""
        raise NotImplementedError


@cython.cclass
class BodyReads:
    """Buffers of a loop, which all its connections share: the loop fills one and passes it on at once. `rests`: see
    `Rests`.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """`call_soon`: of the loop."""
        self.rests = Rests(call_soon)
        self._wide_buffer = memoryview(bytearray(2 * READ_BYTES))
        self.read_buffer = self._wide_buffer[:READ_BYTES]
        self.medium_buffer = self.read_buffer[:MEDIUM_READ_BYTES]
        self._small_buffer = self.read_buffer[:SMALL_READ_BYTES]
        # By the number of times that `READ_BYTES` fit. Separate buffers instead of slices of one, so that received data
        # is not copied.
        larger = [body_buffer(size) for size in range(2 * READ_BYTES, BODY_READ_BYTES + 1, READ_BYTES)]
        self._body_buffers: list[memoryview] = [self.read_buffer, self.read_buffer, *larger]

    def buffer_for(self, chunk: bytes, payload: bytes, assured: cython.longlong, goes_to: cython.int) -> memoryview:
        """Return the buffer for the next bytes of a body, after a chunk with this payload.

        It is larger for payload that is sure to follow (`assured`, as of `BodyReader.bytes_assured`), so that no bytes
        after it are read, if it goes to a socket that accepts all of it at once (`goes_to`; -1: elsewhere), because the
        rest would be buffered here. It is smaller if much is framing, because one read could cost more than a turn may.
        """
        framing: cython.Py_ssize_t = len(chunk) - len(payload)
        if framing * 8 > len(chunk):
            return self._small_buffer if framing * 2 > len(chunk) else self.medium_buffer
        if goes_to >= 0 and assured > _READ_BYTES and len(chunk) > _READ_BYTES // 2:
            # Only a part of the free space: the kernel also counts its own overhead.
            most: cython.longlong = min(assured, room(goes_to) * 4 // 5, _BODY_READ_BYTES)
            if most >= 2 * _READ_BYTES:
                return self._body_buffers[int(most // _READ_BYTES)]
            if most > _READ_BYTES:  # PERF: bodies of 64 KiB take two reads instead of three (bench post)
                return self._wide_buffer[: int(most)]
        return self.read_buffer

    def count(self, connection: BodyReading, payload: cython.Py_ssize_t, framing: cython.Py_ssize_t) -> None:
        """Count bytes read of a body or tunnel; after `BODY_BYTES_PER_TURN` the connection rests.

        Each byte of framing counts as `FRAMING_COST`.
        """
        connection.read_since_rest += payload + _FRAMING_COST * framing
        if connection.read_since_rest >= _PER_TURN:
            self.rests.start_rest(connection, connection.transport)
