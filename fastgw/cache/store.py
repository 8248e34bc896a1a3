"""Objects of a cache store as their users see them, its limits, and its outcomes; see `SharedStore` for its calls."""

from collections.abc import Generator, Mapping
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
"""Objects that a purge concerns: those of a key, and those stored under a lease of it (as `SharedStore.remove` purges
slower tiers); those with a tag; those whose URL begins with a prefix; or all.
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


class FetchBegin(NamedTuple):
    """The begin of a fetch: purge sequence, and epoch seconds. `position`: of the purges in Redis; None: it has not
    answered yet, or there is none.
    """

    began: int
    date: float
    position: "PurgePosition | None" = None


class PurgePosition(NamedTuple):
    """State of the purges in Redis as of an answer: their epoch, and the number of the last one."""

    epoch: bytes
    number: int


class RefusedLease(NamedTuple):
    """Reason why a fetch has no lease, and the moment at which it began."""

    reason: Refusal
    begun: FetchBegin


class NotStored(bytes, Enum):
    """Reason why something that may be stored is not in the store. The value is the `detail` of `Cache-Status`."""

    HEAD_SIZE = b"head-too-large"
    """The head, with the URL and the tags, is longer than the store takes."""
    BODY_SIZE = b"body-too-large"
    """The body is longer than `SharedStore.most_bytes`."""
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


def holds_after_restart(disk: DiskNumbers | None, *, is_written: bool) -> bool:
    """Whether a purge also holds after a restart of the gateway. `disk`: of the store; `is_written`: its `when_purged`
    has called back. False: the disk hangs, or the purge could not be written and the journal without it is valid yet.
    """
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
        """The head, as given to `SharedLease.store`."""

    @property
    def length(self) -> int:
        """Number of body bytes that can be read now. It grows until the object is complete."""

    @property
    def size(self) -> int | None:
        """Final number of body bytes, as announced to `SharedLease.store` or once complete. None: not known yet."""

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
        """Epoch seconds at which its fetch began, as of `SharedLease.store`."""

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
        is found again, if there is space for it and it was not removed meanwhile. `mark_s`: as of
        `SharedLease.give_up`. Does nothing after the end.
        """
