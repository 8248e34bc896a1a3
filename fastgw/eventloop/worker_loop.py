"""Worker loop: the event loop with all that connections share: timer wheel, read buffers, hang-up detection."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, Protocol, TypeVar, cast

from fastgw.eventloop.addressed_connections import AddressedConnections
from fastgw.eventloop.body_reads import READ_BYTES, SMALL_READ_BYTES, BodyReads
from fastgw.eventloop.socket_poller import SocketPoller
from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.timer_wheel import TICK, Wheel
from fastgw.shm.connection_journal import ConnectionJournal
from fastgw.shm.held_body_budget import HeldBodyBudget

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


class Holder(Protocol):
    """A connection that holds bytes of bodies."""

    def look_at_room(self) -> None:
        """Break off bodies that nobody takes if it holds more than its share, and continue reading if not."""


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
        self.reads = BodyReads(loop.call_soon)
        self.tls_memory = TlsMemory()  # shared in the same way
        self.hangups = Hangups()
        self.sockets = SocketPoller(loop)
        self._connections: AddressedConnections | None = None
        self.held_body_budget = HeldBodyBudget.single_process() if held_body_budget is None else held_body_budget
        self.journal = journal
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
