"""Both ends of a TCP proxy by hand: a target whose connections a test takes one by one, and bare clients."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Any

from tests.support.peer import DEADLINE

RESET = struct.pack("ii", 1, 0)


class TcpTarget:
    """A service that takes connections when it is asked to, and says nothing by itself."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listening.settimeout(DEADLINE)
        self.port: int = self._listening.getsockname()[1]
        self._taken: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def accept(self, tls: ssl.SSLContext | None = None) -> socket.socket:
        taken, _ = self._listening.accept()
        taken.settimeout(DEADLINE)
        if tls is not None:
            taken = tls.wrap_socket(taken, server_side=True)
        self._taken.append(taken)
        return taken

    def has_nobody(self) -> bool:
        """Whether no connection waits to be taken. One that does is closed."""
        return nobody_waits(self._listening)

    def close(self) -> None:
        for each in (*self._taken, self._listening):
            each.close()


def nobody_waits(listening: socket.socket) -> bool:
    """Whether no connection waits to be accepted. One that does is closed."""
    listening.setblocking(False)
    try:
        listening.accept()[0].close()
    except BlockingIOError:
        return True
    finally:
        listening.settimeout(DEADLINE)
    return False


@contextlib.contextmanager
def tcp_target() -> Iterator[TcpTarget]:
    target = TcpTarget()
    try:
        yield target
    finally:
        target.close()


def connected(port: int, host: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection((host, port), timeout=DEADLINE)
    client.settimeout(DEADLINE)
    return client


def read_exactly(peer: socket.socket, count: int) -> bytes:
    """So many bytes, or what there is until the end."""
    received = b""
    while len(received) < count and (more := peer.recv(count - len(received))):
        received += more
    return received


def read_all(peer: socket.socket) -> bytes:
    """All until the end."""
    received = bytearray()
    while more := peer.recv(1 << 18):
        received += more
    return bytes(received)


def is_reset(peer: socket.socket) -> bool:
    """Whether the connection ends by a reset, and nothing comes before that."""
    try:
        return peer.recv(1) == b"never"
    except ConnectionResetError:
        return True


def reset(peer: socket.socket) -> None:
    """Close a connection so that the other end sees a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()


def tcp_config(target: TcpTarget | str, listener: dict[str, Any] | None = None, **upstream: Any) -> dict[str, Any]:
    """A configuration with one listener of TCP, `main`, and one worker."""
    url = target if isinstance(target, str) else target.url
    return {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0", "protocol": "tcp", "upstream": "service", **(listener or {})}},
        "upstreams": {"service": {"targets": [url], **upstream}},
    }
