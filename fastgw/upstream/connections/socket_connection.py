"""A connection to a target as a bare socket, for TCP proxying: bytes are forwarded unchanged.

The pool counts, opens and limits such connections like all others, but each is lent once. Nothing is read from it or
sent on it before it is lent: neither TLS nor a PROXY header.
"""

import socket
from typing import final

from fastgw.upstream.connections.pooled_connection import Lender, PooledConnection
from fastgw.upstream.targets.dns import TargetAddress
from fastgw.upstream.targets.target import Target


@final
class SocketConnection(PooledConnection):
    """Connection and its only stream. Its borrower takes the socket (`detach`), and calls `release` after it has closed
    it.
    """

    __slots__ = ("_pool", "address", "socket")

    def __init__(self, pool: Lender, target: Target) -> None:
        PooledConnection.__init__(self, target, 0.0)
        self._pool = pool
        self.socket: socket.socket | None = None
        self.address: TargetAddress | None = None

    def __repr__(self) -> str:
        return f"<SocketConnection to {self.target.label}{' closed' if self.closed else ''}>"

    def take_socket(self, connected: socket.socket, address: TargetAddress) -> None:
        """Take over the socket of the open connection."""
        self.socket, self.address = connected, address

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
