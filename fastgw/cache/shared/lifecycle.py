"""Leases of a shared store as one request holds them, and the records that are written under them."""

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import cython

from fastgw.cache.shared._cells import (
    BEGAN,
    CHECKED,
    COMPLETE,
    FAILED,
    FOUND,
    GROWING,
    HEADER,
    HITS,
    RESERVING,
    STATUS,
    OpenRecord,
)
from fastgw.cache.shared.objects import SharedObject, SharedWriter
from fastgw.cache.shared.purges import Validity
from fastgw.cache.shared.segments import Queue
from fastgw.cache.shared.space import Extent, Space
from fastgw.cache.store import MOST_HEAD, MOST_TAGS, MOST_URL, FetchBegin, NotStored, StoredObject, Writer

if TYPE_CHECKING:
    from fastgw.cache.shared.shared_store import SharedStore

_SMALL = 16
"""An object whose head, URL and body take at most this part of a segment is stored in one piece."""
_MOST_COPIED = 2 * 1024 * 1024
"""Maximum bytes of a body that a 304 copies, in one turn of the event loop: up to 3 ms if the space was that of the
smallest objects, 19 ms for 8 MiB.
"""
_FULL = NotStored.FULL
_SMALL_QUEUE, _MAIN_QUEUE = int(Queue.SMALL), int(Queue.MAIN)
Size: TypeAlias = int | None
Hashes: TypeAlias = list[int]
_FIRST_PART = 4096
"""Bytes of space for a body of unknown length, at first."""


Former: TypeAlias = FetchBegin | None


@cython.cclass
class WrittenRecord:
    """A record whose segment is pinned.

    `body`: offset of the body from the start of the record. `replaced`: entry of the index that it has replaced; 0:
    there was none. `is_found`: whether it is in the index. If it is not, `SharedWriter.begin_body` adds it as soon as
    there is space for all of its body, whose length is known.
    """

    queue: cython.int
    at: cython.longlong
    extent: Extent
    location: cython.ulonglong
    key: bytes
    body: cython.longlong
    replaced: cython.ulonglong
    is_found: bool


