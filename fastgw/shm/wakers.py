"""Wakers of a node: eventfds by which its processes wake each other to look at the shared memory.

The words in the memory tell what is true, a waker only when to look. It may be missing, and a process may die before it
has woken others, so readers look at intervals, too.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol, final

MOST_WAKERS: Final = 128
"""Columns with a waker. A worker in another column looks at intervals only."""


class ReaderLoop(Protocol):
    """The part of an event loop that a reader needs."""

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...


def open_wakers(workers: int) -> dict[int, int]:
    """Return wakers for the columns of control, of this many workers, and of their successors. Raises `OSError`."""
    wakers: dict[int, int] = {}
    for column in range(2 * workers + 2):
        add_waker(wakers, column)
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


def wake(wakers: Mapping[int, int], column: int) -> None:
    """Wake the process with this column, if it has a waker."""
    if (waker := wakers.get(column)) is not None:
        with suppress(BlockingIOError):  # it is readable already
            os.eventfd_write(waker, 1)


@final
class WakeReader:
    """Calls those who listen in this process when another one wakes it."""

    def __init__(self, column: int, loop: ReaderLoop, wakers: Mapping[int, int]) -> None:
        self._loop, self._waker = loop, wakers.get(column)
        self._listeners: list[Callable[[], None]] = []
        if self._waker is not None:
            loop.add_reader(self._waker, self._woken)

    def listen(self, callback: Callable[[], None]) -> None:
        """Call this from now on when another process wakes this one."""
        self._listeners.append(callback)

    def close(self) -> None:
        """Listen no more."""
        if self._waker is not None:
            self._loop.remove_reader(self._waker)

    def _woken(self) -> None:
        assert self._waker is not None
        with suppress(BlockingIOError):
            os.eventfd_read(self._waker)
        for callback in self._listeners:
            callback()
