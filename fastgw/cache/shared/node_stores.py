"""The cache stores of a node: made by the supervisor, and handles of them in each process."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Protocol, final

from fastgw.cache.shared.layout import MOST_COLUMNS, CacheMemory
from fastgw.cache.shared.recovery import clean_up
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.shared.watches import WatchLoop
from fastgw.cache.store import Store, StoreNumbers

_MOST_WAKERS: Final = 128
"""Columns with an eventfd. A worker in another column looks at intervals only."""


class NodeStore(NamedTuple):
    """One store of the node. `number`: another one after each change of its settings; `fd`: of its memory."""

    number: int
    memory: CacheMemory
    most_bytes: int


class StoreSettings(NamedTuple):
    """Settings of a store that matter to its memory."""

    memory: int
    most_bytes: int


def open_wakers(workers: int) -> dict[int, int]:
    """Return eventfds for the columns of control, of this many workers, and of their successors. Raises `OSError`."""
    count = min(2 * workers + 2, _MOST_WAKERS)
    return {column: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for column in range(count)}


@final
class NodeStores:
    """The stores as the supervisor keeps them; its children inherit them. `wakers`: eventfds by column."""

    def __init__(self, wakers: Mapping[int, int]) -> None:
        self.wakers = dict(wakers)
        self.stores: dict[str, NodeStore] = {}
        self.next_number = 1

    def planned(self, settings: Mapping[str, StoreSettings]) -> dict[str, NodeStore]:
        """Return the stores for these settings: the present ones as far as they are the same. Raises `OSError`."""
        found = {}
        for name, wanted in settings.items():
            store = self.stores.get(name)
            if store is None or (store.memory.memory, store.most_bytes) != wanted:
                is_as_large = store is not None and store.memory.memory == wanted.memory
                memory = store.memory if store is not None and is_as_large else CacheMemory(wanted.memory)
                store = NodeStore(self.next_number, memory, wanted.most_bytes)
                self.next_number += 1
            found[name] = store
        return found

    def clean_up(self, column: int) -> None:
        """Put the column of a dead process in order, in all stores."""
        if column < MOST_COLUMNS:
            for memory in {id(store.memory): store.memory for store in self.stores.values()}.values():
                clean_up(memory, column, self.wakers)

    def close(self) -> None:
        """Close the eventfds."""
        for waker in self.wakers.values():
            os.close(waker)
        self.wakers.clear()


class WakeLoop(WatchLoop, Protocol):
    """The part of an event loop that handles need."""

    def add_reader(self, fd: int, callback: Callable[[], None], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...


@final
class StoreHandles:
    """Handles of one process. `column`: see `CacheMemory`; with one that the memory does not have there are none."""

    def __init__(self, column: int, loop: WakeLoop, stores: NodeStores) -> None:
        self._column, self._loop, self._wakers = column, loop, stores.wakers
        self._handles: dict[str, SharedStore] = {}
        self._former: list[SharedStore] = []  # tables from before a reload may still use them
        for name, store in stores.stores.items():
            self._open(name, store.memory, store.most_bytes)
        if (waker := self._wakers.get(column)) is not None:
            loop.add_reader(waker, self._woken)

    def get(self, name: str) -> Store | None:
        """Return the handle of a store; None: there is no such store."""
        return self._handles.get(name)

    def numbers(self, names: Iterable[str]) -> dict[str, StoreNumbers]:
        """Return the state of these stores, for all processes."""
        return {name: handle.numbers() for name in names if (handle := self._handles.get(name)) is not None}

    def attach(self, name: str, fd: int, memory: int, most_bytes: int) -> None:
        """Use another store under a name. It takes over the descriptor. Raises `OSError` and `OtherCacheLayout`."""
        self._open(name, CacheMemory.attach(fd, memory), most_bytes)

    def close(self) -> None:
        """Close all handles."""
        for handle in (*self._handles.values(), *self._former):
            handle.close()
        if (waker := self._wakers.get(self._column)) is not None:
            self._loop.remove_reader(waker)

    def _open(self, name: str, memory: CacheMemory, most_bytes: int) -> None:
        if self._column >= MOST_COLUMNS:
            return
        if (before := self._handles.get(name)) is not None:
            self._former = [*self._former[-1:], before]
        self._handles[name] = SharedStore(memory, self._column, self._loop, self._wakers, most_bytes)

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wakers[self._column])
        for handle in (*self._handles.values(), *self._former):
            handle.call_due()
