"""Lasting tasks: loops that run as long as their process, which no exception may end silently."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice, described
from fastgw.runtime.process.transient_errors import FIRST_S, LONGEST_S, RetryBackoff

Work = Callable[[], Awaitable[object]]
STOPPING_S: Final = 0.1
"""Longest pause in seconds of a process that is stopping."""


async def keep_running(
    name: str,
    work: Work,
    first_s: float = FIRST_S,
    event: OperatorEvent = OperatorEvent.DEFECT,
    stopping: asyncio.Event | None = None,
) -> None:
    """Run work until it returns. An unexpected exception is reported, and the work is begun again after a pause.

    `name`: of the work, in the log. `first_s`: shortest pause in seconds. `event`: of the report. `stopping`: makes
    pauses short, so that the work can end itself.
    """
    backoff, complain = RetryBackoff(), RareNotice()
    while True:
        began_at = time.monotonic()
        if await attempted(name, work, complain, event):
            return
        now = time.monotonic()
        if now - began_at > LONGEST_S:  # it had recovered
            backoff.forget()
        await pause(max(first_s, backoff.failed(now)), stopping)


async def pause(seconds: float, stopping: asyncio.Event | None = None) -> None:
    """Wait; once a process is stopping, only briefly, because there is little time."""
    if stopping is None:
        await asyncio.sleep(seconds)
    elif stopping.is_set():
        await asyncio.sleep(min(seconds, STOPPING_S))
    else:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stopping.wait()


async def attempted(name: str, work: Work, complain: RareNotice, event: OperatorEvent = OperatorEvent.DEFECT) -> bool:
    """Run work once. False: it has raised an exception, which is reported, at most once a minute and kind."""
    try:
        await work()
    except Exception as error:  # the edge of a task: a lack of memory or descriptors may show anywhere, and passes
        with suppress(MemoryError):  # there is none for the line either
            complain(event, f"{name}: {described(error)}; tried again", type(error).__name__)
        return False
    return True
