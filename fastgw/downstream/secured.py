"""One TLS connection of a client: the protocol of a plain transport, and the transport of a `Downstream`.

uvloop's own TLS is not used. It cannot end one direction and go on in the other, which tunnels and early answers need;
it holds a buffer of 256 KiB for each connection; and who speaks no TLS at all cannot be answered any more. Here OpenSSL
works on memory, its bytes go out in the turn in which they come about, and what is read lies in one buffer for all.

Rule 1: a connection is told of only when its handshake is done; until then nobody but the server knows it. Rule 2: what
OpenSSL has to say is sent before anything else happens.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from math import inf
from time import time
from typing import TYPE_CHECKING, Any, Final, cast, final

from fastgw.downstream.connection import TOKEN_START, Downstream
from fastgw.errors import Fault
from fastgw.forwarded import Peer
from fastgw.node.limits import AddressLimit
from fastgw.node.sending import send, send_at_once
from fastgw.node.timers import Timed
from fastgw.wire.certificate import ClientCertificate
from fastgw.wire.client_hello import (
    DECODE_ERROR,
    HANDSHAKE,
    LONGEST_RECORD,
    NO_APPLICATION_PROTOCOL,
    HelloBuffer,
    protocols_offered,
)
from fastgw.wire.malformed import Malformed

if TYPE_CHECKING:
    from fastgw.downstream.server import Listener, Server

SPOKEN: Final = frozenset((b"http/1.1", b"http/1.0"))
"""Of the protocols that a client may offer; one that offers none speaks what is spoken on the port."""


_Read = Callable[[int, memoryview], int]
"""`SSLObject.read` into a buffer."""


class Outcome(IntEnum):
    """How a handshake ended: what is counted, in the places of shared memory."""

    FULL = 0
    RESUMED = 1
    TIMEOUT = 2
    """It was not done in time."""
    CLIENT_LEFT = 3
    """The connection ended first."""
    CLIENT_REFUSED = 4
    """The client said that it does not want our certificate, or something else of ours."""
    NO_AGREEMENT = 5
    """There is no version, cipher or group that both sides want."""
    CERTIFICATE_MISSING = 6
    """The client has shown no certificate, and has to."""
    CERTIFICATE_REFUSED = 7
    """The client's certificate is not valid, revoked, or of another authority."""
    PROTOCOL_ERROR = 8
    """That was no TLS, or broken."""
    SHED = 9
    """A limit of connections was reached, or the gateway stops."""


_BY_REASON: Final = {
    "CERTIFICATE_VERIFY_FAILED": Outcome.CERTIFICATE_REFUSED,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Outcome.CERTIFICATE_MISSING,
    "NO_SHARED_CIPHER": Outcome.NO_AGREEMENT,
    "NO_SUITABLE_KEY_SHARE": Outcome.NO_AGREEMENT,
    "NO_SHARED_SIGNATURE_ALGORITHMS": Outcome.NO_AGREEMENT,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": Outcome.NO_AGREEMENT,
    "NO_SHARED_GROUPS": Outcome.NO_AGREEMENT,
    "UNSUPPORTED_PROTOCOL": Outcome.NO_AGREEMENT,
    "VERSION_TOO_LOW": Outcome.NO_AGREEMENT,
    "UNEXPECTED_EOF_WHILE_READING": Outcome.CLIENT_LEFT,
}
"""What OpenSSL says of a handshake that failed. An alert of the client's is `CLIENT_REFUSED`; the rest broken."""


OWN_ANSWERS: Final = 1024
"""Bytes that TLS may answer by itself on a connection, some 40 key updates, besides a 64th of the data that comes.

PERF: 1,200 key updates in one read held up all other clients of a worker for 100 ms and more (OpenSSL 3.0).
"""


class Stage(IntEnum):
    SILENT = 1  # nothing has come yet
    HELLO = 2  # part of a ClientHello has come
    SHAKING = 3
    OPEN = 4
    CLOSING = 5  # what is written is sent, then it closes
    CLOSED = 6


SILENT, HELLO, SHAKING, OPEN, CLOSING, CLOSED = Stage


