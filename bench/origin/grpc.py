"""Origin of the gRPC calls: each is answered with the same message of a kilobyte and the status 0, as its trailers.

It checks nothing about a call but that it has a message. Run as `python -m bench.origin.grpc PORT`.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import cast

import uvloop

from bench.ports import free_port, wait_until_open
from bench.processes import pinned
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


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """Run the origin on `core` and yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "bench.origin.grpc", str(port)]
    root = Path(__file__).parents[2]
    with pinned(command, [core], folder / "origin.out", environment={"PYTHONPATH": str(root)}) as origin:
        wait_until_open(port, origin)
        yield port


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Service, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
