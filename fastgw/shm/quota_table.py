"""Counts for long periods, exact for the node, in memory that all its processes map, and kept by one of them in a file.

Memory is a page for locks and numbers, a line of words for the blocks, and slots of one cache line each. A slot is one
key's: the 128 bits of its digest, its *state*, until when that counts, and the state that the file has. A state is the
number of the period in 20 bits and the count in 44: one word, so that a count and the period that it is of are never
torn apart, and one compare-and-swap spends.

Rule 1: a slot is given to a key under a lock that the kernel frees when its holder dies, once in the life of a key. A
slot is looked for among `PROBED` from where the digest says, and never becomes free again: only one whose period has
been over for `GRACE_S` is given to another key. Where there is none, the key counts in one slot with all others of its
filter that found none: they may be refused for each other, none is admitted for what is forgotten.
Rule 2: a count goes on from the period that the slot says where that is the next one: another process's clock is a
little ahead. Where it is farther ahead a clock was wrong, and the count goes on in the period that is.
Rule 3: numbers of periods begin anew after 2**20 of them. What ended `LONG` periods ago is none, whatever its number
says: under the lock its state becomes 0, and only then is anything spent. Where the state is 0, until when it counts is
written before it, so that nobody takes what has just begun for what is long over.
Rule 4: whoever spends marks the block afterwards. Whoever keeps takes the mark first, and reads then: nothing is
missed, but for what a process did that was killed in between; that is found by looking at all blocks now and then.

PERF: a decision takes 0.3 us compiled, 2.7 by fcntl (CPython 3.11, micro/quotas).
"""

import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from hashlib import blake2b
from time import time
from typing import Final, NamedTuple, final

from fastgw.kernel import memory_file
from fastgw.shm import compare_and_swap

SLOTS: Final = 1 << 19
"""Keys that are counted one by one. Memory is taken as they come: at most 64 bytes a key."""
PROBED: Final = 64
GRACE_S: Final = 3600.0
COUNT_MAX: Final = (1 << 44) - 1
LONG: Final = 1 << 18
"""Number of periods after which a state is no one's; far fewer than half of the numbers that there are."""
PERIODS: Final = 1 << 20
"""Count of the numbers of periods: they begin anew then."""
_BLOCK: Final = 512  # slots that are marked together
_OVERFLOW: Final = 1024
_PAGE: Final = mmap.PAGESIZE
_SLOT: Final = 8  # words
_ID_HIGH, _ID_LOW, _STATE, _UNTIL, _KEPT = range(5)  # words of a slot
_MAKER, _OVERFLOWED, _SECRET = 2, 3, 4  # words of the first page; the two before are locked by their bytes; two secrets
_PLACING: Final = 8
"""The byte that is locked while a slot is given away."""
NOT_OURS: Final = -1
USED_UP: Final = -2
_LONG_OVER: Final = -3


class Full(Exception):
    """The table has no slot for a key, not even a shared one."""


class Period(NamedTuple):
    """A span of the calendar. `number`: consecutive ones differ by 1. Dates are epoch seconds."""

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
    """A table of this process alone: for tests and trials."""
    fd = memory_file("fastgw-quotas")
    os.ftruncate(fd, size(slots))
    made = QuotaTable(memoryview(mmap.mmap(fd, size(slots))), fd, 0)
    weakref.finalize(made, os.close, fd)
    return made


