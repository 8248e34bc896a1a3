"""Words of upstreams and targets: limits, load of a target, and health (`health_words`)."""

from fastgw.shm.health_words import HealthVerdict, HealthWords
from fastgw.shm.memory import Column, Layout, SharedMemory
from fastgw.shm.node_queue import QueueWords
from fastgw.shm.slot_assignment import MAX_TARGETS, MAX_UPSTREAMS, SlotTable, upstream_of


class TargetWords:
    """Layout of upstreams and targets in a column; slots are assigned by `slot_assignment.SlotTable`."""

    def __init__(self, layout: Layout) -> None:
        self.connections = layout.gauge("upstream_connections", 2 * MAX_UPSTREAMS)
        """Connections to an upstream: opening, in use and idle."""
        self.pending = layout.gauge("upstream_pending", 2 * MAX_UPSTREAMS)
        """Requests that wait for a connection."""
        self.queued_since = layout.gauge("upstream_queued_since", 2 * MAX_UPSTREAMS)
        """Monotonic microseconds since which the first of these waits; 0: none does. Written by `NodeQueue`."""
        self.looks = layout.counter("upstream_looks", 2 * MAX_UPSTREAMS)
        """Number of times that this worker has looked whether it is the turn of the first of these. A replacement
        worker continues it: otherwise it would have the number of one that hangs.
        """
        self.watching = layout.gauge("upstream_watching", 2 * MAX_UPSTREAMS)
        """1: this worker knows that requests wait at others, and has no idle connection for them."""
        self.rings = layout.counter("upstream_rings", 2 * MAX_UPSTREAMS)
        """Number of times that this worker has woken another one for the queue. Written by `NodeQueue`."""
        self.spare_retries = layout.gauge("upstream_spare_retries", 2 * MAX_UPSTREAMS)
        """Retries in flight beyond the retry budget, at most `SPARE_RETRIES`."""
        self.under_way = layout.gauge("target_under_way", 2 * MAX_TARGETS)
        """Requests in flight to a target; counted if the load balancing uses it."""
        self.under_way_all = layout.gauge("upstream_under_way", 2 * MAX_UPSTREAMS)
        """Requests in flight to all targets of an upstream."""
        self.requests = layout.gauge("upstream_requests", 2 * MAX_UPSTREAMS)
        """Requests in flight to an upstream, counted whatever the load balancing uses; also connections and sessions
        that are relayed.
        """
        self.in_use = layout.gauge("target_in_use", 2 * MAX_TARGETS)
        self.idle = layout.gauge("target_idle", 2 * MAX_TARGETS)
        self.waiting = layout.gauge("target_waiting", 2 * MAX_TARGETS)
        self.health = HealthWords(layout)

    def queue(self, upstream: int) -> QueueWords:
        """Return the words of the queue of an upstream, by its slot."""
        words = self.connections, self.pending, self.queued_since, self.looks, self.watching, self.rings
        return QueueWords(*(word + upstream for word in words))

    def verdict(self, shared: SharedMemory, target: int, now: float) -> HealthVerdict:
        """Return the node's verdict on a target."""
        return self.health.read_verdicts(shared.supervisor, [target], now)[0][0]

    def requests_in_flight(self, shared: SharedMemory, slot_table: SlotTable) -> dict[str, int]:
        """Return the requests in flight to each upstream on the node."""
        count = 1 + max(slot_table.upstreams.values(), default=-1)
        columns = [view[self.requests : self.requests + count].tolist() for view in shared.views]
        return {name: sum(column[slot] for column in columns) for name, slot in slot_table.upstreams.items()}

    def write_gauges(self, column: Column, target: int, in_use: int, idle: int, waiting: int) -> None:
        """Write this worker's load of a target, for status displays and not for decisions."""
        words = column.words
        words[self.in_use + target], words[self.idle + target] = in_use, idle
        words[self.waiting + target] = waiting

    def busy(self, shared: SharedMemory, slot_table: SlotTable) -> dict[str, list[int]]:
        """Return the load of each upstream on the node: connections in use and idle, requests waiting."""
        count = 1 + max(slot_table.targets.values(), default=-1)
        numbers = [
            [sum(each) for each in zip(*(view[first : first + count].tolist() for view in shared.views), strict=True)]
            for first in (self.in_use, self.idle, self.waiting)
        ]
        found: dict[str, list[int]] = {}
        for name, slot in slot_table.targets.items():
            upstream = found.setdefault(upstream_of(name), [0, 0, 0])
            for number, values in enumerate(numbers):
                upstream[number] += values[slot]
        return found

    def is_held(self, shared: SharedMemory, upstream: int) -> bool:
        """Whether connections, requests or retries still count in this slot of an upstream."""
        return any(shared.total(word + upstream) for word in (self.connections, self.pending, self.spare_retries))
