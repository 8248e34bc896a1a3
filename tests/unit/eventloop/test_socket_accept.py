"""Accepting: who has connected, and who closes the socket."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastgw.eventloop.socket_accept import AcceptedSocket, accept


def accepted_of(listening: socket.socket) -> AcceptedSocket:
    listening.setblocking(False)
    made = accept(listening.fileno())
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("family", "where", "to"),
    [
        (socket.AF_INET, ("127.0.0.1", 0), "127.0.0.1"),
        (socket.AF_INET6, ("::1", 0), "::1"),
        (socket.AF_INET6, ("::", 0), "127.0.0.1"),  # an IPv4-mapped address
    ],
)
def test_the_client_is_told_by_its_address(family: socket.AddressFamily, where: tuple[str, int], to: str) -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(family))
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(where)
        listening.listen()
        client = stack.enter_context(socket.create_connection((to, listening.getsockname()[1])))
        made = accepted_of(listening)
        assert (made.ip, made.port) == (to, client.getsockname()[1])
        assert not os.get_blocking(made.fileno())
        assert not os.get_inheritable(made.fileno())
        assert accept(listening.fileno()) is None
        made.discard()
        assert client.recv(1) == b""


def test_a_client_of_a_unix_socket_has_no_address(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        client.connect(str(tmp_path / "s"))
        made = accepted_of(listening)
        assert (made.ip, made.port) == ("unix:", 0)
        with socket.socket(fileno=made.as_number()) as taken:
            assert made.fileno() == -1
            taken.sendall(b"a")
            assert client.recv(1) == b"a"


def test_one_that_nobody_has_is_closed() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as client,
    ):
        accepted_of(listening)
        assert client.recv(1) == b""


def test_an_error_is_raised() -> None:
    with socket.socket() as unbound:
        unbound.setblocking(False)
        with pytest.raises(OSError, match="Invalid argument"):
            accept(unbound.fileno())
