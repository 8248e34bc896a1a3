"""A connection to a target over HTTP/2 (RFC 9113): it lends as many streams as the target allows.

Rule 1: it writes once per loop iteration, for all of its streams. Rule 2: received data is credited to the flow-control
windows when its listener has taken the data: a paused stream buffers at most its window, and does not delay others,
because the connection's window is that of all its streams together, and because it is broken off where the process
holds too many bytes. Rule 3: requests that the target declares unprocessed (GOAWAY, REFUSED_STREAM) fail with
`Fault.STREAM_REFUSED`, after which any request may be retried.
"""

import asyncio
from math import inf
from typing import Any, Final

import cython

from fastgw.errors import Fault
from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.timer_wheel import Wheel
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.http.http1.trailers import TRAILERS_TOO_LARGE
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
    Session,
    framing_bytes,
    stalled_streams,
)
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.connections.http2_stream import (
    HEAD_TOO_LONG,
    Http2UpstreamStream,
    StreamsConnection,
    new_stream,
)
from fastgw.upstream.connections.tls_client import TlsBroken, TlsClientTransport
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
NOT_HTTP2: Final = "the target does not speak HTTP/2"
SPEAKS_HTTP1: Final = "the target has answered with HTTP/1, not HTTP/2: it needs `protocol: http1` or `auto`"
NO_SETTINGS: Final = "the target has closed the connection before its SETTINGS: it may not speak HTTP/2"
NO_STREAMS: Final = "the target accepts no requests (SETTINGS_MAX_CONCURRENT_STREAMS is 0)"
_HTTP1: Final = b"HTTP/1."


class Http2UpstreamConnection(StreamsConnection):
    def __init__(self, worker_loop: WorkerLoop, pool: Any, target: Target) -> None:
        self._wheel: Wheel = worker_loop.wheel
        now, rules = worker_loop.wheel.now, target.response_rules
        session = Session(
            *(True, target.tls is not None, now, MOST_STREAMS, STREAM_WINDOW, CONNECTION_WINDOW),
            *(rules.header_bytes, rules.header_count),
        )
        StreamsConnection.__init__(self, worker_loop, target, session)
        self.pool = pool
        self.capacity = MOST_STREAMS
        self._gone = False
        self._streams: dict[int, Http2UpstreamStream] = {}
        self._begun: list[Http2UpstreamStream] = []  # their response has begun, and is not reported yet
        self._begun_before = 0  # number of those that have waited for a turn of the loop
        self._holding: set[Http2UpstreamStream] = set()  # their bodies wait for the target's windows, or its socket
        self.transport: SocketTransport = None  # type: ignore[assignment]  # set before anything else is called
        self._tls: TlsClientTransport | None = None
        self._tls_is_new = False  # the session is still to be stored
        self.reads = worker_loop.reads
        self.buffer = self.reads.read_buffer
        self.resting = False
        self.write_paused = False
        self._flush_is_due = False
        self._full = 0  # `FULL`: it is not read from, as the process holds too many bytes of bodies
        self._heard_at = now  # time of the last byte, or of the first request after it
        self._unheard = False  # a request was sent since the last byte, also one that has ended meanwhile
        self._asked_at = -inf  # time of the last PING
        self._settled: asyncio.Future[str] | None = worker_loop.loop.create_future()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._streams)} of {self.capacity} streams"
        return f"<Http2UpstreamConnection {self.target.label} {state} uses={self.uses}>"

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
        return new_stream(self, self.target, self.uses > 1)

    @property
    def lost_by(self) -> str:
        """TLS error that has ended the connection; "" = none."""
        return "" if self._tls is None else self._tls.lost_by

    def close(self) -> None:
        """Close with GOAWAY. Streams in flight are dropped; their listeners are not called."""
        self.closed = True
        if self._gone:
            return
        self._gone = True
        for stream in tuple(self._streams.values()):
            stream.forget()
        self._streams.clear()
        self._holding.clear()
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

    def holds_response(self) -> None:
        self.worker_loop.holders.add(self)

    def holds(self, stream: Http2UpstreamStream) -> None:
        self._holding.add(stream)

    def holds_no_more(self, stream: Http2UpstreamStream) -> None:
        self._holding.discard(stream)

    def admits(self, number: int) -> bool:
        return not self.write_paused and self.session.admits(number)

    def end_stream(self, stream: Http2UpstreamStream, number: cython.longlong, reset: bool) -> None:
        self._holding.discard(stream)
        if self._streams.pop(number, None) is not None and reset and not self._gone:
            self.session.reset(number, ErrorCode.CANCEL)
            self.flush_soon()
        self.pool.give_back(self)

    def flush_soon(self) -> None:
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
        self.transport = transport
        if isinstance(transport, TlsClientTransport):
            self._tls, self._tls_is_new = transport, True
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

    def _watch(self, seconds: float) -> None:
        self._wheel.watch(self, self._wheel.now + seconds)

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
            self._tls_is_new = False
            if self._tls is not None and not self._tls.is_closing():
                self._tls.remember()
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
        if self._gone:
            return
        self.session.to_send()  # nothing is sent any more, but an error is known once its GOAWAY is made
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
        if self._holding:
            for stream in tuple(self._holding):
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
        session = self.session
        if session.error is not None:
            self._lose(Fault.UPSTREAM_MALFORMED, f"HTTP/2: {session.error}")
            self._end()
        elif session.done:
            self._lose(Fault.CONNECTION_LOST, "")
            self._end()

    def _end(self) -> None:
        """Close a connection that is not in the pool, or not any more."""
        if not self._gone:
            self.close()
