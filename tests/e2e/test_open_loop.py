"""The benchmark's open loop with the real h2load: a gateway that stands still for 200 ms is seen to have done so."""

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bench.load.h2load import at_rate
from bench.load.load import Environment
from tests.support.peer import DEADLINE

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STALL = 0.2  # seconds


class Stalling(asyncio.Protocol):
    """Answers each request; before the one of that number, everything stands still."""

    answered = 0
    stalls_before = 500

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, payload: bytes) -> None:
        for _ in range(payload.count(b"\r\n\r\n")):
            Stalling.answered += 1
            if Stalling.answered == Stalling.stalls_before:
                time.sleep(STALL)
            self.transport.write(ANSWER)


@pytest.fixture
def stalling() -> Iterator[int]:
    """The port of a server in a thread."""
    started: dict[str, Any] = {}
    ready = threading.Event()

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Stalling, "127.0.0.1", 0)
        stop = asyncio.Event()
        started.update(port=server.sockets[0].getsockname()[1], loop=asyncio.get_running_loop(), stop=stop)
        ready.set()
        async with server:
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(DEADLINE)
    yield started["port"]
    started["loop"].call_soon_threadsafe(started["stop"].set)
    thread.join(DEADLINE)


def test_a_stall_of_200_ms_is_in_the_p99(stalling: int, tmp_path: Any) -> None:
    """At 1,000 requests/s it makes 200 of about 1,200 wait; h2load alone would tell of one per connection."""
    (tmp_path / "body.json").write_text("ok")
    told = at_rate(1000, "stalling", SimpleNamespace(port=stalling), Environment(tmp_path, 0), 1.2)
    assert not any(told.faults.values())
    assert told.figures["p99_us"] > 0.75 * STALL * 1e6
