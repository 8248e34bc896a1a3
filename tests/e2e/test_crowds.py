"""Thousands of connections at once."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import Caller, LoadCounts, call
from tests.e2e.conftest import fronting
from tests.e2e.programs import Nginx, Uvicorn, run
from tests.support.gateway import Gateway

CROWD = 2_000
AT_ONCE = 100  # connections being opened at the same time: fewer than a listen backlog


class Meeting:
    """An application that answers nobody until CROWD requests are there, and then all of them."""

    def __init__(self) -> None:
        self.there = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.there:
            self._complete = asyncio.Event()
        self.there += 1
        if self.there == CROWD:
            self._complete.set()
        await self._complete.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def meeting() -> Iterator[Uvicorn]:
    with Uvicorn(Meeting()) as uvicorn:
        yield uvicorn


async def crowd(address: str) -> list[Caller]:
    callers = [Caller(address) for _ in range(CROWD)]
    for first in range(0, CROWD, AT_ONCE):
        await asyncio.gather(*(caller.open() for caller in callers[first : first + AT_ONCE]))
    return callers


@pytest.mark.landing
def test_2000_requests_are_under_way_at_once(meeting: Uvicorn, tmp_path: Path) -> None:
    """Each waits for all the others at the service, so none of the 2,000 can have been kept back."""
    upstreams = {"meeting": {"targets": [{"url": meeting.url}], "pool": {"max_connections": CROWD}}}

    async def all_of_it(gateway: Gateway) -> None:
        callers = await crowd(gateway.address())
        answers = await asyncio.gather(*(caller.ask() for caller in callers))
        assert answers == [(200, b"ok")] * CROWD
        for caller in callers:
            caller.close()

    with Gateway({**fronting(main="meeting"), "upstreams": upstreams}, tmp_path) as gateway:
        asyncio.run(all_of_it(gateway))


def test_idle_connections_cost_nobody_anything(nginx: Nginx, front: Gateway) -> None:
    """2,000 kept-alive connections stand idle: others are served as before, and then each of them still works."""

    async def all_of_it() -> None:
        async def served() -> float:
            counters, since = LoadCounts(), time.monotonic()
            await asyncio.gather(
                *(
                    call(address, lambda: counters.statuses.total() < 1_000, counters, path="/empty.txt")
                    for _ in range(10)
                )
            )
            assert (counters.lost, set(counters.statuses)) == ([], {200})
            return time.monotonic() - since

        address = front.address("nginx")
        alone = await served()
        callers = await crowd(address)
        for number in (1, 2):
            answers = await asyncio.gather(*(caller.ask(f"/empty.txt?{number}") for caller in callers))
            assert answers == [(200, b"")] * CROWD
            if number == 1:
                print(f"1,000 requests: {alone:.2f} s alone, {await served():.2f} s beside {CROWD} idle connections")
        for caller in callers:
            caller.close()

    asyncio.run(all_of_it())


def test_h2load_with_2000_clients(nginx: Nginx, tmp_path: Path) -> None:
    """Ten requests from each of 2,000 connections of a real client: every one is answered with 200."""
    config = fronting(nginx="origin")
    # How long nginx takes to accept a thousand connections says how busy the machine is.
    patient = {"pool": {"max_pending": CROWD, "pending_timeout": "60s"}, "timeouts": {"connect": "60s"}}
    config["upstreams"] = {"origin": {"targets": [{"url": nginx.url}], **patient}}
    with Gateway(config, tmp_path) as gateway:
        told = run("h2load", "--h1", "-n", str(10 * CROWD), "-c", str(CROWD), f"{gateway.url('nginx')}/empty.txt")
    assert re.search(rf"{10 * CROWD} succeeded, 0 failed, 0 errored, 0 timeout", told), told
    assert f"{10 * CROWD} 2xx, 0 3xx, 0 4xx, 0 5xx" in told
