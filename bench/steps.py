"""Times each step of a worker's part of a reload: the longest step is how long the event loop is blocked.

`python -m bench.steps` builds and frees tables in this process as a worker does, and prints the CPU time of all steps
and of the longest, which other processes on the machine do not affect.
"""

import gc
import os
import time
from collections.abc import Generator
from typing import Any

from bench.peers.peer import routes
from fastgw.config import load_text
from fastgw.filters import TYPES
from fastgw.gateway.compiler import building, compile
from fastgw.gateway.tables import Gateway, dismantling
from fastgw.runtime.node.config_snapshot import ConfigSnapshot, PreviousGeneration, accept, seal, unsealing

COUNTS = (10, 1_000, 10_000)
SOME = 10
"""One of this many routes changes, if not all do."""
REPETITIONS = 5


class Timed:
    """CPU milliseconds of each step."""

    def __init__(self) -> None:
        self.all_ms = 0.0
        self.longest_ms = 0.0

    def through(self, steps: Generator[None, None, Any]) -> Any:
        while True:
            begun = time.thread_time()
            try:
                next(steps)
            except StopIteration as end:
                return end.value
            finally:
                spent = (time.thread_time() - begun) * 1e3
                self.all_ms += spent
                self.longest_ms = max(self.longest_ms, spent)


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print("| | steps, ms in all | longest step, ms |\n| --- | ---: | ---: |")
    for count in COUNTS:
        for change_all in (False, True):
            timed = least(count, change_all)
            name = f"{count:,} routes, {'all' if change_all else 'one in ten'} changed"
            print(f"| {name} | {timed.all_ms:.1f} | {timed.longest_ms:.2f} |", flush=True)


def least(count: int, change_all: bool) -> Timed:
    """Return the repetition with the shortest longest step: interrupts only make a step longer."""
    first = accepted(count, 1, None, change_all)
    then = accepted(count, 2, first, change_all)
    return min((turn(first, then) for _ in range(REPETITIONS)), key=lambda timed: timed.longest_ms)


def turn(first: ConfigSnapshot, then: ConfigSnapshot) -> Timed:
    """Change from one generation to the next: read, build and free."""
    timed, before = Timed(), compile(first.config(), 1)
    descriptor = seal(then)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        now = timed.through(reloading(descriptor, before))
        timed.through(before.retiring(now))
        timed.through(dismantling(before, now))
    finally:
        gc.enable()
        gc.unfreeze()
        os.close(descriptor)
    return timed


def reloading(descriptor: int, before: Gateway) -> Generator[None, None, Gateway]:
    """Iterate over the steps as `fastgw.runtime.worker.table_swap` does, without the start of upstreams."""
    read = yield from unsealing(descriptor, sources=False)
    now = yield from building(read.plan, read.workers, before)
    yield from read.emptying()
    return now


def accepted(count: int, generation: int, base: ConfigSnapshot | None, change_all: bool) -> ConfigSnapshot:
    lines = ["version: 1", "listeners: {public: {address: 127.0.0.1:0}}"]
    lines += ["upstreams: {origin: {targets: [{url: 'http://127.0.0.1:9'}]}}", "routes:"]
    for number, route in enumerate(routes(count)):
        version = generation if change_all or not number % SOME else 0
        lines.append(f"  - {{name: {route}, paths: ['/{route}/*', '/{route}-version{version}/*'], upstream: origin}}")
    loaded = load_text("\n".join(lines).encode(), "/nowhere/gateway.yaml", TYPES)
    slot_table = compile(loaded.config, 1).slot_table
    before = None if base is None else PreviousGeneration(base, base.config())
    return accept(loaded, generation=generation, date=1.0, source="api", slot_table=slot_table, workers=1, base=before)


if __name__ == "__main__":
    main()
