"""No-Vary-Search: which queries are answered with the same stored response, and what a purge of one of them reaches."""

from __future__ import annotations

import pytest

from fastgw.sync.cache_purges import tags_to_purge
from tests.unit.filters.policies.cache.test_hits import status
from tests.unit.filters.policies.cache.world import World

HIT = b"fastgw; hit; ttl=10"


def response(rule: str = "", body: bytes = b"hello", more: bytes = b"") -> bytes:
    line = b"No-Vary-Search: %b\r\n" % rule.encode() if rule else b""
    return b"HTTP/1.1 200 OK\r\nCache-Control: max-age=10\r\n%b%bContent-Length: %d\r\n\r\n%b" % (
        *(line, more, len(body)),
        body,
    )


def fetch(world: World, target: bytes, sent: bytes) -> None:
    client = world.client(target)
    world.upstream().sends(sent)
    assert status(client).startswith(b"fastgw; fwd="), client.received


def is_hit(world: World, target: bytes, fields: bytes = b"") -> bool:
    """Whether a request is answered from the store. One that is not is answered by the upstream, and not stored."""
    client = world.client(target, fields)
    if client.received:
        assert status(client) == HIT
        return True
    world.upstream().sends(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n")
    world.now += 0.001
    return False


@pytest.mark.parametrize(
    ("rule", "same", "other"),
    [
        ('params=("utm")', [b"/?a=1&utm=9", b"/?utm=3&a=1", b"/?a=1", b"/?%61=1"], [b"/?a=2&utm=1", b"/", b"/x?a=1"]),
        ("params", [b"/?a=2", b"/", b"/?whatever"], [b"/x"]),
        ('params, except=("a")', [b"/?a=1&b=2", b"/?a=1"], [b"/?a=2&utm=1", b"/"]),
        ("key-order", [b"/?utm=1&a=1"], [b"/?a=1", b"/?a=1&utm=2"]),
        ("params=1", [b"/?a=1&utm=1"], [b"/?a=1", b"/"]),
    ],
)
def test_queries_that_make_no_difference(rule: str, same: list[bytes], other: list[bytes]) -> None:
    world = World()
    fetch(world, b"/?a=1&utm=1", response(rule))
    assert [is_hit(world, target) for target in same] == [True] * len(same)
    assert [is_hit(world, target) for target in other] == [False] * len(other)
    world.plane.assert_quiet()


def test_the_rule_of_the_last_response_counts() -> None:
    world = World()
    fetch(world, b"/?a=1", response("params", b"one"))
    assert is_hit(world, b"/?a=2")
    world.now += 11
    fetch(world, b"/?a=1", response(body=b"two"))
    assert is_hit(world, b"/?a=1")
    assert not is_hit(world, b"/?a=2")
    world.now += 11
    fetch(world, b"/?a=1", response('params=("b")', b"three"))
    assert is_hit(world, b"/?a=1&b=2")
    assert not is_hit(world, b"/?a=2")


def test_variants_are_told_apart_below_the_rule() -> None:
    world = World()
    fetch(world, b"/?a=1", response("params", more=b"Vary: X-Kind\r\n"))
    assert is_hit(world, b"/?a=2")
    assert not is_hit(world, b"/?a=2", b"X-Kind: other\r\n")


def test_equal_requests_wait_for_one_another() -> None:
    world = World()
    fetch(world, b"/?a=1", response("params"))
    world.now += 11
    clients = [world.client(b"/?a=%d" % number) for number in range(3)]
    (upstream,) = world.busy() or [world.upstream()]
    upstream.sends(response("params", b"again"))
    assert [client.received.endswith(b"again") for client in clients] == [True] * 3


@pytest.mark.parametrize("purged", [b"http://a.test/?a=1", b"http://a.test/?a=7", b"http://a.test/"])
def test_a_purge_of_an_equal_url_removes_it(purged: bytes) -> None:
    world = World()
    fetch(world, b"/?a=1", response("params"))
    world.store.purge("tag", tags_to_purge(purged))
    assert not is_hit(world, b"/?a=1")


def test_a_successful_post_to_an_equal_url_removes_it() -> None:
    world = World()
    fetch(world, b"/?a=1", response("params"))
    world.client(b"/?a=3", b"Content-Length: 0\r\n", b"POST")
    world.upstream().sends(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert not is_hit(world, b"/?a=1")
