"""Watches of a shared store: callbacks of one worker, called for what other workers do.

Every process counts the events of a class of keys (`CLASSES`) in its own column; the sums over all columns tell a
worker whether something has happened. So no event is lost, however late it is looked at. The wakers of the node say
when to look (`shm.wakers`); a worker with watches looks at intervals, too.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol, final

from fastgw.cache.shared.layout import ALL_EVENTS, COLUMNS, CacheMemory
from fastgw.shm.wakers import WakeReason, wake

LOOK_S: Final = 0.05
"""Seconds between two looks of a worker that has watches."""


class TimerHandle(Protocol):
    """A scheduled call."""

    def cancel(self) -> None: ...


class WatchLoop(Protocol):
    """The part of an event loop that watches need."""

    def call_soon(self, callback: Callable[[], None], /) -> object: ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> TimerHandle: ...


@final
class KeyWatch:
    """A registered callback."""

    def __init__(self, watches: "Watches", class_: int, callback: Callable[[], None]) -> None:
        self._watches = watches
        self.class_, self.callback = class_, callback

    def cancel(self) -> None:
        """End the watch. Repeated calls do nothing."""
        self._watches.drop(self)


@final
class Watches:
    """The watches of one worker. `wakers`: of the workers, by column; those of others may be missing."""

    def __init__(self, memory: CacheMemory, column: int, loop: WatchLoop, wakers: Mapping[int, int]) -> None:
        self._memory, self._words = memory, memory.words
        self._column, self._loop, self._wakers = column, loop, wakers
        self._own = memory.watches(column)
        self._watches: dict[int, list[KeyWatch]] = {}
        self._seen: dict[int, int] = {}  # events by class, as of the last look
        self._seen_all = 0
        self._timer: TimerHandle | None = None

    def add(self, class_: int, callback: Callable[[], None]) -> KeyWatch:
        """Register a callback for keys of a class."""
        watch = KeyWatch(self, class_, callback)
        if not self._watches:
            self._seen_all = self._words[ALL_EVENTS]
        here = self._watches.setdefault(watch.class_, [])
        here.append(watch)
        self._words[self._own + watch.class_] += 1
        self._memory.fence()
        if len(here) == 1:
            self._seen[watch.class_] = self._events(watch.class_)
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._look_again)
        return watch

    def drop(self, watch: KeyWatch) -> None:
        """Remove a watch, if it is still there."""
        here = self._watches.get(watch.class_, [])
        if watch not in here:
            return
        here.remove(watch)
        self._words[self._own + watch.class_] -= 1
        if not here:
            del self._watches[watch.class_], self._seen[watch.class_]
        if not self._watches and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def wake_watchers(self, class_: int) -> None:
        """Wake the workers that watch a class of keys, whose event was counted."""
        if class_ in self._watches:
            self._loop.call_soon(self.call_due)
        for column in range(self._words[COLUMNS]):
            if column != self._column and self._words[self._memory.watches(column) + class_]:
                wake(self._wakers, column, WakeReason.CACHE)

    def report_all(self) -> None:
        """Report an event of all keys."""
        report_all(self._memory, self._wakers)
        if self._watches:
            self._loop.call_soon(self.call_due)

    def call_due(self) -> None:
        """Call the callbacks of the classes in which something has happened since the last look."""
        all_events = self._words[ALL_EVENTS]
        everything, self._seen_all = all_events != self._seen_all, all_events
        changed = []
        for class_ in self._watches:
            events = self._events(class_)
            if everything or events != self._seen[class_]:
                self._seen[class_] = events
                changed.append(class_)
        self._call_watches([watch for class_ in changed for watch in self._watches[class_]])

    def _call_watches(self, due: list[KeyWatch]) -> None:
        """Call the callbacks of these watches that are still there; those after one that raises a little later."""
        count = 0
        try:
            for count, watch in enumerate(due, 1):  # noqa: B007 (it is used in `finally`)
                if watch in self._watches.get(watch.class_, ()):
                    watch.callback()
        finally:
            if count < len(due):
                self._loop.call_soon(partial(self._call_watches, due[count:]))

    def close(self) -> None:
        """Drop all watches."""
        for watch in [each for here in self._watches.values() for each in here]:
            self.drop(watch)

    def _events(self, class_: int) -> int:
        memory, words = self._memory, self._words
        return sum(words[memory.events(index) + class_] for index in range(words[COLUMNS]))

    def _look_again(self) -> None:
        self._timer = None
        self.call_due()
        if self._watches:
            self._timer = self._loop.call_later(LOOK_S, self._look_again)


def report_all(memory: CacheMemory, wakers: Mapping[int, int]) -> None:
    """Report an event of all keys, from any process."""
    memory.add(ALL_EVENTS)
    for column in wakers:
        wake(wakers, column, WakeReason.CACHE)
