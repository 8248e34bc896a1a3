"""The two GOAWAY of a drain, for clients that read their responses slowly or pause."""

from __future__ import annotations

import asyncio

from tests.support.http2 import frames
from tests.support.http2.frames import Type
from tests.support.memory import Plane, Wire
from tests.unit.downstream.http2.test_tunnels import asks, begins, data_on, plane_of, resets, told
from tests.unit.downstream.test_drain import turns

BODY = b"x" * 1000
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + BODY


def goaways(client: Wire) -> list[int]:
    """The last streams that were named."""
    return [int.from_bytes(payload[:4], "big") for kind, _, payload in told(client) if kind == Type.GOAWAY]


async def paused(plane: Plane, response: bytes = WHOLE) -> tuple[Wire, asyncio.Future[object]]:
    """A client whose socket is full while a response waits for it, in a drain that has just begun."""
    client = begins(plane)
    asks(client, 1)
    client.room = len(client.received)
    plane.connects().sends(response)
    await turns()
    drain = asyncio.ensure_future(plane.server.drain(60, 60))
    await turns()
    return client, drain


def test_a_pause_of_the_client_may_last_as_long_as_without_a_drain() -> None:
    async def live() -> None:
        plane = plane_of(timeouts={"response_idle": "10s"})
        client, drain = await paused(plane)
        plane.passes(8)
        await turns()
        assert not client.lost
        client.takes()
        await turns()
        assert data_on(client, 1) == BODY
        assert goaways(client)[:2] == [2**31 - 1, 1]
        assert client.lost
        assert (await drain).cut == 0  # type: ignore[attr-defined]
        assert [each.fault for each in plane.records] == [""]

    asyncio.run(live())


def test_a_client_that_stalls_in_a_drain_is_cut_off_as_without_one() -> None:
    async def live() -> None:
        plane = plane_of(timeouts={"response_idle": "10s"})
        client, drain = await paused(plane, WHOLE[:-1])
        plane.passes(12)
        await turns()
        assert client.lost
        await drain
        assert [each.fault for each in plane.records] == ["client_stalled"]

    asyncio.run(live())


def test_streams_after_a_pause_are_refused_in_time() -> None:
    """The second GOAWAY is due a second after the first, whatever the client does in between."""

    async def live() -> None:
        plane = plane_of(timeouts={"response_idle": "10s"})
        client = begins(plane)
        asks(client, 1)
        upstream = plane.connects()
        upstream.sends(WHOLE[:-1])
        await turns()
        drain = asyncio.ensure_future(plane.server.drain(60, 60))
        await turns()
        client.room = len(client.received)
        client.sends(frames.ping())  # whose answer does not fit
        await turns()
        client.takes()
        plane.passes(2)
        await turns()
        assert goaways(client) == [2**31 - 1, 1]
        asks(client, 3)
        upstream.sends(WHOLE[-1:])
        await turns()
        assert data_on(client, 1) == BODY
        assert not data_on(client, 3)
        assert not resets(client)
        plane.settle()
        assert client.lost
        await drain
        assert len(plane.records) == 1

    asyncio.run(live())
