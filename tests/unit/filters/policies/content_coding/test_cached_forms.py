"""compress over cache: a stored response is compressed once for each coding, and never mixed up with another one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import brotli
import pytest

from fastgw.filters.policies.content_coding import compression
from fastgw.http.content_coding.compressors import zstd
from tests.unit.filters.policies.cache.test_hits import value
from tests.unit.filters.policies.cache.world import World

DECODERS = {b"gzip": gzip.decompress, b"br": brotli.decompress, b"zstd": zstd.decompress}
SIZES = [300, 20_000, 300_000]  # below what is stored compressed; in one piece; in several


def page(size: int, mark: bytes = b"a") -> bytes:
    return (b"%b line of text, " % mark * size)[:size]


def response(content: bytes, fields: bytes = b"") -> bytes:
    head = b'HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Type: text/plain\r\nETag: "1"\r\n'
    return head + fields + b"Content-Length: %d\r\n\r\n" % len(content) + content


def world(**settings: object) -> World:
    return World(route={"filters": {"compress": settings}})


def content_of(received: bytes, coding: bytes | None) -> bytes:
    head, _, body = received.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        whole, rest = b"", body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            whole, rest = whole + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        body = whole
    return DECODERS[coding](body) if coding else body


def get(made: World, accepted: bytes, target: bytes = b"/") -> tuple[bytes | None, bytes, bytes | None]:
    """Coding, content and `Cache-Status` of an answer that needs no upstream."""
    client = made.client(target, b"Accept-Encoding: %b\r\n" % accepted)
    coding = value(client, b"Content-Encoding")
    return coding, content_of(client.received, coding), value(client, b"Cache-Status")


def compressions(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The codings of all compressions by gateways that are made from here on."""
    counted: list[bytes] = []

    def opened(coding: bytes, level: compression.Level) -> compression.Compressor:
        counted.append(coding)
        return real_open(coding, level)

    def whole(coding: bytes, level: compression.Level) -> Callable[[bytes], bytes]:
        def compress(data: bytes) -> bytes:
            counted.append(coding)
            return made(data)

        made = real_whole(coding, level)
        return compress

    real_open, real_whole = compression.open_compressor, compression.whole_compressor
    monkeypatch.setattr(compression, "open_compressor", opened)
    monkeypatch.setattr(compression, "whole_compressor", whole)
    return counted


