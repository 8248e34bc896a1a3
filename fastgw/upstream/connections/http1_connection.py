"""A connection to a target: sends one request at a time and reads its response.

It handles framing and timeouts, and is independent of routes and retries: it reports events to the listener of its
borrower. HTTP/1 has one stream per connection, so the connection is its own stream (`UpstreamStream`). It is reused
only if the response ended exactly where its framing declared, with no further byte, the request was sent completely,
and neither side asked to close (`release`).
"""

from collections.abc import Callable
from errno import errorcode
from functools import partial
from math import inf
from ssl import SSLError
from typing import Any, Final

import cython

from fastgw.config.settings import gateway as settings
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Trailers
from fastgw.exchange.exchange import ClientSide
from fastgw.http.http1 import serializer
from fastgw.http.http1.body import BodyReader, body_reader
from fastgw.http.http1.parser import leading_bytes, parse_answer, take_answer
from fastgw.http.http1.tolerance import Repair, RepairedChunks
from fastgw.http.malformed import Malformed
from fastgw.http.messages import ResponseHead
from fastgw.upstream.connections.http2_connection import HTTP2, Http2UpstreamConnection
from fastgw.upstream.connections.pooled_connection import HttpConnection, Lender
from fastgw.upstream.connections.stream import (
    AWAITING,
    CLOSED,
    IDLE,
    NOT_ACCEPTED,
    RECEIVING,
    TOO_MANY_INTERIM,
    TUNNEL,
    ResponseListener,
)
from fastgw.upstream.connections.tls_client import TlsBroken
from fastgw.upstream.targets.target import Target
from fastgw.upstream.targets.tls import protocols_of

_LOOKS: Final = 4
"""Looks per `idle` at what the target has accepted: nothing reports that, so a stall is noticed this part late. While
the response moves, each of its bytes postpones the next look, and a stall may be noticed up to one `idle` late.
"""
_BEGINNING: Final = b"HTTP/1."


