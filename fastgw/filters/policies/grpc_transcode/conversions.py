"""Conversions of the messages of one exchange, in their order: few bytes at once, more of them in a thread.

The library converts 4 to 7 bytes in a microsecond: the loop must not wait for a message of 1 MiB, which takes 150 ms
and more. In the thread it takes as long, but the loop waits for 5 ms at most (`sys.getswitchinterval`).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, final

from fastgw.upstream.upstream import Upstream

AT_ONCE: Final = 4096
"""Bytes of messages that are converted on the loop in one turn of it: 1 ms for the costliest."""
_thread: Final = ThreadPoolExecutor(1, "transcode")


class _Conversion(NamedTuple):
    convert: Callable[[], Any]
    done: Callable[[Any], None]


@final
class Conversions:
    """Queue of conversions. `hold`: called with True when messages begin to wait for the thread, and with False when
    none do any more: their source is paused meanwhile.
    """

    __slots__ = ("_hold", "_over", "_spent", "_upstream", "_waiting", "_working")

    def __init__(self, hold: Callable[[bool], None], upstream: Upstream) -> None:
        self._hold = hold
        self._upstream = upstream  # whose loop is there once it has started
        self._waiting: list[_Conversion] = []
        self._working = False  # the thread has some of them
        self._spent = 0  # bytes in this turn of the loop
        self._over = False

    def add(self, size: int, convert: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Call `convert` when those before are done, and `done` with its result, or with the exception that it raised.

        `size`: bytes that are converted.
        """
        if self._over:
            return
        if not self._working and self._spent + size <= AT_ONCE:
            if size and not self._spent:
                self._upstream.worker_loop.loop.call_soon(self._turn)
            self._spent += size
            done(_result(convert))
            return
        self._waiting.append(_Conversion(convert, done))
        if not self._working:
            self._working = True
            self._hold(True)
            self._upstream.worker_loop.loop.call_soon(self._start)  # with what else comes in this turn

    def cancel(self) -> None:
        """Forget those that are not done yet."""
        self._over = True
        self._waiting = []
        self._hold = _forget

    def _turn(self) -> None:
        self._spent = 0

    def _start(self) -> None:
        batch, self._waiting = self._waiting, []
        if batch:
            work = self._upstream.worker_loop.loop.run_in_executor(_thread, _results, batch)
            work.add_done_callback(partial(self._converted, batch))

    def _converted(self, batch: list[_Conversion], work: "asyncio.Future[list[Any]]") -> None:
        if work.cancelled():
            return
        for (_, done), result in zip(batch, work.result(), strict=True):
            if self._over:
                return
            done(result)
        if self._waiting:
            self._start()
        elif not self._over:
            self._working = False
            self._hold(False)


def _forget(is_held: bool) -> None: ...


def _results(batch: list[_Conversion]) -> list[Any]:
    return [_result(each.convert) for each in batch]


def _result(convert: Callable[[], Any]) -> Any:
    try:
        return convert()
    except Exception as error:  # told to who has asked for it
        return error
