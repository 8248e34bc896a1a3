"""Misses whose response is stored as it passes, and those whose exchange the cache takes over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest

from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import Counting
from fastgw.exchange import Exchange
from fastgw.filters.policies.cache import cached_request
from fastgw.filters.policies.cache.fetch import Fetch
from fastgw.forwarded_headers import FAMILY
from fastgw.http.caching.vary import WRITTEN_FOR_EACH_CLIENT
from fastgw.sync.cache_purges import tags_to_purge
from tests.support.memory import Wire
from tests.support.table import for_each
from tests.unit.cache.nodes import objects_in, pins_in
from tests.unit.filters.policies.cache.test_hits import FRESH, status
from tests.unit.filters.policies.cache.world import World

PRIVATE = b"HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 5\r\n\r\nhello"
VARYING = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nVary: Accept-Encoding\r\nContent-Length: 5\r\n\r\nhello"
PRIVATE_VARYING = PRIVATE.replace(b"private", b"private\r\nVary: Accept")
SEARCHED = FRESH.replace(b"max-age=60", b'max-age=60\r\nNo-Vary-Search: params=("a")')
TAGGED = FRESH.replace(b"max-age=60", b"max-age=60\r\nCache-Tag: " + b" ".join(b"%d" % number for number in range(501)))
BEHIND = {"headers": {"request": {"set": {"X-A": "b"}, "remove": ["Accept"]}, "response": {"set": {"X-A": "b"}}}}
"""Another filter, whose steps run for each request."""
CHANGED = {"headers": {"response": {"set": {"X-A": "b", "Cache-Control": "no-store"}, "remove": ["Vary"]}}}
"""Another filter, whose changes of responses are the same for all."""
ALL: dict[str, dict[str, Any]] = {
    "alone": {},
    "behind": BEHIND,
    "changed": CHANGED,
}
MEMORY = 1 << 20
"""Memory of the store."""
NO_SETTINGS: dict[str, Any] = {}
POISON = b"X-Forwarded-Host: evil\r\nX-Original-URL: /admin\r\nContent-Type: text/evil\r\n"


@pytest.fixture
def fetches() -> Iterator[list[str]]:
    """The fetches that the cache begins: "adopted" of a request that is being forwarded, or "sent"."""
    made: list[str] = []
    send, adopt = Fetch.send_request, Fetch.adopt_request

    def sent(fetch: Fetch, exchange: Exchange) -> None:
        made.append("sent")
        send(fetch, exchange)

    def adopted(fetch: Fetch, exchange: Exchange, request_date: float) -> Exchange:
        made.append("adopted")
        return adopt(fetch, exchange, request_date)

    with patch.object(Fetch, "send_request", sent), patch.object(Fetch, "adopt_request", adopted):
        yield made


@pytest.fixture(params=[*ALL])
def filters(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Filters beside the cache."""
    found: dict[str, Any] = ALL[request.param]
    return found


def connected(filters: dict[str, Any], settings: dict[str, Any] = NO_SETTINGS, **route: Any) -> World:
    """Return a world with an idle connection to the upstream."""
    world = World(route={"filters": filters, **route}, memory=MEMORY, **settings)
    world.client(b"/first")
    world.upstream().sends(PRIVATE)
    return world


def lines(client: Wire) -> list[bytes]:
    head = client.received.partition(b"\r\n\r\n")[0]
    return sorted(line for line in head.split(b"\r\n") if not line.startswith((b"X-Request-Id", b"Date")))


@pytest.mark.parametrize(
    "response",
    [FRESH, PRIVATE, VARYING, PRIVATE_VARYING, SEARCHED, TAGGED, FRESH.replace(b" 200 OK", b" 404 Not Found")],
)
def test_it_is_as_if_the_exchange_were_taken_over(fetches: list[str], filters: dict[str, Any], response: bytes) -> None:
    world, full = connected(filters), connected(filters, timeout="10s")
    fetches.clear()
    clients = []
    for each in (world, full):
        clients.append(each.client(fields=POISON))
        sent = each.upstream().received.rpartition(b"GET /")[2]
        assert b"evil" not in sent
        assert b"/admin" not in sent
        each.upstream().sends(response)
        assert clients[-1].received.endswith(b"\r\n\r\nhello")
    assert fetches == [*["adopted"] * (response is SEARCHED), "sent"]
    assert lines(clients[0]) == lines(clients[1])
    assert world.fetched == full.fetched
    assert len(world.fetched) == 2
    assert world.store.numbers() == full.store.numbers()
    one, other = (each.plane.records[-1] for each in (world, full))
    assert (one.cache, one.status, one.response_bytes, one.upstream, one.target) == (
        *(other.cache, other.status, other.response_bytes, other.upstream, other.target),
    )
    assert lines(world.client()) == lines(full.client())
    for each in (world, full):
        for upstream in each.busy():
            upstream.sends(response)
        each.plane.assert_quiet()


OK = b"HTTP/1.1 200 OK\r\n%bContent-Length: 5\r\n\r\nhello"


