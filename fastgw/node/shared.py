"""Memory that all processes of the node map: one column of 64-bit words per worker slot, made before the fork.

Rule 1: a word has one writer, the worker whose column it stands in; all may read. Nothing is locked, so no process that
is killed can hold a lock for ever. (Once a worker is dead, the supervisor clears the gauges in its column.)
Rule 2: words are written through `memoryview.cast("Q")`, which is one store. `struct.pack_into` writes byte by byte,
and a reader sees numbers that nobody wrote.
Rule 3: what a number means for the node is the sum over the columns (`Shared.total`).

In front stands a header: layout version, number of columns, words per column. Columns begin on pages of their own, so
that no cache line has two writers.
"""

import ipaddress
import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import ClassVar, Final, final

VERSION: Final = 1
_WORD: Final = 8
_PAGE: Final = mmap.PAGESIZE
UNLIMITED: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Span:
    """Where the words of one name stand in every column."""

    first: int
    count: int
    gauge: bool
    """True: tells what is the case now, so it ends with its worker. False: counts upwards, and a new worker goes on."""


class Layout:
    """Hands out the words of a column by name, while the configuration is compiled; equal names share a word."""

    def __init__(self) -> None:
        self._spans: dict[str, Span] = {}
        self.size = 0

    @property
    def spans(self) -> Mapping[str, Span]:
        return MappingProxyType(self._spans)

    def counter(self, name: str, count: int = 1) -> int:
        """The first of `count` words that only grow. They are kept when their worker dies."""
        return self._span(name, count, gauge=False)

    def gauge(self, name: str, count: int = 1) -> int:
        """The first of `count` words that rise and fall. They are cleared when their worker dies."""
        return self._span(name, count, gauge=True)

    def _span(self, name: str, count: int, gauge: bool) -> int:
        span = self._spans.get(name)
        if span is None:
            span = self._spans[name] = Span(self.size, count, gauge)
            self.size += count
        elif (span.count, span.gauge) != (count, gauge):
            raise ValueError(f"shared word {name!r} is asked for again in another form")
        return span.first


