"""WebSocket guard: reads the frames of both directions, enforces the limits, and closes as RFC 6455 defines.

Rule 1: a close frame of the gateway is sent between two frames: it waits for the end of the current one. Rule 2: both
connections are closed `close_timeout` later in any case. Rule 3: a compressed message can cost a thousand times its
bytes: a direction that has inflated enough waits for its turn (`Rests`) with its data, and is not read from meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from os import urandom
from typing import TYPE_CHECKING, Final, NamedTuple, final

from fastgw.errors import Fault, Side
from fastgw.eventloop.body_reads import BODY_BYTES_PER_TURN
from fastgw.eventloop.timer_wheel import Timed
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Exchange, Trailers
from fastgw.http.websocket.frame_reader import FrameReader
from fastgw.http.websocket.frames import (
    BINARY,
    CLOSE,
    GOING_AWAY,
    INTERNAL_ERROR,
    NO_CLOSE,
    PING,
    POLICY,
    PONG,
    TEXT,
    TOO_BIG,
    UPSTREAM_LOST,
    Deflate,
    close_frame,
    control_frame,
)
from fastgw.observe.metrics.families import WebsocketMessage, WebsocketSide
from fastgw.operator_events import OperatorEvent, log_event

if TYPE_CHECKING:
    from fastgw.exchange.exchange import ServiceSide

COUNTED_AFTER_S: Final = 1.0
"""Messages are counted in the metrics at most so much later: together, not one by one."""
_KINDS: Final = {TEXT: "text", BINARY: "binary", CLOSE: "close", PING: "ping", PONG: "pong"}
_SIDES: Final = {side.name.lower(): side for side in WebsocketSide}
_NONE_YET: Final = (0,) * len(WebsocketMessage)
_FAULTS: Final = {POLICY: Fault.RATE_LIMITED, TOO_BIG: Fault.BODY_TOO_LARGE}


class Limits(NamedTuple):
    """Limits of the connections of one filter; `inf` and None: unlimited. Times in seconds."""

    message_bytes: int | None
    rate: float
    """Messages and pings of the client per second; at most one second's worth at once."""
    idle: float
    total: float
    ping: float
    reauthenticate: float
    close_timeout: float
    log_messages: float
    """Lines of messages and control frames per second, at most one second's worth at once; 0: none."""


LogMessage = Callable[[Exchange, dict[str, object], int, int], None]
"""Logs a message of an exchange: its `websocket` field, and the bytes of the client and of the upstream."""
NOT_CHECKED: Final = "the client could not be authenticated again"


class ForcedClose(NamedTuple):
    """Close of a connection by the gateway. `reason`: for both sides; `why`: for the log."""

    code: int
    reason: str
    fault: Fault
    why: str


Reauthenticate = Callable[[Exchange], Awaitable[ForcedClose | None]]
"""Authenticates the client again: returns how to close the connection if it may not continue. None: it may."""


