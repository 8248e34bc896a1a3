"""What a tap shows has no credentials, cookies or secret parameters in it."""

from __future__ import annotations

import gzip

import pytest

from fastgw.capture.redaction import Redaction, received_fields

JSON = [(b"Content-Type", b"application/json; charset=utf-8")]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        (b"Authorization", b"Bearer abc.def", b"Bearer ***"),
        (b"authorization", b"abc", b"***"),
        (b"Proxy-Authorization", b"Basic eHh4", b"Basic ***"),
        (b"X-API-Key", b"k1", b"***"),
        (b"X-Own", b"k1", b"***"),
        (b"Cookie", b"a=b; c=d", b"a=***; c=***"),
        (b"Set-Cookie", b"sid=abc; Path=/; HttpOnly", b"sid=***; Path=/; HttpOnly"),
        (b"Location", b"https://a.example/?code=s&x=1", b"https://a.example/?code=***&x=1"),
        (b"Accept", b"*/*", b"*/*"),
    ],
)
def test_headers_with_secrets_are_masked(name: bytes, value: bytes, shown: bytes) -> None:
    assert Redaction(["X-Own"]).fields([(name, value)]) == [(name, shown)]


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        (b"application/json", b'{"password": "x\\"y", "a": 1}', b'{"password": "***", "a": 1}'),
        (b"application/json", b'{"token":12345,"b":[1]}', b'{"token":"***","b":[1]}'),
        (b"application/json", b'{"secret":{"a":"b"}}', b'{"secret":"***"}'),
        (b"application/json", b'{"api_key":"cut of', b'{"api_key":"***"'),
        (b"application/json", b'{"got":"{\\"password\\":\\"x\\"}"}', b'{"got":"{\\"password\\":***}"}'),
        (b"text/plain", b"a password=x&name=y", b"a password=***&name=y"),
        (b"application/x-www-form-urlencoded", b"client_secret=x&name=y", b"client_secret=***&name=y"),
        (b"application/xml", b"<a><password>x</password><b>y</b></a>", b"<a><password>***</password><b>y</b></a>"),
        (
            b"multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; name="password"\r\n\r\nx\ny\r\n--B--',
            b'--B\r\nContent-Disposition: form-data; name="password"\r\n\r\n***\r\n--B--',
        ),
        (b"application/json", b'{"name":"a","n":1}', b'{"name":"a","n":1}'),
    ],
)
def test_bodies_are_shown_without_the_values_of_secrets(kind: bytes, body: bytes, shown: bytes) -> None:
    assert Redaction().body([(b"content-type", kind)], body, True) == (shown, "")


def test_a_compressed_body_is_read_first_and_one_that_cannot_be_read_is_left_out() -> None:
    packed = gzip.compress(b'{"password":"x"}' * 10)
    gzipped = [*JSON, (b"Content-Encoding", b"gzip")]
    assert Redaction().body(gzipped, packed, True) == (b'{"password":"***"}' * 10, "")
    assert b"x" not in Redaction().body(gzipped, packed[:-9], False).content
    assert Redaction().body(gzipped, b"no gzip", True) == (b"", "content coding gzip")
    assert Redaction().body([*JSON, (b"Content-Encoding", b"br")], packed, True) == (b"", "content coding br")
    assert Redaction().body([(b"Content-Type", b"image/png")], b"\x89PNG", True) == (b"", "type image/png")
    assert Redaction().body([], b"\x00", True) == (b"", "type unknown")
    assert Redaction().body([], b"", True) == (b"", "")


def test_names_of_the_configuration_are_secrets_as_well() -> None:
    assert Redaction(["ticket"]).body(JSON, b'{"ticket":"x","a":"y"}', True).content == b'{"ticket":"***","a":"y"}'
    assert Redaction(["ticket"]).query(b"ticket=x&a=y") == b"ticket=***&a=y"
    assert Redaction(["ticket"]).path(b"/a;ticket=x") == b"/a;ticket=***"


def test_the_fields_of_a_head_are_those_that_were_received() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: 1 \r\nx:2\r\n\r\n"
    assert received_fields(head) == [(b"Host", b"a"), (b"X", b"1"), (b"x", b"2")]
