"""Work that makes values of long texts, for `flatmap` and XML: in a helper process of the worker.

A thread shares the interpreter with the event loop, which waits for each call of the JSON parser and for each release
of the values: up to 195 ms for 1 MB of the shortest ones (CPython 3.11).
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar, final

from msgspec import msgpack

from fastgw.composition.helper_program import AnswerToUse, ResponseToWrite
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange.exchange_counts import ExchangeCounts
from fastgw.helper_processes.pool import HelperError
from fastgw.helper_processes.program import MOST_BYTES, Program
from fastgw.helper_processes.shared_pool import SharedPool, event_of
from fastgw.observe.metrics.families import COMPOSITIONS, FilterEvent

T = TypeVar("T")

MOST_IN_THREAD: Final = 32 * 1024
"""Bytes of a text of which a thread makes values."""
MOST_XML_IN_THREAD: Final = 512 * 1024
"""Bytes of XML that a thread writes."""
MOST_WRITTEN: Final = MOST_BYTES - 1024
"""Bytes of a response that a helper process writes."""
MOST_SENT: Final = MOST_BYTES - 1024 * 1024
"""Bytes that a response is made of in a helper process."""
_KEPT_S: Final = 60.0
"""Seconds after its last request until the process ends."""
_PROGRAM: Final = Program(
    name="compose",
    module="fastgw.composition.helper_program",
    deadline_s=60.0,  # with the time in the queue
    kill_after_s=20.0,
    queue=256,  # beyond it, the thread does it; the node's memory for held bodies bounds long answers before
    memory_bytes=1024**3,
)


@final
class ValueWork:
    """Helper process of a worker for compositions (`WorkerLoop.attached`). It starts with the first request, and ends
    `_KEPT_S` after the last one.
    """

    __slots__ = ("_end", "_loop", "_make_room", "_pool")

    def __init__(self, worker_loop: WorkerLoop) -> None:
        self._loop, self._make_room = worker_loop.loop, worker_loop.make_room
        self._pool = SharedPool(_PROGRAM)
        self._end: asyncio.TimerHandle | None = None

    async def run(
        self, request: AnswerToUse | ResponseToWrite, result: type[T], counts: ExchangeCounts
    ) -> T | str | HelperError:
        """Return the result, or why there is none, as the program says; a `HelperError` is no exception here, because
        its traceback would hold the request.
        """
        if self._end is None:
            self._pool.start(self._loop, 1, 0, None, self._make_room)
        else:
            self._end.cancel()
        self._end = self._loop.call_later(_KEPT_S, self._stop)
        try:
            made = await self._pool.run_request(msgpack.encode(request))
        except HelperError as error:
            counts.count_filter(COMPOSITIONS, event_of(error))
            return type(error)(str(error))
        counts.count_filter(COMPOSITIONS, FilterEvent.HELPER_ANSWERED)
        return msgpack.decode(made, type=result | str)

    def _stop(self) -> None:
        self._end = None
        self._pool.stop()

    def close(self) -> None:
        """End the process. Requests fail."""
        if self._end is not None:
            self._end.cancel()
        self._pool.close()
