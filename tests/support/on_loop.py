"""Tests that run on uvloop and hold to account what they leave behind."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import uvloop

LIMIT_S = 20.0


def sockets() -> set[tuple[str, str]]:
    """The sockets this process holds: descriptor and inode, as a number alone may have been used again."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            leads_to = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the listing's own
        if leads_to.startswith("socket:"):
            found.add((number, leads_to))
    return found


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on uvloop, for `LIMIT_S` at most. It must end with the sockets it began with."""

    async def limited(*args: Any, **named: Any) -> None:
        async with asyncio.timeout(LIMIT_S):
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
    """Let the loop run what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)
