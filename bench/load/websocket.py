"""Closed-loop load of WebSocket messages: several in flight on each of many connections, with every echoed byte
compared.
"""

import asyncio
import base64
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial

import uvloop

from bench.load import frames
from bench.load.circle import Circle, Follower, conversation
from bench.load.load import Environment, NoAnswers
from bench.peers.peer import HOST, Running
from bench.samples import Told, percentiles

OPENING_SECONDS = 10.0
DRAIN_SECONDS = 5.0


@dataclass
class EchoCounts:
    """Counts of all connections of a run."""

    messages: int = 0
    latencies: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


class Talker(asyncio.Protocol):
    """One connection. `opened`: done when it may send; `silent`: done after the stop, when all echoes have arrived."""

    def __init__(
        self, spoken: Circle, heard: Circle, first: int, in_flight: int, path: str, counts: EchoCounts
    ) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.silent: asyncio.Future[None] = loop.create_future()
        self._spoken, self._next, self._in_flight, self._counts = spoken, first, in_flight, counts
        self._heard = Follower(heard, first)
        self._sent_at: deque[float] = deque()
        self._talking = False
        self._head = b""
        self._key = base64.b64encode(random.randbytes(16))
        self._path = path

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP gives no other
        self.transport = transport
        transport.write(frames.opening(HOST, self._path, self._key))

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self._handshake(data)
            return
        ended = self._heard.follow(data)
        now = time.perf_counter()
        if ended is None or ended > len(self._sent_at):
            self._counts.faults["wrong bytes"] += 1
            self._talking = False
            self._sent_at.clear()
            self._rest()
            self.transport.abort()
            return
        self._counts.messages += ended
        self._counts.latencies.extend(now - self._sent_at.popleft() for _ in range(ended))
        if self._talking:
            if ended:
                self._say(ended, now)
        elif not self._sent_at:
            self._rest()

    def connection_lost(self, cause: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(NoAnswers(f"closed in the opening handshake: {self._head!r}"))
        if self._talking or self._sent_at:
            self._counts.faults["closed early"] += 1
            self._sent_at.clear()
        self._talking = False
        self._rest()

    def talk(self) -> None:
        """Start, and continue until `stop`."""
        self._talking = True
        self._say(self._in_flight, time.perf_counter())

    def stop(self) -> None:
        self._talking = False
        if not self._sent_at:
            self._rest()

    @property
    def unanswered(self) -> int:
        return len(self._sent_at)

    def _say(self, count: int, now: float) -> None:
        self.transport.write(self._spoken.frames(self._next, count))
        self._next = (self._next + count) % self._spoken.count
        self._sent_at.extend([now] * count)

    def _rest(self) -> None:
        if not self.silent.done():
            self.silent.set_result(None)

    def _handshake(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        accept = frames.accept_of(self._key)
        agreed = self._head.startswith(b"HTTP/1.1 101 ") and self._head.endswith(b"\r\n\r\n") and accept in self._head
        if agreed:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(NoAnswers(f"opening handshake: {self._head!r}"))


@dataclass(frozen=True)
class Messages:
    """Each connection keeps `in_flight` messages in flight; latency is measured from sending to the end of the echo."""

    name: str = "64 connections"
    connections: int = 64
    in_flight: int = 4
    cut_off: int = 0

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._run(running.port, seconds))

    async def _run(self, port: int, seconds: float) -> Told:
        loop, counts = asyncio.get_running_loop(), EchoCounts()
        spoken, heard = conversation()
        talkers: list[Talker] = []
        try:
            for number in range(self.connections):
                first, path = number % spoken.count, f"/svc{number}/socket"
                make = partial(Talker, spoken, heard, first, self.in_flight, path, counts)
                _, talker = await loop.create_connection(make, "127.0.0.1", port)
                talkers.append(talker)
            async with asyncio.timeout(OPENING_SECONDS):
                await asyncio.gather(*(talker.opened for talker in talkers))
            began = time.perf_counter()
            for talker in talkers:
                talker.talk()
            await asyncio.sleep(seconds)
            for talker in talkers:
                talker.stop()
            await asyncio.wait([talker.silent for talker in talkers], timeout=DRAIN_SECONDS)
            ended = time.perf_counter()
        except (OSError, TimeoutError) as error:
            raise NoAnswers(f"port {port}: {error!r}") from error
        finally:
            for talker in talkers:
                talker.transport.close()
        if lost := sum(talker.unanswered for talker in talkers):
            counts.faults["lost"] = lost
        if not counts.messages:
            raise NoAnswers(f"port {port} echoed no message at all: {dict(counts.faults)}")
        latencies = [latency * 1e6 for latency in counts.latencies]
        return Told(counts.messages, ended - began, percentiles(latencies), counts.faults)
