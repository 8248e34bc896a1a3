"""Addresses that one worker finds reach the others, and those that are started later."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest

from fastgw.runtime.ipc.channel import ChannelFull, FeedUpdate
from fastgw.runtime.ipc.published_feed import PublishedFeed
from fastgw.runtime.worker import address_sharing
from fastgw.runtime.worker.address_sharing import AddressSharing
from fastgw.sync.feeds import Feeds
from fastgw.sync.known_addresses import FEED, KnownAddresses
from tests.support.on_loop import on_loop, until

ONE: Any = (socket.AF_INET, "192.0.2.1", 0, 0)
TWO: Any = (socket.AF_INET, "192.0.2.2", 0, 0)


def worker(
    values: dict[str, bytes], send: Callable[[str, bytes], None]
) -> tuple[AddressSharing, KnownAddresses, Feeds]:
    known, feeds = KnownAddresses(), Feeds(values, lambda key, seen: None)
    sharing = AddressSharing(asyncio.get_running_loop(), known, feeds, lambda: send(FEED, known.written()))
    sharing.start()
    return sharing, known, feeds


@on_loop
async def test_other_workers_and_later_ones_know_what_one_has_found() -> None:
    values: dict[str, bytes] = {}
    first, known, feeds = worker({}, values.__setitem__)
    second, also_known, other_feeds = worker({}, lambda key, value: pytest.fail("it has found nothing"))
    known.add("users", [ONE], 1.0)
    for each in (feeds, other_feeds):
        each.deliver(FEED, values[FEED])
    third, later_known, _ = worker(values, lambda key, value: pytest.fail("it has found nothing"))
    assert also_known.of_host("users")[0] == later_known.of_host("users")[0] == (ONE,)
    for sharing in (first, second, third):
        sharing.stop()


@on_loop
@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), ChannelFull()])
async def test_changes_in_quick_succession_are_one_message_and_a_failed_one_is_repeated(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(address_sharing, "SHARE_S", 0.01)
    sent: list[bytes] = []

    class Full:
        def send(self, message: FeedUpdate, descriptors: list[int]) -> None:
            assert message.key == FEED
            sent.append(os.pread(descriptors[0], 1 << 16, 0))
            if len(sent) == 2:
                raise error

    known = KnownAddresses()
    feed = PublishedFeed(cast(Any, Full()), FEED, lambda: 1, known.written)
    sharing = AddressSharing(asyncio.get_running_loop(), known, Feeds({}, lambda key, seen: None), feed.publish)
    sharing.start()
    known.add("a", [ONE], 1.0)
    known.add("b", [ONE], 2.0)
    known.add("b", [TWO], 3.0)
    assert len(sent) == 1
    await until(lambda: len(sent) == 3)
    assert sent[1] == sent[2] == known.written()
    sharing.stop()
    assert known.on_change is None
