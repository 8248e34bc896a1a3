"""The client side of one exchange on an HTTP/1 connection: it receives the request's body and sends the response.

The stream interprets the bytes; the connection decides when to read and how to write. Rule 1: a stream has one exchange
at a time, and none between two requests; HTTP/1 has one stream per connection, so it is reused. Rule 2: bytes are
buffered in a body's relay or in the transport, never in both, and never here.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final

import cython

from fastgw.downstream.http1.held_response import send_held
from fastgw.downstream.http1.response_framing import (
    CHUNKED,
    CLOSE,
    LENGTH,
    NO_BODY,
    framing_of,
    own_answer,
    switching_head,
)
from fastgw.errors import Fault, fault_of
from fastgw.eventloop.body_reads import READ_BYTES, BodyReading
from fastgw.eventloop.timer_wheel import Wheel
from fastgw.exchange import Trailers, problem
from fastgw.exchange.body_relay import Relay, whole_body
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.exchange_counts import ExchangeCounts
from fastgw.exchange.ready_answer import ReadyAnswer, recorded_answer
from fastgw.exchange.reply import Response
from fastgw.http.http1 import serializer
from fastgw.http.http1.body import BodyReader, body_reader
from fastgw.http.malformed import Malformed
from fastgw.http.messages import RequestHead, ResponseHead, payload_of
from fastgw.pipeline.request_pipeline import RequestStream, cancel_waiting
from fastgw.shm.held_body_budget import HeldBodyBudget

if TYPE_CHECKING:
    from fastgw.downstream.http1.connection import Http1ClientConnection
    from fastgw.downstream.server import Server

CLIENT, TARGET = 1, 2
"""The ends of a tunnel."""
_BOTH: Final = CLIENT | TARGET
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = b"Connection: close\r\n"
_EMPTY_LINE: Final = b"\r\n"
_KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"
JOINED: Final = 8192
"""Maximum bytes of a body that is copied behind its head, to send both at once."""


class StreamedConnection(BodyReading):
    """The part of a connection that its stream uses for each request. `closing`: the next response is the last one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._wheel: Wheel = server.worker_loop.wheel
        self.reads = server.worker_loop.reads
        self.buffer = self.reads.read_buffer
        self.closing = False
        self.paused = False
        self.write_paused = False

    def record(self) -> None:
        """Finish the exchange: finish steps, counters, log."""
        raise NotImplementedError

    def response_sent(self, unread: bool) -> None:
        """Handle the end of a response. `unread`: its request has not ended."""
        raise NotImplementedError

    def watch(self, seconds: float) -> None:
        """Set the deadline, which is so many seconds away."""
        raise NotImplementedError

    def begin_body(self, stream: Http1Stream, reader: BodyReader) -> bytes:
        """Read the received part of a body. Returns the last piece."""
        raise NotImplementedError

    def take_ahead(self, assured: cython.longlong) -> bytes:
        """Return a piece of the pipelined bytes: `assured` bytes, or at most one read if `assured` is 0."""
        raise NotImplementedError

    def end_body(self, rest: bytes) -> None:
        """Handle the end of the body; `rest` are the bytes after it."""
        raise NotImplementedError


