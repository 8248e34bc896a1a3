"""Connecting to a literal address of TCP, without a task."""

from typing import Protocol, final

from fastgw.eventloop.socket_transport import SocketTransport
from fastgw.eventloop.worker_loop import WorkerLoop

class Address(Protocol):
    """A literal address, as of `dns.TargetAddress`."""

    @property
    def family(self) -> int: ...
    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int] | str: ...

class Dialer(Protocol):
    """Owner of a socket that is connected."""

    def dialed(self, transport: SocketTransport, error: int) -> None:
        """Handle the end of a connect. `error`: its errno, or 0."""

def dial(address: Address) -> int:
    """Begin to connect to an address of TCP, and return the socket's descriptor. Raises `OSError`."""

@final
class DialedTransport(SocketTransport):
    """A socket that is being connected, and then one like any other."""

    def __init__(self, worker_loop: WorkerLoop, fd: int, dialer: Dialer) -> None:
        """`dialer`: it is told of the end of the connect, once, unless the transport was closed before. Raises
        `OSError`, see `SocketTransport`.
        """