@final
class QuotaTable:
    """The table. `memory`: all zero, or one that is there; mapped from `offset` of `fd`. Raises `ValueError`."""

    def __init__(self, memory: memoryview, fd: int, offset: int) -> None:
        self._words = memory.cast("B").cast("Q")
        self._swap = compare_and_swap.swap_in(memory, fd, offset)
        self._twin = compare_and_swap.twin_of(memory)
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
        maker = 1 + compare_and_swap.COMPILED
        if self._words[_MAKER] not in (0, maker):
            raise ValueError("the quotas there were counted in another way, compiled or not")
        if not self._words[_MAKER]:
            self._words[_SECRET : _SECRET + 2] = memoryview(os.urandom(16)).cast("Q")
        self._words[_MAKER] = maker
        self._mask, self._factor = self._words[_SECRET], self._words[_SECRET + 1] | 1

    @property
    def overflowed(self) -> int:
        """How often a key found no slot of its own."""
        return self._words[_OVERFLOWED]

    @property
    def slots(self) -> int:
        """How many keys may have one of their own."""
        return self._slots

    def occupied(self, now: float) -> tuple[int, int]:
        """How many slots are some key's at `now`, in epoch seconds, and cannot be given to another: of the keys' own,
        and of those that are shared. Takes up to 100 ms."""
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

    # --- what filters do ---

    def place(self, id_: KeyDigest, shared: KeyDigest) -> tuple[int, KeyDigest]:
        """The slot of a key, and whose it is: its own, or that of all keys that have none. Raises `Full`."""
        found = self._find(id_)
        if found is not None:
            return found, id_
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._offset + _PLACING)
        try:
            for wanted, begins, count in ((id_, *self._range(id_)), (shared, self._slots, _OVERFLOW)):
                slot = self._give(wanted, begins, count)
                if slot is not None:
                    return slot, wanted
                self._words[_OVERFLOWED] += 1
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._offset + _PLACING)
        raise Full

    def spend(self, slot: int, id_: KeyDigest, period: Period, cost: int, limit: int) -> int:
        """How much of the limit is left then; `USED_UP`: nothing was spent; `NOT_OURS`: the slot is another's now."""
        words, at = self._words, self._first + _SLOT * slot
        wanted, mark = period.number % PERIODS, self._marked + slot // _BLOCK
        begins, ends = int(period.begins_date), int(period.ends_date)
        if self._twin is not None:
            while True:
                left: int = self._twin.spend(at, id_.high, id_.low, wanted, begins, ends, cost, limit, mark)
                if left != _LONG_OVER:
                    return left
                self._forget(at, period)
        while True:
            if words[at] != id_.high or words[at + _ID_LOW] != id_.low:
                return NOT_OURS
            state = words[at + _STATE]
            if state and words[at + _UNTIL] < begins - (ends - begins) * LONG:
                self._forget(at, period)
                continue
            tag, count = _tag_and_count(state, wanted)
            count += cost
            if count > limit:
                return USED_UP
            if not state:
                words[at + _UNTIL] = ends
            if self._swap(at + _STATE, state, tag << 44 | count):
                break
        if words[at] != id_.high or words[at + _ID_LOW] != id_.low:  # it was given away meanwhile
            self._take_back(at, cost)
            return NOT_OURS
        if state >> 44 != tag:
            words[at + _UNTIL] = ends
        words[mark] = 1
        return limit - count

    def refund(self, slot: int, id_: KeyDigest, period: Period, cost: int) -> None:
        """Give back what was spent in this period; nothing, when it is over."""
        words, at = self._words, self._first + _SLOT * slot
        while words[at] == id_.high and words[at + _ID_LOW] == id_.low:
            state = words[at + _STATE]
            if state >> 44 != period.number % PERIODS or not state & COUNT_MAX:
                return
            if self._swap(at + _STATE, state, state - min(cost, state & COUNT_MAX)):
                words[self._marked + slot // _BLOCK] = 1
                return

    def _take_back(self, at: int, cost: int) -> None:
        while not self._swap(at + _STATE, state := self._words[at + _STATE], state - min(cost, state & COUNT_MAX)):
            pass

    def count(self, slot: int, id_: KeyDigest, period: Period) -> int:
        """How much was spent in this period."""
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
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._offset + _PLACING)
        try:
            state = self._words[at + _STATE]  # before until when it counts: see rule 3
            if state and self._is_long_over(at, period):
                self._swap(at + _STATE, state, 0)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._offset + _PLACING)

    # --- what is asked and told about keys ---

    def look_up(self, id_: KeyDigest, period: Period) -> int:
        """How much was spent in this period, by a key that may never have been seen."""
        slot = self._find(id_)
        return 0 if slot is None else self.count(slot, id_, period)

    def reset(self, id_: KeyDigest) -> bool:
        """Have nothing spent by a key; whether it is known."""
        slot = self._find(id_)
        if slot is None:
            return False
        at = self._first + _SLOT * slot
        while True:
            state = self._words[at + _STATE]
            if self._swap(at + _STATE, state, state & ~COUNT_MAX):
                self._words[self._marked + slot // _BLOCK] = 1
                return True

    # --- what is kept in a file ---

    def restore(self, row: StoredCount) -> None:
        """Have at least what the file says of a key. Raises `Full`."""
        slot, _ = self.place(row.id, row.id)
        at = self._first + _SLOT * slot
        wanted = row.period % PERIODS
        while True:
            state = self._words[at + _STATE]
            tag, count = state >> 44, state & COUNT_MAX
            if not state or 0 < (wanted - tag) % PERIODS < PERIODS // 2:
                count = 0  # what is there is older
            elif tag != wanted:
                return
            if self._swap(at + _STATE, state, wanted << 44 | max(count, row.used)):
                self._words[at + _UNTIL] = max(self._words[at + _UNTIL], row.until)
                if count <= row.used:
                    self._words[at + _KEPT] = wanted << 44 | row.used
                return

    def marked(self) -> list[int]:
        """The blocks in which something was spent since this was asked last."""
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
        """The blocks in which keys have slots."""
        return [block for block in range(self._blocks) if self._words[self._used + block]]

    def unkept(self, block: int) -> Iterator[tuple[int, int, StoredCount]]:
        """Slots of a block of which the file does not say what they say: the slot, the state, and what to keep."""
        first = self._first + _SLOT * _BLOCK * block
        last = min(first + _SLOT * _BLOCK, self._first + _SLOT * (self._slots + _OVERFLOW))
        words = self._words[first:last].tolist()
        for begins in range(0, len(words), _SLOT):
            high, low, state, until, kept = words[begins : begins + _KEPT + 1]
            if high and state != kept:
                row = StoredCount(KeyDigest(high, low), state >> 44, state & COUNT_MAX, until)
                yield (first - self._first + begins) // _SLOT, state, row

    def kept(self, slot: int, state: int) -> None:
        """The file says so now."""
        self._words[self._first + _SLOT * slot + _KEPT] = state

    # --- slots ---

    def _range(self, id_: KeyDigest) -> tuple[int, int]:
        # Nobody outside knows which keys begin at one place.
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

    def _give(self, id_: KeyDigest, begins: int, count: int) -> int | None:
        """A slot for this key, which it may have got a moment ago. Under the lock."""
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
        # Whoever was about to spend there finds another state, and then another key.
        if words[at + _UNTIL] >= now or not self._swap(at + _STATE, state, 0):
            return None
        words[at] = 0
        self._enter(over, id_)
        return over

    def _enter(self, slot: int, id_: KeyDigest) -> None:
        words, at = self._words, self._first + _SLOT * slot
        words[self._used + slot // _BLOCK] = 1
        words[at + _STATE] = words[at + _KEPT] = 0
        words[at + _UNTIL] = int(time())  # until it is spent in
        words[at + _ID_LOW] = id_.low
        words[at] = id_.high


def _tag_and_count(state: int, wanted: int) -> tuple[int, int]:
    """The period in which to count, and the count so far, where the slot says this and the clock `wanted`."""
    tag, count = state >> 44, state & COUNT_MAX
    if tag == wanted or not state:
        return wanted, count
    ahead = (tag - wanted) % PERIODS
    if ahead == 1:
        return tag, count
    return wanted, count if ahead < PERIODS // 2 else 0


def _pages(length: int) -> int:
    return -(-length // _PAGE) * _PAGE