class Http1Stream(RequestStream):
    def __init__(self, connection: Http1ClientConnection) -> None:
        self._connection = connection
        self.exchange: Exchange | None = None
        self.reader: BodyReader | None = None
        """Reader of the request body that is being received; None: there is none."""
        self.tunnel_timeout = inf
        """Seconds in which the client of a tunnel has to read some of the data sent to it."""
        self._body_bytes = inf  # maximum length
        self._line_until = inf  # end of the time for an incomplete chunk line, or for the trailers
        self._asked_to_continue = True
        self._ending = LENGTH
        self._tunnel_ends = 0

    def __repr__(self) -> str:
        return f"<Http1Stream {self.exchange!r}>"

    # methods for the pipeline and filters

    @property
    def fd(self) -> int:
        return self._connection.transport.plain_fd

    @property
    def accepts_more(self) -> bool:
        return not self._connection.write_paused

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._connection.server.worker_loop.loop

    def fail_after_defect(self, exchange: Exchange) -> None:
        self._connection.fail_exchange(exchange)

    @property
    def counts(self) -> ExchangeCounts:
        return self._connection.server.counts

    @property
    def held_body_budget(self) -> HeldBodyBudget:
        return self._connection.server.worker_loop.held_body_budget

    def filter_timeout(self) -> float:
        return self._connection.server.timeouts.filters

    # request body

    def expect_body(self, exchange: Exchange, head: RequestHead) -> bytes | None:
        """Prepare for a body, if there is one, and return its received part. None: the exchange has ended."""
        connection = self._connection
        limit = connection.server.body_bytes
        payload: bytes | None = payload_of(head)
        if head.length > limit:
            exchange.request_body = Relay(connection, head.body_length)  # nothing was read yet
            exchange.reply(problem(Fault.BODY_TOO_LARGE))
            return None
        if payload is not None:
            if payload:
                exchange.request_body = whole_body(payload, len(payload) if head.sized else None)
            connection.deadline = inf
            return payload
        exchange.request_body = Relay(connection, head.body_length)
        self.reader = reader = body_reader(head, connection.server.header_bytes, connection.server.header_count)
        self._body_bytes, self._line_until = limit, inf
        self.body_goes_to = -1
        self._asked_to_continue = not head.expects_continue  # otherwise the client waits for the gateway
        piece = connection.begin_body(self, reader)
        if self.exchange is not exchange:
            return None
        self.watch_body()
        return piece

    def read_body_ahead(self, reader: BodyReader) -> bytes:
        """Read the part of the body that was received in advance, up to the maximum per loop iteration. Return its last
        part.
        """
        piece = b""
        connection = self._connection
        while self.reader is reader and not connection.resting:
            if not (more := connection.take_ahead(reader.bytes_assured())):
                break
            piece = more
            self.read_body(piece)
        return piece

    def read_body(self, chunk: bytes) -> None:
        exchange, reader = self.exchange, self.reader
        assert exchange is not None
        assert reader is not None
        body: Relay | None = exchange.request_body
        assert body is not None
        try:
            payload = reader.feed(chunk)
        except Malformed as malformed:
            exchange.fail(fault_of(malformed), malformed.reason)
            return
        if payload:
            self._line_until = inf
            body.bytes += len(payload)
            if body.bytes > self._body_bytes:
                exchange.fail(Fault.BODY_TOO_LARGE)
                return
        connection = self._connection
        framing: cython.Py_ssize_t = len(chunk) - len(reader.rest) - len(payload)
        connection.reads.count(connection, len(payload), framing)
        if reader.done:
            self.reader = None
            connection.end_body(reader.rest)
            if payload:
                body.last(payload)
            body.end(reader.trailers)
        else:
            self._asked_to_continue = True  # or it sends without a 100
            self.watch_body()
            if payload:
                body.feed(payload)
            if self.reader is not reader:
                return  # the exchange has ended: further data is read as usual
            assured: cython.longlong = reader.bytes_assured()
            if framing or (assured > READ_BYTES and self.body_goes_to >= 0):
                connection.buffer = connection.reads.buffer_for(chunk, payload, assured, self.body_goes_to)
            else:
                connection.buffer = connection.reads.read_buffer

    def watch_body(self) -> None:
        """Start the client's timeout for the next piece of the body, if the gateway waits for it."""
        connection = self._connection
        if connection.write_paused:
            return  # the client's write timeout applies instead
        reader, exchange = self.reader, self.exchange
        if reader is not None and exchange is not None and not connection.paused and self._asked_to_continue:
            server, now = connection.server, connection._wheel.now
            body: Relay | None = exchange.request_body
            until = now + server.body_idle
            if body is not None:
                until = body.wait_until(now, server.body_idle, server.body_rate)
            if not reader.is_in_line():
                self._line_until = inf
            else:
                self._line_until = min(self._line_until, now + server.head_timeout)
                until = min(until, self._line_until)
            connection.watch(until - now)
        else:
            connection.deadline = inf

    # the client's side of the exchange (`ClientSide`)

    def send_interim(self, head: ResponseHead | None) -> None:
        assert self.exchange is not None
        if self.exchange.head.version < 11:
            return  # HTTP/1.0 has no interim responses
        if head is None or head.status == 100:
            self._asked_to_continue = True
            self.watch_body()
        if head is None:
            self._write(_CONTINUE)
        else:
            self._write(serializer.status_line(head.status, head.reason) + serializer.end_to_end(head) + b"\r\n")

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        exchange, connection = self.exchange, self._connection
        assert exchange is not None
        head = response.head
        ending, length = framing_of(exchange, response, payload, ended)
        if ending == NO_BODY:
            payload = b""
        if head is None:
            exchange.response_bytes = len(payload)
        body: Relay | None = exchange.request_body
        if ending == CLOSE or (body is not None and not body.ended):
            connection.closing = True
        self._ending = ending
        if connection.closing:
            last = _CLOSE
        else:
            last = b"" if exchange.head.version >= 11 else _KEEP_ALIVE
        if ending == CHUNKED:
            payload = serializer.chunk(payload)
        date_line, joined = connection.server.date_line, payload
        if head is None:
            message = own_answer(response, payload, length, date_line, last, exchange.id_shown)
        else:
            joined = payload if len(payload) <= JOINED or ending == CHUNKED else b""
            status, dropped, added, shown = response.status, response.dropped, response.added, exchange.id_shown
            message = serializer.response(head, status, dropped, added, joined, length, date_line, last, shown)
        if joined is payload:
            connection.transport.write(message)
        else:
            connection.transport.write_parts(message, payload)
        if ended:
            self._complete(exchange)
        elif connection.write_paused and exchange.service is not None:
            exchange.service.pause()

    def send_ready(self, exchange: Exchange, answer: ReadyAnswer) -> None:
        connection = self._connection
        lines = serializer.id_line(exchange.id_shown) if exchange.id_shown else b""
        if exchange.trace is not None:
            lines += exchange.trace.response_line
        last = _CLOSE if connection.closing else b""
        exchange.response = recorded_answer(answer.status, answer.head)
        exchange.cache_result = answer.cache_result
        exchange.response_bytes = answer.length
        if answer.length <= JOINED:
            message = b"".join((answer.head, lines, last, _EMPTY_LINE, answer.body))
            connection.transport.write(message)
        else:
            connection.transport.write_parts(b"".join((answer.head, lines, last, _EMPTY_LINE)), answer.body)
        self._complete(exchange)

    def send_held(self, exchange: Exchange, response: Response, body: bytes, trailers: Trailers) -> bool:
        return send_held(exchange, response, body, trailers, self._connection.server.worker_loop)

    def feed(self, payload: bytes) -> None:
        if self._ending == NO_BODY:
            return
        self._write(serializer.chunk(payload) if self._ending == CHUNKED else payload)

    def _write(self, message: bytes) -> None:
        self._connection.transport.write(message)

    def end(self, trailers: Trailers) -> None:
        connection = self._connection
        if connection.is_tunnel:
            if self._tunnel_ends & TARGET == 0:
                connection.transport.write_eof()
                self.end_of_tunnel(TARGET)
            return
        if self._ending == CHUNKED:
            self._write(serializer.last_chunk(trailers))
        assert self.exchange is not None
        self._complete(self.exchange)

    def abort(self, fault: Fault) -> None:
        connection = self._connection
        connection.record()
        if self._ending == CLOSE:
            connection.transport.reset_on_close()  # a plain close would look like the end of the body
            connection.abort()
        else:
            connection.close()

    def _complete(self, exchange: Exchange) -> None:
        """Handle the end of the response."""
        self._connection.record()
        body: Relay | None = exchange.request_body
        self._connection.response_sent(body is not None and not body.ended)

    def exchange_ended(self) -> None:
        """Release the exchange, which was recorded."""
        self.exchange = self.reader = None
        if self.waiting is not None:
            cancel_waiting(self)

    # tunnels

    def tunnel(self, early: bytes, timeout: float) -> None:
        exchange = self.exchange
        assert exchange is not None
        assert exchange.service is not None
        self.tunnel_timeout, self._tunnel_ends = timeout, 0
        self._ending = LENGTH  # not that of an earlier response on this connection
        ahead = self._connection.begin_tunnel(switching_head(exchange) + early)
        if ahead:
            self.read_raw(ahead)
        self._connection.tunnel_begun()

    def read_raw(self, chunk: bytes) -> None:
        """Forward bytes of the client through the tunnel."""
        exchange = self.exchange
        assert exchange is not None
        exchange.request_bytes += len(chunk)
        if exchange.service is not None:
            exchange.service.feed_raw(chunk)

    def end_raw(self) -> None:
        """Handle the end of the client's data in the tunnel."""
        exchange = self.exchange
        assert exchange is not None
        if exchange.service is not None:
            exchange.service.end_raw()
        self.end_of_tunnel(CLIENT)

    def pause_tunnel(self) -> None:
        if self._connection.is_tunnel:
            self._connection.pause()

    def resume_tunnel(self) -> None:
        if self._connection.is_tunnel:
            self._connection.resume()

    def end_of_tunnel(self, end: int = 0) -> None:
        """Handle the end of one direction; 0: of none. The tunnel ends with both; during a drain with either."""
        self._tunnel_ends = ends = self._tunnel_ends | end
        exchange = self.exchange
        if exchange is not None and (ends == _BOTH or (ends and self._connection.server.draining)):
            if exchange.service is not None:
                exchange.service.cancel()
                exchange.service = None
            self._connection.record()
            self._connection.close()
