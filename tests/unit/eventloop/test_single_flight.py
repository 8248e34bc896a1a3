"""One question for however many wait, and none for nobody."""

import asyncio

import pytest

from fastgw.eventloop import single_flight as module
from fastgw.eventloop.single_flight import SingleFlight
from tests.support.on_loop import on_loop, turns


class Asked:
    """Counts questions, and answers when the test says so."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(self) -> str:
        self.begun += 1
        try:
            return await asyncio.shield(self.answer)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@on_loop
async def test_all_who_wait_get_one_answer_and_the_next_one_asks_anew() -> None:
    single_flight: SingleFlight[str] = SingleFlight()
    asked = Asked()
    waiting = [asyncio.create_task(single_flight.join("a", asked.ask)) for _ in range(5)]
    other = asyncio.create_task(single_flight.join("b", asked.ask))
    await turns()
    assert (asked.begun, single_flight.has("a"), single_flight.has("c")) == (2, True, False)
    waiting.pop(0).cancel()
    await turns()
    asked.answer.set_result("yes")
    assert await asyncio.gather(*waiting, other) == ["yes"] * 5
    assert not single_flight.has("a")
    assert await single_flight.join("a", asked.ask) == "yes"
    assert (asked.begun, asked.cancelled) == (3, 0)


@pytest.mark.parametrize("begun", [0, 1, 5])
@on_loop
async def test_the_last_one_to_leave_ends_it_and_who_comes_then_asks_anew(begun: int) -> None:
    """Also one that leaves before it has begun."""
    single_flight: SingleFlight[str] = SingleFlight()
    asked = Asked()
    waiting = [asyncio.create_task(single_flight.join("a", asked.ask)) for _ in range(3)]
    await turns(begun)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not single_flight.has("a")
    later = asyncio.create_task(single_flight.join("a", asked.ask))
    await turns()
    asked.answer.set_result("yes")
    assert await later == "yes"
    assert asked.cancelled == asked.begun - 1


@on_loop
async def test_how_many_are_under_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    single_flight: SingleFlight[str] = SingleFlight()
    asked = Asked()
    waiting = [asyncio.create_task(single_flight.join(key, asked.ask)) for key in ("a", "b", "b", "a")]
    await turns()
    assert asked.begun == 3, "what has no place asks for itself"
    asked.answer.set_result("yes")
    assert await asyncio.gather(*waiting) == ["yes"] * 4
