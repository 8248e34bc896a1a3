"""Worker replacement: a worker is replaced or removed after an upgrade, when the number of workers changes, and when it
cannot follow the configuration.

One at a time. The new worker accepts before the old one stops accepting, and the old one then drains. A slot without a
worker keeps its sockets, and neighbours accept there.
"""

from collections.abc import Callable
from math import inf

from fastgw.runtime.ipc.channel import Drain
from fastgw.runtime.node.child_slots import Child, Slot
from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.supervisor.children import Children


class Succession:
    """Replaces workers one after another. `fork`: starts a child for a slot. `settle`: called when the workers that may
    accept have changed.
    """

    def __init__(
        self,
        node_state: NodeState,
        children: Children,
        fork: Callable[[Slot], Child | None],
        settle: Callable[[], None],
    ) -> None:
        self._node_state = node_state
        self._children = children
        self._fork = fork
        self._settle = settle

    @property
    def has_successor(self) -> bool:
        """Whether a worker is being replaced just now."""
        return any(slot.successor is not None for slot in self._children.workers)

    @property
    def goes_well(self) -> bool:
        """Whether workers are being replaced, and no replacement has failed so far."""
        slots = self._children.workers
        return any(slot.child and slot.child.outdated and not slot.deaths for slot in slots)

    @property
    def is_over(self) -> bool:
        """Whether every worker is ready, and none is to be replaced."""
        slots = [slot for slot in self._children.workers if not slot.retired]
        return all(slot.is_ready and slot.child and not slot.child.outdated for slot in slots)

    @property
    def due_at(self) -> float:
        """When to `start_next_change`, monotonic seconds."""
        slot = None if self._is_busy else self._next()
        return inf if slot is None else slot.due_at

    def start_next_change(self, now: float) -> None:
        """Begin the next change, if none is in progress."""
        slot = None if self._is_busy else self._next()
        if slot is not None and slot.retired:
            self._send_away(slot)
        elif slot is not None and slot.due_at <= now:
            slot.successor = self._fork(slot)

    def is_ready(self, slot: Slot) -> None:
        """Replace the worker by its successor, which serves the active configuration."""
        before, slot.child, slot.successor = slot.child, slot.successor, None
        self._settle()
        if before is not None:
            self._part_with(before)

    @property
    def _is_busy(self) -> bool:
        return self.has_successor or any(slot.is_vacant for slot in self._children.workers)

    def _next(self) -> Slot | None:
        """Return a slot whose worker has to be replaced or removed."""
        slots = self._children.workers
        return next((slot for slot in slots if slot.child and (slot.retired or slot.child.outdated)), None)

    def _send_away(self, slot: Slot) -> None:
        child, slot.child = slot.child, None
        assert child is not None
        self._settle()  # a neighbour accepts there before it stops accepting
        self._part_with(child)

    def _part_with(self, child: Child) -> None:
        child.leaving = True
        self._children.leaving.append(child)
        drain = self._node_state.sealed.settings.timeouts.drain
        order = Drain(generation=child.generation, requests_s=drain.requests, tunnels_s=drain.tunnels, handed_over=True)
        child.send(order)
