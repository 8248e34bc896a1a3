"""What all client connections of one worker share: listeners, limits, time, the observer; and how they end together."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from math import inf
from time import time
from typing import NamedTuple, Protocol

from fastgw.config import settings as config
from fastgw.downstream.connection import Downstream
from fastgw.errors import Fault
from fastgw.exchange import Chain, Route
from fastgw.forwarded import Peer
from fastgw.node.ground import Ground
from fastgw.node.limits import AddressLimit, NodeLimit
from fastgw.node.timers import Wheel
from fastgw.observe import Observer
from fastgw.routing import Router


class Listener:
    """A compiled listener. `early`: the filters that run before a route is found."""

    def __init__(
        self, name: str, settings: config.Listener, trusts: Callable[[str], bool], early: Chain, router: Router[Route]
    ) -> None:
        self.name = name
        self.address = settings.address
        self.proxy_protocol_required = settings.proxy_protocol == "required"
        self.trusts = trusts
        self.early = early
        self.router = router


class Table(Protocol):
    """The compiled configuration, as far as the data plane asks (`compile.Gateway`)."""

    @property
    def timeouts(self) -> config.Timeouts: ...
    @property
    def limits(self) -> config.Limits: ...


class DrainSummary(NamedTuple):
    drained: int
    """Exchanges that came to their end during the drain."""
    cut: int
    """Exchanges and tunnels that did not."""


class DateLine:
    """The `Date` field of what is sent now, with its CRLF; made once a second."""

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._line = b""
        self._until = -inf

    def now(self) -> bytes:
        now = self._wheel.now
        if now >= self._until:
            clock = time()
            self._line = b"Date: %b\r\n" % formatdate(clock, usegmt=True).encode()
            self._until = now + 1 - clock % 1
        return self._line


class Server:
    """One per worker. `connections` is kept by the connections themselves."""

    def __init__(
        self,
        ground: Ground,
        table: Table,
        observer: Observer,
        connection_limit: NodeLimit,
        address_limit: AddressLimit | None,
    ) -> None:
        self.ground = ground
        self.timeouts = table.timeouts
        self.keepalive = table.timeouts.keepalive
        limits = table.limits
        self.header_bytes, self.header_count, self.body_bytes = (
            limits.header_bytes,
            limits.header_count,
            limits.body_bytes,
        )
        self.finish = observer.finish
        """Tells of an exchange that is over."""
        self.date_line = DateLine(ground.wheel).now
        self.connection_limit = connection_limit
        self.address_limit = address_limit
        self.connections: set[Downstream] = set()
        self.draining = False
        self._quiet: asyncio.Event | None = None
        self.drained = 0  # exchanges that came to their end during the drain

    def accepted(self, listener: Listener, client: tuple[str, int], server_port: int) -> Downstream:
        """The protocol for a connection just accepted. `client`: its address and port, or the one that a trusted

        PROXY protocol header gave; `("unix:", 0)` for a unix socket. `server_port`: 0 where there is none.
        """
        peer = Peer(client[0], client[1], server_port, listener.trusts(client[0]))
        return Downstream(self, listener, peer)

    def admit(self, peer: Peer) -> Fault | None:
        """Take a connection's places in the node's limits, or say which limit is reached."""
        if not self.connection_limit.try_take():
            return Fault.CONNECTIONS_EXHAUSTED
        if self.address_limit is not None and not self.address_limit.try_take(peer.ip):
            self.connection_limit.give_back()
            return Fault.TOO_MANY_CONNECTIONS
        return None

    def release(self, peer: Peer) -> None:
        self.connection_limit.give_back()
        if self.address_limit is not None:
            self.address_limit.give_back(peer.ip)

    def closed(self, connection: Downstream) -> None:
        self.connections.discard(connection)
        if self._quiet is not None and not self.connections:
            self._quiet.set()

    async def drain(self, requests_s: float, tunnels_s: float) -> DrainSummary:
        """Take nothing new on what is open, let exchanges end, tunnels too for their time; then cut what is left."""
        self.draining = True
        self._quiet = asyncio.Event()
        for connection in tuple(self.connections):
            connection.drain()
        cut = await self._wait(requests_s, tunnels=False)
        cut += await self._wait(tunnels_s - requests_s, tunnels=True)
        return DrainSummary(self.drained, cut)

    async def _wait(self, seconds: float, tunnels: bool) -> int:
        """Wait until all connections have closed; after `seconds` cut those that are (or are not) tunnels."""
        assert self._quiet is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                while self.connections:  # further ones may come from the queue as the last one goes
                    self._quiet.clear()
                    await self._quiet.wait()
        late = [c for c in tuple(self.connections) if tunnels or not c.is_tunnel]
        return sum(connection.cut() for connection in late)

    def stop(self) -> None:
        """Cut everything."""
        for connection in tuple(self.connections):
            connection.cut()
