"""Journal of the purges of a disk tier: what was purged stays purged after a restart.

A purge holds in the shared memory at once, and is then appended to the journal, with its number; the client that has
asked for it is answered after that. At the start all purges are read into the new memory, and numbers go on above those
of all runs before. Rule: a journal that is missing, or damaged anywhere but in its last, unfinished entry, may have
lost a purge. A new one is begun then, whose id is the name of a new directory for objects: those of before are gone.

The journal is rewritten, without what later purges repeat, at each start and whenever it has grown much. If it is too
long even then, the older half is replaced by its last number: objects from before that are not valid.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from struct import Struct
from typing import Final, Literal, NamedTuple

import msgspec

RUN_AT: Final = 32
"""Numbers of a run begin at the number of the run, times 2 to the power of this."""
MOST_BYTES: Final = 8 * 1024 * 1024
"""Length from which on a journal is rewritten. A rewritten one has at most half of it."""
JOURNAL: Final = "purges"
"""Name of its file."""
_MAGIC: Final = b"fastgwP\x01"
_ID: Final = 8
_ENTRY: Final = Struct("<I8s")
_MOST_ENTRY: Final = 1 << 20
_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Purge(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An entry. `kind`: of a key, a tag, a prefix of URLs, of all; `floor`: objects from before `number` are not valid;
    `run`: a run began at `number`.
    """

    kind: Literal["key", "tag", "prefix", "all", "floor", "run"]
    number: int
    soft: bool = False
    value: bytes = b""


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(Purge).decode


class DamagedJournal(Exception):
    """The journal may have lost purges."""


class Run(NamedTuple):
    """A run that begins. `id`: of the journal, as the name of a directory; `purges`: of all runs before."""

    id: str
    number: int
    """The first number of the run."""
    purges: list[Purge]
    evicted: int = 0
    """Files that were removed from a full disk, so that it could begin."""


def begin_run(path: str) -> Run:
    """Read the journal of a directory, and begin a run, also while other processes append to it. Raises `OSError`."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            with _locked(folder) as fd:
                id_, purges = _read(fd)
                number = 1 + max(each.number >> RUN_AT for each in purges) << RUN_AT
                purges = compacted(purges)
                _rewrite(folder, id_, [*purges, Purge("run", number)])
        except (FileNotFoundError, DamagedJournal):
            id_, number, purges = os.urandom(_ID), 1 << RUN_AT, []
            _rewrite(folder, id_, [Purge("run", number)])
        return Run(id_.hex(), number, purges)
    finally:
        os.close(folder)


def append_purges(path: str, id_: str, purges: Sequence[Purge]) -> None:
    """Append to the journal, so that it survives a crash. Raises `OSError` and `DamagedJournal`."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _locked(folder) as fd:
            if os.pread(fd, len(_MAGIC) + _ID, 0) != _MAGIC + bytes.fromhex(id_):
                raise DamagedJournal("it was replaced")
            _append(fd, purges)
            if os.fstat(fd).st_size > MOST_BYTES:
                _, known = _read(fd)
                _rewrite(folder, bytes.fromhex(id_), compacted(known))
    finally:
        os.close(folder)


def remove_journal(path: str) -> None:
    """Remove the journal: at the next start all objects are gone. Raises `OSError`."""
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(path, JOURNAL))


def end_journal(path: str, id_: str, folder: int = -1) -> None:
    """Make a journal invalid for good: at the next start all objects are gone. Raises `OSError` if it may be valid yet.

    `folder`: the directory as it was opened earlier; -1: it is not open. It is the right one when the path leads
    elsewhere meanwhile, and can be written when another mount covers it. A journal of another id is left alone.
    """
    head, failure, there = _MAGIC + bytes.fromhex(id_), None, -1
    try:
        there = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if folder < 0 or not isinstance(error, FileNotFoundError | NotADirectoryError):
            failure = error
    try:
        for each in (there, folder):
            if each >= 0:
                try:
                    _end(each, head)
                except OSError as error:
                    failure = error
    finally:
        if there >= 0:
            os.close(there)
    if failure is not None:
        raise failure


