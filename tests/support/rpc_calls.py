"""Calls of gRPC as browsers make them, over either version of HTTP: whole ones, and piece by piece."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import NamedTuple

import pytest

from tests.support.client import Client
from tests.support.grpc_world import DEADLINE, World
from tests.support.http2_peer import Fields, Http2Client, Http2Message, Http2Origin, Http2Peer
from tests.support.peer import Head, Unexpected

WEB = b"application/grpc-web+proto"
GRPC: Fields = [(b":status", b"200"), (b"content-type", b"application/grpc+proto")]
OK_STATUS: Fields = [(b"grpc-status", b"0")]


def framed(message: bytes, flags: int = 0) -> bytes:
    return bytes((flags,)) + len(message).to_bytes(4, "big") + message


def frames_in(body: bytes) -> list[tuple[int, bytes]]:
    found = []
    while body:
        length = int.from_bytes(body[1:5], "big")
        assert len(body) >= 5 + length, body
        found.append((body[0], body[5 : 5 + length]))
        body = body[5 + length :]
    return found


class Got(NamedTuple):
    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes

    def get(self, name: bytes) -> bytes | None:
        return next((value for each, value in self.fields if each.lower() == name), None)

    def messages(self) -> list[bytes]:
        """The messages of a response in binary form, of which the last frame is the trailers."""
        return [message for flags, message in frames_in(self.body)[:-1] if flags == 0]

    def trailers(self) -> dict[bytes, bytes]:
        flags, block = frames_in(self.body)[-1]
        assert flags == 0x80
        assert block.endswith(b"\r\n")
        return dict(line.split(b":", 1) for line in block[:-2].split(b"\r\n"))


Call = Callable[..., Got]


def call_http1(
    world: World,
    body: bytes,
    kind: bytes = b"application/grpc-web+proto",
    method: bytes = b"Unary",
    *more: tuple[bytes, bytes],
) -> Got:
    lines = b"".join(b"%b: %b\r\n" % line for line in more)
    client = Client(world.gateway.address())
    with contextlib.closing(client):
        client.send(
            b"POST /test.Greeter/%b HTTP/1.1\r\nHost: a.test\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n%b"
            % (method, kind, lines, len(body), body)
        )
        response = client.read_response()
        return Got(response.status, list(response.head.lines), response.body)


def call_http2(
    world: World,
    body: bytes,
    kind: bytes = b"application/grpc-web+proto",
    method: bytes = b"Unary",
    *more: tuple[bytes, bytes],
) -> Got:
    with Http2Client(world.gateway.address()) as client:
        pseudo = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/test.Greeter/" + method)]
        client.messages[1] = Http2Message(1)
        client.headers(1, [*pseudo, (b":authority", b"a.test"), (b"content-type", kind), *more], end=not body)
        while not client.settings:
            client.read_frame()
        while body:
            room = min(client.room(1), 16_384, len(body))
            if room == 0:
                client.read_frame()
                continue
            client.data(1, body[:room], end=room == len(body))
            body = body[room:]
        got = client.read_message(1)
        assert got.reset is None
        return Got(got.status, got.fields, got.body)


class StreamingCall:
    """A call whose request and response go piece by piece, over either version of HTTP."""

    def __init__(
        self, world: World, is_http2: bool, kind: bytes, method: bytes = b"ServerStream", *more: tuple[bytes, bytes]
    ) -> None:
        self._got = bytearray()
        self._plain: Client | None = None
        self._client: Http2Client | None = None
        self._begun = self._ended = False
        self._head: Head | None = None
        address, path = world.gateway.address(), b"/test.Greeter/" + method
        if is_http2:
            self._client = Http2Client(address)
            self._client.messages[1] = Http2Message(1)
            pseudo = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"a.test")]
            self._client.headers(1, [*pseudo, (b"content-type", kind), *more])
        else:
            self._plain = Client(address)
            head = b"POST %b HTTP/1.1\r\nHost: a.test\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n%b\r\n"
            self._plain.send(head % (path, kind, b"".join(b"%b: %b\r\n" % line for line in more)))

    def __enter__(self) -> StreamingCall:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._plain, self._client):
            if each is not None:
                each.close()

    def send(self, piece: bytes, ended: bool = False) -> None:
        if self._client is not None:
            self._client.data(1, piece, end=ended)
        elif self._plain is not None:
            self._plain.send(b"%x\r\n%b\r\n" % (len(piece), piece) + (b"0\r\n\r\n" if ended else b""))

    def read(self, size: int) -> bytes:
        """The next bytes of the response's body."""
        while len(self._got) < size:
            if not self._more() and len(self._got) < size:
                pytest.fail(f"the response has ended with {bytes(self._got)!r}")
        piece = bytes(self._got[:size])
        del self._got[:size]
        return piece

    def head(self) -> Head | Http2Message:
        """The head of the response, of which something was read."""
        assert self._head is not None or self._client is not None
        return self._client.messages[1] if self._client is not None else self._head  # type: ignore[return-value]

    def is_whole(self) -> bool:
        """Read to the end of the response. Whether it is one, and not a connection or a stream that broke off."""
        while self._more():
            pass
        assert not (self._ended and self._got)
        return self._ended

    def _more(self) -> bool:
        """Read on. False: there is no more."""
        if self._client is not None:
            message = self._client.messages[1]
            if message.ended or message.reset is not None:
                self._ended = message.reset is None
                return False
            self._client.read_frame()
            self._got += message.body
            message.body = b""
            return True
        assert self._plain is not None
        if not self._begun:
            self._head = head = self._plain.read_head()
            self._begun = True
            if head.get(b"transfer-encoding") is None:
                self._got += self._plain.read_exactly(int(head.get(b"content-length") or b"0"))
                self._ended = True
        if self._ended:
            return False
        try:
            piece = self._plain.read_chunk()
        except Unexpected:
            return False
        self._got += piece
        self._ended = not piece
        return bool(piece)


@contextlib.contextmanager
def served(origin: Http2Origin, serve: Callable[[Http2Peer], None]) -> Iterator[None]:
    """Serve one connection beside the test."""
    with futures.ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: serve(origin.accept()))
        yield
        done.result(DEADLINE)


both = pytest.mark.parametrize("call", [call_http1, call_http2])
