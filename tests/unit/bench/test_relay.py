"""The relay of `bench path`: bytes pass both ways, to the target of their protocol, later by half a round trip."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter

from bench.load.relay import Accepted, Path, Pipe
from tests.support.on_loop import on_loop
from tests.support.table import for_each


async def listening(name: bytes) -> tuple[asyncio.Server, int]:
    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(name + await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


@for_each("sent, answer", [(b"GET / HTTP/1.1", b"one"), (b"PRI * HTTP/2.0", b"two")])
@on_loop
async def test_a_connection_passes_to_the_target_of_its_protocol_with_its_end(sent: bytes, answer: bytes) -> None:
    path, loop = Path(), asyncio.get_running_loop()
    (one, one_port), (two, two_port) = await listening(b"one"), await listening(b"two")
    relay = await loop.create_server(lambda: Accepted(path, one_port, two_port), "127.0.0.1", 0)
    async with relay, one, two, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.sockets[0].getsockname()[1])
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == answer + sent
        writer.close()
        await writer.wait_closed()
        while path.open:
            await asyncio.sleep(0)


class Loop:
    """A clock that stands still, and the calls that are due."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[float] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, call: object) -> None:
        self.due.append(at)


@on_loop
async def test_bytes_are_due_half_a_round_trip_after_they_came_and_after_the_connect() -> None:
    path, loop = Path(), Loop()
    path.round_trip_s = 0.08
    for begin_at, due in ((0.0, 100.04), (100.08, 100.12)):
        pipe = Pipe(path, begin_at)
        pipe._loop = loop  # type: ignore[assignment]
        pipe.data_received(b"x")
        assert loop.due.pop() == due
