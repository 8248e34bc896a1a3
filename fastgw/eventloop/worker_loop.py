"""Worker loop: the event loop with all that connections share: timer wheel, read buffers, hang-up detection."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar, cast

from fastgw.eventloop.addressed_connections import AddressedConnections
from fastgw.eventloop.socket_poller import SocketPoller
from fastgw.eventloop.socket_transport import SocketTransport, room
from fastgw.eventloop.timer_wheel import TICK, Wheel
from fastgw.http.http1.parser import body_buffer
from fastgw.shm.connection_journal import ConnectionJournal
from fastgw.shm.held_body_budget import HeldBodyBudget

READ_BYTES: Final = 32768
"""Maximum bytes per read, except for fast bodies (`WorkerLoop.buffer_for`)."""
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
"""Maximum bytes per read from a peer whose bytes are expensive to process (`WorkerLoop.buffer_for`)."""

STALL_S: Final = 0.5
"""Delay of a turn, in seconds, that means the process was suspended: stopped, throttled, or its machine paused."""
AFTER_STALL_S: Final = 0.002
"""Delay in seconds after a suspension: the loop polls once before deadlines are checked. With 0 it would not have
polled.
"""


class Hangups:
    """Connections that are not read from, and whose peers may leave meanwhile (`SocketTransport.await_hangup`).

    Most pauses end within the same turn of the loop, so a connection is watched only from the wheel's next tick.
    """

    def __init__(self) -> None:
        self._waiting: set[SocketTransport] = set()

    def watch(self, transport: SocketTransport) -> None:
        """Call `peer_left` of its protocol once on an end or reset, until `unwatch`."""
        self._waiting.add(transport)

    def unwatch(self, transport: SocketTransport) -> None:
        self._waiting.discard(transport)
        transport.ignore_hangup()

    def tick(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for transport in waiting:
            transport.await_hangup()


class Resting(Protocol):
    """A connection that is not read from while it rests."""

    resting: bool
    read_since_rest: int
    """Cost of the data read since the last rest, in bytes of payload."""

    def end_rest(self) -> None:
        """Continue reading, unless there is another reason not to."""


class BodyReading(Resting, Protocol):
    """A connection that reads bodies."""

    transport: SocketTransport


class Holder(Protocol):
    """A connection that holds bytes of bodies."""

    def look_at_room(self) -> None:
        """Break off bodies that nobody takes if it holds more than its share, and continue reading if not."""


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


def body_buffers(usual: memoryview) -> Sequence[memoryview]:
    """Return the buffers for bodies, by the number of times that `READ_BYTES` fit: at least the usual one.

    Separate buffers instead of slices of one, so that received data is not copied.
    """
    return usual, usual, *map(body_buffer, range(2 * READ_BYTES, BODY_READ_BYTES + 1, READ_BYTES))


class TlsMemory:
    """Memory shared by all TLS connections (`tls_transport`): the read buffer for encrypted data, and OpenSSL's memory
    BIOs, which are empty between calls.
    """

    __slots__ = ("buffer", "incoming", "outgoing", "small_buffer")

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.small_buffer = self.buffer[:SMALL_READ_BYTES]
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


class WorkerLoop:
    """Loop of a worker process, created after the fork. `start` starts the timer wheel."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        held_body_budget: HeldBodyBudget | None = None,
        journal: ConnectionJournal | None = None,
    ) -> None:
        """Create the loop. `held_body_budget`: of the node; None: there are no other processes. `journal`: of this
        process; None: no other one would read it.
        """
        self.loop = loop
        self.wheel = Wheel(loop.time())
        # Shared by all connections: the loop fills the buffer and passes it on at once.
        self.wide_buffer = memoryview(bytearray(2 * READ_BYTES))
        self.read_buffer = self.wide_buffer[:READ_BYTES]
        self.body_buffers = body_buffers(self.read_buffer)
        self.medium_buffer = self.read_buffer[:MEDIUM_READ_BYTES]
        self.small_buffer = self.read_buffer[:SMALL_READ_BYTES]
        self.tls_memory = TlsMemory()  # shared in the same way
        self.hangups = Hangups()
        self.sockets = SocketPoller(loop)
        self._connections: AddressedConnections | None = None
        self.held_body_budget = HeldBodyBudget.single_process() if held_body_budget is None else held_body_budget
        self.journal = journal
        self.rests = Rests(loop.call_soon)
        self.crowded: set[Holder] = set()
        """Connections that are not read from because the process holds too many bytes of bodies."""
        self.holders: set[Holder] = set()
        """Connections with bodies whose receivers take nothing; also some that had such."""
        self.make_room: Callable[[], bool] = lambda: False
        """Closes idle connections to upstreams, because the process has no descriptors left. False: there are none. The
        descriptors are free in one of the next turns of the loop.
        """
        self._attached: dict[Callable[[WorkerLoop], _Closable], _Closable] = {}
        self._next: asyncio.TimerHandle | None = None
        self._stalled = False

    def buffer_for(self, chunk: bytes, payload: bytes, assured: int, goes_to: int) -> memoryview:
        """Return the buffer for the next bytes of a body, after a chunk with this payload.

        It is larger for payload that is sure to follow (`assured`, as of `BodyReader.bytes_assured`), so that no bytes
        after it are read, if it goes to a socket that accepts all of it at once (`goes_to`; -1: elsewhere), because the
        rest would be buffered here. It is smaller if much is framing, because one read could cost more than a turn may.
        """
        framing = len(chunk) - len(payload)
        if framing * 8 > len(chunk):
            return self.small_buffer if framing * 2 > len(chunk) else self.medium_buffer
        if goes_to >= 0 and assured > READ_BYTES and len(chunk) > READ_BYTES // 2:
            # Only a part of the free space: the kernel also counts its own overhead.
            most = min(assured, room(goes_to) * 4 // 5, BODY_READ_BYTES)
            if most >= 2 * READ_BYTES:
                return self.body_buffers[most // READ_BYTES]
            if most > READ_BYTES:  # PERF: bodies of 64 KiB take two reads instead of three (bench post)
                return self.wide_buffer[:most]
        return self.read_buffer

    def count_body(self, connection: BodyReading, payload: int, framing: int) -> None:
        """Count bytes read of a body or tunnel; after `BODY_BYTES_PER_TURN` the connection rests.

        Each byte of framing counts as `FRAMING_COST`.
        """
        connection.read_since_rest += payload + FRAMING_COST * framing
        if connection.read_since_rest >= BODY_BYTES_PER_TURN:
            self.rests.start_rest(connection, connection.transport)

    @property
    def connections(self) -> AddressedConnections:
        """Connections that other processes can reach; created on first use."""
        if self._connections is None:
            self._connections = AddressedConnections(self.loop)
        return self._connections

    def attached(self, make: Callable[["WorkerLoop"], C]) -> C:
        """Return what `make` has made for this loop: called on first use. It is closed with the loop."""
        held = self._attached.get(make)
        if held is None:
            held = self._attached[make] = make(self)
        return cast(C, held)

    def start(self) -> None:
        self._advance_timers()

    def _advance_timers(self) -> None:
        now = self.loop.time()
        if now - self.wheel.now > STALL_S and not self._stalled:
            # This process was suspended, not the peers: data that they have sent meanwhile is read before timeouts are
            # checked.
            self._stalled = True
            self.wheel.now = now
            self._next = self.loop.call_later(AFTER_STALL_S, self._advance_timers)
            return
        self._stalled = False
        # First, so that the timer continues after an exception.
        self._next = self.loop.call_later(TICK, self._advance_timers)
        self.wheel.advance(now)
        self.hangups.tick()
        self.look_at_crowded()

    def look_at_crowded(self) -> None:
        """Let connections that are not read from, as the process holds too much, continue if it holds less by now.

        Those that hold most may have nothing to read: their clients have sent all that their windows admit.
        """
        if self.crowded:
            for connection in self.crowded | self.holders:
                connection.look_at_room()

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
        for held in self._attached.values():
            held.close()
        self.sockets.close()
        if self._connections is not None:
            self._connections.close()
