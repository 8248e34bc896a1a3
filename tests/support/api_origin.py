"""An external API: it requires credentials, a CSRF token and parameters, and counts requests."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from multiprocessing.connection import wait
from typing import Any

from tests.support.peer import DEADLINE
from tests.support.threaded import Threaded

CSRF_PATH = "/csrf"


@dataclass
class Call:
    """A request as received, and its response."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body_bytes: int = 0
    body_sha256: str = ""
    certificate: Any = None
    """Client certificate."""
    status: int = 0

    def values(self, name: str) -> list[str]:
        return [value for known, value in self.fields if known.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        return next(iter(self.values(name)), None)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> list[str]:
        return self.target.partition("?")[2].split("&")


Answer = tuple[int, Mapping[str, str], bytes]


@dataclass
class Demands:
    """Requirements for requests; others are rejected."""

    authorization: Callable[[], str] | None = None
    """Required value of `Authorization`; else 401."""
    csrf: bool = False
    """Whether each request needs the last issued CSRF token and cookie; else 403."""
    fields: Mapping[str, list[str]] = field(default_factory=dict)
    """Required lines of headers; else 400."""
    query: tuple[str, ...] = ()
    """Required query parameters, each once; else 400."""


class ApiOrigin(Threaded):
    """Answers 200 and `{"method": …, "target": …}`, unless `answers` has another response for the path.

    `GET /csrf` issues CSRF tokens to clients with the credentials. `/held` waits for `open`, and sets `left` if the
    client disconnects before.
    """

    request_queue_size = 512

    def __init__(self, demands: Demands | None = None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(_Answering, tls)
        self.demands = demands or Demands()
        self.answers: dict[str, Answer] = {}
        self.calls: list[Call] = []
        self.csrf_calls: list[Call] = []
        self.left, self.held = threading.Event(), threading.Event()
        self.received = 0
        """Bytes of bodies, updated as they arrive."""
        self._count = 0
        self.begin()

    @property
    def url(self) -> str:
        return self.origin

    @property
    def csrf_url(self) -> str:
        return self.url + CSRF_PATH

    @property
    def csrf_token(self) -> str:
        """The last issued CSRF token."""
        return f"csrf-{self._count}"

    def hand_out(self) -> Answer:
        """Issue a new CSRF token, with its cookies."""
        self._count += 1
        cookies = {"Set-Cookie": f"session=s{self._count}; Path=/; HttpOnly\nother=o; Path=/"}
        return 200, {"X-CSRF-Token": self.csrf_token, **cookies}, b""

    def revoke_csrf(self) -> None:
        """Revoke the issued CSRF token."""
        self._count += 1

    def refusal(self, call: Call) -> Answer | None:
        """Return the response to a request that does not meet the requirements; None: it does."""
        demands = self.demands
        if demands.authorization is not None and call.values("Authorization") != [demands.authorization()]:
            return 401, {"WWW-Authenticate": "Bearer"}, b""
        if call.path == CSRF_PATH:
            if (call.method, call.value("X-CSRF-Token")) != ("GET", "fetch"):
                return 400, {}, b"not asked for a token"
            return self.hand_out()
        cookies = (call.value("Cookie") or "").split("; ")
        if demands.csrf and (
            call.values("X-CSRF-Token") != [self.csrf_token] or cookies.count(f"session=s{self._count}") != 1
        ):
            return 403, {"X-CSRF-Token": "Required"}, b""
        for name, values in demands.fields.items():
            if call.values(name) != values:
                return 400, {}, f"not the field {name}".encode()
        for parameter in demands.query:
            if call.query.count(parameter) != 1:
                return 400, {}, f"not the parameter {parameter}".encode()
        return None


class _Answering(BaseHTTPRequestHandler):
    server: ApiOrigin
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()  # in this thread, so that a slow handshake does not block others
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def answer(self) -> None:
        server = self.server
        call = Call(self.command, self.path, list(self.headers.items()))
        if isinstance(self.request, ssl.SSLSocket):
            call.certificate = self.request.getpeercert()
        (server.csrf_calls if call.path == CSRF_PATH else server.calls).append(call)
        self._read_body(call)
        said = server.refusal(call) or server.answers.get(call.path)
        if said is None and call.path.endswith("/held"):
            self._hold()
        if said is None:
            said = 200, {}, json.dumps({"method": call.method, "target": call.target}).encode()
        call.status, fields, body = said
        self.send_response(call.status)
        for name, value in fields.items():
            for each in value.split("\n"):
                self.send_header(name, each)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def _read_body(self, call: Call) -> None:
        digest = hashlib.sha256()
        for piece in self._pieces():
            digest.update(piece)
            call.body_bytes += len(piece)
            self.server.received += len(piece)
        call.body_sha256 = digest.hexdigest()

    def _pieces(self) -> Any:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", "0"))
        while left:
            piece = self.rfile.read1(min(left, 65_536))
            if not piece:
                return
            left -= len(piece)
            yield piece

    def _hold(self) -> None:
        server = self.server
        server.held.set()
        while not server.open.wait(0.01):
            if wait([self.request], 0):
                server.left.set()
                server.open.wait(DEADLINE)

    def log_message(self, *_: object) -> None: ...
