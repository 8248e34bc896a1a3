"""Allowances that hold for the node although no process waits for another: announce in one's own column, then check.

All of it works on words of which each has one writer (`shared`). The views of all columns are one list, which grows
when the node gets more of them: it is shared, and never copied.
"""

import ipaddress
import threading
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple, final

UNLIMITED: Final = 2**64 - 1
ROWS: Final = 4
"""Rows of a sketch. An address has one cell in each."""


@final
class MemoryFence:
    """A full fence between what this process has stored and what it loads next.

    No CPU promises by itself that all see a store before a later load happens: x86 and ARM both let a load overtake an
    older store to another word. A lock that only this process holds gives it: its release (a releasing store) comes
    after the store, its acquisition (an acquiring load) before the load, and neither CPU lets an acquire overtake a
    release. Acquire first and release then would leave the middle open.
    """

    __slots__ = ("acquire", "release")

    def __init__(self) -> None:
        lock = threading.Lock()
        lock.acquire()
        self.release, self.acquire = lock.release, lock.acquire

    def __call__(self) -> None:
        self.release()
        self.acquire()


@final
class NodeLimit:
    """An exact limit for the node without a lock.

    A worker first adds to its own word, then sums all columns, and takes back what it added when the sum is too high.
    Of two workers that race, the one whose store comes later sees the other's, so the limit is never exceeded; when
    both see each other, both are refused, though one place was left: a limit that is nearly spent may refuse early,
    for as long as the race lasts. `MemoryFence` says why a store is seen.
    """

    __slots__ = ("_fence", "_most", "_views", "_word", "_words", "counter")

    def __init__(
        self,
        word: int,
        most: int,
        words: memoryview,
        views: Sequence[memoryview],
        fence: MemoryFence,
        counter: int | None = None,
    ) -> None:
        """`counter`: the word of this column that counts the places ever taken."""
        self._word = word
        self._most = most
        self._words = words
        self._views = views
        self._fence = fence
        self.counter = counter

    def try_take(self) -> bool:
        """Take one place of the node's allowance; False when none is left. What is taken is given back once."""
        word = self._word
        words = self._words
        words[word] += 1
        self._fence()
        total = 0
        for view in self._views:
            total += view[word]
        if total <= self._most:
            if self.counter is not None:
                words[self.counter] += 1
            return True
        words[word] -= 1
        return False

    def give_back(self) -> None:
        self._words[self._word] -= 1


class Sketch(NamedTuple):
    """A count-min sketch's place in a column: `ROWS` rows of `width` gauges."""

    first: int
    width: int

    @property
    def words(self) -> int:
        return ROWS * self.width

    @property
    def connections(self) -> int:
        """How many connections at a time it is made for, over all addresses."""
        return self.width // 2


def width_for(connections: int) -> int:
    """The width of a sketch for at most `connections` at a time over all addresses.

    A row is at least twice as wide as that, so two addresses share a cell of a row with a probability below
    1 - exp(-1/2), and all four cells are shared, which is when an address is counted too high, for less than
    2.4 % of the addresses, by one or two connections. It is never counted too low: the limit holds.
    """
    return 1 << max(10, (2 * connections - 1).bit_length())


Cells = tuple[int, ...]
"""The words in which a sketch counts a key."""


@final
class KeyCounts:
    """How much is held by each of any number of keys, on the node and in fixed memory: a count-min sketch per column.

    A key's count is the least of its four cells, each summed over the columns: never too low, so limits hold.
    """

    __slots__ = ("_fence", "_secret", "_sketch", "_views", "_words")

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

    def try_take(self, cells: Cells, most: int) -> bool:
        """Take one place of the key that is counted there, if no more than `most` are then taken.

        What is taken is given back once. As with `NodeLimit`, workers that race for the last place may all be refused
        it; here they try again, twice, while it is free.
        """
        words = self._words
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
        for cell in cells:
            words[cell] -= 1

    def hold(self, cells: Cells, places: int) -> None:
        """Hold so many places more, whatever is taken; fewer, where that is negative."""
        words = self._words
        for cell in cells:
            words[cell] += places

    def count(self, cells: Cells) -> int:
        """How many places are taken."""
        return min(sum(view[cell] for view in self._views) for cell in cells)

    def _has_at_most(self, cells: Cells, most: int) -> bool:
        views = self._views
        for cell in cells:
            total = 0
            for view in views:
                total += view[cell]
            if total <= most:
                return True
        return False


def own_counts() -> KeyCounts:
    """Return counts of this process alone: for tests and trials."""
    words = memoryview(bytearray(8 * Sketch(0, 1024).words)).cast("Q")
    return KeyCounts(Sketch(0, 1024), words, [words], MemoryFence(), b"")


@final
class AddressLimit:
    """A limit per client address for the node.

    An IPv6 client is its /64, the least that one subscriber has; addresses that are no IP address (unix sockets) are
    one client.
    """

    __slots__ = ("_counts", "_most")

    def __init__(self, counts: KeyCounts, most: int) -> None:
        self._counts = counts
        self._most = most

    def try_take(self, ip: str) -> bool:
        """Take one place of this address; False when it has none left. What is taken is given back once."""
        return self._counts.try_take(self._counts.cells(subscriber(ip)), self._most)

    def give_back(self, ip: str) -> None:
        self._counts.give_back(self._counts.cells(subscriber(ip)))


def subscriber(ip: str) -> bytes:
    """Return the key that stands for one client: an IPv4 address, the /64 of an IPv6 address, or b"" for what is no IP
    address.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return b""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped.packed if address.ipv4_mapped else address.packed[:8]
    return address.packed
