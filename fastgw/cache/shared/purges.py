"""Purges of a shared store: which objects are no longer valid. No purge walks the objects.

Each purge has a number, the purge sequence. A purge by key or tag writes its number into words chosen by the key's or
tag's hash, one in each row; an object is purged if all words of one of its tags are newer than its last check.
Unrelated tags share all words only rarely, and then an object is fetched once more; no purge is ever lost. Purges by
prefix are kept as texts, the most recent `PREFIXES`: an object is compared with those since it was last checked. When a
text has to be dropped, the floor rises to its number: objects that were not checked since are taken as purged. So after
each purge by prefix all objects are to be checked once (`SharedStore.purge` does that).
The number is written to the words first, and becomes the sequence then: every fetch that began before is covered.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple, final

from fastgw.cache.shared._cells import Cells
from fastgw.cache.shared.layout import (
    ALL_HARD,
    ALL_SOFT,
    LEASE_EPOCH,
    NEXT_PREFIX,
    PREFIX_BYTES,
    PREFIXES,
    PURGE_FLOOR,
    PURGE_SEQUENCE,
    TAG_ROWS,
    CacheMemory,
)
from fastgw.cache.store import PurgeKind

_STRIDE: Final = PREFIX_BYTES // 8 + 8
_STATE, _PREFIX_LENGTH, _TEXT = 0, 1, 8  # words of a prefix; the state: 0 none, 1 being written, else see `_by_prefix`
_WRITING: Final = 1
_TRIES: Final = 8


class Validity(NamedTuple):
    """Outcome of a check. `sequence`: the purge sequence of the check."""

    is_purged: bool
    is_soft_purged: bool
    sequence: int


@final
class Purges:
    """The purges, as one process sees them."""

    def __init__(self, memory: CacheMemory, cells: Cells) -> None:
        self._memory, self._words, self._swap, self._cells = memory, memory.words, memory.swap, cells
        geometry = memory.geometry
        self._tags, self._width = geometry.tags, geometry.tag_width
        self._prefixes = geometry.prefixes

    # --- marking ---

    def purge(self, kind: PurgeKind, values: Iterable[bytes], *, soft: bool) -> int:
        """Purge objects; return the number of the purge. It is of this purge only: an object that was checked at a
        number is not looked at again until the sequence changes.
        """
        writes = self._writes_of(kind, values, soft=soft)
        while True:
            before = self._words[PURGE_SEQUENCE]
            for write in writes:
                write(before + 1)
            if self._swap(PURGE_SEQUENCE, before, before + 1):
                break
        if kind != "key":
            self._memory.add(LEASE_EPOCH)
        return before + 1

    def restore(self, kind: PurgeKind, value: bytes, number: int, *, soft: bool) -> None:
        """Purge objects whose fetch began before this number, in new memory that no process uses yet."""
        for write in self._writes_of(kind, (value,), soft=soft):
            write(number)

    def _writes_of(self, kind: PurgeKind, values: Iterable[bytes], *, soft: bool) -> list[Callable[[int], None]]:
        """Return what writes the number of a purge to its words."""
        if kind == "prefix":
            return [self._prefix_write(each, soft=soft) for each in values]
        if kind == "all":
            return [self._write_of_all(soft=soft)]
        words = [at + soft for each in self.hashes_of(kind, values) for at in self._words_of(each)]
        return [partial(self._memory.raise_to, at) for at in words]

    def hashes_of(self, kind: PurgeKind, values: Iterable[bytes]) -> set[int]:
        """Return the hashes by which records have these keys or tags."""
        return {*map(self._cells.key_tag if kind == "key" else self._cells.name_tag, values)}

    def _write_of_all(self, *, soft: bool) -> Callable[[int], None]:
        return partial(self._memory.raise_to, ALL_SOFT if soft else ALL_HARD)

    def _prefix_write(self, prefix: bytes, *, soft: bool) -> Callable[[int], None]:
        for _ in range(_TRIES):
            at = self._prefixes + self._memory.add(NEXT_PREFIX) % PREFIXES * _STRIDE
            state = self._words[at]
            if state != _WRITING:
                # The floor first: who misses the text then sees the floor.
                self._memory.raise_to(PURGE_FLOOR, state >> 2)
                if self._swap(at, state, _WRITING):
                    break
        else:
            return self._write_of_all(soft=soft)
        self._memory.data[8 * (at + _TEXT) : 8 * (at + _TEXT) + len(prefix)] = prefix
        self._words[at + _PREFIX_LENGTH] = len(prefix)
        self._memory.fence()

        def write(number: int) -> None:
            self._words[at] = number << 2 | soft << 1

        return write

    # --- checking ---

    def check(self, began: int, checked: int, tags: Iterable[int], url: Callable[[], bytes]) -> Validity:
        """Return whether an object is valid: its fetch began at the purge sequence `began`, and it was valid up to
        `checked`; soft purges up to then are not seen again.
        """
        words, sequence = self._words, self._words[PURGE_SEQUENCE]
        since = max(began, checked)
        self._memory.fence()
        purged, soft = words[ALL_HARD] > since, words[ALL_SOFT] > since
        for each in tags:
            cells = self._words_of(each)
            purged = purged or all(words[at] > since for at in cells)
            soft = soft or all(words[at + 1] > since for at in cells)
        if not purged:
            by_prefix = self._by_prefix(since, url)
            purged, soft = by_prefix[0], soft or by_prefix[1]
            purged = purged or since < words[PURGE_FLOOR]
        return Validity(purged, soft, sequence)

    def _by_prefix(self, since: int, url: Callable[[], bytes]) -> tuple[bool, bool]:
        words, text = self._words, None
        purged = soft = False
        for at in range(self._prefixes, self._prefixes + PREFIXES * _STRIDE, _STRIDE):
            state = words[at]
            if state >> 2 <= since:
                continue
            begins = 8 * (at + _TEXT)
            prefix = bytes(self._memory.data[begins : begins + min(words[at + _PREFIX_LENGTH], PREFIX_BYTES)])
            self._memory.fence()
            if words[at] != state:
                continue  # dropped meanwhile: the floor was raised before
            text = url() if text is None else text
            if text and text.startswith(prefix):
                purged, soft = purged or not state & 2, soft or bool(state & 2)
        return purged, soft

    def _words_of(self, hash_: int) -> list[int]:
        """Return the words of a tag in all rows: for hard purges; those for soft ones follow."""
        mask, width = self._width - 1, self._width
        return [self._tags + 2 * (row * width + (hash_ >> 16 * row & mask)) for row in range(TAG_ROWS)]
