"""Processes that spend from one table concurrently, to the end or until killed, and what was admitted.

A separate program, because it forks and must have a single thread: `python -m tests.support.cells_crowd TRIAL WAY
ALGORITHM`. Prints a line of figures, or fails.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Final

from fastgw.shm.rate_limit_table import Cells, Limit
from tests.support.cells import SECOND, limit_of, made

PROCESSES: Final = 4
DEADLINE: Final = 120
START: Final = 5000 * SECOND


def words(count: int) -> memoryview:
    """Return memory shared with later children."""
    return memoryview(mmap.mmap(-1, 8 * count)).cast("Q")


def forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return pid


def together(work: Callable[[int], None]) -> None:
    """Run this in four processes that start at the same time."""
    ready, go = words(PROCESSES), words(1)

    def begin(number: int) -> None:
        ready[number] = 1
        while not go[0]:
            pass
        work(number)

    pids = [forked(partial(begin, number)) for number in range(PROCESSES)]
    while not all(ready):
        os.sched_yield()
    go[0] = 1
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def given(table: Cells, algorithm: str, keys: int, limit: int) -> list[int]:
    """Return the permits admitted for each key, of `limit`, while all processes requested more."""
    got = words(PROCESSES * keys)
    names = [b"key %d" % number for number in range(keys)]
    spend = limit_of(table, algorithm, limit, 1000.0).spend

    def ask(number: int) -> None:
        order = random.Random(number).sample(range(keys), keys)
        for _ in range(limit + 10):
            for key in order:
                if spend(names[key], 1, START) == 0:
                    got[number * keys + key] += 1

    together(ask)
    return [sum(got[key::keys]) for key in range(keys)]


def contend(algorithm: str) -> None:
    """Check that exactly the limit is admitted: for one key, for keys with the same slots, and for as many keys as
    fit.
    """
    with made(1024) as table:
        assert given(table, algorithm, 1, 1000) == [1000]
    for _ in range(3):
        with made(16) as table:
            assert given(table, algorithm, 16, 20) == [20] * 16
            assert table.overflowed == 0
        with made(16) as table:
            got = given(table, algorithm, 40, 10)
            assert max(got) == 10
            assert got.count(10) >= 16
            assert table.overflowed > 0


KEYS: Final = 40
WINDOW: Final = 0.2
MOST: Final = 3
KEPT: Final = 20_000  # admissions


class SpendRecord:
    """Admissions in one process: key, time before and after. A killed process may have lost the last entry."""

    def __init__(self) -> None:
        self._words = words(1 + 3 * KEPT)

    def spend(self, limit: Limit, key: int) -> None:
        before = time.monotonic_ns()
        if limit.spend(b"key %d" % key, 1, before) == 0:
            at = self._words[0]
            if at < KEPT:
                self._words[1 + 3 * at : 4 + 3 * at] = memoryview(
                    b"".join(each.to_bytes(8, "little") for each in (key, before, time.monotonic_ns()))
                ).cast("Q")
                self._words[0] = at + 1

    def entries(self) -> list[tuple[int, int, int]]:
        flat = self._words[1 : 1 + 3 * self._words[0]].tolist()
        return list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


def most(algorithm: str, first: int, last: int) -> int:
    """Return the maximum that may be admitted between two times."""
    length = round(WINDOW * 1e9)
    if algorithm == "token_bucket":
        return MOST + (last - first) // -(-length // MOST)
    if algorithm == "fixed_window":
        return MOST * (last // length - first // length + 1)
    return MOST * ((last - first) // length + 1)


def check(algorithm: str, entries: list[tuple[int, int, int]]) -> None:
    """Check that admissions within any interval do not exceed the limit."""
    for key in range(KEYS):
        own = sorted((after, before) for each, before, after in entries if each == key)
        befores = sorted(before for _, before in own)
        afters = [after for after, _ in own]
        for first in befores[:: max(1, len(befores) // 200)]:
            begun = 0
            for after, before in own[bisect_left(afters, first) :]:
                begun += before >= first
                assert begun <= most(algorithm, first, after), (key, begun, first, after)


def kill(algorithm: str, kills: str) -> None:
    """Kill this many processes at random times while they spend, in a table where keys come, share and go."""
    with made(16) as table:
        limit = limit_of(table, algorithm, MOST, WINDOW)
        records = [SpendRecord() for _ in range(PROCESSES)]

        def live(number: int, seed: int) -> None:
            chance = random.Random(seed)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends it like SIGKILL, by its own timer
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.003))
            while True:
                records[number].spend(limit, min(chance.randrange(KEYS), chance.randrange(KEYS)))

        numbers = {forked(partial(live, number, number)): number for number in range(PROCESSES)}
        for seed in range(PROCESSES, int(kills)):
            pid, status = os.wait()
            assert os.WIFSIGNALED(status), "it ended by itself"
            assert os.WTERMSIG(status) == signal.SIGALRM
            number = numbers.pop(pid)
            numbers[forked(partial(live, number, seed))] = number
        for _ in numbers:
            os.wait()
        entries = [entry for record in records for entry in record.entries()]
        check(algorithm, entries)
        later = time.monotonic_ns() + 10 * SECOND
        overflowed = table.overflowed
        for key in range(16):
            assert sum(limit.spend(b"key %d" % key, 1, later) == 0 for _ in range(MOST + 2)) == MOST
        assert table.overflowed == overflowed, "a place is still taken"
        print(f"{len(entries)} admissions, {overflowed} decisions in shared cells")


if __name__ == "__main__":
    signal.alarm(DEADLINE)
    {"contend": contend, "kill": kill}[sys.argv[1]](*sys.argv[2:])
