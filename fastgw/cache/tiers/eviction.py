"""Eviction from a list of files: those that were asked for once leave before those that were asked for again.

The latter stay until they take nine tenths of all bytes: then the one that was used least recently leaves. So objects
that are asked for once never push out those asked for again, and these do not stay for good.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

_ONCE_SHARE: Final = 10
"""Files that were asked for once keep this part of all bytes."""


class ListedFile(NamedTuple):
    """A file of a disk tier. `size`: bytes that it takes; `used_ns`: when it was used last."""

    shard: int
    name: str
    inode: int
    size: int
    used_ns: int
    was_used: bool
    """Whether it was found since it was written."""


def choose_evicted(files: Sequence[ListedFile], wanted: int) -> list[ListedFile]:
    """Return the files that free at least `wanted` bytes, or all there are, in order."""
    order = sorted(files, key=lambda each: each.used_ns)
    once = deque(each for each in order if not each.was_used)
    again = deque(each for each in order if each.was_used)
    left, once_bytes = sum(each.size for each in files), sum(each.size for each in once)
    evicted = []
    while wanted > 0 and (once or again):
        if once and (not again or _ONCE_SHARE * once_bytes >= left):
            file = once.popleft()
            once_bytes -= file.size
        else:
            file = again.popleft()
        evicted.append(file)
        wanted, left = wanted - file.size, left - file.size
    return evicted
