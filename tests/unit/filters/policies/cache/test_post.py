"""POST requests that only read: their body is part of the key."""

from __future__ import annotations

from tests.support.memory import Wire
from tests.support.table import for_each
from tests.unit.filters.policies.cache.test_hits import FRESH, status, value
from tests.unit.filters.policies.cache.world import World

METHODS = {"methods": ["GET", "HEAD", "POST"]}
JSON = b"Content-Type: application/json\r\n"
QUERY = b'{"query":"{a}"}'


def post(world: World, body: bytes = QUERY, fields: bytes = JSON, target: bytes = b"/") -> Wire:
    return world.client(target, b"%bContent-Length: %d\r\n" % (fields, len(body)), b"POST", body)


def last_request(upstream: Wire) -> bytes:
    """Return the last request that the upstream has received."""
    return b"POST " + upstream.received.rpartition(b"POST ")[2]


def test_an_equal_body_is_a_hit_and_the_upstream_gets_the_whole_request() -> None:
    world = World(**METHODS)
    first, second = post(world), post(world)
    upstream = world.upstream()
    sent = last_request(upstream)
    assert sent.startswith(b"POST / HTTP/1.1\r\n")
    assert sent.endswith(b"\r\n\r\n" + QUERY)
    assert JSON in sent
    assert b"Content-Length: %d\r\n" % len(QUERY) in sent
    upstream.sends(FRESH)
    assert status(first) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    assert status(second) == b"fastgw; fwd=uri-miss; ttl=60; stored; collapsed"
    for client in (first, second):
        assert client.received.endswith(b"\r\n\r\nhello")
    for _ in range(2):
        hit = post(world)
        assert hit.received.endswith(b"\r\n\r\nhello")
        assert status(hit) == b"fastgw; hit; ttl=60"
    chunked = JSON + b"Transfer-Encoding: chunked\r\n"
    pieces = b"4\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (QUERY[:4], len(QUERY) - 4, QUERY[4:])
    framed = world.client(b"/", chunked, b"POST", pieces)
    assert status(framed) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


@for_each(
    ("body", "fields", "target", "method"),
    [
        (b'{"query":"{b}"}', JSON, b"/", b"POST"),
        (b"", JSON, b"/", b"POST"),
        (QUERY, b"Content-Type: text/plain\r\n", b"/", b"POST"),
        (QUERY, b"", b"/", b"POST"),
        (QUERY, JSON + b"Content-Encoding: gzip\r\n", b"/", b"POST"),
        (QUERY, JSON, b"/?a", b"POST"),
        (b"", b"", b"/", b"GET"),
        (b"", b"", b"/", b"HEAD"),
    ],
)
def test_another_request_is_another_key(body: bytes, fields: bytes, target: bytes, method: bytes) -> None:
    world = World(**METHODS)
    post(world)
    world.upstream().sends(FRESH)
    length = b"Content-Length: %d\r\n" % len(body) if method == b"POST" else b""
    world.client(target, fields + length, method, body)
    assert world.upstream().received.rpartition(b"HTTP/1.1\r\n")[0].endswith(method + b" %b " % target)


def test_a_body_that_is_too_long_is_forwarded_and_removes_nothing() -> None:
    world = World(**METHODS, body_bytes="16B")
    world.client()
    world.upstream().sends(FRESH)
    for body in (b"x" * 17, b"x" * 100_000):
        client = post(world, body)
        upstream = world.upstream()
        assert last_request(upstream).endswith(b"\r\n\r\n" + body)
        upstream.sends(FRESH)
        assert client.received.endswith(b"\r\n\r\nhello")
        assert status(client) == b"fastgw; fwd=bypass"
    assert (status(world.client()) or b"").startswith(b"fastgw; hit")
    world.plane.assert_quiet()


def test_without_the_setting_a_post_removes_what_is_stored() -> None:
    world = World()
    world.client()
    world.upstream().sends(FRESH)
    post(world)
    world.upstream().sends(FRESH)
    world.client()
    assert world.busy()


def test_a_stale_response_is_replaced_and_not_validated() -> None:
    """Conditions of a POST are for the origin alone: they would be answered 412 (RFC 9110 section 13.1.2)."""
    world = World(**METHODS, stale_if_error="60s", stale_while_revalidate="60s")
    post(world)
    world.upstream().sends(FRESH.replace(b"max-age=60", b'max-age=1\r\nETag: "a"'))
    world.now += 2
    client = post(world)
    upstream = world.upstream()
    assert b"If-None-Match" not in last_request(upstream)
    assert last_request(upstream).endswith(b"\r\n\r\n" + QUERY)
    upstream.sends(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    assert client.received.endswith(b"\r\n\r\nhello")
    world.plane.assert_quiet()


@for_each("fields", [b'If-None-Match: "a"\r\n', b"Range: bytes=0-1\r\n"])
def test_conditions_and_ranges_of_a_post_are_not_about_the_stored_response(fields: bytes) -> None:
    world = World(**METHODS)
    for _ in range(2):
        client = post(world, fields=JSON + fields)
        if world.plane.pool.waiting or world.busy():
            world.upstream().sends(FRESH.replace(b"max-age=60", b'max-age=60\r\nETag: "a"'))
        assert client.received.startswith(b"HTTP/1.1 200 ")
        assert client.received.endswith(b"\r\n\r\nhello")


@for_each(
    ("fields", "response", "reason"),
    [
        (b"Authorization: Basic YTpi\r\n", FRESH, b"authorization"),
        (b"Cache-Control: no-store\r\n", FRESH, b"request-no-store"),
        (b"", FRESH.replace(b"max-age=60", b"private"), b"private"),
        (b"", FRESH.replace(b"\r\nC", b"\r\nSet-Cookie: a=b\r\nC", 1), b"set-cookie"),
    ],
)
def test_clients_are_protected_as_with_get(fields: bytes, response: bytes, reason: bytes) -> None:
    world = World(**METHODS)
    client = post(world, fields=JSON + fields)
    world.upstream().sends(response)
    assert value(client, b"Cache-Status") == b"fastgw; fwd=uri-miss; detail=" + reason


def test_a_purge_of_the_url_removes_all_bodies() -> None:
    world = World(**METHODS, purge_method={"allow": ["127.0.0.1"]})
    for body in (QUERY, b"{}"):
        post(world, body)
        world.upstream().sends(FRESH)
    purge = world.client(method=b"PURGE")
    assert b'{"objects":2' in purge.received
    post(world)
    assert world.busy()


def test_a_long_body_within_the_limit_is_stored() -> None:
    world, body = World(**METHODS, body_bytes="1MiB"), b"x" * 300_000
    post(world, body)
    upstream = world.upstream()
    assert last_request(upstream).endswith(body)
    upstream.sends(FRESH)
    assert status(post(world, body)) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


def test_the_key_has_the_body_as_filters_have_changed_it() -> None:
    change = {"transform": {"request": {"json": {"default": {"b": 1}}}}}
    world = World(route={"filters": change}, **METHODS)
    post(world, b'{"a":1}')
    upstream = world.upstream()
    assert last_request(upstream).endswith(b'{"a":1,"b":1}')
    upstream.sends(FRESH)
    assert status(post(world, b'{"a":1}')) == b"fastgw; hit; ttl=60"
    post(world, b'{"a":2}')
    assert last_request(world.upstream()).endswith(b'{"a":2,"b":1}')
