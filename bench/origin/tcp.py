"""Origin behind TCP proxies: the first byte of a connection selects what it does until the end.

`E`: echo everything. `D` and a length of 8 bytes: send this many bytes of the pattern, and end. `U`: receive
everything, and respond to the end with length and checksum. Run as `python -m bench.origin.tcp PORT`.
"""

import asyncio
import zlib
from functools import partial
from typing import cast

from bench.origin.program import running, serve
from bench.origin.streams import PATTERN

BLOCK = 1 << 18
LENGTH_BYTES = 8


class Service(asyncio.BufferedProtocol):
    """One connection."""

    _room = memoryview(bytearray(BLOCK))

    def __init__(self) -> None:
        self._kind = b""
        self._asked = b""
        self._count = self._sum = 0
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods only
        self._transport.set_write_buffer_limits(high=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        chunk = self._room[:nbytes]
        if not self._kind:
            self._kind, chunk = bytes(chunk[:1]), chunk[1:]
        if self._kind == b"E":
            self._transport.write(bytes(chunk))
        elif self._kind == b"U":
            self._count += len(chunk)
            self._sum = zlib.crc32(chunk, self._sum)
        elif not self._left:
            self._asked += chunk
            if len(self._asked) == LENGTH_BYTES:
                self._left = int.from_bytes(self._asked)
                self.resume_writing()

    def resume_writing(self) -> None:
        pattern = memoryview(PATTERN)
        while self._left and not self._transport.get_write_buffer_size():
            start = self._count % len(pattern)
            block = pattern[start : start + min(BLOCK, self._left)]
            self._count += len(block)
            self._left -= len(block)
            self._transport.write(block)
        if self._kind == b"D" and not self._left:
            self._transport.close()

    def pause_writing(self) -> None: ...

    def eof_received(self) -> None:
        if self._kind == b"U":
            self._transport.write(self._count.to_bytes(LENGTH_BYTES) + self._sum.to_bytes(LENGTH_BYTES))


serving = partial(running, "bench.origin.tcp")
"""Run the origin on a core and yield its port."""


if __name__ == "__main__":
    serve(Service)
