"""Stops a process before each single step of a decision, and checks the decisions of others.

A separate program, because it forks and must have a single thread: `python -m tests.support.cells_stops ALGORITHM
MODULE`, where MODULE is a build that can be stopped. Prints the number of steps.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import module_from_spec
from itertools import count
from typing import Final

from fastgw.shm import rate_limit_table
from fastgw.shm.rate_limit_table import Cells, Limit
from tests.support.cells import SECOND, limit_of, made

LIMIT: Final = 5
WINDOW: Final = 1.0
KEY: Final = b"the key"
CELLS: Final = 16  # two buckets: all keys have the same slots
EARLY, NOW, LATER = 1000 * SECOND + 1, 1010 * SECOND + 1, 1020 * SECOND + 1
DEADLINE: Final = 240

Arm = Callable[[int, int, int], None]
"""(step, steps from there to a second one or 0, signal): where to stop this process."""


def stopping_module(path: str) -> Arm:
    """Replace the installed compiled module by the one that can be stopped."""
    loader = ExtensionFileLoader("fastgw.shm._rate_limit_table", path)
    spec = ModuleSpec(loader.name, loader, origin=path)
    module = module_from_spec(spec)
    loader.exec_module(module)
    rate_limit_table._rate_limit_table = module
    library = ctypes.CDLL(path)
    words = [ctypes.c_long.in_dll(library, name) for name in ("accesses_left", "accesses_after")]
    how = ctypes.c_int.in_dll(library, "stop_by")

    def arm(step: int, after: int, by: int) -> None:
        words[0].value, words[1].value, how.value = step, after, by

    return arm


def admitted(limit: Limit, now: int, tries: int = LIMIT + 1, key: bytes = KEY) -> int:
    return sum(limit.spend(key, 1, now) == 0 for _ in range(tries))


class Child:
    """A process that spends this many permits of KEY, and reports each one that it got."""

    def __init__(self, limit: Limit, tries: int, arm: Callable[[], None]) -> None:
        self._got = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self.pid = os.fork()
        if not self.pid:
            arm()
            for _ in range(tries):
                if limit.spend(KEY, 1, NOW) == 0:
                    self._got[0] += 1
            os._exit(0)

    @property
    def got(self) -> int:
        return self._got[0]

    def is_stopped(self) -> bool:
        """Wait until it is stopped or has ended; whether it is stopped."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return True
        self.killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert self.killed or os.waitstatus_to_exitcode(status) == 0
        return False

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def others(table: Cells, algorithm: str, number: int, now: int) -> None:
    """Spend from this many other keys."""
    limit = limit_of(table, algorithm, LIMIT, WINDOW)
    for each in range(number):
        limit.spend(b"other %d" % each, 1, now)


def nothing(table: Cells, algorithm: str) -> None:
    """An empty table."""


def full_of_expired(table: Cells, algorithm: str) -> None:
    """A table full of expired keys, one of which is replaced."""
    others(table, algorithm, CELLS, EARLY)


def full(table: Cells, algorithm: str) -> None:
    """A full table, so the key must share a cell."""
    others(table, algorithm, CELLS, NOW)


def live(table: Cells, algorithm: str) -> None:
    """A table with the key, used a little earlier: in another part of the same window."""
    limit_of(table, algorithm, LIMIT, WINDOW).spend(KEY, 1, NOW - SECOND // 4)


def expired(table: Cells, algorithm: str) -> None:
    """A table with the key, fully replenished."""
    limit_of(table, algorithm, LIMIT, WINDOW).spend(KEY, 1, EARLY)


BEGINNINGS: Final = (nothing, full_of_expired, full, live, expired)


def at_every_step(
    begin: Callable[[Cells, str], None], algorithm: str, trial: Callable[[Cells, Limit, int], bool]
) -> int:
    """Repeat with a new table, stopping at the next step, until the process ends without a stop. Returns the number of
    steps.
    """
    for step in count(1):
        with made(CELLS) as table:
            begin(table, algorithm)
            if not trial(table, limit_of(table, algorithm, LIMIT, WINDOW), step):
                return step - 1
    raise AssertionError


def left_of(begin: Callable[[Cells, str], None], algorithm: str) -> int:
    """Return what a single process is admitted."""
    with made(CELLS) as table:
        begin(table, algorithm)
        return admitted(limit_of(table, algorithm, LIMIT, WINDOW), NOW)


def killed(begin: Callable[[Cells, str], None], algorithm: str, arm: Arm) -> int:
    """Kill before any step: at most the permit being spent is lost, and no other process waits."""
    left = left_of(begin, algorithm)

    def trial(table: Cells, limit: Limit, step: int) -> bool:
        child = Child(limit, 2, lambda: arm(step, 0, signal.SIGKILL))
        assert not child.is_stopped()
        got = admitted(limit, NOW) + child.got
        lost = 1 if child.killed else 0
        assert left - lost <= got <= left, (step, got, left)
        others(table, algorithm, 2 * CELLS, LATER)  # its remains do not block others
        got = admitted(limit, LATER)
        assert 0 <= got <= LIMIT
        later = LATER + 10 * SECOND
        assert admitted(limit, later) == LIMIT, step
        return child.killed

    return at_every_step(begin, algorithm, trial)


def overtaken(begin: Callable[[Cells, str], None], algorithm: str, arm: Arm) -> int:
    """Stop before any step, and again before any later one, while others spend: no permit is admitted twice or lost."""
    left = left_of(begin, algorithm)

    def trial(after: int, table: Cells, limit: Limit, step: int) -> bool:
        child = Child(limit, 1, lambda: arm(step, after, signal.SIGSTOP))
        got = stops = 0
        while child.is_stopped():
            stops += 1
            got += admitted(limit, NOW, 1)
            others(table, algorithm, stops, NOW)
            child.go_on()
        got += admitted(limit, NOW) + child.got
        # A shared cell may lose permits that were spent there without an admission.
        assert (left - stops if table.overflowed else left) <= got <= left, (step, after, got, left)
        return stops > 0

    return sum(at_every_step(begin, algorithm, partial(trial, after)) for after in (1, 4, 20))


def outlived(begin: Callable[[Cells, str], None], algorithm: str, arm: Arm, crowd: int) -> int:
    """Stop before any step until the window is over and others may use the cell, then continue."""
    left = left_of(begin, algorithm)

    def trial(table: Cells, limit: Limit, step: int) -> bool:
        child = Child(limit, 1, lambda: arm(step, 0, signal.SIGSTOP))
        if not child.is_stopped():
            return False
        spent = left - admitted(limit, NOW)  # by the child, whether it has noticed or not
        others(table, algorithm, crowd, LATER)
        got = admitted(limit, LATER, 2)
        child.go_on()
        assert not child.is_stopped()
        got += child.got - spent + admitted(limit, LATER)
        assert got <= LIMIT, (step, got)
        assert table.overflowed or got == LIMIT, (step, got)
        return True

    return at_every_step(begin, algorithm, trial)


def main(algorithm: str, module: str) -> None:
    signal.alarm(DEADLINE)
    arm = stopping_module(module)
    gc.freeze()  # a collection writes to each object, and thus copies it for this process or its child
    for begin in BEGINNINGS:
        steps = [killed(begin, algorithm, arm), overtaken(begin, algorithm, arm)]
        steps += [outlived(begin, algorithm, arm, crowd) for crowd in (0, CELLS, 2 * CELLS)]
        print(begin.__name__, *steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
