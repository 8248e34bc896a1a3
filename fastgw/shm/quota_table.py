"""Quota counts for long periods, exact for the node, in shared memory; one process writes them to a file.

The memory has a page for locks and numbers, one word per block, and slots of one cache line each. A slot belongs to one
key: the 128 bits of its digest, its *state*, the end of its validity, and the state in the file. A state is the number
of the period in 20 bits and the count in 44: a single word, so that count and period always match, and one
compare-and-swap spends.

Rule 1: a slot is assigned to a key under a lock that the kernel releases when its holder dies, once in the life of a
key. The slot is one of `PROBED` slots from a position given by the digest. It is never freed, but once its period has
been over for `GRACE_S` it may be assigned to another key. If none is available, the key shares a slot with all such
keys of its filter: they may be rejected because of each other, but no spending is forgotten. Rule 2: a count continues
with the slot's period if that is the next one: another process's clock is slightly ahead. If it is further ahead, a
clock was wrong, and the count continues with the current period. Rule 3: period numbers wrap after 2**20. A period that
ended `LONG` periods ago is over, whatever its number: its state becomes 0 under the lock, before anything is spent.
While the state is 0, the validity is written before the state, so that a new count is not taken for an expired one.
Rule 4: spending marks the block afterwards. The process that writes the file takes the mark first and then reads, so no
change is missed, except those of a process killed in between; an occasional scan of all blocks finds them.

PERF: a decision takes 0.3 us (CPython 3.11, micro/quotas).
"""

import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from time import time
from typing import Final, NamedTuple, final

from fastgw.kernel import memory_file
from fastgw.shm.compare_and_swap import Words

SLOTS: Final = 1 << 19
"""Number of keys with a slot of their own. Memory is allocated on use: at most 64 bytes per key."""
PROBED: Final = 64
GRACE_S: Final = 3600.0
COUNT_MAX: Final = (1 << 44) - 1
LONG: Final = 1 << 18
"""Number of periods after which a state is void; far fewer than half of the period numbers."""
PERIODS: Final = 1 << 20
"""Number of period numbers; they wrap afterwards."""
_BLOCK: Final = 512  # slots that share a mark
_OVERFLOW: Final = 1024
_PAGE: Final = mmap.PAGESIZE
_SLOT: Final = 8  # words
_ID_HIGH, _ID_LOW, _STATE, _UNTIL, _KEPT = range(5)  # words of a slot
# Words of the first page; the first two are locked by their bytes. Two secrets; tokens of the last write to the file.
_IS_MADE, _OVERFLOWED, _SECRET, _LAST_WRITE, _UNREAD = 2, 3, 4, 6, 8
_PLACING: Final = 8
"""Byte that is locked while a slot is assigned."""
NOT_OURS: Final = -1
USED_UP: Final = -2
_LONG_OVER: Final = -3


class Full(Exception):
    """The table has no slot for a key, not even a shared one."""


class Period(NamedTuple):
    """A calendar period. `number`: consecutive periods differ by 1. Dates are epoch seconds."""

    number: int
    begins_date: float
    ends_date: float


class KeyDigest(NamedTuple):
    """Digest that a key is stored under."""

    high: int
    low: int

    @classmethod
    def of(cls, key: bytes) -> "KeyDigest":
        return cls.read(blake2b(key, digest_size=16).digest())

    @classmethod
    def read(cls, digest: bytes) -> "KeyDigest":
        return cls(int.from_bytes(digest[:8]) or 1, int.from_bytes(digest[8:]))

    @property
    def digest(self) -> bytes:
        return self.high.to_bytes(8) + self.low.to_bytes(8)


class StoredCount(NamedTuple):
    """Count of a key in the file."""

    id: KeyDigest
    period: int
    used: int
    until: int


