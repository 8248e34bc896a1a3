"""The event loop of a child process: it ends with the process, whatever is still running in it."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

import uvloop

LAST_S: Final = 1.0
"""Seconds that other tasks have to end after the main coroutine."""


def run_child_loop(life: Coroutine[Any, Any, None]) -> None:
    """Run the main coroutine of this process. The process has to exit afterwards, because tasks may still be running.

    Raises the exceptions of `life`, and `RuntimeError` if the loop was stopped, after an orderly end of `life`.
    """
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    # Not asyncio.Runner: it waits for every task when it closes, also for one that ignores its cancellation.
    task = loop.create_task(_whole(life))
    try:
        loop.run_until_complete(task)
    except BaseException:
        if not task.done():
            task.cancel()
            loop.call_later(2 * LAST_S, loop.stop)
            with suppress(BaseException):  # the first exception is reported
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
