"""Transfer of feed values between processes: each is in a memory file, whose descriptor is sent."""

import os
from typing import Final

from fastgw.kernel import memory_file
from fastgw.sync.feeds import MOST_BYTES

RETRY_S: Final = 0.05
"""Seconds until a value that the supervisor could not accept is sent again."""


def write_memfd(value: bytes) -> int:
    """Write the value to a memory file and return its descriptor. Raises `OSError`."""
    descriptor = memory_file("fastgw-feed")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(value)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_memfd(descriptor: int) -> bytes:
    """Return the value and close the descriptor."""
    try:
        return os.pread(descriptor, MOST_BYTES, 0)
    finally:
        os.close(descriptor)
