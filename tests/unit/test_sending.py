"""Sending without the transport: what the socket takes is told, and nothing is lost by an error."""

import socket
from collections.abc import Callable

import pytest

from fastgw.node import sending
from fastgw.node.sending import send_at_once

WAYS = list(dict.fromkeys([sending._send_at_once, send_at_once]))
Send = Callable[[int, bytes], int]


@pytest.mark.parametrize("send", WAYS)
def test_what_the_socket_takes_is_told(send: Send) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        message = bytes(range(256)) * 8192  # more than a socket holds
        sent = send(ours.fileno(), message)
        assert 0 < sent < len(message)
        assert send(ours.fileno(), message) == 0
        received = b""
        while len(received) < sent:
            received += theirs.recv(65536)
        assert received == message[:sent]
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


@pytest.mark.parametrize("send", WAYS)
def test_an_error_is_for_the_next_who_tries(send: Send) -> None:
    """A peer that has gone raises no signal and no exception here."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        assert send(ours.fileno(), b"a") == 0
        assert send(1_000_000, b"a") == 0