@final
class Secured(asyncio.BufferedProtocol, Timed):
    """It takes its place in the node's limits before the handshake, which is what costs."""

    __slots__ = (
        "_above",
        "_address_limit",
        "_admitted",
        "_below",
        "_below_paused",
        "_buffer",
        "_end_due",
        "_ended",
        "_fd",
        "_got",
        "_hello",
        "_incoming",
        "_outgoing",
        "_own_answers",
        "_paused",
        "_peer_ended",
        "_read",
        "_server",
        "_tls",
        "_trusts",
        "_unread",
        "_until",
        "_vouched",
        "_write",
        "listener",
        "peer",
        "stage",
    )

    def __init__(self, server: "Server", listener: "Listener", peer: Peer) -> None:
        Timed.__init__(self)
        self.listener = listener
        self.peer = peer
        self.stage = SILENT
        self._server = server
        self._above: Downstream | None = None
        self._below: asyncio.Transport = None  # type: ignore[assignment]  # set before anything else is called
        self._fd = -1
        self._buffer = server.ground.sealed_buffer
        self._tls: ssl.SSLObject = None  # type: ignore[assignment]  # set with the whole ClientHello
        self._hello: HelloBuffer | None = None
        self._incoming = self._outgoing = _NOWHERE
        self._admitted = False
        self._address_limit: AddressLimit | None = None
        self._paused = False
        self._got = 0  # bytes of data
        self._own_answers = 0  # bytes of what TLS has answered of its own accord
        self._unread = False  # something has come that was not deciphered when reading was paused
        self._trusts, self._vouched = listener.trusts, b""
        self._until = inf  # see `ServerContexts`, by which the handshake began
        self._below_paused = False
        self._peer_ended = False
        self._ended = False
        self._end_due = False  # as soon as what has come is read

    def __repr__(self) -> str:
        return f"<Secured {self.peer.ip} {self.stage.name} {self._above!r}>"

    # what the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = transport = cast(asyncio.Transport, transport)
        self._fd = transport.get_extra_info("socket").fileno()
        transport.set_write_buffer_limits(high=0)
        server = self._server
        server.handshakes.add(self)
        if server.admit(self.peer) is not None:
            self._fail(Outcome.SHED)  # an answer would cost a handshake
            return
        self._admitted, self._address_limit = True, server.address_limit
        tls = self.listener.tls
        wheel = server.ground.wheel
        wheel.watch(self, wheel.now + (tls.settings.handshake_timeout if tls is not None else 0.0))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.stage is OPEN:
            self._incoming.write(self._buffer[:nbytes])
            got = self._got
            self._decipher()
            # What brings no data (key updates, alerts) costs much more to read than data does.
            ground = self._server.ground
            self._buffer = ground.sealed_buffer if 2 * (self._got - got) >= nbytes else ground.small_sealed_buffer
        elif self.stage is SILENT:
            self._begin(bytes(self._buffer[:nbytes]))
        elif self.stage is HELLO:
            self._read_hello(bytes(self._buffer[:nbytes]))
        elif self.stage is SHAKING:
            self._incoming.write(self._buffer[:nbytes])
            self._shake()

    def eof_received(self) -> bool:
        above = self._above
        if above is None:
            self._fail(Outcome.CLIENT_LEFT)
            return False
        if self._peer_ended:  # it said so before, within TLS
            return True
        self._peer_ended = True
        goes_on = above.eof_received()
        if not goes_on:
            self.close()
        return goes_on

    def connection_lost(self, exc: Exception | None) -> None:
        above, self._above = self._above, None
        if above is not None:
            self._shut()
            above.connection_lost(exc)
        elif self.stage < OPEN:
            self._fail(Outcome.CLIENT_LEFT)

    def pause_writing(self) -> None:
        self._below_paused = True
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        self._below_paused = False
        if self._above is not None:
            self._above.resume_writing()

    def expire(self, now: float) -> None:
        if self.stage < OPEN:
            self._fail(Outcome.TIMEOUT)

    # the handshake

    def _begin(self, received: bytes) -> None:
        if self.listener.tls is None or received[0] != HANDSHAKE:
            self._answer_plain(received)
            return
        self.stage = HELLO
        self._hello = HelloBuffer()
        self._read_hello(received)

    def _read_hello(self, chunk: bytes) -> None:
        """Begin the handshake once the whole ClientHello is here: until then it costs little more than its bytes."""
        hello, tls = self._hello, self.listener.tls
        assert hello is not None
        try:
            if not hello.feed(chunk):
                return
        except Malformed as malformed:
            send_at_once(self._fd, DECODE_ERROR)
            self._fail(Outcome.PROTOCOL_ERROR, malformed.reason)
            return
        received, self._hello = bytes(hello.received), None
        if tls is None:  # since the first bytes came
            self._answer_plain(received)
            return
        offered = protocols_offered(hello.message())
        if offered is not None and not SPOKEN.intersection(offered):
            send_at_once(self._fd, NO_APPLICATION_PROTOCOL)  # OpenSSL would go on without a protocol
            self._fail(Outcome.NO_AGREEMENT, "the client does not offer HTTP/1.1")
            return
        self.stage = SHAKING
        self._trusts, self._vouched = self.listener.trusts, tls.vouches
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.entry(received).wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._until = tls.until
        self._incoming.write(received)
        self._shake()

    def _answer_plain(self, received: bytes) -> None:
        """It does not speak TLS. Who speaks HTTP is told so; who speaks something else would not understand."""
        if received[0] not in TOKEN_START:
            self._fail(Outcome.PROTOCOL_ERROR, "the first bytes are no TLS")
            return
        peer = Peer(self.peer.ip, self.peer.port, self.peer.server_port, self.peer.trusted)
        plain = Downstream(self._server, self.listener, peer)
        self._server.shook_hands(self)
        self._admitted, self.stage = False, CLOSED
        self._server.ground.wheel.drop(self)
        self._below.set_protocol(plain)
        plain.take(self._below, self._address_limit)
        plain.refuse(Fault.TLS_REQUIRED, received)

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # an alert, which tells the client why
            self._fail(*_outcome_of(error))
            return
        certificate = self._certificate()
        # OpenSSL verifies nothing of a session that is resumed. The new ticket that it has made is not sent.
        if certificate is not None and self._tls.session_reused:
            now = time()
            if certificate.expires_date < now or self._until <= now:
                what = "certificate has" if certificate.expires_date < now else "authority or revocation list has"
                self._fail(Outcome.CERTIFICATE_REFUSED, f"the {what} expired since the session began")
                return
        self._flush()
        self._open(certificate)

    def _certificate(self) -> ClientCertificate | None:
        der = self._tls.getpeercert(binary_form=True)
        if der is None:
            return None
        return ClientCertificate.of(der, cast(Any, self._tls.getpeercert()))

    def _open(self, certificate: ClientCertificate | None) -> None:
        self.stage = OPEN
        self._server.ground.wheel.drop(self)
        self._read, self._write = cast(_Read, self._tls.read), self._tls.write
        server = self._server
        server.shook_hands(self)
        server.shaken[Outcome.RESUMED if self._tls.session_reused else Outcome.FULL] += 1
        self.peer.certificate = certificate
        self._admitted = False  # from here on its places are those of what stands above
        self._above = above = Downstream(server, self.listener, self.peer)
        above.take(cast(asyncio.Transport, self), self._address_limit)
        above.trust_as_of(self._trusts, self._vouched)
        if self._incoming.pending:
            self._decipher()

    def _fail(self, outcome: Outcome, why: str = "") -> None:
        """There is no connection. Nobody has known of one but the server."""
        if self.stage < OPEN:
            self._shut()
            server = self._server
            server.shook_hands(self)
            if self._admitted:
                self._admitted = False
                server.release(self.peer, self._address_limit)
            server.not_shaken(self.listener, self.peer, outcome, why)
            if outcome is Outcome.TIMEOUT or outcome is Outcome.SHED:
                self._below.abort()
            else:
                self._below.close()  # an alert may be on its way

    def give_up(self) -> None:
        """End a handshake that is under way."""
        self._fail(Outcome.SHED)

    # bytes

    def _decipher(self) -> None:
        """Hand on what has come, for as long as it is wanted."""
        incoming, above = self._incoming, self._above
        assert above is not None
        while not self._paused:
            buffer = above.get_buffer(-1)
            size = len(buffer)
            try:
                count = self._read(size, buffer)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                self._break(error)
                return
            if not count:
                self._end_of_peer(above)
                break
            self._got += count
            above.buffer_updated(count)
            if self.stage is not OPEN:
                return
            if not incoming.pending and (count < size or not self._tls.pending()):
                break
        self._unread = self._paused and bool(incoming.pending or self._tls.pending())
        if self._outgoing.pending and not self._answer_records():
            return
        if self._end_due and not self._unread:
            self._say_end()

    def _answer_records(self) -> bool:
        """Send what TLS itself has to answer. False: that was too much for the data that came, and all is over."""
        self._own_answers += self._outgoing.pending
        if self._own_answers > OWN_ANSWERS + self._got // 64:
            why = "records without data came without end"
            self._server.complain(f"listener {self.listener.name}: TLS with {self.peer.ip} is cut off: {why}", why)
            above, self._above = self._above, None
            self.abort()
            if above is not None:
                above.connection_lost(None)
            return False
        self._flush()
        return True

    def _end_of_peer(self, above: Downstream) -> None:
        """The client has said within TLS that nothing follows."""
        if not self._peer_ended:
            self._peer_ended = True
            if not above.eof_received() and self.stage is OPEN:
                self.close()

    def _flush(self) -> None:
        sealed = self._outgoing.read()
        if sealed and not self._ended:
            send(self._fd, sealed, self._below, self._below_paused)

    def _break(self, error: ssl.SSLError) -> None:
        """What has come is no TLS, or was changed on its way."""
        self._flush()
        above, self._above = self._above, None
        self.abort()
        if above is not None:
            above.connection_lost(error)

    def _shut(self) -> None:
        self.stage = CLOSED
        self._server.ground.wheel.drop(self)

    # the transport of what stands above

    def write(self, message: bytes) -> None:
        if self.stage is not OPEN:
            return
        try:
            if len(message) <= LONGEST_RECORD:
                self._write(message)
            else:
                rest = memoryview(message)
                while rest:
                    rest = rest[self._write(rest) :]
        except ssl.SSLError as error:
            self._server.ground.loop.call_soon(self._break, error)
            return
        self._flush()

    def write_eof(self) -> None:
        """Nothing follows from us. What the client still sends is read all the same."""
        if self._unread or self._incoming.pending or self._tls.pending():
            self._end_due = True  # OpenSSL would stumble over what has come and is not read
        else:
            self._say_end()

    def can_write_eof(self) -> bool:
        return True

    def _say_end(self) -> None:
        self._end_due = False
        if self.stage is OPEN and not self._ended:
            with suppress(ssl.SSLError):  # it would wait for the client's
                self._tls.unwrap()
            self._flush()
            self._ended = True
            self._below.write_eof()

    def close(self) -> None:
        if self.stage is OPEN:
            if not self._ended:
                with suppress(ssl.SSLError):
                    self._tls.unwrap()
                self._flush()
            self.stage = CLOSING
            self._below.close()

    def abort(self) -> None:
        if self.stage is not CLOSED:
            self._shut()
            self._below.abort()

    def is_closing(self) -> bool:
        return self.stage >= CLOSING

    def pause_reading(self) -> None:
        self._paused = True
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if self._unread:
            self._server.ground.loop.call_soon(self._read_on)
        else:
            self._below.resume_reading()

    def _read_on(self) -> None:
        if self.stage is OPEN and not self._paused:
            self._decipher()
            if self.stage is OPEN and not self._paused:
                self._below.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else self._below.get_extra_info(name, default)


_NOWHERE: Final = ssl.MemoryBIO()
"""Before there is anything to read or write."""


def _outcome_of(error: ssl.SSLError) -> tuple[Outcome, str]:
    reason = error.reason or type(error).__name__
    outcome = _BY_REASON.get(reason)
    if outcome is None:
        outcome = Outcome.CLIENT_REFUSED if "ALERT" in reason else Outcome.PROTOCOL_ERROR
    told = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else reason.lower().replace("_", " ")
    return outcome, told
