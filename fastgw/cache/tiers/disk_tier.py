"""The disk tier of a store, as one process uses it: threads read and write, the event loop waits for none.

Queues are bounded. An object that finds the queue of writes full is not written, and counted; a look-up that finds too
many before it, or that takes too long, is a miss. Rule 1: nothing is believed that does not pass its check; a file that
fails it is removed. Rule 2: a purge holds by its number in the shared memory, for files as for objects in memory; the
journal keeps it over a restart. If a purge cannot be written there, the tier is not used any more, in all processes,
and the journal is removed, as soon as that is possible: the next start begins with an empty one.
"""

import errno
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, final

from fastgw.cache.shared.layout import (
    DISK_DAMAGED,
    DISK_DROPPED,
    DISK_ERRORS,
    DISK_EVICTED,
    DISK_FAILED,
    DISK_HITS,
    DISK_WRITTEN,
)
from fastgw.cache.shared.purges import Validity
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import DiskNumbers, FetchBegin, StoredObject
from fastgw.cache.tiers.disk_object import DiskFile, DiskObject
from fastgw.cache.tiers.object_directory import ObjectDirectory
from fastgw.cache.tiers.object_file import BadFile, ObjectRecord, read_blocks, read_record
from fastgw.cache.tiers.promotion import check_record, promote_object
from fastgw.cache.tiers.purge_writer import PurgeWriter
from fastgw.cache.tiers.shard_counts import SHARDS, ShardCounts
from fastgw.cache.tiers.tier_threads import TierLoop, TierThreads, Work
from fastgw.operator_events import OperatorEvent, log_event

RECALL_S: Final = 2.0
"""Seconds that requests wait for the disk."""
MOST_READS: Final = 256
"""Look-ups of a process at a time."""
MOST_WRITES: Final = 256
"""Objects that a process has yet to write."""
LONGEST_PROMOTED: Final = 1 << 20
"""Maximum bytes of a body that is put into memory when it is found on disk; a longer one is sent from its file."""
MOST_VERIFIED: Final = 1024
"""Long files that are remembered as checked, so that they are not read twice for each hit."""
PAUSE_S: Final = 1.0
"""Seconds without writes after the file system was full."""
REPORT_S: Final = 60.0
"""Seconds between two messages about failures."""
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
OBJECTS: Final = "objects-"


class DiskLocation(NamedTuple):
    """A directory as a tier. `id`: of its journal."""

    path: str
    id: str
    most_bytes: int


class _Found(NamedTuple):
    """An object that was read. `file`: None: `body` has all of it."""

    key: bytes
    record: ObjectRecord
    body: bytes
    file: DiskFile | None


