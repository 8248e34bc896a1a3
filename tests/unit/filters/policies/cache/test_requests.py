"""Validation, variants, ranges, stale responses, invalidation and keys of the filter `cache`, in memory."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from itertools import count, permutations
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from fastgw.cache.shared.layout import DISK_FAILED, JOURNAL_LEFT
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import PURGE_WAIT_S, Refusal, StoredObject
from fastgw.errors import Fault
from fastgw.filters.policies.cache import Cache
from fastgw.filters.policies.cache.ready_answers import ReadyMemory
from fastgw.filters.policies.cache.stored_answer import AT_ONCE
from fastgw.testing import configured
from tests.support.counted_plane import CountedPlane, played
from tests.support.memory import SERVICE
from tests.support.table import for_each
from tests.unit.cache.nodes import TieredNode
from tests.unit.cache.test_disk_tier import LARGE, files_in
from tests.unit.filters.policies.cache.test_hits import FRESH, status, value
from tests.unit.filters.policies.cache.world import World

TAGGED = b'HTTP/1.1 200 OK\r\nCache-Control: max-age=10\r\nETag: "a"\r\nContent-Length: 5\r\n\r\nhello'


def stored(world: World, response: bytes = TAGGED, target: bytes = b"/", fields: bytes = b"") -> None:
    world.client(target, fields)
    world.upstream().sends(response)


def refuse(world: World) -> None:
    """Refuse connections until nothing is tried again."""
    while world.plane.pool.waiting:
        world.plane.cannot_connect(Fault.CONNECT_REFUSED)
        world.plane.passes(2)


def test_a_stale_response_is_validated_and_freshened() -> None:
    world = World()
    stored(world)
    world.now += 11
    client, other = world.client(), world.client()
    upstream = world.upstream()
    assert b'If-None-Match: "a"\r\n' in upstream.received.rpartition(b"GET /")[2]
    upstream.sends(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nCache-Control: max-age=20\r\nX-New: 1\r\n\r\n')
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(client) == b"fastgw; fwd=stale; fwd-status=304; ttl=20; stored"
    assert value(client, b"X-New") == b"1"
    assert other.received.endswith(b"\r\n\r\nhello")
    assert status(other) == b"fastgw; fwd=stale; ttl=20; stored; collapsed"
    assert status(world.client()) == b"fastgw; hit; ttl=20"
    assert [record.cache for record in world.plane.records] == ["miss", "revalidated", "collapsed", "hit"]
    world.plane.assert_quiet()


def test_a_304_that_says_no_store_or_has_another_etag_removes_the_stored_response() -> None:
    world = World()
    stored(world)
    world.now += 11
    client = world.client()
    world.upstream().sends(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nCache-Control: no-store\r\n\r\n')
    assert client.received.endswith(b"\r\n\r\nhello")
    assert world.store.numbers().objects == 0
    world.now += 2
    stored(world)
    world.now += 11
    client = world.client()
    world.upstream().sends(b'HTTP/1.1 304 Not Modified\r\nETag: "b"\r\n\r\n')
    assert b"If-None-Match" not in world.busy()[0].received.rpartition(b"GET /")[2]
    world.upstream().sends(FRESH)
    assert client.received.endswith(b"\r\n\r\nhello")
    world.plane.assert_quiet()


@pytest.mark.parametrize(
    ("validator", "of_304"),
    [
        (b'ETag: W/"a"', b'ETag: "a"'),
        (b"Last-Modified: Fri, 15 Jan 2021 09:00:00 GMT", b'ETag: "a"'),
        (b"Last-Modified: Fri, 15 Jan 2021 09:00:00 GMT", b"Last-Modified: Fri, 15 Jan 2021 09:00:01 GMT"),
    ],
)
def test_the_old_body_does_not_get_a_validator_of_another(validator: bytes, of_304: bytes) -> None:
    """A client would get a part of it for the body that has this validator."""
    world = World()
    stored(world, TAGGED.replace(b'ETag: "a"', validator))
    world.now += 11
    client = world.client(fields=b'Range: bytes=0-1\r\nIf-Range: "a"\r\n')
    world.upstream().sends(b"HTTP/1.1 304 Not Modified\r\n%b\r\n\r\n" % of_304)
    again = world.busy()[0].received.rpartition(b"GET /")[2]
    assert (b"If-None-Match" in again, b"If-Modified-Since" in again) == (False, False)
    world.upstream().sends(TAGGED.replace(b'ETag: "a"', of_304).replace(b"hello", b"world"))
    assert client.received[-2:] == (b"wo" if of_304.startswith(b"ETag") else b"ld")
    assert world.client().received[-5:] == b"world"
    world.plane.assert_quiet()


@pytest.mark.parametrize(
    ("fields", "of_304", "kept"),
    [
        (b"Authorization: Bearer ann\r\n", b"Cache-Control: max-age=60\r\nX-Own: ann\r\n", 1),
        (b"Cookie: session=ann\r\n", b"X-Own: ann\r\nSet-Cookie: session=ann\r\n", 1),
        (b"Origin: http://a.test\r\n", b"Cache-Control: max-age=60\r\nX-Own: ann\r\nVary: Origin\r\n", 0),
    ],
    ids=["credentials", "cookies", "vary"],
)
def test_a_304_that_is_not_for_all_is_for_its_client_alone(fields: bytes, of_304: bytes, kept: int) -> None:
    """What is stored was for all, but the next client would get the headers of this one. The stored response stays,
    unless its key is too coarse: otherwise such clients could keep it from all others.
    """
    world = World()
    stored(world)
    world.now += 11
    client = world.client(fields=fields)
    world.upstream().sends(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nAge: 5\r\n%b\r\n' % of_304)
    assert (value(client, b"X-Own"), client.received[-5:]) == (b"ann", b"hello")
    assert value(client, b"Age") == b"5"
    assert world.store.numbers().objects == kept
    other = world.client(fields=b"Origin: http://b.test\r\n")
    assert (b"If-None-Match" in world.busy()[0].received.rpartition(b"GET /")[2]) is bool(kept)
    world.upstream().sends(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n' if kept else FRESH)
    assert (value(other, b"X-Own"), other.received[-5:]) == (None, b"hello")
    world.plane.assert_quiet()


@pytest.mark.parametrize(
    ("fields", "of_304"),
    [(b"Authorization: Bearer ann\r\n", b"Cache-Control: max-age=60\r\n"), (b"Cookie: session=ann\r\n", b"")],
    ids=["credentials", "cookies"],
)
def test_after_a_304_for_one_client_alone_others_like_it_do_not_wait(fields: bytes, of_304: bytes) -> None:
    """Each would get a 304 for itself. Clients without an identity wait for each other as before."""
    world = World()
    stored(world)
    world.now += 11
    clients, plain = [world.client(fields=fields) for _ in range(4)], [world.client(), world.client()]
    own_304 = b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n%b\r\n' % of_304
    world.upstream().sends(own_304)
    asked = [*world.busy(), *(world.plane.connects() for _ in range(len(world.plane.pool.waiting)))]
    assert len(asked) == 4
    for upstream in asked:
        sent = upstream.received.rpartition(b"GET /")[2]
        assert b"If-None-Match" in sent
        upstream.sends(own_304 if fields in sent else b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n')
    assert [each.received[-5:] for each in (*clients, *plain)] == [b"hello"] * 6
    assert sorted(map(str, map(status, plain))) == [
        "b'fastgw; fwd=stale; fwd-status=304; ttl=10; stored'",
        "b'fastgw; fwd=stale; ttl=10; stored; collapsed'",
    ]
    world.plane.assert_quiet()


@pytest.mark.parametrize("asked", [b"", b'If-None-Match: "a"\r\n', b"Range: bytes=0-1\r\n"])
def test_set_cookie_and_unshared_headers_of_a_304_are_for_the_client_whose_request_it_answers(asked: bytes) -> None:
    """RFC 9111 section 3.2: its response is updated as a whole; what is stored, and sent to others, is not its own."""
    world = World()
    stored(world)
    world.now += 11
    client, other = world.client(fields=asked), world.client()
    own = b'Cache-Control: max-age=20, no-cache="X-Own"\r\nX-Own: ann\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n'
    world.upstream().sends(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n%b\r\n' % own)
    for line in (b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n", b"X-Own: ann\r\n"):
        assert client.received.count(line) == 1
    later = world.client()
    assert [status(each) for each in (client, other, later)] == [
        b"fastgw; fwd=stale; fwd-status=304; ttl=20; stored",
        b"fastgw; fwd=stale; ttl=20; stored; collapsed",
        b"fastgw; hit; ttl=20",
    ]
    for each in (other, later):
        assert (value(each, b"Set-Cookie"), value(each, b"X-Own"), each.received[-5:]) == (None, None, b"hello")
    world.plane.assert_quiet()


def test_the_cookie_of_a_304_is_stored_where_cookies_are() -> None:
    world = World(store_set_cookie=True)
    stored(world, TAGGED.replace(b"ETag", b"Set-Cookie: a=1\r\nETag"))
    world.now += 11
    client = world.client()
    world.upstream().sends(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nSet-Cookie: a=2\r\n\r\n')
    assert [each.received.count(b"Set-Cookie: a=2\r\n") for each in (client, world.client())] == [1, 1]
    assert client.received.count(b"Set-Cookie") == 1
    world.plane.assert_quiet()


def test_a_304_may_name_fewer_of_the_headers_that_select_a_variant() -> None:
    world = World()
    tagged = TAGGED.replace(b"ETag", b"Vary: Origin, X-A\r\nETag")
    stored(world, tagged, fields=b"X-A: 1\r\n")
    world.now += 11
    client = world.client(fields=b"X-A: 1\r\n")
    world.upstream().sends(b"HTTP/1.1 304 Not Modified\r\nVary: X-A\r\nCache-Control: max-age=20\r\n\r\n")
    assert status(client) == b"fastgw; fwd=stale; fwd-status=304; ttl=20; stored"
    assert status(world.client(fields=b"X-A: 1\r\n")) == b"fastgw; hit; ttl=20"
    world.client(fields=b"X-A: 2\r\n")
    world.upstream().sends(FRESH)
    world.plane.assert_quiet()


@pytest.mark.parametrize("has_directives", [False, True])
def test_every_tag_of_a_stored_response_purges_it(has_directives: bool) -> None:
    """A response with more than are kept is not stored: a purge by one of the others would miss it."""
    world = World()
    fields = b"Cache-Control: max-age=1000\r\n" if has_directives else b""
    tags = [*(b"tag%d" % number for number in range(499)), b"t" * 300]
    response = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nSurrogate-Key: %b\r\nContent-Length: 1\r\n\r\nx"
    for target, held in ((b"/a", tags), (b"/b", [*tags, b"last"])):
        client = world.client(target, fields)
        world.upstream().sends(response % b" ".join(held))
        detail = b"; ttl=60; stored" if held is tags else b"; detail=tags"
        assert status(client) == b"fastgw; fwd=uri-miss" + detail
    assert world.store.numbers().objects == 1
    world.store.purge("tag", [tags[-1]])
    world.client(b"/a")
    assert world.busy()


def test_conditions_ranges_and_head_of_clients_are_answered_from_the_store() -> None:
    world = World()
    stored(world)
    client = world.client(fields=b'If-None-Match: "a"\r\n')
    assert client.received.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert value(client, b"ETag") == b'"a"'
    client = world.client(fields=b"Range: bytes=1-2\r\n")
    assert client.received.startswith(b"HTTP/1.1 206 Partial Content\r\n")
    assert client.received.endswith(b"\r\n\r\nel")
    assert (value(client, b"Content-Range"), value(client, b"Content-Length")) == (b"bytes 1-2/5", b"2")
    client = world.client(fields=b'Range: bytes=1-2\r\nIf-Range: "b"\r\n')
    assert client.received.endswith(b"\r\n\r\nhello")
    client = world.client(fields=b"Range: bytes=9-\r\n")
    assert client.received.startswith(b"HTTP/1.1 416 ")
    assert value(client, b"Content-Range") == b"bytes */5"
    client = world.client(method=b"HEAD")
    assert client.received.endswith(b"\r\n\r\n")
    assert value(client, b"Content-Length") == b"5"
    assert [record.cache for record in world.plane.records][1:] == ["hit"] * 5
    world.plane.assert_quiet()


def test_a_client_that_asks_for_a_range_gets_it_while_the_whole_response_is_stored() -> None:
    world = World()
    client = world.client(fields=b'Range: bytes=3-\r\nIf-None-Match: "x"\r\n')
    upstream = world.upstream()
    assert b"Range" not in upstream.received
    assert b"If-None-Match" not in upstream.received
    upstream.sends(TAGGED[:-4])
    upstream.sends(b"ello")
    assert client.received.endswith(b"\r\n\r\nlo")
    assert world.client().received.endswith(b"\r\n\r\nhello")
    world.plane.assert_quiet()


def test_a_part_has_its_own_content_range_only() -> None:
    """In a 200 it means nothing (RFC 9110 section 14.4), and is stored and forwarded as it is."""
    world = World()
    stored(world, TAGGED.replace(b"\r\n\r\n", b"\r\nContent-Range: bytes 0-4/9\r\ncontent-range: bytes 5-9/10\r\n\r\n"))
    part = world.client(fields=b"Range: bytes=1-2\r\n").received
    assert (part[:13], part[-2:]) == (b"HTTP/1.1 206 ", b"el")
    assert [line for line in part.lower().split(b"\r\n") if b"content-range" in line] == [b"content-range: bytes 1-2/5"]
    assert world.client().received.lower().count(b"content-range") == 2
    world.plane.assert_quiet()


WHOLE = b'HTTP/1.1 200 OK\r\nCache-Control: private\r\nETag: "a"\r\nContent-Length: 5\r\n\r\nhello'


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        (b'If-None-Match: "a"\r\n', b'HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nETag: "a"\r\n\r\n'),
        (
            b"Range: bytes=1-2\r\n",
            b"HTTP/1.1 206 Partial Content\r\nCache-Control: max-age=60\r\nContent-Range: bytes 1-2/5\r\n"
            b"Content-Length: 2\r\n\r\nel",
        ),
        (
            b"Range: bytes=9-\r\n",
            b"HTTP/1.1 416 Range Not Satisfiable\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            b"Range: bytes=1-2\r\n",
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Range: bytes 1-2/5\r\n"
            b"Content-Length: 2\r\n\r\nel",
        ),
    ],
    ids=["not modified", "part", "no such part", "part as a whole"],
)
def test_conditions_and_ranges_reach_the_upstream_after_a_response_that_was_not_stored(
    fields: bytes, answer: bytes
) -> None:
    """The client need not get all of what the store does not take. Nothing that answers them is stored: the next client
    gets the whole.
    """
    world = World()
    stored(world, WHOLE)
    client = world.client(fields=fields)
    upstream = world.upstream()
    assert fields in upstream.received.rpartition(b"GET /")[2]
    upstream.sends(answer)
    assert client.received.startswith(answer.partition(b"\r\n")[0])
    assert client.received.endswith(answer.rpartition(b"\r\n\r\n")[2])
    assert status(client) == b"fastgw; fwd=uri-miss; detail=status"
    assert world.store.numbers().objects == 0
    whole = world.client()
    assert fields not in world.upstream().received.rpartition(b"GET /")[2]
    world.upstream().sends(FRESH)
    assert whole.received.endswith(b"\r\n\r\nhello")
    assert world.client(fields=b"Range: bytes=1-2\r\n").received.endswith(b"\r\n\r\nel")
    world.plane.assert_quiet()


def test_a_whole_response_to_a_range_that_reaches_the_upstream_is_stored_and_its_part_sent() -> None:
    world = World()
    stored(world, WHOLE)
    client = world.client(fields=b"Range: bytes=1-2\r\n")
    world.upstream().sends(FRESH)
    assert client.received.startswith(b"HTTP/1.1 206 ")
    assert client.received.endswith(b"\r\n\r\nel")
    assert world.client().received.endswith(b"\r\n\r\nhello")
    world.plane.assert_quiet()


@pytest.mark.parametrize("wait", [2, 11])
def test_conditions_and_ranges_do_not_reach_the_upstream_where_the_response_may_be_stored(wait: int) -> None:
    """A mark ends; and a stored response is validated with its own conditions, also after a failure."""
    world = World()
    if wait == 2:
        stored(world, WHOLE)
    else:
        stored(world)
    world.now += wait
    if wait == 11:
        stored(world, b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    client = world.client(fields=b'Range: bytes=1-2\r\nIf-None-Match: "z"\r\n')
    sent = world.upstream().received.rpartition(b"GET /")[2]
    assert b"Range" not in sent
    assert b'"z"' not in sent
    world.upstream().sends(FRESH)
    assert client.received.endswith(b"\r\n\r\nel")
    world.plane.assert_quiet()


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_part_has_the_digest_of_the_representation_and_none_of_the_whole_content(is_stored: bool) -> None:
    """RFC 9530 section 2: `Content-Digest` is that of the content of its message, as `Content-MD5` once was."""
    world = World()
    of_content = (b"Content-Digest", b"Content-MD5")
    digests = b"Content-Digest: sha-256=:AA==:\r\nContent-MD5: AA==\r\nRepr-Digest: sha-256=:AA==:\r\n"
    response = TAGGED.replace(b"\r\n\r\n", b"\r\n" + digests + b"\r\n")
    if is_stored:
        whole = world.client()
        world.upstream().sends(response)
        assert None not in [value(whole, name) for name in of_content]
    client = world.client(fields=b"Range: bytes=1-2\r\n")
    if not is_stored:
        world.upstream().sends(response)
        whole = world.client()
        assert None not in [value(whole, name) for name in of_content]
    assert client.received.startswith(b"HTTP/1.1 206 Partial Content\r\n")
    assert client.received.endswith(b"\r\n\r\nel")
    assert [value(client, name) for name in of_content] == [None, None]
    assert value(client, b"Repr-Digest") == b"sha-256=:AA==:"


def test_variants_are_kept_apart_and_bounded() -> None:
    world = World(max_variants=2)
    for number in range(3):
        stored(
            world,
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nVary: X-A\r\nContent-Length: 1\r\n\r\n%d" % number,
            fields=b"X-A: %d\r\n" % number,
        )
    assert [world.client(fields=b"X-A: %d\r\n" % number).received[-1:] for number in (1, 2)] == [b"1", b"2"]
    assert world.store.numbers().objects == 3
    client = world.client(fields=b"X-A: 0\r\n")
    world.upstream().sends(FRESH)
    assert (status(client) or b"").startswith(b"fastgw; fwd=vary-miss")
    world.plane.assert_quiet()


def test_a_stale_response_is_sent_while_it_is_validated_in_the_background() -> None:
    world = World(stale_while_revalidate="30s")
    stored(world)
    world.now += 11
    client = world.client()
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(client) == b"fastgw; hit; ttl=-1"
    world.upstream().sends(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n')
    assert status(world.client()) == b"fastgw; hit; ttl=10"
    assert [record.cache for record in world.plane.records] == ["miss", "stale", "hit"]
    world.plane.assert_quiet()


def test_a_stale_response_is_sent_in_place_of_an_error() -> None:
    world = World(stale_if_error="30s")
    stored(world)
    world.now += 11
    client = world.client()
    world.upstream().sends(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(client) == b"fastgw; hit; ttl=-1; detail=error"
    assert status(world.client()) == b"fastgw; hit; ttl=-1; detail=error"
    assert not world.busy()
    world.now += 2
    client = world.client()
    world.upstream().sends(FRESH)
    assert status(client) == b"fastgw; fwd=stale; ttl=60; stored"
    world.plane.assert_quiet()


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"])
def test_what_was_purged_softly_is_sent_as_stale_in_place_of_an_error(answer: bytes | None) -> None:
    """RFC 9211 section 2.6: of a stale response, the freshness that is left is not a positive number."""
    world = World(stale_if_error="60s", upstreams={"u": {"targets": ["http://u"], "retries": {"max": 0}}})
    stored(world, TAGGED.replace(b"ETag", b"Connection: close\r\nETag"))
    for _ in world.store.purge("all", soft=True):
        pass
    client = world.client()
    if answer is None:
        refuse(world)
    else:
        world.upstream().sends(answer)
    assert client.received.endswith(b"\r\n\r\nhello")
    detail = b"unreachable" if answer is None else b"error"
    assert status(client) == b"fastgw; hit; ttl=0; detail=" + detail
    again = world.client()  # within a second after that
    assert status(again) == b"fastgw; hit; ttl=0; detail=error"
    world.plane.assert_quiet()


def test_a_stale_response_is_sent_while_the_circuit_breaker_is_open() -> None:
    breaker = {"error_rate": "1%", "min_requests": 1}
    with played(), patch("tests.unit.filters.policies.cache.world.Plane", CountedPlane):
        world = World(upstreams={"u": {**SERVICE["upstreams"]["u"], "circuit_breaker": breaker}})
        stored(world)
        world.now += 11
        world.client(b"/failing")
        world.upstream().sends(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        assert world.client(b"/other").received.startswith(b"HTTP/1.1 503 ")
        client = world.client()
        assert client.received.endswith(b"\r\n\r\nhello")
        assert status(client) == b"fastgw; hit; ttl=-1; detail=unreachable"
        assert not world.busy()


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\n"])
def test_head_gets_a_stale_response_in_place_of_an_error_like_get(answer: bytes | None) -> None:
    world = World(stale_if_error="1h")
    stored(world)
    world.now += 11
    if answer is None:
        for connection in list(world.plane.pool.open):
            world.plane.pool.discard(connection)
    client = world.client(method=b"HEAD")
    if answer is None:
        refuse(world)
    else:
        world.upstream().sends(answer)
    assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.received.endswith(b"\r\n\r\n")
    assert value(client, b"Content-Length") == b"5"
    trouble = b"unreachable" if answer is None else b"error"
    assert status(client) == b"fastgw; hit; ttl=-1; detail=" + trouble
    world.plane.assert_quiet()


def test_the_response_to_head_is_for_its_client_alone() -> None:
    """It is neither stored nor a validation, whatever it says; its conditions are evaluated by the upstream."""
    world = World()
    stored(world)
    world.now += 11
    for fields, answer in (
        (b"", FRESH[:-5]),
        (b'If-None-Match: "b"\r\n', b'HTTP/1.1 304 Not Modified\r\nETag: "b"\r\n\r\n'),
        (b"", b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n"),
    ):
        client = world.client(fields=fields, method=b"HEAD")
        upstream = world.upstream()
        sent = upstream.received.rpartition(b"HEAD ")[2]
        assert (b"If-None-Match" in sent) is bool(fields)
        upstream.sends(answer)
        assert client.received[:12] == answer[:12]
        assert client.received.endswith(b"\r\n\r\n")
        assert status(client) == b"fastgw; fwd=stale"
    client = world.client()
    assert b'If-None-Match: "a"\r\n' in world.upstream().received
    world.upstream().sends(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n')
    assert client.received.endswith(b"\r\n\r\nhello")
    world.plane.assert_quiet()


def test_a_stale_response_precedes_the_fallback_of_the_route_which_is_not_stored() -> None:
    reply = {"status": 200, "body": "later", "headers": {"Cache-Control": "max-age=100"}}
    world = World(route={"fallback": {"respond": reply}})
    stored(world)
    for connection in list(world.plane.pool.open):
        world.plane.pool.discard(connection)
    world.now += 11
    for target, body in ((b"/", b"hello"), (b"/other", b"later"), (b"/other", b"later")):
        client = world.client(target)
        refuse(world)
        assert client.received.endswith(b"\r\n\r\n" + body)


def test_a_fallback_gets_no_parameters_that_are_not_in_the_key() -> None:
    upstreams = {name: {"targets": [f"http://{name}.test"], "retries": {"max": 0}} for name in "uv"}
    credentials = {"filters": {"credentials": {"basic": {"username": "u", "password": "p"}}}}
    for more in ({}, credentials):
        world = World(
            upstreams=upstreams, route={"fallback": {"upstream": "v"}, **more}, key={"query": {"except": ["utm"]}}
        )
        client = world.client(b"/x?utm=1&a=2")
        world.plane.cannot_connect()
        upstream = world.upstream()
        assert upstream.received.startswith(b"GET /x?a=2 ")
        assert upstream.target == "v.test:80"
        upstream.sends(FRESH)
        assert client.received.startswith(b"HTTP/1.1 200 ")


MAPS = {"release": {"source": "{cookie.release}", "values": {"beta": "v2"}, "default": "v1"}}


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest.mark.parametrize("filters", [{}, {"credentials": {"basic": {"username": "u", "password": "p"}}}], ids=[*"ab"])
@pytest.mark.parametrize(
    ("rewrite", "sent"),
    [("/{map.release}{path}", b"/v2/x"), ("/of/{route}", b"/of/all"), ("/by/{request_id}", b"/by/%b")],
)
def test_a_path_with_values_of_the_request_is_fetched_as_other_methods_are_forwarded(
    rewrite: str, sent: bytes, filters: dict[str, Any], method: bytes
) -> None:
    world = World(route={"rewrite": rewrite, "filters": filters}, also={"maps": MAPS})
    client = world.client(b"/x", fields=b"Cookie: release=beta\r\n", method=method)
    upstream = world.upstream()
    request_id = upstream.received.partition(b"X-Request-Id: ")[2].partition(b"\r\n")[0]
    path = sent % request_id if b"%b" in sent else sent
    assert upstream.received.startswith(b"%b %b HTTP/1.1\r\n" % (method, path))
    upstream.sends(TAGGED.removesuffix(b"hello") if method == b"HEAD" else TAGGED)
    assert client.received.startswith(b"HTTP/1.1 200 ")
    world.plane.assert_quiet()


def test_the_results_of_a_map_have_responses_of_their_own() -> None:
    world = World(route={"rewrite": "/{map.release}{path}"}, also={"maps": MAPS}, ttl="60s")
    for fields, path in ((b"Cookie: release=beta\r\n", b"/v2/x"), (b"", b"/v1/x")):
        client = world.client(b"/x", fields=fields)
        upstream = world.upstream()
        assert upstream.received.rpartition(b"GET ")[2].startswith(path)
        upstream.sends(TAGGED.replace(b"hello", path))
        for each in (client, world.client(b"/x", fields=fields)):
            assert each.received.endswith(path)


ALL_HEADERS = {"listeners": {"main": {"address": "127.0.0.1:0", "reserved_headers": []}}}
"""A listener whose clients may send headers that only proxies may send by default."""


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ({"query": "none"}, b"/x"),
        ({"query": {"except": ["utm"]}}, b"/x?a=2"),
        ({"headers": ["X-HTTP-Method-Override"]}, b"/x?utm=1&a=2"),
    ],
)
def test_a_copy_has_what_the_route_sends(key: dict[str, Any], sent: bytes) -> None:
    """Also that of a request that is answered from the store: its service may have a cache of its own."""
    upstreams = {name: {"targets": [f"http://{name}.test"], "retries": {"max": 0}} for name in "uv"}
    world = World(upstreams=upstreams, route={"filters": {"mirror": {"upstream": "v"}}}, also=ALL_HEADERS, key=key)
    override = b"X-HTTP-Method-Override: DELETE\r\n"
    is_in_key = "headers" in key
    # A miss, a hit from the store, one from the memory of the worker, and one past the cache at the end
    for method, more, is_stored in (
        *((b"GET", b"", False), (b"GET", b"", True), (b"GET", b"", True), (b"HEAD", b"", True)),
        (b"GET", b"Content-Type: a/b\r\nContent-Length: 4\r\n", True),
        (b"POST", b"Content-Length: 4\r\n", False),
    ):
        body = b"body" if b"Length" in more else b""
        world.client(b"/x?utm=1&a=2", override + more, method=method, body=body)
        if not is_stored:
            world.upstream().sends(TAGGED)
        copy = world.upstream()
        assert copy.target == "v.test:80"
        last = copy.received[copy.received.rindex(b"%b /x" % method) :]
        assert last.startswith(b"%b %b HTTP/1.1\r\n" % (method, sent))
        assert (override in last) is (is_in_key or method == b"POST")
        assert last.endswith(b"\r\n\r\nbody") is (method == b"POST")
        assert b"Content-" not in last or method == b"POST"
        copy.sends(TAGGED if method != b"HEAD" else TAGGED.removesuffix(b"hello"))
    world.plane.assert_quiet()


DENIED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"


def with_credentials(**route: Any) -> World:
    return World(route={"filters": {"credentials": {"basic": {"username": "u", "password": "p"}}}, **route})


def renewed(world: World, response: bytes = TAGGED) -> None:
    """Refuse the credentials once. The request is sent again, and answered."""
    world.upstream().sends(DENIED)
    world.plane.settle()
    again = world.upstream()
    assert again.received.count(b"Authorization: Basic dTpw\r\n") == again.received.count(b"GET ") == 2
    again.sends(response)


@pytest.mark.parametrize("route", [{}, {"fallback": {"respond": {"status": 200}}}], ids=str)
def test_a_fetch_whose_credentials_are_refused_is_sent_again_with_newer_ones(route: dict[str, Any]) -> None:
    world = with_credentials(**route)
    client = world.client()
    renewed(world)
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(world.client()) == b"fastgw; hit; ttl=10"
    world.plane.assert_quiet()


def test_a_validation_in_the_background_whose_credentials_are_refused_keeps_what_is_stored() -> None:
    world = with_credentials()
    stored(world, TAGGED.replace(b"max-age=10", b"max-age=10, stale-while-revalidate=60"))
    world.now += 11
    assert status(world.client()) == b"fastgw; hit; ttl=-1"
    renewed_with = b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=10\r\n\r\n"
    world.upstream().sends(DENIED)
    world.plane.settle()
    world.upstream().sends(renewed_with)
    assert status(world.client()) == b"fastgw; hit; ttl=10"
    world.plane.assert_quiet()


def test_a_stale_response_is_sent_while_the_upstream_is_unreachable() -> None:
    world = World()
    stored(world)
    for connection in list(world.plane.pool.open):
        world.plane.pool.discard(connection)
    world.now += 11
    client = world.client()
    refuse(world)
    assert client.received.endswith(b"\r\n\r\nhello")
    assert status(client) == b"fastgw; hit; ttl=-1; detail=unreachable"
    world.now += 3601
    client = world.client()
    refuse(world)
    assert client.received.startswith(b"HTTP/1.1 502 ")
    assert status(client) == b"fastgw; fwd=stale"
    world.plane.assert_quiet()


def test_after_a_soft_purge_no_time_of_freshness_is_left_when_the_upstream_fails() -> None:
    world = World()
    stored(world, TAGGED.replace(b"max-age=10", b"max-age=600, stale-if-error=60"))
    world.store.purge("all", soft=True)
    failed = world.client()
    world.upstream().sends(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    assert status(failed) == b"fastgw; hit; ttl=0; detail=error"
    marked = world.client()  # no request to the upstream for a second
    assert status(marked) == b"fastgw; hit; ttl=0; detail=error"
    world.now += 2
    world.plane.passes(2)
    for connection in list(world.plane.pool.open):
        world.plane.pool.discard(connection)
    unreachable = world.client()
    refuse(world)
    assert status(unreachable) == b"fastgw; hit; ttl=0; detail=unreachable"
    world.plane.assert_quiet()


@pytest.mark.parametrize("named", [b"/", b"/other"])
def test_a_successful_change_removes_what_is_stored(named: bytes) -> None:
    world = World()
    stored(world, target=named)
    client = world.client(method=b"POST", fields=b"Content-Length: 0\r\n")
    world.upstream().sends(b"HTTP/1.1 201 Created\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % named)
    assert status(client) == b"fastgw; fwd=method"
    again = world.client(named)
    world.upstream().sends(FRESH)
    assert status(again) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    assert world.announced == []  # clients decide how many changes there are: only purges reach other nodes
    world.plane.assert_quiet()


def test_what_is_not_in_the_key_does_not_reach_the_upstream() -> None:
    world = World(also=ALL_HEADERS, key={"query": {"except": ["utm_*"]}, "headers": ["X-Tenant"]})
    fields = b"X-Tenant: a\r\nX-Host: evil\r\nX-HTTP-Method-Override: DELETE\r\nX-Forwarded-Host: evil\r\n"
    world.client(b"/a?x=1&utm_source=s", fields + b"Content-Length: 3\r\n", body=b"abc")
    upstream = world.upstream()
    sent = upstream.received
    assert sent.startswith(b"GET /a?x=1 HTTP/1.1\r\n")
    assert b"evil" not in sent
    assert b"Override" not in sent
    assert sent.endswith(b"\r\n\r\n")
    upstream.sends(FRESH)
    assert (status(world.client(b"/a?x=1", b"X-Tenant: a\r\n")) or b"").startswith(b"fastgw; hit")
    other = world.client(b"/a?x=1", b"X-Tenant: b\r\n")
    world.upstream().sends(FRESH)
    assert (status(other) or b"").startswith(b"fastgw; fwd=uri-miss")
    world.plane.assert_quiet()


@pytest.mark.parametrize(
    ("method", "fields", "told"),
    [
        (b"GET", b"", b"fastgw; fwd=uri-miss; ttl=60; stored"),
        (b"HEAD", b"", b"fastgw; fwd=uri-miss"),
        (b"POST", b"Content-Length: 0\r\n", b"fastgw; fwd=method"),
        (b"OPTIONS", b"", b"fastgw; fwd=method"),
        (b"GET", b"X-No-Cache: 1\r\n", b"fastgw; fwd=bypass"),
        (b"GET", b'If-Match: "a"\r\n', b"fastgw; fwd=bypass"),
    ],
)
def test_a_parameter_that_is_not_in_the_key_does_not_reach_the_upstream_with_any_method(
    method: bytes, fields: bytes, told: bytes
) -> None:
    world = World(key={"query": {"except": ["utm_*"]}}, bypass={"header": "X-No-Cache"})
    client = world.client(b"/a?x=1&utm_source=s", fields, method=method)
    upstream = world.upstream()
    assert upstream.received.startswith(b"%b /a?x=1 HTTP/1.1\r\n" % method)
    upstream.sends(FRESH[:-5] if method == b"HEAD" else FRESH)
    assert status(client) == told
    world.plane.assert_quiet()


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest.mark.parametrize("fallback", [None, {"respond": {"status": 503, "body": "later"}}])
def test_answers_of_the_gateway_itself_say_what_the_cache_did(method: bytes, fallback: dict[str, Any] | None) -> None:
    world = World(route={"fallback": fallback} if fallback else {})
    client = world.client(method=method, fields=b"Content-Length: 0\r\n" if method == b"POST" else b"")
    refuse(world)
    assert client.received.startswith(b"HTTP/1.1 503 " if fallback else b"HTTP/1.1 502 ")
    assert status(client) == (b"fastgw; fwd=method" if method == b"POST" else b"fastgw; fwd=uri-miss")
    world.plane.assert_quiet()


def test_only_if_cached_and_the_bypass_header() -> None:
    world = World(bypass={"header": "X-No-Cache"})
    client = world.client(fields=b"Cache-Control: only-if-cached\r\n")
    assert client.received.startswith(b"HTTP/1.1 504 ")
    assert status(client) == b"fastgw; detail=only-if-cached"
    client = world.client(fields=b"X-No-Cache: 1\r\n")
    world.upstream().sends(FRESH)
    assert status(client) == b"fastgw; fwd=bypass"
    assert world.store.numbers().objects == 0
    world.plane.assert_quiet()


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_a_client_that_catches_up_gets_a_piece_for_which_the_store_is_full_once(pieces: int) -> None:
    world = World()
    slow, upstream, body = behind(world, b"Transfer-Encoding: chunked")
    most = world.store.most_bytes
    key, left = 0, 8 * most - world.store.numbers().bytes
    while left > 0x8000:  # with objects that cannot be evicted, because they grow
        lease = world.store.lease(b"%016d" % key)
        assert not isinstance(lease, Refusal)
        writer = lease.store(b"head")
        assert writer is not None
        for _ in range(min(left, most) // 0x4000 - 1):
            assert writer.append(b"x" * 0x4000)
        key, left = key + 1, 8 * most - world.store.numbers().bytes
    piece = b"y" * 0x8000
    with patch.object(world.plane, "settle"):
        for _ in range(pieces):
            upstream.sends(b"8000\r\n%b\r\n" % piece)
        slow.takes()
    world.plane.settle()
    upstream.sends(b"0\r\n\r\n")
    assert dechunked(slow.received) == body + piece * pieces
    world.plane.assert_quiet()


def test_the_response_steps_of_other_filters_run_on_each_response_and_not_on_the_stored_one() -> None:
    world = World(route={"filters": {"headers": {"response": {"set": {"X-Mark": "1"}}}}})
    client = world.client()
    world.upstream().sends(FRESH)
    assert value(client, b"X-Mark") == b"1"
    assert value(world.client(), b"X-Mark") == b"1"


def test_a_client_that_reads_slowly_does_not_hold_up_others() -> None:
    world = World()
    body = bytes(range(256)) * 1024
    slow = world.client()
    slow.room = 1000
    other = world.client()
    upstream = world.upstream()
    upstream.sends(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % len(body))
    for at in range(0, len(body), 20000):
        upstream.sends(body[at : at + 20000])
    assert other.received.endswith(body)
    assert len(slow.received) <= 1000
    slow.takes()
    assert slow.received.endswith(b"\r\n\r\n" + body)
    world.plane.assert_quiet()


def behind(world: World, framing: bytes, fields: bytes = b"") -> tuple[Any, Any, bytes]:
    """Return a client that has paused and reads again, of which the event loop has not taken notice in its next turn,
    the upstream, and the part of the body that was sent to the client: all that has arrived. `fields`: of the client.
    """
    slow = world.client(fields=fields)
    slow.room = 1000
    upstream = world.upstream()
    upstream.sends(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n%b\r\n\r\n" % framing)
    body = Random(1).randbytes(256_000)
    chunked = b"chunked" in framing
    for at in range(0, len(body), 32_000):
        part = body[at : at + 32_000]
        upstream.sends(b"7d00\r\n%b\r\n" % part if chunked else part)
    assert len(slow.received) <= 1000
    return slow, upstream, body


def dechunked(response: bytes) -> bytes:
    """Return the body of a chunked response, which has no trailers."""
    left = response.partition(b"\r\n\r\n")[2]
    body = b""
    while not left.startswith(b"0\r\n"):
        size, _, left = left.partition(b"\r\n")
        length = int(size, 16)
        assert left[length : length + 2] == b"\r\n"
        body += left[:length]
        left = left[length + 2 :]
    assert left == b"0\r\n\r\n"
    return body


def test_a_client_that_catches_up_gets_what_arrives_meanwhile_after_what_it_has_missed() -> None:
    world = World()
    later = b"later" * 1000
    slow, upstream, body = behind(world, b"Content-Length: %d" % (256_000 + 2 * len(later)))
    with patch.object(world.plane, "settle"):
        slow.takes()
        assert len(slow.received) < len(body) // 2
        upstream.sends(later)
    world.plane.settle()
    assert slow.received.endswith(body + later)
    upstream.sends(later)
    assert slow.received.endswith(b"\r\n\r\n" + body + later + later)
    assert world.client().received.endswith(body + later + later)
    world.plane.assert_quiet()


def test_a_client_that_catches_up_gets_several_pieces_in_a_turn_of_the_loop() -> None:
    world = World()
    slow, upstream, body = behind(world, b"Content-Length: 256003")
    soon = world.plane.soon
    with patch.object(world.plane, "settle"):
        slow.takes()
        (catch_up,) = soon
        soon.clear()
        catch_up()
        assert slow.received.endswith(b"\r\n\r\n" + body)
        assert len(soon) == 1  # what has come meanwhile is for the next turn
    world.plane.settle()
    upstream.sends(b"end")
    assert slow.received.endswith(body + b"end")
    world.plane.assert_quiet()


def test_a_client_whose_response_is_compressed_gets_one_piece_in_a_turn_of_the_loop() -> None:
    """Else its compression would hold up other requests."""
    world = World(route={"filters": {"compress": {"min_bytes": 1}}})
    framing = b"Content-Type: text/plain\r\nContent-Length: 256003"
    slow, upstream, body = behind(world, framing, b"Accept-Encoding: gzip\r\n")
    soon, turns = world.plane.soon, 0
    with patch.object(world.plane, "settle"):
        slow.takes()
        while soon:
            (catch_up,) = soon
            soon.clear()
            before = len(slow.received)
            catch_up()
            slow.takes()
            assert len(slow.received) - before < AT_ONCE + 1000
            turns += 1
    assert turns >= len(body) // AT_ONCE
    upstream.sends(b"end")
    assert gzip.decompress(dechunked(slow.received)) == body + b"end"
    world.plane.assert_quiet()


def test_a_response_that_ends_while_its_client_catches_up_is_complete() -> None:
    world = World()
    slow, upstream, body = behind(world, b"Transfer-Encoding: chunked")
    with patch.object(world.plane, "settle"):
        slow.takes()
        upstream.sends(b"3\r\nend\r\n0\r\n\r\n")
        assert b"end" not in slow.received
    world.plane.settle()
    assert dechunked(slow.received) == body + b"end"
    world.plane.assert_quiet()


def test_a_response_that_the_store_loses_while_its_client_catches_up_is_complete() -> None:
    world = World()
    slow, upstream, body = behind(world, b"Transfer-Encoding: chunked")
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    with patch.object(world.plane, "settle"):
        slow.takes()
        for _ in range(80):
            upstream.sends(chunk)
        assert not upstream.reading
        upstream.sends(b"3\r\nend\r\n0\r\n\r\n")
    world.plane.settle()
    assert dechunked(slow.received) == body + b"x" * (80 * 0x8000) + b"end"
    assert world.store.numbers().objects == 0
    world.plane.assert_quiet()


def full(world: World) -> list[StoredObject]:
    """Read objects until the store has no space for another one, and return them."""
    held: list[StoredObject] = []
    for length in (40_000, 4000, 0):
        for number in range(1000):
            key = b"%016d" % number
            lease = world.store.lease(key)
            assert not isinstance(lease, Refusal)
            if not lease.store_whole(b"head", bytes(length), url=b"", tags=()):
                lease.give_up()
                break
            found = world.store.find(key)
            assert found is not None
            held.append(found)
    return held


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_response_of_known_length_is_whole_for_all_that_read_along_however_full_the_store_is(
    is_refused: bool,
) -> None:
    """It is stored with all of its space, or passed on, and each one that waits fetches for itself."""
    world = World(memory=1 << 20)
    body = bytes(range(250)) * 400
    response = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    clients = [world.client() for _ in range(3)]
    held = full(world) if is_refused else []
    upstream = world.upstream()
    upstream.sends(response[:1000])
    held = held or full(world)
    upstream.sends(response[1000:])
    assert clients[0].received.endswith(b"\r\n\r\n" + body)
    for upstream in world.busy():
        upstream.sends(response)
    while world.plane.pool.waiting:
        world.upstream().sends(response)
    assert [client.received.rpartition(b"\r\n\r\n")[2] == body for client in clients] == [True] * 3
    assert status(clients[0]) == (
        b"fastgw; fwd=uri-miss; detail=store-full" if is_refused else b"fastgw; fwd=uri-miss; ttl=60; stored"
    )
    assert [b"collapsed" in status(client) for client in clients[1:]] == [not is_refused] * 2
    for found in held:
        found.release()
    world.plane.assert_quiet()


@pytest.mark.parametrize("fields", [b"", b"Range: bytes=0-9\r\n"])
@pytest.mark.parametrize("is_full", [False, True])
def test_a_response_whose_space_takes_long_to_reserve_is_read_along_when_there_is_all_of_it(
    is_full: bool, fields: bytes
) -> None:
    world = World(memory=1 << 20)
    assert isinstance(world.store, SharedStore)
    head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n"
    stored(world, head % 50_000 + bytes(50_000), b"/a")
    passing = count()
    world.store.clock = lambda: float(next(passing))  # a call reserves space in one segment, no more
    body = bytes(range(250)) * 400
    head %= len(body)
    slow, other = world.client(fields=fields), world.client()
    slow.room = 1000
    upstream = world.upstream()
    upstream.sends(head)
    assert other.received == b""
    held = full(world) if is_full else []
    upstream.sends(body[:60_000])
    if is_full:
        world.upstream().sends(head + body)
    else:
        assert other.received.endswith(b"\r\n\r\n" + body[:60_000])
    slow.takes()
    upstream.sends(body[60_000:])
    for client in (slow, other):
        assert client.received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.received.endswith(b"\r\n\r\n" + body)
    assert (b"collapsed" in status(other)) is not is_full
    for found in held:
        found.release()
    world.plane.assert_quiet()


@pytest.mark.parametrize("leaves", ["client", "upstream"])
def test_nothing_is_sent_after_a_client_that_catches_up_or_its_upstream_has_left(leaves: str) -> None:
    world = World()
    slow, upstream, body = behind(world, b"Content-Length: 256003")
    with patch.object(world.plane, "settle"):
        slow.takes()
        received = slow.received
        (slow if leaves == "client" else upstream).resets()
    world.plane.settle()
    assert (slow.received, slow.lost) == (received, True)
    if leaves == "client":
        upstream.sends(b"end")
        assert world.client().received.endswith(body + b"end")
    assert world.store.numbers().objects == (leaves == "client")
    world.plane.assert_quiet()


def test_a_fetch_goes_on_when_its_client_leaves() -> None:
    world = World()
    leader, other = world.client(), world.client()
    upstream = world.upstream()
    upstream.sends(FRESH[:-3])
    leader.resets()
    upstream.sends(b"llo")
    assert other.received.endswith(b"\r\n\r\nhello")
    world.plane.assert_quiet()


def test_a_slow_client_that_leaves_does_not_stop_a_fetch_for_the_disk(tmp_path: Path) -> None:
    """Nobody can read such an object before it is complete, so its first client slows the upstream down."""
    node = TieredNode(str(tmp_path / "cache"))
    world, body = World(node.a), bytes(LARGE)
    slow = world.client()
    slow.room = 1000
    node.settle()
    upstream = world.upstream()
    upstream.sends(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n" % len(body))
    upstream.sends(body[:100_000])
    assert not upstream.reading
    slow.resets()
    assert upstream.reading
    upstream.sends(body[100_000:])
    node.settle()
    assert len(files_in(node)) == 1
    world.plane.assert_quiet()
    node.close()


def test_a_lost_fetch_aborts_those_that_read_it_and_lets_the_next_request_fetch() -> None:
    world = World()
    leader, other = world.client(), world.client()
    upstream = world.upstream()
    upstream.sends(FRESH[:-3])
    upstream.resets()
    assert leader.ended or leader.aborted
    assert other.ended or other.aborted
    assert world.store.numbers().objects == 0
    client = world.client()
    world.upstream().sends(FRESH)
    assert client.received.endswith(b"\r\n\r\nhello")
    world.plane.assert_quiet()


def test_the_fault_in_place_of_a_response_that_is_lost_while_its_head_is_held_says_nothing_of_storing() -> None:
    """RFC 9211 section 2.5: `stored` is for what the cache has stored, which it has not if the body is cut off."""
    filters = {"transform": {"response": {"json": {"deny": ["secret"]}}}}
    world = World(route={"filters": filters}, upstreams={"u": {"targets": ["http://u"], "retries": {"max": 0}}})
    client = world.client()
    upstream = world.upstream()
    head = (
        b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    )
    upstream.sends(head + b'{"a":1')
    assert client.received == b""
    upstream.resets()
    assert client.received.startswith(b"HTTP/1.1 502 ")
    assert status(client) == b"fastgw; fwd=uri-miss"
    world.client()
    assert world.upstream().received.startswith(b"GET / ")  # nothing is stored


def test_a_response_longer_than_the_store_takes_reaches_its_client() -> None:
    world = World()
    client = world.client()
    upstream = world.upstream()
    upstream.sends(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(80):
        upstream.sends(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
    upstream.sends(b"0\r\n\r\n")
    assert client.received.endswith(b"0\r\n\r\n")
    assert client.received.count(b"x") >= 80 * 0x8000
    assert world.store.numbers().objects == 0
    world.plane.assert_quiet()


@pytest.mark.parametrize("vary", [b"", b"Vary: Accept\r\n"])
def test_nobody_reads_from_the_store_what_it_could_not_take_a_moment_ago(vary: bytes) -> None:
    """Those that have read it did not get the rest."""
    world, head = World(), b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n" + vary
    clients = []
    for _ in range(2):
        burst = [world.client(), world.client()]
        reused = world.busy()
        for upstream in (*reused, *(world.upstream() for _ in range(len(world.plane.pool.waiting)))):
            upstream.sends(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(80):
                upstream.sends(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
            upstream.sends(b"0\r\n\r\n")
        clients.append([each.received.endswith(b"0\r\n\r\n") for each in burst])
        world.now += 30
    assert clients == [[True, False], [True, True]]
    client = world.client()
    world.upstream().sends(head + b"Content-Length: 5\r\n\r\nhello")  # it is known that it fits
    assert (status(client) or b"").endswith(b"; stored")
    assert (status(world.client()) or b"").startswith(b"fastgw; hit")


def test_a_response_of_unknown_length_is_stored_after_one_that_was_not() -> None:
    world = World(ttl="60s")
    world.client(fields=b"Cookie: a=1\r\n")
    world.upstream().sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    world.now += 0.2
    client = world.client()
    upstream = world.busy()[0] if world.busy() else world.upstream()
    upstream.sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    upstream.sends(b"5\r\nhello\r\n0\r\n\r\n")
    assert (status(client) or b"").endswith(b"; stored")
    assert (status(world.client()) or b"").startswith(b"fastgw; hit")


def test_a_request_that_has_waited_too_long_is_forwarded_itself() -> None:
    world = World(lock_timeout="2s")
    world.client()
    world.upstream()
    second = world.client()
    assert not world.plane.pool.waiting
    world.plane.passes(3)
    world.plane.connects().sends(FRESH)
    assert second.received.endswith(b"\r\n\r\nhello")
    assert status(second) == b"fastgw; fwd=uri-miss; detail=in-flight"


def test_who_may_purge_a_url_by_its_method_does_so_on_all_nodes() -> None:
    world = World(purge_method={"allow": ["127.0.0.0/8", "192.0.2.0/24"]})
    world.client(b"/a?b")
    world.upstream().sends(FRESH)
    purging = world.client(b"/%61?b", method=b"PURGE")
    assert purging.received.startswith(b"HTTP/1.1 200 ")
    assert purging.received.endswith(b'{"objects":1}')
    assert [(each.target.value, each.values, each.soft) for each in world.announced] == [
        ("url", (b"http://a.test/a?b",), False)
    ]
    again = world.client(b"/a?b")
    world.upstream().sends(FRESH)
    assert status(again) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    world.client(b"/a?b", method=b"PURGE", fields=b"Fastgw-Soft-Purge: 1\r\n")
    assert world.announced[-1].soft
    stale = world.client(b"/a?b")
    world.upstream().sends(FRESH)
    assert status(stale) == b"fastgw; fwd=stale; ttl=60; stored"
    world.plane.assert_quiet()


@pytest.fixture
def tiered(tmp_path: Path) -> Iterator[TieredNode]:
    node = TieredNode(str(tmp_path / "cache"))
    yield node
    node.close()


def test_a_purge_by_its_method_that_a_restart_would_undo_says_so(tiered: TieredNode) -> None:
    world = World(tiered.a, purge_method={"allow": ["127.0.0.0/8"]})
    kept = world.client(method=b"PURGE")
    tiered.settle()
    assert kept.received.endswith(b'{"objects":0}')
    tiered.memory.words[DISK_FAILED] = JOURNAL_LEFT
    lost = world.client(method=b"PURGE")
    assert lost.received.startswith(b"HTTP/1.1 200 ")
    assert lost.received.endswith(b'{"objects":0,"holds_after_restart":false}')
    world.plane.assert_quiet()


def test_a_purge_by_its_method_does_not_wait_for_a_disk_that_hangs(tiered: TieredNode) -> None:
    world = World(tiered.a, purge_method={"allow": ["127.0.0.0/8"]})
    waiting = world.client(method=b"PURGE")  # callbacks of threads run in `settle`
    world.plane.passes(PURGE_WAIT_S - 0.1)
    assert not waiting.received
    world.plane.passes(0.2)
    assert waiting.received.endswith(b'{"objects":0,"holds_after_restart":false}')
    tiered.settle()
    world.plane.assert_quiet()


@pytest.mark.parametrize(
    ("query", "kept"), [("none", b"/a"), ({"only": ["id"]}, b"/a?id=1"), ({"except": ["x"]}, b"/a?id=1"), ("all", None)]
)
def test_the_whole_url_is_purged_and_announced_beside_the_one_that_is_stored(query: Any, kept: bytes | None) -> None:
    """Other nodes, and other routes of the store, may keep more of the query."""
    world = World(purge_method={"allow": ["127.0.0.0/8", "192.0.2.0/24"]}, key={"query": query})
    world.client(b"/a?id=1&x=2")
    world.upstream().sends(FRESH)
    assert world.client(b"/a?id=1&x=2", method=b"PURGE").received.endswith(b'{"objects":1}')
    stored = () if kept is None else (b"http://a.test" + kept,)
    assert [each.values for each in world.announced] == [(b"http://a.test/a?id=1&x=2", *stored)]


def test_others_may_not_purge() -> None:
    world = World(purge_method={"allow": ["203.0.113.7"]})
    assert world.client(b"/", method=b"PURGE").received.startswith(b"HTTP/1.1 403 ")
    assert world.announced == []
    world.plane.assert_quiet()


def test_without_the_setting_purge_is_a_method_like_any_other() -> None:
    world = World()
    client = world.client(method=b"PURGE")
    world.upstream().sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert status(client) == b"fastgw; fwd=method"
    world.plane.assert_quiet()


def test_with_vary_by_consumer_clients_without_a_consumer_share_nothing_that_has_credentials() -> None:
    world = World(vary_by=["consumer"])
    client = world.client(fields=b"Authorization: Bearer a\r\n")
    world.upstream().sends(FRESH)
    assert status(client) == b"fastgw; fwd=uri-miss; detail=authorization"
    assert world.store.numbers().objects == 0
    stored(world, FRESH)
    assert world.store.numbers().objects == 1


OWN_TOKEN = {"credentials": {"bearer": "of-the-gateway", "access_token_header": "X-Token"}}
COPIED_TOKEN = {"headers": {"request": {"set": {"Authorization": "Bearer {header.X-Token}"}}}}


@for_each(
    ("filters", "settings", "token", "sent", "told"),
    [
        (OWN_TOKEN, {}, b"ann", b"ann", b"fastgw; fwd=uri-miss; detail=authorization"),
        (OWN_TOKEN, {}, b"", b"Bearer of-the-gateway", b"fastgw; fwd=uri-miss; ttl=60; stored"),
        (OWN_TOKEN, {"key": {"headers": ["Authorization"]}}, b"ann", b"ann", b"fastgw; fwd=uri-miss; ttl=60; stored"),
        (COPIED_TOKEN, {}, b"ann", b"Bearer ann", b"fastgw; fwd=uri-miss; detail=authorization"),
        (
            {"headers": {"request": {"set": {"Authorization": "Basic YTpi", "X-Id": "{header.X-Token}"}}}},
            {},
            b"ann",
            b"Basic YTpi",
            b"fastgw; fwd=uri-miss; ttl=60; stored",
        ),
    ],
)
def test_an_authorization_that_a_filter_writes_for_a_client_is_its_identity(
    filters: dict[str, Any], settings: dict[str, Any], token: bytes, sent: bytes, told: bytes
) -> None:
    """RFC 9111 section 3.5. One that is the same for all clients is nobody's identity."""
    world = World(route={"filters": filters}, **settings)
    for target in (b"/first", b"/second"):  # on a new connection, and on an idle one
        client = world.client(target, b"X-Token: %b\r\n" % token)
        upstream = world.upstream()
        assert b"\r\nAuthorization: %b\r\n" % sent in upstream.received.rpartition(b"GET ")[2]
        upstream.sends(FRESH)
        assert status(client) == told
    other = world.client(b"/second", b"X-Token: bob\r\n")
    is_own = filters is not OWN_TOKEN and b"stored" in told
    assert bool(other.received) is is_own
    if not is_own:
        world.upstream().sends(FRESH)
    world.plane.assert_quiet()


