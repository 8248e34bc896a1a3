"""Server of one worker: shared data of its client connections (listeners, limits, time), and their end."""

import asyncio
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from itertools import islice
from math import inf
from operator import methodcaller
from time import time
from typing import Final, NamedTuple, Protocol

from fastgw.config.settings import gateway as config
from fastgw.downstream.http1.connection import LAST_REQUEST_S, Http1ClientConnection
from fastgw.downstream.http1.serving import ServingListener, ServingWorker
from fastgw.downstream.http2.connection import Http2ClientConnection
from fastgw.downstream.protocols import speaks_http1
from fastgw.downstream.tcp.connection import TcpConnection
from fastgw.downstream.tcp.routes import TcpRoutes
from fastgw.downstream.tls.connection import HandshakeOutcome, TlsConnection
from fastgw.downstream.tls.contexts import ServerContexts, challenge_context
from fastgw.downstream.tls.on_demand import OnDemandCertificates
from fastgw.downstream.trusted_proxies import reserved_fields
from fastgw.downstream.udp.sessions import UdpSession, UdpSessions
from fastgw.errors import Fault
from fastgw.eventloop.idle_order import Evicted
from fastgw.eventloop.socket_accept import AcceptedSocket
from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.timer_wheel import Wheel
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Chain, Route
from fastgw.exchange.exchange_counts import ExchangeCounts
from fastgw.exchange.upstream_chains import NO_CHAINS, UpstreamChains
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.reserved_fields import ReservedFields
from fastgw.net.client_certificate import ClientCertificate
from fastgw.net.proxy_protocol import NO_TLVS, ProxyTlvs
from fastgw.net.session_tickets import TicketKeySeeds
from fastgw.observe.observer import Observer
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.routing.table import Router
from fastgw.shm.node_limits import AddressLimit, NodeLimit
from fastgw.sync.ocsp_responses import NO_RESPONSES, read
from fastgw.upstream.connections.pool_limit import LocalLimit, PoolLimit

NO_FIELDS: Final = ReservedFields(())
UNIX_SOCKET: Final = "unix:"
"""Address of clients of a unix socket."""
NOTIFIED_AT_ONCE: Final = 256
"""Maximum number of connections per iteration of the event loop that are notified of a removed or changed listener."""


class ListenerTable(NamedTuple):
    """Compiled listener. `early`: filters that run before a route is found."""

    settings: config.Listener
    trusts: Callable[[str], bool]
    sends_proxy_header: Callable[[str], bool]
    early: Chain
    router: Router[Route]
    tls: ServerContexts | None = None
    upstream_chains: UpstreamChains = NO_CHAINS
    tcp: TcpRoutes | None = None
    takes_tunnels: bool = True
    """Whether a route of it may switch to another protocol."""


