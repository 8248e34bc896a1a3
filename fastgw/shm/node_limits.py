"""Exact limits of a node without waiting between processes: add to one's own column first, then check the sum.

Each word has a single writer (`memory`). The views of all columns are one list, which is shared and never copied,
because it grows when columns are added.
"""

import ipaddress
import threading
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

import cython

UNLIMITED: Final = 2**64 - 1
REMEMBERED: Final = 4096
"""Number of addresses whose cells are remembered: those of all with more than one connection, mostly."""
ROWS: Final = 4
"""Rows of a sketch. A key has one cell in each."""


class MemoryFence:
    """A full memory fence between earlier stores of this process and its next loads.

    x86 and ARM both let a load overtake an older store to another word. Releasing and then acquiring a lock that only
    this process uses prevents that: the release comes after the store, the acquire before the load, and neither CPU
    lets an acquire overtake a release. Acquiring first and releasing then would not order store and load.
    """

    def __init__(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        self.release, self.acquire = lock.release, lock.acquire

    def __call__(self) -> None:
        self.release()
        self.acquire()


class NodeLimit:
    """An exact limit of the node without a lock.

    A worker adds to its own word, sums all columns, and subtracts again if the sum is too high. Of two racing workers,
    the one whose store comes later sees the other's, so the limit is never exceeded. If both see each other, both are
    rejected although one permit was left: close to the limit, a race may reject early. `MemoryFence` explains the
    visibility of stores.
    """

    def __init__(
        self,
        word: int,
        most: int,
        words: memoryview,
        views: Sequence[memoryview],
        fence: MemoryFence,
        counter: int | None = None,
    ) -> None:
        """`counter`: word of this column for the total number of permits taken."""
        self._word = word
        self.most = most
        self._words = words
        self._views = views
        self._fence = fence
        self.counter = counter

    def try_take(self, beyond: cython.longlong = 0) -> bool:
        """Take one permit of the node's limit; False: none left. Each permit taken is returned once. `beyond`: number
        of permits by which this one may exceed the limit.
        """
        word: cython.Py_ssize_t = self._word
        words = self._words
        words[word] += 1
        self._fence()
        total: cython.ulonglong = 0
        for view in self._views:
            total += view[word]
        if total <= self.most + beyond:
            if self.counter is not None:
                counter: cython.Py_ssize_t = self.counter
                words[counter] += 1
            return True
        words[word] -= 1
        return False

    def give_back(self) -> None:
        self._words[self._word] -= 1

    def vacant(self) -> int:
        """Return how many permits the limit leaves; negative: so many exceed it (`beyond`), of all workers."""
        word = self._word
        return self.most - sum(view[word] for view in self._views)


class Sketch(NamedTuple):
    """Layout of a count-min sketch in a column: `ROWS` rows of `width` gauges."""

    first: int
    width: int

    @property
    def words(self) -> int:
        return ROWS * self.width

    @property
    def connections(self) -> int:
        """Number of concurrent connections that it is sized for, over all addresses."""
        return self.width // 2


def width_for(connections: int) -> int:
    """Return the width of a sketch for at most `connections` at a time over all addresses.

    A row is at least twice that wide, so two addresses share a cell of a row with a probability below 1 - exp(-1/2).
    All four cells collide, which counts an address too high by one or two connections, for less than 2.4 % of the
    addresses. Counts are never too low: the limit holds.
    """
    return 1 << max(10, (2 * connections - 1).bit_length())


Cells = tuple[int, ...]
"""Words in which a sketch counts a key."""


class KeyCounts:
    """Concurrent counts of any number of keys, for the node and in fixed memory: a count-min sketch per column.

    A key's count is the minimum of its four cells, each summed over the columns: never too low, so limits hold.
    """

    def __init__(
        self, sketch: Sketch, words: memoryview, views: Sequence[memoryview], fence: MemoryFence, secret: bytes
    ) -> None:
        self._sketch = sketch
        self._words = words
        self._views = views
        self._fence = fence
        self._secret = secret

    def cells(self, key: bytes) -> Cells:
        """Return the cells in which a key is counted."""
        digest = blake2b(key, digest_size=4 * ROWS, key=self._secret).digest()
        first, width = self._sketch
        return tuple(first + row * width + int.from_bytes(digest[4 * row : 4 * row + 4]) % width for row in range(ROWS))

    def try_take(self, cells: Cells, most: cython.longlong) -> bool:
        """Take one permit of a key, if at most `most` are then taken.

        Each permit taken is returned once. As with `NodeLimit`, workers that race for the last permit may all be
        rejected; they try again up to twice while it is free.
        """
        words = self._words
        cell: cython.Py_ssize_t
        for _ in range(3):
            for cell in cells:
                words[cell] += 1
            self._fence()
            if self._has_at_most(cells, most):
                return True
            for cell in cells:
                words[cell] -= 1
            if not self._has_at_most(cells, most - 1):
                return False
        return False

    def give_back(self, cells: Cells) -> None:
        words = self._words
        cell: cython.Py_ssize_t
        for cell in cells:
            words[cell] -= 1

    def add_permits(self, cells: Cells, permits: cython.longlong) -> None:
        """Add this number of permits without a check; a negative number removes permits."""
        words = self._words
        cell: cython.Py_ssize_t
        for cell in cells:
            words[cell] += permits

    def count(self, cells: Cells) -> int:
        """Return the number of permits taken."""
        return min(sum(view[cell] for view in self._views) for cell in cells)

    def _has_at_most(self, cells: Cells, most: cython.longlong) -> bool:
        views = self._views
        for cell in cells:
            total: cython.longlong = 0
            for view in views:
                total += view[cell]
            if total <= most:
                return True
        return False


def own_counts() -> KeyCounts:
    """Return counts of this process only, for tests."""
    words = memoryview(bytearray(8 * Sketch(0, 1024).words)).cast("Q")
    return KeyCounts(Sketch(0, 1024), words, [words], MemoryFence(), b"")


class AddressLimit:
    """A limit per client address for the node.

    An IPv6 client is its /64, the smallest block that a subscriber has; addresses that are not IP addresses (unix
    sockets) are one client.

    PERF: a connection costs 0.25 us where its address has few, and 1.3 us where the node counts it (CPython 3.11).
    """

    def __init__(self, counts: KeyCounts, most: int, kind: bytes = b"", few: int = 0) -> None:
        """`kind`: begins the keys of what is counted apart from connections. `few`: permits of an address in each
        process that the node does not count: the limit is exceeded by as many at most.
        """
        self._counts = counts
        self._most = most
        self._few = few
        self._held: dict[str | bytes, int] = {}  # permits of each address in this process, if there are such ones

        @lru_cache(maxsize=REMEMBERED)
        def cells(ip: str) -> Cells:
            return counts.cells(kind + subscriber(ip))

        self._cells = cells

    def try_take(self, ip: str) -> bool:
        """Take one permit of this address; False: none left. Each permit taken is returned once."""
        if not self._few:
            return self._counts.try_take(self._cells(ip), self._most)
        key = _subscriber(ip) if ":" in ip else ip
        held = self._held.get(key, 0)
        if held >= self._few and not self._counts.try_take(self._cells(ip), self._most):
            return False
        self._held[key] = held + 1
        return True

    def give_back(self, ip: str) -> None:
        if self._few:
            key = _subscriber(ip) if ":" in ip else ip
            left = self._held.pop(key) - 1
            if left:
                self._held[key] = left
            if left < self._few:
                return
        self._counts.give_back(self._cells(ip))


def subscriber(ip: str) -> bytes:
    """Return the key of a client: an IPv4 address, the /64 of an IPv6 address, or b"" for anything else."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return b""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped.packed if address.ipv4_mapped else address.packed[:8]
    return address.packed


_subscriber: Final = lru_cache(REMEMBERED)(subscriber)
