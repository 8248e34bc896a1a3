"""A long path: a TCP relay that delivers bytes half a round trip after they came, at any rate, in each direction.

    python -m bench.load.relay PORT TARGET_PORT ROUND_TRIP_MS

The connect takes a round trip as well: the kernel of this machine completes it at once, so the client's first bytes are
delivered that much later. Loss and slow start are not imitated (`bench.load.lossy_path`).
"""

import asyncio
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import uvloop

from bench.ports import free_port, wait_until_open
from bench.processes import pinned


class Pipe(asyncio.Protocol):
    """One end. What it receives is written to `other` later."""

    other: "Pipe"
    transport: asyncio.Transport

    def __init__(self, delay: float, begin_at: float) -> None:
        self._delay, self._begin_at = delay, begin_at
        self._loop = asyncio.get_running_loop()
        self._due: deque[tuple[float, bytes]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, not the class

    def data_received(self, data: bytes) -> None:
        self._file(data)

    def eof_received(self) -> bool:
        self._file(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._file(b"")

    def _file(self, data: bytes) -> None:
        self._due.append((max(self._loop.time(), self._begin_at) + self._delay, data))
        if len(self._due) == 1:
            self._wait()

    def _wait(self) -> None:
        self._loop.call_at(self._due[0][0], self._deliver)

    def _deliver(self) -> None:
        now = self._loop.time()
        while self._due and self._due[0][0] <= now:
            data = self._due.popleft()[1]
            if self.other.transport.is_closing():
                continue
            if data:
                self.other.transport.write(data)
            elif self.other.transport.can_write_eof():
                self.other.transport.write_eof()
        if self._due:
            self._wait()
        elif self.transport.is_closing():
            self.other.transport.close()


async def relay(port: int, target_port: int, round_trip_s: float) -> None:
    loop = asyncio.get_running_loop()

    async def connect(client: Pipe) -> None:
        _, server = await loop.create_connection(lambda: Pipe(round_trip_s / 2, 0.0), "127.0.0.1", target_port)
        client.other, server.other = server, client
        client.transport.resume_reading()

    class Accepted(Pipe):
        def __init__(self) -> None:
            super().__init__(round_trip_s / 2, loop.time() + round_trip_s)

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.pause_reading()
            self.connecting = loop.create_task(connect(self))

    server = await loop.create_server(Accepted, "127.0.0.1", port)
    await server.serve_forever()


@contextmanager
def relaying(folder: Path, target_port: int, round_trip_ms: int, core: int) -> Iterator[int]:
    """Run a relay to `target_port` and yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "bench.load.relay", str(port), str(target_port), str(round_trip_ms)]
    root = str(Path(__file__).parents[2])
    with pinned(command, [core], folder / f"relay-{port}.out", environment={"PYTHONPATH": root}) as program:
        wait_until_open(port, program)
        yield port


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(relay(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
