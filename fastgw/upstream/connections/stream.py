"""Stream of an upstream connection: one request and its response, independent of the protocol.

A borrower gets a stream from the pool (`Pool.lend`) and starts a request on it; its listeners are called with the
response. Rule 1: a borrower ends its use exactly once, by `release` or by `cancel`; after `on_failure` the stream has
ended already. Rule 2: after the last call of a listener (`on_end`, `on_failure`, or `on_head` with `ended`) there are
no further calls.
"""

from collections.abc import Sequence
from enum import IntEnum
from math import inf
from typing import Any, Final, Protocol

from fastgw.errors import Fault
from fastgw.eventloop.body_reads import BodyReading
from fastgw.eventloop.timer_wheel import Timed, Wheel
from fastgw.exchange import Trailers
from fastgw.exchange.exchange import ClientSide
from fastgw.http.messages import ResponseHead
from fastgw.upstream.targets.target import Target


class UpstreamPhase(IntEnum):
    """Phase of a stream; over HTTP/1, of its connection."""

    IDLE = 1  # in the pool, or lent but not used yet
    AWAITING = 2  # a request is being sent or was sent; no final response head yet
    RECEIVING = 3  # the response's body is being received
    TUNNEL = 4
    CLOSED = 5


IDLE, AWAITING, RECEIVING, TUNNEL, CLOSED = UpstreamPhase


class ResponseListener(Timed):
    """Listener to a response. It is `Timed` for those that have a deadline of their own, as attempts."""

    def on_interim(self, head: ResponseHead) -> None:
        """Handle an interim response (1xx other than 101)."""
        raise NotImplementedError

    def on_head(self, head: ResponseHead, payload: bytes | None, ended: bool) -> None:
        """Handle the head of the final response, with the first part of its body; `ended`: with all of it.

        `payload`: None if the whole body is in `head.payload`.
        """
        raise NotImplementedError

    def on_data(self, payload: bytes) -> None:
        """Handle more of the body."""
        raise NotImplementedError

    def on_end(self, trailers: Trailers) -> None:
        """Handle the end of the response."""
        raise NotImplementedError

    def on_failure(self, fault: Fault, silent: bool, why: str) -> None:
        """Handle a broken stream; there is nothing to release.

        `silent`: before any byte of a response. `why`: for the log; may be empty.
        """
        raise NotImplementedError

    # calls for a request that offers an upgrade, if the target accepts it

    def on_switch(self, head: ResponseHead, early: bytes) -> None:
        """Handle the target's 101. `early`: bytes after the head, of the other protocol."""
        raise NotImplementedError

    def on_tunnel_data(self, chunk: bytes) -> None:
        """Handle bytes of the target."""
        raise NotImplementedError

    def on_tunnel_end(self) -> None:
        """Handle the end of data from the target; the other direction may continue."""
        raise NotImplementedError

    def on_tunnel_idle(self) -> None:
        """Handle the idle timeout (`UpstreamStream.limit_silence`): cancel the stream, or close the tunnel as its
        protocol defines.
        """
        raise NotImplementedError


