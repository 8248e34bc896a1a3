"""The Connect protocol as bytes: calls by GET, errors with their details, the end of a stream."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.grpc.connect import (
    asks_by_get,
    end_of_stream,
    error_of,
    parse_get,
    stream_codec,
    timeout_seconds,
    unary_codec,
)
from fastgw.http.grpc.details import read_details
from fastgw.http.grpc.status import GrpcStatus
from tests.support.table import for_each


def varint(number: int) -> bytes:
    made = b""
    while number > 127:
        made, number = made + bytes((number % 128 + 128,)), number // 128
    return made + bytes((number,))


def part(number: int, content: bytes) -> bytes:
    """A field of Protobuf with bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


@for_each(
    ("kind", "unary", "stream"),
    [
        (b"application/proto", b"proto", None),
        (b"application/json; charset=utf-8", b"json", None),
        (b"Application/JSON", b"json", None),
        (b"application/connect+proto", None, b"proto"),
        (b"application/connect+json;x=y", None, b"json"),
        (b"application/connect", b"connect", None),
        (b"application/grpc", None, None),
        (b"application/grpc+proto", None, None),
        (b"application/grpc-web-text", None, None),
        (b"application/", None, None),
        (b"text/json", None, None),
        (b"", None, None),
        (None, None, None),
    ],
)
def test_content_types(kind: bytes | None, unary: bytes | None, stream: bytes | None) -> None:
    assert (unary_codec(kind), stream_codec(kind)) == (unary, stream)


@given(st.binary(max_size=60), st.booleans())
def test_a_message_in_a_query_comes_back(message: bytes, padded: bool) -> None:
    text = urlsafe_b64encode(message).decode()
    query = f"connect=v1&base64=1&encoding=proto&x=1&message={quote(text if padded else text.rstrip('='))}".encode()
    assert asks_by_get(query)
    assert parse_get(query) == (b"proto", message, b"")
    percent = b"message=%b&encoding=json" % quote(message).encode()
    assert parse_get(percent) == (b"json", message, b"")


def test_a_plus_is_a_space_and_other_values_of_base64_are_ignored() -> None:
    assert parse_get(b"message=a+b%2Bc&encoding=json&base64=0&compression=gzip") == (b"json", b"a b+c", b"gzip")
    assert parse_get(b"compression=identity&encoding=json&message=").encoding == b""
    assert not asks_by_get(None)
    assert not asks_by_get(b"connect=v2")
    assert not asks_by_get(b"xconnect=v1")


@for_each(
    ("query", "told"),
    [
        (b"encoding=json", "no `message`"),
        (b"message=x", "no `encoding`"),
        (b"message=x&message=y&encoding=json", "more than one `message`"),
        (b"message=x&%6dessage=y&encoding=json", "more than one `message`"),
        (b"message=x&encoding=js%0d%0aon", "`encoding`"),
        (b"message=x&encoding=", "`encoding`"),
        (b"message=x&encoding=json&compression=gz%0aip", "`compression`"),
        (b"message=a&base64=1&encoding=json", "Base64"),
        (b"message=%2B%2F&base64=1&encoding=json", "Base64"),
        (b"message=AA%3DA&base64=1&encoding=json", "Base64"),
    ],
)
def test_a_query_that_is_no_call_is_refused(query: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_get(query)


def test_timeouts_have_ten_digits_at_most() -> None:
    assert (timeout_seconds(b"1500"), timeout_seconds(b"9999999999")) == (1.5, 9_999_999.999)
    assert [timeout_seconds(wrong) for wrong in (b"", b"-1", b"1.5", b"12345678901", b"1s", "²".encode())] == [None] * 6


def test_errors_have_their_details() -> None:
    detail = part(1, b"type.googleapis.com/google.rpc.RetryInfo") + part(2, b"\x0a\x02\x08\x3c")
    status = varint(1 << 3) + varint(14) + part(2, b"busy") + part(3, detail) + part(3, detail)
    for value in (b64encode(status), b64encode(status).rstrip(b"=")):
        details = read_details(value)
        assert [each.type_name for each in details] == ["google.rpc.RetryInfo"] * 2
        error = error_of(GrpcStatus.UNAVAILABLE, "busy", details)
        assert error["details"][0] == {"type": "google.rpc.RetryInfo", "value": "CgIIPA"}
    assert error_of(GrpcStatus.CANCELLED) == {"code": "canceled"}
    assert {error_of(status)["code"] for status in GrpcStatus} >= {"invalid_argument", "deadline_exceeded", "data_loss"}


@given(st.binary(max_size=60))
def test_details_that_cannot_be_read_are_none(value: bytes) -> None:
    """They only add to a status, and never take its place."""
    read_details(value)
    read_details(b64encode(value))
    assert read_details(b"!") == read_details(None) == read_details(b64encode(b"\x1a\xff\xff\xff\xff\x0fx")) == []


def test_the_end_of_a_stream() -> None:
    assert end_of_stream(None) == b"\x02\0\0\0\x02{}"
    last = end_of_stream(
        error_of(GrpcStatus.ABORTED, "no"), [(b"X-A", b"1"), (b"x-a", "ä".encode()), (b"x-b", b"\xff")]
    )
    assert last[:1] == b"\x02"
    assert int.from_bytes(last[1:5], "big") == len(last) - 5
    assert orjson.loads(last[5:]) == {
        "error": {"code": "aborted", "message": "no"},
        "metadata": {"x-a": ["1", "ä"], "x-b": ["\ufffd"]},
    }
