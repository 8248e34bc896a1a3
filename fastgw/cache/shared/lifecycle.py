"""Leases of a shared store as one request holds them, and the records that are written under them."""

from collections.abc import Collection, Iterable
from typing import NamedTuple, Protocol, TypeAlias

import cython

from fastgw.cache.shared import records as words_of
from fastgw.cache.shared._ordinary import NO_SPACE
from fastgw.cache.shared.index import KeyHash, Location
from fastgw.cache.shared.leases import Leases
from fastgw.cache.shared.objects import SharedObject, SharedWriter, StoreParts
from fastgw.cache.shared.purges import Purges
from fastgw.cache.shared.records import HEADER, OpenRecord, RecordParts, RecordStatus, rounded
from fastgw.cache.shared.segments import Queue
from fastgw.cache.shared.space import Extent
from fastgw.cache.store import MOST_HEAD, MOST_TAGS, MOST_URL, NotStored, StoredObject, Writer

_SMALL = 16
"""An object whose head, URL and body take at most this part of a segment is stored in one piece."""
_MOST_COPIED = 8 * 1024 * 1024
"""Maximum bytes of a body that a 304 copies: some milliseconds of the event loop."""
_FULL = NotStored.FULL
_SMALL_QUEUE, _MAIN_QUEUE = Queue.SMALL, Queue.MAIN
_GROWING, _COMPLETE = RecordStatus.GROWING, RecordStatus.COMPLETE
Size: TypeAlias = int | None
Hashes: TypeAlias = list[int]
_FIRST_PART = 4096
"""Bytes of space for a body of unknown length, at first."""


class LeaseStore(StoreParts, Protocol):
    """The parts of a store that leases need."""

    purges: Purges
    leases: Leases

    def end_lease(self, at: int, word: int, mark_s: float) -> None: ...

    def settle(self, hash_: KeyHash, where: Location) -> bool: ...


class FetchBegin(NamedTuple):
    """The begin of a fetch: purge sequence, and epoch seconds. Implements `FetchMoment`."""

    began: int
    date: float


Former: TypeAlias = FetchBegin | None


@cython.cclass
class _Written:
    """A record whose segment is pinned.

    `body`: offset of the body from the start of the record. `replaced`: entry of the index that it has replaced; 0:
    there was none. `is_found`: whether it is in the index. If it is not, space for a part of its body, whose length is
    known, is still to be reserved.
    """

    queue: cython.int
    segment: cython.longlong
    offset: cython.longlong
    generation: cython.ulonglong
    total: cython.longlong
    key: bytes
    body: cython.longlong
    replaced: cython.ulonglong
    is_found: bool


