"""A stream of an HTTP/2 connection to a target: one request and its response (`stream.UpstreamStream`).

Responses are reported as with HTTP/1: the session renders a head as HTTP/1 text, and the same parser reads it. A
response that is complete at the end of a read is reported as a whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Any, Final, final

import cython

from fastgw.config.settings.upstreams import MOST_HEADERS
from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Timed, Wheel
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Trailers
from fastgw.exchange.exchange import ClientSide
from fastgw.exchange.reply import NO_CONTENT
from fastgw.http.http1.parser import Http1ResponseHead, read_http2_response
from fastgw.http.http1.trailers import parse_trailers
from fastgw.http.http2._session import HeldBytes, Session
from fastgw.http.http2.session import ErrorCode, reset_reason
from fastgw.http.malformed import Malformed
from fastgw.upstream.connections.pooled_connection import PooledConnection
from fastgw.upstream.connections.stream import (
    AWAITING,
    IDLE,
    MAX_INFORMATIONAL,
    NOT_ACCEPTED,
    NOT_ESTABLISHED,
    RECEIVING,
    RequestSource,
    ResponseListener,
    TunnelListener,
)
from fastgw.upstream.connections.stream import CLOSED as OVER
from fastgw.upstream.targets.target import Target

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


class StreamsConnection(PooledConnection):
    """Connection of HTTP/2, as its streams use it."""

    def __init__(self, worker_loop: WorkerLoop, target: Target, session: Session) -> None:
        PooledConnection.__init__(self, target, worker_loop.wheel.now)
        self.worker_loop = worker_loop
        self.session = session
        self.established = NOT_ESTABLISHED
        self.needs_http1 = False
        """Whether the target has ended it because it requires HTTP/1.1."""

    def start_request(self, stream: Http2UpstreamStream, request: bytes, ended: bool) -> int:
        """Start a request. Returns its stream identifier; -1: no stream can be opened any more; -2: its head is longer
        than the target accepts.
        """
        raise NotImplementedError

    def end_stream(self, stream: Http2UpstreamStream, number: cython.longlong, reset: bool) -> None:
        """End the use of a stream. `reset`: it is still open, so RST_STREAM is sent."""
        raise NotImplementedError

    def flush_soon(self) -> None:
        """Write pending output at the end of this loop iteration."""
        raise NotImplementedError

    def holds_response(self) -> None:
        """Record that a response is not taken by its client for now."""
        raise NotImplementedError

    def holds(self, stream: Http2UpstreamStream) -> None:
        """Record that bytes of a request's body wait for the target: the stream is called when there are fewer."""
        raise NotImplementedError

    def holds_no_more(self, stream: Http2UpstreamStream) -> None:
        raise NotImplementedError

    def admits(self, number: int) -> bool:
        """Whether what is held of requests can be sent at once, by the windows of the target and by its socket."""
        raise NotImplementedError


