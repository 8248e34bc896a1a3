"""TLS of a connection to a target: the client handshake. After it `eventloop.tls_transport` takes over.

The protocol above is connected when the handshake is complete. From then on only `close_notify` (RFC 8446 section 6.1)
counts as a proper end: anyone on the network path can end a TCP connection, and the data before would look complete.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, final

from fastgw.eventloop.socket_transport import SocketTransport, StreamProtocol
from fastgw.eventloop.tls_transport import TlsTransport, text_of
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.targets.tls import ClientContext, Resuming

_PLAIN: Final = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG"))
"""Errors of OpenSSL for a response that is not TLS."""


class TlsBroken(ConnectionError):
    """TLS has ended the connection: by an alert, a violation, or the lack of a proper end. The text is for the log."""


@final
class TlsClientTransport(TlsTransport):
    """Connection that begins its handshake at once (`begin_tls`)."""

    __slots__ = ("_client_for", "_done", "_http1", "_is_v1_2", "_name", "lost_by", "resuming")

    def __init__(
        self,
        worker_loop: WorkerLoop,
        fd: int,
        resuming: Resuming,
        name: str,
        client_for: Callable[[str | None], StreamProtocol],
        http1: bool = False,
    ) -> None:
        """`client_for`: returns the protocol above, for what ALPN has selected, or raises `ConnectionError`. `http1`:
        HTTP/1.1 alone is offered to a target that negotiates the version. `name`: the server name that is sent (SNI)
        and that the certificate has to be valid for.
        """
        super().__init__(worker_loop, fd)
        self.resuming = resuming
        self._name = name
        self._http1 = http1
        self._client_for: Callable[[str | None], StreamProtocol] | None = client_for
        self._done: asyncio.Future[OSError | StreamProtocol] | None = None
        self._is_v1_2 = False
        self.lost_by = ""
        """Reason of the end, if it was an alert or a violation of TLS. For the log."""

    def __repr__(self) -> str:
        return f"<TlsClientTransport {self._name} {self.stage.name}>"

    def remember(self) -> None:
        """Store the session after a response: further connections may resume it."""
        self.resuming.remember(self._tls)

    def begin_tls(self, done: "asyncio.Future[OSError | StreamProtocol]") -> None:
        """Send the ClientHello.

        `done`: the protocol above once the handshake is complete, or the reason of its failure. It never gets an
        exception, whose traceback would be a reference cycle.
        """
        self._done = done
        memory = self.memory
        self._begin_handshake(self.resuming.wrap_bio(memory.incoming, memory.outgoing, self._name, self._http1))

    def _received_early(self, received: memoryview) -> None:
        self._do_handshake(received)

    def _handshake_completed(self, last: bytes) -> None:
        self._send(last)
        client_for, self._client_for = self._client_for, None
        assert client_for is not None
        context = self._tls.context
        try:
            if isinstance(context, ClientContext) and context.names:
                context.check_names(self._tls)
            client = client_for(self._tls.selected_alpn_protocol())
        except (ssl.SSLCertVerificationError, ConnectionError) as error:
            self._shut()
            SocketTransport.close(self)
            self._set_result(error)
            return
        self._is_v1_2 = self._tls.version() == "TLSv1.2"
        self._open(client)
        client.connection_made(self)
        self._set_result(client)
        self._read_early()

    def _not_shaken(self, error: OSError | None) -> None:
        self._shut()
        SocketTransport.close(self)  # an alert may be in transit
        if error is None or isinstance(error, ConnectionError):
            error = ConnectionResetError("the target has closed the connection")
        elif isinstance(error, ssl.SSLError) and error.reason in _PLAIN:
            error = ConnectionError(f"the target does not speak TLS on this port ({error.reason})")
        self._set_result(error)

    def _set_result(self, outcome: OSError | StreamProtocol) -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_result(outcome)

    def _shut(self) -> None:
        super()._shut()
        self._client_for = None

    def _note(self, error: Exception | None) -> None:
        if self._own_answers and self._is_v1_2:  # otherwise it sends nothing by itself
            self.lost_by = "the target asked for another handshake (renegotiation), which is refused"
        elif isinstance(error, ssl.SSLError):
            # In TLS 1.3 a target verifies the client certificate only after the handshake (RFC 8446 section 4.4.3).
            self.lost_by = text_of(error)
        elif isinstance(error, TlsBroken):
            self.lost_by = str(error)

    def _cut_off(self) -> None:
        self._lose_connection(TlsBroken("the connection was closed without close_notify"))

    def _flooded(self, why: str) -> None:
        self._lose_connection(TlsBroken(why))

    def read_rest(self, buffer: memoryview) -> int:
        sealed = b""
        while True:
            try:
                return self._decrypt_rest(sealed, buffer)
            except ssl.SSLWantReadError:
                read = memoryview(bytearray(len(buffer)))
                sealed = bytes(read[: super().read_rest(read)])
                if not sealed:
                    raise

    def _decrypt_rest(self, sealed: bytes, buffer: memoryview) -> int:
        """Decrypt remaining data of a lost connection into `buffer`; 0 = the target had closed it properly.

        `sealed`: more encrypted data. Raises `ssl.SSLWantReadError` if more of it is needed.
        """
        incoming = self.memory.incoming
        incoming.write(self._kept + sealed)
        try:
            count: int = self._session.read(len(buffer), buffer)
            return count
        except ssl.SSLZeroReturnError:
            return 0
        finally:
            self._kept = incoming.read()
            self.memory.outgoing.read()
