"""One connection of a WebSocket API, from its acceptance to the end of its last request.

Rule 1: an accepted message is sent, also if the client leaves; then `$disconnect` follows, once. Rule 2: a queue is
bounded: a client whose messages wait is not read from, and one that does not read gets no more. Rule 3: after the close
frames the client's connection ends as soon as `$disconnect` is answered, and `HOLD_S` later in any case; a worker that
drains waits as long, also if the client is gone.
"""

import re
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, final

import orjson

from fastgw.errors import Fault
from fastgw.eventloop.addressed_connections import ConnectionOrder, ConnectionStatus, OrderAnswer, Result, Verb
from fastgw.eventloop.timer_wheel import Timed
from fastgw.exchange import Exchange, Response
from fastgw.exchange.chain import Chain
from fastgw.exchange.states import ENDED
from fastgw.filters.policies.websocket.filter import Websocket
from fastgw.filters.policies.websocket.guard import WebsocketGuard
from fastgw.forwarded_headers import reported_lines
from fastgw.http.http1.parser import parse_response
from fastgw.http.websocket.frames import (
    BINARY,
    CLOSE,
    GOING_AWAY,
    NO_CLOSE,
    NO_CODE,
    NORMAL,
    PING,
    PONG,
    TEXT,
    TOO_BIG,
    close_frame,
    control_frame,
    message_frame,
)
from fastgw.http.websocket.handshake import accept_for
from fastgw.http.websocket.messages import Received, WebsocketMessageReader
from fastgw.observe.metrics.families import WebsocketMessage, WebsocketSide
from fastgw.upstream.client.response_action import MARKS
from fastgw.upstream.client.subrequest import Subrequests
from fastgw.websocket_api.connection_record import ConnectionRecord, encode
from fastgw.websocket_api.event_call import ConnectionClient, EventAnswer, EventCall
from fastgw.websocket_api.event_headers import CLOSE_CODE, CONNECTION_ID, Lines, lines_of_filters

if TYPE_CHECKING:
    from fastgw.websocket_api.action import CompiledEvent, WebsocketApiAction

MOST_QUEUED: Final = 16
"""Messages of a client that may wait before it is not read from any more."""
HOLD_S: Final = 2.0
"""Seconds for which the end of a connection, and of a worker that drains, waits for the answer to `$disconnect`."""
CLOSE_S: Final = 5.0
"""Timeout for the client's close frame, and for the end of its connection, in seconds."""
_MOST_FIELDS: Final = 100
_TEXTS: Final = re.compile(rb"text/|application/(?:json|[a-z0-9.+-]+\+json)", re.IGNORECASE)
_SIDES: Final = {side.name.lower(): side for side in WebsocketSide}
_KINDS: Final = {TEXT: WebsocketMessage.TEXT, BINARY: WebsocketMessage.BINARY, PING: WebsocketMessage.PING}


