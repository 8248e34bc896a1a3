"""Connection journal: records of a worker's connections that outlive the worker, in a memory file.

The supervisor creates the file before the fork, and keeps its descriptor. Only the worker writes to it; when the worker
is dead, another one reads the records that are left, and removes each once it is dealt with. Rule 1: a record is there
completely or not at all, whenever its writer is killed: its state is written last, and cleared first. Rule 2: the file
is read and written by system calls, so that no process is killed by a file that another one has truncated.

The file is a sequence of blocks. The first one has the header; a record is a chain of the others.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, final

from fastgw.kernel import memory_file

MOST_BYTES: Final = 64 * 1024**2
"""Maximum size of a journal."""
BLOCK: Final = 512
_MARK: Final = b"fastgw connections 1\n"
"""Contents of the first block: the form of the others."""
_HEAD: Final = struct.Struct("=BxHI")
"""State of a block, length of its payload, and the number of the next block of the record; 0: it is the last one."""
_PAYLOAD: Final = BLOCK - _HEAD.size
_FREE, _FIRST, _NEXT = 0, 1, 2
_READ_BLOCKS: Final = 2048
"""Blocks per read."""


@final
class ConnectionJournal:
    """The journal of one worker, for its writer or for its reader."""

    def __init__(self, fd: int) -> None:
        """`fd`: descriptor of the file, which `close` closes."""
        self._fd = fd
        self._free: list[int] = []
        self._end = 1  # number of the next block that was never used
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<ConnectionJournal {'closed' if self._is_closed else f'of {self._end - len(self._free) - 1} blocks'}>"

    def __len__(self) -> int:
        """Return the number of records."""
        return sum(states.count(_FIRST) for _, states in self._states())

    @property
    def fd(self) -> int:
        return self._fd

    @staticmethod
    def create() -> int:
        """Create the file of an empty journal, and return its descriptor. Raises `OSError`."""
        fd = memory_file("fastgw-connections")
        try:
            os.pwrite(fd, _MARK, 0)
        except OSError:
            os.close(fd)
            raise
        return fd

    def add(self, record: bytes) -> int:
        """Add a record, and return its number (1 or more). Raises `OSError` if there is no memory for it, or no room in
        the journal.
        """
        pieces = [record[at : at + _PAYLOAD] for at in range(0, len(record), _PAYLOAD)] or [b""]
        fresh = max(len(pieces) - len(self._free), 0)
        if (self._end + fresh) * BLOCK > MOST_BYTES:
            raise OSError(None, "the records of this worker's connections have reached their limit")
        used = [self._free.pop() for _ in range(len(pieces) - fresh)]
        numbers = used + list(range(self._end, self._end + fresh))
        self._end += fresh
        try:
            for number, piece, after in zip(numbers, pieces, [*numbers[1:], 0], strict=True):
                state = _FREE if number == numbers[0] else _NEXT
                os.pwrite(self._fd, _HEAD.pack(state, len(piece), after) + piece, number * BLOCK)
            self._write_state(numbers[0], _FIRST)
        except OSError:
            self._free += numbers
            raise
        return numbers[0]

    def remove(self, number: int) -> None:
        """Remove a record, which is dealt with. Does nothing once the journal is closed: then its next reader does."""
        if self._is_closed:
            return
        self._write_state(number, _FREE)
        self._free += [each for each, _ in self._chain(number)]

    def close(self) -> None:
        """Leave the records that are there to the reader."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._fd)

    def records(self) -> Iterator[tuple[int, bytes]]:
        """Return the records that are there, with their numbers. They may be removed meanwhile."""
        if os.pread(self._fd, len(_MARK), 0) != _MARK:
            return  # of a version with another form
        for begins, states in self._states():
            at = states.find(_FIRST)
            while at >= 0 and not self._is_closed:
                yield begins + at, b"".join(payload for _, payload in self._chain(begins + at))
                at = states.find(_FIRST, at + 1)

    @property
    def is_empty(self) -> bool:
        """Whether there are no records."""
        return not any(_FIRST in states for _, states in self._states())

    def discard(self) -> None:
        """Remove all records, and free their memory."""
        with suppress(OSError):
            os.ftruncate(self._fd, 0)

    def _states(self) -> Iterator[tuple[int, bytes]]:
        """Return the states of all blocks but the first, with the number of the first block of each part."""
        number = 1
        while not self._is_closed and (read := os.pread(self._fd, _READ_BLOCKS * BLOCK, number * BLOCK)):
            yield number, read[::BLOCK]
            number += _READ_BLOCKS

    def _chain(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Return the blocks of a record, with their payload."""
        left = MOST_BYTES // BLOCK
        while number and left:
            block = os.pread(self._fd, BLOCK, number * BLOCK)
            if len(block) < _HEAD.size:
                return
            _, length, after = _HEAD.unpack_from(block)
            yield number, block[_HEAD.size : _HEAD.size + length]
            number, left = after, left - 1

    def _write_state(self, number: int, state: int) -> None:
        os.pwrite(self._fd, bytes((state,)), number * BLOCK)