@for_each("beside", ["alone", "behind"])
@for_each("sent", [b"", b"Authorization: Basic YTpi\r\n", b"Cookie: a=b\r\n"])
@for_each(
    "settings",
    [
        *({}, {"ttl": "9s"}, {"override_ttl": "9s"}, {"ttl_by_status": {"404": "9s"}}),
        {"ttl": "9s", "key": {"headers": ["Accept", "Authorization", "Cookie"]}},
    ],
)
@for_each(
    "stated",
    [
        b"",
        b"Set-Cookie: a=b\r\n",
        b"Expires: Mon, 06 Jul 2026 12:00:00 GMT\r\n",
        b"Last-Modified: Mon, 06 Jul 2020 12:00:00 GMT\r\n",
        b"Vary: *\r\n",
        b"CDN-Cache-Control: max-age=9\r\n",
        b"CDN-Cache-Control: max-age=9\r\nCache-Control: no-store\r\n",
        b"Cache-Control: no-store\r\n",
        b"Cache-Control: private, no-store\r\n",
        b'cache-control: PRIVATE="a"\r\n',
        b"Cache-Control: max-age=9\r\nCache-Control: private\r\n",
        b"Cache-Control: private, must-understand, no-store\r\n",
        b"Cache-Control: " + b"x, " * 100 + b"private\r\n",
        b"Cache-Control: public\r\n",
        b"Cache-Control: max-age=9\r\n",
        b"Cache-Control: max-age=9\r\nVary: Accept\r\n",
    ],
)
def test_what_is_stored_is_decided_as_if_the_exchange_were_taken_over(
    stated: bytes, settings: dict[str, Any], sent: bytes, beside: str
) -> None:
    world, full = connected(ALL[beside], settings), connected(ALL[beside], settings, timeout="10s")
    for target in (b"/?a=b", b"/", b"/first"):
        clients = []
        for each in (world, full):
            clients.append(each.client(target, fields=sent))
            for upstream in each.busy():
                upstream.sends(OK % stated)
        assert lines(clients[0]) == lines(clients[1])
    assert world.fetched == full.fetched
    assert world.store.numbers().objects == full.store.numbers().objects
    for each in (world, full):
        each.plane.assert_quiet()


BOTH_TAGGED = FRESH.replace(b"max-age=60", b"max-age=60\r\nCache-Tag: one, two\r\nSurrogate-Key: two three")
STORED = b"fastgw; fwd=uri-miss; ttl=60; stored"


@pytest.mark.parametrize("beside", [*ALL])
@pytest.mark.parametrize(
    ("response", "told"),
    [
        (PRIVATE, b"fastgw; fwd=uri-miss; detail=private"),
        (FRESH.replace(b"max-age=60", b"max-age=60\r\nSet-Cookie: a"), b"fastgw; fwd=uri-miss; detail=set-cookie"),
        (FRESH, STORED),
        (VARYING, STORED),
        (BOTH_TAGGED, STORED),
    ],
)
def test_the_usual_miss_is_stored_as_it_passes(response: bytes, told: bytes, beside: str, fetches: list[str]) -> None:
    world = connected(ALL[beside])
    client = world.client(b"/a?b=c")
    world.upstream().sends(response)
    assert status(client) == told
    assert fetches == []
    world.plane.assert_quiet()


@pytest.mark.parametrize("beside", ["alone", "behind"])
@pytest.mark.parametrize("vary", [b"", b"Vary: Accept-Encoding\r\n"])
def test_misses_that_need_another_segment(vary: bytes, beside: str, fetches: list[str]) -> None:
    """Also the first one of all, and those for which a segment is recycled."""
    world = connected(ALL[beside])
    store = world.store
    assert isinstance(store, SharedStore)
    count, body = 2 * store.segments.count, b"x" * (store.segments.size // 20)
    response = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n%bContent-Length: %d\r\n\r\n%b" % (
        vary,
        len(body),
        body,
    )
    for number in range(20 * count):
        client = world.client(b"/%d" % number)
        world.upstream().sends(response)
        assert status(client) == STORED
    assert fetches == []
    assert store.numbers().objects == objects_in(store)
    assert pins_in(store.memory) == 0
    client = world.client(b"/%d" % (20 * count - 1))
    assert status(client) == b"fastgw; hit; ttl=60"
    assert client.received.endswith(b"\r\n\r\n" + body)
    world.plane.assert_quiet()


@for_each("beside", ["alone", "behind"])
@for_each(
    "purge",
    [
        lambda store: store.purge("tag", tags_to_purge(b"http://a.test/a?b=c")),
        lambda store: store.purge("tag", [b"two"]),
        lambda store: store.purge("tag", [b"three"]),
        lambda store: store.purge("prefix", [b"http://a.test/a"]),
        lambda store: store.purge("all"),
    ],
)
@for_each("vary", [b"", b"Vary: Accept-Encoding\r\n"])
def test_purges_find_what_was_stored(vary: bytes, purge: Callable[[SharedStore], Counting], beside: str) -> None:
    world = connected(ALL[beside])
    for target in (b"/b", b"/a?b=c"):
        client = world.client(target)
        world.upstream().sends((FRESH if target == b"/b" else BOTH_TAGGED).replace(b"Content-L", vary + b"Content-L"))
        assert status(client) == STORED
    for _ in range(2):  # the second one from the memory of the worker
        assert status(world.client(b"/a?b=c")) == b"fastgw; hit; ttl=60"
    purge(world.store)
    client = world.client(b"/a?b=c")
    world.upstream().sends(PRIVATE)
    assert b"hit" not in (status(client) or b"")
    world.plane.assert_quiet()