class RequestSource(Protocol):
    """Source of a request's body, or of the data of a tunnel: it pauses while the target accepts no more."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


NOT_ESTABLISHED: Final = 0.0, 0.0
NOT_ACCEPTED: Final = "the target did not accept the rest of the request"
"""Reason of a timeout before the request was sent."""
MAX_INFORMATIONAL: Final = 16
"""Maximum number of interim responses to one request; an upstream that sends more is faulty."""
TOO_MANY_INTERIM: Final = f"There are more than {MAX_INFORMATIONAL} interim responses."


class UpstreamStream(BodyReading):
    """A stream, for its borrower. A connection over HTTP/1 is its own stream: this is the base of connections, too.

    `target`: it was opened to. `write_paused`: the target accepts no more for now. `paused`: the response is not read
    for now, because the client is slower. `reused`: its connection has carried a request before. `frames_bodies`:
    bodies are sent with HTTP/1 framing (chunked without a length); otherwise unframed. `established`: when TCP and TLS
    of its connection were established, in monotonic seconds; 0.0: not known, or no TLS. `reset_code`: of the RST_STREAM
    that has ended it; None: it was not ended so. Read in `on_failure` only.
    """

    def _set_up(self, target: Target, wheel: Wheel) -> None:
        """Begin without a request."""
        self.target, self._wheel = target, wheel
        self.phase = IDLE
        self.reused = self.frames_bodies = self.paused = self.write_paused = False
        self.established = NOT_ESTABLISHED
        self.reset_code: int | None = None
        self.idle_timeout = target.timeouts.idle  # seconds between two bytes, also of a request that is being sent
        self._head_timeout = target.timeouts.response_headers  # seconds from the end of a request to a response head
        self._listener: Any = None  # a `ResponseListener`; None: no listener
        self._source: RequestSource | None = None  # of a body that is still being sent
        self._method = b""
        self._sending = False  # the request is not complete yet
        self._chunked = False  # framing of the rest of the request's body
        self._targets_turn = True
        self._unasked_body = False
        self._offered: Sequence[bytes] = ()  # protocols to switch to
        self._informed = 0
        self._special = False  # whether a field was set that the next request has to find as it was

    @property
    def awaits_target(self) -> bool:
        """Whether the target has to respond, or to accept more of the request. False: more of it is to come from the
        client.
        """
        return self._targets_turn or self.write_paused

    def limit_times(self, head: float, idle: float) -> None:
        """Set the timeouts of this request, in seconds, in place of the target's: for the response head, and for the
        next byte. Called before the request is sent.
        """
        self._special = True
        self._head_timeout, self.idle_timeout = head, idle

    def send_request(self, listener: ResponseListener, request: bytes, method: bytes) -> None:
        """Send a complete request, and expect the response to `method`."""
        raise NotImplementedError

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
    ) -> None:
        """Start a request whose body is incomplete, or that offers an upgrade.

        `request`: its head, and the received part of its body, framed. `whole`: the body is complete. `chunked`:
        framing of the rest. `source`: source of the rest. `expects_continue`: the body is sent only when the target
        asks for it. `upgrade`: offered protocols, which HTTP/2 has not.
        """
        self._special = True
        self._offered = upgrade
        self._targets_turn = whole or expects_continue
        self._unasked_body = expects_continue
        self._sending, self._chunked, self._source = not whole, chunked, source
        self.send_request(listener, request, method)
        self._watch_head()

    def attach_source(self, source: RequestSource | None) -> None:
        """Pause and resume this source from now on, and pause it at once if the target accepts no more. None: no
        source.
        """
        self._special = True
        self._source = source
        if self.write_paused and source is not None:
            source.pause()

    def send_body(self, payload: bytes) -> None:
        """Send more of the request's body."""
        raise NotImplementedError

    def end_body(self, trailers: Trailers) -> None:
        """End the request's body: now the target has to respond."""
        raise NotImplementedError

    def hand_over(self, listener: ResponseListener) -> None:
        """Pass the rest of the response to another listener, after its head."""
        if self._listener is not None:  # otherwise everything was reported already
            self._listener = listener

    def pause(self) -> None:
        """Pause reading, because the client is slower. Timeouts of the target are paused too."""
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError

    def send_raw(self, chunk: bytes) -> None:
        """Send through the tunnel."""

    def end_raw(self) -> None:
        """Send no more through the tunnel; the other direction may continue."""

    def limit_silence(self, seconds: float) -> None:
        """Set the idle timeout from now on."""
        self.idle_timeout = seconds
        self._watch(seconds)

    def take_body_from(self, client: ClientSide) -> None:
        """Tell the client side which socket the request's body is written to, if it is that of this request alone."""

    def give_body_to(self, client: ClientSide) -> None:
        """Set the socket that the response's body is written to, likewise."""

    def cancel(self) -> None:
        """Cancel the request: the response is not needed, and no listener is called any more. Its capacity is released.

        HTTP/1 cannot cancel a request, so the connection is closed.
        """
        self.release()

    def release(self) -> None:
        """End the use of the stream, with a response that has ended or is no longer needed.

        The connection is reused only if request and response both ended properly.
        """
        raise NotImplementedError

    def _report_interim(self, head: ResponseHead) -> bool:
        """Report an interim response, which may request the body. False: it is one too many."""
        self._special = True
        self._informed += 1
        if self._informed > MAX_INFORMATIONAL:
            return False
        if head.status == 100:
            self._unasked_body = False
            self._targets_turn = not self._sending
            self._watch_head()
        self._listener.on_interim(head)
        return True

    # time

    def _watch_head(self) -> None:
        """Start the target's timeout while it has to respond or to accept more data; a slow client does not count."""
        if self.phase is AWAITING:
            if self.paused:
                self.deadline = inf
            elif self.write_paused:  # the request is not sent yet
                self._watch_unsent()
            elif self._targets_turn:
                self._watch(self._head_timeout)
            else:
                self.deadline = inf

    def _watch_unsent(self) -> None:
        """Start the idle timeout while the target does not accept all data."""
        self._watch(self.idle_timeout)

    def _extend_idle(self) -> None:
        """Start the idle timeout again for bytes of the request: the target may wait for them with its response."""
        if (self.phase is RECEIVING or self.phase is TUNNEL) and not self.paused:
            self.deadline = self._wheel.now + self.idle_timeout

    def _watch(self, seconds: float) -> None:
        self._wheel.watch(self, self._wheel.now + seconds)
