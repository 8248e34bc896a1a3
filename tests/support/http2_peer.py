"""HTTP/2 peer with hand-made frames, on either side of the gateway.

Frames are written and read here; only header blocks are coded by a library (hpack of python-hyper).
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hpack

from tests.support.client import connect
from tests.support.origin import shaken
from tests.support.own_ports import listen_on_own_port
from tests.support.peer import DEADLINE, Peer, Unexpected
from tests.support.tcp import nobody_waits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
FRAME = 16_384  # bytes of a frame that every peer accepts
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 6
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0, 1, 2, 7, 8
HTTP_1_1_REQUIRED = 13

Fields = Sequence[tuple[bytes, bytes]]


@dataclass
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Return the error code of RST_STREAM or GOAWAY."""
        return int(struct.unpack(">I", self.payload[-4:] if self.kind == RST_STREAM else self.payload[4:8])[0])


@dataclass
class Http2Message:
    """A request or response, as far as it was received."""

    stream: int
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    def get(self, name: bytes) -> bytes | None:
        return next((value for each, value in self.fields if each == name), None)

    @property
    def status(self) -> int:
        return int(self.get(b":status") or b"0")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


class Http2Peer(Peer):
    """One connection after the exchange of prefaces and SETTINGS. Windows are updated by hand."""

    def __init__(self, sock: socket.socket, deadline: float = DEADLINE) -> None:
        super().__init__(sock, deadline)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.messages: dict[int, Http2Message] = {}
        self.goaways: list[Frame] = []
        self.pings: list[bytes] = []
        self.windows: dict[int, int] = {}
        """Bytes that the other side accepts on each stream."""
        self.settings: dict[int, int] = {}
        self.takes = True
        """Whether window updates are sent."""
        self.answers_pings = True

    def frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.send(frame(kind, flags, stream, payload))

    def set(self, values: dict[int, int]) -> None:
        self.frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *each) for each in values.items()))

    def headers(self, stream: int, fields: Fields, end: bool = False) -> None:
        block = b"".join(_literal(name, value) for name, value in fields)  # also invalid
        first, *rest = [block[at : at + FRAME] for at in range(0, max(len(block), 1), FRAME)]
        self.frame(HEADERS, (0 if rest else END_HEADERS) | (END_STREAM if end else 0), stream, first)
        for left, part in zip(range(len(rest) - 1, -1, -1), rest, strict=True):
            self.frame(CONTINUATION, 0 if left else END_HEADERS, stream, part)

    def data(self, stream: int, payload: bytes, end: bool = False) -> None:
        self.windows[stream] = self.room(stream) - len(payload)
        self.frame(DATA, END_STREAM if end else 0, stream, payload)

    def room(self, stream: int) -> int:
        """Return the bytes that the other side accepts on a stream."""
        return self.windows.get(stream, self.settings.get(INITIAL_WINDOW_SIZE, 65_535))

    def wait_until_read(self) -> None:
        """Wait until the other side has read everything: it has acknowledged a PING."""
        self.frame(PING, 0, 0, b"all-read")
        while not (got := self.read_until_frame(PING)).flags & ACK:
            assert got.payload != b"all-read"

    def rst(self, stream: int, code: int) -> None:
        self.frame(RST_STREAM, 0, stream, struct.pack(">I", code))

    def goaway(self, last: int, code: int = NO_ERROR) -> None:
        self.frame(GOAWAY, 0, 0, struct.pack(">II", last, code))

    def window(self, stream: int, more: int) -> None:
        self.frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", more))

    def read_frame(self) -> Frame:
        """Read the next frame, update the messages, and send required responses."""
        head = self.read_exactly(9)
        length = int.from_bytes(head[:3], "big")
        got = Frame(head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, self.read_exactly(length))
        self._note(got)
        return got

    def _note(self, got: Frame) -> None:
        message = self.messages.get(got.stream)
        if got.kind == SETTINGS and not got.flags & ACK:
            for at in range(0, len(got.payload), 6):
                name, value = struct.unpack(">HI", got.payload[at : at + 6])
                self.settings[name] = value
            self.frame(SETTINGS, ACK, 0)
        elif got.kind == PING and not got.flags & ACK:
            self.pings.append(got.payload)
            if self.answers_pings:
                self.frame(PING, ACK, 0, got.payload)
        elif got.kind == WINDOW_UPDATE and got.stream:
            self.windows[got.stream] = self.room(got.stream) + int.from_bytes(got.payload, "big")
        elif got.kind == GOAWAY:
            self.goaways.append(got)
        elif got.kind == HEADERS:
            block = got.payload
            while not got.flags & END_HEADERS:
                more = self.read_frame()
                assert more.kind == CONTINUATION
                block += more.payload
                got.flags |= more.flags & END_HEADERS
            fields = [(bytes(name), bytes(value)) for name, value in self.decoder.decode(block, raw=True)]
            if message is None:
                message = self.messages[got.stream] = Http2Message(got.stream)
            if not message.fields or message.get(b":status") in (b"100", b"103"):
                message.fields = fields
            else:
                message.trailers = fields
        elif got.kind == DATA and message is not None:
            message.body += got.payload
            if self.takes and got.payload:
                self.window(0, len(got.payload))
                self.window(got.stream, len(got.payload))
        elif got.kind == RST_STREAM and message is not None:
            message.reset = got.code
        if got.kind in (DATA, HEADERS) and got.flags & END_STREAM and message is not None:
            message.ended = True

    def read_until_frame(self, kind: int, stream: int | None = None) -> Frame:
        while True:
            got = self.read_frame()
            if got.kind == kind and stream in (None, got.stream):
                return got

    def read_message(self, stream: int | None = None) -> Http2Message:
        """Return the next complete message, or that of a stream; a reset one counts as complete."""
        while True:
            for number, message in list(self.messages.items()):
                if stream in (None, number) and (message.ended or message.reset is not None):
                    return self.messages.pop(number)
            self.read_frame()

    def read_head(self, stream: int | None = None) -> Http2Message:  # type: ignore[override]
        """Return the head of the next message, or of that of a stream."""
        while True:
            for number, message in self.messages.items():
                if stream in (None, number) and message.fields:
                    return message
            self.read_frame()


