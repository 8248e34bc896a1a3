"""Settings that decide what is stored, and for how long: `content_types`, `storage_ttl`, and directives that are
ignored."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config import ConfigError
from fastgw.filters.policies.cache import Cache
from fastgw.testing import configured
from tests.support.table import for_each
from tests.unit.filters.policies.cache.test_hits import status, value
from tests.unit.filters.policies.cache.world import World

STORED = None


def answered(*lines: bytes, code: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: 5\r\n\r\nhello" % (code, b"".join(line + b"\r\n" for line in lines))


def why_not(response: bytes, fields: bytes = b"", **settings: Any) -> bytes | None:
    """Why a response is not stored, as `Cache-Status` says and the next request shows; `STORED`: it is."""
    world = World(**settings)
    first = world.client(fields=fields)
    world.upstream().sends(response)
    assert first.received.endswith(b"\r\n\r\nhello")
    told = status(first)
    assert told is not None
    world.now += 2
    again = world.client(fields=fields)
    if not again.received:
        world.upstream().sends(response)
    assert (status(again) or b"").startswith(b"fastgw; hit") == (b"; stored" in told)
    return STORED if b"; stored" in told else told.rpartition(b"detail=")[2]


@for_each(
    ("types", "lines", "reason"),
    [
        ([], (), STORED),
        (["text/*"], (b"Content-Type: text/html; charset=utf-8",), STORED),
        (["text/*"], (b"Content-Type: Text/HTML",), STORED),
        (["text/*"], (b"Content-Type: application/json",), b"content-type"),
        (["text/*"], (), b"content-type"),
        (["text/*"], (b"Content-Type: text/html", b"Content-Type: text/plain"), b"content-type"),
        (["text/html", "application/*+json"], (b"Content-Type: application/problem+json",), STORED),
        (["text/html", "application/*+json"], (b"Content-Type: application/json",), b"content-type"),
    ],
)
def test_only_these_media_types_are_stored(types: list[str], lines: tuple[bytes, ...], reason: bytes | None) -> None:
    assert why_not(answered(b"Cache-Control: max-age=60", *lines), content_types=types) == reason


IGNORED: dict[str, Any] = {"dangerously_ignore_cache_control": True, "ttl": "60s"}


@for_each(
    ("lines", "fields", "settings", "reason"),
    [
        ((b"Cache-Control: private",), b"", {"ttl": "60s"}, b"private"),
        ((b"Cache-Control: private",), b"", IGNORED, STORED),
        ((b"Cache-Control: no-store, no-cache, must-revalidate, max-age=0", b"Expires: 0"), b"", IGNORED, STORED),
        ((b"Cache-Control: private", b"Set-Cookie: a=b"), b"", IGNORED, b"set-cookie"),
        ((b"Cache-Control: private",), b"Authorization: Basic YTpi\r\n", IGNORED, b"authorization"),
        ((b"Cache-Control: public, max-age=60",), b"Authorization: Basic YTpi\r\n", IGNORED, b"authorization"),
        ((b"Cache-Control: private",), b"Cookie: a=b\r\n", IGNORED, b"cookie"),
        ((b"Cache-Control: max-age=60", b"CDN-Cache-Control: no-store"), b"", IGNORED, b"no-store"),
        ((b"Cache-Control: private", b"Vary: *"), b"", IGNORED, b"vary"),
    ],
)
def test_directives_are_ignored_and_clients_stay_protected(
    lines: tuple[bytes, ...], fields: bytes, settings: dict[str, Any], reason: bytes | None
) -> None:
    assert why_not(answered(*lines), fields, **settings) == reason


def test_what_is_ignored_leaves_the_freshness_to_the_settings() -> None:
    world = World(**IGNORED)
    client = world.client()
    world.upstream().sends(answered(b"Cache-Control: no-cache, max-age=5"))
    assert status(client) == b"fastgw; fwd=uri-miss; ttl=60; stored"
    world.now += 59
    client = world.client()
    assert status(client) == b"fastgw; hit; ttl=1"
    assert value(client, b"Cache-Control") == b"no-cache, max-age=5"  # for the client, it is as it was
    with pytest.raises(ConfigError, match="expected `ttl`"):
        configured(Cache, dangerously_ignore_cache_control=True)


def test_a_response_is_used_for_as_long_as_it_is_kept_and_no_longer() -> None:
    world = World(storage_ttl="30s", stale_if_error="1h", stale_when_unreachable="1h")
    tagged = answered(b"Cache-Control: max-age=10", b'ETag: "a"')
    world.client()
    world.upstream().sends(tagged)
    world.now += 29
    stale = world.client()
    upstream = world.upstream()
    assert b'If-None-Match: "a"' in upstream.received
    upstream.sends(answered(code=b"503 Service Unavailable"))
    assert stale.received.startswith(b"HTTP/1.1 200 ")
    world.now += 2  # 31 s, and what marks the failure has ended
    client = world.client()
    upstream = world.upstream()
    assert b"If-None-Match" not in upstream.received.rpartition(b"GET /")[2]
    upstream.sends(answered(code=b"503 Service Unavailable"))
    assert client.received.startswith(b"HTTP/1.1 503 ")
    world.now += 2
    client = world.client()
    world.upstream().sends(tagged)
    assert status(client) == b"fastgw; fwd=uri-miss; ttl=10; stored"
    world.now += 29
    world.client()
    world.upstream().sends(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nCache-Control: max-age=10\r\n\r\n')
    world.now += 29  # it is kept from its validation on
    world.client()
    upstream = world.upstream()
    assert b'If-None-Match: "a"' in upstream.received.rpartition(b"GET /")[2]
    upstream.sends(tagged)


def test_a_fresh_response_is_not_kept_longer_either() -> None:
    world = World(storage_ttl="30s")
    client = world.client()
    world.upstream().sends(answered(b"Cache-Control: max-age=3600", b"Age: 100"))
    assert status(client) == b"fastgw; fwd=uri-miss; ttl=30; stored"
    for passed in (15, 14):
        world.now += passed
        assert (status(world.client()) or b"").startswith(b"fastgw; hit")
    world.now += 1
    client = world.client()
    assert client.received == b""
    world.upstream().sends(answered(b"Cache-Control: max-age=3600"))
    assert (status(client) or b"").startswith(b"fastgw; fwd=uri-miss; ")