def _end(folder: int, head: bytes) -> None:
    try:
        fd = os.open(JOURNAL, os.O_RDONLY | _FLAGS, dir_fd=folder)
    except FileNotFoundError:
        fd = -1
    if fd >= 0:
        try:
            if os.pread(fd, len(head), 0) != head:
                return
        finally:
            os.close(fd)
        try:
            os.unlink(JOURNAL, dir_fd=folder)
        except OSError:  # a directory may be read-only where its files are not
            fd = os.open(JOURNAL, os.O_WRONLY | os.O_TRUNC | _FLAGS, dir_fd=folder)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    os.fsync(folder)  # also if it was removed before: that may not be on the disk yet


def compacted(purges: Iterable[Purge]) -> list[Purge]:
    """Return the entries in the order of their numbers, the last one of equal ones."""
    last: dict[tuple[str, bool, bytes], Purge] = {}
    for each in sorted(purges, key=lambda each: each.number):
        name = each.kind, each.soft, each.value
        last.pop(name, None)
        last[name] = each
    kept = list(last.values())
    if sum(len(each.value) + 32 for each in kept) > MOST_BYTES // 2:
        dropped = len(kept) // 2
        runs = [each for each in kept[:dropped] if each.kind == "run"]
        kept = [*runs, Purge("floor", kept[dropped - 1].number), *kept[dropped:]]
    return kept


@contextmanager
def _locked(folder: int) -> Iterator[int]:
    """Open the journal with its lock. Raises `FileNotFoundError` and other `OSError`."""
    while True:
        fd = os.open(JOURNAL, os.O_RDWR | os.O_APPEND | _FLAGS, dir_fd=folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_ino == os.stat(JOURNAL, dir_fd=folder, follow_symlinks=False).st_ino:
                yield fd
                return
        finally:
            os.close(fd)


def _append(fd: int, purges: Iterable[Purge]) -> None:
    view, before = memoryview(b"".join(map(_entry, purges))), os.fstat(fd).st_size
    try:
        while view:
            view = view[os.write(fd, view) :]
        os.fdatasync(fd)
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, before)
        raise


def _rewrite(folder: int, id_: bytes, purges: Iterable[Purge]) -> None:
    name = f"{JOURNAL}.new"
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=folder)
    try:
        view = memoryview(_MAGIC + id_ + b"".join(map(_entry, purges)))
        while view:
            view = view[os.write(fd, view) :]
        os.fdatasync(fd)
    finally:
        os.close(fd)
    os.rename(name, JOURNAL, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _entry(purge: Purge) -> bytes:
    payload = _ENCODE(purge)
    return _ENTRY.pack(len(payload), _digest(payload)) + payload


def _read(fd: int) -> tuple[bytes, list[Purge]]:
    """Return the id, and the entries but for an unfinished last one. Raises `DamagedJournal`."""
    size = os.fstat(fd).st_size
    if size > 4 * MOST_BYTES:
        raise DamagedJournal("it is too long")
    raw = b""
    while len(raw) < size and (part := os.pread(fd, size - len(raw), len(raw))):
        raw += part
    at = len(_MAGIC) + _ID
    if len(raw) < at or not raw.startswith(_MAGIC):
        raise DamagedJournal("it has another format")
    id_, purges = raw[len(_MAGIC) : at], []
    while at + _ENTRY.size <= len(raw):
        length, digest = _ENTRY.unpack_from(raw, at)
        payload = raw[at + _ENTRY.size : at + _ENTRY.size + length]
        if length > _MOST_ENTRY:
            raise DamagedJournal("an entry is damaged")
        if len(payload) < length:
            break
        try:
            if digest != _digest(payload):
                raise DamagedJournal("an entry is damaged")
            purges.append(_DECODE(payload))
        except msgspec.DecodeError as error:
            raise DamagedJournal("an entry is of another version") from error
        at += _ENTRY.size + length
    if not any(each.kind == "run" for each in purges):
        raise DamagedJournal("no run is in it")
    return id_, purges


def _digest(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=8, person=b"fastgw-purge").digest()