@cython.cclass
class SharedLease:
    """The right and duty of one request to fetch a key. It ends by `Writer.complete`, `Writer.abort`, `freshen` or
    `give_up`; `give_up` after the end does nothing.

    It also ends with the death of its worker, and after `LEASE_S`; then another request may fetch, too.
    """

    def __init__(
        self, store: "SharedStore", key: bytes, at: cython.longlong, word: cython.ulonglong, former: Former = None
    ) -> None:
        """`at`, `word`: position of its word, and the word as this process has written it; -1: it restores an object
        of slower tiers, and keeps no other from fetching. `former`: the begin of a fetch that has begun without this
        lease.
        """
        self.key = key
        self.why_not = _FULL
        """Reason for the last `None` of `store`, or `False` of another method. A writer that fails has found no space:
        `NotStored.FULL`.
        """
        self._store, self._cells, self._at, self._word = store, store.cells, at, word
        self._tiers = store.tiers if at >= 0 else None
        self._segment_bytes = store.segments.size
        if former is None:  # the fetch begins later
            self._began, self._date = self._cells.purge_sequence(), store.date()
            self._position = None if self._tiers is None else self._tiers.position
        else:
            self._began, self._date, self._position = former
        self._ended = False
        self.is_pending = False
        """Whether it ends when the disk has written (`end_pending`)."""

    def __del__(self) -> None:
        self.give_up()

    def store(
        self,
        head: bytes,
        size: int | None = None,
        *,
        key: bytes | None = None,
        url: bytes = b"",
        tags: Collection[bytes] = (),
    ) -> Writer | None:
        """Begin to store the response. None: it cannot be stored, see `why_not`; call `give_up`.

        `size`: number of body bytes, if known. `key`: another key to store it under, such as that of a variant; the
        lease covers both. `url`: for purges by prefix. `tags`: for purges by tag; a purge of the key of the lease
        covers the object like one of a tag, so that it reaches variants.
        """
        tiers = self._tiers
        if tiers is not None and size is not None and self._store.most_bytes < size <= tiers.most_bytes:
            begun = tiers.store_on_disk(self, head, size, self.key if key is None else key, url, tags)
            if isinstance(begun, NotStored):
                self.why_not = begun
                return None
            return begun
        written = self._write(head, size, key, url, tags, GROWING, None)
        if written is None:
            return None
        writer = self._begin_body(written, size)
        if writer is None:
            return None
        if tiers is not None and url:
            writer.stored = partial(tiers.write, self.fetched, self.key, written.key, head, url, tags)
        if not written.is_found:
            return writer
        if key is not None and key != self.key:
            self._store.report(self.key)
        self._store.report(written.key)
        return writer

    def _begin_body(self, written: WrittenRecord, size: Size, old: OpenRecord | None = None) -> SharedWriter | None:
        """Return what writes the body of a record; None: it cannot be stored, see `why_not`. `old`: as of
        `SharedWriter.begin_body`.
        """
        writer = SharedWriter(self._store, written, size, self.give_up)
        why_not = None if written.is_found else writer.begin_body(self.key, old)
        if why_not is None:
            return writer
        self.why_not = why_not
        return None

    def store_head(
        self, head: bytes, *, key: bytes | None = None, url: bytes = b"", tags: Collection[bytes] = ()
    ) -> bool:
        """Store a complete object without a body, such as what `Vary` named. The lease goes on. False: see
        `why_not`.
        """
        written = self._write(head, 0, key, url, tags, COMPLETE, None)
        if written is None:
            return False
        self._cells.unpin(written.extent.segment)
        self._store.report(written.key)
        if self._tiers is not None and url:
            self._tiers.write(self.fetched, self.key, written.key, head, url, tags)
        return True

    def store_whole(
        self, head: bytes, body: bytes, url: bytes, tags: Collection[bytes], key: bytes | None = None
    ) -> bool:
        """Store a complete object with its body, and end the lease. False: see `why_not`; the lease may go on.

        `key`: as of `store`.
        """
        is_small = len(head) + len(url) + len(body) <= self._segment_bytes // _SMALL
        if not is_small or self._tiers is not None:  # it may need several segments, or is to be read back
            writer = self.store(head, len(body), key=key, url=url, tags=tags)
            return writer is not None and writer.append(body) and writer.complete()
        written = self._write(head, len(body), key, url, tags, COMPLETE, body)
        if written is None:
            return False
        self._cells.unpin(written.extent.segment)
        self.give_up()
        if written.key != self.key:
            self._store.report(written.key)
        return True

    def freshen(self, found: StoredObject, head: bytes) -> bool:
        """Give a complete object another head (a 304 has validated it), as if it had been fetched under this lease, and
        end the lease. False: the object is gone, was purged since the lease, or cannot be changed, such as for want of
        space: it stays as it was. `found` stays as it is; the next `find` has the new head.
        """
        tiers = self._tiers
        if not isinstance(found, SharedObject):
            return tiers is not None and tiers.freshen_on_disk(self, found, head)
        before = found.head
        is_fresh = self._freshen_in_memory(found, head)
        if is_fresh and tiers is not None:
            tiers.freshen(found.key, before, head, self.fetched)
        return is_fresh

    def _freshen_in_memory(self, found: SharedObject, head: bytes) -> bool:
        store, cells, words = self._store, self._cells, self._store.memory.words
        at = found.at
        if self._ended or at < 0 or not found.is_complete:
            self.why_not = NotStored.EXPIRED if self._ended else NotStored.GONE
            return False
        tags, url, length = cells.tags(at), cells.url(at), found.length
        if self._is_too_long(len(tags), len(url), len(head)):
            self.why_not = NotStored.HEAD_SIZE
            return False
        if length > min(_MOST_COPIED, store.most_bytes):
            self.why_not = NotStored.BODY_SIZE
            return False
        present = cells.open(found.key)
        if present is not None:
            cells.unpin(present.segment)  # `found` has a pin of its own
        if present is None or present.at != at:
            self.why_not = NotStored.GONE
            return False
        was = store.purges.check(words[at + BEGAN], words[at + CHECKED] >> 1, tags, lambda: url)
        if was.is_purged:
            self.why_not = NotStored.PURGED
            return False
        written = self._write_record_of(found.key, head, url, tags, length, RESERVING, None)
        if written is None:
            return False
        words[written.at + HITS], words[written.at + FOUND] = words[at + HITS], words[at + FOUND]
        writer = self._begin_body(written, length, present)
        if writer is None:
            return False
        is_whole = all(writer.append(piece) for piece in found.pieces()) and writer.complete()
        if not is_whole:
            self.why_not = NotStored.GONE  # there was space for all of it
        return is_whole

    def _check(self, hashes: Hashes, url: bytes) -> Validity:
        """Return whether a record of this fetch with these hashes of its tags and keys is valid."""
        return self._store.purges.check(self._began, self._began, hashes, lambda: url)

    def give_up(self, mark_s: float = 0.0) -> None:
        """End the lease without an object. `mark_s`: for so many seconds requests for this key have to fetch
        without the store (`Refusal.UNCACHEABLE`), so that they do not wait for each other.
        """
        if not self._ended and not self.is_pending:
            self._ended = True
            if self._at >= 0:
                self._store.end_lease(self._at, self._word, mark_s)
            self._store.report(self.key)

    def end_pending(self, mark_s: float = 0.0) -> None:
        """End the lease, as the disk has written."""
        self.is_pending = False
        self.give_up(mark_s)

    @property
    def fetched(self) -> FetchBegin:
        """The begin of the fetch."""
        return FetchBegin(self._began, self._date, self._position)

    def _is_too_long(self, tags: cython.Py_ssize_t, url: cython.Py_ssize_t, head: cython.Py_ssize_t) -> bool:
        """Whether what precedes the body does not fit where records are, beside those that move there. `tags`: number
        of hashes; `url`, `head`: bytes.
        """
        header: cython.Py_ssize_t = HEADER
        most: cython.Py_ssize_t = MOST_HEAD
        return bool(head > most or header + 8 * tags + url + head > self._segment_bytes // 2)

    def _write(
        self,
        head: bytes,
        size: Size,
        key: bytes | None,
        url: bytes,
        tags: Collection[bytes],
        status: cython.int,
        body: bytes | None,
    ) -> WrittenRecord | None:
        """Write a record and add it to the index, if its body has space; its segment is pinned then. `body`: None if it
        follows.
        """
        store, cells = self._store, self._cells
        names = tags if len(tags) == 1 else frozenset(tags)
        if self._ended:
            self.why_not = NotStored.EXPIRED
            return None
        hashes: Hashes = [cells.key_tag(self.key)]
        for name in names:
            hashes.append(cells.name_tag(name))
        if key is None:
            key = self.key
        elif key != self.key:
            hashes.append(cells.key_tag(key))
        is_too_long = self._is_too_long(len(hashes), len(url), len(head))
        if is_too_long or len(url) > MOST_URL or len(names) > MOST_TAGS:
            self.why_not = NotStored.HEAD_SIZE
            return None
        if (size or 0) > store.most_bytes:
            self.why_not = NotStored.BODY_SIZE
            return None
        return self._write_record_of(key, head, url, hashes, size, status, body)

    def _write_record_of(
        self,
        key: bytes,
        head: bytes,
        url: bytes,
        hashes: Hashes,
        size: Size,
        status: cython.int,
        body: bytes | None,
    ) -> WrittenRecord | None:
        """Do so for these hashes of its tags and keys. One that is `RESERVING` is not added to the index."""
        # PERF: 4 us for an object of 1 KB, 50 in Python (CPython 3.11, micro/cache_store).
        cells = self._cells
        space: Space = self._store.space
        checked: cython.ulonglong = self._began << 1
        if cells.purge_sequence() != self._began:
            validity = self._check(hashes, url)
            if validity.is_purged:
                self.why_not = NotStored.PURGED
                return None
            checked |= validity.is_soft_purged
        queue: cython.int = _MAIN_QUEUE if cells.is_remembered(key) else _SMALL_QUEUE
        before: cython.longlong = HEADER + 8 * len(hashes) + len(url) + len(head)
        length: cython.longlong = -1 if size is None else size
        wanted: cython.longlong = before + (_FIRST_PART if length < 0 else length)
        least: cython.longlong = before if body is None else wanted  # what is there already is written in one piece
        extent: Extent | None = space.reserve(queue, least, min(wanted, self._segment_bytes))
        if extent is None:
            self.why_not = NotStored.FULL
            return None
        is_divided: bool = length >= 0 and extent.length < wanted
        if is_divided:
            length, status = -1, RESERVING
        written = WrittenRecord()
        date: cython.ulonglong = cython.cast(cython.ulonglong, self._date * 1e6)
        segment: cython.longlong = extent.segment
        offset: cython.longlong = extent.offset
        total: cython.longlong = extent.length
        written.at = cells.write(
            key, head, url, hashes, segment, offset, total, length, self._began, checked, date, status, body
        )
        written.queue, written.extent, written.key, written.body = queue, extent, key, before
        written.location = cells.location(extent.segment, extent.offset)
        if status == RESERVING:
            return written
        if cells.insert(key, written.location):
            written.replaced, written.is_found = cells.replaced, True
            return written
        self._store.memory.words[written.at + STATUS] = FAILED
        cells.unpin(extent.segment)
        self.why_not = NotStored.CONTESTED
        return None