def _literal(name: bytes, value: bytes) -> bytes:
    """Return a field without indexing (RFC 7541 section 6.2.2), with any bytes."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes((length,)) + text
    length -= 127
    made = bytearray(b"\x7f")
    while length >= 128:
        made.append(length % 128 + 128)
        length //= 128
    made.append(length)
    return bytes(made) + text


class Http2Client(Http2Peer):
    """A client of the gateway, with prior knowledge."""

    def __init__(self, address: str) -> None:
        super().__init__(connect(address))
        self.next = 1
        self.send(PREFACE)
        self.set({})

    def ask(self, fields: Iterable[tuple[bytes, bytes]] = (), body: bytes | None = None, **pseudo: Any) -> int:
        """Send a request; return its stream. `pseudo`: `method`, `path`, `authority`; None leaves one out."""
        stream, self.next = self.next, self.next + 2
        self.messages[stream] = Http2Message(stream)
        said = {"method": b"GET", "scheme": b"http", "path": b"/", "authority": b"a.test", **pseudo}
        head = [(b":" + name.encode(), value) for name, value in said.items() if value is not None]
        self.headers(stream, [*head, *fields], end=body is None)
        if body is not None:
            self.data(stream, body, end=True)
        return stream

    def exchange(self, fields: Iterable[tuple[bytes, bytes]] = (), body: bytes | None = None, **pseudo: Any) -> Any:
        return self.read_message(self.ask(fields, body, **pseudo))


class Http2Origin:
    """A listening socket; the test accepts its connections one by one."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listening = listen_on_own_port()
        self._listening.settimeout(DEADLINE)
        self._open: list[Peer] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://{self.address}"

    def __enter__(self) -> Http2Origin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_connections()
        self._listening.close()

    def close_connections(self) -> None:
        """Close what was accepted: the next test begins with a connection of its own."""
        for each in self._open:
            each.close()
        self._open.clear()

    def accept_plain(self) -> Peer:
        """Accept a connection without reading from it."""
        sock, _ = self._listening.accept()
        peer = Peer(sock if self._tls is None else shaken(self._tls, sock))
        self._open.append(peer)
        return peer

    def accept(self, settings: dict[int, int] | None = None) -> Http2Peer:
        sock, _ = self._listening.accept()
        peer = Http2Peer(sock if self._tls is None else shaken(self._tls, sock))
        self._open.append(peer)
        if (first := peer.read_exactly(len(PREFACE))) != PREFACE:
            raise Unexpected(f"no preface of HTTP/2 but {first!r}")
        peer.set(settings or {})
        return peer

    def none_waits(self) -> bool:
        """Whether no further connection was opened."""
        return nobody_waits(self._listening)


OK: Fields = ((b":status", b"200"), (b"content-length", b"2"))


def answer(peer: Http2Peer, fields: Fields = OK, body: bytes = b"ok") -> Http2Message:
    """Read the next request, answer it, and return it."""
    request = peer.read_message()
    peer.headers(request.stream, fields, end=not body)
    if body:
        peer.data(request.stream, body, end=True)
    return request
