"""Whole requests with 10, 1,000 and 10,000 routes, requested in turn. Alone: `python -m bench.micro.routes`.

Instruction counts are nearly equal; the difference is how much of a route's data has left the processor's caches since
its last request. So these are not part of `bench.check`.
"""

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.micro.exchange import configuration, room
from bench.micro.heads import ANSWERS, REQUESTS
from bench.micro.timing import Room, time_room

COUNTS = (10, 1_000, 10_000)
SERVICE = re.compile(rb"/svc\d+/")


def rooms() -> Iterator[Room]:
    for count in COUNTS:
        yield from routes_room(count)


def routes_room(count: int) -> Iterator[Room]:
    """Return a GET with a JSON access log to any of this many routes, as in the benchmark `routes`."""
    chosen = random.Random(42)
    requests = [SERVICE.sub(b"/svc%d/" % chosen.randrange(count), request, count=1) for request in REQUESTS]
    messages = list(zip(requests, ANSWERS, strict=True))
    with TemporaryDirectory() as folder:
        configured = configuration([f"{folder}/access.log"], routes=count)
        yield from room(f"a GET, JSON access log, {count:,} routes", messages, Path(folder), configured)


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for each in rooms():
        print(f"{each.name:42}{time_room(each, passes=25).least:8.0f} ns", flush=True)
