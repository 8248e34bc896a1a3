"""Sockets that are read and written without a transport: what is ready is told by an epoll set of its own.

A socket is registered once, for reading and writing, with edges (EPOLLET): afterwards no call to the kernel is needed
to wait for either. The loop watches the set as one descriptor.
"""

import asyncio
import select
from typing import Final, Protocol

READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITABLE: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
ENDED: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
"""The peer has ended its direction, or the connection is over: the next read tells which."""
BROKEN: Final = select.EPOLLHUP | select.EPOLLERR
_WATCHED: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_PER_TURN: Final = 1024


class SocketListener(Protocol):
    def ready(self, events: int) -> None:
        """The socket has changed. It may concern a socket that had this descriptor before: a call on it tells."""


class SocketPoller:
    """One per worker. Rule: who watches a socket reads until it is empty, and writes until it is full."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._listeners: dict[int, SocketListener] = {}
        self._again: list[SocketListener] = []
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, listener: SocketListener) -> None:
        """Tell this listener of the socket, until `forget`."""
        self._listeners[fd] = listener
        self._epoll.register(fd, _WATCHED)

    def take_over(self, fd: int, listener: SocketListener) -> None:
        """Tell another listener from now on. What was told to the one before is not told again."""
        self._listeners[fd] = listener

    def forget(self, fd: int) -> None:
        """Tell nobody. To be called before the socket is closed, which takes it out of the set."""
        self._listeners.pop(fd, None)

    def call_again(self, listener: SocketListener) -> None:
        """Tell the listener, with no events, once others have had their turn: it has not read all that is there."""
        if not self._again:
            self._loop.call_soon(self._go_on)
        self._again.append(listener)

    def _go_on(self) -> None:
        again, self._again = self._again, []
        for listener in again:
            listener.ready(0)

    def _ready(self) -> None:
        listeners = self._listeners
        for fd, events in self._epoll.poll(0, _PER_TURN):
            listener = listeners.get(fd)
            if listener is not None:
                listener.ready(events)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
