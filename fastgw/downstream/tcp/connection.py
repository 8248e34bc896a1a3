"""A client's connection to a TCP listener, together with its connection to a target.

It selects the upstream (for TLS passthrough, by the ClientHello), connects to a target with the same parts as requests
(balancer, pool, retries, health), and then counts the bytes that its two ends exchange.

Rule 1: nothing is sent to a target before the ClientHello was read and has a route. Rule 2: every end of the connection
closes both ends and releases all limits, in `_finish`, which also logs it; the place in the pool is released before if
the target has ended (`_leave_pool`). Rule 3: a half-closed connection continues; a reset of one end resets the other.
"""

import asyncio
import os
import ssl
from enum import IntEnum
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

import cython

from fastgw.downstream.tcp.relay_end import End, EndOwner, Loss, RelayEnd
from fastgw.errors import Fault
from fastgw.eventloop.dialing import DialedTransport, dial
from fastgw.eventloop.socket_accept import AcceptedSocket
from fastgw.eventloop.socket_transport import SocketTransport, send_at_once
from fastgw.eventloop.tls_transport import text_of
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import stand_in_head
from fastgw.net.client_hello import Alert, ClientHello, HelloReader, InvalidHello
from fastgw.net.proxy_protocol import Address, TerminatedTls, header_v1, header_v2
from fastgw.observe.access_log.record import TCP
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.connections.connect import ConnectFailed, secure
from fastgw.upstream.connections.socket_connection import SocketConnection
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream

if TYPE_CHECKING:
    from fastgw.downstream.server import Listener, Server
    from fastgw.shm.node_limits import AddressLimit

HALF_CLOSED_S: Final = 60.0
"""Maximum seconds without bytes after a target has ended its direction: most have closed the connection, which only
further data of the client would show, and an idle client does not notice it either.
"""
FAREWELL_S: Final = 1.0
"""Seconds for a client to receive an alert and close."""
FAREWELL_BYTES: Final = 65536
"""Maximum bytes that are dropped of a client meanwhile: it may have sent more before it reads the alert."""
TRUNCATED: Final = "the client closed TLS without close_notify: it may be cut short"
"""Detail in the log. The end is passed on all the same, as nginx, HAProxy and Envoy do: many clients never say it."""
PASSED_SINCE: Final = "TLS of this name is passed through since a reload during the handshake"
"""Detail in the log of a connection whose TLS was terminated: its target expects TLS, and gets nothing of the text."""
RESET_AFTER_END: Final = "the target reset the connection after the client had ended"
"""Detail in the log. No fault if the target has sent data: it need not read what a client says at its end, such as
`close_notify` of TLS. For nginx, too, it is an end.
"""
_HEADER_REFUSED: Final = "closed before the PROXY header was sent"
_ID_BYTES: Final = 16
_NO_HELLO: Final = ClientHello()


class TcpPhase(IntEnum):
    GREETING = 1  # the ClientHello is incomplete
    CONNECTING = 2  # to a target, including TLS; the client's data waits in its socket
    OPEN = 3
    FAREWELL = 4  # it is rejected, with an alert
    CLOSED = 5


GREETING, CONNECTING, OPEN, FAREWELL, CLOSED = TcpPhase


NO_NAME: Final = stand_in_head(b"tcp", version=TCP)


