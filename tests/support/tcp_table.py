"""The kernel's table of TCP sockets (proc(5)). It changes between two parts of a read, so that a row can be missing or
come twice.
"""

from pathlib import Path
from typing import Final

READS: Final = 3
"""Reads of one look: what is missing in one is in the others."""


def tcp_rows(table: str = "tcp") -> list[list[str]]:
    """Return the columns of each socket as it was seen last, once. `table`: `tcp` or `tcp6`."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for _ in range(READS):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            row = line.split()
            rows[row[1], row[2], row[9]] = row
    return list(rows.values())