@pytest.mark.parametrize("size", SIZES)
def test_hits_are_compressed_once_for_each_coding(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    counted = compressions(monkeypatch)
    made, content = world(), page(size)
    made.client(fields=b"Accept-Encoding: identity\r\n")
    made.upstream().sends(response(content))
    counted.clear()
    for _ in range(3):
        for coding in DECODERS:
            got, body, status = get(made, coding)
            assert (got, body) == (coding, content)
            assert status is not None
            assert status.startswith(b"fastgw; hit")
    assert counted == [*DECODERS] if size > 4096 else [*DECODERS] * 3
    assert get(made, b"identity")[:2] == (None, content)
    made.plane.assert_quiet()


@pytest.mark.parametrize("accepted", [b"gzip", b"br", b"zstd"])
@pytest.mark.parametrize("size", [6000, 100_000])  # in one piece; in several
def test_a_body_that_a_filter_changes_for_each_client_has_no_stored_form(accepted: bytes, size: int) -> None:
    """The form would be sent to other clients, and would outlive the settings of the filter."""
    own = {"json": {"set": {"tenant": "{header.X-Tenant}"}}}
    made = World(route={"filters": {"compress": {}, "transform": {"response": own}}})
    stored = b'{"a":"%b"}' % page(size)
    made.client(fields=b"Accept-Encoding: identity\r\nX-Tenant: eve\r\n")
    made.upstream().sends(response(stored).replace(b"text/plain", b"application/json"))
    for tenant in (b"ann", b"bob", b"cid"):
        client = made.client(fields=b"Accept-Encoding: %b\r\nX-Tenant: %b\r\n" % (accepted, tenant))
        assert value(client, b"Content-Encoding") == accepted
        assert json.loads(content_of(client.received, accepted))["tenant"] == tenant.decode()


def test_a_filter_that_only_reads_the_body_leaves_its_stored_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = compressions(monkeypatch)
    made = World(route={"filters": {"compress": {}, "validate": {"response": {"inline": {"type": "object"}}}}})
    stored = b'{"a":"%b"}' % page(20_000)
    made.client(fields=b"Accept-Encoding: identity\r\n")
    made.upstream().sends(response(stored).replace(b"text/plain", b"application/json"))
    for _ in range(2):
        assert get(made, b"gzip")[:2] == (b"gzip", stored)
    assert counted == [b"gzip"]


def test_a_response_that_was_fetched_again_is_compressed_again() -> None:
    made = world()
    for number in range(3):
        content = page(20_000, b"%d" % number)
        made.client(fields=b"Accept-Encoding: zstd\r\n")
        made.upstream().sends(response(content))
        for _ in range(2):
            assert get(made, b"zstd")[:2] == (b"zstd", content)
        made.now += 1
        for _ in made.store.purge("all"):
            pass


def test_forms_of_different_urls_are_apart() -> None:
    made = world()
    for target in (b"/a", b"/b"):
        made.client(target, fields=b"Accept-Encoding: gzip\r\n")
        made.upstream().sends(response(page(20_000, target)))
    for _ in range(2):
        for target in (b"/a", b"/b"):
            assert get(made, b"gzip", target)[:2] == (b"gzip", page(20_000, target))


def test_padded_responses_are_never_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their lengths would be the same for all guesses of a secret."""
    counted = compressions(monkeypatch)
    made, content = world(random_padding=True), page(20_000)
    made.client(fields=b"Accept-Encoding: gzip\r\n")
    made.upstream().sends(response(content))
    counted.clear()
    for _ in range(3):
        assert get(made, b"gzip")[:2] == (b"gzip", content)
    assert counted == [b"gzip"] * 3


def test_a_hit_gives_no_range_under_a_condition_that_compressed_data_meets() -> None:
    made, content = world(), page(20_000)
    date = b"Last-Modified: Mon, 23 Nov 2020 10:00:00 GMT\r\n"
    made.client(fields=b"Accept-Encoding: gzip\r\n")
    made.upstream().sends(response(content, date))
    condition = b"Range: bytes=5-9\r\nIf-Range: Mon, 23 Nov 2020 10:00:00 GMT\r\n"
    assert made.client(fields=condition).received.startswith(b"HTTP/1.1 206 ")
    assert made.client(fields=condition + b"Accept-Encoding: gzip\r\n").received.startswith(b"HTTP/1.1 200 ")
    assert made.client(fields=b"Range: bytes=5-9\r\nAccept-Encoding: gzip\r\n").received.endswith(content[5:10])


def test_a_304_of_the_cache_has_the_etag_that_the_client_holds() -> None:
    made = world()
    made.client(fields=b"Accept-Encoding: gzip\r\n")
    made.upstream().sends(response(page(20_000)))
    client = made.client(fields=b'Accept-Encoding: gzip\r\nIf-None-Match: W/"1"\r\n')
    assert client.received.startswith(b"HTTP/1.1 304 ")
    assert (value(client, b"ETag"), value(client, b"Vary")) == (b'W/"1"', b"Accept-Encoding")
    assert b"Content-Type" not in client.received


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"text/plain", b"image/png"), (b"ETag", b"Content-Encoding: br\r\nETag")],
    ids=["type", "coding"],
)
def test_a_304_of_the_cache_is_as_its_200_where_that_is_never_compressed(before: bytes, after: bytes) -> None:
    """The stored response says what the 304 does not: its type, and whether it has a coding."""
    made = world()
    made.client(fields=b"Accept-Encoding: gzip\r\n")
    made.upstream().sends(response(page(300)).replace(before, after))
    whole = made.client(fields=b"Accept-Encoding: gzip\r\n")
    assert (value(whole, b"ETag"), value(whole, b"Vary")) == (b'"1"', None)
    for condition in (b'"1"', b'W/"1"'):
        client = made.client(fields=b"Accept-Encoding: gzip\r\nIf-None-Match: %b\r\n" % condition)
        assert client.received.startswith(b"HTTP/1.1 304 ")
        assert (value(client, b"ETag"), value(client, b"Vary")) == (b'"1"', None)
        assert (value(client, b"Content-Type"), value(client, b"Content-Encoding")) == (None, None)