@final
class WebsocketGuard(Timed):
    """Guard between the two sides of an exchange, as its `service`; `_FromUpstream` is its `response_sink`."""

    __slots__ = (
        "_authenticate",
        "_begun_at",
        "_can_log",
        "_can_reauthenticate",
        "_client_ended",
        "_client_rest",
        "_close_sent",
        "_closing",
        "_count_at",
        "_counted",
        "_from_client",
        "_from_upstream",
        "_heard_at",
        "_inner",
        "_instance",
        "_limits",
        "_log_message",
        "_log_tokens",
        "_logged_at",
        "_over",
        "_owes_client",
        "_owes_upstream",
        "_paused",
        "_ping_at",
        "_ping_bytes",
        "_reason",
        "_reauthenticate_at",
        "_reauthentication",
        "_spent_at",
        "_tokens",
        "_total_at",
        "_unlogged",
        "_upstream_ended",
        "_upstream_is_full",
        "_upstream_rest",
        "_wheel",
        "_worker_loop",
        "close_at",
        "close_code",
        "closed_by",
        "exchange",
        "service_ends_itself",
        "service_summary",
    )

    def __init__(
        self,
        instance: str,
        limits: Limits,
        worker_loop: WorkerLoop,
        authenticate: Reauthenticate,
        deflate: tuple[Deflate | None, Deflate | None],
        log_message: LogMessage,
    ) -> None:
        """`instance`: name of the filter; `deflate`: parameters for the client's and for the upstream's messages."""
        super().__init__()
        self._instance = instance
        self._limits, self._worker_loop, self._authenticate = limits, worker_loop, authenticate
        self._can_reauthenticate, self._can_log = limits.reauthenticate != inf, bool(limits.log_messages)
        self._wheel = wheel = worker_loop.wheel
        self._from_client = FrameReader(True, limits.message_bytes, deflate[0], self._can_log)
        self._from_upstream = FrameReader(False, limits.message_bytes, deflate[1], self._can_log)
        self._log_message = log_message
        self._log_tokens, self._logged_at = max(limits.log_messages, 1.0), wheel.now
        self._unlogged = 0
        self.exchange: Exchange | None = None
        self.service_summary: Callable[[], dict[str, object]] | None = None
        """Returns the part of the summary that the other side knows."""
        self.service_ends_itself = False
        """Whether the other side is the gateway itself: after the close frames it ends once its work is done."""
        self._inner: ServiceSide | None = None
        self._tokens, self._spent_at = max(limits.rate, 1.0), wheel.now
        self._heard_at = wheel.now
        self._begun_at = wheel.now
        self._total_at = wheel.now + limits.total
        self._ping_at = wheel.now + limits.ping
        self._ping_bytes: bytes | None = None
        self._reauthenticate_at = wheel.now + limits.reauthenticate
        self._reauthentication: asyncio.Task[None] | None = None
        self.close_at = inf
        self.close_code: int | None = None
        self.closed_by: str | None = None
        self._count_at = inf
        self._counted = {WebsocketSide.CLIENT: _NONE_YET, WebsocketSide.UPSTREAM: _NONE_YET}  # in the metrics
        self._reason = ""
        self._closing = self._over = False  # the gateway closes; everything has ended
        self._close_sent = False  # to either side, by the gateway
        self._owes_client = self._owes_upstream = False  # a close frame that waits for the end of another frame
        self._client_ended = self._upstream_ended = False
        self._paused = self._upstream_is_full = False  # the client, or the upstream, accepts no more
        self._client_rest: _DirectionRest | None = None
        self._upstream_rest: _DirectionRest | None = None

    def __repr__(self) -> str:
        return f"<WebsocketGuard closed by {self.closed_by} with {self.close_code}>"

    @property
    def is_closing(self) -> bool:
        """Whether the gateway closes the connection: messages of the other side are dropped."""
        return self._closing or self._over

    # hook

    def start(self, exchange: Exchange, early: bytes) -> bytes:
        self.exchange = exchange
        self._inner, exchange.service = exchange.service, self
        exchange.response_sink = _FromUpstream(self)
        return self._from_upstream.feed(early) if early else b""

    def established(self) -> None:
        if self._over or self.exchange is None:
            return
        if self._limits.log_messages:
            self._log("upstream", self._from_upstream)
        self._after_upstream()
        if self._from_upstream.unfinished:
            self._rest_upstream()
        self._plan()

    def pause_client(self) -> None:
        self._upstream_is_full = True
        if self.exchange is not None:
            self.exchange.client.pause_tunnel()

    def resume_client(self) -> None:
        self._upstream_is_full = False
        if self.exchange is not None and self._client_rest is None:
            self._read_client_again(self.exchange)

    def _read_client_again(self, exchange: Exchange) -> None:
        if self._ping_bytes is not None:
            self._ping_at = self._wheel.now + self._limits.ping  # its answer may have waited to be read
        exchange.client.resume_tunnel()

    def drain(self) -> None:
        self._close(GOING_AWAY, "the gateway is shutting down", None)

    def replace_limits(self, limits: Limits) -> None:
        """Set the limits from now on. `reauthenticate` and `log_messages` can be changed, but not turned on: what they
        need is kept from the beginning of a connection only if they are set then. Only without compression.
        """
        before, now = self._limits, self._wheel.now
        if not self._can_reauthenticate:
            limits = limits._replace(reauthenticate=inf)
        if not self._can_log:
            limits = limits._replace(log_messages=0.0)
        if limits == before or self._over:
            return
        self._limits = limits
        if limits.message_bytes != before.message_bytes:
            for reader in (self._from_client, self._from_upstream):
                reader.limit_messages(limits.message_bytes)
        if limits.rate == inf:
            self._from_client.allowance = None
        self._total_at = self._begun_at + limits.total
        if limits.ping != before.ping:
            self._ping_at = now + limits.ping
        if limits.reauthenticate != before.reauthenticate and self._reauthentication is None:
            self._reauthenticate_at = now + limits.reauthenticate
        self._plan()

    def end_idle(self) -> None:
        self._close(GOING_AWAY, "the connection was idle", Fault.TUNNEL_IDLE)

    def summary(self) -> dict[str, object]:
        client, upstream = self._counted[WebsocketSide.CLIENT], self._counted[WebsocketSide.UPSTREAM]
        return {
            "client_messages": client[WebsocketMessage.TEXT] + client[WebsocketMessage.BINARY],
            "upstream_messages": upstream[WebsocketMessage.TEXT] + upstream[WebsocketMessage.BINARY],
            "close_code": self.close_code,
            "closed_by": self.closed_by,
            **({"unlogged": self._unlogged} if self._limits.log_messages else {}),
            **({} if self.service_summary is None else self.service_summary()),
        }

    def finished(self) -> None:
        """Release the exchange, which has ended."""
        self._over = True
        self._wheel.drop(self)
        if self._reauthentication is not None:
            self._reauthentication.cancel()
        self._count_messages()
        if self.exchange is not None:
            self._count_end(self.exchange)
        exchange, self.exchange, self._inner = self.exchange, None, None
        if exchange is not None:
            exchange.response_sink = exchange.client  # avoids a reference cycle

    # log

    def _log(self, sender: str, reader: FrameReader) -> None:
        """Log what a reader has noted."""
        exchange, notes, now, rate = self.exchange, reader.notes, self._wheel.now, self._limits.log_messages
        if exchange is None or notes is None:
            return
        self._log_tokens = min(max(rate, 1.0), self._log_tokens + (now - self._logged_at) * rate)
        self._logged_at = now
        fit = min(len(notes), int(self._log_tokens))
        self._log_tokens -= fit
        self._unlogged += len(notes) - fit
        for opcode, size in notes[:fit]:
            by_client = size if reader is self._from_client else 0
            field: dict[str, object] = {"sender": sender, "kind": _KINDS[opcode], "bytes": size}
            self._log_message(exchange, field, by_client, size - by_client)
        notes.clear()

    # metrics

    def _passed(self) -> None:
        """Handle frames that were complete: the connection is not idle, and there is something to count."""
        self._heard_at = now = self._wheel.now
        if self._count_at == inf:
            self._count_at = now + COUNTED_AFTER_S
            self._plan()

    def _count_messages(self) -> None:
        """Count the messages since the last call. Messages after the gateway has closed are dropped, not counted."""
        self._count_at = inf
        exchange = self.exchange
        if exchange is None or self._closing:
            return
        for side, reader in ((WebsocketSide.CLIENT, self._from_client), (WebsocketSide.UPSTREAM, self._from_upstream)):
            counts = reader.texts, reader.binaries, reader.pings, reader.pongs
            for kind, (count, counted) in enumerate(zip(counts, self._counted[side], strict=True)):
                if count != counted:
                    exchange.client.counts.count_websocket(exchange, side, kind, count - counted)
            self._counted[side] = counts

    def _count_end(self, exchange: Exchange) -> None:
        if self.closed_by is None:  # without a close frame
            fault = exchange.fault
            if fault is None or fault is Fault.CLIENT_LEFT:
                self.closed_by = "client"
            else:
                self.closed_by = "upstream" if fault.side is Side.UPSTREAM else "gateway"
            self.close_code = NO_CLOSE
        elif self._closing and self.closed_by == "gateway" and not self._close_sent:
            self.close_code = NO_CLOSE  # each side was within a frame to its end, or had ended
        assert self.close_code is not None
        exchange.client.counts.count_websocket(exchange, _SIDES[self.closed_by], self.close_code, 1)

    # calls of the client side (`ServiceSide`)

    def pause(self) -> None:
        self._paused = True
        if self._inner is not None:
            self._inner.pause()

    def resume(self) -> None:
        self._paused = False
        if self._inner is not None and self._upstream_rest is None:
            self._inner.resume()

    def feed_raw(self, chunk: bytes) -> None:
        rest = self._client_rest
        if rest is None:
            self._read_client(chunk)
            if self._from_client.unfinished:
                self._rest_client()
        else:
            rest.received.append(chunk)

    def _rest_client(self, ended: bool = False) -> None:
        exchange = self.exchange
        if not self._over and exchange is not None:
            exchange.client.pause_tunnel()
            self._client_rest = _DirectionRest(self._continue_client, ended)
            self._worker_loop.reads.rests.wait_for_turn(self._client_rest)

    def _continue_client(self, received: bytes, ended: bool) -> None:
        """Continue to read what the client has sent. `ended`: it will send no more."""
        exchange, self._client_rest = self.exchange, None
        if self._over or exchange is None:
            return
        self._read_client(received)
        if self._from_client.unfinished:
            self._rest_client(ended)
        elif ended:
            self.end_raw()
        elif not self._upstream_is_full:
            self._read_client_again(exchange)

    def _read_client(self, chunk: bytes) -> None:
        reader, inner = self._from_client, self._inner
        if self._over or inner is None:
            return
        if self._closing:
            if self._owes_upstream:
                rest, chunk = reader.rest(chunk), b""
                if rest:
                    inner.feed_raw(rest)
                self._settle_upstream()
            if not self._owes_upstream and reader.violation is None:
                reader.allowance = None
                reader.feed(chunk)  # for its close frame
            self._settle()
            return
        frames = reader.frames
        if self._limits.rate != inf:
            self._refill(reader)
        passed = reader.feed(chunk)
        if reader.allowance is not None:
            self._tokens -= int(self._tokens) - max(reader.allowance, 0)
        if reader.frames != frames:
            self._passed()
            if self._limits.log_messages:
                self._log("client", reader)
        if reader.close is not None:
            self._peer_closed("client", reader.close)  # first: the other side may answer at once
        if passed:
            inner.feed_raw(passed)
        if reader.own_pong is None:
            self._ping_bytes = None
        if reader.violation is not None:
            code, reason = reader.violation
            self._close(code, reason, _FAULTS.get(code, Fault.BAD_REQUEST))

    def _refill(self, reader: FrameReader) -> None:
        now = self._wheel.now
        most = max(self._limits.rate, 1.0)
        self._tokens = min(most, self._tokens + (now - self._spent_at) * self._limits.rate)
        self._spent_at = now
        reader.allowance = int(self._tokens)

    def end_raw(self) -> None:
        if self._client_rest is not None:
            self._client_rest.ended = True
            return
        self._client_ended = True
        if self._closing:
            self._settle()
        elif self._inner is not None:
            self._inner.end_raw()

    def cancel(self) -> None:
        """Handle the abort of the exchange: by the client side, which has set the reason, or by the upstream."""
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.cancel()
        self._over = True

    # calls of the upstream side (`BodySink`)

    def feed(self, payload: bytes) -> None:
        rest = self._upstream_rest
        if rest is not None:
            rest.received.append(payload)
        else:
            self._read_upstream(payload)
            if self._from_upstream.unfinished:
                self._rest_upstream()

    def _rest_upstream(self, ended: bool = False) -> None:
        if not self._over and self._inner is not None:
            self._inner.pause()
            self._upstream_rest = _DirectionRest(self._continue_upstream, ended)
            self._worker_loop.reads.rests.wait_for_turn(self._upstream_rest)

    def _continue_upstream(self, received: bytes, ended: bool) -> None:
        """Continue to read what the upstream has sent. `ended`: it will send no more."""
        self._upstream_rest = None
        if self._over or self._inner is None:
            return
        self._read_upstream(received)
        if self._from_upstream.unfinished:
            self._rest_upstream(ended)
        elif ended:
            self.upstream_ended()
        elif not self._paused and self._inner is not None:
            self._inner.resume()

    def _read_upstream(self, payload: bytes) -> None:
        exchange, reader = self.exchange, self._from_upstream
        if self._over or exchange is None:
            return
        if self._closing:
            if self._owes_client:
                rest, payload = reader.rest(payload), b""
                if rest:
                    exchange.client.feed(rest)
                self._settle_client()
            if not self._owes_client and reader.violation is None:
                reader.feed(payload)
            self._settle()
            return
        frames = reader.frames
        passed = reader.feed(payload)
        if reader.frames != frames:
            self._passed()
            if self._limits.log_messages:
                self._log("upstream", reader)
        if passed:
            exchange.client.feed(passed)
        self._after_upstream()

    def _after_upstream(self) -> None:
        reader = self._from_upstream
        if reader.violation is not None:
            code, reason = reader.violation
            self._close(code, reason, Fault.RESPONSE_TOO_LARGE if code == TOO_BIG else Fault.UPSTREAM_MALFORMED)
        elif reader.close is not None:
            self._peer_closed("upstream", reader.close)

    def upstream_ended(self) -> None:
        """Handle the end of data from the upstream: after a close frame, or after the end of the client's data, it is
        normal; otherwise the upstream is lost.
        """
        exchange = self.exchange
        if self._upstream_rest is not None:
            self._upstream_rest.ended = True
            return
        self._upstream_ended = True
        if self._over or exchange is None:
            return
        if self._closing:
            self._settle_client()
            self._settle()
            return
        if not self._client_ended:
            self._tell_client_of_loss()
        self.close_at = min(self.close_at, self._wheel.now + self._limits.close_timeout)
        exchange.client.end(())
        self._plan()

    def upstream_lost(self) -> None:
        """Handle the loss of the connection to the upstream; the client's is closed next."""
        exchange = self.exchange
        if self._over or exchange is None:
            return
        if not self._closing:
            self._tell_client_of_loss()
        self._over = True
        if not self._owes_client and self._from_upstream.at_boundary:
            exchange.client.end(())  # a reset of the HTTP/2 stream would discard the close frame, which may wait

    def _tell_client_of_loss(self) -> None:
        reader, exchange = self._from_upstream, self.exchange
        if reader.close is not None or reader.violation is not None or exchange is None:
            return
        if self.closed_by is None and not self._client_ended:
            self.closed_by = "upstream"
            self.close_code = UPSTREAM_LOST if reader.at_boundary else NO_CLOSE  # within a frame no other one can be
        if reader.at_boundary:
            exchange.client.feed(close_frame(UPSTREAM_LOST, "the upstream closed the connection", masked=False))

    # closing

    def closed_by_gateway(self, code: int) -> None:
        """Record that the next close frame of the upstream's side is one of the gateway: no upstream has sent it."""
        if self.closed_by is None:
            self.closed_by, self.close_code, self._close_sent = "gateway", code, True

    def _peer_closed(self, who: str, code: int) -> None:
        """Handle the close frame of one side, which was forwarded: start the timeout of the other side."""
        if self.closed_by is None:
            self.closed_by, self.close_code = who, code
        if self.close_at == inf:
            self.close_at = self._wheel.now + self._limits.close_timeout
            self._plan()

    def _close(self, code: int, reason: str, fault: Fault | None, why: str = "") -> None:
        """Close both sides, with this code. `why`: for the log; "": the reason."""
        exchange = self.exchange
        if self._closing or self._over or exchange is None:
            return
        self._count_messages()
        self._closing, self._reason = True, reason
        if code in _FAULTS:
            exchange.client.counts.count_refusal(exchange, self._instance)
        if self.closed_by is None:
            self.closed_by, self.close_code = "gateway", code
        exchange.fault = exchange.fault or fault
        exchange.why = exchange.why or (why or reason if fault is not None else "")
        self.close_at = min(self.close_at, self._wheel.now + self._limits.close_timeout)
        # A close frame of the other side was forwarded, so none is owed; and nothing follows the end of a direction.
        self._owes_client = self._from_upstream.close is None and not self._upstream_ended
        self._owes_upstream = self._from_client.close is None and not self._client_ended
        if self._paused:
            self.resume()  # further data is dropped until its end
        self._settle_client()
        self._settle_upstream()
        self._plan()
        self._settle()

    def _settle_client(self) -> None:
        exchange, reader = self.exchange, self._from_upstream
        if not self._owes_client or exchange is None:
            return
        if reader.at_boundary:
            self._owes_client, self._close_sent = False, True
            assert self.close_code is not None
            code = self.close_code if self.closed_by == "gateway" else GOING_AWAY
            exchange.client.feed(close_frame(code, self._reason, masked=False))
        elif reader.violation is not None or self._upstream_ended:
            self._owes_client = False  # the frame is never complete, so no close frame can follow

    def _settle_upstream(self) -> None:
        reader = self._from_client
        if not self._owes_upstream or self._inner is None:
            return
        if reader.at_boundary:
            self._owes_upstream, self._close_sent = False, True
            assert self.close_code is not None
            code = self.close_code if self.closed_by == "gateway" else GOING_AWAY
            self._inner.feed_raw(close_frame(code, self._reason, masked=True))
        elif reader.violation is not None:
            self._owes_upstream = False
            self._inner.end_raw()

    def _settle(self) -> None:
        """Close the connections of sides to which everything was sent."""
        client, upstream, exchange = self._from_client, self._from_upstream, self.exchange
        if self._over or exchange is None:
            return
        if self.service_ends_itself and not (self._owes_upstream or self._upstream_ended):
            return  # the exchange keeps a worker that drains alive until its end
        client_done = self._client_ended or client.close is not None
        # A side that has violated the protocol is not read any more: it gets the end, and time to close. So does a
        # client within a frame that is never complete.
        if not self._owes_client and (client_done or client.violation is not None or not upstream.at_boundary):
            exchange.client.end(())
        upstream_done = self._upstream_ended or upstream.close is not None or upstream.violation is not None
        if client_done and upstream_done and not self._owes_client:
            self._end()

    def _end(self) -> None:
        """Close both connections, once what was written has been sent."""
        exchange, inner = self.exchange, self._inner
        if self._over or exchange is None:
            return
        self._over, self._inner = True, None
        exchange.service = None
        if inner is not None:
            inner.cancel()
        exchange.client.end(())
        if self.exchange is not None:  # otherwise the exchange has ended with it
            exchange.client.abort(exchange.fault or Fault.CLIENT_LEFT)  # it closes the connection

    # time

    def _plan(self) -> None:
        if not self._over:
            limits = self._limits
            due = (
                *(self._heard_at + limits.idle, self._total_at),
                *(self._ping_at, self._reauthenticate_at, self._count_at),
            )
            self._wheel.watch(self, self.close_at if self._closing else min(self.close_at, *due))

    def expire(self, now: float) -> None:
        if self._over:
            return
        limits = self._limits
        if now >= self.close_at:
            self._end()
            return
        if self._closing:
            pass
        elif now >= self._total_at:
            self._close(GOING_AWAY, "the connection has reached its maximum duration", Fault.TUNNEL_IDLE)
        elif now >= self._heard_at + limits.idle:
            self.end_idle()
        elif now >= self._ping_at:
            self._ping(now)
        elif now >= self._reauthenticate_at:
            self._reauthenticate_at = inf
            self._reauthentication = self._worker_loop.loop.create_task(self._check_client_again())
        elif now >= self._count_at:
            self._count_messages()
        self._plan()

    def _ping(self, now: float) -> None:
        if self.close_at != inf:  # RFC 6455 section 5.5.2: after a close frame no ping has to be answered
            self._ping_at = inf
            return
        self._ping_at = now + self._limits.ping
        exchange = self.exchange
        if self._upstream_is_full or self._client_rest is not None:
            return  # the client is not read from, nor would its answer be
        if self._ping_bytes is not None:
            self._close(GOING_AWAY, "a ping was not answered", Fault.CLIENT_STALLED)
        elif exchange is not None and self._from_upstream.at_boundary and not self._paused:
            self._ping_bytes = self._from_client.own_pong = urandom(8)
            exchange.client.feed(control_frame(PING, self._ping_bytes, masked=False))

    async def _check_client_again(self) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        try:
            closing = await self._authenticate(exchange)
        except Exception:  # not of a filter's request step: a client that is not checked may not continue
            log_event(OperatorEvent.FILTER_RAISED, "filter %s: reauthenticate raised", self._instance, error=True)
            closing = ForcedClose(INTERNAL_ERROR, NOT_CHECKED, Fault.INTERNAL, NOT_CHECKED)
        self._reauthentication = None
        if closing is not None:
            self._close(*closing)
        else:
            self._reauthenticate_at = self._wheel.now + self._limits.reauthenticate
            self._plan()


@final
class _DirectionRest:
    """Wait of one direction of a guard for its turn to inflate more (`Resting`)."""

    __slots__ = ("_go_on", "ended", "read_since_rest", "received", "resting")

    def __init__(self, go_on: Callable[[bytes, bool], None], ended: bool) -> None:
        """`go_on`: continues with the data received meanwhile; its second argument is `ended`."""
        self._go_on = go_on
        self.resting, self.read_since_rest = False, BODY_BYTES_PER_TURN
        self.received: list[bytes] = []
        """Data received while it waits: it was in flight when reading was paused."""
        self.ended = ended
        """Whether no more data will follow."""

    def end_rest(self) -> None:
        self._go_on(b"".join(self.received), self.ended)


@final
class _FromUpstream:
    """Sink of data from the upstream (`BodySink`)."""

    __slots__ = ("_guard", "cancel", "feed")

    def __init__(self, guard: WebsocketGuard) -> None:
        self._guard = guard
        self.feed, self.cancel = guard.feed, guard.upstream_lost

    def end(self, trailers: Trailers) -> None:
        self._guard.upstream_ended()
