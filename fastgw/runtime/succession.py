"""One worker takes the place of another, or goes: after an upgrade, and when the number of workers changes.

One at a time. The new worker accepts before the old one is told to stop accepting, and the old one then serves to the
end what it has. A slot that loses its worker for good keeps its sockets, and neighbours accept there.
"""

from collections.abc import Callable, Sequence

from fastgw.runtime.channel import Drain
from fastgw.runtime.commons import Commons
from fastgw.runtime.slots import Child, Slot


class Succession:
    """`fork`: begin a child for this slot. `settle`: who may accept has changed."""

    def __init__(
        self, commons: Commons, slots: Sequence[Slot], fork: Callable[[Slot], Child | None], settle: Callable[[], None]
    ) -> None:
        self._commons = commons
        self._slots = slots
        self._fork = fork
        self._settle = settle
        self.leaving: list[Child] = []
        """Workers that serve what they have, and then go."""

    @property
    def is_due(self) -> bool:
        """Whether a worker is still to be replaced or sent away, or to be born."""
        return any(slot.successor is not None or (not slot.retired and slot.child is None) for slot in self._slots) or (
            self._next() is not None
        )

    def go_on(self, now: float) -> None:
        """Begin the next change, when none is under way."""
        if any(slot.successor is not None or (not slot.retired and slot.child is None) for slot in self._slots):
            return
        slot = self._next()
        if slot is not None and slot.retired:
            self._send_away(slot)
        elif slot is not None and slot.due_at <= now:
            slot.successor = self._fork(slot)

    def is_ready(self, slot: Slot) -> None:
        """The successor serves what is in force: it takes the place."""
        before, slot.child, slot.successor = slot.child, slot.successor, None
        self._settle()
        if before is not None:
            self._part_with(before)

    def _next(self) -> Slot | None:
        """A slot whose worker is to go."""
        return next(
            (slot for slot in self._slots if slot.child is not None and (slot.retired or not slot.child.native)), None
        )

    def _send_away(self, slot: Slot) -> None:
        child, slot.child = slot.child, None
        assert child is not None
        self._settle()  # a neighbour accepts there before it is told to stop
        self._part_with(child)

    def _part_with(self, child: Child) -> None:
        child.leaving = True
        self.leaving.append(child)
        drain = self._commons.sealed.settings.timeouts.drain
        order = Drain(generation=child.generation, requests_s=drain.requests, tunnels_s=drain.tunnels, handed_over=True)
        child.send(order)
