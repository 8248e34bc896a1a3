"""One client connection: requests arrive one after the other, and responses are sent in the same order.

It handles the bytes and timeouts of HTTP/1; the parser checks requests, and the exchange handles them. Rule 1: a phase
changes together with its deadline. Rule 2: at most one exchange is in flight; pipelined bytes wait in `_ahead` from
`_at` on, up to 64 KiB, and reading continues so that a disconnect is detected. Rule 3: the bytes of a body are buffered
in its relay or in the transport, never in both. Rule 4: a connection ends once; what is in flight is recorded before.
"""

from __future__ import annotations

import logging
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

import cython

from fastgw.downstream.http1.defect_response import answer_defect
from fastgw.downstream.http1.rejected_head import rejected_head
from fastgw.downstream.http1.states import (
    ACTIVE,
    CLOSE,
    CLOSED,
    CLOSING,
    FLUSHING,
    HEAD,
    HEAD_BEGUN,
    IDLE,
    LAST_RESPONSE,
    LINGERING,
    LOST,
    NEXT,
    REQUEST,
    RESPONSE_WAITS,
    SWITCHED,
    TUNNEL,
    ClientPhase,
)
from fastgw.downstream.http1.stream import Http1Stream, StreamedConnection
from fastgw.errors import Fault, fault_of
from fastgw.eventloop.body_reads import MEDIUM_READ_BYTES, READ_BYTES
from fastgw.eventloop.idle_order import put_last
from fastgw.eventloop.socket_transport import unread_in_kernel
from fastgw.exchange import Relay
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.states import ANSWERING, ENDED
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.body import BodyReader
from fastgw.http.http1.parser import find_head_end, leading_bytes, parse_request, take_begun, take_request
from fastgw.http.http2.session import PREFACE
from fastgw.http.malformed import Malformed
from fastgw.http.messages import RequestHead
from fastgw.http.percent_encoding import encode_utf8_target
from fastgw.net.first_bytes import HTTP, spoken_protocol
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.pipeline.request_pipeline import begin_request
from fastgw.pipeline.route_selection import too_long

if TYPE_CHECKING:
    from fastgw.downstream.server import Listener, Server

log = logging.getLogger("fastgw.downstream")

