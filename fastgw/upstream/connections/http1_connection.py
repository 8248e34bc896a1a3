"""A connection to a target: sends one request at a time and reads its response.

It knows framing and time, and nothing of routes or retries: what happens on it is told to the `Borrower` that has it.
A connection is reused only if the response ended exactly where its framing said, with no byte more, the request was
sent whole, and neither side asked to close (`reusable`).
"""

import array
import asyncio
import fcntl
import os
import termios
from contextlib import suppress
from enum import IntEnum
from errno import errorcode
from math import inf
from ssl import SSLError, SSLWantReadError
from typing import Final, Protocol, cast

from fastgw.errors import Fault
from fastgw.eventloop.socket_send import send
from fastgw.eventloop.timer_wheel import Timed
from fastgw.eventloop.worker_loop import WorkerLoop, unsent
from fastgw.exchange import Trailers
from fastgw.http.http1.body import BodyReader
from fastgw.http.http1.parser import Http1ResponseHead, find_head_end, judge_answer, take_answer, taken
from fastgw.http.malformed import Malformed
from fastgw.upstream.connections.pool import Pool
from fastgw.upstream.connections.tls_client import TlsBroken, TlsClientTransport
from fastgw.upstream.targets.target import Target

MAX_HEAD: Final = 65536
"""The longest response head, in bytes; a longer one is `UPSTREAM_MALFORMED`."""
_BEGINNING: Final = b"HTTP/1."
MAX_INFORMATIONAL: Final = 16
"""Interim responses to one request; an upstream that sends more is not going to answer."""


class Borrower(Protocol):
    """Borrower of the connection. After `ended`, `failed` or `switched` nothing more is told to it."""

    def informed(self, head: Http1ResponseHead) -> None:
        """An interim response (1xx other than 101)."""

    def answered(self, head: Http1ResponseHead, payload: bytes, ended: bool) -> None:
        """The final response's head, with the first of its body. `ended`: that is all of it."""

    def answered_whole(self, head: Http1ResponseHead) -> None:
        """The final response, with its body in `head.payload`."""

    def received(self, payload: bytes) -> None: ...

    def ended(self, trailers: Trailers) -> None: ...

    def failed_on(self, fault: Fault, silent: bool, why: str) -> None:
        """Report that the connection broke. `silent`: before any byte of a response. `why`: for the log; may be
        empty.
        """

    def switched(self, head: Http1ResponseHead, early: bytes) -> None:
        """101 Switching Protocols, asked for. `early`: bytes behind the head, of the other protocol."""

    def received_raw(self, chunk: bytes) -> None:
        """Bytes of a tunnel."""

    def ended_raw(self) -> None:
        """The target will send no more through the tunnel."""

    def pause_request(self) -> None:
        """The target takes no more for now."""

    def resume_request(self) -> None: ...

    def request_is_whole(self) -> bool:
        """Whether all of the request was handed over."""


class NoTunnel:
    """Base of a borrower that offers no upgrade, or hands on to another before it is answered: it is never told
    these.
    """

    __slots__ = ()

    def switched(self, head: Http1ResponseHead, early: bytes) -> None:
        raise NotImplementedError

    def received_raw(self, chunk: bytes) -> None:
        raise NotImplementedError

    def ended_raw(self) -> None:
        raise NotImplementedError


class UpstreamPhase(IntEnum):
    IDLE = 1  # in the pool, or about to be used
    AWAITING = 2  # a request is on its way; no final response head yet
    RECEIVING = 3  # the response's body comes in
    TUNNEL = 4
    CLOSED = 5


IDLE, AWAITING, RECEIVING, TUNNEL, CLOSED = UpstreamPhase