FOR_ALL = FRESH.replace(b"max-age=60", b"public, max-age=60")


@pytest.mark.parametrize("settings", [{}, {"key": {"headers": ["X-A"]}}, {"vary_by": ["consumer"]}], ids=str)
@pytest.mark.parametrize("response", [FRESH, FOR_ALL], ids=["", "public"])
def test_a_client_with_credentials_of_its_own_gets_nothing_that_the_gateway_was_sent(
    response: bytes, settings: dict[str, Any]
) -> None:
    """They are two identities at the upstream, which may reject one of them: neither from the store nor from the memory
    of the worker, which have it from the second request on."""
    world = World(route={"filters": OWN_TOKEN}, **settings)
    stored(world, response)
    assert [status(world.client()) for _ in range(2)] == [b"fastgw; hit; ttl=60"] * 2
    for name in (b"ann", b"bob"):
        client = world.client(fields=b"X-Token: %b\r\n" % name)
        assert client.received == b""
        upstream = world.upstream()
        assert b"\r\nAuthorization: %b\r\n" % name in upstream.received.rpartition(b"GET ")[2]
        upstream.sends(DENIED)
        assert client.received.startswith(b"HTTP/1.1 401 ")
    assert status(world.client()) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


def test_what_a_client_was_sent_with_credentials_of_its_own_is_for_others_like_it_if_it_is_public() -> None:
    """RFC 9111 section 3.5. The gateway is not like it."""
    world = World(route={"filters": OWN_TOKEN})
    stored(world, FOR_ALL, fields=b"X-Token: ann\r\n")
    for _ in range(2):
        assert status(world.client(fields=b"X-Token: bob\r\n")) == b"fastgw; hit; ttl=60"
    assert world.client().received == b""
    world.upstream().sends(FRESH)
    world.plane.assert_quiet()


