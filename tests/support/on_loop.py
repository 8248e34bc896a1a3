"""Runs tests on uvloop, and checks for leaked sockets."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import uvloop

from tests.support.own_ports import own_block

LIMIT_S = 60.0  # seconds; a collection of all that the tests of a process hold takes more than one on a busy machine


def sockets() -> set[tuple[str, str]]:
    """Return the sockets of this process: descriptor and inode, because descriptors are reused."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            leads_to = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # of the listing itself
        if leads_to.startswith("socket:"):
            found.add((number, leads_to))
    return found


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on uvloop, for at most `LIMIT_S`. It must end with the sockets that it began with."""

    async def limited(*args: Any, **named: Any) -> None:
        async with asyncio.timeout(LIMIT_S):
            own_block()  # has a socket from its first use on
            before = sockets()
            await test(*args, **named)
            await until(lambda: sockets() <= before)

    @wraps(test)
    def run(*args: Any, **named: Any) -> None:
        uvloop.run(limited(*args, **named))

    return run


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def turns(count: int = 5) -> None:
    """Let the loop run ready callbacks."""
    for _ in range(count):
        await asyncio.sleep(0)
