"""Requests over HTTP/2 through the data plane, in memory: as `exchange`, from a client with one connection.

The client's bytes are prepared: all request heads are alike, so frames differ in their stream id only.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from bench.load.h2load import FIELDS
from bench.micro.exchange import Plane, Transport, configuration
from bench.micro.heads import ANSWERS, REQUESTS
from bench.micro.timing import Room
from fastgw.eventloop.socket_transport import StreamProtocol
from fastgw.http.http2.session import PREFACE, Session
from fastgw.upstream.connections import pool
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target

SETTINGS = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"\x00\x04" + (2**31 - 1).to_bytes(4)
"""The client accepts all bodies (SETTINGS_INITIAL_WINDOW_SIZE)."""
ACKNOWLEDGED = b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"
"""The peer has the settings of the gateway, which credits the window of the connection only then."""
WINDOW = b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + (2**31 - 1 - 65535).to_bytes(4)
HEADERS, DATA = 1, 0
CALL = (
    (
        b"POST /svc1/Echo HTTP/1.1\r\nHost: 127.0.0.1:8080\r\ncontent-type: application/grpc\r\nte: trailers\r\n"
        b"user-agent: grpc-c++/1.62.0\r\ngrpc-accept-encoding: identity, deflate, gzip\r\ncontent-length: 1029\r\n\r\n"
    )
    + b"\x00\x00\x00\x04\x00"
    + b"m" * 1024
)
CALL_ANSWER = (
    (
        b"HTTP/1.1 200 \r\ncontent-type: application/grpc\r\ngrpc-accept-encoding: identity, deflate, gzip\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    + b"\x00\x00\x00\x04\x00"
    + b"m" * 1024
)
CALL_TRAILERS = b"grpc-status: 0\r\ngrpc-message: \r\n"
Turn = tuple[Sequence[bytes], Sequence[bytes]]
"""Frames of the requests in one turn of the loop, and their responses."""


class Http2Plane(Plane):
    """Data plane with an HTTP/2 client."""

    def speak(self) -> None:
        """Start HTTP/2 on a new connection."""
        self.client = self._accepted()
        self.turn(lambda: self.client.receive(PREFACE + SETTINGS + WINDOW))
        self.turn(lambda: self.client.receive(ACKNOWLEDGED))
        self.connection: Any = self.client.protocol
        self._next = 1
        self.client.written.clear()

    def frame(self, frame: bytes) -> bytes:
        """Return the same frame for the next stream."""
        number, self._next = self._next, self._next + 2
        return frame[:5] + number.to_bytes(4) + frame[9:]

    def exchange_turn(self, turn: Turn) -> None:
        frames, answers = turn
        self.client.receive(b"".join(map(self.frame, frames)))
        for answer in answers:
            self.upstream.receive(answer)
        if self.connection._flush_is_due:
            self.connection._flush()
        self.client.written.clear()
        self.upstream.written.clear()

    def prove(self, messages: Any) -> None:
        def see() -> None:
            for frames, answers in messages:
                self.client.receive(b"".join(map(self.frame, frames)))
                for answer in answers:
                    assert self.upstream.written.pop(0).startswith(b"GET /svc")
                    self.upstream.receive(answer)
                    assert answer.partition(b"\r\n\r\n")[2] in b"".join(self.client.written)
                self.client.written.clear()

        self.turn(see)


class GrpcPlane(Http2Plane):
    """Data plane with an HTTP/2 client, and an upstream over HTTP/2."""

    def connect_call(self, request: Sequence[bytes], answer: Sequence[bytes]) -> None:
        """Run the first call, which opens the upstream connection."""

        async def opened(
            target: Target, protocol: StreamProtocol, *timeouts: float | None
        ) -> tuple[StreamProtocol, TargetAddress]:
            self.upstream = Transport(protocol)
            asyncio.get_running_loop().call_soon(lambda: self.upstream.receive(SETTINGS + WINDOW))
            return protocol, (await target.addresses())[0]

        with patch.object(pool, "connect", opened):
            self.turn(lambda: self.client.receive(b"".join(map(self.frame, request))))
            for _ in range(10):  # as in `Plane.connect`
                self.turn(lambda: None)
        self.turn(lambda: self.upstream.receive(ACKNOWLEDGED))
        self._next_answer = 1
        self.upstream_connection: Any = self.upstream.protocol
        self.turn(lambda: self.upstream.receive(b"".join(map(self.answer_frame, answer))))
        self.client.written.clear()
        self.upstream.written.clear()

    def frame(self, frame: bytes) -> bytes:
        number, self._next = self._next, self._next + 2 * (frame[3] == DATA)
        return frame[:5] + number.to_bytes(4) + frame[9:]

    def answer_frame(self, frame: bytes) -> bytes:
        """Return the same frame for the stream of the next answer."""
        number, self._next_answer = self._next_answer, self._next_answer + 2 * (frame[3] == HEADERS and frame[4] & 1)
        return frame[:5] + number.to_bytes(4) + frame[9:]

    def exchange_turn(self, turn: Turn) -> None:
        frames, answers = turn
        self.client.receive(b"".join(map(self.frame, frames)))
        self.upstream_connection._flush()
        self.upstream.receive(b"".join(map(self.answer_frame, answers)))
        if self.connection._flush_is_due:
            self.connection._flush()
        self.client.written.clear()
        self.upstream.written.clear()

    def prove_call(self, turn: Turn) -> None:
        def see() -> None:
            frames, answers = turn
            self.client.receive(b"".join(map(self.frame, frames)))
            self.upstream_connection._flush()
            assert CALL[-1024:] in b"".join(self.upstream.written)
            self.upstream.receive(b"".join(map(self.answer_frame, answers)))
            if self.connection._flush_is_due:
                self.connection._flush()
            assert CALL_ANSWER[-1024:] in b"".join(self.client.written)
            self.client.written.clear()
            self.upstream.written.clear()

        self.turn(see)


def calls() -> tuple[list[bytes], list[bytes], list[bytes], list[bytes]]:
    """Return the frames of the first call and of all later ones, and of their answers."""
    client = Session(True, False, time.monotonic(), 1000, 65535, 65535, 65536, 200)
    server = Session(False, False, time.monotonic(), 1000, 65535, 65535, 65536, 200)
    sent: list[list[bytes]] = []
    received: list[list[bytes]] = []
    for number in (1, 3):
        client.to_send()
        client.request(CALL, True)
        made = client.to_send()
        sent.append(of_streams(made))
        if number == 1:
            made = PREFACE + SETTINGS + made
        server.feed(made, len(made), time.monotonic())
        server.respond(number, CALL_ANSWER, True, CALL_TRAILERS)
        received.append(of_streams(server.to_send()))
    return sent[0], sent[1], received[0], received[1]


def of_streams(sent: bytes) -> list[bytes]:
    """Return the HEADERS and DATA frames."""
    found = []
    while sent:
        length = 9 + int.from_bytes(sent[:3])
        if sent[3] in (HEADERS, DATA):
            found.append(sent[:length])
        sent = sent[length:]
    return found


def frames(request: bytes, secure: bool = False) -> tuple[bytes, bytes]:
    """Return the first HEADERS frame of a request, and that of all later ones, which uses the dynamic table (RFC
    7541).
    """
    client = Session(True, secure, time.monotonic(), 1000, 65535, 65535, 65536, 200)
    client.to_send()
    sent = []
    for _ in range(2):
        client.request(request, True)
        sent.append(client.to_send())
    return sent[0], sent[1]


def literal_frame() -> bytes:
    """Return a HEADERS frame of the same request, whose fields are literals that no table keeps (RFC 7541, 6.2.2)."""
    fields = (
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"127.0.0.1:8080"),
        (b":path", b"/svc1/echo"),
        (b"user-agent", b"h2load nghttp2/1.52.0"),
    )
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    return len(block).to_bytes(3) + bytes([HEADERS, 5]) + b"\0\0\0\0" + block


def rooms() -> Iterator[Room]:
    simple = b"GET /svc1/echo HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nuser-agent: h2load nghttp2/1.52.0\r\n\r\n"
    answers = ANSWERS[:1000]
    usual = b"GET /svc1/echo HTTP/1.1\r\n" + b"".join(b"%b\r\n" % line.encode() for line in FIELDS) + b"\r\n"
    usual = usual.replace(b":authority:", b"Host:")
    first, later = frames(simple)
    turns = [([later], [answer]) for answer in answers]
    with TemporaryDirectory() as folder, closing(Http2Plane(Path(folder), _configuration())) as plane:
        plane.connect(REQUESTS[0], ANSWERS[0])
        plane.speak()
        plane.prove([([first], answers[:1])])
        plane.prove(turns[:10])
        yield Room("a GET over HTTP/2", plane.exchange_turn, turns, plane.turn)
        plain = [([literal_frame()], [answer]) for answer in answers]
        plane.prove(plain[:10])
        yield Room("a GET over HTTP/2 without HPACK's table", plane.exchange_turn, plain, plane.turn)
        coded = [([frames(usual)[0]], [answer]) for answer in answers]
        plane.prove(coded[:10])
        yield Room("a GET over HTTP/2 with 1,000 bytes in Huffman code", plane.exchange_turn, coded, plane.turn)
    first_call, later_call, first_answer, later_answer = calls()
    configured = _configuration()
    configured["upstreams"]["origin"]["protocol"] = "grpc"
    with TemporaryDirectory() as folder, closing(GrpcPlane(Path(folder), configured)) as calling:
        calling.speak()
        calling.connect_call(first_call, first_answer)
        calling.prove_call((later_call, later_answer))
        yield Room("a gRPC call of 1 KB", calling.exchange_turn, [(later_call, later_answer)] * 1000, calling.turn)
        calling.prove_call((later_call, later_answer))


def _configuration() -> dict[str, Any]:
    configured = configuration()
    configured["listeners"]["public"]["protocols"] = ["http1", "http2"]
    return configured
