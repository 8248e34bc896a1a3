"""What client connections of both versions of HTTP share: their server and listener as they read them for each request,
their place in the node's limits, and their streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

import cython

from fastgw.downstream.http1.held_response import send_held
from fastgw.downstream.http1.response_framing import own_answer
from fastgw.errors import Fault
from fastgw.eventloop.body_reads import BodyReading
from fastgw.eventloop.idle_order import IdleOrder
from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.timer_wheel import Wheel
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Trailers, problem
from fastgw.exchange.body_relay import BodySource, Relay
from fastgw.exchange.chain import Chain
from fastgw.exchange.exchange import Exchange, begin_exchange
from fastgw.exchange.exchange_counts import ExchangeCounts
from fastgw.exchange.ready_answer import ReadyAnswer, recorded_answer
from fastgw.exchange.reply import Response
from fastgw.exchange.route import Route
from fastgw.forwarded_headers import Peer, client_address
from fastgw.http.http1 import serializer
from fastgw.http.http1.reserved_fields import OWN_FIELDS, ReservedFields
from fastgw.http.messages import RequestHead
from fastgw.observe.tracing.tracer import Tracer
from fastgw.pipeline.request_pipeline import RequestStream, cancel_waiting
from fastgw.shm.held_body_budget import HeldBodyBudget
from fastgw.shm.node_limits import AddressLimit

if TYPE_CHECKING:
    from fastgw.downstream.server import Listener, Server
    from fastgw.routing.table import Router

CLIENT, TARGET = 1, 2
"""The ends of a tunnel."""
_BOTH: Final = CLIENT | TARGET


class ServingWorker:
    """A worker's server. `finish`: reports an exchange that has ended. `date_line`: returns the current `Date` line.

    `idle`: connections by the time since which they are idle; they maintain it. `drained`: exchanges that ended
    properly while it was `draining`. `keepalive`: seconds between two requests. `tracer`: begins the traces of
    requests; None: they are not traced. `header_bytes`, `header_count`, `body_bytes`: limits of a request.
    `head_timeout`, `body_idle`, `body_rate`: `timeouts.request_headers`, `request_body_idle` and `request_body_rate`.
    """

    def __init__(self, worker_loop: WorkerLoop, date_line: Callable[[], bytes], finish: Callable[[Any], None]) -> None:
        self.worker_loop = worker_loop
        self.date_line, self.finish = date_line, finish
        self.idle: IdleOrder[Any] = IdleOrder()
        self.tracer: Tracer | None = None
        self.draining, self.drained = False, 0
        self.keepalive = 0.0
        self.header_bytes = self.header_count = 0
        self.body_bytes: float = 0
        self.head_timeout = self.body_idle = self.body_rate = 0.0


class ServingListener:
    """A listener. `early`: filters before a route is found. `reserved`: request headers that only the gateway sends.

    `closing`: the next response on each of its connections is the last one. `trusts`: whether an address is a trusted
    proxy's.
    """

    def __init__(
        self, early: Chain, reserved: ReservedFields, router: Router[Route], trusts: Callable[[str], bool]
    ) -> None:
        self.closing = False
        self.early, self.reserved, self.router, self.trusts = early, reserved, router, trusts


class ServingConnection(BodyReading):
    """A client's connection: its peer, its place in the node's limits, and the reading of its transport.

    `requests`: number of its requests so far.
    """

    # `__cinit__` of each class runs with the arguments of its own, as `__init__` does.
    def __cinit__(self, server: Server, listener: Listener, peer: Peer) -> None:  # type: ignore[override]
        self.server = server
        self.listener = listener
        self.peer = peer
        self._wheel: Wheel = server.worker_loop.wheel
        self.reads = server.worker_loop.reads
        self.buffer = self.reads.read_buffer
        self.requests = 0
        self.write_paused = False
        self._unsent = 0
        self.paused = False  # it is not read from
        # Used to evaluate `peer`. None: the client's certificate expires soon, so each request has its peer checked.
        self._trusts: Callable[[str], bool] | None = listener.trusts
        self._certificate_expired = False
        self._vouched: bytes | None = None  # over TLS: settings that verified its certificate (`ServerContexts`)
        self._address_limit: AddressLimit | None = None
        self._asks = False  # counted in the listener's `askers`

    def connection_made(self, transport: SocketTransport) -> None:
        address_limit = self.server.address_limit_for(self.listener, self.peer.ip)
        refused = self.server.admit(self.peer.ip, address_limit)
        if refused is None:
            self.attach_transport(transport, address_limit)
        else:
            self.transport = transport
            self.shed(refused)

    def shed(self, fault: Fault) -> None:
        """End a connection for which the node's limits have no room."""
        raise NotImplementedError

    def attach_transport(self, transport: SocketTransport, address_limit: AddressLimit | None) -> None:
        """Start a connection that is counted in the node's limits, including `address_limit`."""
        self.transport = transport
        self._address_limit = address_limit
        self._asks = True
        self.listener.askers += 1
        self.server.connections.add(cast(Any, self))
        self.server.idle.put_last(self)
        self.watch(self.server.timeouts.request_headers)

    def trust_as_of(self, trusts: Callable[[str], bool], vouched: bytes) -> None:
        """Set the trusted proxies as of the handshake; the tables may have changed since."""
        self._trusts, self._vouched = trusts, vouched

    def check_peer(self) -> bool:
        """Evaluate the peer again, because the trusted proxies of the configuration have changed, or because its client
        certificate expires soon, which the response announces.

        False: its client certificate is no longer valid.
        """
        listener = self.listener
        if self._certificate_expired or listener.is_outdated(self._vouched):
            return False
        if self._trusts is None:
            self.server.worker_loop.loop.call_soon(self.leave)  # when the request has begun
        else:
            self._trusts = listener.trusts
        self.peer = listener.reassess(self.peer)  # the exchange in flight continues with its peer
        return True

    def watch(self, seconds: float) -> None:
        """Set the deadline, which is so many seconds away."""
        wheel = self._wheel
        self.deadline = deadline = wheel.now + seconds
        if deadline < self.filed_at:
            wheel.file(self, deadline)

    def stop_reading(self) -> None:
        """Pause reading; a client that leaves meanwhile is noticed."""
        if not self.paused:
            self.paused = True
            self.transport.pause_reading()
            self.server.worker_loop.hangups.watch(self.transport)

    def start_reading(self) -> None:
        """Resume reading, as soon as it is the connection's turn."""
        if self.paused:
            self.paused = False
            self.server.worker_loop.hangups.unwatch(self.transport)
            if not self.resting:
                self.transport.resume_reading()

    def end_rest(self) -> None:
        if not self.paused and not self.resting and not self.transport.is_closing():
            self.transport.resume_reading()

    def tunnel_begun(self) -> None:
        """Repeat for a new tunnel what may have happened since its request was evaluated."""
        loop = self.server.worker_loop.loop
        if self.listener.is_outdated(self._vouched):
            loop.call_soon(self.end_outdated)
        if self.server.draining:
            loop.call_soon(self.drain)

    def ask_no_more(self) -> None:
        """Record that no further request comes."""
        if self._asks:
            self._asks = False
            self.listener.askers -= 1

    def leave_server(self) -> None:
        """Give back its place in the limits: the connection is closed."""
        server = self.server
        self._wheel.drop(self)
        self.ask_no_more()
        server.worker_loop.hangups.unwatch(self.transport)
        if self in server.connections:
            server.release(self.peer, self._address_limit)
            server.idle.forget(self)
            server.closed(self)

    def leave(self) -> None:
        """Prepare to close, because the listener closes."""
        raise NotImplementedError

    def drain(self) -> None:
        """Call `leave`, and end tunnels that one side has ended."""
        raise NotImplementedError

    def end_outdated(self) -> None:
        """End tunnels at once if the verification of the client certificate is outdated."""
        raise NotImplementedError


