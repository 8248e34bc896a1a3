"""The client's side of the gateway, byte by byte, and the three ways to send an input."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import h11

from tests.support.peer import DEADLINE, Message, Peer, Unexpected

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ([\t\x20-\x7e\x80-\xff]*)")


class Response(Message):
    """A response. `status` and `reason` are those of its status line."""

    @property
    def status(self) -> int:
        return int(self._status_line[1])

    @property
    def reason(self) -> bytes:
        return self._status_line[2]

    @property
    def _status_line(self) -> re.Match[bytes]:
        found = STATUS_LINE.fullmatch(self.head.start_line)
        if found is None:
            raise Unexpected(f"not a status line: {self.head.start_line!r}")
        return found


def has_body(request_method: bytes, status: int) -> bool:
    """Whether a response may have a body (RFC 9110 section 6.4.1)."""
    return request_method != b"HEAD" and status >= 200 and status not in (204, 304)


class Client(Peer):
    """A connection to a listener of the gateway."""

    def __init__(self, address: str, deadline: float = DEADLINE, source: str = "") -> None:
        super().__init__(connect(address, deadline, source), deadline)

    def read_response(self, request_method: bytes = b"GET") -> Response:
        """Read the next complete response; a 1xx counts as one. Fails if the stream ends too early."""
        head = self.read_head()
        response = Response(head)
        if response.status == 101:
            return response
        judge = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        judge.send(h11.Request(method=request_method, target=b"/", headers=[(b"Host", b"a")]))
        judge.receive_data(head.raw)
        judge.next_event()  # raises if h11 rejects it
        if not has_body(request_method, response.status):
            return response
        message = self.read_body(head, until_close=True)
        return Response(head, message.body, message.raw_body, message.trailers)

    def read_response_head(self) -> Response:
        """Read the head of the next response; its body is not read."""
        return Response(self.read_head())

    def exchange(self, request: bytes, request_method: bytes = b"GET") -> Response:
        """Send a complete request and read its response."""
        self.send(request)
        return self.read_response(request_method)


def connect(address: str, deadline: float = DEADLINE, source: str = "") -> socket.socket:
    """Connect to `127.0.0.1:80`, `[::1]:80` or `unix:/path`, as in the gateway's ready line. `source`: own address."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(deadline)
        try:
            sock.connect(address.removeprefix("unix:"))
        except OSError:
            sock.close()
            raise
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), deadline, (source, 0) if source else None)


# Ways to send an input. A rejection may come before its last byte, so the rest may find a closed connection.

Send = Callable[[Peer, bytes], None]


def whole(peer: Peer, data: bytes) -> None:
    peer.send_gently(data)


def byte_by_byte(peer: Peer, data: bytes) -> None:
    """Send each byte in a segment of its own, so that every state of the parser meets the end of its input."""
    for at in range(len(data)):
        peer.send_gently(data[at : at + 1])


def with_bytes_after(peer: Peer, data: bytes) -> None:
    """Append a second, valid request, which must not be answered if the first is rejected."""
    peer.send_gently(data + b"GET /smuggled HTTP/1.1\r\nHost: smuggled.test\r\n\r\n")


EVERY_WAY: list[Send] = [whole, byte_by_byte, with_bytes_after]
