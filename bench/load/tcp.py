"""TCP connections: many short ones with one echoed message each, or one long one with a stream in either direction."""

import asyncio
import os
import socket
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import partial

import uvloop

from bench.load.load import Environment, NoAnswers
from bench.load.stream import Direction, blocks, sum_of
from bench.origin.tcp import BLOCK, LENGTH_BYTES
from bench.peers.peer import Running
from bench.samples import Told, percentiles

TIMEOUT = 60.0  # seconds for the next bytes
MESSAGE_BYTES = 100


class Caller(asyncio.Protocol):
    """One connection: sends a message, receives its echo, and closes."""

    def __init__(self, message: bytes) -> None:
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._message = message
        self._heard = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP gives no other
        self._transport = transport
        transport.write(b"E" + self._message)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if len(self._heard) >= len(self._message):
            self._transport.close()
            self._tell("" if self._heard == self._message else "wrong bytes")

    def connection_lost(self, cause: Exception | None) -> None:
        self._tell("closed early")

    def _tell(self, fault: str) -> None:
        if not self.done.done():
            self.done.set_result(fault)


@dataclass(frozen=True)
class Connections:
    """This many clients, each of which reconnects as soon as its echo has arrived."""

    name: str = "short connections"
    clients: int = 16
    cut_off: int = 0

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._run(running.port, seconds))

    async def _run(self, port: int, seconds: float) -> Told:
        latencies: list[float] = []
        faults: Counter[str] = Counter()
        began = time.perf_counter()
        ends_at = began + seconds
        await asyncio.gather(*(self._call(port, ends_at, latencies, faults) for _ in range(self.clients)))
        if not latencies:
            raise NoAnswers(f"port {port} echoed nothing: {dict(faults)}")
        return Told(len(latencies), time.perf_counter() - began, percentiles(latencies), faults)

    async def _call(self, port: int, ends_at: float, latencies: list[float], faults: Counter[str]) -> None:
        loop = asyncio.get_running_loop()
        while (begun := time.perf_counter()) < ends_at:
            message = os.urandom(MESSAGE_BYTES)
            try:
                _, caller = await loop.create_connection(partial(Caller, message), "127.0.0.1", port)
                async with asyncio.timeout(TIMEOUT):
                    fault = await caller.done
            except (OSError, TimeoutError) as error:
                fault = f"failed: {error!r}"
            if fault:
                faults[fault] += 1
            latencies.append((time.perf_counter() - begun) * 1e6)


@dataclass(frozen=True)
class TcpStream:
    """One stream per round, of any duration."""

    name: str
    size: int
    direction: Direction
    cut_off: int = 0

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told:
        begun = time.monotonic()
        faults: dict[str, int] = {}
        try:
            with socket.create_connection(("127.0.0.1", running.port), timeout=TIMEOUT) as client:
                (download if self.direction is Direction.DOWN else upload)(client, self.size)
        except (OSError, ValueError) as error:
            faults[f"failed: {error}"] = 1
        return Told(1, time.monotonic() - begun, {"bytes": self.size}, faults)


def download(client: socket.socket, size: int) -> None:
    """Receive a stream. Raises `ValueError` unless it is the pattern, and ends."""
    client.sendall(b"D" + size.to_bytes(LENGTH_BYTES))
    room = memoryview(bytearray(BLOCK))
    length = crc32 = 0
    while count := client.recv_into(room):
        crc32 = zlib.crc32(room[:count], crc32)
        length += count
    if (length, crc32) != (size, sum_of(size)):
        raise ValueError(f"{length} bytes came, of other content than {size}")


def upload(client: socket.socket, size: int) -> None:
    """Send a stream and its end. Raises `ValueError` unless the service has received all of it."""
    client.sendall(b"U")
    for block in blocks(size):
        client.sendall(block)
    client.shutdown(socket.SHUT_WR)
    answer = b""
    while more := client.recv(64):
        answer += more
    if answer != size.to_bytes(LENGTH_BYTES) + sum_of(size).to_bytes(LENGTH_BYTES):
        raise ValueError(f"the service has had something else: {answer!r}")
