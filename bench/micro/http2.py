"""Requests over HTTP/2 through the data plane, in memory: as `exchange`, from a client with one connection.

The client's bytes are prepared: all request heads are alike, so frames differ in their stream id only.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.micro.exchange import Plane, configuration
from bench.micro.heads import ANSWERS, REQUESTS
from bench.micro.timing import Room
from fastgw.http.http2.session import PREFACE, Session

SETTINGS = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"\x00\x04" + (2**31 - 1).to_bytes(4)
"""The client accepts all bodies (SETTINGS_INITIAL_WINDOW_SIZE)."""
WINDOW = b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + (2**31 - 1 - 65535).to_bytes(4)
Turn = tuple[Sequence[bytes], Sequence[bytes]]
"""Frames of the requests in one turn of the loop, and their responses."""


class Http2Plane(Plane):
    """Data plane with an HTTP/2 client."""

    def speak(self) -> None:
        """Start HTTP/2 on a new connection."""
        self.client = self._accepted()
        self.turn(lambda: self.client.receive(PREFACE + SETTINGS + WINDOW))
        self.connection: Any = self.client._protocol
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


def frames(request: bytes) -> tuple[bytes, bytes]:
    """Return the first HEADERS frame of a request, and that of all later ones, which uses the dynamic table (RFC
    7541).
    """
    client = Session(True, False, time.monotonic(), 1000, 65535, 65535, 65536, 200)
    client.to_send()
    sent = []
    for _ in range(2):
        client.request(request, True)
        sent.append(client.to_send())
    return sent[0], sent[1]


def rooms() -> Iterator[Room]:
    simple = b"GET /svc1/echo HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nuser-agent: h2load nghttp2/1.52.0\r\n\r\n"
    answers = ANSWERS[:1000]
    first, later = frames(simple)
    turns = [([later], [answer]) for answer in answers]
    with TemporaryDirectory() as folder, closing(Http2Plane(Path(folder), _configuration())) as plane:
        plane.connect(REQUESTS[0], ANSWERS[0])
        plane.speak()
        plane.prove([([first], answers[:1])])
        plane.prove(turns[:10])
        yield Room("a GET over HTTP/2", plane.exchange_turn, turns, plane.turn)


def _configuration() -> dict[str, Any]:
    configured = configuration()
    configured["listeners"]["public"]["protocols"] = ["http1", "http2"]
    return configured
