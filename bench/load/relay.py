"""A long path: a TCP relay that delivers bytes half a round trip after they came, at any rate, in each direction.

    python -m bench.load.relay PORT TARGET_PORT [HTTP2_TARGET_PORT]

The connect takes a round trip as well: the kernel of this machine completes it at once, so the client's first bytes are
delivered that much later. Loss and slow start are not imitated. A datagram to the port sets the round trip of further
connections, in milliseconds, and ends those that are open; it is 0 at first. `HTTP2_TARGET_PORT`: of connections that
begin with the preface of HTTP/2.
"""

import asyncio
import pathlib
import socket
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvloop

from bench.ports import free_port, wait_until_open
from bench.processes import pinned


class Path:
    """Round trip of all connections, and those that are open."""

    def __init__(self) -> None:
        self.round_trip_s = 0.0
        self.open: set[Pipe] = set()


class Pipe(asyncio.Protocol):
    """One end. What it receives is written to `other` later."""

    transport: asyncio.Transport
    other: "Pipe | None" = None
    ended = False
    """Whether the end was passed on to `other`."""

    def __init__(self, path: Path, begin_at: float = 0.0) -> None:
        self._path, self._begin_at = path, begin_at
        self._loop = asyncio.get_running_loop()
        self._due: deque[tuple[float, bytes]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the class
        self._path.open.add(self)

    def data_received(self, data: bytes) -> None:
        self._file(data)

    def eof_received(self) -> bool:
        self._file(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._path.open.discard(self)
        self._file(b"")

    def _file(self, data: bytes) -> None:
        self._due.append((max(self._loop.time(), self._begin_at) + self._path.round_trip_s / 2, data))
        if len(self._due) == 1:
            self._loop.call_at(self._due[0][0], self._deliver)

    def _deliver(self) -> None:
        other, now = self.other, self._loop.time()
        if other is None:
            return  # it is being connected
        while self._due and self._due[0][0] <= now:
            data = self._due.popleft()[1]
            if other.transport.is_closing():
                continue
            if data:
                other.transport.write(data)
            elif other.ended or self.transport.is_closing():
                self.transport.close()
                other.transport.close()
            else:
                self.ended = True
                other.transport.write_eof()
        if self._due:
            self._loop.call_at(self._due[0][0], self._deliver)

    def join(self, other: "Pipe") -> None:
        self.other, other.other = other, self
        self._deliver()


class Accepted(Pipe):
    """The end of a client. Its target is connected once its first bytes tell the protocol, if that matters."""

    def __init__(self, path: Path, target_port: int, http2_target_port: int) -> None:
        super().__init__(path, asyncio.get_running_loop().time() + path.round_trip_s)
        self._targets = target_port, http2_target_port
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._targets[0] == self._targets[1]:
            self._connect(self._targets[0])

    def data_received(self, data: bytes) -> None:
        if self._connecting is None:
            self._connect(self._targets[data.startswith(b"PRI")])
        super().data_received(data)

    def _connect(self, port: int) -> None:
        async def connect() -> None:
            _, target = await self._loop.create_connection(lambda: Pipe(self._path), "127.0.0.1", port)
            self.join(target)

        self._connecting = self._loop.create_task(connect())


class Control(asyncio.DatagramProtocol):
    def __init__(self, path: Path) -> None:
        self._path = path

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._path.round_trip_s = int(data) / 1000
        for pipe in tuple(self._path.open):
            pipe.transport.abort()
        self._transport.sendto(data, addr)


async def relay(port: int, target_port: int, http2_target_port: int) -> None:
    loop, path = asyncio.get_running_loop(), Path()
    await loop.create_datagram_endpoint(lambda: Control(path), ("127.0.0.1", port))
    server = await loop.create_server(lambda: Accepted(path, target_port, http2_target_port), "127.0.0.1", port)
    await server.serve_forever()


def set_round_trip(port: int, milliseconds: int) -> None:
    """Set the round trip of a relay."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        control.settimeout(10.0)
        control.sendto(b"%d" % milliseconds, ("127.0.0.1", port))
        control.recv(16)


@contextmanager
def relaying(folder: pathlib.Path, core: int, target_port: int, http2_target_port: int | None = None) -> Iterator[int]:
    """Run a relay and yield its port."""
    port = free_port()
    targets = [str(target_port), str(http2_target_port or target_port)]
    command = [sys.executable, "-m", "bench.load.relay", str(port), *targets]
    root = str(pathlib.Path(__file__).parents[2])
    with pinned(command, [core], folder / f"relay-{port}.out", environment={"PYTHONPATH": root}) as program:
        wait_until_open(port, program)
        yield port


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(relay(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[-1])))
