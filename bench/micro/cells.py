"""Rate limit table: cost of a decision."""

import mmap
import os
from collections.abc import Callable, Iterator

from bench.micro.timing import Room
from fastgw.shm.rate_limit_table import Cells, size

CELLS = 65_536
KEYS = 2_000
NOW = 10**15
NEVER_FULL = 4 * 10**6  # so that every decision admits


def rooms() -> Iterator[Room]:
    keys = [b"rate:%015d" % number for number in range(KEYS)]
    fd = os.memfd_create("cells")
    os.ftruncate(fd, size(CELLS))
    cells = Cells(memoryview(mmap.mmap(fd, size(CELLS))), fd, 0)
    limits = {
        "token bucket": cells.token_bucket(NEVER_FULL, 1.0, NEVER_FULL),
        "fixed window": cells.fixed_window(NEVER_FULL, 60.0),
        "sliding window": cells.sliding_window(NEVER_FULL, 60.0),
    }
    for algorithm, limit in limits.items():

        def decide(key: bytes, spend: Callable[[bytes, int, int], float] = limit.spend) -> float:
            return spend(key, 1, NOW)

        yield Room(algorithm, decide, keys)
    os.close(fd)
