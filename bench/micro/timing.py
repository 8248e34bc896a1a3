"""Timing of microbenchmarks: CPU time of one thread, best and median of several passes over varying inputs."""

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

CALLS = 5_000  # in one pass: about 10 ms, short enough that most passes are not interrupted
TURN = 500  # calls in a row; then their callbacks for the next turn of the event loop run
REST_S = 0.1  # a thread with work to do uses the processor within this time


def at_once(calls: Callable[[], None]) -> None:
    calls()


@dataclass(frozen=True)
class Room:
    """A microbenchmark: one call on the request path, and its inputs, used in turn."""

    name: str
    """Name, unique in its module. A name that begins with blanks is a part of the one before it."""
    call: Callable[[Any], object]
    inputs: Sequence[Any]
    turn: Callable[[Callable[[], None]], None] = at_once
    """Function that makes `TURN` calls, inside a running event loop if they need one."""

    def calls(self, count: int) -> Callable[[], None]:
        """Return a function that makes this many calls; `inputs` repeat when they are used up."""
        inputs = [self.inputs[number % len(self.inputs)] for number in range(count)]
        turns = [partial(_call_each, self.call, inputs[first : first + TURN]) for first in range(0, count, TURN)]

        def run() -> None:
            for turn in turns:
                self.turn(turn)

        return run


def _call_each(call: Callable[[Any], object], inputs: Sequence[Any]) -> None:
    for each in inputs:
        call(each)


@dataclass(frozen=True)
class Timing:
    """Nanoseconds of CPU per call, including about 20 for the loop and the empty call."""

    name: str
    least: float
    median: float


def time_room(room: Room, passes: int) -> Timing:
    timings = []
    run = room.calls(CALLS)
    with _collected():
        for _ in range(passes + 1):
            begun = time.thread_time_ns()
            run()
            timings.append((time.thread_time_ns() - begun) / CALLS)
            rest()
    del timings[0]  # the first pass warms caches
    return Timing(room.name, min(timings), median(timings))


def rest() -> None:
    """Wait until the threads of the access logs are idle."""
    used, before = time.process_time(), -1.0
    while threading.active_count() > 1 and used - before > REST_S / 5:
        time.sleep(REST_S)
        used, before = time.process_time(), used


@contextmanager
def _collected() -> Iterator[None]:
    """Freeze existing objects, as a worker does, so that the garbage collector visits only objects of the calls."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
