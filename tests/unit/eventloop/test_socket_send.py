"""Sending without the transport: what the socket takes is told, and nothing is lost by an error."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from fastgw.eventloop.socket_send import room, send, send_at_once, send_parts
from tests.support.table import for_each


def test_what_the_socket_takes_is_told() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        message = bytes(range(256)) * 8192  # more than a socket holds
        sent = send_at_once(ours.fileno(), message)
        assert 0 < sent < len(message)
        assert send_at_once(ours.fileno(), message) == 0
        received = b""
        while len(received) < sent:
            received += theirs.recv(65536)
        assert received == message[:sent]
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


def test_an_error_is_for_the_next_who_tries() -> None:
    """A peer that has gone raises no signal and no exception here."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        assert send_at_once(ours.fileno(), b"a") == 0
        assert send_at_once(1_000_000, b"a") == 0


class Written(asyncio.WriteTransport):
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


@pytest.mark.parametrize("waiting", [False, True])
def test_what_the_socket_does_not_take_is_the_transports(waiting: bool) -> None:
    """And all, where something waits there already: it would be overtaken."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        transport, message = Written(), bytes(range(256)) * 8192
        send(ours.fileno(), b"abc", transport, waiting)
        assert transport.written == [b"abc"] * waiting
        send(ours.fileno(), message, transport, waiting)
        *_, left = transport.written
        assert message.endswith(left)
        assert (left == message) is waiting
        assert len(transport.written) == 1 + waiting
        sent = b"" if waiting else b"abc" + message[: len(message) - len(left)]
        received = b""
        while len(received) < len(sent):
            received += theirs.recv(65536)
        assert received == sent


@for_each("cut", [0, 3, 1 << 20])
@for_each("waiting", [False, True])
def test_a_message_in_two_parts_is_sent_in_order(cut: int, waiting: bool) -> None:
    """`cut`: where the second part begins; the socket takes less than a MiB."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        transport, message = Written(), bytes(range(256)) * 8192
        send_parts(ours.fileno(), b"a", b"bc", transport, waiting)
        assert b"".join(transport.written) == b"abc" * waiting
        transport.written.clear()
        send_parts(ours.fileno(), message[:cut], message[cut:], transport, waiting)
        left = b"".join(transport.written)
        sent = b"" if waiting else b"abc" + message[: len(message) - len(left)]
        assert 0 < len(left) < len(message) or waiting
        received = b""
        while len(received) < len(sent):
            received += theirs.recv(65536)
        assert received == sent
        assert message.endswith(left)
        for fd in (-1, 1_000_000):
            transport.written.clear()
            send_parts(fd, b"ab", b"c", transport, False)
            assert b"".join(transport.written) == b"abc"


@pytest.mark.parametrize("fd", [-1, 1_000_000])
def test_without_a_socket_all_is_the_transports(fd: int) -> None:
    transport = Written()
    send(fd, b"abc", transport, False)
    send(fd, b"", transport, False)
    assert transport.written == [b"abc"]


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
