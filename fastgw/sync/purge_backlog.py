"""Backlog of the purges of a node that other nodes may not have received.

A purge is *waiting* until the Redis of `state` has it. Afterwards it is kept for a while: a failover of Redis may lose
what it has confirmed. With more than fits, all purges of a store become one purge of everything in it: a backlog may
say too much, never too little.
"""

from collections.abc import Iterable
from math import inf
from typing import Final, final

from fastgw.sync.cache_purges import PurgeOrder, all_of, identified

MOST: Final = 2000
"""Maximum number of purges."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""Maximum bytes of what they name."""
RECENT_S: Final = 600.0
"""Seconds for which announced purges are kept."""


@final
class PurgeBacklog:
    """Purges by identity, oldest first. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.restored: list[PurgeOrder] = []
        """Purges of a former gateway, which no process of this one has carried out."""
        self.seen = b"0-0"
        """Number of the last entry of Redis that this node has read; b"0-0": none."""
        self.seen_at = inf
        """When everything up to then was read; inf: never."""
        self._waiting: dict[bytes, PurgeOrder] = {}
        self._announced: dict[bytes, tuple[float, PurgeOrder]] = {}
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<PurgeBacklog waiting={len(self._waiting)} announced={len(self._announced)}>"

    @property
    def waiting(self) -> list[PurgeOrder]:
        """Purges that Redis does not have."""
        return [*self._waiting.values()]

    @property
    def announced(self) -> list[PurgeOrder]:
        """Recent purges that Redis has, or had."""
        return [order for _, order in self._announced.values()]

    def is_waiting(self, id_: bytes) -> bool:
        return id_ in self._waiting

    def add(self, order: PurgeOrder, now: float) -> None:
        """Add a purge that waits. It has an identity."""
        if order.id in self._waiting or order.id in self._announced:
            return
        self._waiting[order.id] = order
        self._bytes += _weight(order)
        self._limit(now)

    def restore(self, order: PurgeOrder, now: float) -> None:
        """Add a purge of a former gateway that waits."""
        self.restored.append(order)
        self.add(order, now)

    def confirm(self, ids: Iterable[bytes], now: float) -> None:
        """Note that Redis has these purges now."""
        for each in ids:
            if (order := self._waiting.pop(each, None)) is not None:
                self._announced[each] = now, order

    def forget_old(self, now: float) -> None:
        """Forget what was announced long ago."""
        while self._announced:
            id_, (at, order) = next(iter(self._announced.items()))
            if now - at < RECENT_S:
                return
            del self._announced[id_]
            self._bytes -= _weight(order)

    def _limit(self, now: float) -> None:
        if len(self._waiting) + len(self._announced) <= MOST and self._bytes <= MOST_BYTES:
            return
        waiting, announced = ({each.store for each in orders} for orders in (self.waiting, self.announced))
        self._waiting.clear()
        self._announced.clear()
        for order in map(identified, all_of(sorted(announced))):
            self._announced[order.id] = now, order
        for order in map(identified, all_of(sorted(waiting))):
            self._waiting[order.id] = order
        self._bytes = 0


def _weight(order: PurgeOrder) -> int:
    return sum(map(len, order.values))
