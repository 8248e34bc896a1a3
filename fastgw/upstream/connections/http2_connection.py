"""A connection to a target over HTTP/2 (RFC 9113), and its streams: it lends as many as the target allows.

Rule 1: it writes once per loop iteration, for all of its streams. Rule 2: received data is credited to the flow-control
windows when its listener has taken the data: a paused stream buffers at most its window, and does not delay others,
because the connection's window is that of all its streams together, and because it is broken off where the process
holds too many bytes. Rule 3: requests that the target declares unprocessed (GOAWAY, REFUSED_STREAM) fail with
`Fault.STREAM_REFUSED`, after which any request may be retried. Rule 4: responses are reported as with HTTP/1: the
session renders a head as HTTP/1 text, and the same parser reads it. A response that is complete at the end of a read is
reported as a whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import Any, Final, final

import cython

from fastgw.config.settings.upstreams import MOST_HEADERS
from fastgw.errors import Fault
from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Trailers
from fastgw.exchange.reply import NO_CONTENT
from fastgw.http.http1.parser import read_http2_response
from fastgw.http.http1.trailers import TRAILERS_TOO_LARGE, parse_trailers
from fastgw.http.http2._session import HeldBytes, Session
from fastgw.http.http2.session import (
    BROKEN,
    CLOSED,
    DATA,
    END,
    ENDING,
    FEW_EVENTS,
    FULL,
    GOAWAY,
    HEAD,
    INTERIM,
    MALFORMED,
    PONG,
    REFUSED,
    SETTINGS,
    TOO_LONG,
    WHOLE,
    ErrorCode,
    Event,
    framing_bytes,
    reset_reason,
    stalled_streams,
)
from fastgw.http.malformed import Malformed
from fastgw.http.messages import ResponseHead
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.connections.pooled_connection import HttpConnection
from fastgw.upstream.connections.stream import (
    AWAITING,
    IDLE,
    NOT_ACCEPTED,
    RECEIVING,
    TOO_MANY_INTERIM,
    ResponseListener,
    UpstreamStream,
)
from fastgw.upstream.connections.stream import CLOSED as OVER
from fastgw.upstream.connections.tls_client import TlsBroken
from fastgw.upstream.targets.target import MOST_STREAMS, Target

STREAM_WINDOW: Final = 64 * 1024**2
"""Maximum flow-control window of a stream, on long paths: bytes of a response that are buffered for a slow client."""
CONNECTION_WINDOW: Final = MOST_STREAMS * 65536 + 4 * STREAM_WINDOW
MOST_USES: Final = 2**29
"""Number of streams after which a connection is replaced: stream identifiers end at 2**31 (RFC 9113 section 5.1.1)."""
SILENCE_S: Final = 10.0
"""Seconds without a byte, with streams in flight or ended without one, after which a PING is sent."""
PONG_S: Final = 5.0
"""Seconds in which the target has to send anything after a PING."""
FURTHER_PINGS_S: Final = 330.0
"""Seconds between PINGs of which only the answer was received: gRPC servers treat more than one in 5 minutes as abuse,
and end the connection, unless they have sent something else in between."""
HTTP2: Final = "h2"
"""Its name for ALPN."""
NOT_HTTP2: Final = "the target does not speak HTTP/2"
SPEAKS_HTTP1: Final = "the target has answered with HTTP/1, not HTTP/2: it needs `protocol: http1` or `auto`"
NO_SETTINGS: Final = "the target has closed the connection before its SETTINGS: it may not speak HTTP/2"
NO_STREAMS: Final = "the target accepts no requests (SETTINGS_MAX_CONCURRENT_STREAMS is 0)"
_HTTP1: Final = b"HTTP/1."
HEAD_TOO_LONG: Final = -2
"""Instead of a number: the request's head is longer than the target accepts."""
MOST_HELD: Final = 65536
"""Bytes of a request that wait to be sent above which its source is paused until half of them are sent, even if the
target's windows admit more. What they do not admit pauses it at once, and stays counted where it was received.
"""
MAX_FIELDS: Final = MOST_HEADERS + 1
"""Maximum number of header lines of a response, plus the line for the framing of its text. The session has the limit of
the upstream (`response_limits`).
"""
NEEDS_HTTP1: Final = reset_reason(ErrorCode.HTTP_1_1_REQUIRED)
"""Reason of a refusal after which the request may be sent over HTTP/1.1 (RFC 9113 section 7)."""
_UNSIZED: Final = b"transfer-encoding: chunked\r\n\r\n"
"""End of the text of a head whose body has no declared length. No target can send it: HTTP/2 forbids this header."""


