"""Wakers of a node: eventfds by which its processes wake each other to look at the shared memory.

The words in the memory tell what is true, a waker only when to look, and for which reason. It may be missing, and a
process may die before it has woken others, so readers look at intervals, too.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import IntEnum
from typing import Final, Protocol, final

MOST_WAKERS: Final = 128
"""Columns with a waker. A worker in another column looks at intervals only."""


_MOST_ADDED: Final = (1 << 32) - 1


class WakeReason(IntEnum):
    """Reason to look, as the number that is added to the eventfd: the sum tells all reasons since it was read.

    So pools with connections, which take some microseconds each to look, do not look each time that something has
    happened in the cache.
    """

    CACHE = 1
    POOL = _MOST_ADDED + 1


class ReaderLoop(Protocol):
    """The part of an event loop that a reader needs."""

    def call_soon(self, callback: Callable[[], None], /) -> object: ...

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...


def open_wakers(workers: int) -> dict[int, int]:
    """Return wakers for the columns of control, of this many workers, and of their successors. Raises `OSError`; then
    none is open.
    """
    wakers: dict[int, int] = {}
    try:
        for column in range(2 * workers + 2):
            add_waker(wakers, column)
    except OSError:
        close_wakers(wakers)
        raise
    return wakers


def add_waker(wakers: dict[int, int], column: int) -> bool:
    """Open the waker of this column. False: it is open, or there are too many columns. Raises `OSError`."""
    if column in wakers or column >= MOST_WAKERS:
        return False
    wakers[column] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    return True


def close_wakers(wakers: dict[int, int]) -> None:
    """Close them, and forget them."""
    for waker in wakers.values():
        os.close(waker)
    wakers.clear()


def wake(wakers: Mapping[int, int], column: int, reason: WakeReason) -> None:
    """Wake the process with this column, if it has a waker."""
    if (waker := wakers.get(column)) is not None:
        with suppress(BlockingIOError):  # it is readable already
            os.eventfd_write(waker, reason)


@final
class WakeReader:
    """Calls those who listen in this process when another one wakes it for their reason."""

    def __init__(self, column: int, loop: ReaderLoop, wakers: Mapping[int, int]) -> None:
        self._loop, self._waker = loop, wakers.get(column)
        self._listeners: list[tuple[int, Callable[[], Iterable[Callable[[], None]]]]] = []
        if self._waker is not None:
            loop.add_reader(self._waker, self._woken)

    def listen(self, reason: WakeReason, due: Callable[[], Iterable[Callable[[], None]]]) -> None:
        """Call, from now on, the callbacks that `due` returns when another process wakes this one for this reason.
        They run one by one, so that one that raises keeps no other from being called.
        """
        self._listeners.append((reason * _MOST_ADDED, due))

    def close(self) -> None:
        """Listen no more."""
        if self._waker is not None:
            self._loop.remove_reader(self._waker)

    def _woken(self) -> None:
        assert self._waker is not None
        try:
            added = os.eventfd_read(self._waker)
        except BlockingIOError:
            return
        for mask, due in self._listeners:
            if added & mask:
                for callback in due():
                    self._loop.call_soon(callback)
