"""The interface of a cache store, as one worker sees it: find, fetch under a lease, watch, purge.

No call blocks, waits for another process or raises because the store is full or damaged: the caller then goes on
without the store. All calls are made from the thread of the worker's event loop.

Purges are ordered by a number, the *purge sequence*, and not by clocks: a fetch remembers the number at its lease, and
every later purge has a higher one. A fetch without a lease remembers it in a `FetchMoment`, for a lease that it takes
later. An object is valid while no purge of its key, its tags, its URL's prefixes or of everything is newer than its
fetch. A fetch in flight at the time of a purge is not joined afterwards, unless that was a purge of another key.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol

KEY_BYTES: Final = 16
"""Length of a key, which is a digest, so that clients cannot choose keys."""
MOST_HEAD: Final = 128 * 1024
"""Maximum length of a head."""
MOST_TAGS: Final = 512
"""Maximum number of tags of an object; one with more is not stored."""
MOST_URL: Final = 8 * 1024
"""Maximum length of an object's URL and of a purged prefix; an object with a longer URL is not stored."""
LEASE_S: Final = 30.0
"""Seconds after which another worker may fetch, too, if the one with the lease has not finished."""

PurgeKind = Literal["key", "tag", "prefix", "all"]
"""Objects that a purge concerns: those of a key, and those stored under a lease of it (as `Store.remove` purges slower
tiers); those with a tag; those whose URL begins with a prefix; or all.
"""
Counting = Generator[None, None, int]
"""Work in steps of well below 1 ms that results in a number of objects. It may be abandoned at any step."""


OUTGROWN_S: Final = 2.0
"""Seconds beyond which a mark, counted from now, is that of an answer that has outgrown the store."""


class Refusal(Enum):
    """Reason why `lease` returned no lease."""

    IN_FLIGHT = "another request fetches this key: watch it"
    UNCACHEABLE = "the last answer was not stored: fetch without the store"
    OUTGROWN = "an answer of unknown length has outgrown the store: the same, and so will others be"
    NO_SLOT = "too many fetches are in flight: fetch without the store"


class FetchMoment(Protocol):
    """The moment at which a fetch began, in the order of purges."""

    @property
    def date(self) -> float:
        """Epoch seconds, as of `StoredObject.stored_date`."""


class RefusedLease(NamedTuple):
    """Reason why a fetch has no lease, and the moment at which it began."""

    reason: Refusal
    begun: FetchMoment


class NotStored(bytes, Enum):
    """Reason why something that may be stored is not in the store. The value is the `detail` of `Cache-Status`."""

    HEAD_SIZE = b"head-too-large"
    """The head, with the URL and the tags, is longer than the store takes."""
    BODY_SIZE = b"body-too-large"
    """The body is longer than `Store.most_bytes`."""
    FULL = b"store-full"
    """All memory is in use by readers and writers."""
    DISK_BUSY = b"disk-busy"
    """The object is for the disk alone, which has too much to write."""
    PURGED = b"purged"
    """A purge during the fetch concerns the object."""
    CONTESTED = b"contested"
    """Another request has stored it meanwhile."""
    EXPIRED = b"expired"
    """The lease has ended."""
    GONE = b"gone"
    """The object to freshen is no longer in the store."""
    TAGS = b"tags"
    """The response has more tags than purges would find."""
    IN_FLIGHT = b"in-flight"
    """Another request fetches the key, or too many fetches are in flight."""


class Eviction(Enum):
    """Reason why the store removed an object before anything asked for that."""

    CAPACITY = "capacity"
    """The memory is full."""
    INDEX = "index"
    """The part of the index that the key belongs to is full."""


class DiskNumbers(NamedTuple):
    """State of a disk tier, for metrics. Counts are since the start."""

    most_bytes: int
    objects: int
    bytes: int
    hits: int
    """Objects that were found on disk, and not in memory."""
    written: int
    dropped: int
    """Objects that were not written: the disk was too slow, or full."""
    errors: int
    """Accesses that failed."""
    evicted: int
    damaged: int
    """Files that were removed because they did not pass their check."""
    has_failed: bool
    """Whether it is not used any more, because a purge could not be written."""
    may_be_undone: bool = False
    """Whether the next start would undo that purge: the journal without it could not be removed yet."""
    is_behind: bool = False
    """Whether purges are yet to be written."""


