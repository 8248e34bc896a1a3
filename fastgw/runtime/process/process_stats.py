"""Process statistics of the operating system, for status displays and not for decisions."""

import os
import resource
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    cpu_s: float
    resident_bytes: int
    """Bytes of resident memory, including shared memory."""
    open_fds: int


def process(pid: int) -> Process | None:
    """Return the statistics of a process. None: it does not exist, or access is not permitted."""
    folder = Path(f"/proc/{pid}")
    try:
        # The program's name, in parentheses, may contain any character.
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        pages = int((folder / "statm").read_text().split()[1])
        # Since Linux 6.2 the directory's size is their number; earlier it is 0.
        open_fds = os.stat(folder / "fd").st_size or len(os.listdir(folder / "fd"))
    except (OSError, IndexError):
        return None
    return Process((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, pages * resource.getpagesize(), open_fds)
