"""Values of feeds on their way between processes: each in a memory file, whose descriptor is sent."""

import os
from typing import Final

from fastgw.kernel import memory_file
from fastgw.sync.feeds import MOST_BYTES

RETRY_S: Final = 0.05
"""How soon a value is sent once more that the supervisor could not take."""


def write_memfd(value: bytes) -> int:
    """A memory file that holds the value; its descriptor. Raises `OSError`."""
    descriptor = memory_file("fastgw-feed")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(value)
    return descriptor


def read_memfd(descriptor: int) -> bytes:
    """The value; the descriptor is closed."""
    try:
        return os.pread(descriptor, MOST_BYTES, 0)
    finally:
        os.close(descriptor)
