"""Action of a route with `websocket_api`, compiled from its settings."""

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, final

from fastgw.config.settings.websocket_api import CONNECT, DEFAULT, DISCONNECT, MessageRoute, WebsocketApi
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Exchange, problem
from fastgw.exchange.action import Action
from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.strict import parse_json
from fastgw.http.websocket.frames import BINARY
from fastgw.http.websocket.handshake import WEBSOCKET, fault_in_request
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.forwarding.forwarded_request import ForwardSettings
from fastgw.upstream.upstream import Upstream
from fastgw.websocket_api.connection import ApiConnection
from fastgw.websocket_api.event_headers import CONNECTIONS_URL, EVENT_TYPE, ROUTE_KEY, Lines
from fastgw.websocket_api.handshake import ConnectRequest

_TYPES: Final = {CONNECT: b"CONNECT", DISCONNECT: b"DISCONNECT"}


class CompiledEvent(NamedTuple):
    """Request for the events of one route key."""

    key: str
    target: bytes
    forward: Forward
    reply: bool
    lines: Lines
    """Header lines that name the event."""


@final
class WebsocketApiAction(Action):
    """Accepts WebSocket connections, and sends their events to upstreams."""

    __slots__ = ("_path", "_upstreams", "connect", "default", "disconnect", "events", "idle", "settings")

    def __init__(self, settings: WebsocketApi, upstreams: Mapping[str, Upstream], via: bool) -> None:
        """`upstreams`: by name or URL. `via`: of the route, as in `ForwardSettings`."""
        self.settings = settings
        self._upstreams = tuple(upstreams.values())
        forwards = {name: Forward(each, ForwardSettings(via=via)) for name, each in upstreams.items()}
        url = settings.connections_url
        of_all = [] if url is None else [(CONNECTIONS_URL, url.encode())]

        def compiled(key: str, route: MessageRoute) -> CompiledEvent:
            forward = forwards[str(route.upstream or settings.upstream)]
            lines = [(EVENT_TYPE, _TYPES.get(key, b"MESSAGE")), (ROUTE_KEY, key.encode()), *of_all]
            return CompiledEvent(key, route.path.encode(), forward, route.reply, lines)

        events = {key: compiled(key, route) for key, route in settings.routes.items()}
        self.connect, self.disconnect = events.pop(CONNECT, None), events.pop(DISCONNECT, None)
        self.default = events.pop(DEFAULT, None)
        self.events: Mapping[str, CompiledEvent] = events
        self._path = settings.select.split(".")
        self.idle = max(forward.timeouts.tunnel_idle for forward in forwards.values())
        """Seconds after which a connection without messages is closed."""

    @property
    def worker_loop(self) -> WorkerLoop:
        return self._upstreams[0].worker_loop

    def begin(self, exchange: Exchange) -> None:
        if self.refuse(exchange):
            return
        connection = ApiConnection(self, exchange)
        try:
            connection.enter_journal()
        except OSError as error:
            exchange.fail(Fault.INTERNAL, why=f"the connection cannot be recorded: {error.strerror}")
            return
        if self.connect is None:
            connection.open(exchange, None)
        else:
            exchange.service = request = ConnectRequest(self, exchange, connection)
            request.start(self.connect)

    def refuse(self, exchange: Exchange) -> bool:
        """Refuse a request that is no valid handshake of a WebSocket. Returns whether it was refused."""
        head = exchange.head
        if head.connect_protocol and head.connect_protocol != WEBSOCKET:
            exchange.fail(Fault.NOT_IMPLEMENTED, "No tunnel for this protocol begins here.")
        elif WEBSOCKET not in head.upgrade or exchange.request_body is not None:
            exchange.fail(Fault.BAD_REQUEST, "Only WebSocket connections are served here.")
        elif wrong := fault_in_request(head):
            exchange.fail(Fault.BAD_REQUEST, wrong)
        elif exchange.values(b"sec-websocket-version") != [b"13"]:
            version = ((b"Sec-WebSocket-Version", b"13"),)
            reply = problem(Fault.BAD_REQUEST, "Sec-WebSocket-Version is not 13.", version)
            exchange.fail_with(reply, Fault.BAD_REQUEST)
        else:
            return False
        return True

    def event_of(self, opcode: int, payload: bytes) -> tuple[CompiledEvent | None, bytes]:
        """Return the request for a message, and its content type. None: there is none, or the message is JSON that a
        service may read differently.
        """
        if opcode == BINARY:
            return self.default, b"application/octet-stream"
        try:
            value: Any = parse_json(payload)
        except InvalidJson:
            return None if _is_json(payload) else self.default, b"text/plain; charset=utf-8"
        for name in self._path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        event = self.events.get(value) if isinstance(value, str) else None
        return event or self.default, b"application/json"

    def describe(self) -> list[str]:
        """Describe the requests, for people: a line for each route key."""
        settings = self.settings
        return [
            f"{key}: POST {route.path} to {route.upstream or settings.upstream}{', with reply' if route.reply else ''}"
            for key, route in settings.routes.items()
        ]


def _is_json(payload: bytes) -> bool:
    """Whether any parser of a service may take it for JSON: the most lenient one decides."""
    try:
        json.loads(payload.decode(), parse_int=str, parse_float=str)  # numbers of any size
    except RecursionError:
        return True
    except ValueError:
        return False
    return True
