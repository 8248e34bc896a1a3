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

Compiled, a decision is a compare-and-swap (`_rate_limit_table.h` explains why that is enough). Without a compiler, the
cells of a key are locked by `fcntl.lockf`, which the kernel releases when a process dies. The table is consistent after
each store: an expired cell is reset before it gets another hash, and the count of a part is stored beside the cell
before a later part begins. Two properties are weaker: a process that is stopped during a decision blocks others, and
only one thread of a process may decide. Processes of both kinds cannot share a table; its header names the kind.

PERF: a decision on a key of 20 bytes takes 80 ns compiled, 5,100 by fcntl, including a call of 38 (CPython 3.11,
micro/cells).
"""

import fcntl
import mmap
import os
import weakref
from collections.abc import Callable
from hashlib import blake2b
from itertools import chain, pairwise
from typing import Final, Protocol, final

from fastgw.compiled import twin
from fastgw.kernel import memory_file

_twin = twin("fastgw.shm._rate_limit_table")

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


def table(memory: memoryview, fd: int, offset: int) -> "Cells":
    """Return the table in this memory: the compiled one if available. See `Cells`."""
    return LockedCells(memory, fd, offset) if _twin is None else SwappedCells(memory, fd, offset)


def own_table(count: int = 1024) -> "Cells":
    """Return a table of this process only, for tests."""
    fd = memory_file("fastgw-cells")
    os.ftruncate(fd, size(count))
    mapped = mmap.mmap(fd, size(count))
    weakref.finalize(mapped, os.close, fd)
    return table(memoryview(mapped), fd, 0)


COMPILED: Final = _twin is not None
"""Whether cells are advanced by compare-and-swap."""


def describe() -> str:
    """Describe how cells are updated here, for people."""
    return "fcntl locks (no compiled modules)" if _twin is None else "compare-and-swap"


class Cells:
    """Rate limit table: a new one in new memory (all zero), otherwise the existing one.

    `memory`: writable, `size(count)` bytes, mapped from `offset` of the file `fd` by all processes. New memory has to
    be initialized before another process uses it. Raises `ValueError` for a table that cannot be used here.
    """

    MAKER: int

    def __init__(self, memory: memoryview, fd: int, offset: int) -> None:
        count = (len(memory) - _HEAD) // _CELL - _OVERFLOW
        if count <= 0 or size(count) != len(memory):
            raise ValueError(f"no table has {len(memory)} bytes")
        self._words: memoryview = memory.cast("B").cast("Q")
        if not self._words[_MAKER]:
            self._words[_KEY : _KEY + 2] = memoryview(os.urandom(16)).cast("Q")
            self._words[_CELLS] = count
            self._words[_MAKER] = self.MAKER
        if (self._words[_MAKER], self._words[_CELLS]) != (self.MAKER, count):
            raise ValueError("the limiter cells there were made in another way, compiled or not, or for another size")
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
        raise NotImplementedError


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


@final
class SwappedCells(Cells):
    """Compiled table, updated by compare-and-swap."""

    MAKER = 1

    def __init__(self, memory: memoryview, fd: int, offset: int) -> None:
        super().__init__(memory, fd, offset)
        assert _twin is not None
        self._memory = _twin.Memory(memory, _HEAD, self._count, _OVERFLOW)

    def _limit(
        self, identity: int, limit: int, step: int, window: int, is_bucket: bool, most: int, name: bytes
    ) -> Limit:
        assert _twin is not None
        made: Limit = _twin.Limit(self._memory, identity, limit, step, window, is_bucket, most, name)
        return made


@final
class LockedCells(Cells):
    """The reference table, with locks on the memory's file."""

    MAKER = 2

    def __init__(self, memory: memoryview, fd: int, offset: int) -> None:
        super().__init__(memory, fd, offset)
        self._own = _Region(self._words, fd, offset, 0, self._count, range(_LOCKS))
        self._overflow = _Region(self._words, fd, offset, self._count, _OVERFLOW, range(_LOCKS, _LOCKS + 1))

    def _limit(
        self, identity: int, limit: int, step: int, window: int, is_bucket: bool, most: int, name: bytes
    ) -> Limit:
        return _LockedLimit(
            self._words, self._own, self._overflow, identity, limit, step, window, is_bucket, most, name
        )


