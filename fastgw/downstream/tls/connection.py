"""TLS of a client's connection: its handshake, the counters of its outcome, and clients that do not speak TLS.

Rule: the protocol above is connected when the handshake is complete; until then only the server has the connection.
After the handshake `eventloop.tls_transport` takes over.
"""

import ssl
from collections.abc import Collection
from enum import IntEnum
from math import inf
from time import time
from typing import TYPE_CHECKING, Any, Final, cast, final

from fastgw.downstream.http1.connection import TOKEN_START, Http1ClientConnection
from fastgw.downstream.http2.connection import Http2ClientConnection
from fastgw.downstream.tcp.connection import TcpConnection
from fastgw.downstream.tcp.relay_end import RelayEnd
from fastgw.downstream.tls.contexts import ServerContexts
from fastgw.downstream.tls.on_demand import NameDecision
from fastgw.errors import Fault
from fastgw.eventloop.socket_transport import SocketTransport, unread_in_kernel
from fastgw.eventloop.timer_wheel import Timed, Wheel
from fastgw.eventloop.tls_transport import CLOSED, OPEN, SILENT, TlsTransport, text_of
from fastgw.forwarded_headers import Peer, TlsParameters
from fastgw.net.client_certificate import ClientCertificate
from fastgw.net.client_hello import (
    LONGEST_HELLO,
    LONGEST_MESSAGE,
    NO_APPLICATION_PROTOCOL,
    Alert,
    ClientHello,
    HelloReader,
    InvalidHello,
)
from fastgw.net.first_bytes import HANDSHAKE, PROXY_PROTOCOL, not_begun_with, spoken_protocol
from fastgw.operator_events import OperatorEvent
from fastgw.shm.node_limits import AddressLimit
from fastgw.sync import acme_challenges

if TYPE_CHECKING:
    from fastgw.downstream.server import Listener, Server

ACME_TLS: Final = acme_challenges.PROTOCOL.encode()
_HTTP1: Final = frozenset((b"http/1.1", b"http/1.0"))
EXPIRY_NOTICE_S: Final = 5.0
"""How long before the expiry of a client's certificate the end of its connection is announced; longer than HTTP/2 takes
between its two GOAWAY (`LAST_REQUEST_S`)."""
CLOCK_CHECK_S: Final = 600.0


class HandshakeOutcome(IntEnum):
    """The outcome of a handshake: its value is the position of its counter in shared memory."""

    FULL = 0
    RESUMED = 1
    TIMEOUT = 2
    """The handshake was not completed in time."""
    CLIENT_LEFT = 3
    """The connection ended first."""
    CLIENT_REFUSED = 4
    """The client has refused the gateway's certificate, or another parameter."""
    NO_AGREEMENT = 5
    """Client and server have no version, cipher or group in common."""
    CERTIFICATE_MISSING = 6
    """The client has not sent a certificate, which is required."""
    CERTIFICATE_REFUSED = 7
    """The client's certificate is invalid, revoked, or issued by another authority."""
    PROTOCOL_ERROR = 8
    """The client has sent no TLS, or broken records."""
    SHED = 9
    """A limit of connections was reached, or the gateway stops."""
    NAME_UNRECOGNIZED = 10
    """The requested name has no on-demand certificate, or none yet."""


_BY_REASON: Final = {
    "CERTIFICATE_VERIFY_FAILED": HandshakeOutcome.CERTIFICATE_REFUSED,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": HandshakeOutcome.CERTIFICATE_MISSING,
    "NO_SHARED_CIPHER": HandshakeOutcome.NO_AGREEMENT,
    "NO_SUITABLE_KEY_SHARE": HandshakeOutcome.NO_AGREEMENT,
    "NO_SHARED_SIGNATURE_ALGORITHMS": HandshakeOutcome.NO_AGREEMENT,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": HandshakeOutcome.NO_AGREEMENT,
    "NO_SHARED_GROUPS": HandshakeOutcome.NO_AGREEMENT,
    "UNSUPPORTED_PROTOCOL": HandshakeOutcome.NO_AGREEMENT,
    "VERSION_TOO_LOW": HandshakeOutcome.NO_AGREEMENT,
    "UNEXPECTED_EOF_WHILE_READING": HandshakeOutcome.CLIENT_LEFT,
}
"""Return the outcome of a failed handshake from the OpenSSL error.

An alert of the client is `CLIENT_REFUSED`; other errors are broken TLS.
"""


