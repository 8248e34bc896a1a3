"""Ready hits: hits from the memory of a worker on routes on which other filters have steps."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.cache.shared._cells import Cells, OpenRecord
from fastgw.cache.shared.shared_store import SharedStore
from tests.support.memory import SERVICE, Wire
from tests.unit.filters.policies.cache.test_hits import status, value
from tests.unit.filters.policies.cache.test_ready_answers import DATED
from tests.unit.filters.policies.cache.world import World

HEADERS = {"headers": {"response": {"set": {"X-A": "1"}}, "request": {"set": {"X-Tenant": "{header.X-Key}"}}}}
VARYING = DATED.replace(b"ETag", b"Vary: X-Tenant\r\nETag")


def fetch(world: World, response: bytes, body: bytes, **request: Any) -> Wire:
    """Send a request, which is answered by the upstream if the cache does not."""
    client = world.client(**request)
    if not client.received:
        world.upstream().sends(response % len(body) + body)
    return client


def lines(client: Wire) -> list[bytes]:
    head = client.received.partition(b"\r\n\r\n")[0]
    return sorted(line for line in head.split(b"\r\n") if not line.startswith(b"X-Request-Id"))


def look_ups(world: World, **request: Any) -> tuple[int, Wire]:
    """Send a request; return how often it was looked up in the store, and its client."""
    found: list[bytes] = []
    store = world.store
    assert isinstance(store, SharedStore)

    class Counted(Cells):
        def open(self, key: bytes) -> OpenRecord | None:
            found.append(key)
            return super().open(key)

    cells, store.cells = store.cells, Counted(store.memory, 1)
    client = world.client(**request)
    store.cells = cells
    return len(found), client


def test_it_is_equal_to_a_hit_from_the_store() -> None:
    world = World(route={"filters": HEADERS})
    key = {"fields": b"X-Key: a\r\n"}
    fetch(world, DATED, b"hello", **key)
    (first, before), (second, client) = look_ups(world, **key), look_ups(world, **key)
    assert (first > 0, second) == (True, 0)
    assert lines(client) == lines(before)
    assert client.received.endswith(b"\r\n\r\nhello")
    assert (value(client, b"X-A"), status(client)) == (b"1", b"fastgw; hit; ttl=60")
    world.now += 9
    _, later = look_ups(world, **key)
    assert (value(later, b"Age"), status(later)) == (b"9", b"fastgw; hit; ttl=51")
    assert [record.cache for record in world.plane.records] == ["miss", "hit", "hit", "hit"]
    assert {record.response_bytes for record in world.plane.records} == {5}
    world.plane.assert_quiet()


@pytest.mark.parametrize("settings", [{}, {"key": {"headers": ["X-Tenant"]}}])
def test_headers_that_filters_set_select_the_hit(settings: dict[str, Any]) -> None:
    world = World(route={"filters": HEADERS}, **settings)
    response = DATED if settings else VARYING
    bodies = []
    for _ in range(4):
        for tenant in (b"a", b"b"):
            client = fetch(world, response, tenant, fields=b"X-Key: %b\r\nX-Tenant: forged\r\n" % tenant)
            bodies.append(client.received[-1:])
    assert bodies == [b"a", b"b"] * 4
    assert look_ups(world, fields=b"X-Key: a\r\nX-Tenant: forged\r\n")[0] == 0
    world.plane.assert_quiet()


@pytest.mark.parametrize("end", ["stale", "purged", "soft"])
def test_it_is_sent_only_while_the_object_is_unchanged_and_fresh(end: str) -> None:
    world = World(route={"filters": HEADERS})
    for _ in range(2):
        fetch(world, DATED, b"hello", fields=b"X-Key: a\r\n")
    if end == "stale":
        world.now += 60
    else:
        world.store.purge("all", soft=end == "soft")
    assert world.client(fields=b"X-Key: a\r\n").received == b""


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        (b'If-None-Match: "a"\r\n', b"HTTP/1.1 304 "),
        (b"Range: bytes=0-1\r\n", b"HTTP/1.1 206 "),
        (b"Cache-Control: no-cache\r\n", b""),
    ],
)
def test_requests_with_conditions_or_directives_are_looked_up(fields: bytes, start: bytes) -> None:
    world = World(route={"filters": HEADERS})
    for _ in range(2):
        fetch(world, DATED, b"hello", fields=b"X-Key: a\r\n")
    assert world.client(fields=b"X-Key: a\r\n" + fields).received[:13] == start


@pytest.mark.parametrize("filters", [{}, HEADERS])
def test_a_route_with_another_upstream_after_a_reload_has_hits_of_its_own(filters: dict[str, Any]) -> None:
    """The filter is kept over the reload, as its settings are the same."""
    upstreams = dict.fromkeys(("u", "v"), SERVICE["upstreams"]["u"])
    world = World(upstreams=upstreams, route={"filters": filters})
    for _ in range(3):
        fetch(world, DATED, b"hello", fields=b"X-Key: a\r\n")
    before = world.plane.gateway
    routes = [{"name": "all", "upstream": "v", "filters": {"cache": {}, **filters}}]
    world.plane.adopts({"routes": routes, "upstreams": upstreams, "filters": {"request_id": {}}})
    kept = {link for link in before.live if link.hooks.ready_answer is not None}
    assert kept <= {*world.plane.gateway.live}
    assert world.client(fields=b"X-Key: a\r\n").received == b""
