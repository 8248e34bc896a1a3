"""The compiled module of the rate limit table, built so that it stops at a given step."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from fastgw.shm import rate_limit_table

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


def build_stopping_module(folder: Path) -> Path:
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
