"""Writes an object that is too large for memory to its file, while it arrives."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from fastgw.cache.shared.layout import DISK_DROPPED, DISK_WRITTEN
from fastgw.cache.tiers.object_directory import NewFile, ObjectDirectory
from fastgw.cache.tiers.object_file import BLOCK, ObjectRecord, block_digest, layout_for, write_all

if TYPE_CHECKING:
    from fastgw.cache.tiers.disk_tier import DiskTier

MOST_AHEAD: Final = 16 * 1024 * 1024
"""Maximum bytes that have arrived and are not written yet. With more the disk is too slow: the object is dropped."""
_BATCH: Final = 4
"""Blocks that a job writes."""


@final
class DiskWriter:
    """See `Writer`. `ended`: called once, when the file is complete or dropped (`SharedLease.end_pending`). `replaced`:
    called when there is no older file any more, if the response outdates it: requests may have put that into memory.
    """

    def __init__(
        self,
        tier: "DiskTier",
        key: bytes,
        record: ObjectRecord,
        size: int,
        ended: Callable[[float], None],
        replaced: Callable[[], None],
    ) -> None:
        self._tier, self._key, self._record, self._size = tier, key, record, size
        self._ended, self._replaced = ended, replaced
        self._layout = layout_for(record, size)
        self._pending = bytearray()
        self._blocks: deque[bytes] = deque()
        self._ahead = self._length = 0
        self._is_writing = self._is_complete = self._has_ended = self._has_failed = False
        self._mark_s = 0.0
        self._removes_former = False
        """Whether a whole response that is not stored outdates the stored one, which a part of one does not."""
        # of the jobs, one after another
        self._file: NewFile | None = None
        self._digests: list[bytes] = []

    def __repr__(self) -> str:
        return f"<DiskWriter {self._key.hex()} {self._length} of {self._size} bytes>"

    def __del__(self) -> None:
        self.abort()

    def hold(self, key: bytes) -> None:
        """Return nothing: see `Writer.hold`."""

    def append(self, data: bytes | bytearray | memoryview) -> bool:
        if self._has_failed or self._is_complete:
            return False
        self._length += len(data)
        self._ahead += len(data)
        if self._length > self._size or self._ahead > MOST_AHEAD:
            self._tier.count(DISK_DROPPED)
            self._removes_former = True
            self.abort()
            return False
        self._pending += data
        while len(self._pending) >= BLOCK:
            self._blocks.append(bytes(self._pending[:BLOCK]))
            del self._pending[:BLOCK]
        self._write_next()
        return True

    def complete(self) -> bool:
        if self._has_failed or self._is_complete:
            return False
        if self._length != self._size:
            self.abort()
            return False
        if self._pending:
            self._blocks.append(bytes(self._pending))
            self._pending.clear()
        self._is_complete = True
        self._write_next()
        return True

    def abort(self, mark_s: float = 0.0) -> None:
        if not self._is_complete and not self._has_failed:
            self._has_failed, self._mark_s = True, mark_s
            self._blocks.clear()
            self._write_next()

    def _write_next(self) -> None:
        if self._is_writing or self._has_ended:
            return
        batch = [self._blocks.popleft() for _ in range(min(_BATCH, len(self._blocks)))]
        is_last = self._has_failed or (self._is_complete and not self._blocks)
        if not batch and not is_last:
            return
        self._is_writing = True

        def done(is_written: bool | None) -> None:
            self._is_writing = False
            self._ahead -= sum(map(len, batch))
            if is_last:
                self._end(failed=is_written is None)
                return
            if is_written is None:
                self._has_failed, self._is_complete, self._removes_former = True, False, True
                self._blocks.clear()
            self._write_next()

        self._tier.run_write(lambda: self._write(batch, is_last), done)

    def _end(self, *, failed: bool) -> None:
        self._has_ended = True
        if failed or self._removes_former:
            self._tier.remove(self._key, self._replaced)  # an older one
        elif self._is_complete:
            self._replaced()
        self._has_failed |= failed
        self._ended(self._mark_s)

    def _write(self, batch: list[bytes], is_last: bool) -> bool:
        """Write blocks, in a thread. Raises `OSError`."""
        directory = self._tier.opened()
        is_failed = True
        try:
            if self._file is None and not self._has_failed:
                self._tier.make_space(directory, self._size)
                self._file = directory.create_file()
            file = self._file
            if file is not None and not self._has_failed:
                for block in batch:
                    number = len(self._digests)
                    write_all(file.fd, block, self._layout.body + number * BLOCK)
                    self._digests.append(block_digest(self._key, number, block))
                if is_last:
                    self._finish(directory, file)
            is_failed = False
        finally:
            if is_last or is_failed:
                self._drop(directory)
        return True

    def _finish(self, directory: ObjectDirectory, file: NewFile) -> None:
        write_all(file.fd, b"".join(self._digests), self._layout.body + self._size)
        is_written = directory.finish_object(file, self._key, self._record, self._size)
        self._tier.count(DISK_WRITTEN, is_written)
        self._tier.restore_limit(directory)

    def _drop(self, directory: ObjectDirectory) -> None:
        file, self._file = self._file, None
        if file is not None:
            directory.drop_file(file)
