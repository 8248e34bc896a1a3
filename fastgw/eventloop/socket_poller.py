"""Polls sockets that are read and written without a transport, by an epoll set of its own.

A socket is registered once, for reading and writing, edge-triggered (EPOLLET): afterwards waiting needs no system call.
The loop watches the epoll set as one descriptor.
"""

import asyncio
import select
from collections.abc import Iterator
from typing import Final, Protocol, cast

READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITABLE: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
ENDED: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
"""The peer has ended its direction, or the connection is over: the next read distinguishes them."""
BROKEN: Final = select.EPOLLHUP | select.EPOLLERR
_WATCHED: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_PER_TURN: Final = 1024


class SocketListener(Protocol):
    def ready(self, events: int) -> None:
        """Handle a change of the socket. The event may belong to an earlier socket with the same descriptor, so a call
        must check.
        """


class SocketPoller:
    """Poller of a worker. Rule: listeners read until the socket is empty, and write until it is full."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._listeners: dict[int, SocketListener] = {}
        self._again: list[SocketListener] = []
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, listener: SocketListener) -> None:
        """Call this listener on events of the socket, until `forget`. Raises `OSError`: it watches no more sockets."""
        self._epoll.register(fd, _WATCHED)
        self._listeners[fd] = listener

    def take_over(self, fd: int, listener: SocketListener) -> None:
        """Replace the listener. Events that the previous one received are not repeated."""
        self._listeners[fd] = listener

    def forget(self, fd: int) -> None:
        """Remove the listener. Call it before the socket is closed, which removes it from the epoll set."""
        self._listeners.pop(fd, None)

    def call_again(self, listener: SocketListener) -> None:
        """Call the listener in the next turn of the loop, without events, because it has not read everything."""
        if not self._again:
            self._loop.call_soon(self._call_waiting)
        self._again.append(listener)

    def _call_waiting(self) -> None:
        again, self._again = self._again, []
        for listener in again:
            listener.ready(0)

    def _ready(self) -> None:
        self._notify(iter(self._epoll.poll(0, _PER_TURN)))

    def _notify(self, remaining: Iterator[tuple[int, int]]) -> None:
        listeners = self._listeners
        try:
            for fd, events in remaining:
                listener = listeners.get(fd)
                if listener is not None:
                    listener.ready(events)
        finally:
            if left := list(remaining):  # a listener has raised: each edge is reported once
                self._loop.call_soon(self._notify, iter(left))

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()


def new_socket_poller(loop: asyncio.AbstractEventLoop) -> SocketPoller:
    """Return a compiled poller."""
    from fastgw.eventloop import _socket_poller

    return cast(SocketPoller, _socket_poller.SocketPoller(loop))
