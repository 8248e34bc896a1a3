"""Origin behind every contestant: nginx that responds to each request with the same kilobyte of JSON."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import render

BODY = json.dumps({"items": [{"id": n, "name": f"item {n}", "price": n * 3 + 0.99} for n in range(22)]})


@contextmanager
def serving(folder: Path, core: int) -> Iterator[int]:
    """Run the origin on `core` and yield its port."""
    port = free_port()
    config = render(Path(__file__).with_name("nginx.conf"), folder / "origin.conf", folder=folder, port=port, body=BODY)
    with pinned(["nginx", "-c", config], [core], folder / "origin.out") as origin:
        wait_until_open(port, origin)
        yield port