@pytest.mark.parametrize("beside", ["alone", "behind"])
def test_the_port_that_a_client_names_is_in_the_key_and_not_in_the_url_for_purges(beside: str) -> None:
    """The upstream gets it in `X-Forwarded-Host`. 80 is the listener's own."""
    world, hosts = connected(ALL[beside]), (b"a.test", b"a.test:80", b"a.test:81")
    for number, host in enumerate(hosts):
        client = world.client(b"/a", host=host)
        sent = world.upstream().received.rpartition(b"GET /")[2]
        assert b"X-Forwarded-Host: %b\r\n" % host in sent
        world.upstream().sends(FRESH.replace(b"hello", b"host%d" % number))
        assert status(client) == STORED
    for _ in range(2):  # the second one from the memory of the worker
        for number, host in enumerate(hosts):
            client = world.client(b"/a", host=host)
            assert (status(client), client.received[-5:]) == (b"fastgw; hit; ttl=60", b"host%d" % number)
    for _ in world.store.purge("tag", tags_to_purge(b"http://a.test/a")):
        pass
    assert status(world.client(b"/a", host=b"a.test:81")) == b"fastgw; hit; ttl=60"
    for host in hosts[:2]:
        client = world.client(b"/a", host=host)
        world.upstream().sends(PRIVATE)
        assert b"hit" not in (status(client) or b"")
    world.plane.assert_quiet()


@pytest.mark.parametrize("beside", [*ALL])
def test_the_port_of_the_listener_is_in_the_key_and_not_in_the_url_for_purges(beside: str) -> None:
    """Filters of a listener with another port may send other headers to the upstream."""
    world, ports = connected(ALL[beside]), (80, 8080)
    for port in ports:
        client = world.client(b"/a", port=port)
        world.upstream().sends(FRESH.replace(b"hello", b"%05d" % port))
        assert status(client) == STORED
    for _ in range(2):  # the second one from the memory of the worker
        for port in ports:
            client = world.client(b"/a", port=port)
            assert (status(client), client.received[-5:]) == (b"fastgw; hit; ttl=60", b"%05d" % port)
    for _ in world.store.purge("tag", tags_to_purge(b"http://a.test/a")):
        pass
    for port in ports:
        client = world.client(b"/a", port=port)
        world.upstream().sends(PRIVATE)
        assert b"hit" not in (status(client) or b"")
    world.plane.assert_quiet()


REWRITES: dict[str, tuple[dict[str, Any], bytes, bytes, bytes]] = {
    "captures": ({"paths": ["/v1/{rest:path}", "/{rest:path}"], "rewrite": "/{rest}"}, b"/v1/a", b"/a", b"/a"),
    "strip_prefix": ({"strip_prefix": "/shop"}, b"/a", b"/shop/a", b"/a"),
    "one path": ({"paths": ["/{any:path}"], "rewrite": "/one"}, b"/a", b"/b", b"/one"),
    "value": ({"paths": ["/{any:path}"], "rewrite": "/of/{route}"}, b"/a", b"/b", b"/of/all"),
}
"""Routes, two paths of clients, and the path that is sent for both."""


def purge_by_post(world: World, target: bytes) -> None:
    world.client(target, method=b"POST", fields=b"Content-Length: 0\r\n")
    world.upstream().sends(b"HTTP/1.1 204 No Content\r\n\r\n")


def purge_by_method(world: World, target: bytes) -> None:
    assert world.client(target, method=b"PURGE").received.endswith(b'{"objects":1}')


PURGES: dict[str, Callable[[World, bytes], object]] = {
    "url": lambda world, target: [*world.store.purge("tag", tags_to_purge(b"http://a.test" + target))],
    "prefix": lambda world, target: [*world.store.purge("prefix", [b"http://a.test" + target])],
    "POST": purge_by_post,
    "PURGE": purge_by_method,
}


@for_each("beside", [*ALL])
@for_each("purge", [*PURGES])
@for_each("rewrite", [*REWRITES])
def test_urls_for_which_one_path_is_sent_are_stored_and_purged_apart(rewrite: str, purge: str, beside: str) -> None:
    """A stored response has one URL of clients, by which it is purged: no other URL is answered with it."""
    route, kept, purged, sent = REWRITES[rewrite]
    world = connected(ALL[beside], {"purge_method": {"allow": ["0.0.0.0/0"]}}, **route)
    for target in (kept, purged):
        client = world.client(target)
        assert world.upstream().received.rpartition(b"GET ")[2].startswith(sent + b" ")
        world.upstream().sends(FRESH.replace(b"hello", target.rjust(5)[-5:]))
        assert status(client) == STORED
    for fields in (b"Cache-Control: max-stale\r\n", b"", b""):  # from all of the policy, the store, the worker's memory
        for target in (kept, purged):
            client = world.client(target, fields=fields)
            assert (status(client), client.received[-5:]) == (b"fastgw; hit; ttl=60", target.rjust(5)[-5:])
    PURGES[purge](world, purged)
    assert status(world.client(kept)) == b"fastgw; hit; ttl=60"
    client = world.client(purged)
    world.upstream().sends(PRIVATE)
    assert status(client) == b"fastgw; fwd=uri-miss; detail=private"
    world.plane.assert_quiet()


