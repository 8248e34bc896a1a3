"""Polls sockets that are read and written here and not by the event loop, by an epoll set of its own.

A socket is registered once, for reading and writing, edge-triggered (EPOLLET): afterwards waiting needs no system call.
The loop watches the epoll set as one descriptor.
"""

from asyncio import AbstractEventLoop
from typing import Final, Protocol, final, type_check_only

READABLE: Final[int]
WRITABLE: Final[int]
ENDED: Final[int]
"""The peer has ended its direction, or the connection is over: the next read distinguishes them."""

@type_check_only
class SocketListener(Protocol):
    def ready(self, events: int) -> None:
        """Handle a change of the socket. `events`: those of epoll; 0: it was called by `call_again`."""

@final
class SocketPoller:
    """Poller of a worker. Rule: listeners read until the socket is empty, and write until it is full.

    Listeners in compiled code (`FdListener`) are called without Python. Events of a socket that was forgotten reach no
    other one with the same descriptor.
    """

    def __init__(self, loop: AbstractEventLoop) -> None: ...
    def watch(self, fd: int, listener: SocketListener) -> None:
        """Call this listener on events of the socket, until `forget`. Raises `OSError`: it watches no more sockets."""

    def forget(self, fd: int) -> None:
        """Remove the listener. Call it before the socket is closed, which removes it from the epoll set."""

    def release(self, fd: int) -> None:
        """Remove the listener, and the socket from the epoll set: it stays open, for another listener."""

    def report(self, defect: Exception) -> None:
        """Report an exception of a listener to the loop's handler."""

    def call_again(self, listener: SocketListener) -> None:
        """Call the listener in the next turn of the loop, without events, because it has not read everything."""

    def close(self) -> None: ...
