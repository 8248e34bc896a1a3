"""A cache store in the memory of one process: for tests, for a gateway without shared memory, and as the reference.

It is written for clearness: a purge walks all objects, and the least recently found object is evicted first.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Final, NamedTuple, final
from weakref import WeakSet

from fastgw.cache.store import (
    LEASE_S,
    MOST_HEAD,
    MOST_TAGS,
    MOST_URL,
    OUTGROWN_S,
    Counting,
    Eviction,
    FetchMoment,
    KeyWatch,
    Lease,
    NotStored,
    Refusal,
    StoredObject,
    StoreNumbers,
    Writer,
)

MEMORY: Final = 64 * 1024**2
_OVERHEAD: Final = 256  # bytes that are counted for each object, beyond its head and body


class _Purge(NamedTuple):
    matches: "Callable[[_Entry], bool]"
    soft: bool


@final
class _Entry:
    """An object, shared by all that have found it."""

    def __init__(self, key: bytes, head: bytes, size: int | None, url: bytes, tags: frozenset[bytes]) -> None:
        self.key, self.head, self.size, self.url, self.tags = key, head, size, url, tags
        self.groups: frozenset[bytes] = frozenset((key,))  # keys whose purge covers it
        self.body: list[bytes] = []
        self.length = 0
        self.is_complete = self.has_failed = self.is_soft_purged = False
        self.date = 0.0

    @property
    def weight(self) -> int:
        return _OVERHEAD + len(self.head) + self.length


@final
class _Found:
    def __init__(self, entry: _Entry) -> None:
        self._entry = entry
        self.head = entry.head
        self.is_soft_purged = entry.is_soft_purged
        self.stored_date = entry.date

    @property
    def key(self) -> bytes:
        return self._entry.key

    @property
    def length(self) -> int:
        return self._entry.length

    @property
    def size(self) -> int | None:
        return self._entry.size

    @property
    def is_complete(self) -> bool:
        return self._entry.is_complete

    @property
    def has_failed(self) -> bool:
        return self._entry.has_failed

    def pieces(self, offset: int = 0) -> list[memoryview]:
        found = []
        for piece in self._entry.body:
            if offset < len(piece):
                found.append(memoryview(piece)[offset:])
            offset = max(0, offset - len(piece))
        return found

    def release(self) -> None:
        pass

    @property
    def entry(self) -> _Entry:
        return self._entry


@final
class _Writer:
    def __init__(self, store: "ProcessStore", lease: "_Lease", entry: _Entry, replaced: _Entry | None) -> None:
        self._store, self._lease, self._entry, self._replaced = store, lease, entry, replaced

    def hold(self, key: bytes) -> StoredObject:
        return _Found(self._entry)

    @property
    def _goes_on(self) -> bool:
        return not (self._entry.is_complete or self._entry.has_failed)

    def append(self, data: bytes | bytearray | memoryview) -> bool:
        entry = self._entry
        if not self._goes_on:
            return False
        length = entry.length + len(data)
        if length > self._store.most_bytes or (entry.size is not None and length > entry.size):
            self._fail()
            return False
        if not self._store.make_space(entry, len(data)):
            self._fail()
            return False
        entry.body.append(bytes(data))
        entry.length = length
        self._store.changed(entry.key)
        return True

    def complete(self) -> bool:
        entry = self._entry
        if not self._goes_on:
            return False
        if entry.size not in (None, entry.length):
            self.abort()
            return False
        entry.size, entry.is_complete = entry.length, True
        self._lease.end()
        self._store.changed(entry.key)
        return self._store.holds(entry)

    def abort(self, mark_s: float = 0.0) -> None:
        if self._goes_on:
            self._fail(self._replaced, mark_s)

    def _fail(self, former: _Entry | None = None, mark_s: float = 0.0) -> None:
        """`former`: comes back; None: there is none, or it is outdated by a response that is whole but does not fit."""
        self._entry.has_failed = True
        if self._store.holds(self._entry):
            self._store.drop(self._entry)
            if former is not None and former.is_complete:
                self._lease.put_back(former)
        self._lease.end(mark_s)
        self._store.changed(self._entry.key)


@final
class _Moment:
    """See `FetchMoment`. `purges`: those since then."""

    def __init__(self, date: float) -> None:
        self.date = date
        self.purges: list[_Purge] = []


@final
class _Lease:
    def __init__(self, store: "ProcessStore", key: bytes, until: float, begun: _Moment) -> None:
        self.key = key
        self.until = until
        self.begun = begun
        self.why_not = NotStored.FULL
        self._store = store
        self._ended = False

    def store(
        self,
        head: bytes,
        size: int | None = None,
        *,
        key: bytes | None = None,
        url: bytes = b"",
        tags: Collection[bytes] = (),
    ) -> Writer | None:
        key = self.key if key is None else key
        replaced = self._store.entry_of(key)
        entry = self._entry(head, size, key, url, tags)
        if entry is None:
            return None
        self._store.changed(self.key)
        return _Writer(self._store, self, entry, replaced)

    def store_head(
        self, head: bytes, *, key: bytes | None = None, url: bytes = b"", tags: Collection[bytes] = ()
    ) -> bool:
        entry = self._entry(head, 0, self.key if key is None else key, url, tags)
        if entry is None:
            return False
        entry.is_complete = True
        self._store.changed(entry.key)
        return True

    def store_whole(
        self, head: bytes, body: bytes, *, key: bytes | None = None, url: bytes, tags: Collection[bytes]
    ) -> bool:
        writer = self.store(head, len(body), key=key, url=url, tags=tags)
        return writer is not None and writer.append(body) and writer.complete()

    def freshen(self, found: StoredObject, head: bytes) -> bool:
        assert isinstance(found, _Found)
        before = found.entry
        if self._ended or not before.is_complete or not self._store.holds(before) or len(head) > MOST_HEAD:
            self.why_not = NotStored.GONE
            return False
        entry = _Entry(before.key, head, before.size, before.url, before.tags)
        entry.groups = before.groups
        entry.body, entry.length, entry.is_complete = before.body, before.length, True
        if not self._admit(entry):
            if self.why_not is NotStored.FULL:
                self._store.insert(before)  # it stays as it was
            return False
        self.end()
        self._store.changed(entry.key)
        return True

    def give_up(self, mark_s: float = 0.0) -> None:
        if not self._ended:
            self.end(mark_s)

    def end(self, mark_s: float = 0.0) -> None:
        self._ended = True
        self._store.end_lease(self, mark_s)

    def put_back(self, former: _Entry) -> None:
        """Put back what the failed object has replaced, unless it was purged since the fetch began."""
        purges = [purge for purge in self.begun.purges if purge.matches(former)]
        if all(purge.soft for purge in purges):
            former.is_soft_purged |= bool(purges)
            self._store.insert(former)

    def _entry(self, head: bytes, size: int | None, key: bytes, url: bytes, tags: Collection[bytes]) -> _Entry | None:
        entry = _Entry(key, head, size, url, frozenset(tags))
        entry.groups |= {self.key}
        if self._ended:
            self.why_not = NotStored.EXPIRED
        elif len(head) > MOST_HEAD or len(url) > MOST_URL or len(entry.tags) > MOST_TAGS:
            self.why_not = NotStored.HEAD_SIZE
        elif (size or 0) > self._store.most_bytes:
            self.why_not = NotStored.BODY_SIZE
        elif self._admit(entry):
            return entry
        return None

    def _admit(self, entry: _Entry) -> bool:
        begun = self.begun
        entry.date = begun.date
        if any(purge.matches(entry) for purge in begun.purges if not purge.soft):
            self.why_not = NotStored.PURGED
            return False
        entry.is_soft_purged = any(purge.matches(entry) for purge in begun.purges)
        if not self._store.insert(entry):
            self.why_not = NotStored.FULL
            return False
        return True


@final
class _Watch:
    def __init__(self, watches: dict[bytes, list["_Watch"]], key: bytes, callback: Callable[[], None]) -> None:
        self._watches, self._key = watches, key
        self.callback = callback
        watches.setdefault(key, []).append(self)

    def cancel(self) -> None:
        if self in (here := self._watches.get(self._key, ())):
            assert isinstance(here, list)
            here.remove(self)
            if not here:
                del self._watches[self._key]


@final
class ProcessStore:
    """See `Store`. `call_soon`: the event loop's; a callback of a watch is never called from within a call."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        memory: int = MEMORY,
        most_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        date: Callable[[], float] = time.time,
    ) -> None:
        self.most_bytes = min(memory // 8, memory if most_bytes is None else most_bytes)
        self.date = date
        self._call_soon, self._clock = call_soon, clock
        self._memory = memory
        self._bytes = 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._leases: dict[bytes, _Lease] = {}  # which others wait for
        self._fetches: WeakSet[_Moment] = WeakSet()  # those with a lease, also if a purge has ended it, and without one
        self._marks: dict[bytes, float] = {}
        self._watches: dict[bytes, list[_Watch]] = {}
        self._evictions: Counter[Eviction] = Counter()

    def __repr__(self) -> str:
        return f"<ProcessStore: {len(self._entries)} objects, {self._bytes} bytes, {len(self._fetches)} fetches>"

    def find(self, key: bytes) -> StoredObject | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return _Found(entry)

    def stamp(self, found: StoredObject) -> object | None:
        assert isinstance(found, _Found)
        return found.entry

    def is_unchanged(self, stamp: object) -> bool:
        assert isinstance(stamp, _Entry)
        return self.holds(stamp) and not stamp.is_soft_purged

    def lease(self, key: bytes, begun: FetchMoment | None = None) -> Lease | Refusal:
        now = self._clock()
        if (held := self._leases.get(key)) is not None and held.until > now:
            return Refusal.IN_FLIGHT
        if (until := self._marks.get(key)) is not None:
            if until > now and begun is None:
                return Refusal.OUTGROWN if until - now > OUTGROWN_S else Refusal.UNCACHEABLE
            del self._marks[key]
        moment = self.present_moment() if begun is None else begun
        assert isinstance(moment, _Moment)
        lease = self._leases[key] = _Lease(self, key, now + LEASE_S, moment)
        return lease

    def present_moment(self) -> FetchMoment:
        moment = _Moment(self.date())
        self._fetches.add(moment)
        return moment

    has_slower_tiers = False

    def recall(self, keys: Sequence[bytes], callback: Callable[[StoredObject | None], None]) -> bool:
        return False

    def when_purged(self, callback: Callable[[], None]) -> None:
        callback()

    def watch(self, key: bytes, callback: Callable[[], None]) -> KeyWatch:
        return _Watch(self._watches, key, callback)

    def remove(self, key: bytes) -> bool:
        entry = self._entries.get(key)
        if entry is None:
            return False
        self.drop(entry)
        self.changed(key)
        return True

    def purge_key(self, key: bytes, *, soft: bool = False) -> Counting:
        self._marks.pop(key, None)
        return self._purge(_Purge(lambda entry: key in entry.groups, soft), [key] if key in self._leases else [])

    def purge_tags(self, tags: Iterable[bytes], *, soft: bool = False) -> Counting:
        wanted = frozenset(tags)
        return self._purge(_Purge(lambda entry: not wanted.isdisjoint(entry.tags), soft))

    def purge_prefix(self, *prefixes: bytes, soft: bool = False) -> Counting:
        if max(map(len, prefixes)) > MOST_URL:
            raise ValueError(f"a prefix has at most {MOST_URL} bytes")
        return self._purge(_Purge(lambda entry: bool(entry.url) and entry.url.startswith(prefixes), soft))

    def purge_all(self, *, soft: bool = False) -> Counting:
        return self._purge(_Purge(lambda entry: True, soft))

    def numbers(self) -> StoreNumbers:
        return StoreNumbers(len(self._entries), self._bytes, MappingProxyType(dict(self._evictions)))

    def close(self) -> None:
        self._watches.clear()

    # for writers and leases

    def holds(self, entry: _Entry) -> bool:
        """Whether requests find this entry."""
        return self._entries.get(entry.key) is entry

    def entry_of(self, key: bytes) -> _Entry | None:
        return self._entries.get(key)

    def insert(self, entry: _Entry) -> bool:
        """Add an entry, in the place of another one of its key. False: there is not enough space."""
        if (before := self._entries.get(entry.key)) is not None:
            self.drop(before)
        self._entries[entry.key] = entry
        if not self.make_space(entry, entry.weight):
            del self._entries[entry.key]
            return False
        return True

    def drop(self, entry: _Entry) -> None:
        """Remove an entry, if it is still there."""
        if self.holds(entry):
            del self._entries[entry.key]
            self._bytes -= entry.weight

    def make_space(self, entry: _Entry, count: int) -> bool:
        """Count these additional bytes of an entry, and evict others for them. False: there is not enough space, and
        they are not counted.
        """
        if not self.holds(entry):
            return True  # it was purged; those that read it go on
        self._bytes += count
        for other in list(self._entries.values()) if self._bytes > self._memory else ():
            if other is not entry and other.is_complete:
                self.drop(other)
                self._evictions[Eviction.CAPACITY] += 1
                if self._bytes <= self._memory:
                    break
        if self._bytes > self._memory:
            self._bytes -= count
            return False
        return True

    def end_lease(self, lease: _Lease, mark_s: float) -> None:
        """Forget a lease. `mark_s`: as of `Lease.give_up`."""
        self._fetches.discard(lease.begun)
        if self._leases.get(lease.key) is lease:
            del self._leases[lease.key]
            if mark_s > 0:
                self._marks[lease.key] = self._clock() + mark_s
        self.changed(lease.key)

    def changed(self, key: bytes) -> None:
        """Schedule the callbacks of a key."""
        for watch in self._watches.get(key, ()):
            self._call_soon(watch.callback)

    def _purge(self, purge: _Purge, not_joined: Iterable[bytes] | None = None) -> Counting:
        """Purge what matches. `not_joined`: keys whose leases are not waited for any more; None: all."""
        hit = [entry for entry in self._entries.values() if purge.matches(entry)]
        for entry in hit:
            if purge.soft:
                entry.is_soft_purged = True
            else:
                self.drop(entry)
        for begun in self._fetches:
            begun.purges.append(purge)
        ended = list(self._leases if not_joined is None else not_joined)
        for key in ended:
            del self._leases[key]
        if not_joined is None:
            self._marks.clear()
        for key in chain((entry.key for entry in hit), ended):
            self.changed(key)
        return _counted(len(hit))


def _counted(number: int) -> Counting:
    return number
    yield