@final
class _Region:
    """The keys' own cells, or the overflow. A cell is identified by the index of its first word."""

    def __init__(self, words: memoryview, fd: int, offset: int, first: int, count: int, locks: range) -> None:
        self._words = words
        self._fd = fd
        self._offset = offset
        self._first = _HEAD // 8 + 2 * first
        self._buckets = count // _BUCKET
        self._group = min(_GROUP, self._buckets)
        self._locks = locks

    def lock(self, hash_: int) -> int:
        """Lock the cells that this hash may be in. The result has to be passed to `unlock`."""
        group = (hash_ & self._buckets - 1) // self._group
        lock = self._locks[group % len(self._locks)]
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._offset + lock)
        return lock

    def unlock(self, lock: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._offset + lock)

    def find(self, hash_: int) -> int | None:
        words = self._words
        for cell in chain(*self._both(hash_)):
            if words[cell] == hash_:
                return cell
        return None

    def claim(self, hash_: int, now: int, lock: int) -> int | None:
        """Return an expired cell for a hash that has none; None: all are live."""
        words = self._words
        expired = max(([cell for cell in bucket if words[cell + 1] <= now] for bucket in self._both(hash_)), key=len)
        if not expired:
            return None
        cell = expired[0]
        words[_EVICTED_AT + lock] = now  # never less than the present value: see `_decide`
        words[cell + 1] = 0
        words[cell] = hash_
        return cell

    def is_live(self, hash_: int, now: int) -> bool:
        cell = self.find(hash_)
        return cell is not None and self._words[cell + 1] > now

    def wait_for_any(self, hash_: int, now: int) -> int:
        """Return the ns until the first of these cells expires."""
        return min(self._words[cell + 1] for cell in chain(*self._both(hash_))) - now

    def _both(self, hash_: int) -> tuple[range, range]:
        """Return the cells of the two buckets."""
        bucket = hash_ & self._buckets - 1
        other = bucket ^ 1 + (hash_ >> 32) % (self._group - 1)
        first, second = self._first + 2 * _BUCKET * bucket, self._first + 2 * _BUCKET * other
        return range(first, first + 2 * _BUCKET, 2), range(second, second + 2 * _BUCKET, 2)


