"""Origin of the tunnels: a WebSocket echo server.

Run as `python -m bench.origin.echo PORT`.
"""

import asyncio
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench.load import frames
from bench.load.circle import OPENING_BYTES, Circle, Follower, conversation, openings
from bench.ports import free_port, wait_until_open
from bench.processes import pinned

KEY = re.compile(rb"\r\nSec-WebSocket-Key: *([A-Za-z0-9+/=]{24})\r\n", re.IGNORECASE)
UPGRADE = re.compile(rb"\r\nUpgrade: *websocket\r\n", re.IGNORECASE)
REFUSED = (
    b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\nContent-Length: 0\r\n\r\n"
)


class Echo(asyncio.Protocol):
    """One connection: an opening handshake on any path, then frames.

    A client that begins with the frames of the load must continue with them; otherwise the connection is closed. For
    any other client, every frame is parsed.
    """

    def __init__(self, spoken: Circle, heard: Circle, first_of: Mapping[bytes, int]) -> None:
        self._spoken, self._heard, self._first_of = spoken, heard, first_of
        self._receive = self._handshake
        self._rest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP gives no other
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def _handshake(self, data: bytes) -> None:
        head, end, self._rest = (self._rest + data).partition(b"\r\n\r\n")
        if not end:
            self._rest = head
            return
        key = KEY.search(head + end)
        if not key or not UPGRADE.search(head + end):
            self._transport.write(REFUSED)
            self._transport.close()
            return
        accept = frames.accept_of(key[1])
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self._receive = self._begin
        self._begin(b"")

    def _begin(self, data: bytes) -> None:
        self._rest += data
        if len(self._rest) < OPENING_BYTES:
            return
        first = self._first_of.get(self._rest[:OPENING_BYTES])
        if first is None:
            self._receive = self._read
        else:
            self._next = first
            self._follower = Follower(self._spoken, first)
            self._receive = self._follow
        received, self._rest = self._rest, b""
        self._receive(received)

    def _follow(self, data: bytes) -> None:
        ended = self._follower.follow(data)
        if ended is None:
            print("bytes that the client has not sent", flush=True)
            self._transport.abort()
        elif ended:
            self._transport.write(self._heard.frames(self._next, ended))
            self._next = (self._next + ended) % self._heard.count

    def _read(self, data: bytes) -> None:
        received = self._rest + data
        try:
            answer, taken, closing = frames.echo(received)
        except frames.NotAFrame as error:
            print(error, flush=True)
            self._transport.abort()
            return
        self._rest = received[taken:]
        if answer:
            self._transport.write(answer)
        if closing:
            self._transport.close()


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """Run the origin on `core` and yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "bench.origin.echo", str(port)]
    root = Path(__file__).parents[2]
    with pinned(command, [core], folder / "origin.out", environment={"PYTHONPATH": str(root)}) as origin:
        wait_until_open(port, origin)
        yield port


async def _serve(port: int) -> None:
    spoken, heard = conversation()
    first_of = openings(spoken)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(spoken, heard, first_of), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