PURGE_WAIT_S: Final = 5.0
"""Seconds that who purges waits for the disk."""


def holds_after_restart(store: "Store", *, is_written: bool) -> bool:
    """Whether a purge also holds after a restart of the gateway. `is_written`: `when_purged` has called back. False:
    the disk hangs, or the purge could not be written and the journal without it is valid yet.
    """
    disk = store.numbers().disk
    if disk is None or disk.may_be_undone:
        return disk is None
    return is_written or not disk.is_behind  # Redis may be what was waited for


class RedisNumbers(NamedTuple):
    """Counts of a Redis tier on this node since the start, for metrics."""

    hits: int
    """Objects that were found in Redis, and not nearer."""
    written: int
    dropped: int
    """Objects that were not written: too many were in flight, or Redis has refused them."""
    damaged: int
    """Objects that were removed because they did not pass their check."""


class StoreNumbers(NamedTuple):
    """State of a store, for metrics."""

    objects: int
    bytes: int
    """Bytes in use for heads and bodies, including objects that are no longer valid until they are overwritten."""
    evictions: Mapping[Eviction, int] = MappingProxyType({})
    """Number of evicted objects since the start, by reason."""
    disk: DiskNumbers | None = None
    """None: there is no disk tier."""
    redis: RedisNumbers | None = None
    """None: there is no Redis tier."""


class StoredObject(Protocol):
    """An object that was found. Its bytes stay in place until `release`, whatever is stored, removed or purged."""

    @property
    def key(self) -> bytes: ...

    @property
    def head(self) -> bytes:
        """The head, as given to `Lease.store`."""

    @property
    def length(self) -> int:
        """Number of body bytes that can be read now. It grows until the object is complete."""

    @property
    def size(self) -> int | None:
        """Final number of body bytes, as announced to `Lease.store` or once complete. None: not known yet."""

    @property
    def is_complete(self) -> bool:
        """Whether `pieces`, called afterwards, returns the whole body."""

    @property
    def has_failed(self) -> bool:
        """Whether the fetch ended before the object was complete: it will not grow any more."""

    @property
    def is_soft_purged(self) -> bool:
        """Whether a soft purge has made it stale, as of `find`."""

    @property
    def stored_date(self) -> float:
        """Epoch seconds at which its fetch began, as of `Lease.store`."""

    def pieces(self, offset: int = 0) -> list[memoryview]:
        """Return the readable body bytes from `offset` on, without copying them. Valid until `release`."""

    def release(self) -> None:
        """Give the object back. Repeated calls do nothing."""


class Writer(Protocol):
    """Writes the body of one object, which other requests can already read; one of known length once there is space for
    all of it.
    """

    def hold(self, key: bytes) -> StoredObject | None:
        """Return the object, like one that was found under this key; it does not count as one. Its size is not known
        before there is space for all of it. None: it cannot be read before it is complete.
        """

    def append(self, data: bytes | bytearray | memoryview) -> bool:
        """Append body bytes. False: they do not fit, and the object has failed; further calls return False."""

    def complete(self) -> bool:
        """End the object; it is in the store from now on. False: it has failed, or has another size than announced."""

    def abort(self, mark_s: float = 0.0) -> None:
        """Drop the object, which is not whole; those that read it see `has_failed`. A complete one that it has replaced
        is found again, if there is space for it and it was not removed meanwhile. `mark_s`: as of `Lease.give_up`. Does
        nothing after the end.
        """


