"""Rate limits by key, exact for the node: a table of cells of fixed size, in shared memory.

A cell is two words, a keyed hash of the key and a state. The state is an instant: once it is not above `now`, the cell
has expired and may be reused for any key.

- Token bucket (GCRA): the instant at which the bucket is full again, in ns. It is kept when the limit changes, so that
  what was spent before counts in proportion to the limit: a cell has no room for the limit that it was spent with. The
  instant is not bounded by what the new bucket can hold either: a process whose `now` is late would cut off spending.
- Fixed window: the end of the window, rounded up to 2**24 ns; the lower 24 bits hold the count.
- Sliding window: the instant at which the last permit leaves the window, and the count, of one part of the window, a
  seventh. The states of earlier parts are stored beside the cell; in at most 8 parts permits count at once. All permits
  of a part leave together, one window after the last of them was spent. So at most `limit` are admitted in any window,
  wherever it begins, and nobody waits longer than one window; a permit counts for at most a part longer than that.
  The lower 24 bits hold a class (2 bits), the count (10, 14, 18 or 22 bits) and, with what it leaves free, the instant
  more finely: rounded up to 4 us, 66 us, 1 ms or 17 ms. Such a state grows with its instant, then with its count.

A key may be in two buckets of 8 cells. It enters the one with more expired cells. If both are full (with the table
filled to two thirds: none of 160,000 keys; to three quarters: one in 3,000), it spends in an overflow cell that it
shares with other keys of the same window; all such keys are divided among 16 cells. It may be rejected for what the
others spend, but no spending is forgotten; it stays there until that cell has expired. If the overflow is full too, it
is rejected. Both cases are counted.

`now` is `time.monotonic_ns()`, one clock for all processes. A decision counts at `now`, or at a later instant that the
table has already seen.

A decision is a compare-and-swap; `_rate_limit_table.h` explains why that is enough.

PERF: a decision on a key of 20 bytes takes 80 ns, including a call of 38 (CPython 3.11, micro/cells).
"""

import mmap
import os
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Final, Protocol, final

from fastgw.kernel import memory_file
from fastgw.shm import _rate_limit_table

_HEAD: Final = mmap.PAGESIZE
_BUCKET: Final = 8
_GROUP: Final = 64  # buckets: both buckets of a key are in the same group
_PARTS: Final = 7  # of a sliding window: it may begin and end within parts
_BESIDE: Final = _PARTS + 1
_STRIPES: Final = 16
_OVERFLOW: Final = 1024
_CELL: Final = 8 * (2 + _BESIDE)
_COUNT: Final = (1 << 24) - 1
# Words of the header. Frequently written ones have their own cache lines.
_MAKER, _CELLS, _KEY, _OVERFLOWED, _REFUSED, _EVICTED_AT = 0, 1, 2, 24, 25, 64
_PIECE: Final = 1 << 16
_UNUSED: Final = bytes(_PIECE)
_LOCKS: Final = 256  # for the keys' own cells, and one more for the overflow; each has a word at _EVICTED_AT

COUNT_MAX: Final = _COUNT
"""Maximum limit of a fixed window."""
SLIDING_MAX: Final = (1 << 22) - 1
"""Maximum limit of a sliding window."""
WINDOW_MIN: Final = 0.2
"""Minimum window in seconds: its parts are distinguished by instants rounded to 2**24 ns."""
_SPAN_MAX: Final = 1 << 58  # ns
SPAN_MAX_S: Final = _SPAN_MAX / 1e9
"""Maximum time in seconds in which a bucket refills: about nine years."""
_BUCKET_KIND, _FIXED_KIND, _SLIDING_KIND, _LEAKY_KIND = range(4)


