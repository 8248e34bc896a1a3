"""Long work in slices: in order, to the end, and with turns for others in between."""

import asyncio
import time
from collections.abc import Generator
from typing import Any

from fastgw.runtime.worker.sliced_work import SLICE_S, Slices
from tests.support.on_loop import on_loop, until


class Ends:
    """What became of each work."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def work(self, name: str, steps: int, step_s: float = 0.0) -> Generator[None, None, str]:
        for step in range(steps):
            self.log.append(f"{name}{step}")
            until_s = time.perf_counter() + step_s
            while time.perf_counter() < until_s:
                pass
            yield
        return name

    def breaking(self) -> Generator[None, None, Any]:
        yield
        raise ValueError("broken")

    def done(self, name: Any) -> None:
        self.log.append(f"{name} done")

    def failed(self, error: Exception) -> None:
        self.log.append(f"{error}")


def slices() -> Slices:
    return Slices(asyncio.get_running_loop())


@on_loop
async def test_work_is_done_to_the_end_one_after_another():
    ends, running = Ends(), slices()
    for name in "ab":
        running.run(ends.work(name, 2), ends.done, ends.failed)
    await until(lambda: "b done" in ends.log)
    assert ends.log == ["a0", "a1", "a done", "b0", "b1", "b done"]


@on_loop
async def test_others_have_their_turn_after_each_slice():
    ends, running, turns = Ends(), slices(), 0
    running.run(ends.work("a", 10, step_s=2 * SLICE_S), ends.done, ends.failed)
    while "a done" not in ends.log:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 10


@on_loop
async def test_work_that_fails_is_told_and_the_next_goes_on():
    ends, running = Ends(), slices()
    running.run(ends.breaking(), ends.done, ends.failed)
    running.run(ends.work("a", 1), ends.done, ends.failed)
    await until(lambda: "a done" in ends.log)
    assert ends.log == ["broken", "a0", "a done"]


@on_loop
async def test_who_is_told_and_fails_holds_up_nobody():
    ends, running = Ends(), slices()
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, report: told.append(str(report["exception"])))

    def unable(_: object) -> None:
        raise ValueError("unable")

    running.run(ends.work("a", 1), unable, ends.failed)
    running.run(ends.work("b", 1), ends.done, ends.failed)
    await until(lambda: "b done" in ends.log)
    assert told == ["unable"]


@on_loop
async def test_a_stop_drops_everything():
    ends, running = Ends(), slices()
    running.run(ends.work("a", 1_000_000), ends.done, ends.failed)
    running.stop()
    await asyncio.sleep(0)
    assert ends.log == []
