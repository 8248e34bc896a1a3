"""Origin of the gRPC calls: each is answered with the same message of a kilobyte and the status 0, as its trailers.

It checks nothing about a call but that it has a message. Run as `python -m bench.origin.grpc PORT`.
"""

import asyncio
from functools import partial
from time import monotonic
from typing import cast

from bench.origin.program import running, serve
from fastgw.http.http2.session import END, REQUEST, WHOLE, Session

MESSAGE_BYTES = 1024
FRAMED = b"\0" + MESSAGE_BYTES.to_bytes(4) + bytes(range(256)) * (MESSAGE_BYTES // 256)
"""A message with its prefix."""
ANSWER = b"HTTP/1.1 200 \r\ncontent-type: application/grpc\r\ngrpc-accept-encoding: identity, gzip\r\n\r\n" + FRAMED
REFUSED = b"HTTP/1.1 200 \r\ncontent-type: application/grpc\r\ngrpc-status: 3\r\n\r\n"
TRAILERS = b"grpc-status: 0\r\ngrpc-message: \r\n"
STREAMS, STREAM_WINDOW, CONNECTION_WINDOW = 1000, 65535, 1 << 24
HEAD_BYTES, HEAD_FIELDS = 65536, 100
BLOCK = 1 << 18


class Service(asyncio.BufferedProtocol):
    """One connection."""

    _buffer = memoryview(bytearray(BLOCK))

    def __init__(self) -> None:
        self._session = Session(
            False, False, monotonic(), STREAMS, STREAM_WINDOW, CONNECTION_WINDOW, HEAD_BYTES, HEAD_FIELDS
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods only
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        session = self._session
        for kind, stream, _ in session.feed(self._buffer, nbytes, monotonic()):
            if kind in (END, REQUEST):
                session.respond(stream, ANSWER, False)
                session.end(stream, TRAILERS)
            elif kind == WHOLE:
                session.respond(stream, REFUSED, True)
        self._flush()

    def _flush(self) -> None:
        while message := self._session.to_send():
            self._transport.write(message)


serving = partial(running, "bench.origin.grpc")
"""Run the origin on a core and yield its port."""


if __name__ == "__main__":
    serve(Service)
