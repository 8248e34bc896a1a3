"""Closing of the async iterators by which filters create bodies."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastgw.operator_events import OperatorEvent, log_event

CLOSING_S: Final = 10.0
"""Timeout in seconds for `aclose` of an iterator; then it is cancelled."""
_closing: Final[set["asyncio.Task[None]"]] = set()


def close_iterator(pieces: object, loop: asyncio.AbstractEventLoop) -> None:
    """Close an iterator that is no longer used, in a separate task: the message it was for does not wait for it.

    Does nothing if the iterator has no `aclose`, or is a generator that has ended.
    """
    close: Callable[[], Awaitable[Any]] | None = getattr(pieces, "aclose", None)
    if close is None or getattr(pieces, "ag_frame", pieces) is None:
        return
    task = loop.create_task(_close(close))
    _closing.add(task)  # the loop itself holds only weak references to tasks
    limit = loop.call_later(CLOSING_S, task.cancel)

    def done(task: "asyncio.Task[None]") -> None:
        _closing.discard(task)
        limit.cancel()

    task.add_done_callback(done)


async def _close(close: Callable[[], Awaitable[Any]]) -> None:
    try:
        await close()
    except asyncio.CancelledError:
        text = "an iterator of body pieces was not closed within %g s"
        log_event(OperatorEvent.FILTER_RAISED, text, CLOSING_S)
    except BaseException as error:  # boundary to a filter's code: an exception in a task would go unreported
        log_event(OperatorEvent.FILTER_RAISED, "closing an iterator of body pieces raised", error=error)
