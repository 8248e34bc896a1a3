"""Acceptor of connections: a worker accepts from its listening sockets, reads the PROXY header if configured, and
passes each connection to the data plane.

asyncio's `create_server` is not used: it resets the backlog, closes the sockets, and does not allow reading the first
bytes before a transport exists.
"""

import asyncio
import errno
import socket
from collections.abc import Set
from contextlib import suppress
from typing import Final

from fastgw.downstream import Listener, Server
from fastgw.downstream.udp.listening import tell_destinations
from fastgw.eventloop.socket_accept import AcceptedSocket, accept
from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.http.malformed import Malformed
from fastgw.net.proxy_protocol import NO_TLVS, Parsed, ProxyTlvs, parse
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice
from fastgw.runtime.process.machine_capacity import connections_held, file_limit
from fastgw.runtime.process.malloc import trim
from fastgw.runtime.sockets.listening_sockets import BACKLOG

ACCEPTS_PER_WAKEUP: Final = 64  # then other events are handled
PAUSE: Final = 0.1
"""Seconds without accepting after a lack of files or memory."""
NO_FILES: Final = "the remaining file descriptors are reserved for upstream connections"
PEEK: Final = 4096
CROWD: Final = 256
"""Number of connections of a worker above which it checks whether most of them have closed, and frees their memory."""
LOOK_EVERY: Final = 1.0
"""Seconds between two checks."""
UDP_RESERVE: Final = 4
"""Part of the connections for which a process has files, as a divisor, that is no room for UDP sessions: a client can
begin those with forged addresses.
"""
GONE: Final = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN}
    | {errno.EHOSTUNREACH, errno.ENONET, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
)
"""Errors of `accept` for a connection that was closed while it was queued (accept(2))."""

Peer = tuple[str, int]


