"""Hits, misses and collapsed requests of the filter `cache`, in memory."""

from __future__ import annotations

from tests.support.memory import Wire
from tests.unit.filters.policies.cache.world import World

FRESH = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 5\r\n\r\nhello"


def head_of(client: Wire) -> list[bytes]:
    return client.received.partition(b"\r\n\r\n")[0].split(b"\r\n")


def value(client: Wire, name: bytes) -> bytes | None:
    lines = [line.partition(b": ") for line in head_of(client)]
    return next((value for known, _, value in lines if known.lower() == name.lower()), None)


def status(client: Wire) -> bytes | None:
    return value(client, b"Cache-Status")


def test_a_miss_is_stored_and_a_hit_comes_from_the_store() -> None:
    world = World()
    first = world.client()
    world.upstream().sends(FRESH)
    assert first.received.endswith(b"\r\n\r\nhello")
    assert status(first) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    world.now += 7
    second = world.client()
    assert second.received.endswith(b"\r\n\r\nhello")
    assert (status(second), value(second, b"Age")) == (b"fastgw; hit; ttl=53", b"7")
    assert [record.cache for record in world.plane.records] == ["miss", "hit"]
    world.plane.assert_quiet()


def test_equal_misses_are_one_request_whose_response_is_sent_while_it_arrives() -> None:
    world = World()
    clients = [world.client() for _ in range(5)]
    assert len(world.plane.pool.waiting) == 1
    upstream = world.upstream()
    upstream.sends(FRESH[:-3])
    assert [client.received[-2:] for client in clients] == [b"he"] * 5
    late = world.client()
    assert late.received.endswith(b"\r\n\r\nhe")
    upstream.sends(b"llo")
    assert [client.received[-5:] for client in (*clients, late)] == [b"hello"] * 6
    assert [status(client) for client in clients[1:]] == [b"fastgw; fwd=uri-miss; ttl=60; stored; collapsed"] * 4
    assert [record.cache for record in world.plane.records].count("collapsed") == 5
    world.plane.assert_quiet()


def test_a_response_that_is_not_stored_frees_those_that_wait() -> None:
    world = World()
    clients = [world.client() for _ in range(4)]
    world.upstream().sends(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 1\r\n\r\n1")
    assert status(clients[0]) == b"fastgw; fwd=uri-miss; detail=no-store"
    assert clients[0].received.endswith(b"\r\n\r\n1")
    upstreams = [world.upstream() for _ in range(len(world.plane.pool.waiting))]
    assert len(upstreams) >= 2
    for number, each in enumerate([*upstreams, *world.busy()]):
        each.sends(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 1\r\n\r\n%d" % number)
    assert all(client.received[-2:-1] == b"\n" for client in clients)
    world.plane.assert_quiet()
