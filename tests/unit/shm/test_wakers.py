"""Processes of a node wake each other for a reason, and those who listen for it are called."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastgw.shm.wakers import MOST_WAKERS, WakeReader, WakeReason, add_waker, close_wakers, open_wakers, wake
from tests.support.on_loop import on_loop, turns

Wakers = dict[int, int]


@pytest.fixture
def wakers() -> Iterator[Wakers]:
    opened = open_wakers(2)
    yield opened
    close_wakers(opened)


def appending(log: list[str], *names: str) -> Callable[[], list[Callable[[], None]]]:
    return lambda: [lambda name=name: log.append(name) for name in names]  # type: ignore[misc]


@on_loop
async def test_only_those_who_listen_for_the_reason_are_called(wakers: Wakers) -> None:
    log: list[str] = []
    reader = WakeReader(1, asyncio.get_running_loop(), wakers)
    reader.listen(WakeReason.CACHE, appending(log, "cache"))
    reader.listen(WakeReason.POOL, appending(log, "pools", "more pools"))
    for reasons, called in (
        ([WakeReason.CACHE] * 3, ["cache"]),
        ([WakeReason.POOL] * 2, ["pools", "more pools"]),
        ([WakeReason.POOL, WakeReason.CACHE], ["cache", "pools", "more pools"]),
    ):
        for reason in reasons:
            wake(wakers, 1, reason)
        wake(wakers, 2, WakeReason.CACHE)
        await turns()
        assert log == called
        log.clear()
    reader.close()
    wake(wakers, 1, WakeReason.CACHE)
    await turns()
    assert log == []


@on_loop
async def test_one_that_raises_keeps_no_other_from_being_called(wakers: Wakers) -> None:
    log: list[str] = []
    raised: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, report: raised.append(report["exception"]))

    def fail() -> None:
        raise ArithmeticError

    reader = WakeReader(1, loop, wakers)
    reader.listen(WakeReason.POOL, lambda: [fail, *appending(log, "pool")(), fail])
    reader.listen(WakeReason.POOL, appending(log, "other"))
    wake(wakers, 1, WakeReason.POOL)
    await turns()
    assert log == ["pool", "other"]
    assert [type(error) for error in raised] == [ArithmeticError, ArithmeticError]
    reader.close()


@on_loop
async def test_a_process_without_a_waker_is_not_woken(wakers: Wakers) -> None:
    reader = WakeReader(MOST_WAKERS, asyncio.get_running_loop(), wakers)
    wake(wakers, MOST_WAKERS, WakeReason.POOL)
    reader.close()


def test_there_is_one_waker_for_each_column(wakers: Wakers) -> None:
    assert [*wakers] == [0, 1, 2, 3, 4, 5], "control, two workers, and their successors"
    assert not add_waker(wakers, 5)
    assert add_waker(wakers, 6)
    assert not add_waker(wakers, MOST_WAKERS)
    assert len(set(wakers.values())) == 7


def test_if_one_cannot_be_opened_none_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    open_one = os.eventfd

    def run_out(initval: int, flags: int) -> int:
        if len(opened) == 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        opened.append(open_one(initval, flags))
        return opened[-1]

    monkeypatch.setattr(os, "eventfd", run_out)
    with pytest.raises(OSError, match="Too many open files"):
        open_wakers(2)
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