def size(slots: int = SLOTS) -> int:
    """Bytes of a table."""
    blocks = -(-(slots + _OVERFLOW) // _BLOCK)
    return _PAGE + _pages(2 * 8 * blocks) + (slots + _OVERFLOW) * 8 * _SLOT


def own_quotas(slots: int = 4096) -> "QuotaTable":
    """Return a table of this process only, for tests."""
    fd = memory_file("fastgw-quotas")
    os.ftruncate(fd, size(slots))
    made = QuotaTable(memoryview(mmap.mmap(fd, size(slots))), fd, 0)
    weakref.finalize(made, os.close, fd)
    return made


@final
class QuotaTable:
    """The quota table. `memory`: all zero, or an existing table; mapped from `offset` of `fd`. Raises `ValueError`."""

    def __init__(self, memory: memoryview, fd: int, offset: int) -> None:
        self._words = memory.cast("B").cast("Q")
        self._cells = Words(memory)
        self._swap = self._cells.swap
        self._fd, self._offset = fd, offset
        each = 8 * _SLOT
        slots = (len(memory) - _PAGE) // each - _OVERFLOW
        while size(slots) > len(memory):
            slots -= 1
        self._slots = slots
        self._blocks = -(-(slots + _OVERFLOW) // _BLOCK)
        self._marked = _PAGE // 8
        self._used = self._marked + self._blocks
        self._first = (_PAGE + _pages(2 * 8 * self._blocks)) // 8
        if not self._words[_IS_MADE]:
            self._words[_SECRET : _SECRET + 2] = memoryview(os.urandom(16)).cast("Q")
            self._words[_IS_MADE] = 1
        self._mask, self._factor = self._words[_SECRET], self._words[_SECRET + 1] | 1

    @property
    def overflowed(self) -> int:
        """Number of keys that found no slot of their own."""
        return self._words[_OVERFLOWED]

    @property
    def last_write(self) -> tuple[int, int]:
        """Tokens of the last write to the file with the counts that are marked as saved, and of one that may have
        followed; (0, 0): not known.
        """
        return self._words[_LAST_WRITE], self._words[_LAST_WRITE + 1]

    @last_write.setter
    def last_write(self, tokens: tuple[int, int]) -> None:
        self._words[_LAST_WRITE], self._words[_LAST_WRITE + 1] = tokens

    @property
    def is_file_unread(self) -> bool:
        """Whether the file has counts that are not in memory yet. Nothing is written to it before they are."""
        return bool(self._words[_UNREAD])

    @is_file_unread.setter
    def is_file_unread(self, is_unread: bool) -> None:
        self._words[_UNREAD] = is_unread

    @property
    def slots(self) -> int:
        """Maximum number of keys with a slot of their own."""
        return self._slots

    def occupied(self, now: float) -> tuple[int, int]:
        """Return the numbers of slots in use at `now` (epoch seconds): own slots and shared ones. Takes up to 100
        ms.
        """
        cutoff, words, found = int(now - GRACE_S), self._words, [0, 0]
        for block in self.in_use():
            first = _BLOCK * block
            last = min(first + _BLOCK, self._slots + _OVERFLOW)
            own = min(max(self._slots - first, 0), _BLOCK)
            begins, ends = (self._first + _SLOT * slot + _UNTIL for slot in (first, last))
            count = [until >= cutoff for until in words[begins : ends - _UNTIL : _SLOT].tolist()]
            found[0] += sum(count[:own])
            found[1] += sum(count[own:])
        return found[0], found[1]

    # for filters

    def assign_slot(self, id_: KeyDigest, shared: KeyDigest) -> tuple[int, KeyDigest]:
        """Return the slot of a key, and whose it is: its own, or that of all keys without one. Raises `Full`."""
        found = self._find(id_)
        if found is not None:
            return found, id_
        with self._placing():
            return self._assign(id_, shared)

    def spend(self, slot: int, id_: KeyDigest, period: Period, cost: int, limit: int) -> int:
        """Spend, and return the remaining limit; `USED_UP`: nothing was spent; `NOT_OURS`: the slot now belongs to
        another key.
        """
        at = self._first + _SLOT * slot
        wanted, mark = period.number % PERIODS, self._marked + slot // _BLOCK
        begins, ends = int(period.begins_date), int(period.ends_date)
        while (left := self._cells.spend(at, id_.high, id_.low, wanted, begins, ends, cost, limit, mark)) == _LONG_OVER:
            self._forget(at, period)
        return left

    def refund(self, slot: int, id_: KeyDigest, period: Period, cost: int) -> None:
        """Refund a cost spent in this period; ignored if the period is over."""
        words, at = self._words, self._first + _SLOT * slot
        while words[at] == id_.high and words[at + _ID_LOW] == id_.low:
            state = words[at + _STATE]
            if state >> 44 != period.number % PERIODS or not state & COUNT_MAX:
                return
            if self._swap(at + _STATE, state, state - min(cost, state & COUNT_MAX)):
                words[self._marked + slot // _BLOCK] = 1
                return

    def count(self, slot: int, id_: KeyDigest, period: Period) -> int:
        """Return the units spent in this period."""
        at = self._first + _SLOT * slot
        if self._words[at] != id_.high or self._words[at + _ID_LOW] != id_.low:
            return 0
        state = self._words[at + _STATE]
        return 0 if self._is_long_over(at, period) else _tag_and_count(state, period.number % PERIODS)[1]

    def _is_long_over(self, at: int, period: Period) -> bool:
        begins, ends = int(period.begins_date), int(period.ends_date)
        return self._words[at + _UNTIL] < begins - (ends - begins) * LONG

    def _forget(self, at: int, period: Period) -> None:
        """Free the slots whose period ended long before this one."""
        with self._placing():
            state = self._words[at + _STATE]  # read before the validity: see rule 3
            if state and self._is_long_over(at, period):
                self._swap(at + _STATE, state, 0)

    # queries and resets of keys

    def look_up(self, id_: KeyDigest, period: Period) -> int:
        """Return the units that a key has spent in this period; the key may be unknown."""
        slot = self._find(id_)
        return 0 if slot is None else self.count(slot, id_, period)

    def reset(self, id_: KeyDigest) -> bool:
        """Reset the count of a key; return whether the key is known."""
        slot = self._find(id_)
        if slot is None:
            return False
        at = self._first + _SLOT * slot
        while True:
            state = self._words[at + _STATE]
            if self._swap(at + _STATE, state, state & ~COUNT_MAX):
                self._words[self._marked + slot // _BLOCK] = 1
                return True

    # for the file

    def has_slot(self, id_: KeyDigest) -> bool:
        """Whether a key has a slot of its own."""
        return self._find(id_) is not None

    def restore(self, row: StoredCount) -> None:
        """Raise the count of a key to at least that of the file. Raises `Full`."""
        with self._placing():  # no other key is given the slot meanwhile
            slot = self._find(row.id)
            if slot is None:
                slot, _ = self._assign(row.id, row.id)
            self._raise_count(self._first + _SLOT * slot, row)

    def _raise_count(self, at: int, row: StoredCount) -> None:
        wanted = row.period % PERIODS
        while True:
            state = self._words[at + _STATE]
            tag, count = state >> 44, state & COUNT_MAX
            if not state or 0 < (wanted - tag) % PERIODS < PERIODS // 2:
                count = 0  # the existing count is older
            elif tag != wanted:
                return
            if self._swap(at + _STATE, state, wanted << 44 | max(count, row.used)):
                self._words[at + _UNTIL] = max(self._words[at + _UNTIL], row.until)
                if count <= row.used:
                    self._words[at + _KEPT] = wanted << 44 | row.used
                return

    def marked(self) -> list[int]:
        """Return the blocks that were marked since the last call."""
        words, begins = self._words, self._marked
        if not any(words[begins : begins + self._blocks].tobytes()):
            return []
        found = []
        for block in range(self._blocks):
            if words[begins + block]:
                self._swap(begins + block, 1, 0)
                found.append(block)
        return found

    def in_use(self) -> list[int]:
        """Return the blocks in which keys have slots."""
        return [block for block in range(self._blocks) if self._words[self._used + block]]

    def unkept(self, block: int) -> Iterator[tuple[int, int, StoredCount]]:
        """Yield the slots of a block that differ from the file: the slot, its state, and the row to write."""
        first = self._first + _SLOT * _BLOCK * block
        last = min(first + _SLOT * _BLOCK, self._first + _SLOT * (self._slots + _OVERFLOW))
        words = self._words[first:last].tolist()
        for begins in range(0, len(words), _SLOT):
            high, low, state, until, kept = words[begins : begins + _KEPT + 1]
            if high and state != kept:
                row = StoredCount(KeyDigest(high, low), state >> 44, state & COUNT_MAX, until)
                yield (first - self._first + begins) // _SLOT, state, row

    def mark_saved(self, slot: int, state: int) -> None:
        """Record that the file has this state."""
        self._words[self._first + _SLOT * slot + _KEPT] = state

    def mark_unsaved(self) -> None:
        """Record that the file has no state of any slot, because it is another file."""
        words = self._words
        for block in self.in_use():
            first = self._first + _SLOT * _BLOCK * block
            last = min(first + _SLOT * _BLOCK, self._first + _SLOT * (self._slots + _OVERFLOW))
            for slot in range(first, last, _SLOT):
                words[slot + _KEPT] = 0

    # --- slots ---

    def _range(self, id_: KeyDigest) -> tuple[int, int]:
        # Keyed, so that clients cannot choose keys that begin at one position.
        mixed = (id_.low ^ self._mask) * self._factor % (1 << 64) >> 32
        probed = min(PROBED, self._slots)
        return mixed * (self._slots - probed + 1) >> 32, probed

    def _find(self, id_: KeyDigest) -> int | None:
        words = self._words
        for begins, count in (self._range(id_), (self._slots, _OVERFLOW if words[_OVERFLOWED] else 0)):
            for slot in range(begins, begins + count):
                at = self._first + _SLOT * slot
                if words[at] == id_.high and words[at + _ID_LOW] == id_.low:
                    return slot
                if not words[at]:
                    break
        return None

    @contextmanager
    def _placing(self) -> Iterator[None]:
        """Hold the lock under which slots are assigned: rule 1."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._offset + _PLACING)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._offset + _PLACING)

    def _assign(self, id_: KeyDigest, shared: KeyDigest) -> tuple[int, KeyDigest]:
        """Assign a slot to a key, or to all keys without one. Call under the lock. Raises `Full`."""
        for wanted, begins, count in ((id_, *self._range(id_)), (shared, self._slots, _OVERFLOW)):
            slot = self._allocate_slot(wanted, begins, count)
            if slot is not None:
                return slot, wanted
            self._words[_OVERFLOWED] += 1
        raise Full

    def _allocate_slot(self, id_: KeyDigest, begins: int, count: int) -> int | None:
        """Assign a slot to this key, unless it has one by now. Call under the lock."""
        words = self._words
        over = None
        now = int(time() - GRACE_S)
        for slot in range(begins, begins + count):
            at = self._first + _SLOT * slot
            if words[at] == id_.high and words[at + _ID_LOW] == id_.low:
                return slot
            if not words[at]:
                self._enter(slot, id_)
                return slot
            if over is None and words[at + _UNTIL] < now:
                over = slot
        if over is None:
            return None
        at = self._first + _SLOT * over
        state = words[at + _STATE]
        # A process that is about to spend there sees another state, and then another key.
        if words[at + _UNTIL] >= now or not self._swap(at + _STATE, state, 0):
            return None
        words[at] = 0
        self._enter(over, id_)
        return over

    def _enter(self, slot: int, id_: KeyDigest) -> None:
        words, at = self._words, self._first + _SLOT * slot
        words[self._used + slot // _BLOCK] = 1
        words[at + _STATE] = words[at + _KEPT] = 0
        words[at + _UNTIL] = int(time())  # until the first spending
        words[at + _ID_LOW] = id_.low
        words[at] = id_.high


def _tag_and_count(state: int, wanted: int) -> tuple[int, int]:
    """Return the period to count in, and its count so far, for a slot with this state and the clock's period
    `wanted`.
    """
    tag, count = state >> 44, state & COUNT_MAX
    if tag == wanted or not state:
        return wanted, count
    ahead = (tag - wanted) % PERIODS
    if ahead == 1:
        return tag, count
    return wanted, count if ahead < PERIODS // 2 else 0


def _pages(length: int) -> int:
    return -(-length // _PAGE) * _PAGE
