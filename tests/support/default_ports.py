"""Lock for the default ports of `admin` and `status`, because tests run in parallel."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def default_ports(*, alone: bool = False) -> Iterator[None]:
    """Allow a gateway to use the default ports, or the next free ones. `alone`: exclusively."""
    with open(Path(tempfile.gettempdir(), "fastgw-default-ports.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
