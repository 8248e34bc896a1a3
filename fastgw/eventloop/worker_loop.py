"""Worker loop and what all connections share: the loop, the timer wheel, one read buffer, the watch for hang-ups."""

import array
import asyncio
import fcntl
import select
import socket
import ssl
import termios
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from fastgw.eventloop.socket_poller import SocketPoller
from fastgw.eventloop.socket_send import room
from fastgw.eventloop.splice_pipes import SplicePipes
from fastgw.eventloop.timer_wheel import TICK, Wheel
from fastgw.http.http1.parser import body_buffer
from fastgw.shm.held_body_budget import HeldBodyBudget

READ_BYTES: Final = 32768
"""The most that is read at once, but for bodies that come fast (`WorkerLoop.buffer_for`)."""
BODY_READ_BYTES: Final = 8 * READ_BYTES
"""The most that is read at once of a body, while so much is sure to come and its receiver has room for it."""
BODY_BYTES_PER_TURN: Final = 1048576
"""Bytes of one body that are read in a turn of the loop; then others have their turn. libuv would read 32 times,
whatever a read takes.
"""
RELAY_BYTES: Final = 32_768
"""Most bytes that are read at once from a socket for another (`downstream.tcp`)."""
FRAMING_COST: Final = 512
"""Bytes of payload that cost what one byte of framing costs: sizes and line ends of chunks, headers of TLS records.

A chunk of one byte has five of them, and costs 60 ns, or 1.5 us in plain Python; a MiB of payload costs a millisecond.
"""
READERS_PER_TURN: Final = 4
"""Connections that have had their share and read on in one turn: others wait no longer for more of them."""
# PERF: a GiB in bodies of 1 MiB takes 0.30 s, and 0.39 with reads of 32 KiB once a turn has had 2 MiB of all bodies
# (`bench upload`, CPython 3.11). Beside 8 uploads without end a request then waits 11 ms, not 5 (`wrk -c 1`, by hand).
MEDIUM_READ_BYTES: Final = 8192
"""The most that is read at once of a body in chunks that are small, or before it is known how small they are."""
SMALL_READ_BYTES: Final = 2048
"""The most that is read at once from a peer whose bytes are costly to read (`WorkerLoop.buffer_for`)."""

STALL_S: Final = 0.5
"""A turn that comes so late shows that the process has stood still: stopped, throttled, or its machine paused."""
AFTER_STALL_S: Final = 0.002
"""Then the loop polls once before deadlines are looked at. Not 0: that would be before it has polled."""


LEFT_BEHIND: Final = 524_288
"""Most bytes that a peer may have sent before it closes while it is not read, so that this is noticed: its FIN comes
behind them.
"""


def unsent(transport: asyncio.Transport) -> int:
    """Bytes written to a transport that its peer has not acknowledged. When it falls, the peer is alive."""
    queued = array.array("i", [0])
    with suppress(OSError):
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
    return transport.get_write_buffer_size() + queued[0]


class HangupListener(Protocol):
    def peer_left(self) -> None: ...


class Hangups:
    """Notices that a peer has closed while reading from it is paused, when the loop itself does not look.

    An epoll set of its own, that the loop watches as one descriptor, holds the paused sockets for EPOLLRDHUP alone.
    Most pauses are over within the same turn of the loop, so a socket enters the set only at the wheel's next tick. The
    kernel then takes `LEFT_BEHIND` bytes in, or a FIN behind a full window would not come through.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._watched: dict[int, HangupListener] = {}
        self._waiting: dict[int, HangupListener] = {}
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, connection: HangupListener) -> None:
        """Watch a descriptor: until `unwatch`, a FIN or a reset on `fd` calls `connection.peer_left()`, once."""
        self._waiting[fd] = connection

    def unwatch(self, fd: int, connection: HangupListener) -> None:
        """Does nothing when `fd` is another's by now."""
        if self._waiting.get(fd) is connection:
            del self._waiting[fd]
        elif self._watched.get(fd) is connection:
            del self._watched[fd]
            with suppress(OSError):  # closed already: then the kernel has taken it out of the set
                self._epoll.unregister(fd)
                _take_in(fd, 1)

    def tick(self) -> None:
        for fd, connection in self._waiting.items():
            self._watched[fd] = connection
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
            _take_in(fd, LEFT_BEHIND)
        self._waiting.clear()

    def _ready(self) -> None:
        for fd, _ in self._epoll.poll(0):
            connection = self._watched.get(fd)
            if connection is not None:
                connection.peer_left()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()


def _take_in(fd: int, size: int) -> None:
    """Be readable only from so many bytes on. The kernel makes room for them where it may still grow the buffer."""
    lent = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
    try:
        lent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
    finally:
        lent.detach()


class Resting(Protocol):
    """A connection that is not read from while it rests."""

    resting: bool
    read_since_rest: int
    """Cost of what was read since the last rest, in bytes of payload."""

    def end_rest(self) -> None:
        """Read on, unless there is another reason not to."""


class BodyReading(Resting, Protocol):
    """A connection that bodies are read from."""

    transport: asyncio.Transport


