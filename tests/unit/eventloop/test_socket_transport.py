"""A socket as a transport: all bytes come and go in order, each end is told once, and no connection harms another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw.eventloop.socket_transport import SocketTransport, StreamProtocol, room, send_at_once
from fastgw.eventloop.worker_loop import WorkerLoop
from tests.support.on_loop import on_loop, turns, until
from tests.support.table import for_each

MESSAGE = bytes(range(256)) * 8192
"""More than a socket holds."""
RESET = struct.pack("ii", 1, 0)


class Calls(StreamProtocol):
    """Records the calls of a transport. `stays`: the answer to an end; `size`: of the buffer."""

    def __init__(self, stays: bool = False, size: int = 65_536) -> None:
        self.buffer = memoryview(bytearray(size))
        self.received = b""
        self.told: list[Any] = []
        self.rest: bytes | None = None
        self.stays = stays
        self.transport: SocketTransport

    def connection_made(self, transport: SocketTransport) -> None:
        self.transport = transport

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]

    def eof_received(self) -> bool:
        self.told.append("end")
        return self.stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(type(exc))
        with contextlib.suppress(OSError):
            self.rest = bytes(self.buffer[: self.transport.read_rest(self.buffer)])

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def peer_left(self) -> None:
        self.told.append("left")


class Pair:
    """A transport and the socket of its peer."""

    def __init__(self, worker_loop: WorkerLoop, calls: Calls, unix: bool = False) -> None:
        if unix:
            near, self.far = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                self.far = socket.create_connection(server.getsockname())
                near, _ = server.accept()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        near.setblocking(False)
        self.far.setblocking(False)
        self.calls = calls
        self.transport = SocketTransport(worker_loop, near.detach())
        self.transport.begin(calls)

    async def read(self, count: int) -> bytes:
        """What the peer receives, up to this many bytes."""
        loop, received = asyncio.get_running_loop(), b""
        async with asyncio.timeout(30):
            while len(received) < count and (more := await loop.sock_recv(self.far, 65_536)):
                received += more
        return received


@asynccontextmanager
async def surroundings() -> AsyncIterator[Callable[..., Pair]]:
    worker_loop = WorkerLoop(asyncio.get_running_loop())
    with ExitStack() as stack:
        stack.callback(worker_loop.close)

        def pair(calls: Calls | None = None, **how: Any) -> Pair:
            made = Pair(worker_loop, calls or Calls(), **how)
            stack.callback(made.transport.abort)
            stack.enter_context(made.far)
            return made

        yield pair


@on_loop
async def test_what_the_socket_does_not_take_is_sent_later_in_order() -> None:
    """However it was written. Writing pauses once, and resumes when nothing is held."""
    async with surroundings() as pair:
        for unix in (False, True):
            for cut in (0, 3, 1 << 20):
                one = pair(unix=unix)
                one.transport.write(b"first")
                assert not one.calls.told
                one.transport.write_parts(MESSAGE[:cut], MESSAGE[cut:])
                one.transport.write(memoryview(b"middle"))
                one.transport.write(b"")
                for number in range(100):
                    one.transport.write(b"%02d" % number)
                one.transport.write_parts(MESSAGE, b"last")
                assert one.calls.told == ["pause"]
                sent = b"".join(
                    [b"first", MESSAGE, b"middle", *(b"%02d" % number for number in range(100)), MESSAGE, b"last"]
                )
                assert 0 < one.transport.get_write_buffer_size() < len(sent)
                assert await one.read(len(sent)) == sent
                await until(lambda one=one: one.calls.told == ["pause", "resume"])
                assert one.transport.get_write_buffer_size() == 0


@on_loop
async def test_what_is_held_is_sent_before_an_end_and_dropped_by_an_abort() -> None:
    async with surroundings() as pair:
        for end, ended in (("write_eof", True), ("close", True), ("abort", False)):
            one = pair()
            one.transport.write(MESSAGE)
            getattr(one.transport, end)()
            assert one.transport.is_closing() is (end != "write_eof")
            if end != "write_eof":
                one.transport.write(b"late")
            received = await one.read(len(MESSAGE) + 4)
            assert (received == MESSAGE) is ended
            assert MESSAGE.startswith(received)
            if end == "write_eof":
                one.far.send(b"still read")
                await until(lambda one=one: one.calls.received == b"still read")
                assert one.calls.told == ["pause", "resume"]
            else:
                await until(lambda one=one: one.calls.told == ["pause", type(None)])
                assert one.transport.fd == -1


@on_loop
async def test_all_is_read_that_comes_and_nothing_while_it_is_paused() -> None:
    async with surroundings() as pair:
        for size in (1, 1000, 65_536):
            one = pair(Calls(size=size))
            one.far.send(MESSAGE[:5000])
            await until(lambda one=one: len(one.calls.received) == 5000)
            one.transport.pause_reading()
            one.far.send(MESSAGE[5000:9000])
            await turns()
            assert len(one.calls.received) == 5000
            one.transport.resume_reading()
            await until(lambda one=one: len(one.calls.received) == 9000)
            one.far.send(b"x")
            one.far.close()
            await until(lambda one=one: one.calls.told == ["end", type(None)])
            assert one.calls.received == MESSAGE[:9000] + b"x"
            assert one.transport.fd == -1


@on_loop
async def test_a_socket_with_much_to_read_lets_others_have_their_turn() -> None:
    async with surroundings() as pair:
        greedy, other = pair(Calls(size=1)), pair()
        order: list[str] = []
        greedy.calls.buffer_updated = lambda nbytes: order.append("greedy")  # type: ignore[method-assign]
        other.calls.buffer_updated = lambda nbytes: order.append("other")  # type: ignore[method-assign]
        greedy.far.send(bytes(10_000))
        other.far.send(b"x")
        await until(lambda: len(order) == 10_001)
        assert order.index("other") < 1000


@on_loop
async def test_after_the_end_of_the_peer_the_other_direction_goes_on_where_it_is_wanted() -> None:
    async with surroundings() as pair:
        one = pair(Calls(stays=True))
        one.far.shutdown(socket.SHUT_WR)
        await until(lambda: one.calls.told == ["end"])
        one.transport.pause_reading()
        one.transport.resume_reading()
        one.transport.write(b"response")
        assert await one.read(8) == b"response"
        await turns()
        assert one.calls.told == ["end"]
        one.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.far.close()
        await until(lambda: one.calls.told == ["end", BrokenPipeError])


@on_loop
async def test_a_reset_is_an_error_and_what_came_before_a_failed_write_can_still_be_read() -> None:
    """As the response of an upstream that answers early and closes. What was read to its error gives no rest: that
    would be taken for an end.
    """
    async with surroundings() as pair:
        one = pair()
        one.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.far.close()
        await until(lambda: one.calls.told == [ConnectionResetError])
        assert one.calls.rest is None
        one = pair()
        one.transport.pause_reading()
        one.transport.write(b"request")
        one.far.send(b"early")
        one.far.close()  # with unread data: a reset
        async with asyncio.timeout(30):
            while not one.calls.told:
                one.transport.write(b"more")
                await asyncio.sleep(0)
        assert one.calls.told[0] in (BrokenPipeError, ConnectionResetError)
        assert one.calls.rest == b"early"
        assert one.transport.fd == -1
        one.transport.write(b"no effect")
        one.transport.close()
        one.transport.abort()
        await turns()
        assert len(one.calls.told) == 1


@for_each("how", ["fin", "reset", "fin behind bytes", "fin before"])
@on_loop
async def test_a_peer_that_leaves_is_noticed_though_nobody_reads(how: str) -> None:
    async with surroundings() as pair:
        one, hangups = pair(), WorkerLoop(asyncio.get_running_loop()).hangups
        one.transport.pause_reading()
        if how == "fin before":
            one.far.shutdown(socket.SHUT_WR)
            await turns()
        for _ in range(2):  # paused, read on, paused again
            hangups.watch(one.transport)
            hangups.unwatch(one.transport)
            hangups.tick()
            hangups.watch(one.transport)
        assert not one.calls.told
        hangups.tick()
        if how == "fin behind bytes":
            one.far.send(b"x" * 1000)
        if how == "reset":
            one.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.far.close()
        await until(lambda: one.calls.told == ["left"])
        hangups.tick()
        hangups.unwatch(one.transport)
        await turns()
        assert one.calls.told == ["left"]
        one.transport.resume_reading()
        await until(lambda: len(one.calls.told) > 1)
        assert one.calls.told[1] == (ConnectionResetError if how == "reset" else "end")
        assert len(one.calls.received) == (1000 if how == "fin behind bytes" else 0)


@on_loop
async def test_bytes_that_came_while_a_hangup_was_awaited_are_read() -> None:
    async with surroundings() as pair:
        one = pair()
        one.transport.pause_reading()
        one.transport.await_hangup()
        one.far.send(b"x")
        await turns()
        one.transport.ignore_hangup()
        one.transport.resume_reading()
        await until(lambda: one.calls.received == b"x")
        one.far.send(b"y")
        await until(lambda: one.calls.received == b"xy")


@on_loop
async def test_a_defect_ends_its_connection_and_no_other() -> None:
    raised: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    async with surroundings() as pair:
        for method in ("buffer_updated", "eof_received", "connection_lost", "resume_writing"):
            broken, other = pair(), pair()
            setattr(broken.calls, method, fail)
            if method == "resume_writing":
                broken.transport.write(MESSAGE)
                assert await broken.read(len(MESSAGE)) == MESSAGE
            else:
                broken.far.send(b"x")
                broken.far.shutdown(socket.SHUT_WR)
            other.far.send(b"x")
            await until(lambda other=other: other.calls.received == b"x")
            await until(lambda broken=broken: broken.transport.fd == -1)
            assert not other.calls.told
        assert [type(error) for error in raised] == [ZeroDivisionError] * 4


@on_loop
async def test_a_socket_can_be_taken_out_with_what_it_has_not_read() -> None:
    async with surroundings() as pair:
        one, calls = pair(), Calls()
        one.transport.pause_reading()
        one.far.send(b"unread")
        await turns()
        fd = one.transport.detach()
        again = SocketTransport(WorkerLoop(asyncio.get_running_loop()), fd)
        again.begin(calls)
        await until(lambda: calls.received == b"unread")
        again.write(b"answer")
        assert await one.read(6) == b"answer"
        assert not one.calls.told
        again.abort()


@on_loop
async def test_what_cannot_be_watched_stays_the_callers(tmp_path: Path) -> None:
    """As for lack of watches; here because it is a file."""
    worker_loop = WorkerLoop(asyncio.get_running_loop())
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(OSError, match="not permitted"):
            SocketTransport(worker_loop, file.fileno())
        os.fstat(file.fileno())
    worker_loop.close()


def test_what_the_socket_takes_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        sent = send_at_once(ours.fileno(), MESSAGE)
        assert 0 < sent < len(MESSAGE)
        assert send_at_once(ours.fileno(), MESSAGE) == 0
        received = b""
        while len(received) < sent:
            received += theirs.recv(65536)
        assert received == MESSAGE[:sent]
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        theirs.close()
        assert send_at_once(ours.fileno(), b"a") == 0
        assert send_at_once(1_000_000, b"a") == 0


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


@pytest.mark.parametrize("pair", [tcp_pair, socket.socketpair], ids=["tcp", "unix"])
def test_a_socket_has_room_until_it_is_full(pair: Callable[[], tuple[socket.socket, socket.socket]]) -> None:
    ours, theirs = pair()
    with ours, theirs:
        ours.setblocking(False)
        first, sent = room(ours.fileno()), 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += ours.send(bytes(65536))
        assert 0 < first <= sent * 2
        assert room(ours.fileno()) < first / 8
        while sent:
            sent -= len(theirs.recv(65536))
        assert room(ours.fileno()) > first / 2


def test_what_is_no_socket_has_no_room(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        assert room(file.fileno()) == 0
    assert room(1_000_000) == 0
