"""What valgrind runs: every room so many times, and then twice as many, and both again, each run between two marks.

A mark is a call of `getpgid`, which nothing else here makes: valgrind is told to write down its count whenever it
comes by one. Prints the state of the compiled twins, and then each room as its two runs are over, as lines of JSON.
"""

import gc
import json
import os
import sys
from collections.abc import Sequence

from bench.micro.__main__ import all_rooms
from bench.micro.timing import rest
from fastgw import compiled

CALLS = 100
"""In a room's first run; twice as many in its second. The difference is what as many calls cost, and no start-up."""
ROUNDS = 5
"""A timer that strikes in one run is not counted: the least of a run's counts is taken. Of 2 rounds, the counts of
`exchange` differed by 5 % from one time to the next, of 5 by 0.1 % where no timer is due in each."""


def main(names: Sequence[str]) -> None:
    sys.setswitchinterval(1000)  # another thread runs only while this one rests: else their order decides what it costs
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
    print(json.dumps({"twins": compiled.in_use}))


def _mark() -> None:
    os.getpgid(0)


if __name__ == "__main__":
    main(sys.argv[1:])