class Limit(Protocol):
    def spend(self, key: bytes, cost: int, now: int, /) -> float:
        """Spend `cost` permits (1 or more) of `key` and return 0.0, or spend nothing and return the seconds to wait.

        `now`: ns of the monotonic clock. `key`: any length; only a keyed hash is stored. Limits of the same name, kind
        and window share the permits of equal keys, so a limit that is changed keeps what was spent (a bucket the time
        until it is full). Rounded up, the wait is `Retry-After` (RFC 9110 section 10.2.3). Raises `ValueError` for a
        cost above the maximum, for which no wait is enough.
        """

    @property
    def renewed_at(self) -> int:
        """Return when the key is fully replenished if nothing more is spent, after the last `spend` or `charge` of this
        object.

        In ns of the monotonic clock. For a leaky bucket, a request has its turn at `renewed_at` less its own cost.
        """

    def charge(self, key: bytes, cost: int, now: int, /) -> None:
        """Spend permits whose cost is known only afterwards, even if none are left.

        The key goes into overdraft by at most one burst; more is not charged.
        """

    def refund(self, key: bytes, cost: int, spent_at: int, clock: Callable[[], int], /) -> None:
        """Refund a cost. `spent_at`: `now` of the spending. `clock`: returns the current time.

        A bucket gets back the cost less what it has refilled in between (some microseconds' worth), because it might
        have been full without this spending. A window gets all of it back, unless its part is over. So no permit is
        refunded twice.
        """

    def remaining(self, key: bytes, now: int, /) -> tuple[int, float]:
        """Return how many permits are available at once, and the seconds until the key is fully replenished. Spends
        nothing.
        """


def size(count: int) -> int:
    """Return the bytes of memory for a table of `count` cells, a power of two from 16 on. Untouched memory costs
    nothing.
    """
    if count < 2 * _BUCKET or count & (count - 1):
        raise ValueError(f"a table has 2**n cells, at least {2 * _BUCKET}; not {count}")
    return _HEAD + (count + _OVERFLOW) * _CELL


def own_table(count: int = 1024) -> "Cells":
    """Return a table of this process only, for tests."""
    fd = memory_file("fastgw-cells")
    os.ftruncate(fd, size(count))
    mapped = mmap.mmap(fd, size(count))
    weakref.finalize(mapped, os.close, fd)
    return Cells(memoryview(mapped), fd, 0)


