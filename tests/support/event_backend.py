"""A back end of a WebSocket API: it takes requests, and has never heard of WebSockets."""

from __future__ import annotations

import gzip
import queue
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

from tests.support.peer import DEADLINE
from tests.support.threaded import Threaded


@dataclass(frozen=True)
class Event:
    """A request as received."""

    target: str
    headers: Message
    body: bytes

    @property
    def connection(self) -> str:
        return str(self.headers["X-Connection-Id"])

    @property
    def kind(self) -> tuple[str, str]:
        return str(self.headers["X-Event-Type"]), str(self.headers["X-Route-Key"])


class EventBackend(Threaded):
    """Answers by path. `/held` waits until `open` is set, and so does `/connect?hold`."""

    request_queue_size = 128  # connections of as many requests at a time

    def __init__(self) -> None:
        super().__init__(_Answering, None)
        self.events: queue.Queue[Event] = queue.Queue()
        self.begin()

    def next(self) -> Event:
        return self.events.get(timeout=DEADLINE)


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = cast(EventBackend, self.server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.events.put(Event(self.path, self.headers, body))
        path = self.path.partition("?")[0]
        status, kind, answer, more = 200, "application/json", b"", {}
        match path:
            case "/connect":
                if "hold" in self.path:
                    server.open.wait(DEADLINE)
                if "deny_in_gzip" in self.path:
                    status, answer, more = 403, gzip.compress(b"no"), {"Content-Encoding": "gzip"}
                elif "deny" in self.path:
                    status, answer, more = 401, b'{"error": "who"}', {"WWW-Authenticate": "Bearer"}
                elif self.headers["Sec-WebSocket-Protocol"]:
                    more = {"Sec-WebSocket-Protocol": "chat.v2"}
            case "/echo":
                answer = body
            case "/bytes":
                kind, answer = "application/octet-stream", b"\x00\xff" + body
            case "/gzip":
                answer, more = gzip.compress(body), {"Content-Encoding": "gzip"}
            case "/fail":
                status, answer = 500, b"secrets of the back end"
            case "/held":
                server.open.wait(DEADLINE)
                answer = body
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(answer)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...
