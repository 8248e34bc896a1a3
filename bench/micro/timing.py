"""How a room is timed: CPU time of one thread, best and median of several passes over inputs that all differ."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

CALLS = 5_000  # in one pass: some 10 ms, short enough that most passes are not interrupted


@dataclass(frozen=True)
class Room:
    """One call on the request path, and what it is called with, in turn."""

    name: str
    call: Callable[[Any], object]
    inputs: Sequence[Any]


@dataclass(frozen=True)
class Timing:
    """Nanoseconds of CPU per call; about 20 of them are the loop and the empty call."""

    name: str
    least: float
    median: float


def time_room(room: Room, passes: int) -> Timing:
    inputs = [room.inputs[number % len(room.inputs)] for number in range(CALLS)]
    call = room.call
    timings = []
    with _collected():
        for _ in range(passes + 1):
            begun = time.thread_time_ns()
            for each in inputs:
                call(each)
            timings.append((time.thread_time_ns() - begun) / CALLS)
    del timings[0]  # the first pass warms caches
    return Timing(room.name, min(timings), median(timings))


@contextmanager
def _collected() -> Iterator[None]:
    """As in a worker: what was made before is frozen, so collections look at what the calls leave behind only."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
