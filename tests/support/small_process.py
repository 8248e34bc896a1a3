"""A function of a module in a new, small process, for tests that fork many times.

To fork copies the page tables: 30 to 60 ms of processor time for a process that has collected all tests, 1 ms for one
that has imported little. The function raises where it finds something wrong.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = (
    "import importlib, sys; getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*sys.argv[3:]); print('done')"
)
DEADLINE: Final = 300.0


def run_in_small_process(function: Callable[..., Any], *words: str) -> None:
    """Call a function that stands at the top of its module, with these words, and wait until it has returned."""
    command = [sys.executable, "-c", PROGRAM, function.__module__, function.__name__, *words]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams) as process:
        try:
            stdout, stderr = process.communicate(timeout=DEADLINE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # those that it has forked and left, too
    assert (process.returncode, stdout) == (0, "done\n"), stdout + stderr
