"""Origin of event streams.

    GET /ROUTE/publish     send the next event on all open streams; the body is its number
    GET, all other paths   an event stream that begins with the present event

It trusts its peers, which are on this machine: unknown input ends the connection, and so the run.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench.ports import free_port, wait_until_open
from bench.processes import pinned

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """Run the origin on `core` and yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "bench.origin.events", str(port)]
    root = Path(__file__).parents[2]
    with pinned(command, [core], folder / "origin.out", environment={"PYTHONPATH": str(root)}) as origin:
        wait_until_open(port, origin)
        yield port


def event(number: int) -> bytes:
    """Return an event: some 200 bytes, of which a part repeats from one event to the next."""
    status = ("paid", "packed", "sent")[number % 3]
    items = [{"sku": f"A-{number * 7919 % 9973}", "quantity": number % 9 + 1} for _ in "abc"]
    data = {"id": number, "kind": "order.updated", "status": status, "total": number * 37, "items": items}
    return b"id: %d\ndata: %b\n\n" % (number, json.dumps(data).encode())


class Streams:
    """Open streams, and the number of the present event."""

    def __init__(self) -> None:
        self.open: set[asyncio.Transport] = set()
        self.number = 0

    def publish(self) -> int:
        self.number += 1
        chunk = _chunk(self.number)
        for transport in self.open:
            transport.write(chunk)
        return self.number


class Answering(asyncio.Protocol):
    """A connection with requests one after another, the last of which may be an event stream."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._head = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # TCP gives no other
        self._transport = transport

    def connection_lost(self, cause: Exception | None) -> None:
        self._streams.open.discard(self._transport)

    def data_received(self, payload: bytes) -> None:
        head, end, self._head = (self._head + payload).partition(b"\r\n\r\n")
        if not end:
            self._head = head
        elif b"/publish " in head:
            body = b"%d" % self._streams.publish()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            self._streams.open.add(self._transport)
            self._transport.write(HEAD + _chunk(self._streams.number))


def _chunk(number: int) -> bytes:
    data = event(number)
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _serve(port: int) -> None:
    loop, streams = asyncio.get_running_loop(), Streams()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await loop.create_server(lambda: Answering(streams), "127.0.0.1", port, backlog=4096)
    await stopped.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
