"""Requests over TLS 1.3 through the data plane, in memory: as `exchange` and `http2`, from a client over TLS.

The client's encryption of each request is counted as well; it decrypts no response, except before the measurement.
"""

import socket
import ssl
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.micro.exchange import Messages, Plane, Transport, configuration
from bench.micro.heads import ANSWERS, REQUESTS
from bench.micro.http2 import ACKNOWLEDGED, SETTINGS, WINDOW, Http2Plane, Turn, frames
from bench.micro.timing import Room
from bench.scenarios.tls import FASTGW, prepare
from fastgw.downstream import Listener, Server
from fastgw.downstream.tls.connection import TlsConnection
from fastgw.eventloop.socket_poller import READABLE
from fastgw.forwarded_headers import Peer
from fastgw.http.http2.session import PREFACE


class Sent:
    """What the gateway has sent on a socket. `far`: its other end."""

    def __init__(self, far: socket.socket) -> None:
        self._far = far

    def clear(self) -> bytes:
        """Take all, and return it."""
        try:
            return self._far.recv(1 << 20)
        except BlockingIOError:
            return b""


class SecureTransport(Transport):
    """Connection with a client that speaks TLS. `near`: the gateway's end, on a real socket."""

    def __init__(self, server: Server, listener: Listener, protocols: Sequence[str]) -> None:
        near, self._far = socket.socketpair()
        for end in (near, self._far):
            end.setblocking(False)
        weakref.finalize(self, self._far.close)
        self.written = Sent(self._far)
        self.near = TlsConnection(server, near.detach(), listener, Peer("192.0.2.1", 40_000, 443, False))
        self.near.begin_tls()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(protocols)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)

    def shake(self) -> None:
        """Complete the handshake."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send()
                self._take()
            else:
                self._send()
                return

    def receive(self, message: bytes) -> None:
        self._tls.write(message)
        self._send()

    def _send(self) -> None:
        self._far.send(self._outgoing.read())
        self.near.ready(READABLE)

    def decrypted(self) -> bytes:
        """Take what was written, and return its data."""
        self._take()
        data = b""
        try:
            while chunk := self._tls.read(65_536):
                data += chunk
        except ssl.SSLWantReadError:
            pass
        return data

    def _take(self) -> None:
        self._incoming.write(self.written.clear())


class TlsPlane(Plane):
    """Data plane with a client over TLS."""

    client: SecureTransport
    protocols: Sequence[str] = ("http/1.1",)
    """Offered by the client."""

    def _accepted(self) -> SecureTransport:
        assert self._gateway is not None
        client = SecureTransport(self._server, self._gateway.listeners[0], self.protocols)
        client.shake()
        return client

    def connect(self, request: bytes, response: bytes) -> None:
        super().connect(request, response)
        self.client = self._accepted()  # the other one has not decrypted the response

    def prove(self, messages: Messages) -> None:
        def see() -> None:
            for request, answer in messages:
                self.client.receive(request)
                self.upstream.receive(answer)
                assert answer.partition(b"\r\n\r\n")[2] in self.client.decrypted()
                self.upstream.written.clear()

        self.turn(see)


class Http2TlsPlane(TlsPlane, Http2Plane):
    """Data plane with an HTTP/2 client over TLS."""

    def speak(self) -> None:
        self.protocols = ("h2",)
        self.turn(self._begin)
        self.turn(lambda: self.client.receive(PREFACE + SETTINGS + WINDOW))
        self.turn(lambda: self.client.receive(ACKNOWLEDGED))
        self.connection = self.client.near.protocol
        self._next = 1

    def _begin(self) -> None:
        self.client = self._accepted()

    def prove_turns(self, turns: Sequence[Turn]) -> None:
        self.prove([(b"".join(map(self.frame, requests)), answer) for requests, (answer,) in turns])


def rooms() -> Iterator[Room]:
    gets = list(zip(REQUESTS, ANSWERS, strict=True))
    simple = b"GET /svc1/echo HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nuser-agent: h2load nghttp2/1.52.0\r\n\r\n"
    first, later = frames(simple, secure=True)
    turns = [([later], [answer]) for answer in ANSWERS[:1000]]
    configured = {**configuration(), "listeners": {"public": {"address": "127.0.0.1:0", **FASTGW["listener"]}}}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "gateway")
        folder.mkdir()
        prepare(Path(scratch))
        with closing(TlsPlane(folder, configured)) as plane:
            plane.connect(*gets[0])
            plane.prove(gets[:10])
            yield Room("a GET over TLS", plane.exchange, gets, plane.turn)
        with closing(Http2TlsPlane(folder, configured)) as speaking:
            speaking.connect(*gets[0])
            speaking.speak()
            speaking.prove_turns([([first], ANSWERS[:1]), *turns[:10]])
            yield Room("a GET over HTTP/2 over TLS", speaking.exchange_turn, turns, speaking.turn)
