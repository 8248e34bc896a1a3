"""Clients that speak TLS."""

from __future__ import annotations

import ssl

from cryptography import x509

from tests.support.client import Client, Response

REQUEST = b"GET /%s HTTP/1.1\r\nHost: a.test\r\n\r\n"


class Secured(Client):
    """A client that has done its handshake. `first`: bytes before it."""

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
        """To come again with. TLS 1.3 sends tickets behind the handshake: they have come when an answer has."""
        self.ask()
        assert self.sock.session is not None
        return self.sock.session

    @property
    def serial(self) -> int:
        """Of the certificate that the gateway has shown."""
        shown = self.sock.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number