def key_set(tenant: str) -> dict[str, Any]:
    return {"key": {"type": "credentials", "headers": {"X-Of": tenant}}}


SETS = {
    **{tenant: key_set(tenant) for tenant in ("one", "two")},
    "set-one": {"key": {"type": "headers", "request": {"set": {"X-Of": "one"}}}},
    "set-two": {"key": {"type": "headers", "request": {"set": {"X-Of": "two"}}}},
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "credentials": [{"upstream": "u", "use": ["one"]}, {"upstream": "u", "use": ["two"]}],
    "headers": [{"upstream": "u", "use": ["set-one"]}, {"upstream": "u", "use": ["set-two"]}],
    "one of them": [{"upstream": "u"}, {"upstream": "u", "use": ["two"]}],
    "host": [{"upstream": "u", "host_header": "one"}, {"upstream": "u", "host_header": "two"}],
}


def answer_of(world: World, number: int, fields: bytes = b"") -> bytes:
    """Return the body of a response. The upstream answers with what its requests have of the variant."""
    client = world.client(b"/a", fields=b"X-T: %d\r\n%b" % (number, fields))
    if not client.received:
        upstream = world.upstream()
        sent = upstream.received.rpartition(b"GET /")[2].split(b"\r\n")
        shown = b" ".join(line for line in sent if line.startswith((b"X-Of:", b"Host:")))
        upstream.sends(FRESH.replace(b"Length: 5", b"Length: %d" % len(shown)).replace(b"hello", shown))
    return client.received.rpartition(b"\r\n\r\n")[2]


@for_each("beside", [*ALL])
@for_each("variants", [*VARIANTS])
def test_a_variant_gets_no_response_that_was_fetched_as_by_another_one(variants: str, beside: str) -> None:
    """Nor after a reload that has changed the order of the variants: the store outlives it."""
    store, seen = None, set()
    for listed in (VARIANTS[variants], VARIANTS[variants][::-1]):
        others = ALL[beside]
        route = {"variants": listed, "split": {"by": "header:X-T"}, "filters": others}
        world = World(store, route=route, also={"filter_sets": SETS})
        store = world.store
        kept = [answer_of(world, number) for number in range(8)]
        assert kept == [answer_of(world, number, b"Cache-Control: no-cache\r\n") for number in range(8)]
        for _ in range(2):  # the second one from the memory of the worker
            assert kept == [answer_of(world, number) for number in range(8)]
        seen |= {*kept}
        world.plane.assert_quiet()
    assert len(seen) == 2


@pytest.mark.parametrize("beside", [*ALL])
def test_a_listener_gets_no_response_that_was_fetched_with_the_filters_of_another_one(beside: str) -> None:
    """Both have the same port, on different addresses."""
    listeners = {
        name: {"address": "127.0.0.1:0", "filters": {"of": {"type": "headers", "request": {"set": {"X-Of": name}}}}}
        for name in ("one", "two")
    }
    others = ALL[beside]
    world = World(route={"filters": others}, also={"listeners": listeners})
    for number in (0, 1, 0, 1, 0, 1):  # from the upstream, the store, and the memory of the worker
        world.plane.listener = world.plane.gateway.listeners[number]
        assert answer_of(world, 0).endswith(b"X-Of: %b" % (b"one", b"two")[number])
    world.plane.assert_quiet()


@pytest.mark.parametrize("beside", [*ALL])
def test_keys_of_a_listener_and_of_a_variant_cannot_be_read_in_two_ways(beside: str) -> None:
    """The host of a variant is the name of the listener with filters, and its set that of the other host."""
    own = {"of": {"type": "headers", "request": {"set": {"X-Of": "listener"}}}}
    listeners = {
        "one": {"address": "127.0.0.1:0", "filters": own},
        "main": {"address": "127.0.0.1:0"},
    }
    variants = [{"upstream": "u", "host_header": "two"}, {"upstream": "u", "host_header": "one", "use": ["two"]}]
    others = ALL[beside]
    route = {"variants": variants, "split": {"by": "header:X-T"}, "filters": others}
    also = {"listeners": listeners, "filter_sets": {"two": SETS["set-two"]}}
    world = World(route=route, also=also)
    requests = [(position, number) for number in range(8) for position in (0, 1)]

    def answers(fields: bytes = b"") -> list[bytes]:
        found = []
        for position, number in requests:
            world.plane.listener = world.plane.gateway.listeners[position]
            found.append(answer_of(world, number, fields))
        return found

    kept = answers()
    assert kept == answers(b"Cache-Control: no-cache\r\n")
    assert len({*kept}) == 3  # a variant with a set has the same on both listeners
    world.plane.assert_quiet()