class Shared:
    """The mapped memory: a column per worker slot and one more, the last, for the supervisor."""

    def __init__(self, layout: Layout, workers: int) -> None:
        self.layout = layout
        stride = -(-max(layout.size, 1) * _WORD // _PAGE) * _PAGE
        memory = memoryview(mmap.mmap(-1, _PAGE + stride * (workers + 1)))
        header = memory[:_PAGE].cast("Q")
        header[0], header[1], header[2] = VERSION, workers + 1, stride // _WORD
        views = tuple(memory[start : start + stride].cast("Q") for start in range(_PAGE, len(memory), stride))
        secret = os.urandom(32)  # per run: nobody outside can choose addresses that share a sketch's cells
        self.columns = tuple(Column(own, views, secret) for own in views)

    @property
    def supervisor(self) -> "Column":
        return self.columns[-1]

    def total(self, word: int) -> int:
        """What the node has: the word's sum over all columns."""
        return sum(column.words[word] for column in self.columns)

    def clear_gauges(self, slot: int) -> None:
        """What a dead worker held is free again. Only after the process was reaped: then its words have no writer."""
        words = self.columns[slot].words
        for span in self.layout.spans.values():
            if span.gauge:
                words[span.first : span.first + span.count] = memoryview(bytes(span.count * _WORD)).cast("Q")


@final
class Column:
    """One worker's words, which it alone writes, and a view of everybody's for limits."""

    __slots__ = ("_fence", "_secret", "_views", "words")

    def __init__(self, own: memoryview, views: tuple[memoryview, ...], secret: bytes) -> None:
        self.words: memoryview = own
        self._views = views
        self._secret = secret
        self._fence = threading.Lock()
        self._fence.acquire()

    def limit(self, word: int, most: int | None) -> "NodeLimit":
        """An allowance of `most` (None: none) that all workers share; `word` is a gauge of the layout."""
        return NodeLimit(word, UNLIMITED if most is None else most, self.words, self._views, self._fence)

    def address_limit(self, sketch: "Sketch", most: int) -> "AddressLimit":
        """An allowance of `most` for each client address, that all workers share."""
        return AddressLimit(sketch, most, self.words, self._views, self._fence, self._secret)


@final
class NodeLimit:
    """An exact limit for the node without a lock: announce, then check.

    A worker first adds to its own word, then sums all columns, and takes back what it added when the sum is too high.
    Of two workers that race, the one whose store comes later sees the other's, so the limit is never exceeded; when
    both see each other, both are refused, though one place was left: a limit that is nearly spent may refuse early,
    for as long as the race lasts.

    That argument needs the store to be seen by all before the loads happen, and no CPU promises this by itself: x86
    and ARM both let a load overtake an older store to another word. A lock that only this process holds gives the full
    fence: its release (a releasing store) comes after the announcement, its acquisition (an acquiring load) before the
    sum, and neither CPU lets an acquire overtake a release. Acquire first and release then would leave the middle open.
    """

    __slots__ = ("_fence", "_most", "_views", "_word", "_words")

    def __init__(
        self, word: int, most: int, words: memoryview, views: tuple[memoryview, ...], fence: threading.Lock
    ) -> None:
        self._word = word
        self._most = most
        self._words = words
        self._views = views
        self._fence = fence

    def try_take(self) -> bool:
        """Take one place of the node's allowance; False when none is left. What is taken is given back once."""
        word = self._word
        self._words[word] += 1
        self._fence.release()
        self._fence.acquire()
        total = 0
        for view in self._views:
            total += view[word]
        if total <= self._most:
            return True
        self._words[word] -= 1
        return False

    def give_back(self) -> None:
        self._words[self._word] -= 1


@dataclass(frozen=True, slots=True)
class Sketch:
    """A count-min sketch's place in the layout: `ROWS` rows of `width` gauges; an address has one cell in each row."""

    first: int
    width: int
    ROWS: ClassVar[int] = 4

    @classmethod
    def place(cls, layout: Layout, name: str, connections: int) -> "Sketch":
        """A sketch for at most `connections` at a time over all addresses.

        A row is at least twice as wide as that, so two addresses share a cell of a row with a probability below
        1 - exp(-1/2), and all four cells are shared, which is when an address is counted too high, for less than
        2.4 % of the addresses, by one or two connections. It is never counted too low: the limit holds.
        """
        width = 1 << max(10, (2 * connections - 1).bit_length())
        return cls(layout.gauge(name, cls.ROWS * width), width)


@final
class AddressLimit:
    """A limit per client address for the node, in fixed memory: a count-min sketch per column, announce then check.

    An address's count is the least of its four cells, each summed over the columns. An IPv6 client is its /64, the
    least that one subscriber has; addresses that are no IP address (unix sockets) are one client.
    """

    __slots__ = ("_fence", "_most", "_secret", "_sketch", "_views", "_words")

    def __init__(
        self,
        sketch: Sketch,
        most: int,
        words: memoryview,
        views: tuple[memoryview, ...],
        fence: threading.Lock,
        secret: bytes,
    ) -> None:
        self._sketch = sketch
        self._most = most
        self._words = words
        self._views = views
        self._fence = fence
        self._secret = secret

    def try_take(self, ip: str) -> bool:
        """Take one place of this address; False when it has none left. What is taken is given back once."""
        cells = tuple(self._cells(ip))
        words = self._words
        for cell in cells:
            words[cell] += 1
        self._fence.release()
        self._fence.acquire()
        if min(sum(view[cell] for view in self._views) for cell in cells) <= self._most:
            return True
        for cell in cells:
            words[cell] -= 1
        return False

    def give_back(self, ip: str) -> None:
        for cell in self._cells(ip):
            self._words[cell] -= 1

    def _cells(self, ip: str) -> Iterator[int]:
        digest = blake2b(subscriber(ip), digest_size=4 * Sketch.ROWS, key=self._secret).digest()
        first, width = self._sketch.first, self._sketch.width
        for row in range(Sketch.ROWS):
            yield first + row * width + int.from_bytes(digest[4 * row : 4 * row + 4]) % width


def subscriber(ip: str) -> bytes:
    """What counts as one client: an IPv4 address, the /64 of an IPv6 address, or b"" for what is no IP address."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return b""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped.packed if address.ipv4_mapped else address.packed[:8]
    return address.packed
