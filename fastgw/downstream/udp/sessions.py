"""UDP sessions: a client's address and port, the address that it sends to, a target, and a socket connected to it.

A datagram of a client without a session starts one, which lasts as long as datagrams are received from either side
(`timeouts.tunnel_idle`), at most `timeouts.total`. Responses are received on the session's connected socket, so only
the target can send them.

Where a registry or a cluster no longer lists the target, its session goes on as long as the target answers. When it
has not for `LAST_ANSWER_S`, the next datagram of the client starts a session with another target.

A session makes room for another one where a limit is reached. A client with a forged address never receives a response:
the sessions of clients that have sent a datagram after one end last.

A target that refuses a datagram, before any response, has not processed it. Datagrams are kept until then, for as long
as a refusal may take, and sent to another target (`retries`, condition `connect_failure`).
"""

import asyncio
import socket
from errno import EAGAIN, ECONNREFUSED, EMFILE, EMSGSIZE, ENFILE, ENOBUFS, ENOMEM, ENOSPC
from math import inf
from typing import TYPE_CHECKING, Any, Final, final

from fastgw.config.settings.gateway import address_share
from fastgw.downstream.tcp.relayed_session import CONNECTED_OUTCOME, RelayedSession
from fastgw.downstream.udp.listening import LONGEST, Ancillary, Datagram, receive
from fastgw.errors import Fault
from fastgw.eventloop.idle_order import Evicted, IdleOrder
from fastgw.eventloop.socket_poller import READABLE
from fastgw.http.http1.parser import stand_in_head
from fastgw.observe.access_log.record import UDP
from fastgw.operator_events import OperatorEvent
from fastgw.shm.node_limits import subscriber
from fastgw.upstream.targets.dns import TargetAddress

if TYPE_CHECKING:
    from fastgw.downstream.server import Listener, Server

PER_WAKEUP: Final = 64
"""Maximum number of datagrams that are read at once; then other events are handled."""
LAST_ANSWER_S: Final = 2.0
"""Seconds for the response to a datagram when its listener closes or its target was removed. Many protocols have no
responses."""
MOST_WAITING: Final = 16
"""Maximum number of datagrams of a session that wait for a target: for its name lookup, or for a retry. Further ones
are dropped."""
MOST_WAITING_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of the waiting datagrams of all sessions of a worker; further ones are dropped. Without it, clients with
forged addresses could fill the memory while a name is looked up: a session may hold a MiB."""
MOST_KEPT_BYTES: Final = 2048
"""Maximum size of the sent datagrams of a session that are kept for a retry, until the first response: of the newest
ones, at most `MOST_WAITING`. It holds a first packet of QUIC, and the node may have 65,536 sessions."""
REFUSAL_S: Final = 1.0
"""Seconds in which the refusal of a datagram (ICMP) arrives: a round trip. Many protocols have no responses, so their
older datagrams are held to be received, and are not sent again."""
OUT_OF: Final = frozenset({EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, EAGAIN})
"""Errors of a lack of files, memory or ports in this process, for which no target is to blame."""
LOST: Final = frozenset({EMSGSIZE, ENOBUFS, ENOMEM, EAGAIN})
"""Errors of a datagram that is dropped, as any may be: it is longer than the other side's version of IP or its network
allows, or there is no memory for it. Neither side is gone."""
NO_FILES: Final = "the remaining file descriptors are reserved for connections"
_HEAD: Final = stand_in_head(b"udp", version=UDP)

Key = tuple[str, tuple[Any, ...], Ancillary]
"""Name of the listener, address of the client, and the address that the client sends to: a session has one, from which
all its responses come."""


def client_ip(datagram: Datagram) -> str:
    """Return the IP address of a datagram's client."""
    return str(datagram.client[0]).removeprefix("::ffff:")