@final
class _Limit(Timed):
    """Deadline of a handshake."""

    __slots__ = ("_handshake",)

    def __init__(self, handshake: "TlsConnection") -> None:
        super().__init__()
        self._handshake = handshake

    def expire(self, now: float) -> None:
        self._handshake.give_up(HandshakeOutcome.TIMEOUT)


@final
class _CertificateExpiry(Timed):
    """Expiry of the client's certificate, for a connection that is open then. It is announced `EXPIRY_NOTICE_S` before,
    so that clients connect again in time; a connection that begins later has no notice.
    """

    __slots__ = ("_above", "_expires_date", "_is_announced", "_wheel")

    def __init__(self, above: Http1ClientConnection | Http2ClientConnection, expires_date: float, wheel: Wheel) -> None:
        super().__init__()
        self._above, self._expires_date, self._wheel = above, expires_date, wheel
        left = expires_date - time()
        self._is_announced = left <= EXPIRY_NOTICE_S
        self._watch(left, wheel.now)

    def expire(self, now: float) -> None:
        left = self._expires_date - time()
        if left <= 0:
            self._above.certificate_expired()
            return
        if not self._is_announced and left <= EXPIRY_NOTICE_S:
            self._is_announced = True
            self._above.certificate_expires_soon()
        self._watch(left, now)

    def _watch(self, left: float, now: float) -> None:
        """Look again when something is due, and from time to time: the clock may be set, and the machine suspended."""
        due = left if self._is_announced else left - EXPIRY_NOTICE_S
        self._wheel.watch(self, now + min(max(due, 0.0), CLOCK_CHECK_S))


@final
class _WaitingHello:
    """ClientHello whose answer waits for a certificate. `received`: all bytes of the client."""

    __slots__ = ("contexts", "received")

    def __init__(self, contexts: ServerContexts, received: bytes) -> None:
        self.contexts, self.received = contexts, bytearray(received)


