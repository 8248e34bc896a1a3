"""Rate limit tables for tests: in a memory file of their own, and with a compiled module that stops at a given step."""

from __future__ import annotations

import contextlib
import mmap
import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastgw.shm import rate_limit_table
from fastgw.shm.rate_limit_table import Cells, Limit, LockedCells, SwappedCells

WAYS: Final[dict[str, type[Cells]]] = {"locked": LockedCells} | (
    {} if rate_limit_table._twin is None else {"swapped": SwappedCells}
)
ALGORITHMS: Final = ("token_bucket", "fixed_window", "sliding_window")
SECOND: Final = 1_000_000_000
SOURCES = Path(rate_limit_table.__file__).parent
BUILD_DEADLINE: Final = 300.0

BEFORE_ACCESS = """
#include <signal.h>
long accesses_left, accesses_after;
int stop_by;
void before_access(void) {
    if (accesses_left && !--accesses_left) {
        accesses_left = accesses_after, accesses_after = 0;
        raise(stop_by);
    }
}
"""
"""Stops the process before the n-th access to the table, counted from 1, and again after more accesses."""


@contextlib.contextmanager
def made(way: type[Cells], count: int = 1024) -> Iterator[Cells]:
    """Create a table. The mapping ends with the process or its last user."""
    fd = os.memfd_create("cells")
    try:
        yield at(way, fd, count)
    finally:
        os.close(fd)


def at(way: type[Cells], fd: int, count: int) -> Cells:
    """Return the table in a memory file, created if empty."""
    size = rate_limit_table.size(count)
    os.ftruncate(fd, size)
    return way(memoryview(mmap.mmap(fd, size)), fd, 0)


def limit_of(table: Cells, algorithm: str, limit: int, window: float) -> Limit:
    if algorithm == "token_bucket":
        return table.token_bucket(limit, window, limit)
    return table.fixed_window(limit, window) if algorithm == "fixed_window" else table.sliding_window(limit, window)


def build_stopping_twin(folder: Path) -> Path:
    """Build the compiled module with a function called before each access to the table; the installed build has
    none.
    """
    (folder / "before_access.c").write_text(BEFORE_ACCESS)
    built = folder / "_rate_limit_table.so"
    flags = ["-DFASTGW_CELLS_BEFORE_ACCESS=before_access", "-O1", "-shared", "-fPIC", "-fno-strict-aliasing"]
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    headers = [f"-I{sysconfig.get_path('include')}", f"-I{SOURCES}"]
    sources = [str(folder / "_rate_limit_table.c"), str(folder / "before_access.c")]
    for command in (
        [sys.executable, "-m", "cython", "-3", str(SOURCES / "_rate_limit_table.pyx"), "-o", sources[0]],
        [*compiler, *flags, *headers, *sources, "-o", str(built)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_DEADLINE, check=False)
        assert done.returncode == 0, done.stderr
    return built
