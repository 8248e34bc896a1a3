"""What a source has of the node: who asks is heard, whenever that is."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from fastgw.config.base.settings_codec import encode_object
from fastgw.filters.api import FeedSource, NodeSide
from fastgw.runtime.control.feed_runner import FeedRunner
from fastgw.runtime.ipc.channel import AnyMessage, Channel
from fastgw.runtime.ipc.feed_values import read_memfd
from tests.support.on_loop import on_loop, until

HEARD: list[bool] = []


class Looking(FeedSource, frozen=True, kw_only=True):
    """Looks whether somebody has asked, in the very turn in which somebody does."""

    async def run(self, node: NodeSide) -> None:
        side: Any = node
        asyncio.get_running_loop().call_soon(side.request_refresh, b"mark")
        HEARD.append(await node.asked(0))
        await asyncio.Event().wait()


@on_loop
async def test_an_ask_in_the_turn_in_which_the_time_is_up_is_heard() -> None:
    HEARD.clear()
    nobody: Any = None
    feeding = FeedRunner(nobody, nobody)
    feeding.run_sources({"k": encode_object(Looking(key="k"))}, {}, 1)
    await until(lambda: bool(HEARD))
    feeding.stop()
    assert HEARD == [True]


class Publishing(FeedSource, frozen=True, kw_only=True):
    """Publishes one value, at a moment without a free descriptor."""

    async def run(self, node: NodeSide) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            node.publish(b"keys")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await asyncio.Event().wait()


@on_loop
async def test_a_value_for_which_no_descriptor_is_free_is_sent_later() -> None:
    ours, theirs = Channel.pair()
    nobody: Any = None
    feeding = FeedRunner(ours, nobody)
    feeding.run_sources({"k": encode_object(Publishing(key="k"))}, {}, 1)
    received: list[AnyMessage] = []
    await until(lambda: received.extend(filter(None, [theirs.receive()])) or bool(received))
    assert [read_memfd(each) for each in theirs.take_descriptors()] == [b"keys"]
    feeding.stop()
    ours.close()
    theirs.close()
