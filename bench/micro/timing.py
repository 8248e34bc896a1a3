"""How a room is timed: CPU time of one thread, best and median of several passes over inputs that all differ."""

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

CALLS = 5_000  # in one pass: some 10 ms, short enough that most passes are not interrupted
TURN = 500  # calls in a row; what they leave to a later turn of the event loop is done then
REST_S = 0.1  # a thread that has anything to do is seen to use the processor in this time


def at_once(calls: Callable[[], None]) -> None:
    calls()


@dataclass(frozen=True)
class Room:
    """One call on the request path, and what it is called with, in turn."""

    name: str
    """Unique in its module. One that begins with blanks is a part of the room before it."""
    call: Callable[[Any], object]
    inputs: Sequence[Any]
    turn: Callable[[Callable[[], None]], None] = at_once
    """Makes `TURN` calls: where a room needs a running event loop, in a turn of that."""

    def calls(self, count: int) -> Callable[[], None]:
        """What makes so many calls; `inputs` begin anew when they are used up."""
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
    """Nanoseconds of CPU per call; about 20 of them are the loop and the empty call."""

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
    """Wait until the threads of the access logs have done their part."""
    used, before = time.process_time(), -1.0
    while threading.active_count() > 1 and used - before > REST_S / 5:
        time.sleep(REST_S)
        used, before = time.process_time(), used


@contextmanager
def _collected() -> Iterator[None]:
    """As in a worker: what was made before is frozen, so collections look at what the calls leave behind only."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