class UpstreamConnection(HttpConnection):
    def __init__(self, worker_loop: WorkerLoop, pool: Lender, target: Target) -> None:
        HttpConnection.__init__(self, worker_loop, pool, target)
        self.frames_bodies = True
        self.reader: BodyReader | None = None
        self.reusable = True
        self._unsent = 0  # bytes at the last look while writing is paused
        self._accepted_at = 0.0  # when a look found that the target has accepted some
        self._body_goes_to = -1  # socket of the receiver of the response's body
        self._begun = b""  # first bytes of a response head
        self._searched = 0
        self._repair: Repair | None = None  # of the current response
        self._full = False  # the last read filled the buffer: more data may be available

    def negotiated(self, protocol: str | None) -> HttpConnection:
        if protocol == HTTP2:
            return Http2UpstreamConnection(self.worker_loop, self.pool, self.target)
        return self

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self.target.label} {self.phase.name} uses={self.uses}>"

    # calls of the borrower (`UpstreamStream`)

    def send_request(self, listener: ResponseListener, request: bytes, method: bytes) -> None:
        self._listener = listener
        self.phase = AWAITING
        self._method = method
        wheel = self._wheel
        self.deadline = deadline = wheel.now + self._head_timeout
        if deadline < self.filed_at:
            wheel.file(self, deadline)
        self.transport.write(request)

    def send_body(self, payload: bytes) -> None:
        if self._targets_turn:  # it had to request the body, which is now sent without that
            self._targets_turn = False
            self._watch_head()
        self._extend_idle()
        self.transport.write(serializer.chunk(payload) if self._chunked else payload)

    def end_body(self, trailers: Trailers) -> None:
        if not self._sending:
            return
        self._sending = False
        self._targets_turn = True
        self._watch_head()
        self._extend_idle()
        if self._chunked:
            self.transport.write(serializer.last_chunk(trailers))

    def take_body_from(self, client: ClientSide) -> None:
        client.body_goes_to = self.transport.plain_fd

    def give_body_to(self, client: ClientSide) -> None:
        self._body_goes_to = client.fd

    def send_raw(self, chunk: bytes) -> None:
        self.deadline = self._wheel.now + self.idle_timeout
        self.transport.write(chunk)

    def end_raw(self) -> None:
        self.transport.write_eof()

    def cancel(self) -> None:
        self.close()
        self.pool.discard(self)

    def release(self) -> None:
        if self.phase is IDLE and self.reusable and not self.write_paused:
            self.pool.give_back(self)
        else:
            self.close()
            self.pool.discard(self)

    def _watch_unsent(self) -> None:
        self._unsent, self._accepted_at = self.transport.unsent(), self._wheel.now
        self._watch(self.idle_timeout / _LOOKS)

    def pause(self) -> None:
        if not self.paused and self.phase is not CLOSED:
            self.paused = True
            self.deadline = inf
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and self.phase is not CLOSED:
            self.paused = False
            if self.phase is AWAITING:
                self._watch_head()
            else:
                self._watch(self.idle_timeout)
            if not self.resting:
                self.transport.resume_reading()

    def end_rest(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self) -> None:
        """Close at once, even with a request in flight. No listener is called."""
        self._listener = self._source = None
        if self.phase is not CLOSED:
            done = self.phase is IDLE and not self.write_paused
            self._mark_closed()
            if self._tls is not None and done:
                self._tls.close()  # it sends `close_notify`
            elif self.transport is not None:
                self.transport.abort()

    def _mark_closed(self) -> None:
        self.phase = CLOSED
        self.closed = True
        self._wheel.drop(self)

    def expire(self, now: float) -> None:
        if self.write_paused:
            left = self.transport.unsent()
            if left != self._unsent:  # slow, but it accepts data
                self._unsent, self._accepted_at = left, now
            wait = self._accepted_at + self.idle_timeout - now
            if wait > 0:
                self._watch(min(wait, self.idle_timeout / _LOOKS))
                return
        if self.phase is AWAITING:
            self._fail(Fault.UPSTREAM_TIMEOUT, NOT_ACCEPTED if self.write_paused else "")
        elif self.phase is RECEIVING:
            self._fail(Fault.UPSTREAM_STALLED)
        elif self.phase is TUNNEL:
            assert self._listener is not None
            self._listener.on_tunnel_idle()

    # calls of the loop

    def buffer_updated(self, nbytes: cython.Py_ssize_t) -> None:
        phase = self.phase
        if phase is AWAITING and not self._begun:
            answer = take_answer(self.buffer, nbytes, self._method)
            if isinstance(answer, bytes):
                self._full = nbytes == len(self.buffer)
                self._read_head(answer)
            else:
                self._full = False
                self._answered_whole(answer)
            return
        self._full = nbytes == len(self.buffer)
        chunk = leading_bytes(self.buffer, nbytes)
        if phase is AWAITING:
            self._read_head(self._begun + chunk)
        elif phase is RECEIVING:
            self._read_body(chunk)
        elif phase is TUNNEL:
            self._watch(self.idle_timeout)
            assert self._listener is not None
            self._listener.on_tunnel_data(chunk)
            self.reads.count(self, nbytes, 0)
        elif phase is IDLE:  # bytes without a request belong to no response
            self._leave_pool()

    def eof_received(self) -> bool:
        if self.phase is TUNNEL:
            assert self._listener is not None
            self._listener.on_tunnel_end()
            return not self.closed  # the other direction may continue
        if self.phase is IDLE:
            self._leave_pool()
        elif self.phase is AWAITING or self.phase is RECEIVING:
            self._peer_ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True  # nothing can be sent, but a response may be received
        if self.phase is IDLE:
            self._leave_pool()
        elif not isinstance(exc, (SSLError, TlsBroken)):  # otherwise bytes after it are ignored
            self._rescue()
        if self.phase is TUNNEL:
            self._fail(Fault.CONNECTION_LOST, self._tls_problem() or "the tunnel was reset")
        elif self.phase is AWAITING or self.phase is RECEIVING:
            fault = Fault.CONNECTION_LOST if self.phase is AWAITING else Fault.UPSTREAM_INCOMPLETE
            self._fail(fault, self._tls_problem() or _errno_of(exc))

    def pause_writing(self) -> None:
        self.write_paused = True
        if not self.paused:
            self._watch_unsent()
        if self._source is not None:
            self._source.pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._watch_head()
        self._extend_idle()
        if self._source is not None:
            self._source.resume()

    # reading

    def _read_head(self, received: bytes) -> None:
        rules = self.target.response_rules
        while True:
            try:
                end = rules.find_head_end(received, self._searched)
                if end < 0 or end > rules.header_bytes:
                    return self._wait_for_more(received)
                try:
                    head = parse_answer(received, end, self._method, rules.header_count, rules.last_status)
                except Malformed:
                    if not rules.repairs_heads:
                        raise
                    text = self._repairing().repair_head(received[:end])
                    received, end = text + received[end:], len(text)
                    head = parse_answer(received, end, self._method, rules.header_count, rules.last_status)
            except Malformed as malformed:
                return self._fail(Fault.UPSTREAM_MALFORMED, malformed.reason)
            if head.status >= 200:
                break
            if head.status == 101:
                return self._switch(head, received[end:])
            if not self._inform(head):
                return None
            received = received[end:]
            self._searched = 0
        if self._begun:
            self._begun = b""
            self._searched = 0
        if head.whole:
            self._answered_whole(head)
        else:
            self._begin_body(head, received, end)
        return None

    def _repairing(self) -> Repair:
        """Return the repairs of the current response, of an upstream that tolerates some."""
        if self._repair is None:
            self._special = True
            self._repair = Repair(self.target.response_rules)
        return self._repair

    def _answered_whole(self, head: ResponseHead) -> None:
        listener = self._listener
        self.target.minor = head.minor
        self.reusable = not (head.close or self._unasked_body)
        # PERF: no call if there is nothing to clean up: 0.3 % of a GET (CPython 3.11, bench.check exchange).
        if self._special or self._full or self._tls is not None or self.paused:
            self._finish()
        else:
            self.phase, self._listener, self.deadline = IDLE, None, inf
        listener.on_head(head, None, True)

    def _wait_for_more(self, received: bytes) -> None:
        """Handle a head that is incomplete or too long."""
        if not _BEGINNING.startswith(received[: len(_BEGINNING)]):
            self._fail(Fault.UPSTREAM_MALFORMED, "The response is not HTTP/1.")
        elif len(received) > (longest := self.target.response_rules.header_bytes):
            self._fail(Fault.UPSTREAM_MALFORMED, f"The response head is longer than {longest} bytes.")
        else:
            self._begun, self._searched = received, len(received)

    def _inform(self, head: ResponseHead) -> bool:
        """Forward an interim response. False: the exchange has ended."""
        self.target.minor = head.minor
        if not self._report_interim(head):
            self._fail(Fault.UPSTREAM_MALFORMED, TOO_MANY_INTERIM)
        return self._listener is not None  # otherwise it was cancelled in between

    def _begin_body(self, head: ResponseHead, received: bytes, end: cython.Py_ssize_t) -> None:
        listener = self._listener
        self.target.minor = head.minor
        # A target that responds without having requested the body may parse the body as the next request.
        self.reusable = not (head.close or self._unasked_body)
        if not head.has_body:
            self.reusable = False  # bytes after a response belong to no response
            self._finish()
            listener.on_head(head, b"", True)
            return
        self.phase = RECEIVING
        rules = self.target.response_rules
        reader = body_reader(head, rules.header_bytes, rules.header_count)
        if head.chunked and rules.repairs_chunks:
            reader = RepairedChunks(reader, self._repairing())
        self.reader = reader
        payload = b""
        if len(received) != end:
            try:
                payload = reader.feed(received[end:])
            except Malformed as malformed:
                self._fail(Fault.UPSTREAM_MALFORMED, malformed.reason, silent=False)
                return
        if reader.done and not reader.trailers:
            if reader.rest:
                self.reusable = False
            self._finish()
            listener.on_head(head, payload, True)
            return
        self._watch(self.idle_timeout)
        listener.on_head(head, payload, False)
        if not reader.done:
            self._begin_counting(received[end:], payload, reader.bytes_assured())
        elif self._listener is not None:
            self._end_body()

    def _begin_counting(self, chunk: bytes, payload: bytes, assured: cython.longlong) -> None:
        """Start to count the body. `chunk`: the part received with the head; more follows."""
        if not chunk:
            if not assured:
                self.buffer = self.reads.medium_buffer
            return
        if not assured:
            self.buffer = self.reads.buffer_for(chunk, payload, 0, -1)
        self.reads.count(self, len(payload), len(chunk) - len(payload))

    def _read_body(self, chunk: bytes) -> None:
        reader, listener = self.reader, self._listener
        assert reader is not None
        self.deadline = self._wheel.now + self.idle_timeout
        try:
            payload = reader.feed(chunk)
        except Malformed as malformed:
            self._fail(Fault.UPSTREAM_MALFORMED, malformed.reason)
            return
        if payload:
            listener.on_data(payload)
        if not reader.done:
            self.buffer = self.reads.buffer_for(chunk, payload, reader.bytes_assured(), self._body_goes_to)
            self.reads.count(self, len(payload), len(chunk) - len(payload))
        elif self._listener is listener:
            self._end_body()

    def _end_body(self) -> None:
        reader, listener = self.reader, self._listener
        assert reader is not None
        if reader.rest:
            self.reusable = False
        self._finish()
        listener.on_end(reader.trailers)

    def _finish(self) -> None:
        """End the response. The listener is called next, and releases the stream."""
        self.phase = IDLE
        self._listener = None
        self.deadline = inf
        # Bytes after a response belong to no response. After a read that did not fill the buffer there are none; those
        # over TLS may also be a session ticket.
        if (self._full or self._tls is not None) and self.transport.has_unread():
            self.reusable = False
        if self.reader is not None:
            self.reader = None
            self._body_goes_to = -1
            self.buffer = self.reads.read_buffer
        if self._special:
            if self._sending or (self._repair is not None and self._repair.ambiguous):
                self.reusable = False
            self._repair = None
            self._special = self._unasked_body = self._sending = self._chunked = False
            self._targets_turn = True
            self._source = None
            self._offered = ()
            self._informed = 0
            self._head_timeout, self.idle_timeout = self.target.timeouts.response_headers, self.target.timeouts.idle
            if self._tls_is_new:
                self._remember_session()
        if self.paused:  # for a slow client; the next one may be faster
            self.paused = False
            self.transport.resume_reading()

    def _switch(self, head: ResponseHead, early: bytes) -> None:
        listener = self._listener
        if listener is None or set(head.upgrade).isdisjoint(self._offered):
            self._fail(Fault.UPGRADE_UNEXPECTED)
            return
        self._begun = b""
        self.phase = TUNNEL
        self.reusable = False
        listener.on_switch(head, early)

    def _peer_ended(self) -> None:
        """Handle a clean end of input, which may be the end of the response (RFC 9112 section 6.3, rule 8)."""
        if self.phase is RECEIVING:
            assert self.reader is not None
            try:
                self.reader.eof()
            except Malformed as malformed:
                self._fail(Fault.UPSTREAM_INCOMPLETE, malformed.reason)
                return
            self.reusable = False
            self._end_body()
        else:
            self._fail(Fault.CONNECTION_LOST)

    def _fail(self, fault: Fault, why: str = "", silent: bool | None = None) -> None:
        listener = self._listener
        if silent is None:
            silent = self.phase is AWAITING and not self._begun and not self._informed
        self.cancel()
        if listener is not None:
            listener.on_failure(fault, silent, why)

    def _tls_problem(self) -> str:
        return f"TLS: {self.lost_by}" if self.lost_by else ""

    def _leave_pool(self) -> None:
        pool = self.pool
        self.close()
        pool.forget(self)

    def _rescue(self) -> None:
        """Read what came before the loss: an upstream that responds early and closes lets the next write fail."""
        while self.phase is AWAITING or self.phase is RECEIVING or self.phase is TUNNEL:
            try:
                count = self.transport.read_rest(self.buffer)
            except OSError:  # no data is left
                return
            if count == 0:
                self.eof_received()
                return
            self.buffer_updated(count)


def _errno_of(error: Exception | None) -> str:
    """The name of the errno that ended a connection; "" if there is none."""
    return errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def connection_maker(worker_loop: WorkerLoop, upstream: settings.Upstream) -> Callable[..., Any]:
    """Return the factory of connections that belong to a pool, for targets of the upstream. What ALPN may choose
    between begins as one over HTTP/1.1 (`negotiated`).
    """
    is_http2 = protocols_of(upstream) == (HTTP2,)
    return partial(Http2UpstreamConnection if is_http2 else UpstreamConnection, worker_loop)
