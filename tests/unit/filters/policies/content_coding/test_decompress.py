"""decompress: what upstreams get of compressed requests, and how bombs and broken data are answered."""

from __future__ import annotations

import gzip
from typing import Any

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.filters.policies.content_coding.decompress_filter import Decompress
from fastgw.http.content_coding.compressors import zstd
from fastgw.testing import ConfigError, Ran, configured, run
from tests.support.table import for_each

ENCODERS: dict[str, Any] = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstd.compress}
BODY = b'{"name": "a name"}\n' * 100
ACCEPTED = b"zstd, br, gzip"


def post(
    body: bytes, coding: str | None = "gzip", *fields: str, pieces: int = 0, framing: str = "", **given: Any
) -> Ran:
    """The result for a request with this body, declared with this coding. `pieces`: bytes that arrive at once."""
    lines = ["POST / HTTP/1.1", "Host: a", *(() if coding is None else (f"Content-Encoding: {coding}",)), *fields]
    if framing == "chunked":
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        lines.append("Transfer-Encoding: chunked")
    else:
        lines.append(f"Content-Length: {len(body)}")
    request = "\r\n".join([*lines, "", ""]).encode() + body
    sent = [request[at : at + pieces] for at in range(0, len(request), pieces)] if pieces else request
    return run(configured(Decompress, **given), sent)


def body_sent(ran: Ran) -> bytes:
    return b"".join(ran.pieces)


@for_each("coding", ENCODERS)
@for_each("framing", ["", "chunked"])
@for_each("pieces", [0, 100])
def test_the_upstream_gets_the_plain_body(coding: str, framing: str, pieces: int) -> None:
    ran = post(ENCODERS[coding](BODY), coding, "Content-Digest: sha-256=:AA==:", framing=framing, pieces=pieces)
    assert (ran.status, body_sent(ran)) == (200, BODY)
    head = ran.sent.lower()
    assert b"content-encoding" not in head
    assert b"content-digest" not in head
    assert (b"content-length: %d" % len(BODY) in head) or b"transfer-encoding: chunked" in head


def test_names_of_codings_compare_without_case_and_x_gzip_is_gzip() -> None:
    for name in ("GZip", "x-gzip", "identity, gzip", ", gzip"):
        assert body_sent(post(gzip.compress(BODY), name)) == BODY


@pytest.mark.parametrize("coding", [None, "identity", ""])
def test_a_plain_body_passes_unchanged_whatever_its_size(coding: str | None) -> None:
    ran = post(BODY, coding, "Content-Digest: sha-256=:AA==:", max_bytes=10)
    assert (ran.status, body_sent(ran)) == (200, BODY)
    assert b"Content-Digest" in ran.sent


def test_an_empty_body_passes() -> None:
    ran = run(Decompress(), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n")
    assert ran.status == 200
    assert post(b"", "gzip", framing="chunked").status == 200


@pytest.mark.parametrize("coding", ["deflate", "compress", "gzip, gzip", "gzip, br", "a" * 1000, "gzip;q=1", "*"])
def test_another_coding_or_a_second_layer_is_refused_with_those_that_are_accepted(coding: str) -> None:
    """RFC 9110 section 15.5.16."""
    ran = post(gzip.compress(gzip.compress(BODY)), coding)
    assert (ran.status, ran.fault, ran.passed) == (415, "unsupported_media_type", False)
    assert ran.fields.get(b"accept-encoding") == ACCEPTED
    ran = post(gzip.compress(BODY), "gzip", encodings=["zstd"])
    assert (ran.status, ran.fields.get(b"accept-encoding")) == (415, b"zstd")


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("pieces", [0, 50])
def test_a_bomb_is_refused(coding: str, pieces: int) -> None:
    bomb = ENCODERS[coding](bytes(4 * 1024 * 1024))
    ran = post(bomb, coding, pieces=pieces)
    assert (ran.status, ran.fault) == (413, "body_too_large")
    assert ran.why == "the body decompresses to more than 1048576 bytes"
    ran = post(bomb, coding, pieces=pieces, max_bytes="16MiB")
    assert (ran.status, ran.fault) == (413, "body_too_large")
    assert ran.why == "the body decompresses to more than 100 times its size"
    assert post(bomb, coding, max_bytes="4MiB", max_ratio=1_000_000).status == 200


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("pieces", [0, 10])
def test_invalid_or_incomplete_data_is_refused(coding: str, pieces: int) -> None:
    data = ENCODERS[coding](BODY)
    for wrong in (b"not at all " * 10, data[:-1], data + b"more and more"):
        ran = post(wrong, coding, pieces=pieces)
        assert (ran.status, ran.fault) == (400, "bad_request")
        assert f"is not valid {coding} data" in ran.received.decode("latin-1")


def test_settings_are_checked() -> None:
    for wrong in ({"encodings": []}, {"encodings": ["gzip", "gzip"]}, {"encodings": ["deflate"]}, {"max_ratio": 0}):
        with pytest.raises(ConfigError):
            configured(Decompress, **wrong)


@settings(max_examples=30, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=2000), pieces=st.integers(20, 4000),
    coding=st.sampled_from(list(ENCODERS)), framing=st.sampled_from(["", "chunked"]),
)  # fmt: skip
def test_what_the_upstream_gets_is_what_the_client_compressed(
    content: bytes, pieces: int, coding: str, framing: str
) -> None:
    ran = post(ENCODERS[coding](content), coding, framing=framing, pieces=pieces)
    assert (ran.status, body_sent(ran)) == (200, content)
