"""TLS of a connection to a target: the handshake as client. What follows it is `eventloop.tls_transport`.

What stands above is told of the connection when its handshake is done. From then on an end is an end only where the
target says so within TLS (`close_notify`, RFC 8446 section 6.1): anybody on the way can end a TCP connection, and what
came before would look complete.
"""

import asyncio
import ssl
from typing import Final, Protocol, cast, final

from fastgw.eventloop.tls_transport import Above, TlsTransport
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.targets.tls import Resuming

_PLAIN: Final = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG"))
"""Errors of OpenSSL for an answer that is no TLS."""


class TlsBroken(ConnectionError):
    """A connection that its peer has ended in a way that TLS does not know. The text is for the log."""


class Client(Above, Protocol):
    """Protocol of a connection above TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...


@final
class TlsClientTransport(TlsTransport):
    """Begins the handshake as soon as it is connected."""

    __slots__ = ("_client", "_done", "_is_v1_2", "_name", "lost_by", "resuming")

    def __init__(
        self,
        worker_loop: WorkerLoop,
        resuming: Resuming,
        name: str,
        client: Client,
        done: "asyncio.Future[OSError | None]",
    ) -> None:
        """`name`: what the target is asked for by (SNI) and what its certificate has to be for.

        `done`: how the handshake has ended. No exception is put into it: its traceback would lead back here, a circle.
        """
        super().__init__(worker_loop)
        self.resuming = resuming
        self._name = name
        self._client: Client | None = client
        self._done: asyncio.Future[OSError | None] | None = done
        self._is_v1_2 = False
        self.lost_by = ""
        """Reason why it has ended, where that was done within TLS or by a breach of it. For the log."""

    def __repr__(self) -> str:
        return f"<TlsClientTransport {self._name} {self.stage.name}>"

    def remember(self) -> None:
        """An answer has come: further connections may resume this one's session."""
        self.resuming.remember(self._tls)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        memory = self.memory
        self._begin_handshake(self.resuming.wrap_bio(memory.incoming, memory.outgoing, self._name))

    def _received_early(self, received: memoryview) -> None:
        self._shake(received)

    def _shaken(self, last: bytes) -> None:
        self._send(last)
        client, self._client = self._client, None
        assert client is not None
        self._is_v1_2 = self._tls.version() == "TLSv1.2"
        self._open(client)
        client.connection_made(cast(asyncio.BaseTransport, self))
        self._tell(None)
        self._read_early()

    def _not_shaken(self, error: OSError | None) -> None:
        self._shut()
        self._below.close()  # an alert may be on its way
        if error is None or isinstance(error, ConnectionError):
            error = ConnectionResetError("the target has closed the connection")
        elif isinstance(error, ssl.SSLError) and error.reason in _PLAIN:
            error = ConnectionError(f"the target does not speak TLS on this port ({error.reason})")
        self._tell(error)

    def _tell(self, error: OSError | None) -> None:
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_result(error)

    def _shut(self) -> None:
        super()._shut()
        self._client = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._note(exc)
        super().connection_lost(exc)

    def _lose(self, error: Exception | None) -> None:
        self._note(error)
        super()._lose(error)

    def _note(self, error: Exception | None) -> None:
        if self._own_answers and self._is_v1_2:  # which answers nothing else by itself
            self.lost_by = "the target asked for another handshake (renegotiation), which is refused"
        elif isinstance(error, ssl.SSLError) and error.reason:
            # In TLS 1.3 a target judges our certificate only behind the handshake (RFC 8446 section 4.4.3).
            self.lost_by = error.reason.lower().replace("_", " ")
        elif isinstance(error, TlsBroken):
            self.lost_by = str(error)

    def _cut_off(self) -> None:
        self._lose(TlsBroken("the connection was closed without close_notify"))

    def _flooded(self, why: str) -> None:
        self._lose(TlsBroken(why))

    def read_lost(self, sealed: bytes, buffer: memoryview) -> int:
        """Decipher into `buffer` what is left of a connection that was lost; 0 = the target had ended it.

        `sealed`: more of it. Raises `ssl.SSLWantReadError` when there is nothing left without more.
        """
        incoming = self.memory.incoming
        incoming.write(self._kept + sealed)
        try:
            return self._read(len(buffer), buffer)
        except ssl.SSLZeroReturnError:
            return 0
        finally:
            self._kept = incoming.read()
            self.memory.outgoing.read()
