"""The event loop of a child process: it ends with the process, whatever runs in it."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

import uvloop

LAST_S: Final = 1.0
"""Seconds that all other tasks have to end once the life of the process is over."""


def run_child_loop(life: Coroutine[Any, Any, None]) -> None:
    """Run the life of this process. The process has to end when this returns or raises: not all tasks may have.

    Raises what `life` raises, and `RuntimeError` when somebody has stopped the loop, after an orderly end of `life`.
    """
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    # Not asyncio.Runner: when it closes it waits for every task, also for one that does not let itself be cancelled.
    task = loop.create_task(_whole(life))
    try:
        loop.run_until_complete(task)
    except BaseException:
        if not task.done():
            task.cancel()
            loop.call_later(2 * LAST_S, loop.stop)
            with suppress(BaseException):  # what came first is told
                loop.run_until_complete(task)
        raise


async def _whole(life: Coroutine[Any, Any, None]) -> None:
    try:
        await life
    finally:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=LAST_S)
