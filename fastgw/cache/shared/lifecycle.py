"""Leases of a shared store as one request holds them, and the records that are written under them."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol, final

from fastgw.cache.shared import records as words_of
from fastgw.cache.shared.index import KeyHash, Location
from fastgw.cache.shared.leases import LeaseCell, Leases
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
_FIRST_PART = 4096
"""Bytes of space for a body of unknown length, at first."""


class LeaseStore(StoreParts, Protocol):
    """The parts of a store that leases need."""

    purges: Purges
    leases: Leases

    def end_lease(self, cell: LeaseCell, key: bytes, mark_s: float) -> None: ...

    def settle(self, hash_: KeyHash, where: Location) -> bool: ...

    def key_tag(self, key: bytes) -> int: ...

    def name_tag(self, tag: bytes) -> int: ...


class FetchBegin(NamedTuple):
    """The begin of a fetch: purge sequence, and epoch seconds. Implements `FetchMoment`."""

    began: int
    date: float


class _Written(NamedTuple):
    """A record whose segment is pinned."""

    queue: Queue
    extent: Extent
    where: Location
    key: bytes
    body: int
    """Offset of the body from the start of the record."""
    replaced: int | None
    """Entry of the index that it has replaced; 0: there was none. None: it is not in the index, as space for a part of
    its body, whose length is known, is still to be reserved.
    """


@final
class SharedLease:
    """See `Lease`."""

    __slots__ = ("_began", "_cell", "_date", "_ended", "_store", "key", "why_not")

    def __init__(self, store: LeaseStore, key: bytes, cell: LeaseCell | None, former: FetchBegin | None = None) -> None:
        """`cell`: None: it restores an object, and keeps no other from fetching. `former`: the begin of a fetch
        that has begun without this lease.
        """
        self.key = key
        self.why_not = NotStored.FULL
        self._store, self._cell = store, cell
        self._began, self._date = former or (store.purges.sequence, store.date())  # the fetch begins later
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
        tags: Iterable[bytes] = (),
    ) -> Writer | None:
        written = self._write(head, size, key, url, tags, RecordStatus.GROWING)
        if written is None:
            return None
        writer = self._writer_of(written, size)
        if written.replaced is None:
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
        self, head: bytes, *, key: bytes | None = None, url: bytes = b"", tags: Iterable[bytes] = ()
    ) -> bool:
        written = self._write(head, 0, key, url, tags, RecordStatus.COMPLETE)
        if written is None:
            return False
        self._store.segments.unpin(written.where.segment)
        self._store.report(written.key)
        return True

    def store_whole(
        self, head: bytes, body: bytes, *, key: bytes | None = None, url: bytes, tags: Iterable[bytes]
    ) -> bool:
        if len(head) + len(url) + len(body) > self._store.segments.size // _SMALL:  # it may need several segments
            writer = self.store(head, len(body), key=key, url=url, tags=tags)
            return writer is not None and writer.append(body) and writer.complete()
        # PERF: 4 us for an object of 1 KB, by a writer 10 (CPython 3.11, micro/cache_store).
        written = self._write(head, len(body), key, url, tags, RecordStatus.COMPLETE, body)
        if written is None:
            return False
        self._store.segments.unpin(written.where.segment)
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
        if self._is_too_long(parts):
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
            written.queue,
            written.extent,
            written.where,
            written.key,
            written.body,
            size,
            self.give_up,
            written.replaced,
        )

    def _freshen_by_copy(self, found: SharedObject, head: bytes, url: bytes, tags: list[int], old: OpenRecord) -> bool:
        """Replace an object of several segments by a copy with another head. False: there is none, see `why_not`."""
        if found.length > min(_MOST_COPIED, self._store.most_bytes):
            self.why_not = NotStored.BODY_SIZE
            return False
        written = self._write_record_of(found.key, head, url, tags, found.length, RecordStatus.GROWING, None)
        if written is None:
            return False
        words, new = self._store.memory.words, self._store.records.at(written.where.segment, written.where.offset)
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
            if self._cell is not None:
                self._store.end_lease(self._cell, self.key, mark_s)
            self._store.report(self.key)

    @property
    def fetched(self) -> FetchBegin:
        """The begin of the fetch."""
        return FetchBegin(self._began, self._date)

    def _is_too_long(self, parts: RecordParts) -> bool:
        """Whether what precedes the body does not fit where records are, beside those that move there."""
        return parts.head > MOST_HEAD or parts.body > self._store.segments.size // 2

    def _write(
        self,
        head: bytes,
        size: int | None,
        key: bytes | None,
        url: bytes,
        tags: Iterable[bytes],
        status: RecordStatus,
        body: bytes | None = None,
    ) -> _Written | None:
        """Write a record and add it to the index, if its body has space; its segment is pinned then. `body`: None if it
        follows.
        """
        store = self._store
        key = self.key if key is None else key
        names = frozenset(tags)
        if self._ended:
            self.why_not = NotStored.EXPIRED
            return None
        hashes = [store.key_tag(self.key), *map(store.name_tag, names)]
        if key != self.key:
            hashes.append(store.key_tag(key))
        is_too_long = self._is_too_long(RecordParts(8 * len(hashes), len(url), len(head)))
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
        hashes: list[int],
        size: int | None,
        status: RecordStatus,
        body: bytes | None,
    ) -> _Written | None:
        """Do so for these hashes of its tags and keys."""
        store, words = self._store, self._store.memory.words
        # PERF: 4 us for an object of 1 KB, 50 in Python (CPython 3.11, micro/cache_store).
        written = self._write_ordinarily(key, head, url, hashes, size, status, body)
        if written is not None:
            return written
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
        written = _Written(queue, extent, where, key, parts.body, None)
        return written if is_divided else self._insert(written, at)

    def _write_ordinarily(
        self,
        key: bytes,
        head: bytes,
        url: bytes,
        tags: list[int],
        size: int | None,
        status: RecordStatus,
        body: bytes | None,
    ) -> _Written | None:
        """Do the same by the compiled module. None: it is not an ordinary case, and nothing was written."""
        store, made = self._store, self._store.ordinary
        assert made is not None
        length, date = -1 if size is None else size, int(self._date * 1e6)
        opened = store.space.opened
        small, main = opened.get(Queue.SMALL, -1), opened.get(Queue.MAIN, -1)
        at = made.write(key, head, url, tuple(tags), length, self._began, date, status, small, main, body)
        if at < 0:
            return None
        where = Location(made.segment, made.offset, made.generation)
        extent = Extent(made.segment, made.offset, made.total)
        written = _Written(Queue(made.queue), extent, where, key, made.body, made.replaced)
        if made.is_inserted and not made.is_disputed:
            return written
        return self._insert(written, at, is_inserted=made.is_inserted)

    def _insert(self, written: _Written, at: int, *, is_inserted: bool = False) -> _Written | None:
        """Add a record to the index, whose segment is pinned. `is_inserted`: only settle it with other processes."""
        store, hash_ = self._store, self._store.index.hash(written.key)
        if is_inserted:
            if store.settle(hash_, written.where):
                return written
        elif (replaced := store.insert(hash_, written.where)) is not None:
            return written._replace(replaced=replaced)
        store.memory.words[at + words_of.STATUS] = RecordStatus.FAILED
        store.segments.unpin(written.where.segment)
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
