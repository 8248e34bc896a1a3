"""Both ends of a TCP proxy, played by hand: a target whose connections a test accepts one by one, and plain clients."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Any

from tests.support.own_ports import listen_on_own_port
from tests.support.peer import DEADLINE

RESET = struct.pack("ii", 1, 0)


class TcpTarget:
    """A service that accepts connections on request, and sends nothing by itself."""

    def __init__(self) -> None:
        self._listening = listen_on_own_port(64)
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
        """Whether no connection waits to be accepted. A waiting one is closed."""
        return nobody_waits(self._listening)

    def close(self) -> None:
        for each in (*self._taken, self._listening):
            each.close()


def nobody_waits(listening: socket.socket) -> bool:
    """Whether no connection waits to be accepted. A waiting one is closed."""
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
    """Return this many bytes, or fewer at the end."""
    received = b""
    while len(received) < count and (more := peer.recv(count - len(received))):
        received += more
    return received


def read_all(peer: socket.socket) -> bytes:
    """Return all bytes until the end."""
    received = bytearray()
    while more := peer.recv(1 << 18):
        received += more
    return bytes(received)


def is_reset(peer: socket.socket) -> bool:
    """Whether the connection ends by a reset, without any bytes before."""
    try:
        return peer.recv(1) == b"never"
    except ConnectionResetError:
        return True


def connects_and_is_reset(port: int) -> bool:
    """Whether a new connection ends by a reset, which may come before `connect` has returned."""
    try:
        with connected(port) as client:
            return is_reset(client)
    except ConnectionResetError:
        return True


def reset(peer: socket.socket) -> None:
    """Close a connection by a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()


def tcp_config(target: TcpTarget | str, listener: dict[str, Any] | None = None, **upstream: Any) -> dict[str, Any]:
    """Return a configuration with one TCP listener, `main`, and one worker."""
    url = target if isinstance(target, str) else target.url
    return {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0", "protocol": "tcp", "upstream": "service", **(listener or {})}},
        "upstreams": {"service": {"targets": [url], **upstream}},
    }