@cython.cclass
class SharedLease:
    """See `Lease`."""

    def __init__(
        self, store: LeaseStore, key: bytes, at: cython.longlong, word: cython.ulonglong, former: Former = None
    ) -> None:
        """`at`, `word`: position of its word, and the word as this process has written it; -1: it restores an object,
        and keeps no other from fetching. `former`: the begin of a fetch that has begun without this lease.
        """
        self.key = key
        self.why_not = _FULL
        self._store, self._ordinary, self._at, self._word = store, store.ordinary, at, word
        self._segment_bytes = store.segments.size
        if former is None:  # the fetch begins later
            self._began, self._date = self._ordinary.purge_sequence(), store.date()
        else:
            self._began, self._date = former
        self._ended = False

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
        written = self._write(head, size, key, url, tags, _GROWING, None)
        if written is None:
            return None
        writer = self._writer_of(written, size)
        if not written.is_found:
            why_not = writer.begin_body(self.key)
            if why_not is not None:
                self.why_not = why_not
                return None
            return writer
        if key is not None and key != self.key:
            self._store.report(self.key)
        self._store.report(written.key)
        return writer

    def store_head(
        self, head: bytes, *, key: bytes | None = None, url: bytes = b"", tags: Collection[bytes] = ()
    ) -> bool:
        written = self._write(head, 0, key, url, tags, _COMPLETE, None)
        if written is None:
            return False
        self._ordinary.unpin(written.segment)
        self._store.report(written.key)
        return True

    def store_whole(
        self, head: bytes, body: bytes, *, key: bytes | None = None, url: bytes, tags: Collection[bytes]
    ) -> bool:
        if len(head) + len(url) + len(body) > self._segment_bytes // _SMALL:  # it may need several segments
            writer = self.store(head, len(body), key=key, url=url, tags=tags)
            return writer is not None and writer.append(body) and writer.complete()
        written = self._write(head, len(body), key, url, tags, _COMPLETE, body)
        if written is None:
            return False
        self._ordinary.unpin(written.segment)
        self.give_up()
        if written.key != self.key:
            self._store.report(written.key)
        return True

    def freshen(self, found: StoredObject, head: bytes) -> bool:
        store, records, words = self._store, self._store.records, self._store.memory.words
        assert isinstance(found, SharedObject)
        at = found.at
        if self._ended or at < 0 or not found.is_complete:
            self.why_not = NotStored.EXPIRED if self._ended else NotStored.GONE
            return False
        tags, url = records.tags(at), records.url(at)
        parts = RecordParts(8 * len(tags), len(url), len(head))
        if self._is_too_long(len(tags), len(url), len(head)):
            self.why_not = NotStored.HEAD_SIZE
            return False
        hash_ = self._store.index.hash(found.key)
        old = records.open(hash_)
        if old is None or old.at != at:
            if old is not None:
                store.segments.unpin(old.segment)
            self.why_not = NotStored.GONE
            return False
        store.segments.unpin(old.segment)  # `found` has a pin of its own
        was = store.purges.check(words[at + words_of.BEGAN], words[at + words_of.CHECKED] >> 1, tags, lambda: url)
        now = store.purges.check(self._began, self._began, tags, lambda: url)
        if was.is_purged or now.is_purged:
            self.why_not = NotStored.PURGED
            return False
        body = found.pieces()
        if rounded(parts.body + found.length) > store.segments.size:
            return self._freshen_by_copy(found, head, url, [*tags], old)
        extent = self._reserve(Queue.MAIN, parts.body + found.length, parts.body + found.length)
        if extent is None:
            return False
        where, new = self._write_record(extent, hash_, parts, tags, url, head)
        position = 8 * new + parts.body
        for piece in body:
            store.memory.data[position : position + len(piece)] = piece
            position += len(piece)
        words[new + words_of.LENGTH] = found.length
        words[new + words_of.SIZE] = found.length + 1
        words[new + words_of.CAPACITY] = found.length
        words[new + words_of.CHECKED] = self._began << 1 | now.is_soft_purged
        words[new + words_of.HITS] = words[at + words_of.HITS]
        words[new + words_of.FOUND] = words[at + words_of.FOUND]
        words[new + words_of.STATUS] = RecordStatus.COMPLETE
        store.space.commit(extent)
        store.memory.fence()
        if not store.index.replace(old.position, old.entry, store.index.entry(hash_, where)):
            self.why_not = NotStored.GONE
            return False
        self.give_up()
        store.report(found.key)
        return True

    def _writer_of(self, written: _Written, size: int | None) -> SharedWriter:
        return SharedWriter(
            self._store,
            Queue(written.queue),
            Extent(written.segment, written.offset, written.total),
            _location_of(written),
            written.key,
            written.body,
            size,
            self.give_up,
            written.replaced if written.is_found else None,
        )

    def _freshen_by_copy(self, found: SharedObject, head: bytes, url: bytes, tags: list[int], old: OpenRecord) -> bool:
        """Replace an object of several segments by a copy with another head. False: there is none, see `why_not`."""
        if found.length > min(_MOST_COPIED, self._store.most_bytes):
            self.why_not = NotStored.BODY_SIZE
            return False
        written = self._write_record_of(found.key, head, url, tags, found.length, _GROWING, None)
        if written is None:
            return False
        words, new = self._store.memory.words, self._store.records.at(written.segment, written.offset)
        words[new + words_of.HITS] = words[old.at + words_of.HITS]
        words[new + words_of.FOUND] = words[old.at + words_of.FOUND]
        writer = self._writer_of(written, found.length)
        why_not = writer.begin_body(self.key, old)
        if why_not is not None:
            self.why_not = why_not
            return False
        is_whole = all(writer.append(piece) for piece in found.pieces()) and writer.complete()
        if not is_whole:
            self.why_not = NotStored.FULL
        return is_whole

    def give_up(self, mark_s: float = 0.0) -> None:
        if not self._ended:
            self._ended = True
            if self._at >= 0:
                self._store.end_lease(self._at, self._word, mark_s)
            self._store.report(self.key)

    @property
    def fetched(self) -> FetchBegin:
        """The begin of the fetch."""
        return FetchBegin(self._began, self._date)

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
    ) -> _Written | None:
        """Write a record and add it to the index, if its body has space; its segment is pinned then. `body`: None if it
        follows.
        """
        store, ordinary = self._store, self._ordinary
        names = tags if len(tags) == 1 else frozenset(tags)
        if self._ended:
            self.why_not = NotStored.EXPIRED
            return None
        hashes: Hashes = [ordinary.key_tag(self.key)]
        for name in names:
            hashes.append(ordinary.name_tag(name))
        if key is None:
            key = self.key
        elif key != self.key:
            hashes.append(ordinary.key_tag(key))
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
    ) -> _Written | None:
        """Do so for these hashes of its tags and keys."""
        # PERF: 4 us for an object of 1 KB, 50 in Python (CPython 3.11, micro/cache_store).
        written = self._write_ordinarily(key, head, url, hashes, size, status, body)
        return self._write_in_any_case(key, head, url, hashes, size, status, body) if written is None else written

    def _write_in_any_case(
        self,
        key: bytes,
        head: bytes,
        url: bytes,
        hashes: Hashes,
        size: int | None,
        status: int,
        body: bytes | None,
    ) -> _Written | None:
        """Do so, also where other processes, purges or full memory are in the way."""
        store, words = self._store, self._store.memory.words
        validity = store.purges.check(self._began, self._began, hashes, lambda: url)
        if validity.is_purged:
            self.why_not = NotStored.PURGED
            return None
        hash_ = store.index.hash(key)
        parts = RecordParts(8 * len(hashes), len(url), len(head))
        wanted = parts.body + (_FIRST_PART if size is None else size)
        queue = Queue.MAIN if store.index.is_remembered(hash_) else Queue.SMALL
        least = parts.body if body is None else wanted  # a body that is there already is written in one piece
        extent = self._reserve(queue, least, min(wanted, store.segments.size))
        if extent is None:
            return None
        where, at = self._write_record(extent, hash_, parts, hashes, url, head)
        is_divided = size is not None and extent.length < wanted
        words[at + words_of.SIZE] = 0 if size is None or is_divided else size + 1
        words[at + words_of.CHECKED] = self._began << 1 | validity.is_soft_purged
        words[at + words_of.STATUS] = RecordStatus.RESERVING if is_divided else status
        if body is not None:
            begins = 8 * at + parts.body
            store.memory.data[begins : begins + len(body)] = body
            words[at + words_of.LENGTH] = words[at + words_of.CAPACITY] = len(body)
        store.space.commit(extent)
        store.segments.pin(where.segment)
        written = _Written()
        written.queue, written.total, written.key, written.body = queue, extent.length, key, parts.body
        written.segment, written.offset, written.generation = where
        return written if is_divided else self._insert(written, at)

    def _write_ordinarily(
        self,
        key: bytes,
        head: bytes,
        url: bytes,
        tags: Hashes,
        size: Size,
        status: cython.int,
        body: bytes | None,
    ) -> _Written | None:
        """Do the same where nothing is in the way. None: something is, and nothing was written."""
        made, space = self._ordinary, self._store.space
        opened = space.opened
        length: cython.longlong = -1 if size is None else size
        date: cython.ulonglong = cython.cast(cython.ulonglong, self._date * 1e6)
        at: cython.longlong = -1
        for attempt in range(2):
            small: cython.longlong = opened.get(_SMALL_QUEUE, -1)
            main: cython.longlong = opened.get(_MAIN_QUEUE, -1)
            at = made.write(key, head, url, tags, length, self._began, date, status, small, main, body)
            if at != NO_SPACE or attempt or made.total > self._segment_bytes // _SMALL:
                break
            # PERF: a miss that fills a segment takes 540,000 instructions otherwise, and there is one in 25 to 350
            # (CPython 3.11, callgrind, micro/response_cache).
            if not space.renew(Queue(made.queue), made.total):
                break
        if at < 0:
            return None
        written = _Written()
        written.queue, written.total, written.key, written.body = made.queue, made.total, key, made.body
        written.segment, written.offset, written.generation = made.segment, made.offset, made.generation
        written.is_found, written.replaced = made.is_inserted, made.replaced
        return written if made.is_inserted and not made.is_disputed else self._insert(written, at)

    def _insert(self, written: _Written, at: int) -> _Written | None:
        """Add a record to the index, whose segment is pinned, or settle with other processes one that is in it."""
        store, hash_, where = self._store, self._store.index.hash(written.key), _location_of(written)
        if written.is_found:
            if store.settle(hash_, where):
                return written
        elif (replaced := store.insert(hash_, where)) is not None:
            written.replaced, written.is_found = replaced, True
            return written
        store.memory.words[at + words_of.STATUS] = RecordStatus.FAILED
        self._ordinary.unpin(written.segment)
        self.why_not = NotStored.CONTESTED
        return None

    def _reserve(self, queue: Queue, least: int, wanted: int) -> Extent | None:
        extent = self._store.space.reserve(queue, least, wanted)
        if extent is None:
            self.why_not = NotStored.FULL
        return extent

    def _write_record(
        self, extent: Extent, hash_: KeyHash, parts: RecordParts, tags: Iterable[int], url: bytes, head: bytes
    ) -> tuple[Location, int]:
        """Write a record but for its body, its sizes and its status."""
        store, memory = self._store, self._store.memory
        words, at = memory.words, store.records.at(extent.segment, extent.offset)
        generation = store.segments.state(extent.segment).generation
        for word in range(HEADER // 8):
            words[at + word] = 0
        words[at + words_of.KEY_HIGH], words[at + words_of.KEY_LOW] = hash_.high, hash_.low
        words[at + words_of.TOTAL] = extent.length
        words[at + words_of.PARTS] = parts.word
        words[at + words_of.CAPACITY] = extent.length - parts.body
        words[at + words_of.BEGAN] = self._began
        words[at + words_of.DATE] = int(self._date * 1e6)
        words[at + words_of.OWNER] = store.segments.owner
        for number, tag in enumerate(tags, at + HEADER // 8):
            words[number] = tag
        begins = 8 * at + HEADER + parts.tags
        memory.data[begins : begins + len(url) + len(head)] = url + head
        words[at + words_of.SEAL] = store.records.seal(generation, extent.segment, extent.offset)
        return Location(extent.segment, extent.offset, generation), at


def _location_of(written: _Written) -> Location:
    return Location(written.segment, written.offset, written.generation)
