"""Conversions of messages, in the order of their exchange: cheap ones at once, others in two threads of the worker.

The library takes 0.15 us for each byte of a message and up to 10 us for each value, so the loop must not wait for one
of 1 MiB, which takes 150 ms, or 4 s if it is all brackets. In a thread it takes as long, but the loop waits for 5 ms at
most (`sys.getswitchinterval`). Rule 1: exchanges take turns, each with a piece of its messages. Rule 2: costly messages
have a thread of their own, so others do not wait for them. Rule 3: a message that is not needed any more is not
converted, unless that has begun.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, final
from weakref import WeakKeyDictionary

from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.upstream import Upstream

AT_ONCE: Final = 4096
"""Cost of what is converted on the loop in one turn of it, for each exchange: about 1 ms. A byte costs 1."""
PIECE: Final = 64 * 1024
"""Cost of what is converted for an exchange in its turn, about 10 ms; a message that costs more is costly."""
MOST_WAITING: Final = 16 * 1024 * 1024
"""Cost of what waits for the thread of other messages, when it accepts no more requests: 3 s."""
MOST_COSTLY_WAITING: Final = 64 * 1024 * 1024
"""Cost of what waits for the thread of costly messages, when it accepts no more requests: 10 s."""
_threads: Final = ThreadPoolExecutor(1, "transcode"), ThreadPoolExecutor(1, "transcode-costly")


class TooManyConversions(Exception):
    """Result of the conversion of a request that was not begun, because too many wait."""


class _Conversion(NamedTuple):
    cost: int
    convert: Callable[[], Any]
    done: Callable[[Any], None]


@final
class _Lane:
    """Thread with the exchanges that wait for it, in their order."""

    __slots__ = ("_is_busy", "_most", "_thread", "_waiting", "cost")

    def __init__(self, thread: ThreadPoolExecutor, most: int) -> None:
        self._thread, self._most = thread, most
        self._waiting: deque[Conversions] = deque()
        self._is_busy = False
        self.cost = 0  # of all that waits

    @property
    def is_full(self) -> bool:
        return self.cost >= self._most

    def enqueue(self, conversions: "Conversions") -> None:
        self._waiting.append(conversions)
        if not self._is_busy:
            self._is_busy = True
            conversions.loop.call_soon(self._next)  # with what else comes in this turn

    def _next(self) -> None:
        while self._waiting:
            conversions = self._waiting.popleft()
            piece = conversions.take_piece()
            if piece:
                work = conversions.loop.run_in_executor(self._thread, partial(_results, piece, conversions))
                work.add_done_callback(partial(self._converted, conversions, piece))
                return
        self._is_busy = False

    def _converted(
        self, conversions: "Conversions", piece: list[_Conversion], work: "asyncio.Future[list[Any]]"
    ) -> None:
        if work.cancelled():
            return
        try:
            conversions.finish_piece(piece, work.result())
        finally:
            self._next()


_lanes: Final[WeakKeyDictionary[WorkerLoop, tuple[_Lane, _Lane]]] = WeakKeyDictionary()


def _lanes_of(worker_loop: WorkerLoop) -> tuple[_Lane, _Lane]:
    lanes = _lanes.get(worker_loop)
    if lanes is None:
        cheap, costly = _threads
        lanes = _lanes[worker_loop] = _Lane(cheap, MOST_WAITING), _Lane(costly, MOST_COSTLY_WAITING)
    return lanes


@final
class Conversions:
    """Queue of conversions. `hold`: called with True when messages begin to wait for a thread, and with False when
    none do any more: their source is paused meanwhile. `is_needed`: whether the results are still needed. `upstream`:
    None for `explain`, which has no loop: all are converted at once.
    """

    __slots__ = ("_hold", "_is_needed", "_spent", "_upstream", "_waiting", "_working", "is_over")

    def __init__(self, hold: Callable[[bool], None], is_needed: Callable[[], bool], upstream: Upstream | None) -> None:
        self._hold, self._is_needed = hold, is_needed
        self._upstream = upstream  # whose loop is there once it has started
        self._waiting: deque[_Conversion] = deque()
        self._working = False  # some wait for a thread, or are in it
        self._spent = 0  # cost in this turn of the loop
        self.is_over = False

    def add(self, cost: int, convert: Callable[[], Any], done: Callable[[Any], None], may_refuse: bool = False) -> None:
        """Call `convert` when those before are done, and `done` with its result, or with the exception that it raised.

        `may_refuse`: the result is `TooManyConversions` if the thread has too many waiting.
        """
        if self.is_over:
            return
        if self._upstream is None:
            done(_result(convert))
            return
        if not self._working and self._spent + cost <= AT_ONCE:
            if cost and not self._spent:
                self.loop.call_soon(self._turn)
            self._spent += cost
            done(_result(convert))
            return
        lane = self._lane_of(cost)
        if may_refuse and lane.is_full:
            if not self._working:
                done(TooManyConversions())
                return
            cost, convert = 0, TooManyConversions
            lane = self._lane_of(cost)
        self._waiting.append(_Conversion(cost, convert, done))
        lane.cost += cost
        if not self._working:
            self._working = True
            self._hold(True)
            lane.enqueue(self)

    def cancel(self) -> None:
        """Forget those that are not done yet."""
        self.is_over = True
        for each in self._waiting:
            self._lane_of(each.cost).cost -= each.cost
        self._waiting.clear()
        self._hold, self._is_needed = _forget, _never

    def _lane_of(self, cost: int) -> _Lane:
        assert self._upstream is not None
        return _lanes_of(self._upstream.worker_loop)[cost > PIECE]

    def _turn(self) -> None:
        self._spent = 0

    # calls of the lane

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        assert self._upstream is not None
        return self._upstream.worker_loop.loop

    def take_piece(self) -> list[_Conversion]:
        """Return what the thread converts in one go; nothing: it is not needed any more."""
        if not self._is_needed():
            return []
        waiting = self._waiting
        piece: list[_Conversion] = []
        cost = 0
        lane = self._lane_of(waiting[0].cost)
        while waiting and (not piece or cost + waiting[0].cost <= PIECE):
            piece.append(waiting.popleft())
            cost += piece[-1].cost
        lane.cost -= cost
        return piece

    def finish_piece(self, piece: list[_Conversion], results: list[Any]) -> None:
        """Handle the results, and get in line again with what waits."""
        for (_, _, done), result in zip(piece, results, strict=False):
            if self.is_over:
                return
            done(result)
        while self._waiting and not self._waiting[0].cost and not self.is_over:
            _, convert, done = self._waiting.popleft()
            done(_result(convert))
        if self._waiting:
            self._lane_of(self._waiting[0].cost).enqueue(self)
        elif not self.is_over:
            self._working = False
            self._hold(False)


def _forget(is_held: bool) -> None: ...


def _never() -> bool:
    return False


def _results(piece: list[_Conversion], conversions: Conversions) -> list[Any]:
    """Return the results in the thread: fewer if those that follow are not needed any more."""
    results = []
    for each in piece:
        if conversions.is_over:
            break
        results.append(_result(each.convert))
    return results


def _result(convert: Callable[[], Any]) -> Any:
    try:
        return convert()
    except Exception as error:  # told to who has asked for it
        return error