@final
class KeptBody(deque[bytes]):
    """Data received while its listener was paused."""

    __slots__ = ("_held",)

    def count_held(self) -> None:
        """Count it as held bytes of the process from now on: its stream is closed."""
        self._held = HeldBytes(sum(map(len, self)))


class Http2UpstreamStream(UpstreamStream):
    """One request and its response: a stream is not reused."""

    def _begin(self, connection: Http2UpstreamConnection) -> None:
        self._set_up(connection.target, connection._wheel)
        self._connection = connection
        self.reused, self.established = connection.uses > 1, connection.established
        self.waits_since = inf  # if it is paused: when that began
        self._number = 0
        self._held_at_last_look = 0
        self._head_text: bytes | None = None  # of a response that is not reported yet
        self._early: list[bytes] = []  # its body so far
        self._kept: KeptBody | None = None  # received while it was paused
        self._ended: Trailers | None = None  # end of the response that is not reported yet

    def __repr__(self) -> str:
        return f"<Http2UpstreamStream {self._number} {self.target.label} {self.phase.name}>"

    # calls of the borrower (`UpstreamStream`)

    def send_request(self, listener: ResponseListener, request: bytes, method: bytes) -> None:
        connection = self._connection
        self._listener, self._method = listener, method
        self.phase = AWAITING
        self._number = connection.start_request(self, request, not self._sending)
        if self._number == HEAD_TOO_LONG:
            why = "the target accepts no head of this length (SETTINGS_MAX_HEADER_LIST_SIZE)"
            connection.worker_loop.loop.call_soon(self.break_off, Fault.HEAD_TOO_LARGE, why)
            return
        if self._number < 0:
            connection.worker_loop.loop.call_soon(self.lose, Fault.STREAM_REFUSED, "")
            return
        if self._sending or len(request) > MOST_HELD:
            self._see_held(connection.session.held(self._number))
        self._watch_head()

    def send_body(self, payload: bytes) -> None:
        if self._number <= 0 or not self._sending:
            return
        if self._targets_turn:  # it had to request the body, which is now sent without that
            self._targets_turn = False
            self._watch_head()
        self._extend_idle()
        connection = self._connection
        self._see_held(connection.session.send(self._number, payload))
        connection.flush_soon()

    def end_body(self, trailers: Trailers) -> None:
        if self._number <= 0 or not self._sending:
            return
        self._sending = False
        self._targets_turn = True
        self._watch_head()
        self._extend_idle()
        self._connection.session.end(self._number, b"".join([b"%b: %b\r\n" % line for line in trailers]))
        self._connection.flush_soon()

    def _see_held(self, held: int) -> None:
        """Update the number of bytes of the request that wait to be sent, and pause its source."""
        if self.write_paused:
            self._held_at_last_look = held
        elif held > MOST_HELD or not self._connection.admits(self._number):
            self._connection.holding.add(self)
            self.write_paused = True
            self._held_at_last_look = held
            self._watch_head()
            if self._source is not None:
                self._source.pause()

    def look_at_held(self) -> None:
        """Resume the source of the request if the target has accepted enough."""
        connection = self._connection
        held = connection.session.held(self._number)
        if held < self._held_at_last_look:
            self._held_at_last_look = held
            self._watch_head()
            self._extend_idle()
        if held <= MOST_HELD // 2 and connection.admits(self._number):
            connection.holding.discard(self)
            self.write_paused = False
            self._watch_head()
            if self._source is not None:
                self._source.resume()

    def pause(self) -> None:
        if not self.paused and self.phase in (AWAITING, RECEIVING):
            self.paused, self.waits_since = True, self._wheel.now
            self._connection.worker_loop.holders.add(self._connection)
            self.deadline = inf

    def resume(self) -> None:
        if not self.paused:
            return
        self.paused, self.waits_since = False, inf
        if self.phase is AWAITING:
            self._watch_head()
        elif self.phase is RECEIVING:
            self._watch(self.idle_timeout)
            self._deliver_kept()

    def release(self) -> None:
        if self.phase is not OVER:
            open_still = self._ended is None or self._sending
            self._end(reset=open_still)

    def forget(self) -> None:
        """Drop the stream, because the connection was closed. No listener is called."""
        self.phase = OVER
        self._listener = self._source = None
        self._wheel.drop(self)

    def _end(self, reset: bool) -> None:
        self.forget()
        self._kept = None
        self._connection.end_stream(self, self._number, reset)

    def expire(self, now: float) -> None:
        if self.phase is AWAITING:
            self.break_off(Fault.UPSTREAM_TIMEOUT, NOT_ACCEPTED if self.write_paused else "")
        elif self.phase is RECEIVING:
            self.break_off(Fault.UPSTREAM_STALLED, "")

    # calls of the connection

    def take_interim(self, text: bytes) -> None:
        """Handle an interim response."""
        try:
            head = self._parsed(text, text)
        except Malformed as malformed:
            self.break_off(Fault.UPSTREAM_MALFORMED, malformed.reason)
            return
        if not self._report_interim(head):
            self.break_off(Fault.UPSTREAM_MALFORMED, TOO_MANY_INTERIM)

    def take_head(self, text: bytes, ended: bool) -> None:
        """Handle the final head; data after it is kept until `take_rest`."""
        self._head_text = text
        if ended:
            self._ended = ()

    @property
    def has_ended(self) -> bool:
        """Whether the response was received completely."""
        return self._ended is not None

    def take_data(self, payload: bytes) -> None:
        """Handle a piece of the response's body."""
        if self._head_text is not None:
            self._early.append(payload)
        elif self.paused or self._kept is not None:
            if self._kept is None:
                self._kept = KeptBody()
            self._kept.append(payload)
        elif self.phase is RECEIVING:
            self.deadline = self._wheel.now + self.idle_timeout
            listener = self._listener  # it stays until its method returns
            listener.on_data(payload)
            self._consume(len(payload))

    def take_end(self, lines: bytes) -> None:
        """Handle the end of the response; `lines`: its trailers."""
        trailers: Trailers = ()
        if lines:
            try:
                rules = self.target.response_rules
                trailers = parse_trailers(b"\r\n" + lines + b"\r\n", rules.header_bytes, rules.header_count)
            except Malformed as malformed:
                self.break_off(Fault.UPSTREAM_MALFORMED, malformed.reason)
                return
        self._ended = trailers
        if self._kept is not None:
            self._kept.count_held()
        if self._head_text is None and not self.paused and self._kept is None:
            self._tell_end()

    def take_rest(self) -> None:
        """Report the head with the received part of the body, unless that was done."""
        text, self._head_text = self._head_text, None
        if text is None or self.phase is not AWAITING:
            return
        payload = b""
        if self._early:
            payload, self._early = b"".join(self._early), []
        ended = self._ended is not None and not self._ended
        received = text
        if ended and text.endswith(_UNSIZED):
            length = b"content-length: %d\r\n\r\n" % len(payload) if payload else b"\r\n"
            text = text[: -len(_UNSIZED)] + length
        if ended:
            received = text + payload
        try:
            head = self._parsed(text, received)
        except Malformed as malformed:
            self.break_off(Fault.UPSTREAM_MALFORMED, malformed.reason)
            return
        listener = self._listener
        if not head.has_body:
            if payload:
                self.break_off(Fault.UPSTREAM_MALFORMED, "There is a body where none may be.")
                return
            if self._method == b"HEAD" or head.status in NO_CONTENT:
                ended = True  # what follows is ignored; after a declared length of 0 there may be trailers
        if ended:
            self.phase = IDLE
            self._listener = None
            self.deadline = inf
            listener.on_head(head, None if head.whole else payload, True)
            return
        self.phase = RECEIVING
        self._watch(self.idle_timeout)
        listener.on_head(head, payload, False)
        self._consume(len(payload))
        if self._ended is not None and not self.paused and self._kept is None and self.phase is RECEIVING:
            self._tell_end()  # else the listener has cancelled it

    def take_break(self) -> None:
        """Handle that the stream was reset here, because of an error in the response; its end follows."""
        if self._ended is None:
            self._fail(
                Fault.UPSTREAM_MALFORMED,
                "HTTP/2: an error of the stream, such as a body of another length than stated",
                silent=False,
            )

    def take_close(self, code: int) -> None:
        """Handle the end of the stream. A response that has not ended is broken."""
        if self._ended is not None:
            self._sending = False  # no more is accepted
            return
        needs_http1 = self._connection.needs_http1 or code == ErrorCode.HTTP_1_1_REQUIRED
        if needs_http1 and self._has_no_response and self.target.negotiates:
            self.lose(Fault.STREAM_REFUSED, NEEDS_HTTP1)
        elif code == ErrorCode.REFUSED_STREAM and self._has_no_response:  # otherwise something was processed
            self.lose(Fault.STREAM_REFUSED, "")
        else:
            fault = Fault.UPSTREAM_INCOMPLETE if self.phase is RECEIVING else Fault.CONNECTION_LOST
            self._fail(fault, reset_reason(code), silent=False, reset_code=code)

    @property
    def _has_no_response(self) -> bool:
        return self.phase is AWAITING and self._head_text is None and not self._informed

    def lose(self, fault: Fault, why: str) -> None:
        """Handle the loss of the connection, or that the target has refused the request unprocessed."""
        if self.phase is OVER or self._listener is None:
            return
        if fault is Fault.CONNECTION_LOST and self.phase is RECEIVING:
            fault = Fault.UPSTREAM_INCOMPLETE
        self._fail(fault, why)

    @property
    def kept_bytes(self) -> int:
        """Number of bytes that were received while it was paused."""
        return sum(map(len, self._kept or ()))

    def break_off(self, fault: Fault, why: str) -> None:
        """End the stream because of a fault, usually of the target."""
        if self.phase is not OVER and self._listener is not None:
            self._fail(fault, why, silent=None if fault is Fault.UPSTREAM_TIMEOUT else False, reset=True)

    def _fail(
        self,
        fault: Fault,
        why: str,
        silent: bool | None = None,
        reset: bool = False,
        reset_code: int | None = None,
    ) -> None:
        listener, self.reset_code = self._listener, reset_code
        if silent is None:
            silent = self.phase is AWAITING and not self._informed
        self._end(reset)
        if listener is not None:
            listener.on_failure(fault, silent, why)

    # calls to the listener

    def _parsed(self, text: bytes, received: bytes) -> ResponseHead:
        return read_http2_response(received, len(text), self._method, MAX_FIELDS)

    def _deliver_kept(self) -> None:
        """Report data received while it was paused, as far as it is still wanted."""
        kept = self._kept
        while kept:
            if self.paused or self.phase is not RECEIVING:
                return
            payload = kept.popleft()
            listener = self._listener  # it stays until its method returns
            listener.on_data(payload)
            self._consume(len(payload))
        self._kept = None
        if self._ended is not None and not self.paused and self.phase is RECEIVING:
            self._tell_end()

    def _consume(self, length: cython.Py_ssize_t) -> None:
        """Credit received bytes to the window."""
        if length and self.phase is RECEIVING and self._ended is None:
            self._connection.session.consume(self._number, length)
            self._connection.flush_soon()

    def _tell_end(self) -> None:
        trailers, listener = self._ended, self._listener
        self.phase = IDLE
        self._listener = None
        self.deadline = inf
        listener.on_end(trailers)


