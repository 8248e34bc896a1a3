"""Raw paths: what is matched in normal form and what is sent as the client wrote it say the same to every server."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize
from tests.support.memory import Plane

HOST = b"Host: a.test\r\n"
SERVICE = {"paths": ["/shop/orders/*"], "strip_prefix": "/shop/orders", "path": {"forward": "raw"}}


def planes(filters: Any = None) -> Plane:
    return Plane(
        {
            "upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:9/v2"}]}},
            "routes": [
                {"name": "service", "upstream": "u", **SERVICE, "filters": filters or {}},
                {"name": "other", "paths": ["/shop/secrets/*"], "respond": {"status": 299}},
            ],
        }
    )


PLANE = planes()
FILTERED = planes({"headers": {"request": {"set": {"X-A": "1"}}}})
LOOKED_AT = planes({"headers": {"response": {"set": {"X-A": "1"}}}})


def sent(plane: Plane, path: bytes, target: bytes | None = None) -> bytes | int:
    """What the target is asked for, or what the client is answered."""
    client = plane.client()
    client.sends(b"GET " + (path if target is None else target) + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    if not plane.pool.waiting:
        status = plane.records[-1].status
        client.ends()
        return status
    upstream = plane.connects()
    client.ends()
    return upstream.received.split(b" ")[1]


@pytest.mark.parametrize("plane", [PLANE, FILTERED, LOOKED_AT], ids=["straight", "filtered", "looked_at"])
@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (b"", b"/"),
        (b"/", b"/"),
        (b"/a", b"/a"),
        (b"/a%2Fb", b"/a%2Fb"),
        (b"/a%2fb", b"/a%2fb"),
        (b"/Products('a%2Fb')/Name", b"/Products('a%2Fb')/Name"),
        (b"/Products%28%27a%27%29", b"/Products%28%27a%27%29"),
        (b"//a///b//", b"//a///b//"),
        (b"/%7euser/%41", b"/%7euser/%41"),
        (b"/a|b/{c}", b"/a|b/{c}"),
        (b"/a/./b", b"/a/./b"),
        (b"/a/../b", b"/a/../b"),
        (b"/a/%2E%2e/b", b"/a/%2E%2e/b"),
        (b"/a/b/../..", b"/a/b/../.."),
        (b"/.", b"/."),
    ],
)
@pytest.mark.parametrize("query", [b"", b"?", b"?a=%7e/../b"])
def test_what_is_behind_the_prefix_arrives_as_the_client_wrote_it(
    plane: Plane, rest: bytes, expected: bytes, query: bytes
) -> None:
    assert sent(plane, b"/shop/orders" + rest + query) == b"/v2" + expected + query


@pytest.mark.parametrize("prefix", [b"/%73hop/orders", b"/shop/order%73", b"/%73%68op/%6frders"])
def test_the_prefix_may_be_spelled_otherwise(prefix: bytes) -> None:
    """It is cut off, and each of its segments is one of the route's prefix."""
    assert sent(PLANE, prefix + b"/%41") == b"/v2/%41"
    assert sent(PLANE, prefix) == b"/v2/"


@pytest.mark.parametrize("plane", [PLANE, FILTERED, LOOKED_AT], ids=["straight", "filtered", "looked_at"])
@pytest.mark.parametrize(
    "path",
    [
        b"/x/../shop/orders/a",  # matched, but its first segments are not what is cut off
        b"/./shop/orders/a",
        b"/shop/./orders/a",
        b"/shop/x/../orders/a",
        b"/shop/x/%2e%2e/orders",
        b"/shop/secrets/../orders/a",
        b"/shop/orders/../orders/a",  # it climbs out of the service, and back
        b"/shop/orders/a/../../orders/b",
        b"/shop/orders/%2e%2e/orders/b",
        b"/shop/orders//../a",  # for who merges slashes, `..` takes back the base path
        b"/shop/orders/a///../../b",
        b"/shop/orders/%2F/../a",
        b"/shop/orders/%2f%2F/%2e%2E/a",
        b"/shop/orders/;a=b/../a",
        b"/shop/orders/%3B/../a",
    ],
)
def test_a_path_that_can_be_read_in_two_ways_is_refused(plane: Plane, path: bytes) -> None:
    assert sent(plane, path) == 400


def test_what_leads_to_another_route_is_that_routes() -> None:
    assert sent(PLANE, b"/shop/orders/../secrets/a") == 299
    assert sent(PLANE, b"/shop/orders/a/../../secrets/a") == 299
    assert sent(PLANE, b"/shop/secrets/../orders/a") == 400


def test_a_target_in_absolute_form_is_cut_too() -> None:
    assert sent(PLANE, b"", b"http://a.test/shop/orders/a%2fb?c") == b"/v2/a%2fb?c"
    assert sent(PLANE, b"", b"http://a.test/shop/./orders/a") == 400


def test_a_path_outside_the_prefix_is_sent_whole() -> None:
    plane = Plane(
        {
            "upstreams": {"u": {"targets": [{"url": "http://127.0.0.1:9/v2"}]}},
            "routes": [{"name": "all", "upstream": "u", "strip_prefix": "/shop", "path": {"forward": "raw"}}],
        }
    )
    assert sent(plane, b"/%41/b") == b"/v2/%41/b"
    assert sent(plane, b"/shopping/%41") == b"/v2/shopping/%41"
    assert sent(plane, b"/shop/%41") == b"/v2/%41"
    assert sent(plane, b"/%41//../b") == 400


def resolved(path: bytes, decodes_slash: bool, cuts: bool, merges: bool) -> list[bytes]:
    """The segments of a path as a server may see them; climbing above the root is shrugged at."""
    if cuts:
        path = re.sub(rb"(?i)(;|%3b)[^/]*", b"", path)
    path = re.sub(rb"(?i)%2e", b".", path)
    if decodes_slash:
        path = re.sub(rb"(?i)%(25)?(2f|5c)", b"/", re.sub(rb"(?i)%0a", b"", path))
    if merges:
        path = re.sub(rb"/+", b"/", path)
    kept: list[bytes] = []
    for segment in path.split(b"/")[1:]:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    return kept


PIECES = [
    b"/",
    b"/",
    b"//",
    b"..",
    b".",
    b"%2e",
    b"%2E%2e",
    b"a",
    b"b",
    b"%61",
    b"%2F",
    b"%252f",
    b"%5C",
    b"%0a",
    b";",
    b";x",
    b"%3b",
    b"shop",
    b"orders",
]


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=9), st.sampled_from([b"/shop/orders", b"/shop/order%73", b"/shop", b""])
)
@example([b"/", b"a", b"//", b"..", b"/", b".."], b"/shop/orders")
@example([b"/", b"a", b";x", b"/", b"..", b"/", b"..", b"/", b"a"], b"/shop/orders")
def test_whoever_reads_it_it_stays_in_its_service(pieces: list[bytes], prefix: bytes) -> None:
    raw = prefix + b"".join(pieces)
    got = sent(LOOKED_AT, raw)
    try:
        matched = normalize(raw)
    except Malformed:
        assert got == 400
        return
    if not (matched + b"/").startswith(b"/shop/orders/"):
        assert isinstance(got, int)
        return
    if got == 400:
        return
    assert isinstance(got, bytes)
    assert raw.endswith(got.removeprefix(b"/v2")) or got == b"/v2/"
    assert normalize(got) == b"/v2" + (matched.removeprefix(b"/shop/orders") or b"/")
    for server in product((False, True), repeat=3):
        assert resolved(got, *server)[:1] == [b"v2"]
