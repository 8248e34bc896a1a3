"""S3-FIFO by bytes (Yang et al., SOSP 2023) over a list of objects: which ones leave, and which change their queue.

New objects are in the small queue, which gets a tenth of all bytes. An object that was found there moves to the main
queue when its turn comes; the others are evicted first, so that objects asked for once never push out those asked for
again. In the main queue an object has another turn for each time that it was found, at most three.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

MOST_HITS: Final = 3
_SMALL_SHARE: Final = 10
"""The small queue gets this part of all bytes."""


class QueueState(NamedTuple):
    """State of an object. `entered`: a number that orders its queue, such as nanoseconds since 1970."""

    entered: int
    is_main: bool = False
    hits: int = 0
    """How often it was found since then, at most `MOST_HITS`."""

    def found(self) -> "QueueState":
        """Return the state after another hit."""
        return self._replace(hits=min(self.hits + 1, MOST_HITS))


class QueuedObject(NamedTuple):
    """An object in its queue."""

    state: QueueState
    size: int


def plan_eviction(objects: Sequence[QueuedObject], wanted: int, now: int) -> dict[int, QueueState | None]:
    """Return the changes that free at least `wanted` bytes, or all there are: by index the new state, or None for an
    object to be evicted. `now`: number for those that enter a queue now, after all others.
    """
    order = sorted(range(len(objects)), key=lambda each: objects[each].state.entered)
    small = deque(each for each in order if not objects[each].state.is_main)
    main = deque(each for each in order if objects[each].state.is_main)
    states = {index: each.state for index, each in enumerate(objects)}
    left, small_bytes = sum(each.size for each in objects), sum(objects[each].size for each in small)
    changes: dict[int, QueueState | None] = {}
    freed = 0
    while freed < wanted and (small or main):
        is_small = bool(small) and (not main or _SMALL_SHARE * small_bytes >= left)
        index = small.popleft() if is_small else main.popleft()
        state, size = states[index], objects[index].size
        if is_small:
            small_bytes -= size
        if state.hits:
            now += 1
            states[index] = changes[index] = QueueState(now, True, 0 if is_small else state.hits - 1)
            main.append(index)
        else:
            changes[index] = None
            freed, left = freed + size, left - size
    return changes
