"""What has ended goes at once. A circle would wait for the collector, and never go where a reload has frozen it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.on_loop import on_loop, until
from tests.unit.test_core_retiring import GET, OK, Node, Taken, no_collector, serving

OURS = "fastgw."


@contextmanager
def garbage() -> Iterator[list[str]]:
    """The types of ours that the collector finds at the end of the block, and nobody before it."""
    found: list[str] = []
    with no_collector():
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            found += [each.__qualname__ for each in map(type, gc.garbage) if each.__module__.startswith(OURS)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.collect()


async def kept_alive(node: Node, client: Taken) -> None:
    for count in (1, 2):
        client.sends(GET % b"old")
        await until(lambda: bool(node.taken))
        await until(lambda count=count: node.taken[0].received.count(b"GET /old") == count)
        node.taken[0].sends(OK)
        await until(lambda count=count: client.received.count(b"200 OK") == count)


async def cut_off(node: Node, client: Taken) -> None:
    client.sends(GET % b"old")
    await until(lambda: bool(node.taken) and b"GET /old" in node.taken[0].received)


async def refused(node: Node, client: Taken) -> None:
    node.service.close()
    client.sends(GET % b"old")
    await until(lambda: b" 502 " in client.received)


@pytest.mark.parametrize("use", [kept_alive, cut_off, refused])
@on_loop
async def test_a_connection_that_has_ended_leaves_nothing(use: Callable[[Node, Taken], Awaitable[None]]) -> None:
    with garbage() as found:
        async with serving() as node:
            client = await node.client()
            await use(node, client)
            client.transport.abort()
            await until(lambda node=node: not node.server.connections)
            node.ground.wheel.advance(node.ground.wheel.now + 3600)  # it holds for a while what has had a deadline
        del client
        await asyncio.sleep(0)
    assert found == []
    assert not node.server.connections  # it is held until here: a gateway as a whole may be full of circles