@final
class UdpSessions:
    """All sessions of one worker. The limit applies to the node."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self.sessions: dict[Key, UdpSession] = {}
        self.fresh: IdleOrder[UdpSession] = IdleOrder()
        self.established: IdleOrder[UdpSession] = IdleOrder()
        """Those whose clients have sent a datagram after a response."""
        self.by_address: dict[bytes, IdleOrder[UdpSession]] = {}
        self.waiting_bytes = 0  # of datagrams that wait for a target

    def receive(self, listener: "Listener", listening: socket.socket, most: int, room: int) -> None:
        """Receive and forward the datagrams of a listening socket, `most` at once. `room`: the number of sessions that
        may begin with the files of this process.
        """
        for _ in range(most):
            try:
                datagram = receive(listening)
            except OSError:  # none is left; or an error of an earlier send, after which others may be readable
                return
            key = listener.name, datagram.client, datagram.answer_from
            session = self.sessions.get(key)
            if session is not None and session.has_lost_target(listener):
                session.end()
                session = None
            if session is None:
                held = len(self.sessions)
                session = self._begin(key, listener, listening, datagram, room)
                room += held - len(self.sessions)
            if session is not None:
                session.send(datagram.payload)

    def _drop(self, listener: "Listener", datagram: Datagram, why: str) -> None:
        text = f"listener {listener.name}: datagram of {datagram.client[0]} dropped: {why}"
        self._server.complain(OperatorEvent.CONNECTION_REFUSED, text, why)

    def _begin(
        self, key: Key, listener: "Listener", listening: socket.socket, datagram: Datagram, room: int
    ) -> "UdpSession | None":
        server, ip = self._server, client_ip(datagram)
        own, limit = self.by_address.get(subscriber(ip)), server.session_address_limit
        if own is not None and len(own) >= address_share(len(self.sessions) + room):
            room += self._make_room((own,), NO_FILES)
        if room <= 0 and not self._make_room((self.fresh, self.established), NO_FILES):
            self._drop(listener, datagram, NO_FILES)
            return None
        if limit is not None and not limit.try_take(ip):
            why = "the address has its share of limits.udp_sessions"
            if own is None or not self._make_room((own,), why) or not limit.try_take(ip):
                self._drop(listener, datagram, why)
                return None
        if not server.session_limit.try_take():
            why = "limits.udp_sessions is reached"
            orders = self.fresh, self.established
            if not self._make_room(orders, why) or not server.session_limit.try_take():
                if limit is not None:
                    limit.give_back(ip)
                self._drop(listener, datagram, why)
                return None
        session = self.sessions[key] = UdpSession(server, self, key, listener, listening, datagram)
        server.connections.add(session)
        session.begin()
        return session if session.is_open else None

    def _make_room(self, orders: "tuple[IdleOrder[UdpSession], ...]", why: str) -> bool:
        """End the session that is idle longest, of the first of these orders that has any."""
        for order in orders:
            ended = order.close_longest_idle()
            if ended is not None:
                self._server.note_evicted(Evicted.UDP_SESSION, ended.listener, ended.client_ip, why)
                return True
        return False


@final
class UdpSession(RelayedSession):
    """One session."""

    __slots__ = (
        *("_answer_from", "_client", "_is_listed", "_kept", "_kept_bytes", "_key", "_limit", "_listening", "_order"),
        *("_own", "_resolving", "_sessions", "_socket", "_targets", "_unanswered_at", "_waiting", "is_open"),
    )

    def __init__(
        self,
        server: "Server",
        sessions: UdpSessions,
        key: Key,
        listener: "Listener",
        listening: socket.socket,
        first: Datagram,
    ) -> None:
        super().__init__(server, listener, client_ip(first), b"udp", _HEAD)
        self._sessions, self._key = sessions, key
        self._limit, self._address_limit = server.session_limit, server.session_address_limit
        self._listening = listening
        self._client, self._answer_from = first.client, first.answer_from
        self._order = sessions.fresh
        self._own = sessions.by_address.setdefault(subscriber(self.client_ip), IdleOrder())
        self.is_open = True
        self._unanswered_at = inf  # of the first datagram since the last response
        self._socket: socket.socket | None = None
        self._waiting: list[bytes] = []
        self._kept: list[tuple[float, bytes]] = []  # with the time of sending; the oldest is the first
        self._kept_bytes = 0
        self._resolving: asyncio.Task[list[TargetAddress]] | None = None
        route = self.route.only_route
        assert route is not None
        upstream = route.choose()
        self._use(upstream)
        self._targets, self._is_listed = upstream.targets, True

    def __repr__(self) -> str:
        return f"<UdpSession {self.client_ip} to {self.target}>"

    def begin(self) -> None:
        """Select a target, and look up its name if it has one."""
        target, upstream = self._begin_attempt(), self._upstream
        assert upstream is not None
        if target is None:
            self._finish(upstream.unavailable())
            return
        self._touched()
        if target.literal is not None:
            self._connect(target.literal)
            return
        self._resolving = self._server.worker_loop.loop.create_task(target.addresses())
        self._resolving.add_done_callback(self._resolved)

    def _resolved(self, task: "asyncio.Task[list[TargetAddress]]") -> None:
        if task.cancelled() or not self.is_open:
            return
        self._resolving = None
        error = task.exception()
        if error is not None:
            self._failed(Fault.DNS_FAILED, str(error))
            return
        self._connect(task.result()[0])

    def _connect(self, address: TargetAddress) -> None:
        try:
            connected = socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket = connected
            connected.connect(address.sockaddr)
            self._server.worker_loop.sockets.watch(connected.fileno(), self)
        except OSError as error:
            self._broken(error)
            return
        self._note_connect()
        for payload in self._take_waiting():
            if self._socket is connected:
                self._send_to_target(payload)
            else:  # refused in between: another target gets it
                self._wait(payload)

    def send(self, payload: bytes) -> None:
        """Forward a datagram of the client. Like any datagram it may be lost."""
        self.request_bytes += len(payload)
        if self.response is not None and self._order is self._sessions.fresh:
            self._order.forget(self)
            self._order = self._sessions.established
        self._touched()
        self._unanswered_at = min(self._unanswered_at, self._server.worker_loop.wheel.now)
        if self._socket is not None:
            self._send_to_target(payload)
        else:
            self._wait(payload)

    def _wait(self, payload: bytes) -> None:
        """Hold a datagram until the target is known; drop it if there are too many."""
        sessions = self._sessions
        if len(self._waiting) < MOST_WAITING and sessions.waiting_bytes + len(payload) <= MOST_WAITING_BYTES:
            self._waiting.append(payload)
            sessions.waiting_bytes += len(payload)

    def _take_waiting(self) -> list[bytes]:
        waiting, self._waiting = self._waiting, []
        self._sessions.waiting_bytes -= sum(map(len, waiting))
        return waiting

    def _send_to_target(self, payload: bytes) -> None:
        assert self._socket is not None
        if self.response is None and len(payload) <= MOST_KEPT_BYTES:
            self._keep(payload)
        try:
            self._socket.send(payload)
        except OSError as error:
            if error.errno not in LOST:
                self._broken(error)

    def _keep(self, payload: bytes) -> None:
        """Keep a datagram for a retry, in place of those that are too old for it or, if there are too many, of the
        oldest: a refusal is of one of the newest.
        """
        kept, now = self._kept, self._server.worker_loop.wheel.now
        size = self._kept_bytes + len(payload)
        while kept and (size > MOST_KEPT_BYTES or len(kept) == MOST_WAITING or now - kept[0][0] > REFUSAL_S):
            size -= len(kept.pop(0)[1])
        kept.append((now, payload))
        self._kept_bytes = size

    def ready(self, events: int) -> None:
        """Forward datagrams of the target (`SocketListener`)."""
        if not events & READABLE and events:
            return
        connected, listening = self._socket, self._listening
        for _ in range(PER_WAKEUP):
            if connected is None or not self.is_open:
                return
            try:
                payload = connected.recv(LONGEST)
            except BlockingIOError:
                return
            except OSError as error:
                self._broken(error)
                return
            self._answered(len(payload))
            try:
                listening.sendmsg([payload], self._answer_from, 0, self._client)
            except OSError as error:
                if error.errno in LOST:
                    continue
                self._finish(Fault.CLIENT_LEFT)
                return
            if self._server.draining or self.listener.closing:
                self._finish()
        self._server.worker_loop.sockets.call_again(self)

    def _answered(self, size: int) -> None:
        self.response_bytes += size
        self._unanswered_at = inf
        self._touched()
        if self.response is None:
            self._kept = []
            self._note_answer()

    def _broken(self, error: OSError) -> None:
        """Handle an error of the socket, such as an ICMP error: the target has refused a datagram, or is
        unreachable.
        """
        if error.errno in OUT_OF:
            fault = Fault.CONNECTIONS_EXHAUSTED
        else:
            fault = Fault.CONNECT_REFUSED if error.errno == ECONNREFUSED else Fault.UPSTREAM_UNREACHABLE
        self._failed(fault, error.strerror or str(error))

    def _failed(self, fault: Fault, why: str) -> None:
        self._give_up_attempt(fault, why)
        wait = inf if self.response is not None else self._retry(fault, self.deadline)
        if wait == inf:
            self._finish(fault, why)
        else:
            self._send_again(wait)

    def _send_again(self, wait: float) -> None:
        """Send the datagrams to another target, after so many seconds."""
        self._close_socket()
        now = self._server.worker_loop.wheel.now
        refused = [payload for sent_at, payload in self._kept if now - sent_at <= REFUSAL_S]
        self._kept, self._kept_bytes = [], 0
        for payload in refused + self._take_waiting():
            self._wait(payload)
        self._timer = self._server.worker_loop.loop.call_later(wait, self.begin)

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._server.worker_loop.sockets.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _touched(self) -> None:
        wheel = self._server.worker_loop.wheel
        self.deadline = deadline = min(wheel.now + self._idle, self._total_at)
        if deadline < self.filed_at:
            wheel.file(self, deadline)
        self._order.put_last(self)
        self._own.put_last(self)

    def expire(self, now: float) -> None:
        """End a session that is idle or has reached its maximum duration. An idle one is successful if it has a target,
        also without a response, as many protocols have none.
        """
        if self._socket is None:  # all datagrams wait: for a name, or for a retry
            self._finish(Fault.UPSTREAM_TIMEOUT)
        else:
            self._finish(Fault.TUNNEL_EXPIRED if now >= self._total_at else None)

    def _finish(self, fault: Fault | None = None, why: str = "") -> None:
        if not self.is_open:
            return
        self.is_open = False
        server = self._server
        server.worker_loop.wheel.drop(self)
        self.fault, self.why = fault, why
        if self._resolving is not None:
            self._resolving.cancel()
        self._close_socket()
        self._take_waiting()
        self._leave_upstream()
        self._limit.give_back()
        if self._address_limit is not None:
            self._address_limit.give_back(self.client_ip)
        self._order.forget(self)
        self._own.forget(self)
        if not self._own:
            self._sessions.by_address.pop(subscriber(self.client_ip), None)
        self._sessions.sessions.pop(self._key, None)
        server.closed(self)
        if server.draining:
            server.drained += 1
        if self.response is None and fault is Fault.TUNNEL_EXPIRED:
            self.response = CONNECTED_OUTCOME
        self._tell()

    def has_lost_target(self, listener: "Listener") -> bool:
        """Whether the target was removed from the listener's upstream and does not answer any more."""
        assert listener.tcp is not None
        upstream = listener.tcp.upstream_of_session(self.upstream)
        targets = () if upstream is None else upstream.targets
        if targets is not self._targets:
            self._targets = targets
            self._is_listed = any(each.label == self.target for each in targets)
        return not self._is_listed and self._server.worker_loop.wheel.now - self._unanswered_at >= LAST_ANSWER_S

    def close_idle(self) -> bool:
        """End, to make room for another session (`Idler`)."""
        self._finish()
        return True

    def end(self) -> None:
        """End without waiting for a response."""
        self._finish()

    # calls of the server

    def leave(self) -> None:
        """End with the listener: after the response to the last datagram, within a short time."""
        if self._unanswered_at == inf:
            self._finish()
            return
        self._idle = min(self._idle, LAST_ANSWER_S)
        self._touched()

    drain = leave

    def end_outdated(self) -> None: ...

    def cut_requests(self) -> bool:
        return self.cut()

    def cut_tunnels(self) -> bool:
        return False

    def cut(self) -> bool:
        """Abort at once. True: a response was outstanding."""
        was_open = self.is_open
        self._finish(Fault.GATEWAY_STOPPED)
        return was_open
