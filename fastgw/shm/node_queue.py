"""Queue of the node for the connections of an upstream: how many requests wait at each worker, and since when.

Each worker writes since when its first request waits; the numbers of connections and of waiting requests are those of
`NodeLimit`. So a worker that releases a connection knows whether a request of another worker has waited longer. The
words tell what is true, the wakers of the workers only when to look (`wakers`), so the pools look at intervals, too.
"""

from collections.abc import Callable, Iterator, Mapping
from math import inf
from time import monotonic
from typing import Final, NamedTuple, Protocol, final
from weakref import ref

from fastgw.shm.memory import Column
from fastgw.shm.wakers import WakeReason, wake

STALE_S: Final = 1.0
"""Seconds after its timeout for which a request counts that still waits: its worker hangs, and would use no connection.
"""


class BellListener(Protocol):
    """A pool of this worker."""

    def handle_bell(self) -> None:
        """Handle the bell of another worker: a place may have become free, or requests may wait there."""


@final
class WorkerBell:
    """Wakes the pools of other workers, and tells which pools of this worker are to look when another one rings."""

    __slots__ = ("_wakers", "listening")

    def __init__(self, wakers: Mapping[int, int]) -> None:
        """`wakers`: of the workers, by index of their column, the supervisor's being 0; some may be missing. The reader
        of this worker's calls `due`.
        """
        self._wakers = wakers
        self.listening: dict[NodeQueue, ref[BellListener]] = {}
        """The pools that have connections or waiting requests, by their queue. None is kept: one that is dropped with
        its connections cannot say so.
        """

    def ring(self, index: int) -> None:
        """Wake the worker with this column."""
        wake(self._wakers, index, WakeReason.POOL)

    def due(self) -> Iterator[Callable[[], None]]:
        """Yield the methods of the pools whose queue another worker has rung for since the last call."""
        for queue, link in list(self.listening.items()):
            listener = link()
            if listener is None:
                del self.listening[queue]
            elif queue.is_rung():
                yield listener.handle_bell


class QueueWords(NamedTuple):
    """Words of one upstream. `looks` and `rings` are counters, the others are gauges."""

    connections: int
    pending: int
    queued_since: int
    looks: int
    watching: int
    rings: int


@final
class NodeQueue:
    """The queue of an upstream, as one worker sees it. Instants are monotonic seconds."""

    __slots__ = (
        "_bell",
        "_column",
        "_connections",
        "_looks",
        "_passed_over",
        "_pending",
        "_preferred",
        "_preferred_before",
        "_queued_since",
        "_rings",
        "_rings_seen",
        "_timeout",
        "_watching",
        "most",
    )

    def __init__(
        self, words: QueueWords, most: int, pending_timeout: float, column: Column, bell: WorkerBell | None = None
    ) -> None:
        self._connections, self._pending, self._queued_since, self._looks, self._watching, self._rings = words
        self.most = most  # connections of the node
        self._timeout = pending_timeout
        self._column = column
        self._bell = bell or WorkerBell({})
        self._rings_seen = self._count_rings()
        # Looks of other workers, by index of their column, when a place was left to them: since the last call of
        # `skip_unresponsive`, before that, and of those that have not looked.
        self._preferred: dict[int, int] = {}
        self._preferred_before: dict[int, int] = {}
        self._passed_over: dict[int, int] = {}

    def listen(self, listener: BellListener) -> None:
        """Call its `handle_bell` from now on when another worker rings. It is the same one until `ignore`."""
        if self not in self._bell.listening:  # this is called for each waiting request
            self._bell.listening[self] = ref(listener)

    def ignore(self) -> None:
        """Do not call it any more: the pool has neither connections nor waiting requests."""
        self._bell.listening.pop(self, None)

    def publish(self, since: float | None) -> None:
        """Write since when the first request of this worker waits; None: none waits. A worker that writes an instant
        has looked, too.
        """
        if since is None:
            self._column.words[self._queued_since] = 0
        else:
            self.tell_look()  # first: who reads the instant must not find the looks of a worker that hangs
            self._column.words[self._queued_since] = round(since * 1e6)

    def tell_look(self) -> None:
        """Tell that this worker looks now whether it is the turn of its requests."""
        self._column.words[self._looks] += 1

    def skip_unresponsive(self) -> None:
        """Pass over the workers to which a place was left before the last call (`prefer_others`), and which have not
        looked after that, until they do. So they had at least the time between two calls.
        """
        views, word = self._column.views, self._looks
        for index, looks in self._preferred_before.items():
            if views[index][word] == looks:
                self._passed_over[index] = looks
        self._preferred_before, self._preferred = self._preferred, {}

    def prefer_others(self, since: float) -> None:
        """Leave a place to the requests at other workers that wait since an earlier instant."""
        self._preferred = {
            index: self._column.views[index][self._looks] for index in self._ahead(since)
        } | self._preferred

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
        return self.most - sum(view[word] for view in self._column.views)

    def perhaps_idle(self) -> int:
        """Return how many connections other workers have of which some may be idle: they do not watch the queue."""
        own, word = self._column.words, self._connections
        return sum(view[word] for view in self._column.views if view is not own and not view[self._watching])

    def others_ahead(self, since: float) -> int:
        """Return how many requests wait at the workers whose first one waits since an earlier instant."""
        views, word = self._column.views, self._pending
        # Those put back into the queue are not counted as pending.
        return sum(max(views[index][word], 1) for index in self._ahead(since))

    def others_waiting(self) -> int:
        """Return how many requests wait at other workers."""
        return self.others_ahead(inf)

    def ring_ahead(self, since: float) -> None:
        """Wake the workers whose first request waits since an earlier instant."""
        own, word = self._column.words, self._queued_since
        latest = since * 1e6
        for index, view in enumerate(self._column.views):
            if view is not own and 0 < view[word] < latest:
                self._ring(index)

    def ring_holders(self) -> None:
        """Wake the other workers that have connections, unless they watch the queue."""
        self._column.fence()  # either they see what was published, or we see that they do not watch
        own, word = self._column.words, self._connections
        for index, view in enumerate(self._column.views):
            if view is not own and view[word] and not view[self._watching]:
                self._ring(index)

    def is_rung(self) -> bool:
        """Whether another worker has rung for this upstream since the last call."""
        before, self._rings_seen = self._rings_seen, self._count_rings()
        return before != self._rings_seen

    def _ring(self, index: int) -> None:
        self._column.words[self._rings] += 1
        self._bell.ring(index)

    def _count_rings(self) -> int:
        own, word = self._column.words, self._rings
        return sum(view[word] for view in self._column.views if view is not own)

    def _ahead(self, since: float) -> list[int]:
        """Return the workers that do not hang, and whose first request waits since an earlier instant."""
        own, word = self._column.words, self._queued_since
        latest = since * 1e6
        return [
            index
            for index, view in enumerate(self._column.views)
            if 0 < (at := view[word]) < latest and view is not own and not self._hangs(index, view, at)
        ]

    def _hangs(self, index: int, view: memoryview, at: int) -> bool:
        """Whether a worker does not look at its queue. `at`: since when its first request waits."""
        if (looks := self._passed_over.get(index)) is not None:
            if view[self._looks] == looks:
                return True
            del self._passed_over[index]
        return at < (monotonic() - self._timeout - STALE_S) * 1e6