AHEAD_ENOUGH: Final = READ_BYTES // 2
"""Number of pipelined bytes at which reading pauses, until fewer are left.

One more read may be in progress, and with TLS a part of a record: at most 64 KiB are read ahead per client.
"""
REQUESTS_PER_TURN: Final = 16
"""Maximum number of pipelined requests that are answered in one iteration of the event loop: 1,200 fit into one read,
and take 150 ms.
"""
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
PREFACE_HEAD: Final = PREFACE[:18]
"""First bytes of the HTTP/2 preface that look like a request."""
_CLOSE: Final = b"Connection: close\r\n"
_EMPTY_LINE: Final = b"\r\n"
_CR: Final = 13
TOKEN_START: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class Http1ClientConnection(StreamedConnection):
    def __init__(self, server: Server, listener: Listener, peer: Peer) -> None:
        self.phase: ClientPhase = IDLE
        self._stream: Http1Stream | None = None  # created for the first request
        self._ahead = b""  # received bytes of the next requests, or read ahead; empty once they are processed
        self._at = 0  # offset of the next request in it
        self._searched = 0
        self._head_begun_at = 0.0  # when the first bytes of an incomplete head came, in `HEAD`
        self._ended = False  # the client has ended its direction, and what it has sent whole is served
        self._starting = False
        self._linger_end = inf

    def __repr__(self) -> str:
        return f"<Http1ClientConnection {self.peer.ip} {self.phase.name} requests={self.requests} {self.exchange!r}>"

    @property
    def is_tunnel(self) -> bool:
        return self.phase is TUNNEL

    @property
    def exchange(self) -> Exchange | None:
        """The exchange in flight."""
        return None if self._stream is None else self._stream.exchange

    @property
    def stream(self) -> Http1Stream:
        """Client side of the exchange in flight, or of the next one."""
        stream = self._stream
        if stream is None:
            stream = self._stream = Http1Stream(self)
        return stream

    # calls of the event loop

    def shed(self, fault: Fault) -> None:
        self._refuse_unread(fault, linger=False)  # load shedding: no lingering

    def buffer_updated(self, nbytes: cython.Py_ssize_t) -> None:
        phase = self.phase
        if phase is IDLE:
            server = self.server
            request = take_request(self.buffer, nbytes, server.header_bytes, server.header_count)
            if isinstance(request, bytes):
                self._ahead = request
                self._read_requests()
            else:
                if request.length:
                    self._ahead = take_begun(request) or b""
                self._serve(request)
            return
        chunk = leading_bytes(self.buffer, nbytes)
        if phase is HEAD:
            self._ahead += chunk
            self._read_requests()
        elif phase is ACTIVE or phase is FLUSHING:
            stream = self._stream
            if stream is not None and stream.reader is not None:
                self._read_body(stream, chunk)
            else:
                self._ahead = self._ahead[self._at :] + chunk
                self._at = 0
                if self._has_enough():
                    self.pause()
        elif phase is TUNNEL:
            self.stream.feed_tunnel(chunk)
            self.reads.count(self, nbytes, 0)
        elif phase is LINGERING:
            if not self.write_paused:
                self.deadline = min(self._linger_end, self._wheel.now + LINGER_IDLE_S)
            self.reads.count(self, nbytes, 0)

    def eof_received(self) -> bool:
        if self.phase is TUNNEL:
            self.stream.end_raw()
            return self.phase is TUNNEL
        if self.listener.serves_half_closed:
            self._ended = True
            return self._follow_end()
        self._leave_unserved()
        return self.phase is CLOSING

    def connection_lost(self, exc: Exception | None) -> None:
        if self.exchange is not None:
            self._break_off(Fault.CLIENT_LEFT)
        self._forget()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unsent = self.transport.unsent()
        self.watch(self._write_timeout())
        exchange = self.exchange
        if exchange is not None and exchange.service is not None:
            exchange.service.pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.phase is FLUSHING:
            self._next()
        elif self.phase is ACTIVE or self.phase is TUNNEL:
            self._watch_body()
            exchange = self.exchange
            if exchange is not None and exchange.service is not None:
                exchange.service.resume()
        elif self.phase is LINGERING:
            self._watch_rest()

    def expire(self, now: float) -> None:
        phase = self.phase
        if phase is HEAD:
            self._refuse_unread(Fault.REQUEST_TIMEOUT, None, self._ahead)
        elif phase is ACTIVE and not self.write_paused:
            exchange = self.exchange
            assert exchange is not None
            # From the response on, the upstream's timeout applies: nothing waits for the rest of the request.
            if exchange.response is None:
                exchange.fail(Fault.REQUEST_TIMEOUT)
        elif phase is IDLE:
            self.close()
        elif self.write_paused and (left := self.transport.unsent()) < self._unsent:
            self._unsent = left
            self.watch(self._write_timeout())
        else:  # the client does not read its response, or does not close
            if self.exchange is not None:
                self._break_off(Fault.CLIENT_STALLED)
            self.abort()

    def _write_timeout(self) -> float:
        """Seconds in which the client has to read some of the data sent to it."""
        return self.stream.tunnel_timeout if self.phase is TUNNEL else self.server.timeouts.response_idle

    # requests

    def _read_requests(self) -> None:
        """Serve received requests while they are answered at once, up to the maximum per loop iteration."""
        server = self.server
        left = REQUESTS_PER_TURN
        while not self.resting:  # otherwise `end_rest` continues
            ahead, at = self._ahead, self._at
            while ahead[at] == _CR and ahead.startswith(_EMPTY_LINE, at) and len(ahead) > at + 2:
                self._at = at = at + 2  # empty lines are ignored (RFC 9112 section 2.2): old clients end bodies by one
            try:
                end = find_head_end(ahead, self._searched, at)
                if not at < end <= at + server.header_bytes:
                    return self._wait_for_more(end)
                head = self._parsed(ahead[at:end])
            except Malformed as malformed:
                if not self.requests and self.listener.speaks_http2 and ahead.startswith(PREFACE_HEAD):
                    return self._speak_http2(ahead)
                return self._refuse_malformed(fault_of(malformed), malformed.reason, ahead[at:])
            self._searched = 0
            if self.phase is HEAD:
                head.received_s = monotonic() - self._head_begun_at
            self._take_up_to(end)
            self._starting = True
            self._serve(head)
            self._starting = False
            if self._ended:
                self._follow_end()
            if self.phase is not IDLE or not self._ahead:
                return None
            left -= 1
            if not left:
                self.pause()
                server.worker_loop.loop.call_soon(self._resume_requests)
                return None
        return None

    def _parsed(self, raw: bytes) -> RequestHead:
        """Parse one head. Raises `Malformed`."""
        most = self.server.header_count
        try:
            return parse_request(raw, most)
        except Malformed:
            if not self.listener.tolerates_utf8_targets or (encoded := encode_utf8_target(raw)) == raw:
                raise
            return parse_request(encoded, most)

    def _speak_http2(self, received: bytes) -> None:
        """Handle the HTTP/2 preface of a client: pass the connection on, with its permits of the limits."""
        server, transport = self.server, self.transport
        self.phase = LOST[self.phase]
        self._wheel.drop(self)
        self.ask_no_more()
        server.connections.discard(self)
        server.idle.forget(self)
        server.speak_http2(self.listener, self.peer, transport, self._address_limit, received)

    def _take_up_to(self, end: cython.Py_ssize_t) -> None:
        """Remove the pipelined bytes up to `end`: they were passed on."""
        if end < len(self._ahead):
            self._at = end
        else:
            self._ahead, self._at = b"", 0

    def _has_enough(self) -> bool:
        """Whether enough pipelined bytes are buffered to pause reading. The rest of a body does not count."""
        stream = self._stream
        return (stream is None or stream.reader is None) and len(self._ahead) - self._at >= AHEAD_ENOUGH

    def _wait_for_more(self, end: int) -> None:
        """Wait for the rest of the head, unless it is too long already; `end`: end of the head, or -1."""
        if self._ended:  # the rest will not come
            self.close()
            return None
        most = self.server.header_bytes
        received = self._ahead[self._at :]
        begins = received.removeprefix(_EMPTY_LINE) if self.phase is IDLE else received
        if not begins:  # an empty line that belongs to nothing yet
            self._ahead, self._at = b"", 0
            self._read_on()
            return None
        if received[0] not in TOKEN_START and not _EMPTY_LINE.startswith(received):
            return self._refuse_malformed(Fault.BAD_REQUEST, "This is not an HTTP request.", received)
        if end > 0 or len(received) > most:
            return self._refuse_unread(too_long(received, most), None, received)
        self._ahead, self._at, self._searched = received, 0, len(received)
        self._read_on()
        if self.phase is IDLE:
            self.phase = HEAD_BEGUN[self.phase]
            self._head_begun_at = monotonic()
            put_last(self.server.idle, self)
            if self.requests:  # the time of the first head runs from the connect
                self.watch(self.server.timeouts.request_headers)
        return None

    def _resume_requests(self) -> None:
        """Continue with pipelined requests, after other connections were served."""
        if self.phase is IDLE and self._ahead:
            self._read_on()  # also to detect a disconnect
            self._read_requests()
            if self.phase is not HEAD and self._has_enough():
                self.pause()

    def _serve(self, head: RequestHead) -> None:
        """Begin an exchange. `_ahead` contains the bytes after its head: its body or the next request."""
        try:
            self._begin_request(head)
        except Exception:  # the edge of a request without an exchange
            self._fail_unbegun(head)

    def _begin_request(self, head: RequestHead) -> None:
        listener = self.listener
        if self._trusts is not listener.trusts and not self.check_peer():
            self._refuse_unread(Fault.CONNECTION_OUTDATED, None, head.raw)
            return
        self.phase = REQUEST[self.phase]
        self.closing = listener.closing or head.close
        stream: Http1Stream = self._stream or self.stream
        exchange: Exchange = stream.begin(head)
        try:
            received: bytes | None = b""  # the last piece of the body so far
            if head.length or not head.ordinary:
                received = stream.expect_body(exchange, head)
                if received is None:
                    return  # refused
            else:
                self.deadline = inf
            begin_request(stream, exchange, listener.router)
            reader: BodyReader | None = stream.reader
            if reader is not None and received and not self.paused and (assured := reader.bytes_assured()):
                self.buffer = self.reads.buffer_for(received, received, assured, stream.body_goes_to)
        except Exception:  # the edge of this exchange
            self.fail_exchange(exchange)

    def end_rest(self) -> None:
        stream = self._stream
        reader = None if stream is None else stream.reader
        if stream is not None and reader is not None and self._ahead:
            exchange = stream.exchange
            assert exchange is not None
            try:
                stream.read_body_ahead(reader)
            except Exception:  # the edge of this exchange
                self.fail_exchange(exchange)
            if stream.reader is None and stream.exchange is exchange:  # the body has ended; further bytes may follow
                self._read_further_requests()
        else:
            self._resume_requests()
        StreamedConnection.end_rest(self)

    def _read_body(self, stream: Http1Stream, chunk: bytes) -> None:
        exchange = stream.exchange
        assert exchange is not None
        try:
            stream.read_body(chunk)
        except Exception:  # the edge of this exchange
            self.fail_exchange(exchange)

    # defects of the gateway

    def _fail_unbegun(self, head: RequestHead) -> None:
        """End a request without an exchange after a defect: answer 500."""
        exchange = self.exchange
        if exchange is None and self.phase is ACTIVE:
            exchange = Exchange(head, self.stream, self.listener, self.peer, self.listener.early)
            if head.payload is None:
                exchange.request_body = Relay(self, head.body_length)  # nothing was read yet
        self.fail_exchange(exchange)

    def fail_exchange(self, exchange: Exchange | None) -> None:
        """End a request after a defect: answer 500, or cut the connection if its response has begun. None: its exchange
        could not be made.
        """
        log_event(OperatorEvent.DEFECT, "a defect in a request of %s", self.peer.ip, error=True)
        self.closing = True
        if exchange is not None and exchange.state is not ENDED:
            self.stream.exchange = exchange
        if answer_defect(exchange, self.peer.ip):
            return
        if self.exchange is not None:
            self._break_off(Fault.INTERNAL)
        self.abort()

    # calls of the stream about the request's body

    def begin_body(self, stream: Http1Stream, reader: BodyReader) -> bytes:
        """Read the received part of a body. Returns the last piece."""
        self._read_on()  # if it was paused for bytes read ahead, they belong to this body
        if not reader.bytes_assured():
            self.buffer = self.reads.medium_buffer
        piece = stream.read_body_ahead(reader)
        if stream.reader is not reader:
            self._read_further_requests()
        return piece

    def _read_further_requests(self) -> None:
        """Read on behind a body, unless enough pipelined bytes are buffered."""
        if self._has_enough():
            self.pause()
        else:
            self._read_on()

    def take_ahead(self, assured: cython.longlong) -> bytes:
        """Return a piece of the pipelined bytes: `assured` bytes, or at most one read if `assured` is 0."""
        if not self._ahead:
            return b""
        end = self._at + (assured or min(len(self.buffer), MEDIUM_READ_BYTES))
        piece = self._ahead[self._at : end]
        self._take_up_to(end)
        return piece

    def end_body(self, rest: bytes) -> None:
        """Handle the end of the body; `rest` are the bytes after it."""
        self.buffer = self.reads.read_buffer
        if self._ahead:
            self._at -= len(rest)
        else:
            self._ahead, self._at = rest, 0
        if not self.write_paused:
            self.deadline = inf

    # source of the request body (`Relay`)

    def pause(self) -> None:
        if not self.paused and self.phase < LINGERING:
            self.stop_reading()
            if not self.write_paused:
                self.deadline = inf

    def resume(self) -> None:
        """Resume reading, unless enough pipelined bytes are buffered: then it resumes after they were processed."""
        if self.paused and not self._has_enough():
            self._read_on()
            if not self.write_paused and self.phase is ACTIVE:
                self._watch_body()

    def _watch_body(self) -> None:
        if self._stream is not None:
            self._stream.watch_body()
        else:
            self.deadline = inf

    def _read_on(self) -> None:
        if self.paused and self.phase < CLOSING:
            self.start_reading()

    # calls of the stream

    def begin_tunnel(self, message: bytes) -> bytes:
        """Send `message` and start the tunnel. Returns the bytes that the client has already sent."""
        self.phase = SWITCHED[self.phase]
        self.ask_no_more()
        self.deadline = inf
        self.transport.write(message)
        ahead = self._ahead[self._at :]
        self._ahead, self._at = b"", 0
        self.resume()  # first, because the target may not accept all that was read ahead
        return ahead

    def response_sent(self, unread: bool) -> None:
        self.requests += 1
        if self.closing:
            self._end(unread)
        elif self.write_paused:
            self.phase = RESPONSE_WAITS[self.phase]
        else:
            self._next()

    def _next(self) -> None:
        """Get ready for the next request, which may have arrived already."""
        self.phase = NEXT[self.phase]
        self.watch(LAST_REQUEST_S if self.listener.closing else self.server.keepalive)
        put_last(self.server.idle, self)
        if self.paused:
            self.resume()
        if self._ahead and not self._starting:  # otherwise the loop in `_read_requests` continues
            self._read_requests()

    def _refuse_unread(
        self, fault: Fault, detail: str | None = None, received: bytes = b"", linger: bool = True
    ) -> None:
        """Answer invalid input, and close."""
        head = rejected_head(received)
        if self.phase is HEAD:
            head.received_s = monotonic() - self._head_begun_at
        self.phase = REQUEST[self.phase]
        self.closing = True
        self._ahead, self._at = b"-" if linger else b"", 0  # unread data causes lingering
        self.stream.reject(head, fault, detail)

    def _refuse_malformed(self, fault: Fault, reason: str, received: bytes) -> None:
        """Answer bytes that are not a request, and close. On a new connection they may be of another protocol."""
        spoken = None if self.requests else spoken_protocol(self._ahead)
        if spoken not in (None, HTTP):
            reason = f"This port does not speak {spoken}."
        self._refuse_unread(fault, reason, received)

    def refuse(self, fault: Fault, received: bytes) -> None:
        """Answer a connection that will not be served, ignoring its data, and close."""
        self._refuse_unread(fault, None, received)

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
        self.stream.record()

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
            self._ahead, self._at = b"", 0
            self._stream = None  # avoids a reference cycle
            self.leave_server()

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
            self.stream.drain_tunnel()

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