@final
class _LockedLimit:
    """A limit of `LockedCells`."""

    def __init__(
        self,
        words: memoryview,
        own: _Region,
        overflow: _Region,
        identity: int,
        limit: int,
        step: int,
        window: int,
        is_bucket: bool,
        most: int,
        name: bytes,
    ) -> None:
        self._words = words
        self._own = own
        self._overflow = overflow
        self._limit = limit
        self._step = step
        self._window = window
        self._is_bucket = is_bucket
        self._most = most
        self._spend_in = self._spend_from_bucket if is_bucket else self._spend_in_window
        self.renewed_at = 0
        self._identity = identity.to_bytes(8, "little")
        self._secret = words[_KEY : _KEY + 2].tobytes()
        self._first_parts = _HEAD // 8 + 2 * (len(words) - _HEAD // 8) // (2 + _BESIDE)
        self._shared = [self._hash(bytes([stripe])) for stripe in range(_STRIPES)]
        if name:
            self._identity = self._hash(name).to_bytes(8, "little")

    def spend(self, key: bytes, cost: int, now: int, /) -> float:
        if not 0 < cost <= self._limit:
            raise ValueError("the cost is not between 1 and what may be spent at once")
        return self._decide(key, cost, now, 0)

    def charge(self, key: bytes, cost: int, now: int, /) -> None:
        if cost < 1:
            raise ValueError("a charge is of one permit or more")
        self._decide(key, min(cost, self._most), now, self._most)

    def refund(self, key: bytes, cost: int, spent_at: int, clock: Callable[[], int], /) -> None:
        cost = min(cost, self._limit)

        def give_back(cell: int) -> None:
            state, now = self._words[cell + 1], clock()
            if self._is_bucket:
                back_at = spent_at + cost * self._step
                if min(state, back_at) > now:
                    self._words[cell + 1] = max(state - (back_at - now), now)
            elif self._part(leaves := self._leaves(state)) == self._part(self._leaves_at(spent_at)):
                self._words[cell + 1] = self._state(leaves, max(self._count(state) - cost, 0))

        self._with_live_cell(key, 0, give_back)

    def remaining(self, key: bytes, now: int, /) -> tuple[int, float]:
        found = self._limit, 0.0

        def look(cell: int) -> None:
            nonlocal found
            state = self._words[cell + 1]
            spent = -(-(state - now) // self._step) if self._is_bucket else self._spent(cell, now)
            renewed_at = state if self._is_bucket else self._leaves(state)
            found = max(self._limit - spent, 0), max(renewed_at - now, 0) / 1e9

        self._with_live_cell(key, now, look)
        return found

    def _decide(self, key: bytes, cost: int, now: int, most: int) -> float:
        """Decide on a cost. `most`: for a charge, the maximum number of permits spent in all; 0: a cost above the limit
        is rejected.
        """
        hash_ = self._hash(key)
        shared = self._shared[hash_ >> 60]
        lock = self._own.lock(hash_)
        try:
            now = max(now, self._words[_EVICTED_AT + lock])
            cell = self._own.find(hash_)
            if cell is None and not (self._words[_OVERFLOWED] and self._overflow.is_live(shared, now)):
                cell = self._own.claim(hash_, now, lock)
            wait = (
                self._spend_shared(shared, cost, now, most) if cell is None else self._spend_in(cell, cost, now, most)
            )
        finally:
            self._own.unlock(lock)
        return wait / 1e9

    def _spend_shared(self, shared: int, cost: int, now: int, most: int) -> int:
        """Spend in the shared cell; the key has no cell of its own, and gets none while this cell is locked."""
        words = self._words
        lock = self._overflow.lock(shared)
        try:
            words[_OVERFLOWED] += 1
            now = max(now, words[_EVICTED_AT + lock])
            cell = self._overflow.find(shared)
            if cell is None:
                cell = self._overflow.claim(shared, now, lock)
            if cell is None:
                words[_REFUSED] += 1
                wait = self._overflow.wait_for_any(shared, now)
                self.renewed_at = now + wait
                return wait
            return self._spend_in(cell, cost, now, most)
        finally:
            self._overflow.unlock(lock)

    def _with_live_cell(self, key: bytes, now: int, use: Callable[[int], None]) -> None:
        """Use the live cell of a key, its own or the shared one, under its lock; if there is one."""
        hash_ = self._hash(key)
        regions = [(self._own, hash_)]
        if self._words[_OVERFLOWED]:
            regions.append((self._overflow, self._shared[hash_ >> 60]))
        for region, sought in regions:
            lock = region.lock(sought)
            try:
                cell = region.find(sought)
                if cell is not None:
                    if self._words[cell + 1] > now:
                        use(cell)
                    return
            finally:
                region.unlock(lock)

    def _spend_from_bucket(self, cell: int, cost: int, now: int, most: int) -> int:
        free_at = max(self._words[cell + 1], now)
        full_at = free_at + cost * self._step
        wait = full_at - now - self._limit * self._step
        self.renewed_at = free_at
        if most:
            full_at = max(min(full_at, now + most * self._step), free_at)
        elif wait > 0:
            return wait
        self._words[cell + 1] = self.renewed_at = full_at
        return 0

    def _spend_in_window(self, cell: int, cost: int, now: int, most: int) -> int:
        words = self._words
        state, leaves = words[cell + 1], self._leaves_at(now)
        seen_leaves, count = self._leaves(state), 0
        part, seen = self._part(leaves), self._part(seen_leaves)
        if part <= seen:
            part, count, leaves = seen, self._count(state), max(leaves, seen_leaves)
        elif self._window and seen_leaves > now:
            words[self._part_word(cell, seen)] = state
        earlier = self._earlier(cell, part, now)
        spent = count + sum(map(self._count, earlier))
        if most:
            cost = max(min(cost, most - spent), 0)
        is_admitted = most or spent + cost <= self._limit
        if is_admitted and cost:
            words[cell + 1] = state = self._state(leaves, count + cost)
        self.renewed_at = self._leaves(state)
        if is_admitted:
            return 0
        for each in earlier:
            spent -= self._count(each)
            if spent + cost <= self._limit:
                return self._leaves(each) - now
        return seen_leaves - now

    def _spent(self, cell: int, now: int) -> int:
        """Return the permits spent in the window that `now` is in."""
        state = self._words[cell + 1]
        leaves = self._leaves(state)
        earlier = sum(map(self._count, self._earlier(cell, self._part(leaves), now)))
        return earlier + (self._count(state) if leaves > now else 0)

    def _earlier(self, cell: int, part: int, now: int) -> list[int]:
        """Return the states of the parts before this one whose permits still count, the oldest first."""
        if not self._window:
            return []
        words = (self._words[self._part_word(cell, part + number)] for number in range(1, _BESIDE))
        return [word for word in words if self._leaves(word) > now]

    def _leaves_at(self, now: int) -> int:
        """Return when a permit leaves the window that is spent now."""
        return now + self._window if self._window else (now // self._step + 1) * self._step

    def _part(self, leaves: int) -> int:
        """Return the part in which permits were spent that leave the window at this instant."""
        return (leaves - 1) // self._step

    def _state(self, leaves: int, count: int) -> int:
        """Return the state of a window: when its permits leave it, never earlier than `leaves`, and their count."""
        coarse = leaves + _COUNT & ~_COUNT
        if not self._window:
            return coarse | count
        class_ = sum(count >= most for most in (1 << 10, 1 << 14, 1 << 18))
        unit = 12 + 4 * class_
        fine = (leaves + (1 << unit) - 1 & _COUNT) >> unit
        return coarse | class_ << 22 | count << 24 - unit | fine

    def _count(self, state: int) -> int:
        return (state & SLIDING_MAX) >> 12 - 4 * (state >> 22 & 3) if self._window else state & _COUNT

    def _leaves(self, state: int) -> int:
        """Return when the permits of a state leave the window."""
        coarse = state & ~_COUNT
        if not self._window:
            return coarse // self._step * self._step
        unit = 12 + 4 * (state >> 22 & 3)
        fine = state & (1 << 24 - unit) - 1
        return coarse - (_COUNT + 1) + (fine << unit) if fine else coarse

    def _part_word(self, cell: int, part: int) -> int:
        """Return the word beside a cell for the state of a part."""
        return self._first_parts + (cell - _HEAD // 8) // 2 * _BESIDE + part % _BESIDE

    def _hash(self, key: bytes) -> int:
        digest = blake2b(self._identity + key, digest_size=8, key=self._secret).digest()
        return int.from_bytes(digest, "little") or 1  # 0 marks an empty cell