class Acceptor:
    """Accepts connections for one worker, from its own sockets and from those it adopted. The server enforces the
    node's limits.

    Connections for which this process has no files left wait in the queue, because upstream connections need files too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        self._loop = loop
        self._server = server
        self._listeners: dict[socket.socket, Listener] = {}
        self._greetings: set[Greeting] = set()
        self._ports: dict[socket.socket, int] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._files = file_limit()
        self._most = connections_held(self._files)
        self._complain = RareNotice()
        self._most_held = 0  # connections since the last release of memory
        self._held_at_look = 0  # connections at the last check
        self._look: asyncio.TimerHandle | None = None

    @property
    def listening(self) -> Set[socket.socket]:
        """Return the sockets on which connections are accepted."""
        return self._listeners.keys()

    def reserve(self, sockets: int) -> None:
        """Set the number of files of this process that are listening sockets."""
        self._most = connections_held(self._files - sockets)

    def open(self, listening: socket.socket, listener: Listener) -> None:
        """Accept from this socket from now on; if it is open already, for this listener."""
        known = listening in self._listeners
        if not known and listener.is_udp:
            tell_destinations(listening)
        self._listeners[listening] = listener
        if not known:
            name = listening.getsockname()
            self._ports[listening] = name[1] if isinstance(name, tuple) else 0
        if not known and self._pause is None:
            self._loop.add_reader(listening, self._accept, listening)

    def accept_queued(self, listening: socket.socket) -> None:
        """Accept the queued connections of a socket now."""
        if listening in self._listeners:
            self._accept(listening, most=BACKLOG)

    def close(self, listening: socket.socket) -> None:
        """Stop accepting from this socket: another worker does, or it is closed."""
        if self._listeners.pop(listening, None) is not None:
            del self._ports[listening]
            self._loop.remove_reader(listening)

    async def end(self, shut: Set[socket.socket]) -> None:
        """Accept the queued connections of all sockets, and no more.

        `shut`: sockets that are shut down for every process: new clients are refused there.
        Returns when all accepted connections were passed to the server.
        """
        for listening in list(self._listeners):
            self.accept_queued(listening)
            self.close(listening)
            if listening in shut and listening.type == socket.SOCK_STREAM:  # UDP responses are sent from it
                with suppress(OSError):  # a neighbour has shut it down already
                    listening.shutdown(socket.SHUT_RDWR)
        for timer in (self._pause, self._look):
            if timer is not None:
                timer.cancel()
        for greeting in list(self._greetings):
            greeting.read()
        for greeting in list(self._greetings):
            greeting.refuse("the gateway stops")
        await self._server.end_handshakes()

    def _accept(self, listening: socket.socket, most: int = ACCEPTS_PER_WAKEUP) -> None:
        listener = self._listeners[listening]
        if listener.is_udp:
            room = 2 * (self._most - self._most // UDP_RESERVE - self._connection_count())
            self._server.udp.receive(listener, listening, most, room)
            return None
        number = listening.fileno()
        held_before = self._connection_count()
        for held in range(held_before, held_before + most):
            if held > self._most_held:
                self._most_held = held
                if held >= CROWD and self._look is None:
                    self._look = self._loop.call_later(LOOK_EVERY, self._look_at_crowd)
            if held >= self._most and not self._server.make_room(NO_FILES):
                return self._pause_all(NO_FILES)
            try:
                client = accept(number)
            except OSError as error:
                if error.errno in GONE:
                    continue
                if error.errno == errno.EINVAL:  # a neighbour has shut it down
                    return self.close(listening)
                return self._pause_all(f"{error.strerror}")  # out of files or memory
            if client is None:
                return None
            if not listener.proxy_protocol_required:
                self.serve(client, listener, (client.ip, client.port), self._ports[listening])
            elif listener.may_send_proxy_header(client.ip):
                timeout = self._server.timeouts.request_headers
                self._greetings.add(Greeting(self, self._loop, timeout, client, listener, self._ports[listening]))
            else:
                self.refuse(client, listener, "the peer may not send a PROXY header")
        return None

    def _connection_count(self) -> int:
        """Return the number of connections, by the files that they may need: a UDP session needs half of them."""
        server = self._server
        connections = len(server.connections) - len(server.udp.sessions) // 2
        return connections + len(server.handshakes) + len(self._greetings)

    def _look_at_crowd(self) -> None:
        """Free the memory of many connections after at least half of them have closed, and no more are closing."""
        held, before = self._connection_count(), self._held_at_look
        self._held_at_look = held
        if 2 * held <= self._most_held and held >= before:
            trim()
            self._most_held = held
        crowded = self._most_held >= CROWD
        self._look = self._loop.call_later(LOOK_EVERY, self._look_at_crowd) if crowded else None

    def _pause_all(self, why: str) -> None:
        """Pause accepting, instead of being woken again and again by connections that cannot be accepted."""
        if self._pause is None:
            self._complain(OperatorEvent.ACCEPT_PAUSED, f"not accepting for {PAUSE} s: {why}")
            for listening in self._listeners:
                self._loop.remove_reader(listening)
            self._pause = self._loop.call_later(PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        for listening in self._listeners:
            self._loop.add_reader(listening, self._accept, listening)

    def greeted(self, greeting: "Greeting") -> None:
        """Forget a connection whose PROXY header was read, or which was refused."""
        self._greetings.discard(greeting)

    def refuse(self, client: AcceptedSocket, listener: Listener, why: str) -> None:
        self._complain(
            OperatorEvent.CONNECTION_REFUSED, f"listener {listener.name}: connection from {client.ip} refused: {why}"
        )
        client.discard()

    def serve(
        self,
        client: AcceptedSocket,
        listener: Listener,
        peer: Peer,
        port: int,
        tlvs: ProxyTlvs = NO_TLVS,
        sender: str | None = None,
        local: Peer | None = None,
    ) -> None:
        """Begin to serve a connection. `peer`, `port`, `local`: address of the client, and what it has connected to;
        `local` None: that is the socket's. `tlvs`, `sender`: of its PROXY header.
        """
        if listener.tcp is not None and listener.tls is None:
            self._server.serve_tcp(listener, client, peer, local, tlvs)
            return
        try:
            if listener.tls is None:
                protocol = self._server.accepted(listener, peer, port, tlvs, sender)
                transport = SocketTransport(self._server.worker_loop, client.fileno())
                client.as_number()
                transport.begin(protocol)
            else:
                secured = self._server.secured(client.fileno(), listener, peer, port, tlvs, sender, local)
                client.as_number()
                secured.begin_tls()
        except OSError as error:
            self.refuse(client, listener, f"{error.strerror}")


class Greeting:
    """Connection whose PROXY header is being read from the socket itself: the bytes after it stay in the socket."""

    def __init__(
        self,
        acceptor: Acceptor,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        client: AcceptedSocket,
        listener: Listener,
        port: int,
    ) -> None:
        self._acceptor = acceptor
        self._loop = loop
        self._client = client
        self._socket = socket.socket(fileno=client.fileno())  # to read the header by
        self._listener, self._port = listener, port
        self._header = b""
        self._late = loop.call_later(timeout, self.refuse, "timed out waiting for the PROXY header")
        loop.add_reader(client.fileno(), self.read)

    def refuse(self, why: str) -> None:
        self._end()
        self._acceptor.refuse(self._client, self._listener, why)

    def read(self) -> None:
        """Read received bytes of the header; once it is complete, the connection is served."""
        try:
            parsed = self._read_header()
        except BlockingIOError:
            return
        except (OSError, Malformed) as error:
            self.refuse(str(error))
            return
        if parsed is not None:
            self._end()
            client = self._client
            source, local = parsed.source or (client.ip, client.port), parsed.destination
            port = self._port if local is None else local[1]
            self._acceptor.serve(client, self._listener, source, port, parsed.tlvs, client.ip, local)

    def _read_header(self) -> Parsed | None:
        """Take the bytes of the header from the socket; None while it is incomplete. Raises `Malformed`, `OSError`.

        An incomplete header is taken completely, because otherwise the socket would stay readable.
        """
        seen = self._socket.recv(PEEK, socket.MSG_PEEK)
        if not seen:
            raise Malformed("the connection was closed before the PROXY header was complete")
        parsed = parse(self._header + seen)
        taken = len(seen) if parsed is None else parsed.consumed - len(self._header)
        self._header += self._socket.recv(taken)
        return parsed

    def _end(self) -> None:
        self._loop.remove_reader(self._client.fileno())
        self._socket.detach()
        self._late.cancel()
        self._acceptor.greeted(self)
