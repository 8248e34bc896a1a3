"""A connection to a target as a bare socket, for TCP proxying: bytes are forwarded unchanged.

The pool counts, opens and limits such connections like all others, but each is lent once. Nothing is read from it or
sent on it before it is lent: neither TLS nor a PROXY header.
"""

import socket
from typing import Any, Protocol, final

from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target


class SocketLender(Protocol):
    """Pool that a connection belongs to."""

    def discard(self, connection: Any) -> None: ...


@final
class SocketConnection:
    """Connection and its only stream. Its borrower takes the socket (`detach`), and calls `release` after it has closed
    it.
    """

    __slots__ = ("_pool", "address", "closed", "idle_since", "socket", "streams", "target", "uses")

    capacity = 1
    lost_by = ""

    def __init__(self, pool: SocketLender, target: Target) -> None:
        self._pool = pool
        self.target = target
        self.socket: socket.socket | None = None
        self.address: TargetAddress | None = None
        self.streams = self.uses = 0
        self.idle_since = 0.0
        self.closed = False

    def __repr__(self) -> str:
        return f"<SocketConnection to {self.target.label}{' closed' if self.closed else ''}>"

    def take_socket(self, connected: socket.socket, address: TargetAddress) -> None:
        """Take over the socket of the open connection."""
        self.socket, self.address = connected, address

    def open_stream(self) -> "SocketConnection":
        return self

    def detach(self) -> socket.socket:
        """Return the socket, which the borrower has to close."""
        connected, self.socket = self.socket, None
        assert connected is not None
        return connected

    def release(self) -> None:
        """Release the connection in the pool: the socket is closed."""
        self._pool.discard(self)

    def close(self) -> None:
        self.closed = True
        held, self.socket = self.socket, None
        if held is not None:
            held.close()