def test_a_client_with_credentials_of_its_own_does_not_wait_for_a_fetch_of_the_gateway() -> None:
    world = World(route={"filters": OWN_TOKEN})
    gateways, own = world.client(), world.client(fields=b"X-Token: ann\r\n")
    first, second = world.upstream(), world.plane.connects()
    assert b"\r\nAuthorization: ann\r\n" in second.received
    second.sends(DENIED)
    assert own.received.startswith(b"HTTP/1.1 401 ")
    first.sends(FRESH)
    assert gateways.received.endswith(b"\r\n\r\nhello")
    world.plane.assert_quiet()


def test_a_client_with_credentials_of_its_own_validates_nothing_of_the_gateway_and_gets_none_of_it_stale() -> None:
    world = World(route={"filters": OWN_TOKEN}, stale_if_error="1h", stale_while_revalidate="1h")
    stored(world)
    world.now += 11
    client = world.client(fields=b"X-Token: ann\r\n")
    upstream = world.upstream()
    assert b"If-None-Match" not in upstream.received.rpartition(b"GET ")[2]
    upstream.sends(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno")
    assert client.received.startswith(b"HTTP/1.1 503 ")
    assert status(world.client()) == b"fastgw; hit; ttl=-1"
    upstream.sends(TAGGED)
    world.plane.assert_quiet()


@pytest.mark.parametrize("action", ["set", "add"])
@pytest.mark.parametrize(
    "later",
    [
        {"credentials": {"headers": {"X-Api-Key": "gateways"}}},
        {"request_parameters": {"headers": {"X-Tenant": "t"}}},
        {"second": {"type": "headers", "request": {"set": {"X-Second": "2"}}}},
    ],
    ids=["credentials", "request_parameters", "headers"],
)
def test_a_copied_token_is_an_identity_also_if_other_filters_follow(action: str, later: dict[str, Any]) -> None:
    filters = {"headers": {"request": {action: {"Authorization": "Bearer {header.X-Token}"}}}, **later}
    world = World(route={"filters": filters})
    stored(world, FRESH)
    own = world.client(fields=b"X-Token: ann\r\n")
    assert own.received == b""
    world.upstream().sends(FOR_ALL)
    assert b"; stored" in (status(own) or b"")
    assert status(world.client(fields=b"X-Token: bob\r\n")) == b"fastgw; hit; ttl=60"
    assert status(world.client()) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


def test_a_purge_removes_what_clients_with_credentials_of_their_own_share() -> None:
    world = World(route={"filters": OWN_TOKEN}, purge_method={"allow": ["0.0.0.0/0"]})
    stored(world, FOR_ALL)
    stored(world, FOR_ALL, fields=b"X-Token: ann\r\n")
    assert world.client(method=b"PURGE").received.endswith(b'{"objects":2}')
    world.plane.assert_quiet()


@pytest.mark.parametrize(
    ("settings", "consumer", "is_authenticated", "is_apart"),
    [
        ({}, None, False, False),
        ({"vary_by": ["consumer"]}, "ann", True, True),
        ({"vary_by": ["consumer"]}, None, True, False),  # a token that names no consumer
        ({"key": {"headers": ["Authorization"]}}, None, False, True),
        ({"key": {"headers": ["Authorization"]}}, "ann", True, False),  # perhaps by a key in another header
    ],
)
def test_the_identity_of_a_client_is_in_the_key_only_if_the_key_says_who_it_is(
    settings: dict[str, Any], consumer: str | None, is_authenticated: bool, is_apart: bool
) -> None:
    policy = configured(Cache, **settings)._compiled(ReadyMemory())
    known: Any = consumer and SimpleNamespace(name=consumer)
    assert policy.storing_of(known, is_authenticated=is_authenticated).identity_in_key is is_apart


BY_PROXY = "a trusted proxy"
PROXIES = {"listeners": {"main": {"address": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1"]}}}
CONSUMERS: dict[str, Any] = {"consumers": [{"name": "ann", "key_auth": [{"key": "a-key-that-is-long-enough"}]}]}
KEYS: dict[str, tuple[dict[str, Any], dict[str, Any], bytes]] = {
    "a header": ({"key": {"headers": ["X-Group"]}}, {}, b"X-Group: ann\r\n"),
    "another header": ({"key": {"headers": ["X-Country"]}}, {}, b"X-Country: ann\r\n"),
    "a cookie": ({"key": {"cookies": ["lang"]}}, {}, b"Cookie: lang=ann\r\n"),
    "another cookie": ({"key": {"cookies": ["group"]}}, {}, b"Cookie: group=ann\r\n"),
    "the consumer": ({"vary_by": ["consumer"]}, {"key_auth": {}}, b"X-API-Key: a-key-that-is-long-enough\r\n"),
    "a cookie and a header": ({"key": {"headers": ["X-B"], "cookies": ["a"]}}, {}, b"X-B: ann\r\nCookie: a=bob\r\n"),
    "two headers": ({"key": {"headers": ["X-A", "X-B"]}}, {}, b"X-A: ann\r\nX-B: bob\r\n"),
    "two others": ({"key": {"headers": ["X-B", "X-C"]}}, {}, b"X-B: ann\r\nX-C: bob\r\n"),
    "a token of its own": ({}, OWN_TOKEN, b"X-Token: ann\r\n"),
    "what keys had of it": ({"key": {"headers": ["X-Group"]}}, {}, b"X-Group: client-authorization\r\n"),
    "an empty header": ({"key": {"headers": ["X-Group"]}}, {}, b"X-Group:\r\n"),
    BY_PROXY: ({}, {}, b"X-Forwarded-Proto: http\r\n"),
    "what keys had by a proxy": (
        {"key": {"headers": ["X-A", "X-B", "X-C", "X-D", "X-E"]}},
        {},
        b"X-A: http\r\nX-D: http\r\nX-E: a.test\r\n",
    ),
}
"""Settings of the filter, other filters, and a request; the values in the key are equal."""


@for_each(("before", "after"), [*permutations(KEYS, 2)])
def test_after_a_reload_no_value_passes_for_one_of_another_kind(before: str, after: str) -> None:
    """The store outlives reloads, and files on disk and Redis also restarts."""
    store = None
    for name in (before, after):
        settings, filters, fields = KEYS[name]
        also = CONSUMERS | (PROXIES if name == BY_PROXY else {})
        world = World(store, {"filters": filters}, also=also, **settings)
        store = world.store
        client = world.client(fields=fields)
        assert not client.received
        world.upstream().sends(FRESH.replace(b"max-age", b"s-maxage"))
        assert status(client) == b"fastgw; fwd=uri-miss; ttl=60; stored"
        assert status(world.client(fields=fields)) == b"fastgw; hit; ttl=60"
        world.plane.assert_quiet()


@for_each(
    ("name", "values"),
    [
        (b"Proto", (b"https", b"http")),
        (b"Host", (b"b.test", b"evil.test")),
        (b"Port", (b"8443", b"666")),
        (b"Prefix", (b"/shop", b"/evil", b"/shop/evil")),
    ],
)
def test_all_that_the_upstream_gets_of_a_proxys_headers_is_in_the_key(name: bytes, values: tuple[bytes, ...]) -> None:
    """A client that adds to them, where the proxy lets it, chooses nothing of what others get."""
    world = World(also=PROXIES)
    for each in values:
        line = b"X-Forwarded-%b: %b\r\n" % (name, each)
        client = world.client(fields=line)
        assert not client.received
        assert line in world.upstream().received
        world.upstream().sends(FRESH)
        assert status(client) == b"fastgw; fwd=uri-miss; ttl=60; stored"
        assert status(world.client(fields=line)) == b"fastgw; hit; ttl=60"
    added = ([b"", values[0] + b", evil"], [values[0], b"evil"], [b", %b,, evil" % values[0]])
    for lines in () if name == b"Prefix" else added:  # the upstream gets the first member
        sent = b"".join(b"X-Forwarded-%b: %b\r\n" % (name, line) for line in lines)
        assert status(world.client(fields=sent)) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


def test_an_empty_cookie_in_the_key_is_not_a_missing_one() -> None:
    """The upstream gets it."""
    world = World(key={"cookies": ["lang"]})
    stored(world, FRESH)
    client = world.client(fields=b"Cookie: lang=\r\n")
    assert not client.received
    world.upstream().sends(FRESH)
    assert status(client) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    world.plane.assert_quiet()


@for_each(
    "cookies",
    [
        b'x="; lang=de; y="',  # servers that know quotes find one cookie, and answer as without `lang`
        b'x="a\\"; lang=de; y="',
        b'x="; lang=de',
        b"lang=de; lang=fr",
        b"lang=fr; lang=de",
        b'lang="de"',
        b"lang=de,x=1",  # one cookie, or two
        b'"lang"=fr; lang=de',
        b"l%61ng=fr; lang=de",
        b"lang=de; x=1,lang=fr",
        b"LANG=de",  # ASP.NET Core ignores case
        b"Lang=de; lang=fr",
        b"\xc2\xa0lang=de",  # Django removes such spaces
        b"lang[0]=de",  # PHP makes a list of it
        b"lang%5B0%5D=fr; lang=de",
        b"+lang=fr; lang=de",
        b"lang%00x=fr; lang=de",
        b"LANG=fr; lang=de; " + b"a;" * 4000,  # too many to compare
    ],
)
def test_no_other_reading_of_cookies_has_the_key_of_a_value(cookies: bytes) -> None:
    """The client gets what the upstream makes of its cookies, and others with the value do not."""
    world = World(key={"cookies": ["lang"]})
    for fields in (b"Cookie: %b\r\n" % cookies, b"Cookie: lang=de\r\n", b"Cookie: lang=fr\r\n", b""):
        client = world.client(fields=fields)
        assert not client.received, fields
        world.upstream().sends(FRESH.replace(b"max-age", b"s-maxage"))
        assert status(client) == b"fastgw; fwd=uri-miss; ttl=60; stored"
        assert status(world.client(fields=fields)) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


@pytest.mark.parametrize("sign", [b".", b" ", b"+", b"["])
def test_signs_of_names_that_php_replaces_have_not_the_key_of_a_value(sign: bytes) -> None:
    """PHP takes the first one for `my_lang`."""
    world = World(key={"cookies": ["my_lang"]})
    for cookies in (b"my%blang=de; my_lang=fr" % sign, b"my_lang=fr"):
        client = world.client(fields=b"Cookie: %b\r\n" % cookies)
        assert not client.received, cookies
        world.upstream().sends(FRESH.replace(b"max-age", b"s-maxage"))
        assert status(client) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    world.plane.assert_quiet()


@pytest.mark.parametrize(
    "other", [b'p={"a":"b","lang":"x"}; ', b"p=a%2Cb; ", b"q=1,2; ", b'p="x"; ', b"LANGUAGE=x; ", b"x-lang=y; "]
)
def test_cookies_that_all_servers_read_alike_leave_the_key_alone(other: bytes) -> None:
    world = World(key={"cookies": ["lang"]})
    client = world.client(fields=b"Cookie: lang=de\r\n")
    world.upstream().sends(FRESH.replace(b"max-age", b"s-maxage"))
    assert status(client) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    assert status(world.client(fields=b"Cookie: %blang=de\r\n" % other)) == b"fastgw; hit; ttl=60"
    world.plane.assert_quiet()


def test_routes_do_not_share_responses() -> None:
    """Their filters may send other headers to the same URL of the upstream."""
    world = World()
    stored(world)
    (route,) = world.plane.gateway.routes
    (compiled,) = {rule.route for rules in route.rules for rule in rules or ()}
    compiled.name = "other"
    client = world.client()
    assert not client.received
    world.upstream().sends(FRESH)
    assert status(client).startswith(b"fastgw; fwd=uri-miss")


@pytest.mark.parametrize(
    "after",
    [
        {},
        {"more": {"type": "headers", "request": {"set": {"X-B": "1"}}}},
        {"more": {"type": "query_parameters", "add": {"z": "1"}}},
    ],
)
def test_headers_that_a_filter_sets_are_sent_wherever_it_is(after: dict[str, Any]) -> None:
    """They are the operator's; those of the client do not reach the upstream."""
    ours = {"type": "headers", "request": {"set": {"X-Script-Name": "/app", "X-Original-URL": "{path}"}}}
    world = World(route={"filters": {"ours": ours, **after}})
    world.client(fields=b"X-Script-Name: /evil\r\nX-Original-URL: /evil\r\nX-Method: evil\r\nX-Host: evil\r\n")
    sent = world.upstream().received
    assert b"\r\nX-Script-Name: /app\r\n" in sent
    assert b"\r\nX-Original-URL: /" in sent
    assert b"evil" not in sent


OLD = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=1, %b=600\r\nContent-Length: 3\r\n\r\nold"
CUT = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=100\r\nContent-Length: 9000\r\n\r\nnew"


@pytest.mark.parametrize("allowed", [b"stale-if-error", b"stale-while-revalidate"])
def test_after_a_response_that_broke_off_the_stale_one_is_sent_for_a_second(allowed: bytes) -> None:
    """As after another failed validation: otherwise each request would begin a fetch that may break off again."""
    world = World()
    world.client()
    world.upstream().sends(OLD % allowed)
    world.now += 5
    world.client()
    upstream = world.upstream()
    upstream.sends(CUT)
    upstream.resets()
    for _ in range(3):
        client = world.client()
        assert client.received.endswith(b"old")
        assert not world.plane.pool.waiting
        assert not world.busy()