class Listener(ServingListener):
    """Listener of one name and address over all configurations.

    `askers`: number of connections that may still send requests; the connections count themselves.
    """

    def __init__(self, name: str, table: ListenerTable) -> None:
        ServingListener.__init__(self, table.early, NO_FIELDS, table.router, table.trusts)
        self.name = name
        self.address = table.settings.address
        self.askers = 0
        self.tls: ServerContexts | None = None
        self.tcp: TcpRoutes | None = None  # its TCP routes; None: it is an HTTP listener
        self.use_table(table)

    def use_table(self, table: ListenerTable) -> None:
        """Use this table from the next request on."""
        settings = table.settings
        self.proxy_protocol_required = settings.proxy_protocol == "required"
        self.tolerates_utf8_targets = settings.tolerate_utf8_targets
        self.refuses_ambiguous_paths = settings.ambiguous_paths == "refuse"
        self.serves_half_closed = settings.half_close == "serve"
        self.trusts, self.sends_proxy_header = table.trusts, table.sends_proxy_header
        self.scheme = None if settings.scheme is None else settings.scheme.encode()
        self.reserved = reserved_fields(settings.reserved_headers, settings.unreserved_headers)
        self.early = table.early
        self.router = table.router
        self.upstream_chains = table.upstream_chains
        self.http2, self.takes_tunnels = settings.http2, table.takes_tunnels
        self.speaks_http1, self.speaks_http2 = speaks_http1(table.settings), table.settings.wants_http2
        self.tcp = table.tcp
        self.is_udp = table.settings.protocol == "udp"
        if table.tls is not None and self.tls is not None:
            table.tls.take_over_from(self.tls)
        self.tls = table.tls

    def is_outdated(self, vouched: bytes | None) -> bool:
        """Whether the settings that verify client certificates differ from those of a handshake (`vouched`).

        None: there was no TLS.
        """
        vouches = self.vouches
        return vouched is not None and vouches is not None and vouches != vouched

    def may_send_proxy_header(self, ip: str) -> bool:
        """Whether a PROXY header from this address counts; a unix socket has permissions."""
        return ip == "unix:" or self.trusts(ip) or self.sends_proxy_header(ip)

    def peer(
        self,
        client: tuple[str, int],
        server_port: int,
        uses_tls: bool,
        tlvs: ProxyTlvs = NO_TLVS,
        sender: str | None = None,
        certificate: ClientCertificate | None = None,
    ) -> Peer:
        """Return the peer of a connection. `client`: its address and port, or those in its PROXY header, which `sender`
        has sent. `uses_tls`: whether the connection does.

        Forwarding headers are trusted by the address of the connection. The sender of a PROXY header that is no trusted
        proxy by itself passes on what its client has sent, so they are trusted by the client's address then.
        """
        ip, port = client
        is_proxy = self.trusts(ip)
        if sender is None:
            trusted = is_proxy
        elif sender == "unix:" or self.sends_proxy_header(sender):
            trusted = is_proxy = is_proxy and ip != sender  # without an address in its header it speaks for a client
        else:
            trusted = True
        is_secure = uses_tls if tlvs.uses_tls is None else tlvs.uses_tls
        scheme = b"https" if is_secure else b"http"
        if self.scheme is not None and tlvs.uses_tls is None:
            scheme = self.scheme
        return Peer(ip, port, server_port, trusted, scheme, certificate, tlvs, sender, not is_proxy)

    def reassess(self, peer: Peer) -> Peer:
        """Return the peer by the current settings: unchanged, or a new one."""
        address, uses_tls = (peer.ip, peer.port), peer.tls is not None
        made = self.peer(address, peer.server_port, uses_tls, peer.tlvs, peer.sender, peer.certificate)
        if (made.trusted, made.is_client, made.scheme) == (peer.trusted, peer.is_client, peer.scheme):
            return peer
        made.tls = peer.tls
        return made

    @property
    def vouches(self) -> bytes | None:
        """See `ServerContexts`; None: the listener has no TLS."""
        return None if self.tls is None else self.tls.vouches

    @property
    def requires_certificate(self) -> bool:
        """Whether clients have to present a certificate."""
        asking = None if self.tls is None else self.tls.settings.client_auth
        return asking is not None and asking.mode == "required"


class Compiled(Protocol):
    """Compiled configuration, as the data plane uses it (`gateway.tables.Gateway`)."""

    @property
    def timeouts(self) -> config.Timeouts: ...
    @property
    def limits(self) -> config.Limits: ...
    @property
    def listeners(self) -> Sequence[Listener]: ...
    @property
    def tables(self) -> Mapping[str, ListenerTable]: ...


class DrainSummary(NamedTuple):
    drained: int
    """Number of exchanges that ended during the drain."""
    cut: int
    """Number of exchanges and tunnels that were aborted."""


ClientConnection = Http1ClientConnection | Http2ClientConnection | TcpConnection | UdpSession
Complain = Callable[[OperatorEvent, str, str], None]
"""Reports an event that may happen thousands of times a second; each kind is limited separately."""


class DateLine:
    """Current `Date` header line, with its CRLF; updated once per second."""

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel
        self._line = b""
        self._until = -inf

    def now(self) -> bytes:
        now = self._wheel.now
        if now >= self._until:
            clock = time()
            self._line = b"Date: %b\r\n" % formatdate(clock, usegmt=True).encode()
            self._until = now + 1 - clock % 1
        return self._line


