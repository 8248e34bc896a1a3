"""The client side of one exchange on an HTTP/1 connection: it receives the request's body and sends the response.

The stream interprets the bytes; the connection decides when to read and how to write. Rule 1: a stream has one exchange
at a time, and none between two requests; HTTP/1 has one stream per connection, so it is reused. Rule 2: bytes are
buffered in a body's relay or in the transport, never in both, and never here.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

import cython

from fastgw.downstream.http1.response_framing import CHUNKED, CLOSE, LENGTH, NO_BODY, framing_of, switching_head
from fastgw.downstream.http1.serving import TARGET, ServingConnection, ServingStream
from fastgw.errors import Fault, fault_of
from fastgw.eventloop.body_reads import READ_BYTES
from fastgw.exchange import Trailers
from fastgw.exchange.body_relay import Relay, whole_body
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.ready_answer import ReadyAnswer
from fastgw.exchange.reply import Response
from fastgw.http.http1 import serializer
from fastgw.http.http1.body import BodyReader, body_reader
from fastgw.http.malformed import Malformed
from fastgw.http.messages import RequestHead, ResponseHead, payload_of

if TYPE_CHECKING:
    from fastgw.downstream.http1.connection import Http1ClientConnection

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = b"Connection: close\r\n"
_EMPTY_LINE: Final = b"\r\n"
_KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"
JOINED: Final = 8192
"""Maximum bytes of a body that is copied behind its head, to send both at once."""


class StreamedConnection(ServingConnection):
    """The part of a connection that its stream uses for each request. `closing`: the next response is the last one."""

    closing: bool

    def response_sent(self, unread: bool) -> None:
        """Handle the end of a response. `unread`: its request has not ended."""
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


class Http1Stream(ServingStream):
    def __init__(self, connection: Http1ClientConnection) -> None:
        self._connection: Http1ClientConnection = connection
        self.reader: BodyReader | None = None
        """Reader of the request body that is being received; None: there is none."""
        self._line_until = inf  # end of the time for an incomplete chunk line, or for the trailers
        self._ending = LENGTH

    def __repr__(self) -> str:
        return f"<Http1Stream {self.exchange!r}>"

    # methods for the pipeline and filters

    @property
    def fd(self) -> int:
        return self._connection.transport.plain_fd

    @property
    def accepts_more(self) -> bool:
        return not self._connection.write_paused

    def fail_after_defect(self, exchange: Exchange) -> None:
        self._connection.fail_exchange(exchange)

    # request body

    def expect_body(self, exchange: Exchange, head: RequestHead) -> bytes | None:
        """Prepare for a body, if there is one, and return its received part. None: the exchange has ended."""
        connection: StreamedConnection = self._connection
        server = connection.server
        payload: bytes | None = payload_of(head)
        if payload is not None and head.length <= server.body_bytes:
            if payload:
                exchange.request_body = whole_body(payload, len(payload) if head.sized else None)
            connection.deadline = inf
            return payload
        if not self.admits_body(exchange, head, self._connection):
            return None
        self.reader = reader = body_reader(head, server.header_bytes, server.header_count)
        self._line_until = inf
        self.body_goes_to = -1
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
        connection: StreamedConnection = self._connection
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
        connection: StreamedConnection = self._connection
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
        connection: StreamedConnection = self._connection
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
        exchange = self.exchange
        connection: StreamedConnection = self._connection
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
        joined = payload if len(payload) <= JOINED or ending == CHUNKED else b""
        message: bytes = self.message(exchange, response, joined, length, last)
        if joined is payload:
            connection.transport.write(message)
        else:
            connection.transport.write_parts(message, payload)
        if ended:
            self._complete(exchange)
        elif connection.write_paused and exchange.service is not None:
            exchange.service.pause()

    def send_ready(self, exchange: Exchange, answer: ReadyAnswer) -> None:
        connection: StreamedConnection = self._connection
        lines: bytes = self.record_ready(exchange, answer)
        last = _CLOSE if connection.closing else b""
        if answer.length <= JOINED:
            message = b"".join((answer.head, lines, last, _EMPTY_LINE, answer.body))
            connection.transport.write(message)
        else:
            connection.transport.write_parts(b"".join((answer.head, lines, last, _EMPTY_LINE)), answer.body)
        self._complete(exchange)

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
        self.record()
        if self._ending == CLOSE:
            connection.transport.reset_on_close()  # a plain close would look like the end of the body
            connection.abort()
        else:
            connection.close()

    def _complete(self, exchange: Exchange) -> None:
        """Handle the end of the response."""
        connection: StreamedConnection = self._connection
        self.record()
        body: Relay | None = exchange.request_body
        connection.response_sent(body is not None and not body.ended)

    def record(self) -> None:
        if self.reader is not None:
            self.reader = None
            self._connection.buffer = self._connection.reads.read_buffer
        ServingStream.record(self)

    # tunnels

    def tunnel(self, early: bytes, timeout: float) -> None:
        exchange = self.exchange
        assert exchange is not None
        assert exchange.service is not None
        self.tunnel_timeout, self._tunnel_ends = timeout, 0
        self._ending = LENGTH  # not that of an earlier response on this connection
        ahead = self._connection.begin_tunnel(switching_head(exchange) + early)
        if ahead:
            self.feed_tunnel(ahead)
        self._connection.tunnel_begun()

    def pause_tunnel(self) -> None:
        if self._connection.is_tunnel:
            self._connection.pause()

    def resume_tunnel(self) -> None:
        if self._connection.is_tunnel:
            self._connection.resume()

    def close_tunnel(self) -> None:
        self.record()
        self._connection.close()
