"""A client connection over HTTP/2: its bytes, streams, limits, timeouts, and its end.

Rule 1: it writes once per iteration of the event loop, for all of its streams, and before it resets one. Rule 2: each
stream beyond the first counts in the node's connection limits, like a connection over HTTP/1.1. Rule 3: timeouts apply
while reading is paused, and while the client does not read.
"""

from __future__ import annotations

from collections import deque
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import cython

from fastgw.downstream.http1.defect_response import answer_defect
from fastgw.downstream.http1.rejected_head import rejected_head
from fastgw.downstream.http2.stream import Http2Stream, MultiplexedConnection
from fastgw.errors import Fault, fault_of
from fastgw.eventloop.idle_order import put_last
from fastgw.eventloop.socket_transport import SocketTransport, unread_in_kernel
from fastgw.exchange import Trailers
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import read_http2_request
from fastgw.http.http1.trailers import TRAILERS_TOO_LARGE, parse_trailers
from fastgw.http.http2.session import (
    BROKEN,
    CLOSED,
    CONNECT,
    DATA,
    DISCARDED,
    END,
    ENDING,
    FEW_EVENTS,
    FULL,
    HAS_OUTPUT,
    HEAD,
    HOLDS,
    IN_HEAD,
    MALFORMED,
    PONG,
    REFUSED,
    REQUEST,
    SENT,
    TOO_LONG,
    WHOLE,
    ErrorCode,
    Event,
    Session,
    framing_bytes,
    stalled_streams,
)
from fastgw.http.malformed import Malformed
from fastgw.http.messages import RequestHead
from fastgw.http.percent_encoding import encode_utf8_target
from fastgw.http.websocket.handshake import upgrade_for
from fastgw.operator_events import OperatorEvent, log_event

if TYPE_CHECKING:
    from fastgw.downstream.server import Listener, Server
    from fastgw.shm.node_limits import AddressLimit

REQUESTS_PER_TURN: Final = 16
"""Maximum number of requests that begin in one iteration of the event loop: further ones wait until other connections
were served.
"""
LAST_REQUEST_S: Final = 1.0
"""Seconds after the first GOAWAY in which further streams are accepted: they may be in transit."""
READ_WHILE_UNSENT: Final = 65536
"""Maximum bytes that are read from a client that does not read its responses; then reading pauses."""
REQUESTS: Final = frozenset((WHOLE, HEAD, CONNECT, REQUEST))
WHY_NOT_HELD: Final = "the worker's memory for received bodies is used up, and nothing of this one was taken"
SPARE_STREAMS: Final = 32
"""Maximum number of closed streams that are kept for reuse."""


