"""Program run under valgrind: every microbenchmark with n calls, with 2n calls, and both again, each run between two
marks.

A mark is a call of `getpgid`, which nothing else here makes: valgrind dumps its count on each. Prints each
microbenchmark after its runs, as a line of JSON.
"""

import gc
import json
import os
import sys
from collections.abc import Sequence

from bench.micro.__main__ import all_rooms
from bench.micro.timing import rest

CALLS = 100
"""Calls in the first run; the second has twice as many. The difference excludes the constant part."""
ROUNDS = 5
"""Number of rounds. The minimum of a run's counts excludes timers that fire during a run. With 2 rounds, counts of
`exchange` varied by 5 %, with 5 by 0.1 % if no timer fires in all of them."""


def main(names: Sequence[str]) -> None:
    sys.setswitchinterval(1000)  # other threads run only while this one waits; otherwise scheduling affects the count
    for name, room in all_rooms(names):
        runs = [room.calls(CALLS), room.calls(2 * CALLS)]
        runs[-1]()  # warms caches
        rest()
        gc.collect()
        gc.freeze()  # as in a worker
        for run in runs * ROUNDS:
            gc.collect()
            _mark()
            run()
            rest()
            _mark()
        gc.unfreeze()
        print(json.dumps({"module": name, "room": room.name}), flush=True)


def _mark() -> None:
    os.getpgid(0)


if __name__ == "__main__":
    main(sys.argv[1:])
