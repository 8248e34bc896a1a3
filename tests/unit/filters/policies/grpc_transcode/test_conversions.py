"""Conversions of messages: their order, their threads, and what is not converted."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.filters.policies.grpc_transcode import conversions
from fastgw.filters.policies.grpc_transcode.conversions import AT_ONCE, PIECE, Conversions, TooManyConversions
from tests.support.memory import MemoryLoop

DEADLINE = 60.0


class Worker:
    """A worker's loop, and what was converted, by name."""

    def __init__(self) -> None:
        self.worker_loop = MemoryLoop()
        self.converted: list[str] = []
        self.done: list[str] = []
        self.held: list[bool] = []
        self.needed = True

    def exchange(self) -> Conversions:
        upstream: Any = SimpleNamespace(worker_loop=self.worker_loop)
        return Conversions(self.held.append, lambda: self.needed, upstream)

    def add(self, exchange: Conversions, name: str, cost: int, may_refuse: bool = False) -> None:
        def convert() -> str:
            self.converted.append(name)
            return name

        def done(result: Any) -> None:
            self.done.append(name if result == name else type(result).__name__)

        exchange.add(cost, convert, done, may_refuse)

    def play(self) -> None:
        turns = self.worker_loop.turns
        while turns.soon:
            turns.soon.pop(0)()


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_cheap_ones_are_converted_at_once(worker: Worker) -> None:
    exchange = worker.exchange()
    worker.add(exchange, "a", AT_ONCE - 10)
    worker.add(exchange, "b", 10)
    assert (worker.done, worker.worker_loop.turns.offloaded, worker.held) == (["a", "b"], 0, [])
    worker.add(exchange, "c", 1)
    assert (worker.done, worker.held) == (["a", "b"], [True])
    worker.play()
    assert (worker.done, worker.worker_loop.turns.offloaded, worker.held) == (["a", "b", "c"], 1, [True, False])


def test_exchanges_take_turns(worker: Worker) -> None:
    one, other = worker.exchange(), worker.exchange()
    for name in ("a", "b", "c"):
        worker.add(one, name, PIECE - 1000)
    worker.add(one, "d", 1000)
    worker.add(one, "end", 0)
    worker.add(other, "x", AT_ONCE + 1)
    worker.play()
    assert worker.converted == worker.done == ["a", "x", "b", "c", "d", "end"]
    assert worker.worker_loop.turns.offloaded == 4  # c, d and the end are one piece
    assert worker.held == [True, True, False, False]


def test_others_do_not_wait_for_a_costly_one() -> None:
    is_done = threading.Event()

    async def run() -> bool:
        upstream: Any = SimpleNamespace(worker_loop=MemoryLoop())
        one, other = (Conversions(lambda _: None, lambda: True, upstream) for _ in range(2))
        result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        one.add(PIECE + 1, lambda: is_done.wait(DEADLINE), result.set_result)
        other.add(PIECE, bool, lambda _: is_done.set())
        return await result

    assert asyncio.run(run())


def test_those_of_a_client_that_has_left_are_not_converted(worker: Worker) -> None:
    left, other = worker.exchange(), worker.exchange()
    worker.add(left, "a", PIECE)
    worker.add(left, "b", 10 * PIECE)
    worker.add(other, "x", PIECE)
    left.cancel()
    worker.play()
    assert worker.converted == worker.done == ["x"]
    worker.add(left, "c", 1)
    assert worker.done == ["x"]


def test_a_client_may_leave_while_its_messages_are_converted(worker: Worker) -> None:
    exchange = worker.exchange()
    exchange.add(AT_ONCE + 1, exchange.cancel, worker.done.append)
    worker.add(exchange, "b", 1)
    worker.play()
    assert (worker.converted, worker.done) == ([], [])


def test_those_that_are_not_needed_any_more_are_not_converted(worker: Worker) -> None:
    exchange = worker.exchange()
    worker.add(exchange, "a", PIECE)
    worker.add(exchange, "b", PIECE)
    worker.needed = False
    worker.play()
    assert worker.converted == []


@pytest.mark.parametrize("cost", [PIECE, 20 * PIECE])
def test_what_waits_is_bounded(worker: Worker, cost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversions, "MOST_WAITING", 2 * PIECE)
    monkeypatch.setattr(conversions, "MOST_COSTLY_WAITING", 40 * PIECE)
    exchanges = [worker.exchange() for _ in range(4)]
    for name, exchange in zip("abc", exchanges, strict=False):
        worker.add(exchange, name, cost, may_refuse=True)
    assert worker.done == ["TooManyConversions"]  # it does not wait for this
    worker.add(exchanges[3], "response", cost)
    worker.play()
    assert sorted(worker.done) == ["TooManyConversions", "a", "b", "response"]
    assert "c" not in worker.converted
    worker.add(exchanges[2], "again", cost, may_refuse=True)  # the others are done
    worker.play()
    assert worker.done[-1] == "again"


def test_a_message_of_a_stream_is_refused_in_its_place(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversions, "MOST_WAITING", PIECE)
    exchange = worker.exchange()
    worker.add(exchange, "a", PIECE, may_refuse=True)
    worker.add(exchange, "b", 1, may_refuse=True)
    worker.play()
    assert worker.done == ["a", "TooManyConversions"]


def test_a_client_that_leaves_makes_place_for_others(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversions, "MOST_WAITING", PIECE)
    left, other = worker.exchange(), worker.exchange()
    worker.add(left, "a", PIECE, may_refuse=True)
    left.cancel()
    worker.add(other, "b", PIECE, may_refuse=True)
    worker.play()
    assert worker.done == ["b"]


def test_an_exception_is_the_result(worker: Worker) -> None:
    results: list[Any] = []
    exchange = worker.exchange()
    exchange.add(1, lambda: 1 / 0, results.append)
    exchange.add(PIECE, lambda: 1 / 0, results.append)
    worker.play()
    assert [type(each) for each in results] == [ZeroDivisionError] * 2
    assert issubclass(TooManyConversions, Exception)
