"""End of a client connection of HTTP/1: after its last response, because either side leaves, or in a drain.

Rule: a connection ends once; what is in flight is recorded before.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from fastgw.downstream.http1.states import (
    ACTIVE,
    CLOSE,
    CLOSED,
    CLOSING,
    FLUSHING,
    HEAD,
    IDLE,
    LAST_RESPONSE,
    LINGERING,
    LOST,
    TUNNEL,
    ClientPhase,
)
from fastgw.downstream.http1.stream import Http1Stream, StreamedConnection
from fastgw.errors import Fault
from fastgw.eventloop.socket_transport import unread_in_kernel
from fastgw.exchange import Exchange
from fastgw.exchange.states import ANSWERING
from fastgw.forwarded_headers import Peer
from fastgw.shm.node_limits import AddressLimit

if TYPE_CHECKING:
    from fastgw.downstream.server import Listener, Server

LINGER_IDLE_S: Final = 5.0
LINGER_TOTAL_S: Final = 30.0
"""Lingering close: seconds for which data from the client is read and dropped after a response that ended the
connection early.

Closing at once would reset the connection, and the client might lose the response (RFC 9112 section 9.6).
"""
LAST_REQUEST_S: Final = 1.0
"""Seconds for which a drain waits for one more request on an idle connection: it may be in transit, and would otherwise
be lost.
"""


class EndingConnection(StreamedConnection):
    """Base of `Http1ClientConnection`, with the attributes that its end depends on."""

    def __init__(self, server: Server, listener: Listener, peer: Peer) -> None:
        StreamedConnection.__init__(self, server)
        self.listener = listener
        self.peer = peer
        self.phase: ClientPhase = IDLE
        self._stream: Http1Stream | None = None  # created for the first request
        self._ahead = b""  # received bytes of the next requests, or read ahead; empty once they are processed
        self._at = 0  # offset of the next request in it
        # Used to evaluate `peer`. None: the client's certificate expires soon, so each request has its peer checked.
        self._trusts: Callable[[str], bool] | None = listener.trusts
        self._certificate_expired = False
        self._vouched: bytes | None = None  # over TLS: settings that verified its certificate (`ServerContexts`)
        self._address_limit: AddressLimit | None = None
        self._asks = False  # counted in the listener's `askers`
        self._linger_end = inf

    @property
    def exchange(self) -> Exchange | None:
        """The exchange in flight."""
        return None if self._stream is None else self._stream.exchange

    @property
    def stream(self) -> Http1Stream:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError

    # the client's direction

    def _follow_end(self) -> bool:
        """Go on behind the end of the client's direction: requests that were received whole are served, the last one
        with the last response. False: none is left.
        """
        if self.phase is ACTIVE and self._stream is not None and self._stream.reader is not None:
            self._leave_unserved()  # its body stays incomplete
        elif self.phase is ACTIVE and not self._ahead:
            self.closing = True
        elif not self._ahead and (self.phase is FLUSHING or self.phase is IDLE):
            self.close()
        return self.phase is not HEAD and self.phase is not CLOSED

    def peer_left(self) -> None:
        """Handle the end of the client's direction while reading is paused (`Hangups`)."""
        if not self.listener.serves_half_closed:  # otherwise it is met where reading resumes, behind all that was sent
            self._leave_unserved()

    def _leave_unserved(self) -> None:
        """Handle a client that has closed its side while it waits for a response: there is no receiver for it (as in
        nginx).

        A response that was already handed over is still sent; further requests of the client are dropped.
        """
        if self.phase is ACTIVE:
            self._break_off(Fault.CLIENT_LEFT)
            self.abort()
        elif self.phase is FLUSHING:
            self.close()

    # the last response

    def _end(self, unread: bool) -> None:
        """Handle the end of the last response. `unread`: its request has not ended."""
        if unread or self._ahead:
            self._linger()
        else:
            self.close()

    def _break_off(self, fault: Fault) -> None:
        exchange = self.exchange
        assert exchange is not None
        exchange.cancel(fault)
        self.record()

    def record(self) -> None:
        stream: Http1Stream | None = self._stream
        assert stream is not None
        exchange = stream.exchange
        assert exchange is not None
        if stream.reader is not None:
            self.buffer = self.reads.read_buffer
        stream.exchange_ended()
        exchange.finish()
        if self.server.draining:
            self.server.drained += 1
        self.server.finish(exchange)

    def _linger(self) -> None:
        self.phase = LAST_RESPONSE[self.phase]
        self._ahead, self._at = b"", 0
        self.server.idle.put_last(self)
        if not self.write_paused:  # otherwise the client's write timeout applies
            self._watch_rest()
        self.transport.write_eof()
        if self.paused:
            self.resume()

    def _watch_rest(self) -> None:
        """Start the timeout for the rest of the request, after the response was sent."""
        self._linger_end = self._wheel.now + LINGER_TOTAL_S
        self.watch(LINGER_IDLE_S)

    def close(self) -> None:
        """Close after all data was sent, within the write timeout of the client."""
        if self.phase < CLOSING:
            self.phase = CLOSE[self.phase]
            self.watch(self.server.timeouts.response_idle)
            self.transport.close()

    def close_idle(self) -> bool:
        """Close at once, to make room for another connection (`Idler`). Idle is what waits for a request or for the
        rest of its head, or drops what follows the last response.
        """
        phase = self.phase
        if phase is IDLE or phase is HEAD:
            if (phase is IDLE and self._ahead) or unread_in_kernel(self.transport.fd):  # a request, perhaps
                return False
        elif phase is not LINGERING:
            return False
        self._forget()
        if self.write_paused:
            self.transport.abort()
        else:
            self.transport.close()
        return True

    def abort(self) -> None:
        self._forget()
        self.transport.abort()

    def _forget(self) -> None:
        if self.phase is not CLOSED:
            self.phase = LOST[self.phase]
            self._wheel.drop(self)
            self._ahead, self._at = b"", 0
            self._stream = None  # avoids a reference cycle
            self._ask_no_more()
            self.server.worker_loop.hangups.unwatch(self.transport)
            if self in self.server.connections:
                self.server.release(self.peer, self._address_limit)
                self.server.idle.forget(self)
                self.server.closed(self)

    def _ask_no_more(self) -> None:
        if self._asks:
            self._asks = False
            self.listener.askers -= 1

    def watch(self, seconds: float) -> None:
        wheel = self._wheel
        self.deadline = deadline = wheel.now + seconds
        if deadline < self.filed_at:
            wheel.file(self, deadline)

    # drain

    def leave(self) -> None:
        """Prepare to close, because the listener closes: the next response whose head is not sent yet is the last
        one.
        """
        exchange = self.exchange
        if exchange is not None and exchange.state < ANSWERING:
            self.closing = True
        if self.phase is IDLE:
            self.watch(LAST_REQUEST_S)

    def certificate_expires_soon(self) -> None:
        """Announce the end with each following response, because the client's certificate expires soon."""
        self._trusts = None
        self.leave()

    def certificate_expired(self) -> None:
        """Accept no further request, because the client's certificate has expired. A tunnel has none, and continues."""
        self._certificate_expired = True
        self.certificate_expires_soon()

    def end_outdated(self) -> None:
        """End a tunnel at once if the verification of its client certificate is outdated: it will send no further
        request."""
        if self.phase is TUNNEL and self.listener.is_outdated(self._vouched):
            if self.exchange is not None:
                self._break_off(Fault.CONNECTION_OUTDATED)
            self.abort()

    def drain(self) -> None:
        """Call `leave`, and end a tunnel that one side has ended."""
        self.leave()
        if self.phase is TUNNEL:
            self.stream.end_of_tunnel()
            exchange = self.stream.exchange
            if exchange is not None and exchange.tunnel is not None:
                exchange.tunnel.drain()

    def cut_requests(self) -> bool:
        """Call `cut`, except for a tunnel, which continues."""
        return self.phase is not TUNNEL and self.cut()

    def cut_tunnels(self) -> bool:
        """Call `cut` for a tunnel."""
        return self.phase is TUNNEL and self.cut()

    def cut(self) -> bool:
        """Abort at once, with a 503 if no response has begun. True: an exchange or tunnel was aborted."""
        exchange = self.exchange
        self.closing = True
        if exchange is not None and exchange.state < ANSWERING:
            exchange.fail(Fault.GATEWAY_STOPPED)
        elif exchange is not None:
            self._break_off(Fault.GATEWAY_STOPPED)
        self.abort()
        return exchange is not None