class Http2UpstreamStream(Timed):
    """One request and its response: a stream is not reused."""

    frames_bodies = False

    def _begin(self, connection: StreamsConnection, target: Target, reused: bool) -> None:
        self._connection = connection
        self._wheel: Wheel = connection.worker_loop.wheel
        self.target = target
        self.reused = reused
        self.phase = IDLE
        self.paused = self.write_paused = False
        self.waits_since = inf  # if it is paused: when that began
        self.idle_timeout = target.timeouts.idle
        self._head_timeout = target.timeouts.response_headers
        self._listener: Any = None  # a `ResponseListener`; None: no listener
        self._source: RequestSource | None = None
        self._number = 0
        self._method = b""
        self._sending = False  # the request is incomplete
        self._targets_turn = True
        self._informed = 0
        self._held_at_last_look = 0
        self._head_text: bytes | None = None  # of a response that is not reported yet
        self._early: list[bytes] = []  # its body so far
        self._kept: KeptBody | None = None  # received while it was paused
        self._ended: Trailers | None = None  # end of the response that is not reported yet
        self.reset_code: int | None = None  # by which the target has ended it

    def __repr__(self) -> str:
        return f"<Http2UpstreamStream {self._number} {self.target.label} {self.phase.name}>"

    # calls of the borrower (`UpstreamStream`)

    @property
    def established(self) -> tuple[float, float]:
        return self._connection.established

    @property
    def awaits_target(self) -> bool:
        return self._targets_turn or self.write_paused

    def limit_times(self, head: float, idle: float) -> None:
        self._head_timeout, self.idle_timeout = head, idle

    def begin_special(
        self,
        listener: ResponseListener,
        request: bytes,
        method: bytes,
        *,
        whole: bool,
        chunked: bool = False,
        source: RequestSource | None = None,
        expects_continue: bool = False,
        upgrade: Sequence[bytes] = (),
        tunnel: TunnelListener | None = None,
    ) -> None:
        """Implements `UpstreamStream.begin_special`. No protocol is offered, because HTTP/2 has no `Upgrade`."""
        self._sending, self._source = not whole, source
        self._targets_turn = whole or expects_continue
        self.send_request(listener, request, method)

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

    def attach_source(self, source: RequestSource | None) -> None:
        self._source = source
        if self.write_paused and source is not None:
            source.pause()

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
        self._connection.session.end(self._number, b"".join(b"%b: %b\r\n" % line for line in trailers))
        self._connection.flush_soon()

    def _see_held(self, held: int) -> None:
        """Update the number of bytes of the request that wait to be sent, and pause its source."""
        if self.write_paused:
            self._held_at_last_look = held
        elif held > MOST_HELD or not self._connection.admits(self._number):
            self._connection.holds(self)
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
            connection.holds_no_more(self)
            self.write_paused = False
            self._watch_head()
            if self._source is not None:
                self._source.resume()

    def hand_over(self, listener: ResponseListener) -> None:
        if self._listener is not None:
            self._listener = listener

    def take_body_from(self, client: ClientSide) -> None: ...
    def give_body_to(self, client: ClientSide) -> None: ...
    def send_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def limit_silence(self, seconds: float) -> None:
        self.idle_timeout = seconds
        self._watch(seconds)

    def pause(self) -> None:
        if not self.paused and self.phase in (AWAITING, RECEIVING):
            self.paused, self.waits_since = True, self._wheel.now
            self._connection.holds_response()
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

    def cancel(self) -> None:
        self.release()

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

    # time

    def _watch_head(self) -> None:
        """Start the target's timeout while it has to respond or to accept more data; a slow client does not count."""
        if self.phase is AWAITING:
            if self.paused:
                self.deadline = inf
            elif self.write_paused:  # the request is not sent yet
                self._watch(self.idle_timeout)
            elif self._targets_turn:
                self._watch(self._head_timeout)
            else:
                self.deadline = inf

    def _extend_idle(self) -> None:
        """Start the idle timeout again for bytes of the request: the target may wait for them with its response."""
        if self.phase is RECEIVING and not self.paused:
            self.deadline = self._wheel.now + self.idle_timeout

    def _watch(self, seconds: float) -> None:
        self._wheel.watch(self, self._wheel.now + seconds)

    def expire(self, now: float) -> None:
        if self.phase is AWAITING:
            self.break_off(Fault.UPSTREAM_TIMEOUT, NOT_ACCEPTED if self.write_paused else "")
        elif self.phase is RECEIVING:
            self.break_off(Fault.UPSTREAM_STALLED, "")

    # calls of the connection

    def take_interim(self, text: bytes) -> None:
        """Handle an interim response."""
        self._informed += 1
        try:
            head = self._parsed(text, text)
        except Malformed as malformed:
            self.break_off(Fault.UPSTREAM_MALFORMED, malformed.reason)
            return
        if self._informed > MAX_INFORMATIONAL:
            self.break_off(Fault.UPSTREAM_MALFORMED, f"There are more than {MAX_INFORMATIONAL} interim responses.")
            return
        if head.status == 100:
            self._targets_turn = not self._sending
            self._watch_head()
        self._listener.on_interim(head)

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

    def _parsed(self, text: bytes, received: bytes) -> Http1ResponseHead:
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


def new_stream(connection: StreamsConnection, target: Target, reused: bool) -> Http2UpstreamStream:
    """Return a stream that is not used yet. `reused`: whether its connection has carried a request before."""
    stream: Http2UpstreamStream = Http2UpstreamStream.__new__(Http2UpstreamStream)
    stream._begin(connection, target, reused)
    return stream
