"""Limits that requests and connections take permits of, and the queue of a node for the connections of a limit.

The interfaces are those of shared memory (`shm.node_limits`, `shm.node_queue`), where a limit and its queue are of all
workers. A single worker, and a program without any, has its own.
"""

from typing import Protocol, final

from fastgw.shm.node_queue import BellListener


class PoolLimit(Protocol):
    """Limit of connections; `shm.node_limits.NodeLimit` is one for all workers together."""

    most: int
    """Number of permits; it may change."""

    def try_take(self, beyond: int = 0) -> bool:
        """`beyond`: number of permits by which this one may exceed the limit."""

    def give_back(self) -> None: ...

    def vacant(self) -> int:
        """Return how many permits the limit leaves; negative: so many exceed it (`beyond`), of all workers."""


class PoolQueue(Protocol):
    """Requests of other workers that wait for a connection; `shm.node_queue.NodeQueue` is it. Instants are monotonic
    seconds.
    """

    most: int
    """Number of connections that the node may have; it may change."""

    def listen(self, listener: BellListener) -> None:
        """Call its `handle_bell` from now on when another worker has rung. Idempotent: it is the same one until
        `ignore`.
        """

    def ignore(self) -> None:
        """Do not call it any more."""

    def publish(self, since: float | None) -> None:
        """Publish since when the first request waits here; None: none waits. An instant tells a look, too."""

    def tell_look(self) -> None:
        """Tell that this worker looks now whether it is the turn of its requests."""

    def prefer_others(self, since: float) -> None:
        """Leave a place to the requests at other workers that wait since an earlier instant."""

    def skip_unresponsive(self) -> None:
        """Count the workers as hanging that have not looked since a place was left to them before the last call, until
        they look.
        """

    def watch(self, watching: bool) -> None:
        """Tell other workers whether this one needs no bell: it looks at the queue with each connection that it
        releases, and has no idle one. After False, the caller looks once more.
        """

    def vacant(self) -> int:
        """Return how many connections the limit leaves."""

    def perhaps_idle(self) -> int:
        """Return how many connections other workers have of which some may be idle: they do not watch the queue."""

    def others_ahead(self, since: float) -> int:
        """Return how many requests wait at the workers whose first one waits since an earlier instant."""

    def others_waiting(self) -> int:
        """Return how many requests wait at other workers."""

    def ring_ahead(self, since: float) -> None:
        """Wake the workers whose first request waits since an earlier instant."""

    def ring_holders(self) -> None:
        """Wake the other workers that have connections, unless they watch the queue."""


@final
class LocalLimit:
    """Limit of a single worker."""

    __slots__ = ("_taken", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken = 0

    def try_take(self, beyond: int = 0) -> bool:
        if self._taken >= self.most + beyond:
            return False
        self._taken += 1
        return True

    def give_back(self) -> None:
        self._taken -= 1

    def vacant(self) -> int:
        return self.most - self._taken
