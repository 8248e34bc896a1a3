"""Objects that are sent from their files."""

import os
from contextlib import suppress
from typing import final

from fastgw.cache.tiers.object_file import ObjectRecord, find_body_time


@final
class DiskFile:
    """The open file of an object, which is closed with the last reference. `first`: offset of the body."""

    __slots__ = ("_total", "fd", "first", "inode", "length", "modified_ns")

    def __init__(self, fd: int) -> None:
        """Takes over the descriptor."""
        self.fd = fd
        status = os.fstat(fd)
        self.inode, self.modified_ns, self._total = status.st_ino, find_body_time(fd), status.st_size
        self.first = self.length = 0

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self.fd)

    def __repr__(self) -> str:
        return f"<DiskFile {self.fd} of {self.length} bytes>"

    def set_body(self, first: int, length: int) -> None:
        self.first, self.length = first, length

    @property
    def is_intact(self) -> bool:
        """Whether its body is that of the opening, after which it was checked: by length and modification time. Its
        body never changes; only its owner may overwrite it by hand, or the disk lose it.
        """
        status = os.fstat(self.fd)
        if status.st_size != self._total or status.st_mtime_ns == self.modified_ns:
            return status.st_size == self._total
        try:
            return find_body_time(self.fd, wait=False) == self.modified_ns
        except BlockingIOError:  # its record is being replaced
            return True


@final
class DiskObject:
    """See `StoredObject`: a complete object with its body in a file. `pieces` has none of it."""

    __slots__ = ("file", "head", "is_soft_purged", "key", "record", "size")

    has_failed = False
    is_complete = True

    def __init__(self, key: bytes, record: ObjectRecord, file: DiskFile, *, is_soft_purged: bool) -> None:
        self.key, self.record, self.is_soft_purged = key, record, is_soft_purged
        self.head = record.head
        self.file: DiskFile | None = file
        self.size: int | None = file.length

    def __repr__(self) -> str:
        return f"<DiskObject {self.key.hex()} {self.file!r}>"

    @property
    def length(self) -> int:
        return self.size or 0

    @property
    def stored_date(self) -> float:
        return self.record.stored_date

    def pieces(self, offset: int = 0) -> list[memoryview]:
        return []

    def copy(self) -> "DiskObject | None":
        """Return the object once more, to be released on its own. None: it was released."""
        file = self.file
        return None if file is None else DiskObject(self.key, self.record, file, is_soft_purged=self.is_soft_purged)

    def release(self) -> None:
        self.file = None
