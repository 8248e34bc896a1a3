"""A loop of a process goes on, whatever one round of it raises."""

import asyncio
from types import SimpleNamespace

import pytest

from fastgw.runtime.process import lasting_tasks
from fastgw.runtime.process.lasting_tasks import keep_running
from tests.support.on_loop import on_loop


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for, which take no time here."""
    asked: list[float] = []

    async def pause(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(lasting_tasks, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": pause}))
    return asked


def failing(times: int, error: Exception) -> tuple[list[int], object]:
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)
        if len(rounds) <= times:
            raise error

    return rounds, work


@pytest.mark.parametrize("error", [MemoryError(), FileNotFoundError(2, "No such file or directory"), ValueError("x")])
def test_work_that_fails_is_told_once_and_begins_again_later_each_time(error, pauses, capfd):
    rounds, work = failing(3, error)
    asyncio.run(keep_running("the watch", work))
    assert len(rounds) == 4
    assert pauses == [1.0, 2.0, 4.0]
    told = capfd.readouterr().err
    assert told.count("defect: the watch: ") == 1
    assert type(error).__name__ in told


def test_work_of_others_is_not_repeated_soon(pauses, capfd):
    rounds, work = failing(1, ValueError())
    asyncio.run(keep_running("an order", work, 600.0))
    assert (len(rounds), pauses) == (2, [600.0])


def test_pauses_are_short_but_pauses_once_the_work_is_to_end(pauses):
    rounds, work = failing(3, MemoryError())
    stopping = asyncio.Event()
    stopping.set()
    asyncio.run(keep_running("an export", work, stopping=stopping))
    assert (len(rounds), pauses) == (4, [lasting_tasks.STOPPING_S] * 3)


@on_loop
async def test_work_that_is_cancelled_ends():
    task = asyncio.create_task(keep_running("the watch", asyncio.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
