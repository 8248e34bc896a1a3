"""Compare-and-swap on words of shared memory that many processes write: a word is replaced only if it still has the
value that was read.

Compiled, it is one instruction. Without a compiler the words are locked by `fcntl.lockf`, which the kernel releases
when a process dies; only one thread per process may write then. The two must not be mixed on the same words.

PERF: a swap takes 70 ns compiled, 1,650 by fcntl (CPython 3.11, micro/quotas).
"""

import fcntl
from typing import Any, Final, Protocol

from fastgw.compiled import twin

_twin = twin("fastgw.shm._compare_and_swap")

COMPILED: Final = _twin is not None


class Swap(Protocol):
    def __call__(self, at: int, seen: int, wanted: int, /) -> bool:
        """Replace the word at this position by `wanted` if it is `seen`; return whether it was."""


def twin_of(memory: memoryview) -> Any | None:
    """Return the compiled access to the words of this memory; None: there is none."""
    return None if _twin is None else _twin.Words(memory)


def swap_in(memory: memoryview, fd: int, offset: int) -> Swap:
    """Return the swap function for the words of this memory, which is mapped from `offset` of the file `fd`; without a
    compiler its first byte is locked.
    """
    if _twin is not None:
        swap: Swap = _twin.Words(memory).swap
        return swap
    words = memory.cast("B").cast("Q")

    def locked(at: int, seen: int, wanted: int, /) -> bool:
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, offset)
        try:
            if words[at] != seen:
                return False
            words[at] = wanted
            return True
        finally:
            fcntl.lockf(fd, fcntl.LOCK_UN, 1, offset)

    return locked
