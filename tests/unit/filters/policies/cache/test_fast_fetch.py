"""Fast fetches: misses whose response is stored as it passes, and those that leave the fast path."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import blake2b
from importlib import import_module
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import Counting, Store
from fastgw.filters.policies.cache import fast_fetch, whole_response
from fastgw.forwarded_headers import FAMILY
from fastgw.http.caching.vary import WRITTEN_FOR_EACH_CLIENT
from fastgw.sync.cache_purges import tags_to_purge
from tests.support.memory import Wire
from tests.unit.cache.nodes import objects_in, pins_in
from tests.unit.filters.policies.cache.test_hits import FRESH, status
from tests.unit.filters.policies.cache.world import World

PRIVATE = b"HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 5\r\n\r\nhello"
VARYING = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nVary: Accept-Encoding\r\nContent-Length: 5\r\n\r\nhello"
PRIVATE_VARYING = PRIVATE.replace(b"private", b"private\r\nVary: Accept")
SEARCHED = FRESH.replace(b"max-age=60", b'max-age=60\r\nNo-Vary-Search: params=("a")')
TAGGED = FRESH.replace(b"max-age=60", b"max-age=60\r\nCache-Tag: " + b" ".join(b"%d" % number for number in range(501)))
BEHIND = {"headers": {"request": {"set": {"X-A": "b"}, "remove": ["Accept"]}, "response": {"set": {"X-A": "b"}}}}
"""Another filter, behind which misses are exchanges."""
CHANGED = {"headers": {"response": {"set": {"X-A": "b", "Cache-Control": "no-store"}, "remove": ["Vary"]}}}
"""Another filter, whose changes of responses are the same for all: misses need no exchange."""
SHARED: dict[str, Any] = {"shared": {}}
ALL: dict[str, dict[str, Any]] = {
    "alone": {},
    "shared": SHARED,
    "behind": BEHIND,
    "changed": CHANGED,
    "behind shared": {**BEHIND, **SHARED},
}
MEMORY = 1 << 20
"""Memory of the shared store of a `World`."""
NO_SETTINGS: dict[str, Any] = {}
POISON = b"X-Forwarded-Host: evil\r\nX-Original-URL: /admin\r\nContent-Type: text/evil\r\n"


class Results:
    """Results of all attempts to take a response on the fast path; `begun`: of those without an exchange."""

    def __init__(self) -> None:
        self.taken: list[bytes | None] = []
        self.begun: list[bool] = []


@pytest.fixture
def results() -> Iterator[Results]:
    made = Results()
    take, begin = fast_fetch.StoringFetch.take_response, fast_fetch.begin_fetch
    take_behind = whole_response.ExchangeFetch.take_response

    def taken(fetch: fast_fetch.StoringFetch, *given: Any) -> bytes | None:
        made.taken.append(take(fetch, *given))
        return made.taken[-1]

    def taken_behind(fetch: whole_response.ExchangeFetch, *given: Any) -> bytes | None:
        made.taken.append(take_behind(fetch, *given))
        return made.taken[-1]

    def begun(*given: Any) -> fast_fetch.StoringFetch | None:
        fetch = begin(*given)
        made.begun.append(fetch is not None)
        return fetch

    with (
        patch.object(fast_fetch.StoringFetch, "take_response", taken),
        patch.object(whole_response.ExchangeFetch, "take_response", taken_behind),
        patch("fastgw.filters.policies.cache.filter.begin_fetch", begun),
    ):
        yield made


@pytest.fixture(params=["alone", "shared", "behind", "behind shared", "changed"])
def filters(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Filters beside the cache, with `SHARED` if the store is that of several workers."""
    found: dict[str, Any] = ALL[request.param]
    return found


def has_exchanges(filters: dict[str, Any]) -> bool:
    """Whether requests behind these filters are exchanges."""
    return "request" in filters.get("headers", {})


