"""Rate limit tables for tests, in a memory file of their own.

Programs that fork thousands of times import this: what it imports, each of their processes has to copy.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import Final

from fastgw.shm import rate_limit_table
from fastgw.shm.rate_limit_table import Cells, Limit

ALGORITHMS: Final = ("token_bucket", "fixed_window", "sliding_window")
SECOND: Final = 1_000_000_000


@contextlib.contextmanager
def made(count: int = 1024) -> Iterator[Cells]:
    """Create a table. The mapping ends with the process or its last user."""
    fd = os.memfd_create("cells")
    try:
        yield at(fd, count)
    finally:
        os.close(fd)


def at(fd: int, count: int) -> Cells:
    """Return the table in a memory file, created if empty."""
    size = rate_limit_table.size(count)
    os.ftruncate(fd, size)
    return Cells(memoryview(mmap.mmap(fd, size)), fd, 0)


def limit_of(table: Cells, algorithm: str, limit: int, window: float) -> Limit:
    if algorithm == "token_bucket":
        return table.token_bucket(limit, window, limit)
    return table.fixed_window(limit, window) if algorithm == "fixed_window" else table.sliding_window(limit, window)
