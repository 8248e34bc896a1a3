"""Single-flight: one call at a time for each key, whose result all waiting callers share."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar, final

T = TypeVar("T")

MOST: Final = 100_000
"""Maximum number of keys in flight; further callers make calls of their own."""


class _Flight(Generic[T]):
    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.waiting = 0


@final
class SingleFlight(Generic[T]):
    """Calls in flight. A call ends early only when its last caller leaves."""

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: dict[Hashable, _Flight[T]] = {}

    def __repr__(self) -> str:
        return f"<SingleFlight: {len(self._under_way)} in flight>"

    def __len__(self) -> int:
        return len(self._under_way)

    def has(self, key: Hashable) -> bool:
        """Whether there is a call in flight."""
        return key in self._under_way

    async def join(self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result for `key`: of the call in flight, or else of `ask`, which must not raise.

        The call is in flight until its result is there; results are cached within `ask`.
        """
        flight = self._under_way.get(key)
        if flight is None:
            if len(self._under_way) >= MOST:
                return await ask()
            flight = self._under_way[key] = _Flight(asyncio.get_running_loop().create_task(self._run_call(key, ask)))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                if self._under_way.get(key) is flight:  # later callers start a new call
                    del self._under_way[key]

    async def _run_call(self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        flight = self._under_way[key]
        try:
            return await ask()
        finally:
            if self._under_way.get(key) is flight:
                del self._under_way[key]