@final
class ApiConnection(Timed):
    """Service side of the exchange from the acceptance on, and its tunnel if no filter inspects it."""

    __slots__ = (
        "_action",
        "_active",
        "_client",
        "_close_at",
        "_close_code",
        "_close_sent",
        "_closed_by",
        "_connected_date",
        "_counts",
        "_disconnect_sent",
        "_exchange",
        "_failed",
        "_finish_by",
        "_has_ended",
        "_heard_at",
        "_hold_until",
        "_is_full",
        "_is_leaving",
        "_is_over",
        "_is_working",
        "_journal_number",
        "_last_active_date",
        "_paused",
        "_pong",
        "_queue",
        "_queued_bytes",
        "_reader",
        "_router",
        "_worker_loop",
        "id",
        "route_name",
    )

    def __init__(self, action: "WebsocketApiAction", exchange: Exchange) -> None:
        super().__init__()
        self._action, self._exchange = action, exchange
        self._worker_loop = action.worker_loop
        self._router = exchange.listener.router
        self.id = self._worker_loop.connections.new_id()
        self.route_name = "" if exchange.route is None else exchange.route.name
        if exchange.subrequests is None:
            exchange.subrequests = Subrequests()
        lines = [*lines_of_filters(exchange), *reported_lines(exchange.head, exchange.peer)]
        lines.append((CONNECTION_ID, self.id.encode()))
        self._client = ConnectionClient(
            *(exchange.client, exchange.listener, exchange.peer, exchange.client_ip, exchange.consumer),
            *(exchange.claims, exchange.authority or b"localhost", lines),
            *(exchange.trace, exchange.subrequests),
        )
        self._journal_number = 0  # of its record; 0: there is none
        self._reader = WebsocketMessageReader(action.settings.message_bytes)
        self._queue: deque[Received] = deque()
        self._queued_bytes = self._active = self._failed = 0
        self._counts = {WebsocketSide.CLIENT: 0, WebsocketSide.UPSTREAM: 0}  # messages
        self._connected_date = self._last_active_date = time.time()
        self._heard_at = self._worker_loop.wheel.now
        self._close_at = self._hold_until = self._finish_by = inf
        self._close_code: int | None = None
        self._closed_by = ""
        self._pong: bytes | None = None  # owed to a client that does not read
        self._paused = self._is_full = self._is_working = self._has_ended = False
        self._close_sent = self._is_leaving = self._disconnect_sent = self._is_over = False

    def __repr__(self) -> str:
        return f"<ApiConnection closed by {self._closed_by or 'nobody'} with {self._close_code}>"

    @property
    def lines(self) -> Lines:
        """Headers of all of its requests."""
        return self._client.lines

    def enter_journal(self) -> None:
        """Record the connection, so that `$disconnect` is sent even if this worker is killed. Raises `OSError`."""
        journal = self._worker_loop.journal
        if journal is not None:
            self._journal_number = journal.add(encode(ConnectionRecord.of(self._client, self.route_name)))

    def leave_journal(self) -> None:
        """Record that no `$disconnect` is needed any more."""
        journal, number = self._worker_loop.journal, self._journal_number
        self._journal_number = 0
        if journal is not None and number:
            journal.remove(number)

    def open(self, exchange: Exchange, protocol: bytes | None) -> None:
        """Accept the connection. `protocol`: the subprotocol that was selected."""
        accept = accept_for(exchange.field(b"sec-websocket-key") or b"")
        selected = b"" if protocol is None else b"Sec-WebSocket-Protocol: %b\r\n" % protocol
        raw = (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept, selected)
        )
        exchange.service = self
        try:
            self._worker_loop.connections.add(self.id, self)
        except OSError as error:
            exchange.fail(Fault.INTERNAL, why=f"the worker cannot listen for messages of back ends: {error.strerror}")
            return
        response = Response(101, parse_response(raw, exchange.method, _MOST_FIELDS), b"", MARKS)
        exchange.switch(response, b"", self._action.idle, self)
        if isinstance(exchange.tunnel, WebsocketGuard):
            exchange.tunnel.service_summary = self._summary_beside_filter
            exchange.tunnel.service_ends_itself = True
        self._plan()

    # its tunnel

    def start(self, exchange: Exchange, early: bytes) -> bytes:
        return early

    def established(self) -> None: ...
    def pause_client(self) -> None: ...  # no upstream gets the client's data
    def resume_client(self) -> None: ...

    def drain(self) -> None:
        self._close(GOING_AWAY, "the gateway is shutting down", None)

    def end_idle(self) -> None:
        self._close(GOING_AWAY, "the connection was idle", Fault.TUNNEL_IDLE)

    def summary(self) -> dict[str, object]:
        return {
            "client_messages": self._counts[WebsocketSide.CLIENT],
            "upstream_messages": self._counts[WebsocketSide.UPSTREAM],
            "close_code": self._close_code,
            "closed_by": self._closed_by or None,
            **self._summary_beside_filter(),
        }

    def _summary_beside_filter(self) -> dict[str, object]:
        """Return what the filter `websocket` does not know."""
        return {"connection_id": self.id, "failed_messages": self._failed}

    def _count(self, side: WebsocketSide, what: int) -> None:
        """Count a message, or a close code, unless the filter `websocket` does."""
        if self._exchange.tunnel is self:
            self._client.side.counts.count_websocket(self._exchange, side, what, 1)

    # calls of the client side (`ServiceSide`)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        pong, self._pong = self._pong, None
        if pong is not None and not self._close_sent:
            self._send_frame(control_frame(PONG, pong, masked=False))
        self._work()

    def feed_raw(self, chunk: bytes) -> None:
        if self._is_over or self._is_leaving:
            return
        reader = self._reader
        for received in reader.feed(chunk):
            if not self._close_sent:
                self._take_message(received)
        if reader.violation is not None:
            code, reason = reader.violation
            self._close(code, reason, Fault.BODY_TOO_LARGE if code == TOO_BIG else Fault.BAD_REQUEST)
            self._leave()
        elif reader.close is not None:
            self._client_closed(reader.close)
        self._work()

    def end_raw(self) -> None:
        self._ended_without_close()
        self._leave()

    def cancel(self) -> None:
        """Handle the end of the exchange; its requests continue."""
        if self._is_over:
            return
        self._is_over = True
        self._ended_without_close()
        self._count(_SIDES[self._closed_by], NO_CLOSE if self._close_code is None else self._close_code)
        self._leave()
        self._plan()

    def _ended_without_close(self) -> None:
        if not self._closed_by:
            fault = self._exchange.fault
            self._closed_by = "client" if fault is None or fault is Fault.CLIENT_LEFT else "gateway"
            self._close_code = NO_CLOSE

    def _take_message(self, received: Received) -> None:
        self._heard_at = self._worker_loop.wheel.now
        opcode, payload = received
        if opcode == PING:
            self._count(WebsocketSide.CLIENT, WebsocketMessage.PING)
            if self._paused:
                self._pong = payload  # RFC 6455 section 5.5.3: only the latest one needs an answer
            else:
                self._send_frame(control_frame(PONG, payload, masked=False))
        elif opcode == PONG:
            self._count(WebsocketSide.CLIENT, WebsocketMessage.PONG)
        else:
            self._last_active_date = time.time()
            self._counts[WebsocketSide.CLIENT] += 1
            self._count(WebsocketSide.CLIENT, _KINDS[opcode])
            self._queue.append(received)
            self._queued_bytes += len(payload)

    def _send_frame(self, frame: bytes) -> None:
        exchange = self._exchange
        if not self._is_over:
            exchange.response_bytes += len(frame)
            exchange.response_sink.feed(frame)

    def _send_message(self, opcode: int, payload: bytes) -> None:
        self._heard_at, self._last_active_date = self._worker_loop.wheel.now, time.time()
        self._counts[WebsocketSide.UPSTREAM] += 1
        self._count(WebsocketSide.UPSTREAM, _KINDS[opcode])
        self._send_frame(message_frame(opcode, payload))

    # requests

    def _work(self) -> None:
        """Send what waits, as far as that is possible now."""
        if self._is_working:
            return  # a request has ended at once: the loop below continues
        self._is_working = True
        try:
            action = self._current_action()
            while self._queue and self._active < action.settings.concurrency and (self._is_leaving or not self._paused):
                received = self._queue.popleft()
                self._queued_bytes -= len(received.payload)
                self._send_event(action, received)
            if self._is_leaving and not self._queue and not self._active and not self._disconnect_sent:
                self._disconnect_sent = True
                self._send_disconnect(action)
        finally:
            self._is_working = False
        self._set_full(
            not self._close_sent
            and not self._is_leaving
            and (len(self._queue) >= MOST_QUEUED or self._queued_bytes >= action.settings.message_bytes)
        )

    def _set_full(self, is_full: bool) -> None:
        """Read from the client only while its messages do not wait; and to the end, once it is closed."""
        if is_full is not self._is_full and not self._is_over:
            self._is_full = is_full
            tunnel = self._exchange.tunnel
            if isinstance(tunnel, WebsocketGuard):  # its pings wait meanwhile
                hold, release = tunnel.pause_client, tunnel.resume_client
            else:
                hold, release = self._client.side.pause_tunnel, self._client.side.resume_tunnel
            (hold if is_full else release)()

    def _current_action(self) -> "WebsocketApiAction":
        """Return the action of the route as it is configured now. Without one the connection is closed."""
        exchange = self._exchange
        router = exchange.listener.router
        if router is not self._router:
            self._router = router
            match = router.find(exchange)
            action = None if match is None else match[0].action
            if isinstance(action, type(self._action)):
                self._action = action
                self._reader.limit_messages(action.settings.message_bytes)
                assert match is not None
                self._follow_filter(match[0].chain)
            else:
                self._close(GOING_AWAY, "the route is gone", None)
        return self._action

    def _follow_filter(self, chain: Chain) -> None:
        """Give the limits of the filter `websocket` to the guard of an earlier one; without one there are none."""
        guard = self._exchange.tunnel
        if isinstance(guard, WebsocketGuard):
            uses = [
                link.use for link in chain.links if isinstance(link.use.settings, Websocket) and not link.use.shadow
            ]
            settings = uses[-1].settings if uses else Websocket()  # the last one of a chain has the tunnel
            guard.replace_limits(settings.limits())

    def _send_event(self, action: "WebsocketApiAction", received: Received) -> None:
        opcode, payload = received
        event, content_type = action.event_of(opcode, payload)
        if event is None:
            self._send_error("Forbidden")
            return
        self._active += 1
        lines = [*event.lines, (b"Content-Type", content_type)]
        self._send_request(event, lines, payload, partial(self._event_done, event))

    def _send_request(
        self, event: "CompiledEvent", lines: Lines, payload: bytes, done: Callable[[EventAnswer], None]
    ) -> None:
        settings = self._action.settings
        call = EventCall(settings.message_bytes, event.reply, self._worker_loop.held_body_budget, done)
        call.send(self._client, event.forward, event.target, lines, payload, settings.timeout)

    def _event_done(self, event: "CompiledEvent", answer: EventAnswer) -> None:
        self._active -= 1
        if answer.why:
            self._failed += 1
            if not self._is_over and not self._exchange.why:
                self._exchange.why = f"{event.key}: {answer.why}"
            self._send_error("Internal server error")
        elif answer.body and not self._close_sent and not self._is_leaving:
            self._send_message(_opcode_of(answer), answer.body)
        if self._worker_loop.loop.time() > self._finish_by:
            self._failed += len(self._queue)
            self._queue.clear()
        self._work()

    def _send_error(self, text: str) -> None:
        """Tell the client that its message was not processed, in the words of AWS API Gateway."""
        if not self._close_sent and not self._is_leaving:
            self._send_message(TEXT, orjson.dumps({"message": text, "connectionId": self.id}))

    def _send_disconnect(self, action: "WebsocketApiAction") -> None:
        event = action.disconnect
        if event is None:
            self._disconnected()
            return
        code = NO_CLOSE if self._close_code is None else self._close_code
        lines = [*event.lines, (CLOSE_CODE, b"%d" % code)]
        self._send_request(event, lines, b"", lambda answer: self._disconnected())

    def _disconnected(self) -> None:
        """Handle the end of `$disconnect`, whatever its result."""
        self.leave_journal()
        self._stop_holding()
        self._end()

    # orders of back ends (`AddressedConnection`)

    def follow_reload(self) -> None:
        if not self._close_sent and not self._is_leaving:
            self._current_action()
            self._plan()

    def take_order(self, order: ConnectionOrder) -> OrderAnswer:
        tunnel = self._exchange.tunnel
        if self._close_sent or self._is_leaving or (isinstance(tunnel, WebsocketGuard) and tunnel.is_closing):
            return OrderAnswer(Result.GONE)
        if order.verb is Verb.LOOK:
            return OrderAnswer(Result.DONE, self._status())
        if order.verb is Verb.CLOSE:
            self._close(NORMAL, "closed by the service", None, "upstream")
            return OrderAnswer(Result.DONE)
        is_text = order.verb is Verb.SEND_TEXT
        if len(order.payload) > self._action.settings.message_bytes or (is_text and not _is_utf8(order.payload)):
            return OrderAnswer(Result.INVALID)
        if self._paused:
            return OrderAnswer(Result.BUSY)
        self._send_message(TEXT if is_text else BINARY, order.payload)
        return OrderAnswer(Result.DONE)

    def _status(self) -> ConnectionStatus:
        consumer = self._client.consumer
        return ConnectionStatus(
            self.id,
            self.route_name,
            self._client.client_ip,
            "" if consumer is None else consumer.name,
            self._connected_date,
            self._last_active_date,
        )

    # closing

    def _client_closed(self, code: int) -> None:
        """Handle the client's close frame, which is answered at once."""
        if not self._closed_by:
            self._closed_by, self._close_code = "client", code
        if not self._close_sent:
            self._close_sent = True
            self._send_frame(control_frame(CLOSE, b"", False) if code == NO_CODE else close_frame(code, "", False))
        self._leave()

    def _close(self, code: int, reason: str, fault: Fault | None, by: str = "gateway") -> None:
        """Close the connection, with this code. `by`: the side that has decided it, for the log and the metric."""
        exchange = self._exchange
        if self._close_sent or self._is_over:
            return
        self._close_sent = True
        self._worker_loop.connections.remove(self.id)
        if not self._closed_by:
            self._closed_by, self._close_code = by, code
            if by == "gateway" and isinstance(exchange.tunnel, WebsocketGuard):
                exchange.tunnel.closed_by_gateway(code)
        exchange.fault = exchange.fault or fault
        if fault is not None:
            exchange.why = exchange.why or reason
        self._close_at = self._worker_loop.wheel.now + CLOSE_S
        self._send_frame(close_frame(code, reason, masked=False))
        self._set_full(False)
        self._plan()

    def _leave(self) -> None:
        """Take no more messages, send those that wait, and then `$disconnect`."""
        if self._is_leaving:
            return
        self._is_leaving = True
        self._worker_loop.connections.remove(self.id)
        now = self._worker_loop.loop.time()
        self._finish_by, self._hold_until = now + self._action.settings.timeout, now + HOLD_S
        self._worker_loop.connections.note_unfinished(self)
        self._plan()
        self._work()

    def _stop_holding(self) -> None:
        """Hold neither the end of the client's connection any more, nor that of a worker that drains."""
        self._hold_until = inf
        self._worker_loop.connections.note_finished(self)
        self._plan()

    def _end(self) -> None:
        """End the client's connection, once what was written has been sent."""
        if self._is_over or self._has_ended:
            return
        self._has_ended = True
        self._close_at = min(self._close_at, self._worker_loop.wheel.now + CLOSE_S)
        self._exchange.response_sink.end(())
        self._plan()

    def _abort(self) -> None:
        """End a connection that its client does not end."""
        exchange = self._exchange
        if exchange.service is not self:
            return  # the filter `websocket` has a timeout of its own
        exchange.service = None
        self.cancel()
        exchange.client.end(())
        if exchange.state is not ENDED:
            exchange.client.abort(exchange.fault or Fault.CLIENT_LEFT)

    # time

    def _plan(self) -> None:
        wheel = self._worker_loop.wheel
        if not self._is_over:
            idle_at = inf if self._close_sent else self._heard_at + self._action.idle
            wheel.watch(self, min(self._close_at, self._hold_until, idle_at))
        elif self._hold_until == inf:
            wheel.drop(self)
        else:
            wheel.watch(self, self._hold_until)

    def expire(self, now: float) -> None:
        if now >= self._hold_until:
            self._stop_holding()
            self._end()
        if self._is_over:
            return
        if now >= self._close_at:
            self._close_at = inf
            self._abort()
        elif not self._close_sent and now >= self._heard_at + self._action.idle:
            self.end_idle()
        self._plan()


def _opcode_of(answer: EventAnswer) -> int:
    """Return the type of the message for a response: text if its content type and its bytes allow it."""
    is_text = not answer.content_type or _TEXTS.match(answer.content_type) is not None
    return TEXT if is_text and _is_utf8(answer.body) else BINARY


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
