"""Admin listener: serves the admin API with uvicorn's protocol over h11, and limits every wait.

`uvicorn.Server` is not used: it takes signals, wakes up ten times a second and cannot end by being cancelled.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import h11
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fastgw.admin.authorization import CERTIFIED, PEER, SUBJECT
from fastgw.admin.responses import refused
from fastgw.admin.taps import LASTING
from fastgw.eventloop.socket_server import serve_on
from fastgw.runtime.sockets.listening_sockets import BACKLOG

CONNECTIONS_MAX: Final = 64
"""Maximum number of connections; above it the connection that has been idle longest is closed."""
HEAD_MAX: Final = 16 * 1024
REQUEST_TIMEOUT: Final = 15.0
"""Seconds from the opening of a connection, or from a response, to the end of a request head. The client has to read
the response in this time, too."""
EXCHANGE_TIMEOUT: Final = 180.0
"""Seconds from there until the response: more than the maximum duration of a configuration change."""
HANDSHAKE_TIMEOUT: Final = 5.0
END_TIMEOUT: Final = 2.0
"""Seconds in which requests in flight may be answered when serving ends."""
_CREDENTIALS: Final = struct.Struct("3i")
_SHORT: Final = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU"}


async def serve(
    app: ASGIApp,
    listening: socket.socket,
    tls: ssl.SSLContext | None = None,
    served: Callable[[], None] = lambda: None,
) -> None:
    """Serve until cancelled; then answer requests in flight. `listening` stays open for the next server. `served` is
    called once connections are accepted. Raises `OSError` if that fails.
    """
    loop = asyncio.get_running_loop()
    config = Config(
        app,
        http=Connection,
        interface="asgi3",
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="critical",  # the app logs internal errors in one line
        access_log=False,
        proxy_headers=False,
        workers=1,  # otherwise read from the environment
        h11_max_incomplete_event_size=HEAD_MAX,
        timeout_keep_alive=round(REQUEST_TIMEOUT),
    )
    config.load()
    clients = Clients()
    with ExitStack() as stack:
        ours = stack.enter_context(listening.dup())
        server = await serve_on(
            ours,
            partial(Connection, config, clients),
            backlog=BACKLOG,  # otherwise it would be 100
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT,
        )
        stack.pop_all()  # the server closes it
    served()
    try:
        await loop.create_future()
    finally:
        server.close()
        await clients.end()


class Clients(ServerState):
    """The connected clients."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[Connection, None] = {}
        """Connections without a request in flight, the one that has been idle longest first."""
        self.gone = asyncio.Event()

    def make_room(self) -> None:
        while len(self.connections) > CONNECTIONS_MAX:
            connection = next(iter(self.waiting))  # at least the one that was just accepted
            connection.drop()

    async def end(self) -> None:
        """Wait up to `END_TIMEOUT` until the requests in flight are answered."""
        for connection in [*self.connections]:
            connection.shutdown()
        # Not `asyncio.timeout`: before 3.11.3 it raises no `TimeoutError` in a task that was cancelled before, like
        # this one.
        late = asyncio.get_running_loop().call_later(END_TIMEOUT, self._cut)
        try:
            while self.connections:
                self.gone.clear()
                await self.gone.wait()
        finally:
            late.cancel()

    def _cut(self) -> None:
        for connection in [*self.connections]:
            connection.transport.abort()


class Connection(H11Protocol):
    """uvicorn's protocol, with a time limit for each wait and without its plain-text responses."""

    def __init__(self, config: Config, clients: Clients) -> None:
        super().__init__(config, clients, {})
        self._clients = clients
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert")
        self.app_state = {
            CERTIFIED: bool(certificate),
            PEER: _peer(transport),
            SUBJECT: _subject(certificate or {}),
            LASTING: self._let_last,
        }
        self._wait()
        self._clients.make_room()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._unset_keepalive_if_required()
        self._stop_waiting()
        self._clients.gone.set()

    def drop(self) -> None:
        self._clients.connections.discard(self)
        self._stop_waiting()
        self.transport.abort()

    def handle_events(self) -> None:
        super().handle_events()
        if self in self._clients.waiting and self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
            self._late = self.loop.call_later(EXCHANGE_TIMEOUT, self.drop)

    def _let_last(self, seconds: float) -> None:
        """Let the response to the current request take this number of seconds."""
        self._stop_waiting()
        self._late = self.loop.call_later(seconds, self.drop)

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state is h11.IDLE:  # otherwise the response has begun
            self.transport.write(_bad_request())
        self.transport.close()

    def _wait(self) -> None:
        self._stop_waiting()
        self._clients.waiting[self] = None
        self._late = self.loop.call_later(REQUEST_TIMEOUT, self.drop)

    def _stop_waiting(self) -> None:
        self._clients.waiting.pop(self, None)
        if self._late is not None:
            self._late.cancel()


def _peer(transport: asyncio.Transport) -> str:
    """Return who is connected, for the audit log: the address, or the user of a unix socket."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    connection = transport.get_extra_info("socket")
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return "a unix socket"
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return f"uid {uid} (pid {pid})"


def _subject(certificate: Mapping[str, Any]) -> str:
    """Return the subject of a verified client certificate: `CN=ops,O=Example`; "": there is none."""
    names = (name for part in certificate.get("subject", ()) for name in part)
    return ",".join(f"{_SHORT.get(kind, kind)}={value}" for kind, value in names)


def _bad_request() -> bytes:
    response = refused(400, "This is not an HTTP request.", Connection="close")
    lines = [b"HTTP/1.1 400 Bad Request", *(b"%b: %b" % field for field in response.raw_headers), b"", b""]
    return b"\r\n".join(lines) + bytes(response.body)