class UpstreamConnection(asyncio.BufferedProtocol, Timed):
    __slots__ = (
        "_asked_upgrade",
        "_begun",
        "_buffer",
        "_full",
        "_head_patience",
        "_informed",
        "_method",
        "_rescue_fd",
        "_searched",
        "_special",
        "_targets_turn",
        "_tls",
        "_tls_is_new",
        "_unasked_body",
        "_unsent",
        "_wheel",
        "body_goes_to",
        "borrower",
        "closed",
        "fd",
        "ground",
        "idle_patience",
        "idle_since",
        "paused",
        "phase",
        "pool",
        "read_since_rest",
        "reader",
        "resting",
        "reusable",
        "target",
        "transport",
        "uses",
        "write_paused",
    )

    def __init__(self, ground: WorkerLoop, pool: "Pool[UpstreamConnection]", target: Target) -> None:
        Timed.__init__(self)
        self.ground = ground
        self._wheel = ground.wheel
        self.pool = pool
        self.target = target
        self.borrower: Borrower | None = None
        self.phase = IDLE
        self.closed = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self.reader: BodyReader | None = None
        self.reusable = True
        self.paused = False
        self.write_paused = False
        self._unsent = 0
        self._targets_turn = True
        self._unasked_body = False
        self.uses = 0
        self.idle_since = ground.wheel.now
        self.idle_patience = target.timeouts.idle  # seconds between two bytes of a response
        self._head_patience = target.timeouts.response_headers  # seconds from the end of a request to a response head
        self._buffer = ground.read_buffer
        self.read_since_rest = 0
        self.resting = False  # until others have had their turn (`Rests`)
        self.body_goes_to = -1  # the `fd` of who takes the response's body
        self._begun = b""  # of a response head
        self._searched = 0
        self.fd = -1  # of a plain socket, to send on without the transport; only while nothing waits there
        self._full = False  # the last read filled the buffer: there may be more
        self._informed = 0
        self._method = b""
        self._asked_upgrade: tuple[bytes, ...] = ()
        # Whether one of `_asked_upgrade`, `_informed`, `_targets_turn`, `_tls_is_new`, `_unasked_body` was set.
        self._special = False
        self._tls: TlsClientTransport | None = None
        self._tls_is_new = False  # the session is still to be remembered
        self._rescue_fd = -1

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self.target.label} {self.phase.name} uses={self.uses}>"

    # what the borrower asks

    def begin(self, borrower: Borrower, request: bytes, method: bytes) -> None:
        """Send a request that is a head alone, and expect the response to `method`."""
        self.borrower = borrower
        self.phase = AWAITING
        self._method = method
        wheel = self._wheel
        self.deadline = deadline = wheel.now + self._head_patience
        if deadline < self.filed_at:
            wheel.file(self, deadline)
        self.write(request)

    def begin_special(
        self,
        borrower: Borrower,
        request: bytes,
        method: bytes,
        asked_upgrade: tuple[bytes, ...],
        whole: bool,
        expects_continue: bool,
    ) -> None:
        """Begin as `begin` does; the request has a body, or offers to upgrade.

        `request`: its head, and what is there of its body. `whole`: that is all. `expects_continue`: the body comes
        only when the target asks for it.
        """
        self._special = True
        self._asked_upgrade = asked_upgrade
        self._targets_turn = whole or expects_continue
        self._unasked_body = expects_continue
        self.begin(borrower, request, method)
        self._watch_head()

    def send(self, framed: bytes) -> None:
        """Send more of the request's body, framed."""
        if self._rescue_fd < 0 and self.phase is AWAITING:
            self._keep_readable()
        if self._targets_turn:  # it was to ask for the body, which now comes unasked
            self._targets_turn = False
            self._watch_head()
        self._write_on(framed)

    def send_last(self, framed: bytes) -> None:
        """Send what ends the request's body: now it is for the target to answer."""
        self._targets_turn = True
        self._watch_head()
        if framed:
            self._write_on(framed)

    def _write_on(self, framed: bytes) -> None:
        # After a failed write the loss of the connection is told in the loop's next turn; until then writing raises.
        if not self.transport.is_closing():
            self.write(framed)

    def write(self, message: bytes) -> None:
        """Send bytes as they are: a framed message, or a tunnel's."""
        send(self.fd, message, self.transport, self.write_paused)

    def _watch_head(self) -> None:
        """The target has its time when it is its turn, to answer or to take more; a slow client is not its fault."""
        if self.phase is AWAITING:
            if (self._targets_turn or self.write_paused) and not self.paused:
                self._watch(self._head_patience)
            else:
                self.deadline = inf

    def _watch(self, seconds: float) -> None:
        wheel = self._wheel
        self.deadline = deadline = wheel.now + seconds
        if deadline < self.filed_at:
            wheel.file(self, deadline)

    def pause(self) -> None:
        """Read no more for now: who takes the response is slower. Time stands still meanwhile."""
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
                self._watch(self.idle_patience)
            if not self.resting:
                self.transport.resume_reading()

    def end_rest(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self) -> None:
        """Close at once, whatever is under way. The borrower is told nothing."""
        self.borrower = None
        if self.phase is not CLOSED:
            done = self.phase is IDLE and not self.write_paused
            self._over()
            self._drop_rescue()
            if self._tls is not None and done:
                self._tls.close()  # which says so within TLS
            elif self.transport is not None:
                self.transport.abort()

    def _over(self) -> None:
        self.phase = CLOSED
        self.closed = True
        self._wheel.drop(self)

    def expire(self, now: float) -> None:
        if self.write_paused and (left := unsent(self.transport)) < self._unsent:
            self._unsent = left  # slow, but it takes what we send
            patience = self._head_patience if self.phase is AWAITING else self.idle_patience
            self._watch(patience)
        elif self.phase is AWAITING:
            self._fail(Fault.UPSTREAM_TIMEOUT)
        elif self.phase is RECEIVING:
            self._fail(Fault.UPSTREAM_STALLED)
        elif self.phase is TUNNEL:
            self._fail(Fault.TUNNEL_IDLE)

    # what the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is one by what it does, not by class
        if isinstance(transport, TlsClientTransport):
            self._tls = transport
            self._special = self._tls_is_new = True
        else:
            transport.set_write_buffer_limits(high=0)  # the brake is on as soon as the kernel takes no more
            self.fd = transport.get_extra_info("socket").fileno()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        phase = self.phase
        if phase is AWAITING and not self._begun:
            answer = take_answer(self._buffer, nbytes, self._method)
            if isinstance(answer, bytes):
                self._full = nbytes == len(self._buffer)
                self._read_head(answer)
            else:
                self._full = False
                self._answered_whole(answer)
            return
        self._full = nbytes == len(self._buffer)
        chunk = taken(self._buffer, nbytes)
        if phase is AWAITING:
            self._read_head(self._begun + chunk)
        elif phase is RECEIVING:
            self._read_body(chunk)
        elif phase is TUNNEL:
            self._watch(self.idle_patience)
            assert self.borrower is not None
            self.borrower.received_raw(chunk)
            self.ground.count_body(self, nbytes, 0)
        elif phase is IDLE:  # bytes that no request asked for belong to nobody
            self._leave_pool()

    def eof_received(self) -> bool:
        if self.phase is TUNNEL:
            assert self.borrower is not None
            self.borrower.ended_raw()
            return not self.closed  # the other direction may go on
        if self.phase is IDLE:
            self._leave_pool()
        elif self.phase is AWAITING or self.phase is RECEIVING:
            self._peer_ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True  # an answer may still be rescued; nothing can be sent
        if self.phase is IDLE:
            self._leave_pool()
        elif not isinstance(exc, (SSLError, TlsBroken)):  # else nothing counts that comes behind
            self._rescue()
        if self.phase is TUNNEL:
            borrower, self.borrower = self.borrower, None
            self._over()
            if borrower is not None:
                why = self._why() or "the tunnel was reset"
                borrower.failed_on(Fault.CONNECTION_LOST, silent=False, why=why)
        elif self.phase is AWAITING or self.phase is RECEIVING:
            fault = Fault.CONNECTION_LOST if self.phase is AWAITING else Fault.UPSTREAM_INCOMPLETE
            self._fail(fault, self._why() or _errno_of(exc))
        self._drop_rescue()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unsent = unsent(self.transport)
        self._watch_head()
        if self.borrower is not None:
            self.borrower.pause_request()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._watch_head()
        if self.borrower is not None:
            self.borrower.resume_request()

    # reading

    def _read_head(self, received: bytes) -> None:
        while True:
            try:
                end = find_head_end(received, self._searched)
                if end < 0 or end > MAX_HEAD:
                    return self._wait_for_more(received)
                head = judge_answer(received, end, self._method)
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

    def _answered_whole(self, head: Http1ResponseHead) -> None:
        borrower = self.borrower
        assert borrower is not None
        self._take_note(head)
        self._finish()
        borrower.answered_whole(head)

    def _take_note(self, head: Http1ResponseHead) -> None:
        self.target.minor = head.minor
        # A target that answers without having asked for the body may take it for the next request.
        self.reusable = not (head.close or self._unasked_body)

    def _wait_for_more(self, received: bytes) -> None:
        """The head is not complete, or it is too long."""
        if not _BEGINNING.startswith(received[: len(_BEGINNING)]):
            self._fail(Fault.UPSTREAM_MALFORMED, "What was sent is no HTTP/1 response.")
        elif len(received) > MAX_HEAD:
            self._fail(Fault.UPSTREAM_MALFORMED, f"The head is longer than {MAX_HEAD} bytes.")
        else:
            self._begun, self._searched = received, len(received)

    def _inform(self, head: Http1ResponseHead) -> bool:
        """Pass an interim response on. False: the exchange is over."""
        borrower = self.borrower
        assert borrower is not None
        self._special = True
        self._informed += 1
        if self._informed > MAX_INFORMATIONAL:
            self._fail(Fault.UPSTREAM_MALFORMED, f"There are more than {MAX_INFORMATIONAL} interim responses.")
            return False
        self.target.minor = head.minor
        if head.status == 100:
            self._unasked_body = False
            self._targets_turn = borrower.request_is_whole()
            self._watch_head()
        borrower.informed(head)
        return self.borrower is not None  # else it was cancelled meanwhile

    def _begin_body(self, head: Http1ResponseHead, received: bytes, end: int) -> None:
        borrower = self.borrower
        assert borrower is not None
        self._take_note(head)
        if not head.has_body:
            self.reusable = False  # bytes after a response belong to nobody
            self._finish()
            borrower.answered(head, b"", True)
            return
        self.phase = RECEIVING
        self.reader = reader = head.body()
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
            borrower.answered(head, payload, True)
            return
        self._watch(self.idle_patience)
        borrower.answered(head, payload, False)
        if not reader.done:
            self._begin_counting(received[end:], payload, reader.assured)
        elif self.borrower is not None:
            self._end_body()

    def _begin_counting(self, chunk: bytes, payload: bytes, assured: int) -> None:
        """`chunk`: what came of the body with the head, and more follows."""
        ground = self.ground
        if not chunk:
            if not assured:
                self._buffer = ground.medium_buffer
            return
        if not assured:
            self._buffer = ground.buffer_for(chunk, payload, 0, -1)
        ground.count_body(self, len(payload), len(chunk) - len(payload))

    def _read_body(self, chunk: bytes) -> None:
        reader, borrower = self.reader, self.borrower
        assert reader is not None
        assert borrower is not None
        self.deadline = self._wheel.now + self.idle_patience
        try:
            payload = reader.feed(chunk)
        except Malformed as malformed:
            self._fail(Fault.UPSTREAM_MALFORMED, malformed.reason)
            return
        if payload:
            borrower.received(payload)
        if not reader.done:
            self._buffer = self.ground.buffer_for(chunk, payload, reader.assured, self.body_goes_to)
            self.ground.count_body(self, len(payload), len(chunk) - len(payload))
        elif self.borrower is borrower:
            self._end_body()

    def _end_body(self) -> None:
        reader, borrower = self.reader, self.borrower
        assert reader is not None
        assert borrower is not None
        if reader.rest:
            self.reusable = False
        self._finish()
        borrower.ended(reader.trailers)

    def _finish(self) -> None:
        """The response is over. The borrower is told next, and gives the connection back or discards it."""
        self.phase = IDLE
        self.borrower = None
        self.deadline = inf
        # Bytes after a response belong to nobody.
        if (self._full or self._tls is not None) and self._more_is_there():
            self.reusable = False
        if self.reader is not None:
            self.reader = None
            self.body_goes_to = -1
            self._buffer = self.ground.read_buffer
        if self._special:
            self._special = self._unasked_body = False
            self._targets_turn = True
            self._asked_upgrade = ()
            self._informed = 0
            self._drop_rescue()
            if self._tls_is_new:
                self._tls_is_new = False
                if self._tls is not None and not self._tls.is_closing():
                    self._tls.remember()
        if self.paused:  # for a client that was slower; the next one may not be
            self.paused = False
            self.transport.resume_reading()

    def _more_is_there(self) -> bool:
        """Whether the target has sent more than was read. After a read that was not full there is nothing."""
        if self._tls is not None:  # what is not read of it may as well be a ticket
            return self._tls.has_unread()
        pending = array.array("i", [0])
        with suppress(OSError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, pending)
        return pending[0] > 0

    def _switch(self, head: Http1ResponseHead, early: bytes) -> None:
        borrower = self.borrower
        assert borrower is not None
        if not self._asked_upgrade or not set(head.upgrade) & set(self._asked_upgrade):
            self._fail(Fault.UPGRADE_UNEXPECTED)
            return
        self._begun = b""
        self.phase = TUNNEL
        self.reusable = False
        self._drop_rescue()
        borrower.switched(head, early)

    def _peer_ended(self) -> None:
        """A clean end of input: that may be how the response ends (RFC 9112 section 6.3, rule 8)."""
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
        borrower = self.borrower
        if silent is None:
            silent = self.phase is AWAITING and not self._begun and not self._informed
        self.close()
        if borrower is not None:
            borrower.failed_on(fault, silent, why)

    @property
    def lost_by(self) -> str:
        """Reason in TLS why the connection has ended; "" = none."""
        return "" if self._tls is None else self._tls.lost_by

    def _why(self) -> str:
        return f"TLS: {self.lost_by}" if self.lost_by else ""

    def _leave_pool(self) -> None:
        pool = self.pool
        self.close()
        pool.forget(self)

    # A transport that is lost drops what it has not handed over yet, and that may be the end of an answer. An upstream
    # that answers early and closes makes our next write fail: a second descriptor of the same socket keeps the bytes
    # within reach. With TLS there may also be what has come and is not deciphered.

    def _keep_readable(self) -> None:
        with suppress(OSError):  # out of descriptors: then an early answer may be lost, the request is not
            self._rescue_fd = os.dup(self.transport.get_extra_info("socket").fileno())

    def _rescue(self) -> None:
        while self.phase is AWAITING or self.phase is RECEIVING or self.phase is TUNNEL:
            try:
                count = self._read_kept()
            except OSError:  # nothing is left, or nothing was kept
                return
            if count == 0:
                self.eof_received()
                return
            self.buffer_updated(count)

    def _read_kept(self) -> int:
        buffer, tls, sealed = self._buffer, self._tls, b""
        if tls is None:
            return os.readv(self._rescue_fd, [buffer])
        while True:
            try:
                return tls.read_lost(sealed, buffer)
            except SSLWantReadError:
                sealed = os.read(self._rescue_fd, len(buffer))
                if not sealed:
                    raise

    def _drop_rescue(self) -> None:
        if self._rescue_fd >= 0:
            os.close(self._rescue_fd)
            self._rescue_fd = -1


def _errno_of(error: Exception | None) -> str:
    """The name of the errno that ended a connection; "" where none did."""
    return errorcode.get(error.errno or 0, "") if isinstance(error, OSError) else ""
