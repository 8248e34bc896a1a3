"""Both ends of a UDP session, played by hand: a target that answers on request, and plain clients."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.gateway import Gateway
from tests.support.peer import DEADLINE


class UdpTarget:
    """A service that answers by hand."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(DEADLINE)
        self.port: int = self.socket.getsockname()[1]

    @property
    def url(self) -> str:
        return f"udp://127.0.0.1:{self.port}"

    def echo(self) -> tuple[bytes, Any]:
        """Answer one datagram by itself."""
        payload, peer = self.socket.recvfrom(65_535)
        self.socket.sendto(payload, peer)
        return payload, peer

    def has_one(self, within: float = 0.3) -> bool:
        """Whether a datagram is there, or comes within these seconds."""
        self.socket.settimeout(within)
        try:
            return bool(self.socket.recvfrom(1, socket.MSG_PEEK))
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(DEADLINE)

    def close(self) -> None:
        self.socket.close()


@contextmanager
def client_of(gateway: Gateway, host: str = "127.0.0.1", listener: str = "main") -> Iterator[socket.socket]:
    """A socket that takes answers from this address of the gateway alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect((host, gateway.port(listener)))
        made.settimeout(DEADLINE)
        yield made
