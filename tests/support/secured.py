"""TLS clients."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar, cast

from cryptography import x509

from tests.support.client import Client, Response

T = TypeVar("T")
REQUEST = b"GET /%s HTTP/1.1\r\nHost: a.test\r\n\r\n"


class Secured(Client):
    """A client after its handshake. `first`: bytes before it."""

    sock: ssl.SSLSocket

    def __init__(
        self,
        address: str,
        tls: ssl.SSLContext,
        name: str | None = "a.test",
        session: ssl.SSLSession | None = None,
        first: bytes = b"",
    ) -> None:
        super().__init__(address)
        try:
            self.sock.sendall(first)
            self.sock = tls.wrap_socket(self.sock, server_hostname=name, session=session)
        except BaseException:
            self.close()
            raise

    def ask(self, path: bytes = b"") -> Response:
        return self.exchange(REQUEST % path)

    def session(self) -> ssl.SSLSession:
        """Session to resume. TLS 1.3 sends tickets after the handshake: they have arrived when a response has."""
        self.ask()
        assert self.sock.session is not None
        return self.sock.session

    @property
    def serial(self) -> int:
        """Serial number of the gateway's certificate."""
        shown = self.sock.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number


def client_hello(
    *protocols: str, name: str | None = "a.test", highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> bytes:
    """Return a ClientHello of OpenSSL in one record. `name`: of the server; None: it has none."""
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.maximum_version = highest
    if protocols:
        tls.set_alpn_protocols(list(protocols))
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


class InMemory:
    """TLS over a plain socket, with a socket's interface: it can end one direction alone, and distinguishes an end from
    a truncation.
    """

    def __init__(self, plain: socket.socket, tls: ssl.SSLContext, name: str | None = "a.test") -> None:
        """Wrap a socket. `name`: of the server; None: this is the server."""
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls.wrap_bio(self._incoming, self._outgoing, name is None, name)
        self.family = plain.family
        self._run(self.tls.do_handshake)

    def _run(self, step: Callable[[], T]) -> T:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._flush()
                received = self._plain.recv(65_536)
                if not received:
                    raise Cut from None
                self._incoming.write(received)
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        if sealed := self._outgoing.read():
            self._plain.sendall(sealed)

    def sendall(self, data: bytes) -> None:
        for at in range(0, len(data), 65_536):
            self._send(data[at : at + 65_536])

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        self._flush()

    def recv(self, most: int) -> bytes:
        """Receive bytes; b"" after `close_notify`. Raises `Cut` on an end without it."""
        try:
            return self._run(lambda: self.tls.read(most))
        except ssl.SSLZeroReturnError:
            return b""

    def shutdown(self, how: int) -> None:
        """SHUT_WR: send `close_notify`, and continue to read."""
        if how == socket.SHUT_WR:
            self.notify_end()
        self._plain.shutdown(how)

    def notify_end(self) -> None:
        """Send `close_notify`, without a FIN behind it."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._flush()

    def settimeout(self, seconds: float) -> None:
        self._plain.settimeout(seconds)

    def setsockopt(self, *option: Any) -> None:
        self._plain.setsockopt(*option)

    def fileno(self) -> int:
        return self._plain.fileno()

    def close(self) -> None:
        self._plain.close()


class Cut(ConnectionError):
    """The connection ended without `close_notify`."""


def in_memory(address: str, tls: ssl.SSLContext) -> Client:
    """Return a client that can end one direction alone."""
    client = Client(address)
    try:
        client.sock = cast(Any, InMemory(client.sock, tls))
    except BaseException:
        client.close()
        raise
    return client
