"""Format of a file with one stored object.

A header, two slots for the record of the object, its body in blocks, and a digest of each block. Nothing is believed
without its digest. The header and the body never change. A new record (a 304 has validated the object) is written to
the slot that is not in use; if the writer dies in between, the other slot still has the former record.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

import msgspec

BLOCK: Final = 256 * 1024
"""Bytes of the body that have a digest of their own."""
CLOCK_S: Final = 60.0
"""Seconds by which an object may be from the future, because the clocks of nodes differ. Beyond, a clock is or was
wrong, and the object is removed.
"""
_MAGIC: Final = b"fastgwC\x01"
_DIGEST: Final = 16
_HEADER: Final = Struct("<8sIIQ16s")  # magic and version, bytes of a slot, bytes of a block, bytes of the body, key
_HEADER_BYTES: Final = 64
_SLOT: Final = Struct("<QI")  # number of the record, counted from 1, and its bytes
_SLOT_UNIT: Final = 1024
_SPARE: Final = 512
"""Bytes by which a record may grow with a 304."""
_MOST_SLOT: Final = 1 << 20
_MOST_BODY: Final = 1 << 44


class BadFile(Exception):
    """The file does not hold what it should: it was truncated or overwritten, or another version has written it."""


class ObjectRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An object without its body."""

    began: int
    """Purge sequence at the lease."""
    stored_date: float
    """Epoch seconds at which the fetch began."""
    expires_date: float
    """Epoch seconds from which on it is of no use; 0.0: it may be validated at any time."""
    lease_key: bytes
    """Key of the lease under which it was stored."""
    url: bytes
    tags: tuple[bytes, ...]
    head: bytes

    def is_outdated(self, now: float) -> bool:
        """Whether it is of no use any more, or from the future. `now`: epoch seconds."""
        return self.stored_date > now + CLOCK_S or 0 < self.expires_date <= now


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(ObjectRecord).decode


class FileLayout(NamedTuple):
    """Sizes of the parts of a file."""

    slot: int
    length: int
    """Bytes of the body."""

    @property
    def body(self) -> int:
        return _HEADER_BYTES + 2 * self.slot

    @property
    def blocks(self) -> int:
        return -(-self.length // BLOCK)

    @property
    def total(self) -> int:
        return self.body + self.length + _DIGEST * self.blocks


def layout_for(record: ObjectRecord, length: int) -> FileLayout:
    """Return the layout of a new file."""
    wanted = _SLOT.size + _DIGEST + len(_ENCODE(record)) + _SPARE
    return FileLayout(-(-wanted // _SLOT_UNIT) * _SLOT_UNIT, length)


def encode_header(key: bytes, layout: FileLayout) -> bytes:
    """Return the header: the last part of a new file that is written."""
    header = _HEADER.pack(_MAGIC, layout.slot, BLOCK, layout.length, key)
    return (header + _digest(header, b"header")).ljust(_HEADER_BYTES, b"\0")


def encode_slot(key: bytes, layout: FileLayout, number: int, record: ObjectRecord) -> bytes | None:
    """Return a record for a slot; None: it is too long."""
    payload = _ENCODE(record)
    counted = _SLOT.pack(number, len(payload))
    slot = counted + _digest(counted + payload, b"slot" + key) + payload
    return slot if len(slot) <= layout.slot else None


def slot_offset(layout: FileLayout, number: int) -> int:
    return _HEADER_BYTES + number % 2 * layout.slot


def block_digest(key: bytes, number: int, block: bytes | memoryview) -> bytes:
    return _digest(block, key + number.to_bytes(8, "little"))


class FoundRecord(NamedTuple):
    """Contents of the header and the slots of a file. `number`: of the record."""

    layout: FileLayout
    number: int
    record: ObjectRecord


def read_record(fd: int, key: bytes) -> FoundRecord:
    """Read and check everything but the body. Raises `BadFile` and `OSError`."""
    raw = os.pread(fd, _HEADER_BYTES + 16 * _SLOT_UNIT, 0)
    if len(raw) < _HEADER_BYTES:
        raise BadFile("it is too short")
    header = raw[: _HEADER.size]
    magic, slot, block, length, name = _HEADER.unpack(header)
    if raw[_HEADER.size : _HEADER.size + _DIGEST] != _digest(header, b"header"):
        raise BadFile("its header is damaged")
    if magic != _MAGIC or block != BLOCK or not _SLOT.size < slot <= _MOST_SLOT or length > _MOST_BODY:
        raise BadFile("it has another format")
    if name != key:
        raise BadFile("it holds another object")
    layout = FileLayout(slot, length)
    if os.fstat(fd).st_size != layout.total:
        raise BadFile("it has another length")
    if len(raw) < layout.body and len(raw := os.pread(fd, layout.body, 0)) < layout.body:
        raise BadFile("it is too short")
    found = [each for number in (0, 1) if (each := _read_slot(raw, key, layout, number)) is not None]
    if not found:
        raise BadFile("its record is damaged")
    number, record = max(found, key=lambda each: each[0])
    return FoundRecord(layout, number, record)


def _read_slot(raw: bytes, key: bytes, layout: FileLayout, which: int) -> tuple[int, ObjectRecord] | None:
    at = slot_offset(layout, which)
    counted = raw[at : at + _SLOT.size]
    number, length = _SLOT.unpack(counted)
    begins = at + _SLOT.size + _DIGEST
    if not number or number % 2 != which or length > layout.slot - _SLOT.size - _DIGEST:
        return None
    payload = raw[begins : begins + length]
    if raw[at + _SLOT.size : begins] != _digest(counted + payload, b"slot" + key):
        return None
    try:
        return number, _DECODE(payload)
    except msgspec.DecodeError:
        return None


def read_blocks(fd: int, key: bytes, layout: FileLayout) -> Iterator[bytes]:
    """Yield the blocks of the body, each checked. Raises `BadFile` and `OSError`."""
    table = _read_all(fd, _DIGEST * layout.blocks, layout.body + layout.length)
    for number in range(layout.blocks):
        count = min(BLOCK, layout.length - number * BLOCK)
        block = _read_all(fd, count, layout.body + number * BLOCK)
        if block_digest(key, number, block) != table[_DIGEST * number : _DIGEST * (number + 1)]:
            raise BadFile("its body is damaged")
        yield block


def cut_blocks(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Cut a body into blocks."""
    pending = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        while view:
            count = min(BLOCK - len(pending), len(view))
            pending += view[:count]
            view = view[count:]
            if len(pending) == BLOCK:
                yield bytes(pending)
                pending.clear()
    if pending:
        yield bytes(pending)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes. Raises `OSError`."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def find_body_time(fd: int, *, wait: bool = True) -> int:
    """Return the modification time of a file in nanoseconds, which is that of its body except while its record is
    replaced: who does that has the file's lock. Without `wait` it raises `BlockingIOError` then.
    """
    fcntl.flock(fd, fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))
    try:
        return os.fstat(fd).st_mtime_ns
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _read_all(fd: int, count: int, offset: int) -> bytes:
    parts = []
    while count:
        part = os.pread(fd, count, offset)
        if not part:
            raise BadFile("it is too short")
        parts.append(part)
        count, offset = count - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _digest(data: bytes | memoryview, key: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST, key=key, person=b"fastgw-cache").digest()
