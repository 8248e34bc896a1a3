"""Limits by key, exact for the node: a table of cells of fixed size, in memory that all its processes map.

A cell is two words, a keyed hash of the key and a state. The state is a number that orders as an instant: once it is
not above `now`, the cell is as good as new and may be evicted, whoever's it is.

- Token bucket (GCRA): the instant at which the bucket is full again, in ns.
- Fixed window: the end of the window, rounded up to 2**24 ns; its lower 24 bits, all zero then, hold the count.
- Sliding window: the same of a part of the window, a seventh, with the instant at which that part has left the window.
  The counts of the parts before stand beside the cell. A permit is held from when it is spent until the part in which
  it was spent lies wholly outside the window: at least one window, at most one and a seventh. So in any window,
  wherever it begins, at most `limit` are admitted; a client that always asks for more gets at least 7/8 of that.

A key may be in two buckets of 8 cells. It enters the one where more cells are expired. Where none is (in a table that
is two thirds full: seen for none of 160,000 keys; three quarters: for one in 3,000), it spends in a cell that it shares
with others of the same window, of 16 that all such keys are divided among: it may be refused for what they spent, it is
never admitted for what is forgotten; and it stays there until that cell has expired. Where even the overflow is full it
is refused. Both are counted.

`now` is `time.monotonic_ns()`, one clock for all processes. A decision counts at `now`, or at a later instant that the
table has seen already.

Compiled, a decision is a compare-and-swap (`_rate_limit_table.h` tells why that is enough). Without a compiler, the
cells that a key may be in are locked by `fcntl.lockf`, which the kernel undoes when a process dies. Each store leaves a
table that is right: an expired cell is as good as new before it gets another hash, and the count of a part stands
beside the cell before a later part begins. Two things are weaker there: a process that is stopped in a decision keeps
others waiting, and of one process only one thread may decide. Processes of both kinds cannot share a table; it says who
made it.

PERF: a decision on a key of 20 bytes takes 80 ns compiled, 5,100 by fcntl, both with a call around it that takes 38
(CPython 3.11, micro/cells).
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
_GROUP: Final = 64  # buckets: both of a key are in one
_PARTS: Final = 7
_BESIDE: Final = _PARTS + 1  # so the parts before one stay readable while that is written beside the cell
_STRIPES: Final = 16
_OVERFLOW: Final = 1024
_CELL: Final = 8 * (2 + _BESIDE)
_COUNT: Final = (1 << 24) - 1
# Words of the head. Those that are written often stand on lines of their own.
_MAKER, _CELLS, _KEY, _OVERFLOWED, _REFUSED, _EVICTED_AT = 0, 1, 2, 24, 25, 64
_PIECE: Final = 1 << 16
_UNUSED: Final = bytes(_PIECE)
_LOCKS: Final = 256  # for the keys' own cells, and one more for the overflow; each has a word at _EVICTED_AT

COUNT_MAX: Final = _COUNT
"""The highest limit of a window."""
WINDOW_MIN: Final = 0.2
"""The shortest window, in seconds: its parts are told apart by instants rounded to 2**24 ns."""
_SPAN_MAX: Final = 1 << 58  # ns
SPAN_MAX_S: Final = _SPAN_MAX / 1e9
"""The longest that a bucket may take to be full, in seconds: some nine years."""
_BUCKET_KIND, _FIXED_KIND, _SLIDING_KIND, _LEAKY_KIND = range(4)


class Limit(Protocol):
    def spend(self, key: bytes, cost: int, now: int, /) -> float:
        """Spend `cost` permits (1 or more) of `key` and return 0.0, or spend nothing and return the seconds to wait.

        `now`: ns of the monotonic clock. `key`: any length; only a keyed hash of it is kept. Equal keys share what they
        spend by limits of the same name, kind and window, whatever else these are: so a limit that is changed keeps
        what was spent. Rounded up, the wait is `Retry-After` (RFC 9110 section 10.2.3). Raises `ValueError` for a cost
        that no wait would ever be enough for.
        """

    @property
    def renewed_at(self) -> int:
        """Return the time when the key is as good as new if nothing more is spent, by the last `spend` or `charge` of
        this object.

        In ns of the monotonic clock. Of a bucket, how far behind it is: a request that has to wait for its turn (leaky
        bucket) has it at `renewed_at` less its own cost.
        """

    def charge(self, key: bytes, cost: int, now: int, /) -> None:
        """Spend permits that are known too late to be refused, though there may be none left.

        A key comes into debt by that, at most by as much as it may spend at once; what is above that is let go of.
        """

    def refund(self, key: bytes, cost: int, spent_at: int, clock: Callable[[], int], /) -> None:
        """Give back what was spent. `spent_at`: its `now`. `clock`: tells that of today.

        A bucket gets it back less what it gets by itself in the time between, some microseconds' worth: without this
        spending it might have been full, and then no more would be missing. A window gets all of it, unless the part is
        over in which it was spent. So nobody is ever admitted for what has come back twice.
        """

    def left(self, key: bytes, now: int, /) -> tuple[int, float]:
        """How many permits may be spent at once, and the seconds until it is as good as new. Spends nothing."""


def size(count: int) -> int:
    """Bytes of memory for a table of `count` cells, a power of two from 16 on. They cost nothing until touched."""
    if count < 2 * _BUCKET or count & (count - 1):
        raise ValueError(f"a table has 2**n cells, at least {2 * _BUCKET}; not {count}")
    return _HEAD + (count + _OVERFLOW) * _CELL


def table(memory: memoryview, fd: int, offset: int) -> "Cells":
    """The table in this memory, the best that is installed here. See `Cells`."""
    return LockedCells(memory, fd, offset) if _twin is None else SwappedCells(memory, fd, offset)


def own_table(count: int = 1024) -> "Cells":
    """A table of this process alone: for tests and trials."""
    fd = memory_file("fastgw-cells")
    os.ftruncate(fd, size(count))
    mapped = mmap.mmap(fd, size(count))
    weakref.finalize(mapped, os.close, fd)
    return table(memoryview(mapped), fd, 0)


COMPILED: Final = _twin is not None
"""Whether cells are advanced by compare-and-swap."""


def describe() -> str:
    """Describe how cells are advanced here, for people."""
    return "fcntl locks (no compiled modules)" if _twin is None else "compare-and-swap"


class Cells:
    """A table: in new memory (all zero) a new one, else the one that is there.

    `memory`: writable, `size(count)` bytes, mapped from `offset` of the file `fd` by all processes. New memory has to
    come to its first table before another process has it. Raises `ValueError` for a table that cannot be used here.
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
        """How many cells count at `now`: of the keys' own, and of those that are shared.

        The file is read and not the mapping, as pages that nobody has used would be taken by that. It takes 20 to
        100 ms.
        """
        fd, offset = self._file
        begins, bounds = offset + _HEAD, (0, self._count, self._count + _OVERFLOW)
        own, shared = (_live(fd, begins + 16 * at, begins + 16 * end, now) for at, end in pairwise(bounds))
        return own, shared

    @property
    def count(self) -> int:
        """How many keys may have a cell of their own."""
        return self._count

    @property
    def overflowed(self) -> int:
        """How many decisions were made in, or for want of, a shared cell."""
        return self._words[_OVERFLOWED]

    @property
    def refused(self) -> int:
        """How many decisions were refusals because the overflow was full as well."""
        return self._words[_REFUSED]

    def token_bucket(self, limit: int, window: float, burst: int, name: bytes = b"") -> Limit:
        """A bucket of `burst` permits that gets `limit` more in each `window` of seconds, evenly.

        The ns between two permits are rounded up, so it gets less by a share under `limit` ns per window.
        """
        return self._bucket(_BUCKET_KIND, limit, window, burst, name)

    def leaky_bucket(self, limit: int, window: float, places: int, name: bytes = b"") -> Limit:
        """A queue of so many waiting places (0 or more), of which one is called up every `window / limit` seconds.

        A request that is admitted has its turn at `renewed_at` less its own cost in time. For the cells it is a bucket
        that holds one more.
        """
        return self._bucket(_LEAKY_KIND, limit, window, places + 1, name)

    def _bucket(self, kind: int, limit: int, window: float, depth: int, name: bytes) -> Limit:
        ns = _ns(window)
        step = step_of(limit, window)
        if _positive(depth) * step > _SPAN_MAX:
            raise ValueError("the bucket would take years to fill")
        return self._limit(kind | ns << 2, depth, step, 0, True, name)

    def fixed_window(self, limit: int, window: float, name: bytes = b"") -> Limit:
        """Return a limit of at most `limit` in each `window` of seconds; the windows of all keys begin together."""
        return self._window(limit, window, 0, name)

    def sliding_window(self, limit: int, window: float, name: bytes = b"") -> Limit:
        """Return a limit of at most `limit` in any `window` of seconds, wherever it begins."""
        return self._window(limit, window, _PARTS, name)

    def _window(self, limit: int, window: float, parts: int, name: bytes) -> Limit:
        if not window >= WINDOW_MIN or _positive(limit) > COUNT_MAX:
            raise ValueError(f"a window takes {WINDOW_MIN:g} seconds or more and admits at most {COUNT_MAX:,}")
        ns = _ns(window)
        return self._limit(
            (_SLIDING_KIND if parts else _FIXED_KIND) | ns << 2, limit, -(-ns // (parts or 1)), parts, False, name
        )

    def _limit(self, identity: int, limit: int, step: int, parts: int, is_bucket: bool, name: bytes) -> Limit:
        """Make a limit of any kind.

        `identity`: of kind and window, hashed with `name` and each key; shared cells are those of all names. `step`:
        ns between two permits of a bucket, or of a part of a window. `parts`: how many a window has, besides the one
        that runs.
        """
        raise NotImplementedError


def _live(fd: int, begins: int, ends: int, now: int) -> int:
    """Count the cells in this part of the file that are not expired."""
    found = 0
    for at in range(begins, ends, _PIECE):
        piece = os.pread(fd, min(_PIECE, ends - at), at)
        if piece != _UNUSED[: len(piece)]:
            found += sum(map(now.__lt__, memoryview(piece).cast("Q")[1::2].tolist()))
    return found


def step_of(limit: int, window: float) -> int:
    """The ns between two permits of a bucket."""
    return -(-_ns(window) // _positive(limit))


def _most(limit: int, is_bucket: bool) -> int:
    """How many permits may be spent in all where they are charged: as many again as may be spent at once."""
    return 2 * limit if is_bucket else min(2 * limit, COUNT_MAX)


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
    """Advanced by compare-and-swap."""

    MAKER = 1

    def __init__(self, memory: memoryview, fd: int, offset: int) -> None:
        super().__init__(memory, fd, offset)
        assert _twin is not None
        self._memory = _twin.Memory(memory, _HEAD, self._count, _OVERFLOW)

    def _limit(self, identity: int, limit: int, step: int, parts: int, is_bucket: bool, name: bytes) -> Limit:
        assert _twin is not None
        made: Limit = _twin.Limit(self._memory, identity, limit, step, parts, is_bucket, _most(limit, is_bucket), name)
        return made


@final
class LockedCells(Cells):
    """The reference, advanced under locks of the memory's file."""

    MAKER = 2

    def __init__(self, memory: memoryview, fd: int, offset: int) -> None:
        super().__init__(memory, fd, offset)
        self._own = _Region(self._words, fd, offset, 0, self._count, range(_LOCKS))
        self._overflow = _Region(self._words, fd, offset, self._count, _OVERFLOW, range(_LOCKS, _LOCKS + 1))

    def _limit(self, identity: int, limit: int, step: int, parts: int, is_bucket: bool, name: bytes) -> Limit:
        return _LockedLimit(self._words, self._own, self._overflow, identity, limit, step, parts, is_bucket, name)


@final
class _Region:
    """The keys' own cells, or the overflow. A cell is told by the number of its first word."""

    def __init__(self, words: memoryview, fd: int, offset: int, first: int, count: int, locks: range) -> None:
        self._words = words
        self._fd = fd
        self._offset = offset
        self._first = _HEAD // 8 + 2 * first
        self._buckets = count // _BUCKET
        self._group = min(_GROUP, self._buckets)
        self._locks = locks

    def lock(self, hash_: int) -> int:
        """Wait until the cells that this hash may be in are ours. The number has to be given back to `unlock`."""
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
        """A cell as good as new for a hash that has none; None where all are live."""
        words = self._words
        expired = max(([cell for cell in bucket if words[cell + 1] <= now] for bucket in self._both(hash_)), key=len)
        if not expired:
            return None
        cell = expired[0]
        words[_EVICTED_AT + lock] = now  # which is no earlier than what stands there: who decides has seen to that
        words[cell + 1] = 0
        words[cell] = hash_
        return cell

    def is_live(self, hash_: int, now: int) -> bool:
        cell = self.find(hash_)
        return cell is not None and self._words[cell + 1] > now

    def wait_for_any(self, hash_: int, now: int) -> int:
        """The ns until the first of these cells expires."""
        return min(self._words[cell + 1] for cell in chain(*self._both(hash_))) - now

    def _both(self, hash_: int) -> tuple[range, range]:
        """The cells of the two buckets."""
        bucket = hash_ & self._buckets - 1
        other = bucket ^ 1 + (hash_ >> 32) % (self._group - 1)
        first, second = (self._first + 2 * _BUCKET * each for each in (bucket, other))
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
        parts: int,
        is_bucket: bool,
        name: bytes,
    ) -> None:
        self._words = words
        self._own = own
        self._overflow = overflow
        self._limit = limit
        self._step = step
        self._parts = parts
        self._is_bucket = is_bucket
        self._most = _most(limit, is_bucket)
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
            elif state & ~_COUNT == self._instant(spent_at // self._step):
                self._words[cell + 1] = state - min(cost, state & _COUNT)

        self._with_live_cell(key, 0, give_back)

    def left(self, key: bytes, now: int, /) -> tuple[int, float]:
        found = self._limit, 0.0

        def look(cell: int) -> None:
            nonlocal found
            state = self._words[cell + 1]
            spent = -(-(state - now) // self._step) if self._is_bucket else self._spent(cell, now)
            renewed_at = state if self._is_bucket else state & ~_COUNT
            found = max(self._limit - spent, 0), max(renewed_at - now, 0) / 1e9

        self._with_live_cell(key, now, look)
        return found

    def _decide(self, key: bytes, cost: int, now: int, most: int) -> float:
        """`most`: of a charge, how many permits may be spent in all; 0: it is refused where the limit is reached."""
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
        """Spend in the cell that the key shares with others; it has none of its own, and gets none while that is
        locked.
        """
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
        """Use the cell that a key spends in, its own or the shared one, while nobody else does; if it has any."""
        hash_ = self._hash(key)
        places = [(self._own, hash_)]
        if self._words[_OVERFLOWED]:
            places.append((self._overflow, self._shared[hash_ >> 60]))
        for region, sought in places:
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
        words, parts = self._words, self._parts
        state = words[cell + 1]
        part, count = now // self._step, 0
        seen = self._part(state)
        if part <= seen:
            part, count = seen, state & _COUNT
        elif part <= seen + parts:
            words[self._beside(cell, seen)] = state
        oldest = max(part - parts, 0)
        counts = [self._count(cell, earlier) for earlier in range(oldest, part)]
        spent = sum(counts) + count
        self.renewed_at = self._instant(part)
        if most:
            cost = max(min(cost, most - spent), 0)
        spent += cost
        if most or spent <= self._limit:
            words[cell + 1] = self._instant(part) | count + cost
            return 0
        leaving = oldest  # the part with which enough will have left the window
        for each in counts:
            spent -= each
            if spent <= self._limit:
                break
            leaving += 1
        return (leaving + 1 + parts) * self._step - now

    def _spent(self, cell: int, now: int) -> int:
        """Return the permits spent in the window that `now` is in."""
        state = self._words[cell + 1]
        seen = self._part(state)
        part = max(now // self._step, seen)
        earlier = sum(self._count(cell, each) for each in range(max(part - self._parts, 0), part) if each != seen)
        return earlier + (state & _COUNT if part <= seen + self._parts else 0)

    def _part(self, state: int) -> int:
        return (state & ~_COUNT) // self._step - 1 - self._parts

    def _instant(self, part: int) -> int:
        """When a part of the window is as good as new."""
        return (part + 1 + self._parts) * self._step + _COUNT & ~_COUNT

    def _beside(self, cell: int, part: int) -> int:
        """The word beside a cell for the count of a part."""
        return self._first_parts + (cell - _HEAD // 8) // 2 * _BESIDE + part % _BESIDE

    def _count(self, cell: int, part: int) -> int:
        word = self._words[self._beside(cell, part)]
        return word & _COUNT if word & ~_COUNT == self._instant(part) else 0

    def _hash(self, key: bytes) -> int:
        digest = blake2b(self._identity + key, digest_size=8, key=self._secret).digest()
        return int.from_bytes(digest, "little") or 1  # 0: an empty cell
