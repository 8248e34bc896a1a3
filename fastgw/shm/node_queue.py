"""Queue of the node for the connections of an upstream: how many requests wait at each worker, and since when.

Each worker writes since when its first request waits; the numbers of connections and of waiting requests are those of
`NodeLimit`. So a worker that releases a connection knows whether a request of another worker has waited longer. The
words tell what is true, the wakers of the workers only when to look (`wakers`), so the pools look at intervals, too.
"""

from collections.abc import Callable, Mapping
from math import inf
from time import monotonic
from typing import Final, NamedTuple, final
from weakref import WeakMethod

from fastgw.shm.memory import Column
from fastgw.shm.wakers import wake

STALE_S: Final = 1.0
"""Seconds after its timeout for which a request counts that still waits: its worker hangs, and would use no connection.
"""


@final
class WorkerBell:
    """Wakes the pools of other workers, and the pools of this worker when another one rings."""

    __slots__ = ("_wakers", "listening")

    def __init__(self, wakers: Mapping[int, int]) -> None:
        """`wakers`: of the workers, by index of their column, the supervisor's being 0; some may be missing. The reader
        of this worker's calls `woken`.
        """
        self._wakers = wakers
        self.listening: dict[int, WeakMethod[Callable[[], None]]] = {}
        """Methods of the pools that have connections or waiting requests, by the identity of their queue. They keep no
        pool: one that is dropped with its connections cannot say so.
        """

    def ring(self, index: int) -> None:
        """Wake the worker with this column."""
        wake(self._wakers, index)

    def woken(self) -> None:
        """Let the pools look at their queues."""
        for key, method in list(self.listening.items()):
            look = method()
            if look is not None:
                look()
            elif self.listening.get(key) is method:
                del self.listening[key]


class QueueWords(NamedTuple):
    """Gauges of one upstream."""

    connections: int
    pending: int
    queued_since: int
    watching: int


@final
class NodeQueue:
    """The queue of an upstream, as one worker sees it. Instants are monotonic seconds."""

    __slots__ = ("_bell", "_column", "_connections", "_most", "_pending", "_queued_since", "_timeout", "_watching")

    def __init__(
        self, words: QueueWords, most: int, pending_timeout: float, column: Column, bell: WorkerBell | None = None
    ) -> None:
        self._connections, self._pending, self._queued_since, self._watching = words
        self._most = most
        self._timeout = pending_timeout
        self._column = column
        self._bell = bell or WorkerBell({})

    def listen(self, look: Callable[[], None]) -> None:
        """Call this from now on when another worker rings. Idempotent."""
        self._bell.listening[id(self)] = WeakMethod(look)

    def ignore(self) -> None:
        """Do not call it any more: the pool has neither connections nor waiting requests."""
        self._bell.listening.pop(id(self), None)

    def publish(self, since: float | None) -> None:
        """Write since when the first request of this worker waits; None: none waits."""
        self._column.words[self._queued_since] = 0 if since is None else round(since * 1e6)

    def watch(self, watching: bool) -> None:
        """Write whether this worker needs no bell: it looks at the queue with each connection that it releases, and has
        no idle one. After False, the caller looks once more: another worker may have relied on it.
        """
        words, word = self._column.words, self._watching
        if words[word] != watching:
            words[word] = watching
            self._column.fence()

    def vacant(self) -> int:
        """Return how many connections the limit leaves."""
        word = self._connections
        return self._most - sum(view[word] for view in self._column.views)

    def others_ahead(self, since: float) -> int:
        """Return how many requests wait at the workers whose first one waits since an earlier instant."""
        own, word = self._column.words, self._queued_since
        latest = since * 1e6
        count = 0
        for view in self._column.views:
            at = view[word]
            if at and at < latest and view is not own and not self._is_stale(at):
                count += max(view[self._pending], 1)  # those put back into the queue are not counted as pending
        return count

    def others_waiting(self) -> int:
        """Return how many requests wait at other workers."""
        return self.others_ahead(inf)

    def ring_ahead(self, since: float) -> None:
        """Wake the workers whose first request waits since an earlier instant."""
        own, word = self._column.words, self._queued_since
        latest = since * 1e6
        for index, view in enumerate(self._column.views):
            if view is not own and 0 < view[word] < latest:
                self._bell.ring(index)

    def ring_holders(self) -> None:
        """Wake the other workers that have connections, unless they watch the queue."""
        self._column.fence()  # either they see what was published, or we see that they do not watch
        own, word = self._column.words, self._connections
        for index, view in enumerate(self._column.views):
            if view is not own and view[word] and not view[self._watching]:
                self._bell.ring(index)

    def _is_stale(self, at: int) -> bool:
        return at < (monotonic() - self._timeout - STALE_S) * 1e6