class Http2UpstreamConnection(HttpConnection):
    def __init__(self, worker_loop: WorkerLoop, pool: Any, target: Target) -> None:
        now, rules = worker_loop.wheel.now, target.response_rules
        HttpConnection.__init__(self, worker_loop, pool, target)
        self.session = Session(
            *(True, target.tls is not None, now, MOST_STREAMS, STREAM_WINDOW, CONNECTION_WINDOW),
            *(rules.header_bytes, rules.header_count),
        )
        self.needs_http1 = False
        """Whether the target has ended it because it requires HTTP/1.1."""
        self.capacity = MOST_STREAMS
        self._gone = False
        self._streams: dict[int, Http2UpstreamStream] = {}
        self._begun: list[Http2UpstreamStream] = []  # their response has begun, and is not reported yet
        self._begun_before = 0  # number of those that have waited for a turn of the loop
        # Their bodies wait for the target's windows, or its socket: they are called when fewer bytes do.
        self.holding: set[Http2UpstreamStream] = set()
        self._flush_is_due = False
        self._full = 0  # `FULL`: it is not read from, as the process holds too many bytes of bodies
        self._heard_at = now  # time of the last byte, or of the first request after it
        self._unheard = False  # a request was sent since the last byte, also one that has ended meanwhile
        self._asked_at = -inf  # time of the last PING
        self._settled: asyncio.Future[str] | None = worker_loop.loop.create_future()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._streams)} of {self.capacity} streams"
        return f"<Http2UpstreamConnection {self.target.label} {state} uses={self.uses}>"

    def negotiated(self, protocol: str | None) -> HttpConnection:
        if protocol != HTTP2:
            raise ConnectionError(f"the target has not chosen {HTTP2} by ALPN")
        return self

    # for the pool

    async def settle(self) -> None:
        """Wait for the target's SETTINGS. Raises `TlsBroken` if TLS has ended the connection before them, otherwise
        `ConnectionError`.
        """
        assert self._settled is not None
        wrong = await self._settled
        if wrong:
            raise (TlsBroken if wrong == self.lost_by else ConnectionError)(wrong)

    @property
    def accepts_none(self) -> bool:
        """Whether the SETTINGS of the target allow no streams."""
        return not self.session.peer_max_streams

    def open_stream(self) -> Http2UpstreamStream:
        stream: Http2UpstreamStream = Http2UpstreamStream.__new__(Http2UpstreamStream)
        stream._begin(self)
        return stream

    def close(self) -> None:
        """Close with GOAWAY. Streams in flight are dropped; their listeners are not called."""
        self.closed = True
        if self._gone:
            return
        self._gone = True
        for stream in tuple(self._streams.values()):
            stream.forget()
        self._streams.clear()
        self.holding.clear()
        self._wheel.drop(self)
        self.worker_loop.crowded.discard(self)
        self.worker_loop.holders.discard(self)
        if self.transport is None or self.transport.is_closing():
            return
        self.session.terminate(ErrorCode.NO_ERROR)
        while message := self.session.to_send():
            self.transport.write(message)
        if self.write_paused:
            self.transport.abort()  # it has not accepted earlier data
        else:
            self.transport.close()

    # for the streams

    def start_request(self, stream: Http2UpstreamStream, request: bytes, ended: bool) -> int:
        """Start a request. Returns its stream identifier; -1: no stream can be opened any more; -2: its head is longer
        than the target accepts.
        """
        number = -1 if self.closed else self.session.request(request, ended)
        if number == HEAD_TOO_LONG:
            return number
        if number < 0:
            self._leave()
            return -1
        if not self._streams and not self._unheard:
            self._heard_at = self._wheel.now
            self._watch(SILENCE_S)
        self._unheard = True
        self._streams[number] = stream
        self.flush_soon()
        if self.uses >= MOST_USES:
            self._leave()
        return number

    def admits(self, number: int) -> bool:
        """Whether what is held of requests can be sent at once, by the windows of the target and by its socket."""
        return not self.write_paused and self.session.admits(number)

    def end_stream(self, stream: Http2UpstreamStream, number: cython.longlong, reset: bool) -> None:
        """End the use of a stream. `reset`: it is still open, so RST_STREAM is sent."""
        self.holding.discard(stream)
        if self._streams.pop(number, None) is not None and reset and not self._gone:
            self.session.reset(number, ErrorCode.CANCEL)
            self.flush_soon()
        self.pool.give_back(self)

    def flush_soon(self) -> None:
        """Write pending output at the end of this loop iteration."""
        if not self._flush_is_due:
            self._flush_is_due = True
            self.worker_loop.loop.call_soon(self._flush)

    def look_at_room(self) -> None:
        """Break off responses that their clients do not read, because nothing of the others is read meanwhile."""
        for stream in stalled_streams(self.session, self._streams.values(), self._wheel.now):
            stream.break_off(Fault.CLIENT_STALLED, "")
        if not self.session.unconsumed:
            self.worker_loop.holders.discard(self)
        self.flush_soon()

    # calls of the event loop

    def connection_made(self, transport: SocketTransport) -> None:
        HttpConnection.connection_made(self, transport)
        self._flush()

    def buffer_updated(self, nbytes: cython.Py_ssize_t) -> None:
        if self._gone:
            return
        self._heard_at = now = self._wheel.now
        self._unheard = False
        events = self.session.feed(self.buffer, nbytes, now)
        if len(events) > 1 or (events and events[0][0] != PONG):
            self._asked_at = -inf
        self._handle(events)
        if not self.uses and nbytes >= len(_HTTP1) and bytes(self.buffer[: len(_HTTP1)]) == _HTTP1:
            self._settle(SPEAKS_HTTP1)
        framing = framing_bytes(events) if len(events) > FEW_EVENTS else 0
        self.reads.count(self, nbytes, framing)
        self.flush_soon()

    def eof_received(self) -> bool:
        self._lose_closed("")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose_closed(f"TLS: {self.lost_by}" if self.lost_by and isinstance(exc, (OSError, TlsBroken)) else "")

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._flush()

    def end_rest(self) -> None:
        if not self._gone and not self._full and not self.transport.is_closing():
            self.transport.resume_reading()

    def expire(self, now: float) -> None:
        """Check that the target responds, while streams are in flight or have ended without a byte, as by a timeout."""
        if not self._streams and not self._unheard:
            return
        if self._full:
            self._heard_at = now  # an answer would not be read
        silent = now - self._heard_at
        if self._asked_at == -inf and silent < SILENCE_S:
            self._watch(SILENCE_S - silent)
        elif self._asked_at == -inf or now - self._asked_at >= FURTHER_PINGS_S:
            self._asked_at = now
            self.session.ping()
            self.flush_soon()
            self._watch(PONG_S)
        elif self._heard_at < self._asked_at <= now - PONG_S:
            self._lose(Fault.CONNECTION_LOST, "no answer to a PING")
            self.transport.abort()
        else:
            self._watch(SILENCE_S)

    # received events

    def _handle(self, events: list[Event]) -> None:
        streams = self._streams
        begun: list[Http2UpstreamStream] = []  # streams whose response has begun or ended in this read
        for kind, number, value in events:
            stream = None if kind == GOAWAY else streams.get(number)  # its identifier: the last stream processed
            if stream is None:
                if kind == SETTINGS:
                    self._settle("")
                elif kind == GOAWAY:
                    self.needs_http1 = value == ErrorCode.HTTP_1_1_REQUIRED
                    self._leave()
                continue
            try:
                self._handle_event(stream, kind, value)
            except Exception:  # the edge of this stream: the others of the connection continue
                self._fail_stream(stream)
                continue
            if kind in (HEAD, WHOLE, END):
                begun.append(stream)
        for stream in begun:
            if stream.has_ended:
                self._report_begin(stream)
            else:
                self._await_rest(stream)

    def _await_rest(self, stream: Http2UpstreamStream) -> None:
        """Report a response that has begun when it is complete, or after the next turn of the loop: the rest of most
        responses is in transit, and servers send the heads of many streams before their bodies.
        """
        if not self._begun:
            self.worker_loop.loop.call_soon(self._report_begun)
        self._begun.append(stream)

    def _report_begun(self) -> None:
        """Report responses that are still incomplete after a turn of the loop, in which it has read what there was."""
        begun, count = self._begun, self._begun_before
        self._begun = later = begun[count:]
        self._begun_before = len(later)
        if later:
            self.worker_loop.loop.call_soon(self._report_begun)
        for stream in begun[:count]:
            self._report_begin(stream)

    def _report_begin(self, stream: Http2UpstreamStream) -> None:
        try:
            stream.take_rest()
        except Exception:  # the edge of this stream
            self._fail_stream(stream)

    def _handle_event(self, stream: Http2UpstreamStream, kind: cython.int, value: Any) -> None:
        if kind == DATA:
            stream.take_data(value)
        elif kind in (HEAD, WHOLE):
            stream.take_head(value, kind == WHOLE)
        elif kind == END:
            stream.take_end(value)
        elif kind == CLOSED:
            stream.take_close(value)
        elif kind == BROKEN:
            stream.take_break()
        elif kind == INTERIM:
            stream.take_interim(value)
        elif kind in (REFUSED, MALFORMED):
            stream.break_off(Fault.UPSTREAM_MALFORMED, value)
        elif kind == TOO_LONG:
            longest = self.target.response_rules.header_bytes
            why = TRAILERS_TOO_LARGE if value is None else f"The response head is longer than {longest} bytes."
            stream.break_off(Fault.UPSTREAM_MALFORMED, why)

    def _fail_stream(self, stream: Http2UpstreamStream) -> None:
        """End one stream after a defect of the gateway, such as an exception of its listener."""
        log_event(OperatorEvent.DEFECT, "a defect in a response of %s", self.target.label, error=True)
        stream.break_off(Fault.INTERNAL, "")

    def _settle(self, wrong: str) -> None:
        """Handle the target's SETTINGS; `wrong`: the error instead."""
        most, settled = self.session.peer_max_streams, self._settled
        if not most and not wrong:
            if settled is None or settled.done():
                self._leave()
            return  # at first it may be 0 for a short time (RFC 9113 section 6.5.2): the connect timeout goes on
        self.capacity = max(min(most, MOST_STREAMS), 1)
        if self._tls_is_new and not wrong:
            self._remember_session()
        if settled is not None and not settled.done():
            settled.set_result(wrong)

    def _leave(self) -> None:
        """Lend no more streams; those in flight continue."""
        if not self.closed:
            self.closed = True
            self._settle(NO_STREAMS if self.accepts_none else NOT_HTTP2)
            self.pool.forget(self)

    def _lose(self, fault: Fault, why: str) -> None:
        """Handle the loss of the connection, which ends all streams."""
        if self._gone:
            return
        self.closed = True
        if self.session.error is not None:
            self._settle(NOT_HTTP2)
        elif self.accepts_none:
            self._settle(self.lost_by or NO_STREAMS)
        else:
            self._settle(NOT_HTTP2 if self.session.done else self.lost_by or NO_SETTINGS)
        for stream in tuple(self._begun):  # received before
            self._report_begin(stream)
        for stream in tuple(self._streams.values()):
            stream.lose(fault, why)
        if not self._gone:  # otherwise the last stream has closed it
            self.pool.forget(self)

    def _lose_closed(self, why: str) -> None:
        """Handle the end of the connection by the target, which may have sent something invalid before."""
        if not self._gone:
            self.session.to_send()  # nothing is sent any more, but an error is known once its GOAWAY is made
            self._lose_by_session(why)

    def _lose_by_session(self, why: str) -> None:
        if self.session.error is None:
            self._lose(Fault.CONNECTION_LOST, why)
        else:
            self._lose(Fault.UPSTREAM_MALFORMED, f"HTTP/2: {self.session.error}")

    # output

    def _flush(self) -> None:
        self._flush_is_due = False
        session, transport = self.session, self.transport
        if self._gone or transport is None:
            return
        while not self.write_paused and not transport.is_closing():
            unsent = session.send_on(transport.plain_fd)
            if not unsent:
                break
            transport.write(unsent)
        events = session.events()
        if events:
            self._handle(events)
        if self.holding:
            for stream in tuple(self.holding):
                stream.look_at_held()
        state = session.state()
        if state & FULL != self._full:
            self._stop_or_start(state & FULL)
        if state & ENDING:
            self._end_if_done()

    def _stop_or_start(self, full: int) -> None:
        """Pause or resume reading."""
        self._full = full
        if full:
            self.worker_loop.crowded.add(self)
            self.transport.pause_reading()
        else:
            self.worker_loop.crowded.discard(self)
            if not self.resting:
                self.end_rest()

    def _end_if_done(self) -> None:
        if self.session.error is not None or self.session.done:
            self._lose_by_session("")
            if not self._gone:  # it is not in the pool, or not any more
                self.close()
