"""The end of a worker's connections: each by its kind, none cut before its time."""

import asyncio

from fastgw.eventloop.addressed_connections import ConnectionOrder, OrderAnswer, Result
from tests.support.memory import Plane, Wire

HOST = b"Host: a.test\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ASKING = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def used(plane: Plane) -> tuple[Wire, Wire]:
    client = plane.client()
    client.sends(GET)
    upstream = plane.connects()
    upstream.sends(OK)
    return client, upstream


def test_each_kind_of_connection_has_its_own_end() -> None:
    """Never used, or busy: its next answer says close. Idle: closed soon. A tunnel: as long as it may."""

    async def live() -> None:
        plane = Plane()
        idle, _ = used(plane)
        plane.pool.discard(next(iter(plane.pool.open)))
        tunnel = plane.client()
        tunnel.sends(ASKING)
        plane.connects().sends(SWITCHED)
        busy = plane.client()
        busy.sends(GET)
        upstream = plane.connects()
        fresh = plane.client()
        drain = asyncio.ensure_future(plane.server.drain(60, 60))
        await turns()
        plane.settle()
        assert [each.lost for each in (busy, fresh, tunnel)] == [False] * 3
        upstream.sends(OK)
        assert b"\r\nConnection: close\r\n" in busy.received
        assert busy.lost
        fresh.sends(GET)
        upstream.sends(OK)
        assert b"\r\nConnection: close\r\n" in fresh.received
        plane.passes(1.2)
        assert idle.lost
        assert not tunnel.lost
        tunnel.resets()
        assert (await drain).cut == 0

    asyncio.run(live())


def test_what_does_not_end_in_time_is_cut_and_counted() -> None:
    async def live() -> None:
        plane = Plane()
        stuck, tunnel = plane.client(), plane.client()
        stuck.sends(GET)
        upstream = plane.connects()
        tunnel.sends(ASKING)
        plane.connects().sends(SWITCHED)
        summary = await plane.server.drain(0, 0)
        plane.settle()
        assert summary.cut == 2
        assert stuck.lost
        assert tunnel.lost
        assert upstream.lost
        plane.assert_quiet()

    asyncio.run(live())


def test_tunnels_with_less_time_than_requests_are_cut_first() -> None:
    async def live() -> None:
        plane = Plane()
        busy, tunnel = plane.client(), plane.client()
        busy.sends(GET)
        upstream = plane.connects()
        tunnel.sends(ASKING)
        plane.connects().sends(SWITCHED)
        drain = asyncio.ensure_future(plane.server.drain(60, 0))
        await turns()
        plane.settle()
        assert (busy.lost, tunnel.lost) == (False, True)
        upstream.sends(OK)
        assert busy.received.endswith(b"ok")
        assert (await drain).cut == 1
        plane.assert_quiet()

    asyncio.run(live())


def test_a_connection_that_comes_as_the_last_one_goes_is_not_cut() -> None:
    """The queue of a listening socket is taken in while the drain waits: "nobody is left" may be over in a moment."""

    async def live() -> None:
        plane = Plane()
        client, _ = plane.client(), None
        client.sends(GET)
        upstream = plane.connects()
        drain = asyncio.ensure_future(plane.server.drain(60, 60))
        await turns()
        upstream.sends(OK)
        assert client.lost
        late = plane.client()
        late.sends(GET)
        await turns()
        assert not late.aborted
        upstream.sends(OK)
        assert late.received.endswith(b"ok")
        assert (await drain).cut == 0

    asyncio.run(live())


class Api:
    """A connection of a WebSocket API whose client is gone."""

    route_name = ""

    def take_order(self, order: ConnectionOrder) -> OrderAnswer:
        return OrderAnswer(Result.GONE)

    def follow_reload(self) -> None: ...


def test_what_back_ends_have_to_hear_is_waited_for_after_the_last_connection() -> None:
    async def live() -> None:
        plane, first, second = Plane(), Api(), Api()
        connections = plane.server.worker_loop.connections
        for each in (first, second):
            connections.note_unfinished(each)
        drain = asyncio.ensure_future(plane.server.drain(60, 60))
        await turns()
        connections.note_finished(first)
        await turns()
        assert not drain.done()
        connections.note_finished(second)
        assert (await drain).cut == 0

    asyncio.run(live())


def test_what_back_ends_have_to_hear_has_the_time_of_the_drain() -> None:
    async def live() -> None:
        plane, late = Plane(), Api()
        connections = plane.server.worker_loop.connections
        connections.note_unfinished(late)
        assert (await plane.server.drain(0, 0)).cut == 0
        connections.note_finished(late)
        assert (await plane.server.drain(60, 60)).cut == 0

    asyncio.run(live())