@for_each("policy", ["append", "pass"])
@for_each("beside", [*ALL])
def test_what_a_client_says_of_its_proxies_does_not_reach_the_upstream(beside: str, policy: str) -> None:
    world = connected(ALL[beside], forwarded=policy)
    fields = b"Forwarded: host=evil;proto=evil\r\nForwarded: for=evil\r\n"
    fields += b"X-Forwarded-Proto: evil\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 666evil\r\n"
    world.client(b"/a", fields)
    assert b"evil" not in world.upstream().received
    world.upstream().sends(FRESH)
    assert status(world.client(b"/a")) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


@for_each("name", sorted(WRITTEN_FOR_EACH_CLIENT))
@for_each("beside", ["alone", "behind"])
def test_a_response_that_varies_by_what_the_gateway_writes_for_each_client_is_not_stored(
    beside: str, name: bytes
) -> None:
    """The upstream gets another value than the client has sent, so what clients send selects nothing."""
    world = connected(ALL[beside])
    for fields in (b"%b: 1.1.1.1\r\n" % name, b""):
        client = world.client(b"/a", fields)
        world.upstream().sends(FRESH.replace(b"Content-L", b"Vary: Accept, %b\r\nContent-L" % name))
        assert status(client) == b"fastgw; fwd=uri-miss; detail=vary"
    world.plane.assert_quiet()