def connected(filters: dict[str, Any], settings: dict[str, Any] = NO_SETTINGS, **route: Any) -> World:
    """Return a world with an idle connection to the upstream."""
    others = {name: each for name, each in filters.items() if name != "shared"}
    world = World(route={"filters": others, **route}, is_shared="shared" in filters, **settings)
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
def test_it_is_equal_to_the_full_path(results: Results, filters: dict[str, Any], response: bytes) -> None:
    world, full = connected(filters), connected(filters, timeout="10s")
    results.begun.clear()
    results.taken.clear()
    clients = []
    for each in (world, full):
        clients.append(each.client(fields=POISON))
        sent = each.upstream().received.rpartition(b"GET /")[2]
        assert b"evil" not in sent
        assert b"/admin" not in sent
        each.upstream().sends(response)
        assert clients[-1].received.endswith(b"\r\n\r\nhello")
    if "shared" not in filters:  # it may be compiled
        assert results.begun == ([] if has_exchanges(filters) else [True])
        assert [taken is None for taken in results.taken] == [response is SEARCHED]
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


@pytest.mark.parametrize("beside", ["shared", "behind shared"])
@pytest.mark.parametrize("sent", [b"", b"Authorization: Basic YTpi\r\n", b"Cookie: a=b\r\n"])
@pytest.mark.parametrize(
    "settings",
    [
        *({}, {"ttl": "9s"}, {"override_ttl": "9s"}, {"ttl_by_status": {"404": "9s"}}),
        {"ttl": "9s", "key": {"headers": ["Accept", "Authorization", "Cookie"]}},
    ],
)
@pytest.mark.parametrize(
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
def test_what_is_stored_is_decided_as_on_the_full_path(
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


@pytest.mark.twin
@given(st.binary(max_size=300), st.sampled_from([b"fastgw-primary\0\0", b"fastgw-search-of"]))
def test_compiled_keys_are_those_of_hashlib(text: bytes, person: bytes) -> None:
    compiled: Any = import_module("fastgw.filters.policies.cache._fast_fetch")
    assert compiled.digest(text, person) == blake2b(text, digest_size=16, person=person).digest()


BOTH_TAGGED = FRESH.replace(b"max-age=60", b"max-age=60\r\nCache-Tag: one, two\r\nSurrogate-Key: two three")
STORED = b"fastgw; fwd=uri-miss; ttl=60; stored"


@pytest.mark.twin
@pytest.mark.parametrize("beside", ["shared", "behind shared"])
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
def test_the_usual_miss_of_a_shared_store_is_compiled(response: bytes, told: bytes, beside: str) -> None:
    compiled: Any = import_module("fastgw.filters.policies.cache._fast_fetch")
    world = connected(ALL[beside])
    world.client(b"/opens-a-segment")
    world.upstream().sends(FRESH)
    with (
        patch.object(fast_fetch.StoringFetch, "take_response", side_effect=AssertionError),
        patch.object(whole_response.ExchangeFetch, "take_response", side_effect=AssertionError),
    ):
        client = world.client(b"/a?b=c")
        world.upstream().sends(response)
    assert status(client) == told
    assert fast_fetch.begin_fetch is compiled.begin_fetch
    world.plane.assert_quiet()


@pytest.mark.parametrize("beside", ["shared", "behind shared"])
@pytest.mark.parametrize(
    "purge",
    [
        lambda store: store.purge_tags(tags_to_purge(b"http://a.test/a?b=c")),
        lambda store: store.purge_tags([b"two"]),
        lambda store: store.purge_tags([b"three"]),
        lambda store: store.purge_prefix(b"http://a.test/a"),
        lambda store: store.purge_all(),
    ],
)
@pytest.mark.parametrize("vary", [b"", b"Vary: Accept-Encoding\r\n"])
def test_purges_find_what_was_stored(vary: bytes, purge: Callable[[Store], Counting], beside: str) -> None:
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


@pytest.mark.parametrize("beside", ["alone", "shared", "behind", "behind shared"])
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
    for _ in world.store.purge_tags(tags_to_purge(b"http://a.test/a")):
        pass
    assert status(world.client(b"/a", host=b"a.test:81")) == b"fastgw; hit; ttl=60"
    for host in hosts[:2]:
        client = world.client(b"/a", host=host)
        world.upstream().sends(PRIVATE)
        assert b"hit" not in (status(client) or b"")
    world.plane.assert_quiet()


@pytest.mark.parametrize("beside", [*ALL])
def test_the_port_of_the_listener_is_in_the_key_and_not_in_the_url_for_purges(beside: str) -> None:
    """The upstream gets it in `X-Forwarded-Port`."""
    world, ports = connected(ALL[beside]), (80, 8080)
    for port in ports:
        client = world.client(b"/a", port=port)
        assert b"X-Forwarded-Port: %d\r\n" % port in world.upstream().received.rpartition(b"GET /")[2]
        world.upstream().sends(FRESH.replace(b"hello", b"%05d" % port))
        assert status(client) == STORED
    for _ in range(2):  # the second one from the memory of the worker
        for port in ports:
            client = world.client(b"/a", port=port)
            assert (status(client), client.received[-5:]) == (b"fastgw; hit; ttl=60", b"%05d" % port)
    for _ in world.store.purge_tags(tags_to_purge(b"http://a.test/a")):
        pass
    for port in ports:
        client = world.client(b"/a", port=port)
        world.upstream().sends(PRIVATE)
        assert b"hit" not in (status(client) or b"")
    world.plane.assert_quiet()


@pytest.mark.parametrize("policy", ["append", "pass"])
@pytest.mark.parametrize("beside", [*ALL])
def test_what_a_client_says_of_its_proxies_does_not_reach_the_upstream(beside: str, policy: str) -> None:
    world = connected(ALL[beside], forwarded=policy)
    fields = b"Forwarded: host=evil;proto=evil\r\nForwarded: for=evil\r\n"
    fields += b"X-Forwarded-Proto: evil\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 666evil\r\n"
    world.client(b"/a", fields)
    assert b"evil" not in world.upstream().received
    world.upstream().sends(FRESH)
    assert status(world.client(b"/a")) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


@pytest.mark.parametrize("name", sorted(WRITTEN_FOR_EACH_CLIENT))
@pytest.mark.parametrize("beside", ["alone", "shared", "behind", "behind shared"])
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
    of_key = {b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"}
    assert (FAMILY - of_key) | {b"via"} == WRITTEN_FOR_EACH_CLIENT


LANGUAGES = [b"", b"Accept-Language: de\r\n", b"Accept-Language: en\r\n", b"Accept: a\r\n", b"Accept: b\r\n"]


@pytest.mark.twin
@pytest.mark.parametrize("beside", ["shared", "behind shared"])
@pytest.mark.parametrize("target", [b"/a", b"/a?b=c"])
def test_headers_in_the_key_are_compiled_and_equal_to_the_full_path(target: bytes, beside: str) -> None:
    """`BEHIND` removes Accept: it does not reach the upstream, so it makes no difference there."""
    world = connected(ALL[beside], {"key": {"headers": ["Accept-Language", "Accept"]}})
    client = world.client(b"/opens-a-segment")
    world.upstream().sends(FRESH)
    with patch.object(fast_fetch, "primary_key", side_effect=AssertionError):
        for number, fields in enumerate(LANGUAGES):
            client = world.client(target, fields=fields)
            if beside == "behind shared" and b"Accept:" in fields:
                assert status(client) == b"fastgw; hit; ttl=60"
            else:
                world.upstream().sends(FRESH.replace(b"hello", b"hell%d" % number))
                assert status(client) == STORED
    for number, fields in enumerate(LANGUAGES):
        client = world.client(target, fields=fields + b"Cache-Control: max-stale\r\n")  # takes the full path
        assert status(client) == b"fastgw; hit; ttl=60"
        found = 0 if beside == "behind shared" and b"Accept:" in fields else number
        assert client.received.endswith(b"\r\n\r\nhell%d" % found)
    world.plane.assert_quiet()


def body_of(number: int) -> bytes:
    return b"<%d>" % number * (number % 300 + 50)


@pytest.mark.parametrize("vary", [b"", b"Vary: Accept-Encoding\r\n"])
def test_a_flood_of_urls_stays_within_the_memory_and_each_gets_its_own_response(vary: bytes) -> None:
    """The store is turned over several times."""
    world = connected(SHARED)
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


def test_equal_requests_wait_for_it(results: Results, filters: dict[str, Any]) -> None:
    world = connected(filters)
    clients = [world.client() for _ in range(3)]
    assert len(world.busy()) == 1
    world.upstream().sends(FRESH)
    assert [client.received[-5:] for client in clients] == [b"hello"] * 3
    assert status(clients[2]) == b"fastgw; fwd=uri-miss; ttl=60; stored; collapsed"
    assert [record.cache for record in world.plane.records] == ["miss", "miss", "collapsed", "collapsed"]
    world.plane.assert_quiet()


def test_after_a_response_that_is_not_stored_requests_do_not_wait_for_each_other(
    results: Results, filters: dict[str, Any]
) -> None:
    world = connected(filters)
    for _ in range(2):
        client = world.client()
        world.upstream().sends(PRIVATE)
        assert status(client) == b"fastgw; fwd=uri-miss; detail=private"
    assert None not in results.taken[-2:]
    client = world.client()  # and what may be stored now is stored, in spite of the mark
    world.upstream().sends(FRESH)
    assert status(client) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    assert status(world.client()) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


@pytest.mark.parametrize("at", [0, 20, len(FRESH) - 2])
def test_a_response_in_pieces_goes_on_on_the_full_path(results: Results, filters: dict[str, Any], at: int) -> None:
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


def test_an_interim_response_is_passed_on(results: Results, filters: dict[str, Any]) -> None:
    world = connected(filters)
    client = world.client()
    world.upstream().sends(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + FRESH)
    assert client.received.startswith(b"HTTP/1.1 103 ")
    assert client.received.endswith(b"\r\n\r\nhello")
    assert not world.client().received.startswith(b"HTTP/1.1 103 ")
    world.plane.assert_quiet()


def test_a_fetch_goes_on_without_its_client(results: Results, filters: dict[str, Any]) -> None:
    world = connected(filters)
    client, other = world.client(), world.client()
    client.resets()
    world.upstream().sends(FRESH)
    assert other.received.endswith(b"\r\n\r\nhello")
    assert world.store.numbers().objects == 1
    world.plane.assert_quiet()


def test_a_broken_connection_is_tried_again(results: Results, filters: dict[str, Any]) -> None:
    world = connected(filters)
    client = world.client()
    world.upstream().resets()
    world.plane.passes(1)
    world.upstream().sends(FRESH)
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(world.client()) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


def test_a_malformed_response_is_a_502_and_frees_those_that_wait(results: Results, filters: dict[str, Any]) -> None:
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
    module = whole_response if has_exchanges(filters) else fast_fetch
    with patch.object(module, "decide_storing", side_effect=ZeroDivisionError):
        world.upstream().sends(FRESH)
    assert client.received.startswith(b"HTTP/1.1 500 ")
    assert world.store.numbers().objects == 0
    assert "a fetch on the fast path" in caplog.text


@pytest.mark.parametrize(
    "fields",
    [b"Cache-Control: no-store\r\n", b"Pragma: no-cache\r\n", b"Range: bytes=0-1\r\n", b'If-None-Match: "a"\r\n'],
)
def test_requests_with_conditions_or_directives_take_the_full_path(results: Results, fields: bytes) -> None:
    world = connected({})
    results.begun.clear()
    world.client(fields=fields)
    assert True not in results.begun


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


def test_variants_are_kept_apart_on_both_paths(results: Results, filters: dict[str, Any]) -> None:
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


def test_a_variant_that_another_request_waits_for_is_told_to_it(results: Results, filters: dict[str, Any]) -> None:
    world = connected(filters)
    clients = [world.client(fields=b"Accept-Encoding: gzip\r\n") for _ in range(2)]
    other = world.client(fields=b"Accept-Encoding: br\r\n")
    world.upstream().sends(VARYING)
    assert [client.received[-5:] for client in clients] == [b"hello"] * 2
    assert other.received == b""
    world.upstream().sends(VARYING.replace(b"hello", b"other"))
    assert other.received.endswith(b"\r\n\r\nother")
    world.plane.assert_quiet()


def test_a_response_step_that_fails_is_a_500(results: Results) -> None:
    world = connected(BEHIND)
    client = world.client()
    with patch("fastgw.exchange.Exchange.pass_response_steps", lambda *given: False):
        world.upstream().sends(FRESH)
    assert client.received.startswith(b"HTTP/1.1 500 ")
    world.plane.assert_quiet()


def test_a_purge_during_the_fetch_is_not_undone(results: Results, filters: dict[str, Any]) -> None:
    world = connected(filters)
    client = world.client()
    world.store.purge_all()
    world.upstream().sends(FRESH)
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(client) == b"fastgw; fwd=uri-miss; detail=purged"
    assert world.fetched[-1] == ("all", "purged")
    assert world.store.numbers().objects == 0


def test_a_pipelined_request_of_another_kind_follows(results: Results, filters: dict[str, Any]) -> None:
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
