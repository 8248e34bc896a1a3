"""Origins that are programs of their own: `python -m MODULE PORT`, one protocol class on one core."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from bench.ports import free_port, wait_until_open
from bench.processes import pinned


@contextmanager
def running(module: str, folder: Path, core: int) -> Iterator[int]:
    """Run the program on `core` and yield its port."""
    port = free_port()
    command = [sys.executable, "-m", module, str(port)]
    root = Path(__file__).parents[2]
    with pinned(command, [core], folder / "origin.out", environment={"PYTHONPATH": str(root)}) as origin:
        wait_until_open(port, origin)
        yield port


def serve(protocol: Callable[[], asyncio.BaseProtocol]) -> None:
    """Serve connections on the port of the command line, until the process is stopped."""

    async def run() -> None:
        port = int(sys.argv[1])
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, backlog=4096)
        await server.serve_forever()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