class TcpConnection(EndOwner):
    """Both ends of a connection."""

    def __init__(self, server: "Server", listener: "Listener", peer: Peer, local: Address | None) -> None:
        """`local`: the address that the client has connected to, if it is not that of the socket."""
        EndOwner.__init__(self, server, listener, peer.ip, b"tcp", NO_NAME)
        self.peer = peer
        self._local = local
        self._phase = CONNECTING
        self._client: RelayEnd | None = None
        self._target_end: RelayEnd | None = None
        self._greeting: HelloReader | None = None
        self._droppable = FAREWELL_BYTES
        self._tls: TerminatedTls | None = None
        self.request_id = peer.tlvs.unique_id.encode()
        self._vouched: bytes | None = None
        self._unsent: float = inf
        self._lent: SocketConnection | None = None
        self._has_place = False  # in the pool, for a connection that it has not opened
        self._dialing: SocketTransport | None = None
        self._securing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<TcpConnection {self.peer.ip} {self._phase.name} {self._client!r} {self._target_end!r}>"

    # start

    def accept(self, client: AcceptedSocket) -> None:
        """Serve a client whose connection was just accepted."""
        server = self._server
        address_limit = server.address_limit_for(self.listener, self.peer.ip)
        refused = server.admit(self.peer.ip, address_limit)
        if refused is not None:
            client.discard()
            self._phase, self.fault = CLOSED, refused
            self._tell()
            return
        if self._enter_plain(client.as_number(), address_limit) is None:
            return
        if self.route.needs_hello:
            self.scheme = b"tls"
            self._phase = GREETING
            self._greeting = HelloReader()
            self._client_end.read_for(self)
            self._watch(server.timeouts.request_headers)
            self._client_end.resume()
        else:
            self._choose(_NO_HELLO)

    def accept_tls(
        self, end: RelayEnd, limit: "AddressLimit | None", tls: ssl.SSLObject, server_name: str, vouched: bytes
    ) -> None:
        """Serve a client whose TLS is terminated here: its handshake is complete, and it is counted in the node's
        limits.

        `limit`: one of these limits. `vouched`: settings that verified its certificate.
        """
        cipher, certificate = tls.cipher(), self.peer.certificate
        self._tls = TerminatedTls(
            tls.version() or "",
            cipher[0] if cipher is not None else "",
            bool(tls.session_reused),
            certificate is not None,
            "" if certificate is None else certificate.common_name,
        )
        self.scheme, self._vouched = b"tls", vouched
        self._enter(end, limit)
        self.end_outdated()  # a reload during the handshake has not told this connection
        if self._phase is not CLOSED:
            self._follow(ClientHello(server_name))

    def accept_hello(
        self, client: int, limit: "AddressLimit | None", greeting: HelloReader, hello: ClientHello
    ) -> None:
        """Serve a client whose TLS a route passes through, and which is counted in the node's limits.

        `client`: its descriptor. `limit`: one of these limits. `greeting`: all that the client has sent, with the whole
        `hello`.
        """
        self.scheme, self._greeting = b"tls", greeting
        end = self._enter_plain(client, limit)
        if end is not None:
            end.received = len(greeting.received)
            self._follow(hello)

    def _enter(self, client: RelayEnd | None, limit: "AddressLimit | None") -> None:
        self._client = client
        self._address_limit = limit
        self._server.connections.add(self)

    def _enter_plain(self, client: int, limit: "AddressLimit | None") -> RelayEnd | None:
        """Return the end of a client that is counted in the node's limits; None: the connection has ended."""
        self._enter(None, limit)  # first: whatever happens now, `_finish` releases the limits
        transport = self._watched(client)
        if transport is not None:
            self._client = self._end_on(transport)
        return self._client

    def _watched(self, fd: int, is_dialing: bool = False) -> SocketTransport | None:
        """Return the transport of a socket. None: epoll watches no more sockets of this user, which has ended the
        connection.
        """
        worker_loop = self._server.worker_loop
        try:
            return DialedTransport(worker_loop, fd, self) if is_dialing else SocketTransport(worker_loop, fd)
        except OSError as error:
            os.close(fd)
            self._end(Fault.CONNECTIONS_EXHAUSTED, reason_of(error))
            return None

    def _end_on(self, transport: SocketTransport) -> RelayEnd:
        end = RelayEnd(self._server.worker_loop, self)
        transport.begin(end)
        return end

    @property
    def _client_end(self) -> RelayEnd:
        assert self._client is not None
        return self._client

    # ClientHello

    def send(self, chunk: bytes) -> bool:
        """Buffer data of the client before its target is known (`relay_end.ByteSink`)."""
        if self._phase is FAREWELL:
            self._drop(len(chunk))
            return True
        greeting = self._greeting
        assert greeting is not None
        try:
            hello = greeting.feed(chunk)
        except InvalidHello as error:
            self._refuse(Fault.BAD_REQUEST, str(error), error.alert)
            return True
        if hello is None:
            return True
        self._client_end.pause()
        self._phase = CONNECTING
        self._follow(hello)
        return True

    def _follow(self, hello: ClientHello) -> None:
        if hello.server_name:
            self.head = stand_in_head(b"tcp", hello.server_name.encode(), version=TCP)
        self._choose(hello)

    def _refuse(self, fault: Fault, why: str, alert: Alert | None) -> None:
        """Close with an alert that the client can read: its further data is dropped."""
        client = self._client_end
        self.fault, self.why = fault, why
        if alert is None:
            self._finish()
            return
        self._phase = FAREWELL
        self._watch(FAREWELL_S)
        client.read_for(self)
        client.send(alert.record)
        if self._phase is FAREWELL:
            client.end_sending()
        if self._phase is FAREWELL:
            client.resume()

    def _drop(self, count: int) -> None:
        """Drop data of a client that has not read its alert yet, as long as it is not too much."""
        self._droppable -= count
        if self._droppable < 0:
            self._finish(is_reset=True)

    def _choose(self, hello: ClientHello) -> None:
        route = self.route.only_route or self.route.find(hello)
        if route is None:
            alert = Alert.UNRECOGNIZED_NAME if self._tls is None else None
            self._refuse(Fault.ROUTE_NOT_FOUND, "" if hello.server_name else "no server name (SNI)", alert)
            return
        if self._tls is not None and (route.passes_through or self.route.needs_hello):
            self._refuse(Fault.ROUTE_NOT_FOUND, PASSED_SINCE, None)
            return
        self._use(route.choose())
        self._watch(inf)
        self._connect()

    # connection to a target

    def _connect(self) -> None:
        target, upstream = self._begin_attempt(), self._upstream
        assert upstream is not None
        if target is None:
            self._end(upstream.unavailable())
            return
        # PERF: without the pool's task: 115 us of CPU for a short connection instead of 180, both ends of it included
        # (CPython 3.11, uvloop 0.23).
        is_literal = target.literal is not None and target.scheme != "unix"
        if target.tls is None and is_literal and upstream.pool.take_place(target):
            self._has_place = True
            self._dial(upstream, target)
        else:
            self._borrow(upstream, target)

    def _borrow(self, upstream: Upstream, target: Target) -> None:
        """Let the pool connect, and wait for it if it is at its limit."""
        lent = upstream.pool.lend(target, self, fresh=True)
        if isinstance(lent, Fault):
            self.failed(lent)

    def _dial(self, upstream: Upstream, target: Target) -> None:
        """Connect to the target's address, with a place in the pool."""
        assert target.literal is not None
        try:
            fd = dial(target.literal)
        except OSError as error:
            self._not_connected(error)
            return
        self._dialing = self._watched(fd, is_dialing=True)
        if self._dialing is not None:
            self._watch(upstream.settings.timeouts.connect)

    def dialed(self, transport: SocketTransport, error: cython.int) -> None:
        upstream, target = self._upstream, self._target
        assert upstream is not None
        assert target is not None
        if error:
            self._not_connected(OSError(error, os.strerror(error)))
            return
        self._dialing = None
        if upstream.pool.on_connected is not None:
            upstream.pool.on_connected(target)
        if self._greet(transport.fd):
            self._open(self._end_on(transport))
        else:
            transport.close()
            self.failed(Fault.CONNECT_REFUSED, _HEADER_REFUSED)

    def _not_connected(self, error: OSError) -> None:
        """Handle the failure of a connect that was dialed."""
        upstream, target = self._upstream, self._target
        assert upstream is not None
        assert target is not None
        self._hang_up()
        self._watch(inf)
        self._has_place = False
        fault, why = upstream.pool.leave_unconnected(target, error)
        if fault is None:
            self._borrow(upstream, target)  # no descriptor or port was available: it waits for one
        else:
            self.failed(fault, why)

    def _hang_up(self) -> None:
        dialing, self._dialing = self._dialing, None
        if dialing is not None:
            dialing.close()

    def queue_left(self) -> None: ...

    def lent(self, connection: SocketConnection) -> None:
        """Handle the connection lent by the pool, which is open."""
        upstream, target = self._upstream, self._target
        assert upstream is not None
        assert target is not None
        self._lent = connection
        connected = connection.detach()
        if not self._greet(connected.fileno()):
            connected.close()
            self.failed(Fault.CONNECT_REFUSED, _HEADER_REFUSED)
            return
        if target.tls is None:
            plain = self._watched(connected.detach())
            if plain is not None:
                self._open(self._end_on(plain))
            return
        timeouts = upstream.settings.timeouts
        timeout = timeouts.connect if timeouts.tls is None else timeouts.tls
        assert connection.address is not None
        end = RelayEnd(self._server.worker_loop, self)
        securing = secure(connected, connection.address, target, end, timeout)
        self._securing = self._server.worker_loop.loop.create_task(securing)
        self._securing.add_done_callback(partial(self._secured, target, end))

    def _greet(self, fd: int) -> bool:
        """Send the PROXY header, if the target gets one, on the socket that is connected. False: it cannot be sent."""
        assert self._upstream is not None
        self._note_connect()
        version = self._upstream.settings.proxy_protocol
        if version is None:
            return True
        header = self._proxy_header(version)
        return send_at_once(fd, header) == len(header)  # the socket's buffer is empty

    def _secured(self, target: Target, end: RelayEnd, task: "asyncio.Task[None]") -> None:
        """Handle the end of the TLS handshake with the target, successful or not."""
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or self._phase is not CONNECTING:
            end.reset()
            return
        self._securing = None
        if error is None and not end.is_lost:
            self._open(end)
            return
        end.abandon()
        if isinstance(error, ConnectFailed):
            log_event(OperatorEvent.TARGET_FAILED, "target %s: %s: %s", target.label, error.fault.label, error.reason)
            self.failed(error.fault, error.detail)
        elif error is None:
            self.failed(Fault.TLS_FAILED, "closed as soon as it was open")
        else:
            report = {"message": f"TLS with {target.label}", "exception": error}
            self._server.worker_loop.loop.call_exception_handler(report)
            self.failed(Fault.INTERNAL)

    def failed(self, fault: Fault, why: str = "") -> None:
        """Handle the failure to connect to this target."""
        if self._phase is not CONNECTING:
            return
        self._give_back()
        self._give_up_attempt(fault, why)
        wait = self._retry(fault, self._total_at)
        if wait == inf:
            self._end(fault, why)
        elif wait:
            self._timer = self._server.worker_loop.loop.call_later(wait, self._connect)
        else:
            self._connect()

    def _proxy_header(self, version: str) -> bytes:
        peer = self.peer
        source = (peer.ip, peer.port)
        local = self._local or self._client_end.local
        if version == "v1":
            return header_v1(source, local)
        if not self.request_id:
            self.request_id = os.urandom(_ID_BYTES).hex().encode()
        name = self.head.host.decode()
        tlvs = peer.tlvs._replace(unique_id=self.request_id.decode())
        if name:
            tlvs = tlvs._replace(authority=name, raw_authority=b"")
        return header_v2(source, local, tlvs, self._tls)

    def _open(self, target: RelayEnd) -> None:
        """Connect both ends with each other."""
        client = self._client_end
        self._target_end = target
        self._phase = OPEN
        self._note_answer()
        client.read_for(target)
        target.read_for(client)
        self._watch(self._idle)
        greeting, self._greeting = self._greeting, None
        held = greeting is not None and not target.send(bytes(greeting.received))
        if self._phase is OPEN:
            target.resume()
        if self._phase is OPEN and not held:
            client.resume()

    # calls of the ends

    def touched(self) -> None:
        if self._phase is OPEN:
            deadline = self._wheel.now + self._idle
            self.deadline = deadline if deadline < self._total_at else self._total_at

    def ended(self, end: End) -> None:
        client, target = self._client, self._target_end
        if self._phase is not OPEN or client is None or target is None:
            if self._phase is not CONNECTING:
                self._left("the connection was closed before the ClientHello was complete")
            return
        if end is client and client.is_truncated:
            self.why = TRUNCATED
        other = target if end is client else client
        if other.has_ended and end.has_sent_all() and not other.is_buffering:
            self._finish()  # closing says it
        else:
            other.end_sending()
            self._finish_if_done()

    def drained(self, end: End) -> None:
        client, target = self._client, self._target_end
        if self._phase is OPEN and client is not None and target is not None:
            (target if end is client else client).resume()
            self._finish_if_done()

    def _finish_if_done(self) -> None:
        client, target = self._client, self._target_end
        if self._phase is not OPEN or client is None or target is None:
            return
        if client.is_done() and target.is_done():
            self._finish()
        elif target.has_ended and client.has_sent_all():
            self._leave_pool()

    def _leave_pool(self) -> None:
        """Release the place in the pool early, and wait less long: the target has ended, and all was sent on."""
        if self._idle > HALF_CLOSED_S:
            self._idle = HALF_CLOSED_S
            self._watch(HALF_CLOSED_S)
        self._release_place()

    def _release_place(self) -> bool:
        """Release the place in the pool. False: the connection has none."""
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.release()
        elif self._has_place:
            self._has_place = False
            assert self._upstream is not None
            assert self._target is not None
            self._upstream.pool.leave_place(self._target)
        else:
            return False
        return True

    def lost(self, end: End, error: Loss) -> None:
        if self._phase is not OPEN:
            if end is self._client:
                self._left("")
            return
        if end is self._client:
            self.fault, self.why = Fault.CLIENT_LEFT, reason_of(error)
        elif self._client_end.has_ended and end.has_sent_all() and end.received:
            self.why = RESET_AFTER_END
        else:
            self.fault, self.why = Fault.CONNECTION_LOST, reason_of(error)
        self._finish(is_reset=True)

    def _left(self, why: str) -> None:
        """Handle a disconnect of the client before there is a target."""
        if self._phase is not FAREWELL:
            self.fault, self.why = Fault.CLIENT_LEFT, why
        self._finish()

    # time

    def _watch(self, seconds: float) -> None:
        wheel = self._wheel
        deadline = wheel.now + seconds
        wheel.watch(self, deadline if deadline < self._total_at else self._total_at)

    def expire(self, now: float) -> None:
        if self._phase is GREETING:
            self.fault, self.why = Fault.REQUEST_TIMEOUT, "the ClientHello did not arrive in time"
        elif self._dialing is not None and now < self._total_at:
            self._not_connected(TimeoutError())
            return
        elif self._phase is OPEN and now < self._total_at and self._client_reads():
            self._watch(self._idle)
            return
        elif self._phase is not FAREWELL:
            self.fault = Fault.TUNNEL_EXPIRED if now >= self._total_at else Fault.TUNNEL_IDLE
        self._finish(is_truncated=True)

    def _client_reads(self) -> bool:
        """Whether a client still gets what a target has sent before it ended: the kernel has less of it than before."""
        client, target = self._client, self._target_end
        if client is None or target is None or not target.has_ended or not client.has_sent_all():
            return False
        before, self._unsent = self._unsent, client.unsent()
        return 0 < self._unsent < before

    # endings

    def _end(self, fault: Fault, why: str = "") -> None:
        """End the connection, because no target is available."""
        self.fault, self.why = fault, why
        self._finish(is_reset=True)

    def _give_back(self) -> None:
        """Return the connection lent for an attempt, or stop waiting for it."""
        if not self._release_place() and self._upstream is not None and self._phase is CONNECTING:
            self._upstream.pool.withdraw(cast(Any, self))

    def _finish(self, is_reset: bool = False, is_truncated: bool = False, is_cut: bool = False) -> None:
        """Close both ends. `is_reset`: with a reset. `is_truncated`: the time is up (`RelayEnd.truncate`). `is_cut`:
        because the gateway stops.
        """
        if self._phase is CLOSED:
            return
        server, client, target = self._server, self._client, self._target_end
        was_connecting = self._phase is CONNECTING
        if was_connecting:
            self._hang_up()
            if self._securing is not None:
                self._securing.cancel()
                self._securing = None
        self._phase = CLOSED
        self._wheel.drop(self)
        for end in (client, target):
            if end is not None:
                if is_reset:
                    end.reset()
                elif is_truncated:
                    end.truncate()
                else:
                    end.close()
        self.request_bytes = 0 if client is None else client.received
        self.response_bytes = 0 if target is None else target.received
        if not self._release_place() and was_connecting and self._upstream is not None:
            self._upstream.pool.withdraw(cast(Any, self))
        self._leave_upstream()
        if self in server.connections:
            server.release(self.peer, self._address_limit)
            server.closed(self)
        if server.draining and not is_cut:
            server.drained += 1
        self._tell()
        self._client = self._target_end = None  # avoids a reference cycle

    # calls of the server

    def leave(self) -> None:
        """Continue like a tunnel although the listener was removed."""

    def drain(self) -> None:
        """Continue for as long as tunnels may (`timeouts.drain.tunnels`)."""

    def end_outdated(self) -> None:
        """End a connection at once if its certificate was verified by outdated settings, or it has none and one is
        required since.
        """
        listener = self.listener
        is_verified = self.peer.certificate is not None
        if self._tls is not None and (
            listener.is_outdated(self._vouched) if is_verified else listener.requires_certificate
        ):
            self.fault = Fault.CONNECTION_OUTDATED
            self._finish(is_reset=True)

    def cut_requests(self) -> bool:
        """Call `cut` while there is no connection to a target; afterwards it is a tunnel, which continues."""
        return self._phase is not OPEN and self.cut()

    def cut_tunnels(self) -> bool:
        """Call `cut` once there is a connection to a target."""
        return self._phase is OPEN and self.cut()

    def cut(self) -> bool:
        """Abort at once. True: a connection was aborted."""
        if self._phase is CLOSED:
            return False
        self.fault = self.fault or Fault.GATEWAY_STOPPED
        self._finish(is_reset=True, is_cut=True)
        return True


def reason_of(error: Loss) -> str:
    """Return the reason for a connection's end, in a few words for the log."""
    if isinstance(error, ConnectionResetError) or error is None:
        return "reset"
    if isinstance(error, BrokenPipeError):
        return "closed while it was sent to"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {text_of(error)}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error)