class Lease(Protocol):
    """The right and duty of one request to fetch a key. It ends by `Writer.complete`, `Writer.abort`, `freshen` or
    `give_up`; `give_up` after the end does nothing.

    It also ends with the death of its worker, and after `LEASE_S`; then another request may fetch, too.
    """

    @property
    def key(self) -> bytes: ...

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
        lease covers both. `url`: for purges by prefix. `tags`: for purges by tag; A purge of the key of the
        lease covers the object like one of a tag, so that it reaches variants.
        """

    def store_head(
        self, head: bytes, *, key: bytes | None = None, url: bytes = b"", tags: Collection[bytes] = ()
    ) -> bool:
        """Store a complete object without a body, such as what `Vary` named. The lease goes on. False: see
        `why_not`.
        """

    def store_whole(
        self, head: bytes, body: bytes, *, key: bytes | None = None, url: bytes, tags: Collection[bytes]
    ) -> bool:
        """Store a complete object with its body, and end the lease. False: see `why_not`; the lease may go on.

        `key`: as of `store`.
        """

    def freshen(self, found: StoredObject, head: bytes) -> bool:
        """Give a complete object another head (a 304 has validated it), as if it had been fetched under this lease, and
        end the lease. False: the object is gone, was purged since the lease, or cannot be changed, such as for want of
        space: it stays as it was, or is removed and the lease ends, if that would take too long. `found` stays as
        it is; the next `find` has the new head.
        """

    @property
    def why_not(self) -> NotStored:
        """Reason for the last `None` of `store`, or `False` of another method. A writer that fails has found no space:
        `NotStored.FULL`.
        """

    def give_up(self, mark_s: float = 0.0) -> None:
        """End the lease without an object. `mark_s`: for so many seconds requests for this key have to fetch
        without the store (`Refusal.UNCACHEABLE`), so that they do not wait for each other.
        """


class KeyWatch(Protocol):
    """A registered callback."""

    def cancel(self) -> None:
        """End the watch. Repeated calls do nothing."""


class Store(Protocol):
    """A worker's handle of a store."""

    @property
    def most_bytes(self) -> int:
        """Maximum number of body bytes of an object."""

    @property
    def has_slower_tiers(self) -> bool:
        """Whether `recall` may find something."""

    def find(self, key: bytes) -> StoredObject | None:
        """Return the valid object of this key, complete or growing; the caller has to release it."""

    def stamp(self, found: StoredObject) -> object | None:
        """Return a value with which `is_unchanged` recognizes this object after its release; None: it is not valid any
        more.
        """

    def is_unchanged(self, stamp: object) -> bool:
        """Whether `find` would return the object of a stamp, unchanged. Cheaper than `find`; False also after a purge
        of something else. Some of the calls count as a `find`, which shows which objects are popular.
        """

    def lease(self, key: bytes, begun: FetchMoment | None = None) -> Lease | Refusal:
        """Ask for the right to fetch a key, whether there is an object or not.

        `begun`: of `present_moment`: the fetch has begun then without a lease, and its response may be stored. The mark
        of the key ends. Objects of this lease are as old as the fetch, so purges since then concern them.
        """

    def present_moment(self) -> FetchMoment:
        """Return the moment for a fetch that begins now without a lease."""

    def watch(self, key: bytes, callback: Callable[[], None]) -> KeyWatch:
        """Call back from the event loop whenever the object of a key, or the fetch of it, may have changed: it has
        appeared, grown, ended or failed, or its lease has ended. Calls may be spurious, and changes may be merged.
        """

    def recall(self, keys: Sequence[bytes], callback: Callable[[StoredObject | None], None]) -> bool:
        """Look for the first of these keys that a slower tier has, after `find` has not found it. False: there is no
        such tier, or it is busy; there is no call then.

        The callback is called once, from the event loop: with an object that is only there, and that the caller has to
        release; or with None: `find` finds it now, or it was not found in time.
        """

    def remove(self, key: bytes) -> bool:
        """Remove the object of a key; return whether there was one. A fetch in flight is not affected."""

    def purge(self, kind: PurgeKind, values: Sequence[bytes] = (b"",), *, soft: bool = False) -> Counting:
        """Purge all objects that have at least one of these tags, or whose URL begins with one of these prefixes, or
        all. Raises `ValueError` for a prefix of more than `MOST_URL` bytes.

        A purge holds as soon as this returns; run the steps for the number of purged objects. `soft`: the objects
        stay, and `is_soft_purged`.
        """

    def when_purged(self, callback: Callable[[], None]) -> None:
        """Call back once the purges of this handle so far would also hold after a restart."""

    def numbers(self) -> StoreNumbers:
        """Return the state of the whole store, for all workers."""

    def close(self) -> None:
        """End all watches of this handle. Objects that were found stay valid until their release."""