class ServingStream(RequestStream):
    """Client side of one exchange at a time. It is used again for later ones."""

    # likewise
    def __cinit__(self, connection: ServingConnection) -> None:  # type: ignore[override]
        self._connection = connection
        self.exchange: Exchange | None = None
        self.tunnel_timeout = inf
        """Seconds in which the client of a tunnel has to read some of the data sent to it."""
        self._body_bytes = inf  # maximum length
        self._asked_to_continue = True
        self._tunnel_ends = 0

    # methods for the pipeline and filters

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self._connection.server.worker_loop.loop
        return loop

    @property
    def counts(self) -> ExchangeCounts:
        return self._connection.server.counts

    @property
    def held_body_budget(self) -> HeldBodyBudget:
        return self._connection.server.worker_loop.held_body_budget

    def filter_timeout(self) -> float:
        return self._connection.server.timeouts.filters

    # request

    def begin(self, head: RequestHead) -> Exchange:
        """Return the exchange of a request, which begins."""
        connection = self._connection
        server: ServingWorker = connection.server
        listener: ServingListener = connection.listener
        peer: Peer = connection.peer
        reserved: ReservedFields = OWN_FIELDS if peer.trusted else listener.reserved
        reserved.take_out_of(head)
        exchange = begin_exchange(head, self, listener, peer, listener.early)
        self.exchange = exchange
        if server.tracer is not None:
            exchange.trace = server.tracer.begin_trace(head)
        if peer.trusted:
            exchange.client_ip = client_address(head, peer, listener.trusts)
        return exchange

    def reject(self, head: RequestHead, fault: Fault, detail: str | None) -> None:
        """Answer what must not be served; `head`: stand-in for its head."""
        connection = self._connection
        exchange = Exchange(head, self, connection.listener, connection.peer, connection.listener.early)
        self.exchange = exchange
        exchange.fail(fault, detail)

    def admits_body(self, exchange: Exchange, head: RequestHead, source: BodySource) -> bool:
        """Prepare for a body. False: it is too long, and the exchange has ended."""
        limit: float = self._connection.server.body_bytes
        exchange.request_body = Relay(source, head.body_length)
        if head.length > limit:
            exchange.reply(problem(Fault.BODY_TOO_LARGE))
            return False
        self._body_bytes = limit
        self._asked_to_continue = not head.expects_continue  # otherwise the client waits for the gateway
        return True

    # response

    def message(
        self, exchange: Exchange, response: Response, payload: bytes, length: cython.longlong, last: bytes
    ) -> bytes:
        """Serialize a response and the first bytes of its body. `length`: see `serializer.response`. `last`: header
        line about the connection.
        """
        date_line, shown = self._connection.server.date_line, exchange.id_shown
        head = response.head
        if head is None:
            return own_answer(response, payload, length, date_line, last, shown)
        status, dropped, added = response.status, response.dropped, response.added
        return serializer.response(head, status, dropped, added, payload, length, date_line, last, shown)

    def record_ready(self, exchange: Exchange, answer: ReadyAnswer) -> bytes:
        """Record a response from memory. Returns its header lines that are those of the request."""
        exchange.response = recorded_answer(answer.status, answer.head)
        exchange.cache_result = answer.cache_result
        exchange.response_bytes = answer.length
        lines = serializer.id_line(exchange.id_shown) if exchange.id_shown else b""
        return lines if exchange.trace is None else lines + exchange.trace.response_line

    def send_held(self, exchange: Exchange, response: Response, body: bytes, trailers: Trailers) -> bool:
        return send_held(exchange, response, body, trailers, self._connection.server.worker_loop)

    def record(self) -> None:
        """Finish the exchange: finish steps, counters, log."""
        server: ServingWorker = self._connection.server
        exchange = self.exchange
        assert exchange is not None
        self.exchange = None
        if self.waiting is not None:
            cancel_waiting(self)
        exchange.finish()
        if server.draining:
            server.drained += 1
        server.finish(exchange)

    # tunnels

    def feed_tunnel(self, chunk: bytes) -> None:
        """Forward bytes of the client through the tunnel."""
        exchange = self.exchange
        if exchange is not None:
            exchange.request_bytes += len(chunk)
            if exchange.service is not None:
                exchange.service.feed_raw(chunk)

    def end_raw(self) -> None:
        """Handle the end of the client's data in the tunnel."""
        exchange = self.exchange
        if exchange is not None and exchange.service is not None:
            exchange.service.end_raw()
        self.end_of_tunnel(CLIENT)

    def end_of_tunnel(self, end: cython.int) -> None:
        """Handle the end of one direction; 0: of none. The tunnel ends with both; during a drain with either."""
        self._tunnel_ends = ends = self._tunnel_ends | end
        exchange = self.exchange
        if exchange is not None and (ends == _BOTH or (ends and self._connection.server.draining)):
            if exchange.service is not None:
                exchange.service.cancel()
                exchange.service = None
            self.close_tunnel()

    def close_tunnel(self) -> None:
        """Close a tunnel that has ended."""
        raise NotImplementedError

    def drain_tunnel(self) -> None:
        """End a tunnel that one side has ended, and let another one end soon."""
        self.end_of_tunnel(0)
        exchange = self.exchange
        if exchange is not None and exchange.tunnel is not None:
            exchange.tunnel.drain()
