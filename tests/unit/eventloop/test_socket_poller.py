"""Sockets on a poller: who watches one is told of it, of no other, and whatever another listener does."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from fastgw.eventloop.socket_poller import ENDED, READABLE, WRITABLE, SocketPoller
from tests.support.on_loop import on_loop, until


class Listener:
    def __init__(self, fails: bool = False) -> None:
        self.told: list[int] = []
        self._fails = fails

    def ready(self, events: int) -> None:
        self.told.append(events)
        if self._fails:
            raise ValueError("a defect")


def pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    return near, far


@on_loop
async def test_each_edge_is_told_once() -> None:
    poller, listener = SocketPoller(asyncio.get_running_loop()), Listener()
    near, far = pair()
    with near, far:
        poller.watch(near.fileno(), listener)
        await until(lambda: listener.told)
        assert listener.told.pop() & (READABLE | WRITABLE) == WRITABLE & ~READABLE
        far.send(b"x")
        await until(lambda: listener.told)
        assert listener.told.pop() & READABLE
        assert not listener.told
        far.shutdown(socket.SHUT_WR)
        await until(lambda: listener.told)
        assert listener.told.pop() & ENDED
        poller.forget(near.fileno())
        poller.close()


@on_loop
async def test_who_has_forgotten_a_socket_is_told_no_more_nor_is_who_has_its_number() -> None:
    poller, gone, there = SocketPoller(asyncio.get_running_loop()), Listener(), Listener()
    near, far = pair()
    other_near, other_far = pair()
    number = near.fileno()
    poller.watch(number, gone)
    far.send(b"x")
    poller.forget(number)
    near.close()
    with far, other_near, other_far:
        os.dup2(other_near.fileno(), number)
        poller.watch(number, there)
        await until(lambda: there.told)
        assert there.told == [WRITABLE & ~READABLE]
        assert not gone.told
        poller.forget(number)
        os.close(number)
        poller.close()


@on_loop
async def test_a_listener_that_raises_keeps_nothing_from_the_others() -> None:
    loop = asyncio.get_running_loop()
    raised: list[Any] = []
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    poller = SocketPoller(loop)
    pairs = [pair() for _ in range(4)]
    listeners = [Listener(fails=place % 2 == 0) for place in range(4)]
    for (near, _), listener in zip(pairs, listeners, strict=True):
        poller.watch(near.fileno(), listener)
    await until(lambda: all(listener.told for listener in listeners))
    assert [str(error) for error in raised] == ["a defect"] * 2
    assert all(len(listener.told) == 1 for listener in listeners)
    poller.close()
    for ends in pairs:
        for end in ends:
            end.close()


@on_loop
async def test_who_has_not_read_all_is_called_again() -> None:
    poller, listener = SocketPoller(asyncio.get_running_loop()), Listener()
    poller.call_again(listener)
    assert not listener.told
    await until(lambda: listener.told == [0])
    poller.close()