def test_which_headers_the_gateway_writes_for_each_client() -> None:
    """The others are the same for all requests with one key."""
    of_key = {b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix"}
    assert (FAMILY - of_key) | {b"via"} == WRITTEN_FOR_EACH_CLIENT


LANGUAGES = [b"", b"Accept-Language: de\r\n", b"Accept-Language: en\r\n", b"Accept: a\r\n", b"Accept: b\r\n"]


@pytest.mark.parametrize("beside", ["alone", "behind"])
@pytest.mark.parametrize("target", [b"/a", b"/a?b=c"])
def test_headers_in_the_key_keep_responses_apart(target: bytes, beside: str, fetches: list[str]) -> None:
    """`BEHIND` removes Accept: it does not reach the upstream, so it makes no difference there."""
    world = connected(ALL[beside], {"key": {"headers": ["Accept-Language", "Accept"]}})
    for number, fields in enumerate(LANGUAGES):
        client = world.client(target, fields=fields)
        if beside == "behind" and b"Accept:" in fields:
            assert status(client) == b"fastgw; hit; ttl=60"
        else:
            world.upstream().sends(FRESH.replace(b"hello", b"hell%d" % number))
            assert status(client) == STORED
    assert fetches == []
    for number, fields in enumerate(LANGUAGES):
        client = world.client(target, fields=fields + b"Cache-Control: max-stale\r\n")  # is no ordinary request
        assert status(client) == b"fastgw; hit; ttl=60"
        found = 0 if beside == "behind" and b"Accept:" in fields else number
        assert client.received.endswith(b"\r\n\r\nhell%d" % found)
    world.plane.assert_quiet()


def body_of(number: int) -> bytes:
    return b"<%d>" % number * (number % 300 + 50)


@pytest.mark.parametrize("vary", [b"", b"Vary: Accept-Encoding\r\n"])
def test_a_flood_of_urls_stays_within_the_memory_and_each_gets_its_own_response(vary: bytes) -> None:
    """The store is turned over several times."""
    world = connected({})
    store = world.store
    assert isinstance(store, SharedStore)
    client, flood, hits = world.plane.client(), 1800, 0
    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n%bContent-Length: %d\r\n\r\n%b"
    for number in (*range(flood), *range(flood - 1, flood - 100, -1)):
        client.received, body = b"", body_of(number)
        client.sends(b"GET /%d HTTP/1.1\r\nHost: a.test\r\n\r\n" % number)
        if not client.received:
            world.upstream().sends(head % (vary, len(body), body))
        hits += b"fastgw; hit" in client.received
        assert client.received.endswith(b"\r\n\r\n" + body)
    numbers = store.numbers()
    assert sum(len(body_of(number)) for number in range(flood)) > 1.5 * MEMORY
    assert os.fstat(store.memory.fd).st_blocks * 512 <= 1.1 * MEMORY  # the smallest one: its fixed parts are 6 %
    assert numbers.bytes <= MEMORY
    assert numbers.objects == objects_in(store)
    assert pins_in(store.memory) == 0
    assert hits > 50
    world.plane.assert_quiet()


def test_equal_requests_wait_for_it(filters: dict[str, Any]) -> None:
    world = connected(filters)
    clients = [world.client() for _ in range(3)]
    assert len(world.busy()) == 1
    world.upstream().sends(FRESH)
    assert [client.received[-5:] for client in clients] == [b"hello"] * 3
    assert status(clients[2]) == b"fastgw; fwd=uri-miss; ttl=60; stored; collapsed"
    assert [record.cache for record in world.plane.records] == ["miss", "miss", "collapsed", "collapsed"]
    world.plane.assert_quiet()


def test_after_a_response_that_is_not_stored_requests_do_not_wait_for_each_other(
    fetches: list[str], filters: dict[str, Any]
) -> None:
    world = connected(filters)
    for _ in range(2):
        client = world.client()
        world.upstream().sends(PRIVATE)
        assert status(client) == b"fastgw; fwd=uri-miss; detail=private"
    assert "adopted" not in fetches
    client = world.client()  # and what may be stored now is stored, in spite of the mark
    world.upstream().sends(FRESH)
    assert status(client) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    assert status(world.client()) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


@pytest.mark.parametrize("at", [0, 20, len(FRESH) - 2])
def test_a_response_in_pieces_is_stored_too(filters: dict[str, Any], at: int) -> None:
    world = connected(filters)
    client, other = world.client(), world.client()
    upstream = world.upstream()
    if at:
        upstream.sends(FRESH[:at])
    upstream.sends(FRESH[at:])
    assert client.received.endswith(b"\r\n\r\nhello")
    assert other.received.endswith(b"\r\n\r\nhello")
    assert status(client) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    assert status(world.client()) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


@pytest.mark.parametrize("stated", [b"max-age=60", b"private"])
@pytest.mark.parametrize(
    ("received", "sent"),
    [
        *((b"Age: 0", 0), (b"Age: 7", 7), (b"Age: 7, 0", 7), (b"Age: 7\r\nAge: 0", 7), (b"Age: 07", 7)),
        *((b"Age:", None), (b"Age: abc", None), (b"Age: -7", None), (b"Age: 7.0", None), (b"Age: , 7", None)),
        *((b"Age: " + b"9" * 99, 2**31), (b"Age: %b5" % (b"0" * 24), 5), (b"Age: " + b"0" * 25, 0)),
    ],
)
def test_the_client_of_a_miss_gets_the_age_with_which_the_response_is_stored(
    filters: dict[str, Any], received: bytes, sent: int | None, stated: bytes
) -> None:
    """So a cache in front of the gateway does not take another one from a list, or from what is no number."""
    world = connected(filters)
    client = world.client()
    world.upstream().sends(FRESH.replace(b"max-age=60", b'%b\r\nETag: "a"\r\n%b' % (stated, received)))
    ages = [line for line in lines(client) if line.lower().startswith(b"age:")]
    assert ages == ([] if sent is None else [b"Age: %d" % sent])
    assert client.received.endswith(b"\r\n\r\nhello")
    if stated == b"max-age=60":
        assert status(client) == b"fastgw; fwd=uri-miss; ttl=%d; stored" % (60 - (sent or 0))
    world.plane.assert_quiet()


@for_each("route", [{}, {"timeout": "10s"}])  # a response in passing, and one whose exchange is taken over
@for_each(
    ("edits", "sent"),
    [
        ({"set": {"Age": "77"}}, [b"77"]),
        ({"remove": ["Age"]}, []),
        ({"add": {"Age": "78"}}, [None, b"78"]),
        ({"set": {"X-Age": "{response_header.Age}"}}, [None]),
    ],
)
@for_each(("received", "age"), [(b"5", b"5"), (b"5, 6", b"5"), (b"5\r\nAge: 6", b"5"), (b"abc", None)])
def test_the_filter_headers_changes_the_age_of_misses_and_hits_alike(
    route: dict[str, Any],
    edits: dict[str, Any],
    sent: list[bytes | None],
    received: bytes,
    age: bytes | None,
) -> None:
    """`None` in `sent`: the age with which the gateway counts."""
    world = connected(
        {
            "headers": {"response": edits},
        },
        **route,
    )

    def check_ages(client: Wire, age: bytes | None) -> None:
        found = [line for line in lines(client) if line.startswith((b"Age: ", b"X-Age: "))]
        ages = [each or age for each in sent if each or age]
        shown = [b"X-Age: %b" % age] if age and "X-Age" in edits.get("set", ()) else []
        assert found == [b"Age: %b" % each for each in ages if each] + shown

    fresh = FRESH.replace(b"max-age=60", b'max-age=60\r\nETag: "a"\r\nAge: %b' % received)
    for method, target, response in (
        (b"HEAD", b"/", fresh.removesuffix(b"hello")),
        (b"GET", b"/private", fresh.replace(b"max-age=60", b"private")),
        (b"GET", b"/", fresh),
    ):
        client = world.client(target, method=method)
        world.upstream().sends(response)
        check_ages(client, age)
    for fields in (b"", b"", b'If-None-Match: "a"\r\n', b"Range: bytes=0-1\r\n", b"Range: bytes=9-\r\n"):
        check_ages(world.client(fields=fields), age or b"0")
    check_ages(world.client(method=b"HEAD"), age or b"0")
    world.now += 7
    for _ in range(2):
        client = world.client()
        assert status(client).startswith(b"fastgw; hit; ttl=")
        check_ages(client, b"%d" % (int(age or 0) + 7))
    world.plane.assert_quiet()


def test_an_interim_response_is_passed_on(filters: dict[str, Any]) -> None:
    world = connected(filters)
    client = world.client()
    world.upstream().sends(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + FRESH)
    assert client.received.startswith(b"HTTP/1.1 103 ")
    assert client.received.endswith(b"\r\n\r\nhello")
    assert not world.client().received.startswith(b"HTTP/1.1 103 ")
    world.plane.assert_quiet()


def test_a_fetch_goes_on_without_its_client(filters: dict[str, Any]) -> None:
    world = connected(filters)
    client, other = world.client(), world.client()
    client.resets()
    world.upstream().sends(FRESH)
    assert other.received.endswith(b"\r\n\r\nhello")
    assert world.store.numbers().objects == 1
    world.plane.assert_quiet()


def test_a_broken_connection_is_tried_again(filters: dict[str, Any]) -> None:
    world = connected(filters)
    client = world.client()
    world.upstream().resets()
    world.plane.passes(1)
    world.upstream().sends(FRESH)
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(world.client()) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


def test_a_malformed_response_is_a_502_and_frees_those_that_wait(filters: dict[str, Any]) -> None:
    world = connected(filters)
    client, other = world.client(), world.client()
    world.upstream().sends(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 502 ")
    assert world.plane.records[-1].fault == "upstream_malformed"
    world.upstream().sends(FRESH)
    assert other.received.endswith(b"\r\n\r\nhello")


def test_a_defect_in_the_filter_is_a_500(filters: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    world = connected(filters)
    client = world.client()
    with patch.object(cached_request, "encode_record", side_effect=ZeroDivisionError):
        world.upstream().sends(FRESH)
    assert client.received.startswith(b"HTTP/1.1 500 ")
    assert world.store.numbers().objects == 0
    assert "what stores a response" in caplog.text


@pytest.mark.parametrize(
    "fields",
    [b"Range: bytes=0-1\r\n", b'If-None-Match: "a"\r\n'],
)
def test_responses_to_requests_with_conditions_are_not_stored_as_they_pass(fetches: list[str], fields: bytes) -> None:
    world = connected({})
    fetches.clear()
    world.client(fields=fields)
    world.upstream().sends(FRESH)
    assert fetches == ["sent"]


@pytest.mark.parametrize(
    ("fields", "answer", "told"),
    [
        (b"Range: bytes=0-1\r\n", b"206 Partial Content", b"ttl=60; stored"),
        (b"Range: bytes=9-\r\n", b"416 Range Not Satisfiable", b"ttl=60; stored"),
        (b'If-None-Match: "a"\r\n', b"304 Not Modified", b"ttl=60; stored"),
        (b"Cache-Control: no-store\r\n", b"200 OK", b"detail=request-no-store"),
    ],
)
def test_conditions_and_directives_behind_another_filter(fields: bytes, answer: bytes, told: bytes) -> None:
    world = connected(BEHIND)
    client = world.client(fields=fields)
    assert b"Range:" not in world.upstream().received.rpartition(b"GET /")[2]
    world.upstream().sends(FRESH.replace(b"Content-Length", b'ETag: "a"\r\nContent-Length'))
    assert client.received.startswith(b"HTTP/1.1 " + answer)
    assert status(client) == b"fastgw; fwd=uri-miss; " + told
    assert world.store.numbers().objects == (0 if b"no-store" in fields else 1)
    world.plane.assert_quiet()


def test_variants_are_kept_apart(filters: dict[str, Any]) -> None:
    world = connected(filters)
    for coding in (b"gzip", b"br"):
        client = world.client(fields=b"Accept-Encoding: %b\r\n" % coding)
        world.upstream().sends(VARYING.replace(b"hello", coding.rjust(5)))
        assert status(client) == b"fastgw; fwd=%b-miss; ttl=60; stored" % (b"uri" if coding == b"gzip" else b"vary")
    for coding in (b"gzip", b"br", b"gzip"):
        client = world.client(fields=b"Accept-Encoding: %b\r\n" % coding)
        assert client.received.endswith(b"\r\n\r\n" + coding.rjust(5))
        assert status(client) == b"fastgw; hit; ttl=60"
    assert not world.busy()
    world.plane.assert_quiet()


def test_a_variant_that_another_request_waits_for_is_told_to_it(filters: dict[str, Any]) -> None:
    world = connected(filters)
    clients = [world.client(fields=b"Accept-Encoding: gzip\r\n") for _ in range(2)]
    other = world.client(fields=b"Accept-Encoding: br\r\n")
    world.upstream().sends(VARYING)
    assert [client.received[-5:] for client in clients] == [b"hello"] * 2
    assert other.received == b""
    world.upstream().sends(VARYING.replace(b"hello", b"other"))
    assert other.received.endswith(b"\r\n\r\nother")
    world.plane.assert_quiet()


def test_a_response_step_that_fails_is_a_500() -> None:
    world = connected(BEHIND)
    client = world.client()
    with patch("fastgw.filters.policies.headers._Edit.in_lines_of", side_effect=ZeroDivisionError):
        world.upstream().sends(FRESH)
    assert client.received.startswith(b"HTTP/1.1 500 ")
    world.plane.assert_quiet()


def test_a_purge_during_the_fetch_is_not_undone(filters: dict[str, Any]) -> None:
    world = connected(filters)
    client = world.client()
    world.store.purge("all")
    world.upstream().sends(FRESH)
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(client) == b"fastgw; fwd=uri-miss; detail=purged"
    assert world.fetched[-1] == ("all", "purged")
    assert world.store.numbers().objects == 0


PURGES_IN_FLIGHT: dict[str, Callable[[World], object]] = {
    "tags": lambda world: world.store.purge("tag", tags_to_purge(b"http://a.test/")),
    "prefix": lambda world: world.store.purge("prefix", [b"http://a.test/"]),
    "all": lambda world: world.store.purge("all"),
    "PURGE": lambda world: world.client(method=b"PURGE"),
    "POST": lambda world: post(world),
}


def newest_upstream(world: World, before: list[Wire]) -> Wire:
    """Return the upstream's end of the connection with a request that is not one of `before`."""
    if world.plane.pool.waiting:
        return world.plane.connects()
    return next(each for each in world.busy() if each not in before)


def post(world: World) -> None:
    before = world.busy()
    world.client(method=b"POST", fields=b"Content-Length: 0\r\n")
    newest_upstream(world, before).sends(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("purge", PURGES_IN_FLIGHT)
def test_a_purge_during_a_fetch_without_a_lease_is_not_undone(
    filters: dict[str, Any], purge: str, is_full: bool, pieces: int
) -> None:
    """The response before was not stored, so the fetch began without a lease."""
    settings = {"purge_method": {"allow": ["0.0.0.0/0"]}}
    world = connected(filters, settings, **({"timeout": "10s"} if is_full else {}))
    world.client()
    world.upstream().sends(PRIVATE)
    world.now += 0.2
    client = world.client()
    fetched = world.upstream()
    PURGES_IN_FLIGHT[purge](world)
    world.now += 3
    at = len(FRESH) * (pieces - 1) // 2
    for piece in (FRESH[:at], FRESH[at:]):
        if piece:
            fetched.sends(piece)
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(client) == b"fastgw; fwd=uri-miss; detail=purged"
    assert world.store.numbers().objects == 0
    waiting = [world.client(), world.client()]  # nor has the fetch left a mark: they wait for each other
    world.upstream().sends(FRESH)
    assert [status(each) for each in waiting] == [STORED, b"fastgw; fwd=uri-miss; ttl=60; stored; collapsed"]
    world.plane.assert_quiet()


def test_a_fetch_without_a_lease_replaces_no_response_to_a_later_request(filters: dict[str, Any]) -> None:
    world = connected(filters)
    world.client()
    world.upstream().sends(PRIVATE)
    world.now += 0.2
    earlier = world.client()
    slow = world.upstream()
    world.now += 3  # the mark has ended
    later = world.client()
    newest_upstream(world, [slow]).sends(FRESH.replace(b"hello", b"later"))
    assert status(later) == STORED
    slow.sends(FRESH)
    assert earlier.received.endswith(b"hello")
    assert status(earlier) == b"fastgw; fwd=uri-miss; detail=contested"
    assert world.client().received.endswith(b"later")
    world.plane.assert_quiet()


@pytest.mark.parametrize(("at", "detail"), [(0, b"in-flight"), (len(FRESH) - 2, b"contested")])
def test_a_fetch_without_a_lease_does_not_end_the_lease_of_a_later_request(
    filters: dict[str, Any], at: int, detail: bytes
) -> None:
    world = connected(filters)
    world.client()
    world.upstream().sends(PRIVATE)
    world.now += 0.2
    earlier = world.client()
    slow = world.upstream()
    world.now += 3
    later = world.client()
    other = newest_upstream(world, [slow])
    other.sends(FRESH[:at])
    slow.sends(FRESH)
    assert status(earlier) == b"fastgw; fwd=uri-miss; detail=" + detail
    other.sends(FRESH[at:])
    assert status(later) == STORED
    assert world.store.numbers().objects == 1
    world.plane.assert_quiet()


def test_a_pipelined_request_of_another_kind_follows(filters: dict[str, Any]) -> None:
    world = connected(filters)
    client = world.plane.client()
    get = b"GET /%b HTTP/1.1\r\nHost: a.test\r\n\r\n"
    client.sends(get % b"a" + get % b"b" + b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n")
    world.upstream().sends(FRESH)
    world.upstream().sends(PRIVATE)
    world.upstream().sends(FRESH)
    assert client.received.count(b"\r\n\r\nhello") == 3
    assert [record.cache for record in world.plane.records] == ["miss", "miss", "miss", "bypass"]
    world.plane.assert_quiet()


def test_the_status_of_the_cache_follows_those_of_the_caches_before_it() -> None:
    """RFC 9211 section 2: the last one is the nearest to the client, of a hit as of a miss."""
    world = World()
    for told in (b"fastgw; fwd=uri-miss; ttl=60; stored", b"fastgw; hit; ttl=60", b"fastgw; hit; ttl=60"):
        client = world.client()
        if b"hit" not in told:
            world.upstream().sends(FRESH.replace(b"max-age=60", b"max-age=60\r\nCache-Status: cdn; fwd=miss"))
        lines = [line for line in client.received.split(b"\r\n") if line.lower().startswith(b"cache-status:")]
        assert lines == [b"Cache-Status: cdn; fwd=miss", b"Cache-Status: " + told]