@final
class TlsConnection(TlsTransport):
    """A client connection over TLS.

    It is counted in the node's limits before the handshake, because the handshake is expensive.
    """

    __slots__ = (
        "_address_limit",
        "_admitted",
        "_greeting",
        "_limit",
        "_local",
        "_server",
        "_server_name",
        "_trusts",
        "_until",
        "_vouched",
        "_waiting",
        "listener",
        "peer",
    )

    def __init__(
        self, server: "Server", fd: int, listener: "Listener", peer: Peer, local: tuple[str, int] | None = None
    ) -> None:
        """`local`: the address that the client has connected to, if it is not that of the socket."""
        super().__init__(server.worker_loop, fd)
        self._local = local
        self._server_name = ""  # requested by the client
        self.listener = listener
        self.peer = peer
        self._server = server
        self._limit: _Limit | _CertificateExpiry | None = None  # of the handshake; then of what it has verified
        self._greeting: HelloReader | None = None
        self._admitted = False
        self._address_limit: AddressLimit | None = None
        self._trusts, self._vouched = listener.trusts, b""
        self._until = inf  # see `ServerContexts`, as of the start of the handshake
        self._waiting: _WaitingHello | None = None  # for an on-demand certificate

    def __repr__(self) -> str:
        return f"<TlsConnection {self.peer.ip} {self.stage.name} {self.protocol!r}>"

    def begin_tls(self) -> None:
        """Count the connection in the node's limits, and wait for its ClientHello."""
        server = self._server
        server.handshakes.add(self)
        address_limit = server.address_limit_for(self.listener, self.peer.ip)
        if server.admit(self.peer.ip, address_limit) is not None:
            self._fail(HandshakeOutcome.SHED)  # a response would require a handshake
            return
        self._admitted, self._address_limit = True, address_limit
        server.idle.put_last(self)
        tls = self.listener.tls
        wheel = server.worker_loop.wheel
        self._limit = _Limit(self)
        wheel.watch(self._limit, wheel.now + (tls.settings.handshake_timeout if tls is not None else 0.0))

    # the handshake

    def _received_early(self, received: memoryview) -> None:
        if self.stage is not SILENT:
            self._do_handshake(received)
        elif self._waiting is not None:
            self._waiting.received += received
            if len(self._waiting.received) > 2 * LONGEST_HELLO:  # nothing follows a ClientHello before the answer
                self._fail(HandshakeOutcome.PROTOCOL_ERROR, "data before the handshake")
        elif self._greeting is not None:
            self._read_greeting(self._greeting, received)
        else:
            self._read_first_bytes(bytes(received))

    def _read_first_bytes(self, received: bytes) -> None:
        if self.listener.tls is None or received[0] != HANDSHAKE:
            self._answer_plain(received)
            return
        tcp = self.listener.tcp
        passes_some = tcp is not None and tcp.passes_some
        self._greeting = HelloReader(LONGEST_MESSAGE if passes_some else LONGEST_HELLO)
        self._read_greeting(self._greeting, received)

    def _reject_hello(self, why: str, alert: bytes) -> None:
        if alert:
            SocketTransport.write(self, alert)
        self._fail(HandshakeOutcome.PROTOCOL_ERROR, why)

    def _read_greeting(self, greeting: HelloReader, chunk: bytes | memoryview) -> None:
        """Pass the connection through or start the handshake, once its ClientHello was read as strictly as where all
        names are passed through. Until then it costs little more than its bytes.
        """
        try:
            hello = greeting.feed(chunk)
        except InvalidHello as invalid:
            self._reject_hello(str(invalid), b"" if invalid.alert is None else invalid.alert.record)
            return
        if hello is None:
            return
        self._greeting = None
        tcp = self.listener.tcp
        route = None if tcp is None else tcp.find(hello)
        if route is not None and route.passes_through:
            self._pass_through(greeting, hello)
        elif greeting.message_bytes > LONGEST_HELLO:
            self._reject_hello(f"the ClientHello is longer than {LONGEST_HELLO} bytes", Alert.DECODE_ERROR.record)
        else:
            self._answer_hello(hello, bytes(greeting.received))

    def _pass_through(self, greeting: HelloReader, hello: ClientHello) -> None:
        """Give the socket to a relay."""
        self._server.handshake_done(self)
        self._admitted = False  # the permits belong to the relay now
        self._shut()
        relay = TcpConnection(self._server, self.listener, self.peer, self._local)
        relay.accept_hello(self.detach(), self._address_limit, greeting, hello)

    def _answer_hello(self, hello: ClientHello, received: bytes) -> None:
        """Answer a ClientHello. An empty one: OpenSSL decides. `received`: its bytes."""
        self._server_name = hello.server_name
        tls = self.listener.tls
        if tls is None:  # since the first bytes
            self._answer_plain(received)
            return
        challenges = self._server.acme_contexts
        if challenges and ACME_TLS in hello.protocols:
            self._answer_challenge(challenges.get(self._server_name), received)
            return
        self._speak(tls, hello.protocols, received)

    def _speak(self, tls: ServerContexts, protocols: Collection[bytes], received: bytes) -> None:
        """Begin the handshake if the client offers a protocol of the listener, or none at all, and once its certificate
        is there.
        """
        if protocols and self.listener.tcp is None and not self._speaks_one_of(protocols):
            SocketTransport.write(self, NO_APPLICATION_PROTOCOL)  # OpenSSL would continue without a protocol
            spoken = " or ".join(tls.alpn)
            self._fail(HandshakeOutcome.NO_AGREEMENT, f"the client does not offer {spoken} by ALPN")
            return
        if tls.settings.on_demand and self._server_name and self._server_name not in tls.names:
            certificates = self._server.on_demand
            answer = NameDecision.FIRST if certificates is None else certificates.find(tls, self._server_name, self)
            if answer is NameDecision.WAIT:
                self._waiting = _WaitingHello(tls, received)
                return
            if answer is NameDecision.REFUSE:
                self._refuse_name()
                return
        self._present(tls, received)

    def _present(self, tls: ServerContexts, received: bytes) -> None:
        """Begin the handshake with the certificate for the client's name."""
        self._trusts, self._vouched = self.listener.trusts, tls.vouches
        self._until = tls.until
        memory = self.memory
        self._begin_handshake(
            tls.entry(received).wrap_bio(memory.incoming, memory.outgoing, server_side=True), received
        )

    def proceed(self, answer: NameDecision) -> None:
        """Continue a handshake that has waited for its certificate."""
        waiting, self._waiting = self._waiting, None
        if waiting is None or self.stage is not SILENT:
            return
        if answer is NameDecision.PRESENT:
            self._present(waiting.contexts, bytes(waiting.received))
        else:
            self._refuse_name()

    def _refuse_name(self) -> None:
        SocketTransport.write(self, Alert.UNRECOGNIZED_NAME.record)
        self._fail(HandshakeOutcome.NAME_UNRECOGNIZED, "there is no certificate for the requested name yet")

    def _answer_challenge(self, context: ssl.SSLContext | None, received: bytes) -> None:
        """Begin the handshake of an ACME issuer (RFC 8737), after which the connection ends."""
        if context is None:
            SocketTransport.write(self, NO_APPLICATION_PROTOCOL)
            self._fail(HandshakeOutcome.NO_AGREEMENT, "no ACME challenge is in progress for this name")
            return
        memory = self.memory
        self._begin_handshake(context.wrap_bio(memory.incoming, memory.outgoing, server_side=True), received)

    def _speaks_one_of(self, offered: Collection[bytes]) -> bool:
        listener = self.listener
        return (listener.speaks_http2 and b"h2" in offered) or (
            listener.speaks_http1 and not _HTTP1.isdisjoint(offered)
        )

    def _answer_plain(self, received: bytes) -> None:
        """Refuse a client that does not speak TLS.

        A client that uses HTTP gets an HTTP response.
        """
        is_http = received[0] in TOKEN_START and spoken_protocol(received) != PROXY_PROTOCOL
        if not is_http or self.listener.tcp is not None:
            self._fail(HandshakeOutcome.PROTOCOL_ERROR, not_begun_with("a TLS handshake", received))
            return
        peer = Peer(self.peer.ip, self.peer.port, self.peer.server_port, self.peer.trusted)
        plain = Http1ClientConnection(self._server, self.listener, peer)
        self._server.handshake_done(self)
        self._admitted, self.stage = False, CLOSED
        self._drop_limit()
        transport = SocketTransport(self.worker_loop, self.detach())
        transport.protocol = plain
        plain.attach_transport(transport, self._address_limit)
        plain.refuse(Fault.TLS_REQUIRED, received)

    def _handshake_completed(self, last: bytes) -> None:
        if self._tls.selected_alpn_protocol() == acme_challenges.PROTOCOL:
            self._end_challenge(last)
            return
        certificate = self._certificate()
        # OpenSSL verifies nothing when a session is resumed, and ignores those of certificates that have expired before
        # the handshake. The new ticket that it has created is not sent.
        if certificate is not None and self._tls.session_reused:
            now = time()
            if (expired := certificate.expires_date < now) or self._until <= now:
                if expired and self.listener.tls is not None:
                    self.listener.tls.forget_sessions()
                what = "certificate has" if expired else "authority or revocation list has"
                self._fail(HandshakeOutcome.CERTIFICATE_REFUSED, f"the {what} expired since the session began")
                return
        self._send(last)
        self._drop_limit()
        server = self._server
        server.handshake_done(self)
        server.shaken[HandshakeOutcome.RESUMED if self._tls.session_reused else HandshakeOutcome.FULL] += 1
        self.peer.certificate = certificate
        cipher = self._tls.cipher()
        self.peer.tls = TlsParameters(self._tls.version() or "", cipher[0] if cipher else "", self._server_name)
        self._admitted = False  # the permits belong to the protocol above now
        if self.listener.tcp is not None:
            connection = TcpConnection(server, self.listener, self.peer, self._local)
            end = RelayEnd(server.worker_loop, connection)
            self._open(end)
            end.connection_made(self)
            connection.accept_tls(end, self._address_limit, self._tls, self._server_name, self._vouched)
            self._read_early()
            return
        above: Http1ClientConnection | Http2ClientConnection
        if self._tls.selected_alpn_protocol() == "h2" or not self.listener.speaks_http1:
            above = Http2ClientConnection(server, self.listener, self.peer)
        else:
            above = Http1ClientConnection(server, self.listener, self.peer)
        self._open(above)
        above.attach_transport(self, self._address_limit)
        above.trust_as_of(self._trusts, self._vouched)
        if certificate is not None:
            self._limit = _CertificateExpiry(above, certificate.expires_date, server.worker_loop.wheel)
        self._read_early()

    def _end_challenge(self, last: bytes) -> None:
        """End a connection that has shown the certificate of an ACME challenge."""
        self._send(last)
        self._shut()
        server = self._server
        server.handshake_done(self)
        server.shaken[HandshakeOutcome.FULL] += 1
        self._admitted = False
        server.release(self.peer, self._address_limit)
        SocketTransport.close(self)

    def _certificate(self) -> ClientCertificate | None:
        der = self._tls.getpeercert(binary_form=True)
        if der is None:
            return None
        return ClientCertificate.of(der, cast(Any, self._tls.getpeercert()))

    def _not_shaken(self, error: OSError | None) -> None:
        if isinstance(error, ssl.SSLError):
            self._fail(*_outcome_of(error))
        else:
            self._fail(HandshakeOutcome.CLIENT_LEFT)

    def _fail(self, outcome: HandshakeOutcome, why: str = "") -> None:
        """End a connection whose handshake has failed: no protocol above has it."""
        if self.stage < OPEN:
            self._shut()
            server = self._server
            server.handshake_done(self)
            if self._admitted:
                self._admitted = False
                server.release(self.peer, self._address_limit)
            server.handshake_failed(self.listener, self.peer, outcome, why)
            if outcome is HandshakeOutcome.TIMEOUT or outcome is HandshakeOutcome.SHED:
                SocketTransport.abort(self)
            else:
                SocketTransport.close(self)  # an alert may be in transit

    def give_up(self, outcome: HandshakeOutcome = HandshakeOutcome.SHED) -> None:
        """End a handshake that is in progress."""
        self._fail(outcome)

    def close_idle(self) -> bool:
        """End the handshake, to make room for another connection (`Idler`)."""
        if self.stage >= OPEN or unread_in_kernel(self.fd):
            return False
        self._fail(HandshakeOutcome.SHED)
        return True

    def _shut(self) -> None:
        super()._shut()
        self._drop_limit()
        if self._waiting is not None and self._server.on_demand is not None:
            self._waiting = None
            self._server.on_demand.leave(self._server_name, self)

    def _drop_limit(self) -> None:
        limit, self._limit = self._limit, None
        if limit is not None:
            self.worker_loop.wheel.drop(limit)

    # data after the handshake

    def _cut_off(self) -> None:
        """Handle a missing `close_notify`. Clients often omit it: requests declare their length, so a truncation is
        always detected, and connections of other protocols are logged with it.
        """
        above = self.protocol
        assert above is not None
        self._peer_ended = self.is_truncated = True
        if not above.eof_received():
            self.close()

    def _flooded(self, why: str) -> None:
        text = f"listener {self.listener.name}: TLS with {self.peer.ip} is cut off: {why}"
        self._server.complain(OperatorEvent.TLS_HANDSHAKE_FAILED, text, why)
        self._lose_connection(None)


def _outcome_of(error: ssl.SSLError) -> tuple[HandshakeOutcome, str]:
    reason = text_of(error)
    outcome = _BY_REASON.get(error.reason or "")
    if outcome is None:
        outcome = HandshakeOutcome.CLIENT_REFUSED if "alert" in reason else HandshakeOutcome.PROTOCOL_ERROR
    if isinstance(error, ssl.SSLCertVerificationError):
        return outcome, error.verify_message
    return outcome, reason