class Http2ClientConnection(MultiplexedConnection):
    def __init__(self, server: Server, listener: Listener, peer: Peer) -> None:
        bounds = listener.http2
        self.session = Session(
            False,
            peer.tls is not None,
            server.worker_loop.wheel.now,
            bounds.max_concurrent_streams,
            bounds.stream_window,
            bounds.shared_window,
            server.header_bytes,
            server.header_count,
            listener.takes_tunnels,
        )
        self.sending = []
        self._streams: dict[int, Http2Stream] = {}
        self._spare: list[Http2Stream] = []
        self._events: deque[Event] = deque()  # events for the next loop iteration
        self._last_calls = 0  # 1: GOAWAY was announced; 2: no further streams
        self._last_calls_at = inf  # when the second GOAWAY is due
        self._stalled_at = inf  # when the client, or its close, has stalled
        self._closing = False  # the transport is closing
        self.closed = False
        self._read_while_unsent = 0
        self._full = 0  # `FULL`: the process holds too many bytes of bodies
        self._flush_is_due = False
        self._head_begun_at: float | None = None  # when the first bytes of an incomplete head came
        self._awaits_head = False  # its deadline is that of an incomplete head, with other streams open

    def __repr__(self) -> str:
        return f"<Http2ClientConnection {self.peer.ip} requests={self.requests} streams={len(self._streams)}>"

    @property
    def is_tunnel(self) -> bool:
        """Whether one of its streams is a tunnel."""
        return any(stream.is_tunnel for stream in self._streams.values())

    # calls of the event loop

    def shed(self, fault: Fault) -> None:
        self.transport.abort()  # load shedding: no lingering

    def attach_transport(self, transport: SocketTransport, address_limit: AddressLimit | None) -> None:
        MultiplexedConnection.attach_transport(self, transport, address_limit)
        self.flush_soon()

    def buffer_updated(self, nbytes: cython.Py_ssize_t) -> None:
        self.receive(self.buffer, nbytes)

    def receive(self, received: Any, length: cython.Py_ssize_t) -> None:
        """Handle bytes of the client."""
        session = self.session
        events = session.feed(received, length, self._wheel.now)
        if events:
            if self._events:
                self._events.extend(events)  # after earlier events
            else:
                self._handle(events)
        if self.write_paused:
            self._read_while_unsent += length
            if self._read_while_unsent > READ_WHILE_UNSENT:
                self._stop_or_start()
        if self._awaits_head and not session.in_head:
            self._awaits_head = False
            if self._streams and not self.write_paused and not self._last_calls:
                self.deadline = inf
        framing = framing_bytes(events) if len(events) > FEW_EVENTS else 0
        self.reads.count(self, length, framing)
        state = session.state()
        if state & FULL and not self._full:
            self._stop_or_start()  # at once: the loop may read from it many times before it flushes
        if state and not self._flush_is_due:
            self.flush_soon()

    def eof_received(self) -> bool:
        self.peer_left()
        return False

    def peer_left(self) -> None:
        self._break_off_all(Fault.CLIENT_LEFT)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._break_off_all(Fault.CLIENT_LEFT)
        self._forget()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unsent = self.transport.unsent()
        self._await_client()

    def _await_client(self) -> None:
        self._stalled_at = self._wheel.now + self.server.timeouts.response_idle
        self.watch(self.server.timeouts.response_idle)

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._last_calls == 1:
            self._wheel.watch(self, self._last_calls_at)
        self._read_while_unsent = 0
        self._stop_or_start()
        if not self._closing:
            self._flush()

    def expire(self, now: float) -> None:
        if now >= self._last_calls_at:
            self._call_last()
            if not (self.write_paused or self._closing):
                if self.session.in_head:
                    self.watch(self.server.timeouts.request_headers)
                return
        if self.write_paused or self._closing:
            if now < self._stalled_at:
                self._wheel.watch(self, self._stalled_at)
            elif self.write_paused and (left := self.transport.unsent()) < self._unsent:
                self._unsent = left
                self._await_client()
            else:  # the client does not read its responses, or does not close
                self._break_off_all(Fault.CLIENT_STALLED)
                self.abort()
        elif self.session.in_head or not self._streams:
            self._end(ErrorCode.NO_ERROR)

    def _stop_or_start(self) -> None:
        """Pause or resume reading of the transport."""
        self._full = self.session.state() & FULL
        crowded = self.server.worker_loop.crowded
        (crowded.add if self._full else crowded.discard)(self)
        blocked = self.write_paused and self._read_while_unsent > READ_WHILE_UNSENT
        if self._closing:
            return
        if blocked or self._events or self._full:
            self.stop_reading()
        else:
            self.start_reading()

    # received frames

    def _handle(self, events: list[Event]) -> None:
        if len(events) > REQUESTS_PER_TURN:
            events = self._keep_rest_back(events)
        streams = self._streams
        kind: cython.int
        for kind, number, value in events:
            try:
                if kind == WHOLE:
                    self._begin_request(number, value, b"")
                elif kind == REQUEST:
                    text, payload = value
                    self._begin_request(number, text, payload)
                elif kind == CLOSED:
                    closed: Http2Stream | None = streams.pop(number, None)
                    if closed is not None:
                        self._stream_closed(closed)
                elif kind != PONG:  # also in place of a body that has become a part of its request
                    self._handle_event(kind, number, value)
            except Exception:  # the edge of this stream: the others of the connection continue
                self.fail_after_defect(number)

    def _keep_rest_back(self, events: list[Event]) -> list[Event]:
        """Return the events up to the last request of this turn; the others are handled in the next one."""
        left = REQUESTS_PER_TURN
        for place, event in enumerate(events):
            if event[0] in REQUESTS:
                if not left:
                    self._events.extend(events[place:])
                    self._stop_or_start()
                    self.server.worker_loop.loop.call_soon(self._resume_requests)
                    return events[:place]
                left -= 1
        return events

    def _handle_event(self, kind: cython.int, number: cython.int, value: Any) -> None:
        streams = self._streams
        if kind == CONNECT:
            protocol, text, ended = value
            self._begin_request(number, upgrade_for(text, protocol), b"" if ended else None, protocol)
        elif kind == HEAD:
            self._begin_request(number, value, None)
        elif kind == DATA:
            stream = streams.get(number)
            if stream is not None:
                stream.read_body(value)
        elif kind == END:
            stream = streams.get(number)
            if stream is not None:
                self._end_request(stream, value)
        elif kind == SENT:
            stream = streams.get(number)
            if stream is not None:
                stream.look_at_held()
        elif kind == REFUSED:
            self._refuse(number, Fault.BAD_REQUEST, value)
        elif kind == TOO_LONG and value is None:
            self._refuse(number, Fault.HEAD_TOO_LARGE, TRAILERS_TOO_LARGE)
        elif kind == TOO_LONG:
            target = value.partition(b" ")[2].partition(b" ")[0]
            too_long = len(target) > self.server.header_bytes // 2
            self._refuse(number, Fault.TARGET_TOO_LONG if too_long else Fault.HEAD_TOO_LARGE, None, value)
        elif kind == MALFORMED:
            if number not in streams:
                self._refuse(number, Fault.BAD_REQUEST, f"{value}.")
        elif kind == BROKEN:
            stream = streams.get(number)
            if stream is not None:  # it cannot be answered
                stream.break_off(Fault.BAD_REQUEST)
        elif kind == DISCARDED:
            stream = streams.get(number)
            if stream is not None:
                stream.note_discarded(value)

    def fail_after_defect(self, number: int) -> None:
        """Log the exception that is being handled and end its stream: answer 500, or reset it if its response has
        begun.
        """
        log_event(OperatorEvent.DEFECT, "a defect in stream %d of %s", number, self.peer.ip, error=True)
        stream = self._streams.get(number)
        if stream is not None:
            exchange = stream.exchange
            if answer_defect(exchange, self.peer.ip):
                return
            stream.break_off(Fault.INTERNAL)
        self.session.reset(number, ErrorCode.INTERNAL_ERROR)
        self.flush_soon()

    def _resume_requests(self) -> None:
        """Continue with this client's requests, after other connections were served."""
        events, self._events = list(self._events), deque()
        if not self.closed and not self._closing:
            self._handle(events)
            self._stop_or_start()
            self.flush_soon()

    def _begin_request(self, number: cython.int, text: bytes, payload: bytes | None, protocol: bytes = b"") -> None:
        """Begin the request of a head. `payload`: the body, if all of the request was received with the head; None: its
        end comes later. `protocol`: that of an extended CONNECT.
        """
        server, listener = self.server, self.listener
        if self._trusts is not listener.trusts and not self.check_peer():
            self._refuse(number, Fault.CONNECTION_OUTDATED, None, text)
            self.leave()
            return
        try:
            head = read_http2_request(text, server.header_count, payload)
        except Malformed as malformed:
            self._begin_malformed(malformed, number, text, payload, protocol)
            return
        if protocol:
            head.came_by_connect(protocol)
        if self._head_begun_at is not None:
            self._note_reception(head)
        is_alone = not self._streams
        stream = self._open(number)
        stream.receiving = payload is None
        if not is_alone:
            ip = self.peer.ip
            address_limit = server.address_limit_for(listener, ip)
            fault = server.admit(ip, address_limit)
            if fault is not None:
                stream.reject(rejected_head(text), fault, None)
                return
            stream.has_place, stream.address_limit = True, address_limit
        stream.serve(head)

    def _open(self, number: cython.int) -> Http2Stream:
        """Open a stream for a request."""
        stream: Http2Stream = self._spare.pop() if self._spare else Http2Stream(self)
        stream.id = number
        if not self._streams and not self.write_paused and not self._last_calls:
            self.deadline = inf
        self._streams[number] = stream
        self.requests += 1
        return stream

    def _begin_malformed(
        self, malformed: Malformed, number: int, text: bytes, payload: bytes | None, protocol: bytes
    ) -> None:
        """Refuse a request, unless it is in order once its target is encoded."""
        if self.listener.tolerates_utf8_targets and (encoded := encode_utf8_target(text)) != text:
            self._begin_request(number, encoded, payload, protocol)
        else:
            self._refuse(number, fault_of(malformed), malformed.reason, text)

    def _refuse(self, number: int, fault: Fault, detail: str | None, received: bytes = b"") -> None:
        """Reject a request that must not be served, or whose stream was reset; both are logged."""
        head = rejected_head(received, 20)
        stream = self._streams.get(number)
        if stream is None:
            if self._head_begun_at is not None:
                self._note_reception(head)
            self._open(number).reject(head, fault, detail)
        elif (exchange := stream.exchange) is not None:
            exchange.fail(fault, detail)  # its trailers are invalid

    def _note_reception(self, head: RequestHead) -> None:
        """Record how long a head took that came in more than one read."""
        assert self._head_begun_at is not None
        head.received_s, self._head_begun_at = monotonic() - self._head_begun_at, None

    def _end_request(self, stream: Http2Stream, lines: bytes) -> None:
        trailers: Trailers = ()
        if lines:
            self._head_begun_at = None  # it was theirs
            limits = self.server.header_bytes, self.server.header_count
            try:
                trailers = parse_trailers(b"\r\n" + lines + b"\r\n", *limits)
            except Malformed as malformed:
                self._refuse(stream.id, fault_of(malformed), malformed.reason)
                return
        stream.end_body(trailers)

    def _stream_closed(self, stream: Http2Stream) -> None:
        """Handle a closed stream: both sides have ended, or one has reset it."""
        if stream.exchange is not None:
            stream.break_off(Fault.CLIENT_LEFT)
        server = self.server
        if stream.filed_at != inf:
            self._wheel.drop(stream)
        if stream.has_place:
            stream.has_place = False
            server.release(self.peer, stream.address_limit)
        if len(self._spare) < SPARE_STREAMS:
            stream.reset()
            self._spare.append(stream)
        if self._streams:
            return
        put_last(server.idle, self)
        if self._last_calls == 2:
            self.flush_soon()
        elif not self._last_calls and not self.write_paused:
            self._wheel.watch(self, self._wheel.now + server.keepalive)

    # output

    def flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self.server.worker_loop.loop.call_soon(self._flush)

    def look_at_room(self) -> None:
        """Break off uploads whose receivers take nothing, because nothing of the others is read meanwhile."""
        for stream in stalled_streams(self.session, self._streams.values(), self._wheel.now):
            stream.cut(Fault.OVERLOADED, WHY_NOT_HELD)
        if not self.session.unconsumed:
            self.server.worker_loop.holders.discard(self)
        self.flush_soon()

    def flush_alone(self) -> None:
        if len(self._streams) == 1 and not self._flush_is_due:
            self._flush()
        else:
            self.flush_soon()

    def _flush(self) -> None:
        self._flush_is_due = False
        if self.closed or self._closing:
            return
        session = self.session
        if not self.write_paused and (rest := session.send_on(self.transport.plain_fd)):
            self.transport.write(rest)
        events = session.events()
        if events:
            if self._events:
                self._events.extend(events)
            else:
                self._handle(events)
        state = session.state()
        if not state & IN_HEAD:
            self._head_begun_at = None
        elif self._head_begun_at is None:
            self._head_begun_at = monotonic()
        if state & FULL != self._full:
            self._stop_or_start()
        if state & HAS_OUTPUT:
            self._write_all()  # more than one piece, or the last words after an error
        if self.sending:
            stream: Http2Stream
            for stream in self.sending:
                if state & HOLDS or stream.braked:
                    stream.look_at_held()
            self.sending.clear()
        if self._last_calls == 2 and not self._streams:
            self._end(ErrorCode.NO_ERROR)
        elif state & ENDING:
            if (session.error is not None or session.done) and not self.write_paused:
                self._break_off_all(Fault.CLIENT_LEFT)
                self.close()
        elif state & IN_HEAD and self.deadline == inf:
            self._awaits_head = True
            self.watch(self.server.timeouts.request_headers)

    def write_before_reset(self) -> None:
        """Write pending output as far as the client's windows allow: the session sends a reset before it, and drops
        that of the stream.
        """
        if not (self.closed or self._closing):
            self._write_all()

    def _write_all(self) -> None:
        session, wrote = self.session, False
        while not self.write_paused and (rest := session.send_on(self.transport.plain_fd)):
            self.transport.write(rest)
            wrote = True
        if wrote:
            self.flush_soon()  # it handles the events of these pieces: a source may wait for them

    def _end(self, code: int) -> None:
        """Close with GOAWAY."""
        if self.session.error is None and not self._closing:
            self.session.terminate(code)
            while message := self.session.to_send():
                self.transport.write(message)
        self.close()

    # endings

    def _break_off_all(self, fault: Fault) -> int:
        """Cancel the exchanges of all streams; return their number."""
        count = 0
        for stream in tuple(self._streams.values()):
            count += stream.break_off(fault)
        return count

    def close(self) -> None:
        """Close after all data was sent, within the write timeout of the client."""
        if not self._closing and not self.closed:
            self._closing = True
            self._await_client()
            self.transport.close()

    def close_idle(self) -> bool:
        """Close with GOAWAY at once, to make room for another connection (`Idler`): without streams it is idle."""
        if self._streams or self._events or self._closing or self.closed or unread_in_kernel(self.transport.fd):
            return False
        self._end(ErrorCode.NO_ERROR)
        self._forget()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        return True

    def abort(self) -> None:
        self._forget()
        self.transport.abort()

    def _forget(self) -> None:
        if self.closed:
            return
        self.closed = True
        for stream in tuple(self._streams.values()):
            self._stream_closed(stream)
        self._streams.clear()
        self._spare.clear()
        self.sending.clear()
        self._events.clear()
        self.server.worker_loop.crowded.discard(self)
        self.server.worker_loop.holders.discard(self)
        self.leave_server()

    def watch(self, seconds: float) -> None:
        self._wheel.watch(self, min(self._wheel.now + seconds, self._last_calls_at))

    # drain

    def leave(self) -> None:
        """Announce the end with GOAWAY, because the listener closes, and accept streams in transit for a short time."""
        if not self._last_calls and not self._closing:
            self._last_calls = 1
            self.session.announce_goaway()
            self.flush_soon()
            self._last_calls_at = self._wheel.now + LAST_REQUEST_S
            self.watch(LAST_REQUEST_S)

    def certificate_expires_soon(self) -> None:
        """Announce the end, because the client's certificate expires soon."""
        self.leave()

    def certificate_expired(self) -> None:
        """Accept no further streams, because the client's certificate has expired. Tunnels continue."""
        self._trusts, self._certificate_expired = None, True
        self.leave()

    def _call_last(self) -> None:
        self._last_calls, self._last_calls_at = 2, inf
        self.session.goaway()
        self.flush_soon()

    def drain(self) -> None:
        """Call `leave`, and end tunnels that one side has ended."""
        self.leave()
        for stream in tuple(self._streams.values()):
            if stream.is_tunnel:
                stream.drain_tunnel()

    def end_outdated(self) -> None:
        """End tunnels at once if the verification of the client certificate is outdated; further requests are
        rejected. Announce the end if the listener does not speak HTTP/2 any more.
        """
        if not self.listener.speaks_http2:
            self.leave()
        if self.listener.is_outdated(self._vouched):
            for stream in tuple(self._streams.values()):
                if stream.is_tunnel:
                    stream.break_off(Fault.CONNECTION_OUTDATED)
                    self.session.reset(stream.id, ErrorCode.CANCEL)
            self.flush_soon()

    def cut(self) -> int:
        """Abort at once, with a 503 if no response has begun. Returns the number of aborted exchanges."""
        count = self._cut_streams(requests=True, tunnels=True)
        self._end(ErrorCode.NO_ERROR)
        self.abort()
        return count

    def cut_requests(self) -> int:
        """Abort everything except tunnels, like `cut`. Returns the number of aborted exchanges."""
        if not self.is_tunnel:
            return self.cut()
        count = self._cut_streams(requests=True, tunnels=False)
        self.flush_soon()
        return count

    def cut_tunnels(self) -> int:
        """Abort all tunnels. Returns their number."""
        count = self._cut_streams(requests=False, tunnels=True)
        self.flush_soon()
        return count

    def _cut_streams(self, requests: bool, tunnels: bool) -> int:
        count = 0
        for stream in tuple(self._streams.values()):
            if tunnels if stream.is_tunnel else requests:
                count += stream.cut(Fault.GATEWAY_STOPPED)
        return count