@final
class DiskTier:
    """The tier in one process. `store`: its memory. `expires`: returns the epoch seconds from which on an object with
    this head is of no use; 0.0: it may be validated at any time.
    """

    def __init__(
        self,
        disk: DiskLocation,
        store: SharedStore,
        loop: TierLoop,
        expires: Callable[[bytes], float],
        date: Callable[[], float] = time.time,
    ) -> None:
        self.disk, self._store, self.loop, self.expires, self._date = disk, store, loop, expires, date
        self.counts = ShardCounts(store.memory)
        self.longest_promoted = min(LONGEST_PROMOTED, store.most_bytes)
        self.memory = store.memory
        self._words = store.memory.words
        self.threads = TierThreads(loop, self._on_error)
        self.purges = PurgeWriter(self)
        self._opening = threading.Lock()
        self._directory: ObjectDirectory | None = None
        self._was_removed = False  # the last directory, so that its counts are wrong
        self._close_folder: Callable[[], object] = lambda: None
        self._folder = -1
        """The directory of the tier, open as soon as it was used, so that it is found where it was moved to."""
        self._verified: dict[tuple[int, int, int], None] = {}
        self._reads = self._writes = 0
        self._held_bytes = 0
        self._held: dict[int, StoredObject] = {}
        self._full_until = self._reported_at = 0.0

    def __repr__(self) -> str:
        return f"<DiskTier {self.disk.path} writes={self._writes} reads={self._reads}>"

    @property
    def has_failed(self) -> bool:
        return bool(self._words[DISK_FAILED]) or self.threads.is_closing

    @property
    def is_busy(self) -> bool:
        """Whether a thread has something to do, or the loop with its results."""
        return bool(self._writes or self._reads or self.purges.is_busy)

    # look-ups

    def recall(self, keys: Sequence[bytes], done: Callable[[DiskObject | None], None]) -> bool:
        """See `SlowerTiers.recall`."""
        if self.has_failed or self._reads >= MOST_READS:
            return False
        is_late = False

        def end_late() -> None:
            nonlocal is_late
            is_late = True
            done(None)

        def ended(found: _Found | None) -> None:
            self._reads -= 1
            if not is_late:
                timer.cancel()
                done(None if found is None else self._use(found))

        self._reads += 1
        timer = self.loop.call_later(RECALL_S, end_late)
        self.threads.run(Work.READ, lambda: self._find_file(keys), ended)
        return True

    def _use(self, found: _Found) -> DiskObject | None:
        """Put an object into memory, or return it if it is sent from its file. None also if it was purged.

        A small file that was read just before a larger response, which is for the disk alone, took its place is put
        into memory all the same, and hides that response as long as it is there: until it is stale, and its
        validation or the next fetch replaces it, or it is evicted.
        """
        validity = self.check(found.key, found.record)
        if validity.is_purged:
            self.remove(found.key)
            return None
        self.count(DISK_HITS)
        if found.file is None:
            promote_object(self._store, found.key, found.record, found.body)
            return None
        return DiskObject(found.key, found.record, found.file, is_soft_purged=validity.is_soft_purged)

    def check(self, key: bytes, record: ObjectRecord, began: int | None = None) -> Validity:
        """Return whether an object is valid. `began`: as if its fetch had begun at this purge sequence."""
        return check_record(self._store, key, record, began)

    def _find_file(self, keys: Iterable[bytes]) -> _Found | None:
        directory = self.opened()
        for key in keys:
            found = self._load(directory, key)
            if found is not None:
                return found
        return None

    def _load(self, directory: ObjectDirectory, key: bytes) -> _Found | None:
        inode = None
        try:
            fd = directory.open_object(key)
            if fd is None:
                return None
            file = DiskFile(fd)
            inode = file.inode
            seen = read_record(fd, key)
            record = seen.record
            if record.is_outdated(self._date()):
                directory.remove_object(key, inode)
                return None
            body = b""
            if seen.layout.length <= self.longest_promoted:
                body = b"".join(read_blocks(fd, key, seen.layout))
            elif (mark := (inode, file.modified_ns, seen.layout.total)) not in self._verified:
                for _ in read_blocks(fd, key, seen.layout):
                    pass
                while len(self._verified) >= MOST_VERIFIED:
                    self._verified.pop(next(iter(self._verified)), None)
                self._verified[mark] = None
        except BadFile:
            self.count(DISK_DAMAGED)
            directory.remove_object(key, inode)
            return None
        directory.mark_used(fd)
        if seen.layout.length <= self.longest_promoted:
            return _Found(key, record, body, None)
        file.set_body(seen.layout.body, seen.layout.length)
        return _Found(key, record, b"", file)

    # writes

    def write(self, key: bytes, record: ObjectRecord, held: StoredObject | None = None) -> bool:
        """Write an object. `held`: the complete object in memory, which is released afterwards; None: it has no body.
        False: it is not written.
        """
        length = 0 if held is None else held.length
        if not self.can_write(length):
            if held is not None:
                held.release()
            self.count(DISK_DROPPED)
            self.remove(key)  # an older one
            return False
        pieces: list[bytes | memoryview] = [] if held is None else [*held.pieces()]
        if held is not None:
            self._held[id(held)] = held  # the last reference may not go in a thread: pins are the loop's
        number = id(held)
        self._held_bytes += length

        def done(is_written: bool | None) -> None:
            self._held_bytes -= length
            if (released := self._held.pop(number, None)) is not None:
                released.release()
            if is_written is None:
                self.remove(key)

        self.run_write(lambda: self._write(key, record, pieces, length), done)
        return True

    def run_write(self, job: Callable[[], bool], done: Callable[[bool | None], None]) -> None:
        """Run a job that changes files, and `done` with its result; with None after a failure."""
        self._writes += 1

        def ended(result: bool | None) -> None:
            self._writes -= 1
            done(result)

        self.threads.run(Work.WRITE, job, ended)

    def can_write(self, length: int) -> bool:
        """Whether an object with a body of this length may be written now."""
        if self.has_failed or self._writes >= MOST_WRITES or length > self.disk.most_bytes // 8:
            return False
        most = self._store.memory.memory // 8
        return self._held_bytes + length <= most and time.monotonic() >= self._full_until

    def _write(self, key: bytes, record: ObjectRecord, pieces: list[bytes | memoryview], length: int) -> bool:
        """Write in a thread. Raises `OSError`."""
        directory = self.opened()
        self.make_space(directory, length)
        is_written = directory.write_object(key, record, pieces, length)
        pieces.clear()
        self.count(DISK_WRITTEN, is_written)
        self.restore_limit(directory)
        return is_written

    def make_space(self, directory: ObjectDirectory, length: int) -> None:
        """Evict what an object needs, in a thread. Raises `OSError` with ENOSPC."""
        most = self.disk.most_bytes
        if self.counts.size + length > most:
            self.count(DISK_EVICTED, directory.evict_down_to(max(0, most - most // 32 - length)))
            if self.counts.size + length > most + most // 64:
                raise OSError(errno.ENOSPC, "the disk tier is full")

    def restore_limit(self, directory: ObjectDirectory) -> None:
        """Evict what is too much after a write: others may have taken the space that was made for it."""
        if self.counts.size > self.disk.most_bytes:
            self.count(DISK_EVICTED, directory.evict_down_to(self.disk.most_bytes))

    def replace_record(self, key: bytes, head: bytes, fetched: FetchBegin, done: Callable[[], None]) -> bool:
        """Give the file of a key another head, if there is one; call `done` then. False: nothing is done."""
        if self.has_failed or self._writes >= MOST_WRITES:
            self.remove(key)
            return False
        expires = self.expires(head)

        def ended(is_written: bool | None) -> None:
            if is_written is None:
                self.remove(key)
            done()

        self.run_write(lambda: self.opened().replace_record(key, head, fetched.began, fetched.date, expires), ended)
        return True

    def remove(self, key: bytes, done: Callable[[], None] = lambda: None) -> None:
        """Remove the file of a key, if there is one; call `done` then. It may come back from elsewhere, unless it is
        purged as well.
        """
        if self._writes < 2 * MOST_WRITES and not self.threads.is_closing:
            self.run_write(lambda: self.opened().remove_object(key), lambda is_removed: done())

    # other work

    def begin_scan(self) -> None:
        """Count all files, and remove those of former journals, in the background. By one process of the node."""
        self.threads.run(Work.SCAN, self.scan, lambda is_done: None)

    def scan(self) -> bool:
        """See `begin_scan`; in a thread."""
        directory = self.opened()
        for shard in range(SHARDS):
            if self.threads.is_closing:
                return False
            directory.count_shard(shard)
        directory.remove_abandoned(self._date())
        for each in Path(self.disk.path).iterdir():
            is_former = each.name.startswith(OBJECTS) and each.name != OBJECTS + self.disk.id
            if is_former and not each.is_symlink() and not self.threads.is_closing:
                shutil.rmtree(each, ignore_errors=True)
        return True

    def numbers(self) -> DiskNumbers:
        total = self._store.memory.total
        return DiskNumbers(
            self.disk.most_bytes,
            self.counts.objects,
            self.counts.size,
            total(DISK_HITS),
            total(DISK_WRITTEN),
            total(DISK_DROPPED),
            total(DISK_ERRORS),
            total(DISK_EVICTED),
            total(DISK_DAMAGED),
            bool(self._words[DISK_FAILED]),
            self.purges.may_be_undone,
            self.purges.is_busy,
        )

    def close(self, *, wait: bool = True) -> None:
        """Write what is yet to be written, and end the threads. `wait`: until then."""
        self.purges.close()
        self.threads.close(wait=wait)
        if wait:
            for held in self._held.values():
                held.release()
            self._held.clear()
            self._directory = None
            self._close_folder()
            self._folder = -1

    # in threads

    def opened(self) -> ObjectDirectory:
        """Return the directory. Raises `OSError`."""
        with self._opening:
            if self._directory is None:
                path = os.path.join(self.disk.path, OBJECTS + self.disk.id)
                if self._folder < 0:
                    self._folder = os.open(self.disk.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    # Threads may use it after `close`, so it is closed with the tier.
                    self._close_folder = weakref.finalize(self, os.close, self._folder)
                directory = ObjectDirectory(path, self.counts, self._store.cells)
                if self._was_removed:
                    for shard in range(SHARDS):
                        directory.count_shard(shard)
                    self._was_removed = False
                self._directory = directory
            return self._directory

    @contextmanager
    def held_folder(self) -> Iterator[int]:
        """Hold the directory of the tier open as it was found; -1: it is not open. Raises `OSError`.

        Another thread may close its descriptor, whose number then becomes that of any other file.
        """
        with self._opening:
            held = os.dup(self._folder) if self._folder >= 0 else -1
        try:
            yield held
        finally:
            if held >= 0:
                os.close(held)

    def _forget_removed(self) -> None:
        """Forget the directory if it was removed: the next job makes another one. Its purges are in the memory."""
        with self._opening:
            if self._directory is None or not self._directory.is_removed:
                return
            self._directory, self._was_removed = None, True
            if os.fstat(self._folder).st_nlink == 0:
                self._close_folder()
                self._folder = -1

    def _on_error(self, error: Exception) -> None:
        """Count a failure, and log it now and then."""
        self.count(DISK_ERRORS)
        now = time.monotonic()
        with suppress(OSError):
            self._forget_removed()
        if isinstance(error, OSError) and error.errno in _FULL:
            self._full_until = now + PAUSE_S
            with suppress(OSError):
                self.count(DISK_EVICTED, self.opened().evict_down_to(self.counts.size * 63 // 64))
        if now >= self._reported_at + REPORT_S or not self._reported_at:
            self._reported_at = now
            was_removed = self._was_removed and self._folder < 0
            if was_removed and not os.path.exists(self.disk.path):
                # It is not made again: its file system may not be mounted.
                log_event(
                    OperatorEvent.CACHE_DISK_TROUBLE,
                    "cache: the directory %s was removed: nothing is stored on disk until it is there again; a restart "
                    "of the gateway creates it",
                    self.disk.path,
                )
                return
            log_event(
                OperatorEvent.CACHE_DISK_TROUBLE,
                "cache: %s cannot be used for the moment: %s",
                self.disk.path,
                getattr(error, "strerror", None) or type(error).__name__,
            )

    def count(self, word: int, count: int = 1) -> None:
        if count:
            self._store.memory.add(self._store.counters + word, count)
