"""Assignment of slots to workers: a slot's own worker accepts for it if it can, otherwise a neighbour.

Connections queued at a slot's sockets never wait for a process that is dead, hangs, is not ready or has ended.
"""

from collections.abc import Sequence

from fastgw.runtime.ipc.channel import Adopt, Release
from fastgw.runtime.node.child_slots import Child, Slot


class SlotAdoption:
    """Records which worker accepts for which slot."""

    def __init__(self) -> None:
        self._accepting: dict[int, Child] = {}

    def accepting_child(self, slot: int) -> Child | None:
        return self._accepting.get(slot)

    def record(self, slot: int, child: Child) -> None:
        """Record that this child accepts there since before the upgrade."""
        self._accepting[slot] = child

    def forget(self, child: Child) -> None:
        """Drop a dead child from all slots."""
        self._accepting = {slot: each for slot, each in self._accepting.items() if each is not child}

    def settle(self, slots: Sequence[Slot]) -> None:
        """Assign each slot to a worker. A neighbour keeps an adopted slot as long as it can accept."""
        able = [slot.child for slot in slots if slot.child is not None and slot.child.able]
        for index, slot in enumerate(slots):
            now = self._accepting.get(index)
            if slot.child in able:
                wanted = slot.child
            elif now in able or not able:
                continue  # there is no better worker
            else:
                wanted = able[index % len(able)]
            if wanted is None or wanted is now:
                continue
            wanted.send(Adopt(generation=wanted.generation, slot=index))
            if now is not None:
                now.send(Release(generation=now.generation, slot=index))
            self._accepting[index] = wanted
