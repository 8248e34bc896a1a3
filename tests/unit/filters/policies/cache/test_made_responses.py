"""The filter `cache` on routes that make their responses of others: `compose` and `lambda`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from fastgw.sync.cache_purges import tags_to_purge
from tests.support.memory import SERVICE, Wire
from tests.unit.filters.policies.cache.test_hits import status, value
from tests.unit.filters.policies.cache.world import World
from tests.unit.functions.test_lambda import AWS

A = {"name": "a", "upstream": "u", "path": "/a"}
B = {"name": "b", "upstream": "u", "path": "/b"}


def composed(*parts: dict[str, Any], compose: Mapping[str, Any] = {}, **settings: Any) -> World:
    route = {"paths": ["/d/{id}"], "compose": {"parts": list(parts) or [A, B], **compose}}
    return World(route=route, **settings)


def answer(world: World, fields: bytes = b"Cache-Control: max-age=10\r\n", code: bytes = b"200") -> list[bytes]:
    """Answer all parts that are requested, each with an object of its name. Returns what was requested."""
    seen: list[bytes] = []
    while world.plane.pool.waiting or world.busy():
        wire = world.upstream()
        request = wire.received.rpartition(b"GET ")[2]
        seen.append(request)
        name = request[1:2]
        wire.sends(b"HTTP/1.1 %b X\r\n%bContent-Length: 7\r\n\r\n" % (code, fields) + b'{"%b":1}' % name)
        world.plane.settle()
    return seen


def test_the_whole_is_stored_with_the_fields_from_its_parts() -> None:
    world = composed()
    client = world.client(b"/d/1")
    assert len(answer(world)) == 2
    assert client.received.endswith(b'\r\n\r\n{"a":1,"b":1}')
    assert status(client) == b"fastgw; fwd=uri-miss; ttl=10; stored"
    assert value(client, b"Fastgw-Completed") == b"true"
    world.now += 3
    again = world.client(b"/d/1")
    assert status(again) == b"fastgw; hit; ttl=7"
    assert value(again, b"Age") == b"3"
    assert value(again, b"Fastgw-Completed") == b"true"
    assert value(again, b"Content-Type") == b"application/json"
    assert value(again, b"ETag") == value(client, b"ETag")
    assert value(again, b"Via") is None
    assert again.received.endswith(b'\r\n\r\n{"a":1,"b":1}')
    unchanged = world.client(b"/d/1", b"If-None-Match: %b\r\n" % value(client, b"ETag"))
    assert unchanged.received.startswith(b"HTTP/1.1 304 ")
    head = world.client(b"/d/1", method=b"HEAD")
    assert value(head, b"Content-Length") == b"13"
    assert [record.cache for record in world.plane.records] == ["miss", "hit", "hit", "hit"]
    assert [record.subrequests.count("127.0.0.1:9 200") for record in world.plane.records] == [2, 0, 0, 0]
    world.client(b"/d/2")
    assert len(answer(world)) == 2
    world.plane.assert_quiet()


def test_a_part_with_the_result_of_a_map_is_requested_as_without_the_cache() -> None:
    maps = {"release": {"source": "{header.X-Release}", "values": {"beta": "v2"}, "default": "v1"}}
    world = composed({**A, "path": "/a/{map.release}/{id}"}, also={"maps": maps})
    for fields, path in ((b"X-Release: beta\r\n", b"/a/v2/1 "), (b"", b"/a/v1/1 ")):
        client = world.client(b"/d/1", fields)
        assert [sent.startswith(path) for sent in answer(world)] == [True]
        assert client.received.endswith(b'\r\n\r\n{"a":1}')
    assert status(world.client(b"/d/1", b"X-Release: beta\r\n")) == b"fastgw; hit; ttl=10"
    world.plane.assert_quiet()


def test_equal_requests_are_one_composition() -> None:
    world = composed()
    clients = [world.client(b"/d/1") for _ in range(3)]
    assert len(answer(world)) == 2
    assert all(client.received.endswith(b'{"a":1,"b":1}') for client in clients)
    assert status(clients[1]) == b"fastgw; fwd=uri-miss; ttl=10; stored; collapsed"


def test_a_client_that_leaves_does_not_end_the_composition_for_others() -> None:
    world = composed()
    leaves, stays = world.client(b"/d/1"), world.client(b"/d/1")
    leaves.resets()
    answer(world)
    assert stays.received.endswith(b'{"a":1,"b":1}')
    world.plane.assert_quiet()


def test_a_stale_composition_is_validated_by_its_entity_tag() -> None:
    world = composed()
    world.client(b"/d/1", b'If-None-Match: "of-the-client"\r\n')
    answer(world)
    world.now += 11
    client = world.client(b"/d/1")
    answer(world, b"Cache-Control: max-age=20\r\n")
    assert status(client) == b"fastgw; fwd=stale; fwd-status=304; ttl=20; stored"
    assert client.received.endswith(b'{"a":1,"b":1}')


@pytest.mark.parametrize(
    "fields",
    [b"", b"Cache-Control: no-store\r\n", b"Cache-Control: private, max-age=5\r\n"],
)
def test_what_no_part_allows_is_not_stored(fields: bytes) -> None:
    world = composed()
    client = world.client(b"/d/1")
    answer(world, fields)
    assert client.received.startswith(b"HTTP/1.1 200 ")
    world.now += 2
    world.client(b"/d/1")
    assert len(answer(world, fields)) == 2


def test_an_incomplete_composition_is_never_stored() -> None:
    world = composed(A, {**B, "path": "/x"}, ttl="1m")
    client = world.client(b"/d/1")
    world.upstream().sends(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}')
    world.upstream().sends(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
    assert client.received.endswith(b'{"a":1}')
    assert value(client, b"Fastgw-Completed") == b"false"
    assert value(client, b"Cache-Control") is None
    assert world.plane.records[-1].fault == "composition_failed"
    assert world.store.numbers().objects == 0


def test_a_failed_composition_is_a_fault() -> None:
    world = composed({**A, "required": True})
    client = world.client(b"/d/1")
    answer(world, code=b"404")
    assert client.received.startswith(b"HTTP/1.1 404 ")
    assert client.received.endswith(b'{"a":1}')
    assert world.store.numbers().objects == 0
    none = composed(A)
    client = none.client(b"/d/1")
    answer(none, code=b"500")
    assert client.received.startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    ("part", "one", "other"),
    [
        ({"headers_to_pass": ["X-A"]}, b"X-A: 1\r\n", b"X-A: 2\r\n"),
        ({"headers_to_pass": ["X-A"]}, b"X-A:\r\n", b""),
        ({"headers": {"X-B": "{header.X-A}"}}, b"X-A: 1\r\n", b"X-A: 2\r\n"),
        ({"path": "/a?t={cookie.t}"}, b"Cookie: t=1\r\n", b"Cookie: t=2\r\n"),
        ({"method": "POST", "body": {"a": ["{header.X-A}"]}}, b"X-A: 1\r\n", b"X-A: 2\r\n"),
    ],
)
def test_values_of_the_request_that_parts_have_are_part_of_the_key(
    part: dict[str, Any], one: bytes, other: bytes
) -> None:
    world = composed({**A, **part})

    def ask(fields: bytes) -> bool:
        """Whether the request was answered from the store."""
        client = world.client(b"/d/1", fields + b"X-Other: %d\r\n" % len(world.plane.records))
        is_hit = bool(client.received)
        if not is_hit:
            world.upstream().sends(
                b"HTTP/1.1 200 X\r\nCache-Control: max-age=9\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}'
            )
        return is_hit

    assert [ask(one), ask(one), ask(other), ask(other), ask(one), ask(one)] == [False, True, False, True, True, True]


def test_a_query_parameter_outside_of_the_key_reaches_no_part() -> None:
    world = composed({**A, "query_to_pass": ["*"]}, key={"query": {"only": ["p"]}})
    world.client(b"/d/1?p=1&q=2")
    assert answer(world)[0].startswith(b"/a?p=1 ")
    assert status(world.client(b"/d/1?p=1&q=3")) == b"fastgw; hit; ttl=10"


def test_the_id_of_a_request_is_no_part_of_the_key() -> None:
    world = composed({**A, "headers": {"X-Request": "{request_id}", "X-Route": "{route}"}})
    world.client(b"/d/1")
    sent = answer(world)[0]
    assert b"\r\nX-Route: all\r\n" in sent
    assert b"\r\nX-Request: " in sent
    assert status(world.client(b"/d/1")) == b"fastgw; hit; ttl=10"


def test_clients_that_are_told_apart_by_a_part_share_nothing() -> None:
    """With `Authorization` passed to a part, the response is stored only if all parts allow that (RFC 9111 3.5)."""
    world = composed({**A, "headers_to_pass": ["Authorization"]})
    for _ in range(2):
        world.client(b"/d/1", b"Authorization: Bearer x\r\n")
        assert len(answer(world)) == 1
        world.now += 2
    world.client(b"/d/1", b"Authorization: Bearer x\r\n")
    answer(world, b"Cache-Control: public, max-age=10\r\n")


def test_vary_of_the_parts_selects_variants() -> None:
    world = composed({**A, "headers_to_pass": ["X-Lang"]}, B)
    fields = b"Cache-Control: max-age=10\r\nVary: X-Lang\r\n"
    world.client(b"/d/1", b"X-Lang: de\r\n")
    answer(world, fields)
    world.client(b"/d/1", b"X-Lang: en\r\n")
    assert len(answer(world, fields)) == 2
    assert status(world.client(b"/d/1", b"X-Lang: de\r\n")) == b"fastgw; hit; ttl=10"


def test_purges_and_unsafe_methods_remove_it() -> None:
    world = composed()
    world.client(b"/d/1")
    answer(world)
    world.store.purge("tag", tags_to_purge(b"http://a.test/d/1"))
    world.client(b"/d/1")
    assert len(answer(world)) == 2
    client = world.client(b"/d/1", method=b"POST", fields=b"Content-Length: 1\r\n", body=b"x")
    assert len(answer(world)) == 2
    assert status(client) == b"fastgw; fwd=method"
    world.client(b"/d/1")
    assert len(answer(world)) == 2


def test_a_tag_of_any_part_purges_the_whole() -> None:
    world = composed(A, {**B, "after": ["a"]})

    def is_fetched() -> bool:
        client = world.client(b"/d/1")
        if client.received:
            return False
        for name, tags in (b"a", b"Surrogate-Key: k1 k2"), (b"b", b"Surrogate-Key: k2\r\nCache-Tag: t1,t2"):
            fields = b"Cache-Control: max-age=10\r\n%b\r\nContent-Length: 7\r\n\r\n" % tags
            world.upstream().sends(b'HTTP/1.1 200 X\r\n%b{"%b":1}' % (fields, name))
            world.plane.settle()
        assert value(client, b"Surrogate-Key") == b"k1 k2"
        assert value(client, b"Cache-Tag") == b"t1, t2"
        return True

    assert (is_fetched(), is_fetched()) == (True, False)
    for tag in (b"k1", b"k2", b"t1", b"t2"):
        world.store.purge("tag", [tag])
        assert (is_fetched(), is_fetched()) == (True, False), tag
    world.store.purge("tag", [b"t3"])
    assert not is_fetched()


def test_a_whole_with_more_tags_than_a_cache_keeps_is_not_stored() -> None:
    world = composed(A)
    tags = b" ".join(b"k%d" % each for each in range(65))
    client = world.client(b"/d/1")
    answer(world, b"Cache-Control: max-age=10\r\nSurrogate-Key: %b\r\n" % tags)
    assert client.received.endswith(b'{"a":1}')
    assert world.store.numbers().objects == 0


def test_the_only_part_as_it_is() -> None:
    world = composed(A, compose={"output": "no-op"})
    client = world.client(b"/d/1")
    answer(world, b"Cache-Control: max-age=10\r\nSurrogate-Key: k1\r\nFastgw-Completed: forged\r\n")
    assert value(client, b"Fastgw-Completed") == b"true"
    hit = world.client(b"/d/1")
    assert status(hit) == b"fastgw; hit; ttl=10"
    assert value(hit, b"Fastgw-Completed") == b"true"
    assert hit.received.count(b"Fastgw-Completed") == 1


def answer_only_part(world: World, declared: bytes = b"", body: bytes = b"") -> bytes:
    """Answer the only part. Returns the method with which it was requested."""
    wire = world.upstream()
    asked = wire.received.rpartition(b" /a ")[0].rpartition(b"\n")[2]
    wire.sends(b"HTTP/1.1 200 X\r\nCache-Control: max-age=10\r\n%b\r\n%b" % (declared, body))
    world.plane.settle()
    return asked


def body_of(client: Wire) -> bytes:
    return client.received.partition(b"\r\n\r\n")[2]


def test_head_of_a_part_that_is_no_get_is_a_miss_without_a_body() -> None:
    world = composed({**A, "method": "POST"}, compose={"output": "no-op"})
    head = world.client(b"/d/1", method=b"HEAD")
    assert answer_only_part(world, b"Content-Length: 7\r\n", b'{"a":1}') == b"POST"
    assert (value(head, b"Content-Length"), body_of(head)) == (b"7", b"")
    got = world.client(b"/d/1")
    answer_only_part(world, b"Content-Length: 7\r\n", b'{"a":1}')
    assert (status(got), body_of(got)) == (b"fastgw; fwd=uri-miss; ttl=10; stored", b'{"a":1}')
    again = world.client(b"/d/1", method=b"HEAD")
    assert (status(again), value(again, b"Content-Length"), body_of(again)) == (b"fastgw; hit; ttl=10", b"7", b"")
    world.plane.assert_quiet()


def test_a_part_that_is_a_head_is_stored_with_an_empty_body() -> None:
    world = composed({**A, "method": "HEAD"}, compose={"output": "no-op"})
    got = world.client(b"/d/1")
    assert answer_only_part(world, b"Content-Length: 7\r\n") == b"HEAD"
    assert (status(got), value(got, b"Content-Length"), body_of(got)) == (
        b"fastgw; fwd=uri-miss; ttl=10; stored",
        b"0",
        b"",
    )
    again = world.client(b"/d/1")
    assert (status(again), value(again, b"Content-Length"), body_of(again)) == (b"fastgw; hit; ttl=10", b"0", b"")
    world.plane.assert_quiet()


def test_a_response_of_a_function_is_stored() -> None:
    route = {"paths": ["/f/*"], "lambda": {"upstream": "aws", "function": "orders"}}
    world = World(route=route, upstreams={**SERVICE["upstreams"], "aws": AWS})
    result = {"statusCode": 200, "headers": {"cache-control": "max-age=10", "surrogate-key": "k"}, "body": "hello"}
    payload = json.dumps(result).encode()
    client = world.client(b"/f/1?a=1")
    world.upstream().sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(payload), payload))
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(client) == b"fastgw; fwd=uri-miss; ttl=10; stored"
    hit = world.client(b"/f/1?a=1")
    assert hit.received.endswith(b"\r\n\r\nhello")
    assert status(hit) == b"fastgw; hit; ttl=10"
    other = world.client(b"/f/1?a=2")
    assert not other.received
    world.upstream().sends(b"HTTP/1.1 200 OK\r\nX-Amz-Function-Error: Unhandled\r\nContent-Length: 2\r\n\r\n{}")
    assert other.received.startswith(b"HTTP/1.1 502 ")


def test_the_log_of_a_streamed_response_lists_the_sub_requests_that_have_ended() -> None:
    world = composed(A, compose={"output": "no-op"})
    client = world.client(b"/d/1")
    wire = world.upstream()
    wire.sends(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\nContent-Length: 4\r\n\r\nab")
    assert client.received.endswith(b"\r\n\r\nab")
    wire.sends(b"cd")
    assert client.received.endswith(b"\r\n\r\nabcd")
    world.client(b"/d/1")
    miss, hit = world.plane.records
    assert (miss.cache, miss.subrequests.rpartition(" ")[0]) == ("miss", "u 127.0.0.1:9 200")
    assert (hit.cache, hit.subrequests) == ("hit", "")
    world.plane.assert_quiet()


def test_a_client_that_leaves_does_not_cancel_the_sub_request_of_a_response_that_is_stored() -> None:
    world = composed(A, compose={"output": "no-op"})
    client = world.client(b"/d/1")
    wire = world.upstream()
    wire.sends(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\nContent-Length: 4\r\n\r\nab")
    client.resets()
    wire.sends(b"cd")
    assert world.client(b"/d/1").received.endswith(b"\r\n\r\nabcd")
    assert [(record.cache, record.subrequests) for record in world.plane.records] == [("miss", ""), ("hit", "")]
    world.plane.assert_quiet()
