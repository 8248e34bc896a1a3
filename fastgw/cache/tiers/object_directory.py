"""The files of a disk tier: how they appear, are replaced, counted and evicted. All of it waits for the disk.

The file system is the truth: a file that is there, and passes its check, is an object. A file gets its name when it is
complete, so none that is half written is ever seen (`O_TMPFILE` and `linkat`; elsewhere a temporary name). Files are
spread over 256 directories by the first byte of the key. Changes of one of these need its lock (`flock`), so
its files are counted exactly, over all processes, in a word of shared memory; a killed process leaves no lock behind.

Eviction: a writer that finds the tier full evicts among the files of some directories, in turns over all of them. A
file's `atime` is later than its `mtime` once it was found; nothing else of the gateway changes it (`O_NOATIME`). Other
programs that change it cost order, and nothing else.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple, final

from fastgw.cache.shared._cells import Cells
from fastgw.cache.tiers.eviction import ListedFile, choose_evicted
from fastgw.cache.tiers.object_file import (
    BadFile,
    FoundRecord,
    ObjectRecord,
    block_digest,
    cut_blocks,
    encode_header,
    encode_slot,
    find_body_time,
    layout_for,
    read_record,
    slot_offset,
    write_all,
)
from fastgw.cache.tiers.shard_counts import SHARDS, ShardCounts

_UNIT: Final = 4096
_SECOND: Final = 1_000_000_000
_NAME: Final = 32
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOATIME
_SAMPLE: Final = 64
"""Least number of files among which some are evicted, at most half of their bytes."""
_ROUNDS: Final = 8
_ABANDONED_S: Final = 600.0
"""Seconds after which a temporary name has no writer any more."""
_OTHER: Final = frozenset((errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO))
_NO_TMPFILE: Final = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL))


class NewFile(NamedTuple):
    """A file without its final name. `name`: its temporary one; None: it has none."""

    fd: int
    name: str | None


@final
class ObjectDirectory:
    """The directories of one tier. `cells`: of its memory, which remembers keys that were evicted lately."""

    def __init__(self, path: str, counts: ShardCounts, cells: Cells) -> None:
        """Raises `OSError`."""
        self._counts, self._cells = counts, cells
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        self._fd = os.open(path, _DIRECTORY)
        self._has_tmpfile = os.path.isdir("/proc/self/fd")

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._fd)

    @property
    def is_removed(self) -> bool:
        """Whether the directory was removed: nothing can be written to it any more."""
        return os.fstat(self._fd).st_nlink == 0

    # reading

    def open_object(self, key: bytes) -> int | None:
        """Open the file of a key. None: there is none. Raises `BadFile` and `OSError`."""
        try:
            with self._shard(key[0]) as folder:
                if folder is None:
                    return None
                fd = os.open(key.hex(), os.O_RDONLY | _FILE, dir_fd=folder)
        except OSError as error:
            if error.errno in _OTHER:
                return None
            if error.errno == errno.EPERM:  # O_NOATIME is for the owner
                raise BadFile("it is not of the gateway's user") from error
            raise
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            os.close(fd)
            raise BadFile("it is not a regular file of the gateway's user")
        return fd

    def mark_used(self, fd: int) -> None:
        """Note that an object was used."""
        with suppress(OSError):
            _set_used(fd, find_body_time(fd))

    # writing

    def create_file(self) -> NewFile:
        """Create a file that has no name yet. Raises `OSError`."""
        if self._has_tmpfile:
            try:
                return NewFile(os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._fd), None)
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
                self._has_tmpfile = False
        name = f".{os.getpid()}-{os.urandom(8).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE
        return NewFile(os.open(name, flags, 0o600, dir_fd=self._fd), name)

    def drop_file(self, new: NewFile) -> None:
        """Close a new file, and remove it unless it has got its final name."""
        os.close(new.fd)
        if new.name is not None:
            with suppress(OSError):
                os.unlink(new.name, dir_fd=self._fd)

    def write_object(self, key: bytes, record: ObjectRecord, pieces: Iterable[bytes | memoryview], length: int) -> bool:
        """Write an object, in place of an older one. False: a newer one is there. Raises `OSError`."""
        layout = layout_for(record, length)
        new = self.create_file()
        try:
            digests, at = [], layout.body
            for number, block in enumerate(cut_blocks(pieces)):
                write_all(new.fd, block, at)
                digests.append(block_digest(key, number, block))
                at += len(block)
            write_all(new.fd, b"".join(digests), at)
            return self.finish_object(new, key, record, length)
        finally:
            self.drop_file(new)

    def finish_object(self, new: NewFile, key: bytes, record: ObjectRecord, length: int) -> bool:
        """Write the header of a new file with a body and digests, and give it its name; see `write_object`."""
        layout = layout_for(record, length)
        slot = encode_slot(key, layout, 1, record)
        assert slot is not None
        write_all(new.fd, slot, slot_offset(layout, 1))
        write_all(new.fd, encode_header(key, layout), 0)
        os.ftruncate(new.fd, layout.total)
        shard = key[0]
        with self._locked(shard, make=True) as folder:
            assert folder is not None
            was_used = self._was_used(folder, key)
            if not self._remove_older(folder, key, record):
                return False
            if was_used:
                _set_used(new.fd, os.fstat(new.fd).st_mtime_ns)
            if new.name is None:
                os.link(f"/proc/self/fd/{new.fd}", key.hex(), dst_dir_fd=folder, follow_symlinks=True)
            else:
                os.link(new.name, key.hex(), src_dir_fd=self._fd, dst_dir_fd=folder)
            self._counts.add_file(shard, 1, _size(layout.total))
        return True

    def _was_used(self, folder: int, key: bytes) -> bool:
        """Whether the file in whose place a new one comes was found, or one was evicted lately."""
        with suppress(OSError):
            status = os.stat(key.hex(), dir_fd=folder, follow_symlinks=False)
            return status.st_atime_ns > status.st_mtime_ns
        return self._cells.is_remembered(_ghost_of(key))

    def _remove_older(self, folder: int, key: bytes, record: ObjectRecord) -> bool:
        """Remove the present object of a key. False: it is newer."""
        try:
            fd = self.open_object(key)
            if fd is None:
                found = None
            else:
                try:
                    found = read_record(fd, key).record
                finally:
                    os.close(fd)
        except BadFile:
            found = None
        if found is not None and (found.began, found.stored_date) > (record.began, record.stored_date):
            return False
        self._unlink(folder, key[0], key.hex())
        return True

    def replace_record(self, key: bytes, head: bytes, began: int, stored_date: float, expires_date: float) -> bool:
        """Write another head to the file of a key. False: there is no such file, or a newer one. Raises `OSError`."""
        with self._locked(key[0]) as folder:
            if folder is None:
                return False
            try:
                fd = os.open(key.hex(), os.O_RDWR | _FILE, dir_fd=folder)
            except OSError as error:
                if error.errno in _OTHER:
                    return False
                raise
            try:
                return self._replace_in(fd, folder, key, (head, began, stored_date, expires_date))
            finally:
                os.close(fd)

    def _replace_in(self, fd: int, folder: int, key: bytes, changed: tuple[bytes, int, float, float]) -> bool:
        head, began, stored_date, expires_date = changed
        try:
            found: FoundRecord = read_record(fd, key)
        except BadFile:
            self._unlink(folder, key[0], key.hex())
            return False
        old = found.record
        if (old.began, old.stored_date) > (began, stored_date):
            return False
        record = ObjectRecord(began, stored_date, expires_date, old.lease_key, old.url, old.tags, head)
        slot = encode_slot(key, found.layout, found.number + 1, record)
        if slot is None:
            self._unlink(folder, key[0], key.hex())
            return False
        fcntl.flock(fd, fcntl.LOCK_EX)  # until it is closed: see `find_body_time`
        before = os.fstat(fd)
        write_all(fd, slot, slot_offset(found.layout, found.number + 1))
        os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))  # the time of a change is that of the body
        return True

    # removing

    def remove_object(self, key: bytes, inode: int | None = None) -> bool:
        """Remove the file of a key. `inode`: only if it is this one."""
        with self._locked(key[0]) as folder:
            return folder is not None and self._unlink(folder, key[0], key.hex(), inode)

    def _unlink(self, folder: int, shard: int, name: str, inode: int | None = None) -> bool:
        """Remove a file; the lock of its directory is held."""
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if inode is not None and status.st_ino != inode:
                return False
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return False
        except IsADirectoryError:
            return False
        self._counts.add_file(shard, -1, -_size(status.st_size))
        return True

    def evict_down_to(self, most_bytes: int) -> int:
        """Evict files until the tier has at most this size. Returns their number."""
        count = 0
        for _ in range(_ROUNDS):
            excess = self._counts.size - most_bytes
            if excess <= 0:
                break
            sample: list[ListedFile] = []
            for _ in range(SHARDS):
                sample += self._files(self._counts.next_shard() % SHARDS)
                if len(sample) >= _SAMPLE:
                    break
            most = max(1, sum(each.size for each in sample) // 2)
            evicted = sum(map(self._evict, choose_evicted(sample, min(excess, most))))
            count += evicted
            if not evicted:
                break
        return count

    def _evict(self, file: ListedFile) -> bool:
        with self._locked(file.shard) as folder:
            if folder is None or not self._unlink(folder, file.shard, file.name, file.inode):
                return False
        if not file.was_used:
            self._cells.remember(_ghost_of(bytes.fromhex(file.name)))
        return True

    def _files(self, shard: int) -> list[ListedFile]:
        with self._shard(shard) as folder:
            return [] if folder is None else list(_listed(folder, shard))

    # counting

    def count_shard(self, shard: int) -> None:
        """Count what a directory has. Raises `OSError`."""
        with self._locked(shard) as folder:
            if folder is None:
                self._counts.set_shard(shard, 0, 0)
                return
            objects = size = 0
            for each in _listed(folder, shard):
                objects, size = objects + 1, size + each.size
            self._counts.set_shard(shard, objects, size)

    def remove_abandoned(self, now: float) -> None:
        """Remove files with a temporary name whose writer has died. `now`: epoch seconds."""
        for name in os.listdir(self._fd):
            if name.startswith("."):
                with suppress(OSError):
                    status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode) and abs(now - status.st_mtime) > _ABANDONED_S:
                        os.unlink(name, dir_fd=self._fd)

    # directories

    @contextmanager
    def _shard(self, shard: int, *, make: bool = False) -> Iterator[int | None]:
        """Open a directory. None: it does not exist."""
        name, folder = f"{shard:02x}", None
        try:
            folder = os.open(name, _DIRECTORY, dir_fd=self._fd)
        except FileNotFoundError:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=self._fd)
                folder = os.open(name, _DIRECTORY, dir_fd=self._fd)
        try:
            yield folder
        finally:
            if folder is not None:
                os.close(folder)

    @contextmanager
    def _locked(self, shard: int, *, make: bool = False) -> Iterator[int | None]:
        """Open a directory with its lock. None: it does not exist."""
        with self._shard(shard, make=make) as folder:
            if folder is not None:
                fcntl.flock(folder, fcntl.LOCK_EX)  # until it is closed
            yield folder


def _listed(folder: int, shard: int) -> Iterator[ListedFile]:
    """Yield the object files of a directory."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and _is_name(entry.name, shard):
                    used_ns, size = status.st_atime_ns, _size(status.st_size)
                    yield ListedFile(
                        shard, entry.name, status.st_ino, size, used_ns, was_used=used_ns > status.st_mtime_ns
                    )
            except FileNotFoundError:
                continue


def _is_name(name: str, shard: int) -> bool:
    return len(name) == _NAME and name[:2] == f"{shard:02x}" and not name.strip("0123456789abcdef")


def _ghost_of(key: bytes) -> bytes:
    """Return the key by which the memory remembers that a file was evicted, beside those that it has evicted itself."""
    return key[8:] + key[:8]


def _set_used(fd: int, modified_ns: int) -> None:
    """Let the times of a file say that it was found: also where the file system keeps whole seconds."""
    os.utime(fd, ns=(max(time.time_ns(), modified_ns + _SECOND), modified_ns))


def _size(count: int) -> int:
    """Return the bytes that a file of this length takes."""
    return -(-count // _UNIT) * _UNIT