class Server(ServingWorker):
    """Server of one worker. Connections add and remove themselves in `connections`."""

    def __init__(
        self,
        worker_loop: WorkerLoop,
        gateway: Compiled,
        observer: Observer,
        connection_limit: NodeLimit,
        address_limit: AddressLimit | None,
        shaken: memoryview | list[int] | None = None,
        seeds: TicketKeySeeds | None = None,
        session_limit: PoolLimit | None = None,
        evicted: memoryview | list[int] | None = None,
        session_address_limit: AddressLimit | None = None,
    ) -> None:
        """`shaken`: counters of TLS handshakes, one for each `HandshakeOutcome`. `seeds`: seeds of the keys of session
        tickets; None: the keys are valid in this process only. `session_limit`: the node's limit of UDP sessions; None:
        this worker has all of it. `evicted`: counters of connections that were closed for others, by `Evicted`."""
        ServingWorker.__init__(self, worker_loop, DateLine(worker_loop.wheel).now, observer.finish)
        self.connections: set[ClientConnection] = set()
        self.evicted = [0] * len(Evicted) if evicted is None else evicted
        self.udp = UdpSessions(self)
        self.session_limit = session_limit or LocalLimit(gateway.limits.udp_sessions)
        self.session_address_limit = session_address_limit
        self.handshakes: set[TlsConnection] = set()
        """Connections during their TLS handshake; they maintain this set."""
        self.shaken = [0] * len(HandshakeOutcome) if shaken is None else shaken
        self.complain: Complain = lambda event, text, kind: log_event(event, text)
        """Reports a failed handshake; there may be thousands per second."""
        self.acme_contexts: Mapping[str, ssl.SSLContext] = {}
        """TLS contexts that answer ACME challenges in progress (tls-alpn-01), by server name."""
        self.on_demand: OnDemandCertificates | None = None
        """On-demand certificates; None: there are none."""
        self._shook_hands = asyncio.Event()
        self._seeds = seeds
        self._ocsp_responses = NO_RESPONSES
        self.counts: ExchangeCounts = observer
        self._listeners: Sequence[Listener] = ()
        self._quiet: asyncio.Event | None = None
        self.adopt(gateway, connection_limit, address_limit)

    def adopt(
        self,
        gateway: Compiled,
        connection_limit: NodeLimit,
        address_limit: AddressLimit | None,
        session_limit: PoolLimit | None = None,
        session_address_limit: AddressLimit | None = None,
    ) -> None:
        """Use this configuration from the next request on. Exchanges in flight end with the previous one.

        Connections of removed listeners close after their exchange, idle ones after `LAST_REQUEST_S`;
        tunnels continue. If the verification of client certificates has changed, tunnels that were verified before are
        ended. The limits continue with the same counters. The observer has to know the names of the configuration
        before.
        """
        self.timeouts = gateway.timeouts
        self.keepalive = gateway.timeouts.keepalive
        self.head_timeout = gateway.timeouts.request_headers
        self.body_idle, self.body_rate = gateway.timeouts.request_body_idle, gateway.timeouts.request_body_rate
        limits = gateway.limits
        self.header_bytes, self.header_count, self.body_bytes = (
            limits.header_bytes,
            limits.header_count,
            inf if limits.body_bytes is None else limits.body_bytes,
        )
        self.connection_limit = connection_limit
        self.address_limit = address_limit
        self.session_limit = session_limit or self.session_limit
        self.session_address_limit = session_address_limit or self.session_address_limit
        before, self._listeners = self._listeners, gateway.listeners
        verification_changed = version_removed = False
        for listener in self._listeners:
            vouched, spoke_http2 = listener.vouches, listener.speaks_http2
            listener.use_table(gateway.tables[listener.name])
            verification_changed = verification_changed or listener.vouches != vouched
            version_removed = version_removed or (spoke_http2 and not listener.speaks_http2)
            if listener.tls is not None and self._seeds is not None:
                listener.tls.use_keys(self._seeds)
            if listener.tls is not None:
                listener.tls.use_responses(self._ocsp_responses)
            listener.closing = self.draining
        removed = [listener for listener in before if listener not in self._listeners]
        for listener in removed:
            listener.closing = True
        if removed or verification_changed or version_removed:
            self._tell_changed(iter(tuple(self.connections)))

    def use_ocsp_responses(self, value: bytes) -> None:
        """Staple the OCSP responses of this value of their feed, from the next handshake on."""
        self._ocsp_responses = read(value)
        for listener in self._listeners:
            if listener.tls is not None:
                listener.tls.use_responses(self._ocsp_responses)

    def _tell_changed(self, connections: Iterator[ClientConnection]) -> None:
        some = tuple(islice(connections, NOTIFIED_AT_ONCE))
        for connection in some:
            if connection.listener.closing:
                connection.leave()
            connection.end_outdated()
        if some:
            self.worker_loop.loop.call_soon(self._tell_changed, connections)

    def accepted(
        self,
        listener: Listener,
        client: tuple[str, int],
        server_port: int,
        tlvs: ProxyTlvs = NO_TLVS,
        sender: str | None = None,
    ) -> Http1ClientConnection | Http2ClientConnection:
        """Return the protocol for an accepted connection. `client`: its address and port, or those of its PROXY
        protocol header; `("unix:", 0)` for a unix socket. `server_port`: 0 for a unix socket. `tlvs`, `sender`: of that
        header; `sender` None: there is none.
        """
        peer = listener.peer(client, server_port, False, tlvs, sender)
        if listener.speaks_http1 or not listener.speaks_http2:
            return Http1ClientConnection(self, listener, peer)
        return Http2ClientConnection(self, listener, peer)

    def speak_http2(
        self,
        listener: Listener,
        peer: Peer,
        transport: SocketTransport,
        address_limit: AddressLimit | None,
        received: bytes,
    ) -> None:
        """Continue with HTTP/2 on an admitted connection whose client sent its preface. `received`: bytes so far."""
        connection = Http2ClientConnection(self, listener, peer)
        transport.protocol = connection
        connection.attach_transport(transport, address_limit)
        connection.receive(received, len(received))

    def serve_tcp(
        self,
        listener: Listener,
        accepted: AcceptedSocket,
        client: tuple[str, int],
        local: tuple[str, int] | None,
        tlvs: ProxyTlvs = NO_TLVS,
    ) -> None:
        """Serve an accepted connection of a TCP listener that does not terminate TLS. `local`: the address that the
        client has connected to, if it is not that of the socket.
        """
        TcpConnection(self, listener, Peer(client[0], client[1], 0, False, tlvs=tlvs), local).accept(accepted)

    def secured(
        self,
        fd: int,
        listener: Listener,
        client: tuple[str, int],
        server_port: int,
        tlvs: ProxyTlvs = NO_TLVS,
        sender: str | None = None,
        local: tuple[str, int] | None = None,
    ) -> TlsConnection:
        """Return an accepted connection that begins with a TLS handshake (`begin_tls`). `fd`: its socket, as of
        `SocketTransport`; the other arguments as of `accepted`, `local` as of `serve_tcp`.
        """
        return TlsConnection(self, fd, listener, listener.peer(client, server_port, True, tlvs, sender), local)

    def handshake_failed(self, listener: Listener, peer: Peer, outcome: HandshakeOutcome, why: str) -> None:
        """Count a failed handshake, and log it occasionally."""
        self.shaken[outcome] += 1
        text = outcome.name.lower().replace("_", " ")
        reason = f"{text}{why and ': '}{why}"
        self.complain(
            OperatorEvent.TLS_HANDSHAKE_FAILED,
            f"listener {listener.name}: TLS handshake with {peer.ip} failed: {reason}",
            reason,
        )

    def answer_challenges(self, pairs: Mapping[str, str]) -> None:
        """Answer these ACME challenges (tls-alpn-01): certificate and key by server name."""
        self.acme_contexts = {name: challenge_context(pair.encode()) for name, pair in pairs.items()}

    async def end_handshakes(self) -> None:
        """Give handshakes in progress a short time, then end them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_REQUEST_S):
                while self.handshakes:
                    self._shook_hands.clear()
                    await self._shook_hands.wait()
        for handshake in tuple(self.handshakes):
            handshake.give_up()

    def handshake_done(self, handshake: TlsConnection) -> None:
        """Handle the end of a handshake, successful or not."""
        self.handshakes.discard(handshake)
        self.idle.forget(handshake)
        self._shook_hands.set()

    def address_limit_for(self, listener: Listener, ip: str) -> AddressLimit | None:
        """Return the limit of connections of this address; None: it has none, as a trusted proxy or a unix socket has
        the connections of many clients.
        """
        return None if listener.trusts(ip) or ip == UNIX_SOCKET else self.address_limit

    def admit(self, ip: str, address_limit: AddressLimit | None) -> Fault | None:
        """Count a connection in the node's limits, or return which limit is reached. Where `limits.connections` is, an
        idle connection makes room: not for an address that has its share.
        """
        if address_limit is not None and not address_limit.try_take(ip):
            return Fault.TOO_MANY_CONNECTIONS
        limit = self.connection_limit
        if limit.try_take() or (self.make_room("limits.connections is reached") and limit.try_take()):
            return None
        if address_limit is not None:
            address_limit.give_back(ip)
        return Fault.CONNECTIONS_EXHAUSTED

    def make_room(self, why: str) -> bool:
        """Close the connection of this worker that is idle longest. False: none is."""
        closed = self.idle.close_longest_idle()
        if closed is None:
            return False
        self.note_evicted(Evicted.CONNECTION, closed.listener, closed.peer.ip, why)
        return True

    def note_evicted(self, kind: Evicted, listener: Listener, ip: str, why: str) -> None:
        """Count a connection that was closed for another one, and log it occasionally."""
        self.evicted[kind] += 1
        what = kind.name.lower().replace("_", " ")
        text = f"listener {listener.name}: idle {what} of {ip} closed to make room for another: {why}"
        self.complain(OperatorEvent.CONNECTION_EVICTED, text, f"{what}: {why}")

    def release(self, peer: Peer, address_limit: AddressLimit | None) -> None:
        """Remove a connection from the node's limits. `address_limit`: the limit with which it was admitted."""
        self.connection_limit.give_back()
        if address_limit is not None:
            address_limit.give_back(peer.ip)

    def closed(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)
        if self._quiet is not None and not self.connections:
            self._quiet.set()

    async def drain(self, requests_s: float, tunnels_s: float) -> DrainSummary:
        """Accept no new requests, wait for exchanges and tunnels, each within their timeout; then abort the rest."""
        self._quiet = asyncio.Event()
        self.begin_drain()
        cut_first = methodcaller("cut_requests" if requests_s <= tunnels_s else "cut_tunnels")
        cut = await self._wait(min(requests_s, tunnels_s), cut_first)
        cut += await self._wait(abs(tunnels_s - requests_s), methodcaller("cut"))
        return DrainSummary(self.drained, cut)

    def begin_drain(self) -> None:
        self.draining = True
        for listener in self._listeners:
            listener.closing = True
        for connection in tuple(self.connections):
            connection.drain()

    async def _wait(self, seconds: float, cut: Callable[[ClientConnection], int]) -> int:
        """Wait until all connections have closed, and those of WebSocket APIs have finished; after `seconds` abort the
        rest, or the part of it that `cut` aborts.
        """
        assert self._quiet is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # The last connection may be followed by others from the queue.
                while self.connections or self.worker_loop.connections.are_unfinished:
                    if self.connections:
                        self._quiet.clear()
                        await self._quiet.wait()
                    else:
                        await self.worker_loop.connections.wait_for_finish()
        return sum(map(cut, tuple(self.connections)))

    def stop(self) -> None:
        """Abort all connections."""
        for handshake in tuple(self.handshakes):
            handshake.give_up()
        for connection in tuple(self.connections):
            connection.cut()
