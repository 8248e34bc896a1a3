"""Process statistics of the operating system: for those who watch the node, not for decisions."""

import os
import resource
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    cpu_s: float
    resident_bytes: int
    """Bytes of memory, with what it shares with others."""
    open_fds: int


def process(pid: int) -> Process | None:
    """None: there is no such process, or none that may be looked at."""
    folder = Path(f"/proc/{pid}")
    try:
        # The name of the program, in parentheses, may contain anything.
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        pages = int((folder / "statm").read_text().split()[1])
        # Since Linux 6.2 the folder's size is their number; before, it is 0.
        open_fds = os.stat(folder / "fd").st_size or len(os.listdir(folder / "fd"))
    except (OSError, IndexError):
        return None
    return Process((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, pages * resource.getpagesize(), open_fds)