class Rests:
    """Queue of connections that have had their share of a turn: a turn lets `READERS_PER_TURN` of them read on.

    So what a turn does for them does not grow with their number, nor does what others wait for them. Who has cost more
    than a share waits once more for each.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """`call_soon`: the loop's."""
        self._call_soon = call_soon
        self._line: deque[Resting] = deque()
        self._turn_is_due = False

    def start_rest(self, connection: Resting, transport: asyncio.Transport) -> None:
        """Stop reading from `transport` until it is the connection's turn again: then it is told (`end_rest`)."""
        if connection.resting or transport.is_closing():
            return
        connection.resting = True
        transport.pause_reading()
        self._line.append(connection)
        if not self._turn_is_due:
            self._turn_is_due = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        line = self._line
        left = min(len(line), READERS_PER_TURN)  # none that rests again reads twice
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
                self._call_soon(self._turn)


def body_buffers(usual: memoryview) -> Sequence[memoryview]:
    """Return buffers to read bodies into, by how many times `READ_BYTES` there is room for: at least the usual.

    A buffer each, and no parts of one: what was read is not copied out of it.
    """
    return usual, usual, *map(body_buffer, range(2 * READ_BYTES, BODY_READ_BYTES + 1, READ_BYTES))


class TlsMemory:
    """Memory that all TLS connections share (`tls_transport`): what is read before it is deciphered, and what OpenSSL
    works on, which is empty between two of its calls.
    """

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.small_buffer = self.buffer[:SMALL_READ_BYTES]
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()


class WorkerLoop:
    """One per worker process, made after the fork. `start` sets the wheel turning."""

    def __init__(self, loop: asyncio.AbstractEventLoop, held_body_budget: HeldBodyBudget | None = None) -> None:
        """`held_body_budget`: of the node; None: this process is by itself."""
        self.loop = loop
        self.wheel = Wheel(loop.time())
        # Shared by all connections: the loop fills it and hands it over in one go, nothing can come between.
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        self.body_buffers = body_buffers(self.read_buffer)
        self.medium_buffer = self.read_buffer[:MEDIUM_READ_BYTES]
        self.small_buffer = self.read_buffer[:SMALL_READ_BYTES]
        self.tls_memory = TlsMemory()  # likewise
        self.hangups = Hangups(loop)
        self._sockets: SocketPoller | None = None
        self._relay_buffer: memoryview | None = None
        self.pipes = SplicePipes()
        self.held_body_budget = HeldBodyBudget.alone() if held_body_budget is None else held_body_budget
        self.rests = Rests(loop.call_soon)
        self._next: asyncio.TimerHandle | None = None
        self._stalled = False

    def buffer_for(self, chunk: bytes, payload: bytes, assured: int, goes_to: int) -> memoryview:
        """Return the buffer for the next bytes of a body, after a chunk that brought this payload.

        More than usual is read of payload that is sure to come (`BodyReader.assured`), so that nothing behind it is
        read with it, and to a socket that takes it all at once (`goes_to`; -1: elsewhere), for what it does not take is
        ours to hold. Where much is framing it is less than usual, or one read would cost more than a turn may.
        """
        framing = len(chunk) - len(payload)
        if framing * 8 > len(chunk):
            return self.small_buffer if framing * 2 > len(chunk) else self.medium_buffer
        if goes_to >= 0 and assured >= 2 * READ_BYTES and len(chunk) > READ_BYTES // 2:
            # Of the room only a part: the kernel counts what it needs besides the bytes.
            most = min(assured, room(goes_to) * 4 // 5, BODY_READ_BYTES)
            return self.body_buffers[most // READ_BYTES]
        return self.read_buffer

    def count_body(self, connection: BodyReading, payload: int, framing: int) -> None:
        """Count bytes that were read of a body, or of a tunnel: after `BODY_BYTES_PER_TURN` the connection rests.

        Each byte of framing counts as `FRAMING_COST`.
        """
        connection.read_since_rest += payload + FRAMING_COST * framing
        if connection.read_since_rest >= BODY_BYTES_PER_TURN:
            self.rests.start_rest(connection, connection.transport)

    @property
    def sockets(self) -> SocketPoller:
        """Sockets without a transport; made for the first one."""
        if self._sockets is None:
            self._sockets = SocketPoller(self.loop)
        return self._sockets

    @property
    def relay_buffer(self) -> memoryview:
        """Buffer that bytes go through from one socket to another; made for the first one."""
        if self._relay_buffer is None:
            self._relay_buffer = memoryview(bytearray(RELAY_BYTES))
        return self._relay_buffer

    def start(self) -> None:
        self._turn()

    def _turn(self) -> None:
        now = self.loop.time()
        if now - self.wheel.now > STALL_S and not self._stalled:
            # We were held up, not our peers: what they have sent meanwhile is read before anybody is called late.
            self._stalled = True
            self.wheel.now = now
            self._next = self.loop.call_later(AFTER_STALL_S, self._turn)
            return
        self._stalled = False
        self._next = self.loop.call_later(TICK, self._turn)  # first: whatever raises below, time goes on
        self.wheel.advance(now)
        self.hangups.tick()

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self.hangups.close()
        if self._sockets is not None:
            self._sockets.close()
        self.pipes.close()
