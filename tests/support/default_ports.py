"""The default ports of `admin` and `status` are there once, and tests run beside each other."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def default_ports(*, alone: bool = False) -> Iterator[None]:
    """A gateway may take them, or one that comes next to them. `alone`: nobody else begins one meanwhile."""
    with open(Path(tempfile.gettempdir(), "fastgw-default-ports.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
