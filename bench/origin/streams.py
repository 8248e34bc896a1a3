"""Origin for large bodies: it sends streams of any length, and computes checksums of those it receives.

    GET  /ROUTE/stream/LENGTH?from=PLACE    LENGTH bytes of the pattern, repeated without end, from PLACE on
    POST /ROUTE/...                         {"bytes":LENGTH,"crc32":SUM} of the body, which must have a Content-Length
    GET  /svc0/proof, and all other paths   what `bench.origin` answers

It trusts its peers, which are on this machine: unknown input ends the connection, and so the run.
"""

import asyncio
import json
import random
import re
import signal
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench.origin import BODY
from bench.ports import free_port, wait_until_open
from bench.processes import pinned

PATTERN = random.Random(42).randbytes(1 << 20)
STREAM = re.compile(rb"/stream/(\d+)(?:\?from=(\d+))?")


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """Run the origin on `core` and yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "bench.origin.streams", str(port)]
    root = Path(__file__).parents[2]
    with pinned(command, [core], folder / "origin.out", environment={"PYTHONPATH": str(root)}) as origin:
        wait_until_open(port, origin)
        yield port


def summed_up(length: int, crc32: int) -> str:
    """Return the response to a body."""
    return f'{{"bytes":{length},"crc32":{crc32}}}'


def write_pattern(folder: Path) -> None:
    (folder / "pattern").write_bytes(PATTERN)


class Answering(asyncio.Protocol):
    """One connection: request head, body, response, repeated."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP gives no other
        self._transport = transport
        self._head = b""
        self._left = 0  # remaining bytes of a request body
        self._length = self._crc32 = 0
        self._fields: Mapping[bytes, bytes] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._sending: asyncio.Task[None] | None = None

    def connection_lost(self, cause: Exception | None) -> None:
        if self._sending:
            self._sending.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, payload: bytes) -> None:
        while payload:
            payload = self._take_body(payload) if self._left else self._take_head(payload)

    def _take_body(self, payload: bytes) -> bytes:
        taken = payload[: self._left]
        self._crc32 = zlib.crc32(taken, self._crc32)
        self._left -= len(taken)
        if not self._left:
            self._answer(summed_up(self._length, self._crc32).encode())
        return payload[len(taken) :]

    def _take_head(self, payload: bytes) -> bytes:
        head, end, rest = (self._head + payload).partition(b"\r\n\r\n")
        if not end:
            self._head = head
            return b""
        self._head = b""
        line, *lines = head.split(b"\r\n")
        method, target, _ = line.split(b" ")
        self._fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if method == b"POST":
            if b"100-continue" in self._fields.get(b"expect", b""):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._length = self._left = int(self._fields[b"content-length"])
            self._crc32 = 0
            if not self._left:
                self._answer(summed_up(0, 0).encode())
        elif stream := STREAM.search(target):
            self._send(int(stream[1]), int(stream[2] or 0))
        elif target == b"/svc0/proof":
            self._answer(json.dumps(self._seen()).encode())
        else:
            self._answer(BODY.encode())
        return rest

    def _answer(self, body: bytes) -> None:
        self._transport.write(self._answer_head(len(body)) + body)

    def _answer_head(self, length: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: %b\r\nX-Request-Id: %b\r\n\r\n" % (
            length,
            b"application/octet-stream",
            self._fields.get(b"x-request-id", b"none"),
        )

    def _send(self, length: int, place: int) -> None:
        first = PATTERN[place : place + length]
        self._transport.write(self._answer_head(length))
        self._transport.write(first)
        if length > len(first):
            self._sending = asyncio.get_running_loop().create_task(self._send_rest(length - len(first)))

    async def _send_rest(self, left: int) -> None:
        while left > 0:
            await self._writable.wait()
            self._transport.write(PATTERN[:left])
            left -= len(PATTERN)

    def _seen(self) -> dict[str, str | None]:
        names = {"host": "host", "via": "via", "for": "x-forwarded-for", "proto": "x-forwarded-proto"}
        names["forwarded_host"] = "x-forwarded-host"
        return {key: self._fields.get(name.encode(), b"").decode() for key, name in names.items()}


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await loop.create_server(Answering, "127.0.0.1", port, backlog=4096)
    await stopped.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
