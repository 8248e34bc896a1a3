"""A stream of an HTTP/2 connection: the client side of one exchange, from request head to end of response.

Rule 1: received body data is credited to the client's flow-control window when its receiver accepts more, so at most
one window is buffered per stream. Rule 2: at most `MOST_HELD` bytes of a response, plus one read, wait for the client's
window; then its source is paused. Rule 3: a stream that the client does not read is reset after
`timeouts.response_idle`; others continue. Rule 4: an extended CONNECT (RFC 8441) is answered 200 once the upstream has
switched, never with another 2xx; END_STREAM ends one direction of a tunnel, and RST_STREAM resets it.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from fastgw.downstream.http1.response_framing import CHUNKED, NO_BODY, framing_of, switching_head
from fastgw.downstream.http1.serving import TARGET, ServingConnection, ServingStream
from fastgw.downstream.http2.grpc_answer import answers_grpc, late_status, trailers_only
from fastgw.errors import Fault
from fastgw.exchange import Trailers, problem
from fastgw.exchange.body_relay import whole_body
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.ready_answer import ReadyAnswer
from fastgw.exchange.reply import Response, body_at_once
from fastgw.exchange.states import ANSWERING
from fastgw.http.http1 import serializer
from fastgw.http.http2._session import Session
from fastgw.http.http2.session import ErrorCode
from fastgw.http.messages import RequestHead, ResponseHead, payload_of
from fastgw.pipeline.request_pipeline import begin_request

if TYPE_CHECKING:
    from fastgw.downstream.http2.connection import Http2ClientConnection
    from fastgw.shm.node_limits import AddressLimit

MOST_HELD: Final = 65536
"""Bytes of a response that wait for the client's window above which its source is paused until half of them are
sent.
"""
LINGER_IDLE_S: Final = 5.0
LINGER_TOTAL_S: Final = 30.0
"""Seconds for which data from the client is read and dropped after a response to an incomplete request."""
_CONTINUE: Final = b"HTTP/1.1 100 \r\n\r\n"
_OF_UPGRADE: Final = frozenset((b"sec-websocket-accept",))  # not used over HTTP/2 (RFC 8441 section 5)


class MultiplexedConnection(ServingConnection):
    """The part of a connection that its streams use for each request. `sending`: streams with new response data since
    the last flush.
    """

    session: Session
    sending: list[Http2Stream]

    def flush_soon(self) -> None:
        """Write pending output at the end of this loop iteration."""
        raise NotImplementedError

    def flush_alone(self) -> None:
        """Write at once if only one stream is open, because no other has data in this iteration."""
        raise NotImplementedError


class Http2Stream(ServingStream):
    """Client side of one exchange at a time. A closed stream is reused for a later exchange."""

    def __init__(self, connection: Http2ClientConnection) -> None:
        self._connection: Http2ClientConnection = connection
        self.braked = False
        """Whether the source of the response is paused, because the client does not read it."""
        self.id = 0
        self.has_place = False
        """Whether it is counted in the node's limits, including `address_limit`."""
        self.address_limit: AddressLimit | None = None
        self.receiving = True
        """Whether the request is incomplete."""
        self.reset()

    def reset(self) -> None:
        """Drop the previous exchange, so that the stream can be reused."""
        self._paused = False
        self.waits_since = inf
        """If its receiver takes nothing for now: when that began."""
        self._unconsumed = 0
        self._body_bytes = inf
        self._asked_to_continue = True
        self._held_at_last_look = 0
        self._taken_at_last_look = 0
        self._linger_end = inf
        self._has_body = True  # of the response, as far as its client expects one
        self._discarded = 0  # bytes of the response that were not sent when the client reset the stream
        self.braked = False
        self.is_tunnel = False
        """Whether the upstream has switched: data belongs to a tunnel."""
        self._ahead: list[bytes] | None = None  # data received before the response to an extended CONNECT
        self._tunnel_ends = 0
        self.tunnel_timeout = inf

    def __repr__(self) -> str:
        return f"<Http2Stream {self.id} {self.exchange!r}>"

    # methods for the pipeline and filters

    @property
    def accepts_more(self) -> bool:
        return not self.braked

    def fail_after_defect(self, exchange: Exchange) -> None:
        self._connection.fail_after_defect(self.id)

    # request

    def serve(self, head: RequestHead) -> None:
        """Begin the exchange of a request; its body follows, if it has one (`receiving`)."""
        connection = self._connection
        exchange: Exchange = self.begin(head)
        payload: bytes | None = payload_of(head)
        if not head.plain and head.connect_protocol:
            self._ahead = []
            self._asked_to_continue = False  # the client waits for a 100
        elif self.receiving:
            if not self.admits_body(exchange, head, self):
                return
            self.watch_body()
        elif payload:
            exchange.request_body = whole_body(payload, None if head.chunked else head.length)
            if len(payload) > connection.server.body_bytes:
                exchange.reply(problem(Fault.BODY_TOO_LARGE))
                return
        begin_request(self, exchange, connection.listener.router)

    def read_body(self, payload: bytes) -> None:
        """Handle a piece of the request's body, or of a tunnel."""
        connection, exchange = self._connection, self.exchange
        if self._ahead is not None and exchange is not None:
            self._unconsumed += len(payload)
            if self.is_tunnel:
                self._feed_tunnel(payload)
            else:
                self._ahead.append(payload)  # at most one window
            return
        if exchange is None or exchange.request_body is None:
            connection.session.consume(self.id, len(payload))  # the request was answered already
            connection.flush_soon()
            if not self._held_at_last_look:
                self.deadline = min(self._linger_end, connection.server.worker_loop.wheel.now + LINGER_IDLE_S)
            return
        body = exchange.request_body
        self._unconsumed += len(payload)
        body.bytes += len(payload)
        if body.bytes > self._body_bytes:
            exchange.fail(Fault.BODY_TOO_LARGE)
        else:
            self._asked_to_continue = True  # or it sends without a 100
            self.watch_body()
            body.feed(payload)
        if not self._paused:
            self._consume()

    def end_body(self, trailers: Trailers) -> None:
        """Handle the end of the request."""
        self.receiving = False
        exchange = self.exchange
        if self.is_tunnel:
            self.end_raw()
        elif exchange is not None:
            self.watch_body()
            if exchange.request_body is not None:
                exchange.request_body.end(trailers)

    @property
    def kept_bytes(self) -> int:
        """Number of bytes that were received, and not taken by their receiver."""
        return self._unconsumed

    def _consume(self) -> None:
        taken, self._unconsumed = self._unconsumed, 0
        if taken:
            self._connection.session.consume(self.id, taken)
            self._connection.flush_soon()

    def watch_body(self) -> None:
        """Start the client's timeout for the next piece of the body, if the gateway waits for it."""
        if self._held_at_last_look:
            return  # the client's write timeout applies instead
        if self._ahead is not None:
            self.deadline = inf
        elif self.receiving and self.exchange is not None and not self._paused and self._asked_to_continue:
            server, body = self._connection.server, self.exchange.request_body
            timeouts, now = server.timeouts, server.worker_loop.wheel.now
            idle = timeouts.request_body_idle
            self.watch(idle if body is None else body.wait_until(now, idle, timeouts.request_body_rate) - now)
        else:
            self.deadline = inf

    # source of the request body (`Relay`)

    def pause(self) -> None:
        worker_loop = self._connection.server.worker_loop
        self._paused, self.waits_since = True, min(self.waits_since, worker_loop.wheel.now)
        worker_loop.holders.add(self._connection)
        self.watch_body()

    def resume(self) -> None:
        if self._paused:
            self._paused, self.waits_since = False, inf
            # Later, because the receiver that has just been found may admit nothing.
            self.loop.call_soon(self._consume_unless_paused)
            self.watch_body()

    def _consume_unless_paused(self) -> None:
        if not self._paused:
            self._consume()

    # client side of the exchange (`ClientSide`)

    def send_interim(self, head: ResponseHead | None) -> None:
        connection = self._connection
        if head is None or head.status == 100:
            self._asked_to_continue = True
            self.watch_body()
        if head is None:
            message = _CONTINUE
        else:
            message = serializer.status_line(head.status, b"") + serializer.end_to_end(head) + b"\r\n"
        connection.session.respond(self.id, message, False)
        connection.flush_soon()

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        exchange = self.exchange
        connection: MultiplexedConnection = self._connection
        assert exchange is not None
        if self._ahead is not None:
            self._ahead = None
            if 200 <= response.status < 300:  # it would mean that there is a tunnel
                reply = problem(Fault.UPGRADE_FAILED)
                response, payload, ended = exchange.replace_answer(reply), body_at_once(reply), True
        head = response.head
        ending, length = framing_of(exchange, response, payload, ended)
        is_unframed = not length and head is not None and head.version == 20 and head.body_length is None
        if ending == CHUNKED or is_unframed:
            length = serializer.UNFRAMED  # optional without a body, and gRPC responses have none
        self._has_body = ending != NO_BODY
        as_grpc = head is None and response.status >= 400 and answers_grpc(exchange, response, ended)
        message: bytes
        if as_grpc:
            message = trailers_only(exchange, response, payload, connection.server.date_line, exchange.id_shown)
        if as_grpc or not self._has_body:
            payload = b""
        if head is None:
            exchange.response_bytes = len(payload)
        if not as_grpc:
            message = self.message(exchange, response, payload, length, b"")
        connection.session.respond(self.id, message, ended)
        connection.sending.append(self)
        if ended:
            self._complete()
            connection.flush_alone()
            return
        connection.flush_soon()
        if len(payload) > MOST_HELD:
            self._brake()

    def send_ready(self, exchange: Exchange, answer: ReadyAnswer) -> None:
        lines: bytes = self.record_ready(exchange, answer)
        connection: MultiplexedConnection = self._connection
        connection.session.respond(self.id, b"".join((answer.head, lines, b"\r\n", answer.body)), True)
        connection.sending.append(self)
        self._complete()
        connection.flush_alone()

    def send_held(self, exchange: Exchange, response: Response, body: bytes, trailers: Trailers) -> bool:
        if response.head is None and answers_grpc(exchange, response, True):
            return False  # the body is left out
        return ServingStream.send_held(self, exchange, response, body, trailers)

    def feed(self, payload: bytes) -> None:
        if not self._has_body:
            return
        connection = self._connection
        if connection.session.send(self.id, payload) > MOST_HELD:
            self._brake()
        connection.sending.append(self)
        connection.flush_soon()

    def _brake(self) -> None:
        """Pause the source of the response until the client has read some of it."""
        exchange = self.exchange
        if not self.braked and exchange is not None and exchange.service is not None:
            self.braked = True
            exchange.service.pause()

    def end(self, trailers: Trailers) -> None:
        if self.is_tunnel:
            if self._tunnel_ends & TARGET == 0:
                self._connection.session.end(self.id, b"")
                self._connection.flush_soon()
                self.end_of_tunnel(TARGET)
            return
        lines = lines_of(trailers)
        self._connection.session.end(self.id, lines)
        self._connection.flush_soon()
        self._complete()

    def abort(self, fault: Fault) -> None:
        """Abort an incomplete response: the client detects it by the reset, or by the gRPC status."""
        if self._tunnel_ends & TARGET:
            self._complete()  # stopping the reads is enough
            return
        exchange = self.exchange
        status = None if exchange is None or self.is_tunnel else late_status(exchange, fault)
        if status is not None:
            self._connection.session.end(self.id, status)
            self._connection.flush_soon()
            self._complete()
            return
        code = self.reset_code
        self._connection.write_before_reset()
        if exchange is not None:
            self._discount(exchange, self._unsent())
        self._connection.session.reset(self.id, code)
        self._connection.flush_soon()
        self.record()

    @property
    def reset_code(self) -> ErrorCode:
        """Error code for the end of what cannot be completed."""
        return ErrorCode.CANCEL if self.is_tunnel else ErrorCode.INTERNAL_ERROR  # RFC 8441 section 5

    def _complete(self) -> None:
        """Handle the end of the response."""
        self.record()
        if self._unconsumed:
            self._consume()
        if not self.receiving:
            self.watch_body()  # held data keeps its timeout
        else:
            # Further data of the client is dropped, as over HTTP/1.1. After a reset, even with NO_ERROR, some clients
            # discard the response (curl 7.88).
            self._linger_end = self._connection.server.worker_loop.wheel.now + LINGER_TOTAL_S
            if not self._held_at_last_look:
                self.watch(LINGER_IDLE_S)

    def record(self) -> None:
        self.braked = self.is_tunnel = False
        self._ahead = None
        ServingStream.record(self)

    # tunnels

    def tunnel(self, early: bytes, timeout: float) -> None:
        exchange, connection = self.exchange, self._connection
        assert exchange is not None
        assert exchange.response is not None
        ahead, self._ahead = self._ahead, []
        self.is_tunnel, self.tunnel_timeout = True, timeout
        response = exchange.response
        response.dropped |= _OF_UPGRADE
        response.status = 200
        head = switching_head(exchange)
        connection.session.respond(self.id, head[:9] + b"200" + head[12:] + early, False)
        connection.sending.append(self)
        connection.flush_soon()
        if len(early) > MOST_HELD:
            self._brake()
        for piece in ahead or ():
            self._feed_tunnel(piece)
        if not self.receiving and self.is_tunnel:
            self.end_raw()
        connection.tunnel_begun()

    def _feed_tunnel(self, piece: bytes) -> None:
        self.feed_tunnel(piece)
        if not self._paused:
            self._consume()

    def pause_tunnel(self) -> None:
        if self.is_tunnel:
            self.pause()

    def resume_tunnel(self) -> None:
        if self.is_tunnel:
            self.resume()

    def close_tunnel(self) -> None:
        if self._tunnel_ends & TARGET == 0:
            self._tunnel_ends |= TARGET
            self._connection.session.end(self.id, b"")
            self._connection.flush_soon()
        self._complete()

    # timeouts and ends

    def watch(self, seconds: float) -> None:
        wheel = self._connection._wheel
        wheel.watch(self, wheel.now + seconds)

    def _write_timeout(self) -> float:
        """Seconds in which the client has to read some of the data sent to it."""
        return self.tunnel_timeout if self.is_tunnel else self._connection.server.timeouts.response_idle

    def look_at_held(self) -> None:
        """Check whether the client reads buffered response data."""
        connection = self._connection
        held, taken = connection.session.held(self.id), connection.session.taken(self.id)
        if taken != self._taken_at_last_look or (held and not self._held_at_last_look):
            self._held_at_last_look, self._taken_at_last_look = held, taken
            if held:
                self.watch(self._write_timeout())
            elif self.exchange is None and self.receiving:
                self.watch(LINGER_IDLE_S)
            else:
                self.watch_body()
        if self.braked and held <= MOST_HELD // 2:
            self.braked = False
            exchange = self.exchange
            if exchange is not None and exchange.service is not None:
                exchange.service.resume()

    def expire(self, now: float) -> None:
        connection = self._connection
        held = connection.session.held(self.id)
        if held and (connection.write_paused or connection.session.taken(self.id) != self._taken_at_last_look):
            self._taken_at_last_look = connection.session.taken(self.id)  # the connection has its own timeout
            self.watch(self._write_timeout())
        elif held:
            self.break_off(Fault.CLIENT_STALLED)
            connection.session.reset(self.id, ErrorCode.CANCEL)
            connection.flush_soon()
        elif self.exchange is not None:
            # From the response on, the upstream's timeout applies: nothing waits for the rest of the request.
            if self.exchange.response is None:
                self.exchange.fail(Fault.REQUEST_TIMEOUT)
        else:
            connection.session.reset(self.id, ErrorCode.NO_ERROR)
            connection.flush_soon()

    def cut(self, fault: Fault, why: str = "") -> bool:
        """End the exchange in flight by this fault, with an answer if no response has begun. False: there is none."""
        exchange = self.exchange
        if exchange is None:
            return False
        if exchange.state < ANSWERING:
            exchange.fail(fault, why=why)
        else:
            code = self.reset_code
            self.break_off(fault)
            self._connection.session.reset(self.id, code)
        return True

    def break_off(self, fault: Fault) -> bool:
        """Cancel the exchange in flight. False: there is none."""
        exchange = self.exchange
        if exchange is None:
            return False
        unsent = self._unsent()
        self._discount(exchange, unsent)
        if fault is Fault.CLIENT_LEFT and self._tunnel_ends & TARGET and not unsent:
            exchange.break_off()  # the client has got the end, so the tunnel is complete, as with its END_STREAM
        else:
            exchange.cancel(fault)
        self.record()
        return True

    def note_discarded(self, unsent: int) -> None:
        """Record the number of bytes that were not sent: the client has reset the stream, which ends next."""
        if self.exchange is not None:  # otherwise the response is recorded already
            self._discarded = unsent

    def _unsent(self) -> int:
        """Number of bytes of the response that are discarded with the stream."""
        return self._discarded + self._connection.session.held(self.id)

    def _discount(self, exchange: Exchange, unsent: int) -> None:
        """Subtract bytes that were not sent. The bytes of tunnels stay: they are counted before filters, which may add
        close frames.
        """
        if not self.is_tunnel:
            exchange.response_bytes = max(exchange.response_bytes - unsent, 0)


def lines_of(trailers: Trailers) -> bytes:
    """Return the serialized lines of trailers."""
    parts: list[bytes] = []
    for name, value in trailers:
        parts += (name, b": ", value, b"\r\n")
    return b"".join(parts)