@final
class Cells:
    """Rate limit table: a new one in new memory (all zero), otherwise the existing one.

    `memory`: writable, `size(count)` bytes, mapped from `offset` of the file `fd` by all processes. New memory has to
    be initialized before another process uses it. Raises `ValueError` for a table that cannot be used here.
    """

    def __init__(self, memory: memoryview, fd: int, offset: int) -> None:
        count = (len(memory) - _HEAD) // _CELL - _OVERFLOW
        if count <= 0 or size(count) != len(memory):
            raise ValueError(f"no table has {len(memory)} bytes")
        self._words: memoryview = memory.cast("B").cast("Q")
        if not self._words[_MAKER]:
            self._words[_KEY : _KEY + 2] = memoryview(os.urandom(16)).cast("Q")
            self._words[_CELLS] = count
            self._words[_MAKER] = 1
        if self._words[_CELLS] != count:
            raise ValueError("the limiter cells there were made for another size")
        self._memory = _rate_limit_table.Memory(memory, _HEAD, count, _OVERFLOW)
        self._count = count
        self._file = fd, offset

    def occupied(self, now: int) -> tuple[int, int]:
        """Return the numbers of live cells at `now`: own cells and shared ones.

        Reads the file and not the mapping, because that would allocate unused pages. Takes 20 to 100 ms.
        """
        fd, offset = self._file
        begins, bounds = offset + _HEAD, (0, self._count, self._count + _OVERFLOW)
        own, shared = (_live(fd, begins + 16 * at, begins + 16 * end, now) for at, end in pairwise(bounds))
        return own, shared

    @property
    def count(self) -> int:
        """Maximum number of keys with a cell of their own."""
        return self._count

    @property
    def overflowed(self) -> int:
        """Number of decisions made in a shared cell, or rejected without one."""
        return self._words[_OVERFLOWED]

    @property
    def refused(self) -> int:
        """Number of decisions rejected because the overflow was full too."""
        return self._words[_REFUSED]

    def token_bucket(self, limit: int, window: float, burst: int, name: bytes = b"") -> Limit:
        """Return a token bucket of `burst` permits that refills by `limit` in each `window` of seconds, evenly.

        The ns between two permits are rounded up, so it refills slower by less than `limit` ns per window.
        """
        return self._bucket(_BUCKET_KIND, limit, window, burst, name)

    def leaky_bucket(self, limit: int, window: float, queue_size: int, name: bytes = b"") -> Limit:
        """Return a leaky bucket: a queue of `queue_size` (0 or more) from which one request continues every `window /
        limit` seconds.

        An admitted request has its turn at `renewed_at` less its own cost in time. In the cells it is a token bucket
        with one more permit.
        """
        return self._bucket(_LEAKY_KIND, limit, window, queue_size + 1, name)

    def _bucket(self, kind: int, limit: int, window: float, depth: int, name: bytes) -> Limit:
        ns = _ns(window)
        step = step_of(limit, window)
        if _positive(depth) * step > _SPAN_MAX:
            raise ValueError("the bucket would take years to fill")
        return self._limit(kind | ns << 2, depth, step, 0, True, 2 * depth, name)

    def fixed_window(self, limit: int, window: float, name: bytes = b"") -> Limit:
        """Return a limit of at most `limit` in each `window` of seconds; all keys have the same windows."""
        ns = _window(limit, window, COUNT_MAX)
        return self._limit(_FIXED_KIND | ns << 2, limit, ns, 0, False, min(2 * limit, COUNT_MAX), name)

    def sliding_window(self, limit: int, window: float, name: bytes = b"") -> Limit:
        """Return a limit of at most `limit` in any `window` of seconds, wherever it begins."""
        ns = _window(limit, window, SLIDING_MAX)
        return self._limit(
            _SLIDING_KIND | ns << 2, limit, part_length(ns), ns, False, min(2 * limit, SLIDING_MAX), name
        )

    def _limit(
        self, identity: int, limit: int, step: int, window: int, is_bucket: bool, most: int, name: bytes
    ) -> Limit:
        """Return a limit of any kind.

        `identity`: of kind and window, hashed with `name` and each key; shared cells are used by all names. `step`: ns
        between two permits of a bucket, or length of a part of a window. `window`: ns for which a permit of a sliding
        window counts; 0: a fixed window. `most`: maximum number of permits when they are charged.
        """
        return _rate_limit_table.Limit(self._memory, identity, limit, step, window, is_bucket, most, name)


def _window(limit: int, window: float, most: int) -> int:
    if not window >= WINDOW_MIN or _positive(limit) > most:
        raise ValueError(f"a window takes {WINDOW_MIN:g} seconds or more and admits at most {most:,}")
    return _ns(window)


def _live(fd: int, begins: int, ends: int, now: int) -> int:
    """Count the cells in this part of the file that are not expired."""
    found = 0
    for at in range(begins, ends, _PIECE):
        piece = os.pread(fd, min(_PIECE, ends - at), at)
        if piece != _UNUSED[: len(piece)]:
            found += sum(map(now.__lt__, memoryview(piece).cast("Q")[1::2].tolist()))
    return found


def step_of(limit: int, window: float) -> int:
    """Return the ns between two permits of a bucket."""
    return -(-_ns(window) // _positive(limit))


def part_length(window: int) -> int:
    """Return the length of a part of a sliding window, both in ns."""
    return -(-window // _PARTS) + _COUNT & ~_COUNT  # an instant is in the same part when it is rounded up


def _ns(window: float) -> int:
    ns = round(window * 1e9)
    if not 0 < ns <= _SPAN_MAX:
        raise ValueError("a window is longer than nothing and shorter than years")
    return ns


def _positive(count: int) -> int:
    if count < 1:
        raise ValueError("a limit admits at least one")
    return count
