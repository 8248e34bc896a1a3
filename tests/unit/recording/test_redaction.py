"""Credentials are masked where they stand, and wherever their values occur again."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.http.http1.parser import parse_request
from fastgw.http.malformed import Malformed
from fastgw.recording.records import MASK, RecordedBody, RecordedCall, RecordedIdentity, RecordedRequest
from fastgw.recording.redaction import RecordRedaction, TooLongToMask
from tests.support.table import for_each


@for_each(
    ("line", "masked"),
    [
        (b"Authorization: Bearer abcdefgh", b"Authorization: Bearer ***"),
        (b"authorization: abcdefgh", b"authorization: ***"),
        (b"X-Key: abcdefgh", b"X-Key: ***"),
        (b"Cookie: sid=abcdefgh-2345678; lang=de", b"Cookie: sid=***; lang=***"),
        (b"Set-Cookie: sid=abcdefgh-2345678; Path=/; HttpOnly", b"Set-Cookie: sid=***; Path=/; HttpOnly"),
        (b"Referer: http://a/?access_token=abcdefgh-2345678&page=2", b"Referer: http://a/?access_token=***&page=2"),
        (b"Cookie: abcdefgh-2345678", b"Cookie: ***"),
        (b"Cookie: a=b; abcdefgh-2345678;", b"Cookie: a=***; ***;"),
        (b"Set-Cookie: abcdefgh-2345678; Path=/", b"Set-Cookie: ***; Path=/"),
        (b"X-Original-URI: /a?access_token=abcdefgh-2345678", b"X-Original-URI: /a?access_token=***"),
        (b"Link: <https://a/?b=1&token=abcdefgh-2345678>; rel=c", b"Link: <https://a/?b=1&token=***>; rel=c"),
        (b"Refresh: 0; url=/a;token=abcdefgh-2345678", b"Refresh: 0; url=/a;token=***"),
        (b"Accept: */*", b"Accept: */*"),
        (b"Cache-Control: max-age=5", b"Cache-Control: max-age=5"),
    ],
)
def test_a_header_is_masked(line: bytes, masked: bytes) -> None:
    found: set[bytes] = set()
    head = b"GET / HTTP/1.1\r\n%b\r\n\r\n"
    assert RecordRedaction(["x-key"]).head(head % line, found) == head % masked
    assert any(each.startswith(b"abcdefgh") for each in found) == (line != masked)


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        (b"<https://bob:geheim@a/>; rel=b", b"<https://***@a/>; rel=b"),
        (b"a=%b, token=geheim" % (b"b" * 5000), b"***, token=***"),
        (b"%b token=geheim" % (b"b" * 5000), b"%b token=***" % (b"b" * 5000)),
    ],
)
def test_urls_in_headers_are_masked_to_their_end(value: bytes, masked: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nLink: %b\r\n\r\n"
    assert RecordRedaction(()).head(head % value, set()) == head % masked


def test_trailers_are_masked_as_headers_are() -> None:
    found: set[bytes] = set()
    trailers = ((b"X-Auth-Token", b"geheim-7"), (b"X-Checksum", b"geheim-7"), (b"Link", b"</?mine=geheim-8>"))
    masked = ((b"X-Auth-Token", b"***"), (b"X-Checksum", b"geheim-7"), (b"Link", b"</?mine=***>"))
    assert RecordRedaction(["mine"]).trailers(trailers, found) == masked
    assert found == {b"geheim-7", b"geheim-8"}


def test_what_a_tap_hides_is_not_recorded() -> None:
    """The key of a handshake, which could not be replayed without it, is no secret."""
    for name, is_hidden in ((b"X-Session", True), (b"x-functions-key", True), (b"Sec-WebSocket-Key", False)):
        found = set[bytes]()
        head = RecordRedaction(()).head(b"GET / HTTP/1.1\r\n%b: geheim-7\r\n" % name, found)
        assert (b"geheim-7" not in head, b"geheim-7" in found) == (is_hidden, is_hidden)


def test_parameters_are_masked_as_in_the_log_and_by_name() -> None:
    found: set[bytes] = set()
    head = b"GET /a?token=the-first-1&mine=a%2Fsecond-2&page=2 HTTP/1.1\r\nHost: a\r\n\r\n"
    masked = RecordRedaction(["mine"]).head(head, found)
    assert masked.startswith(b"GET /a?token=***&mine=***&page=2 HTTP/1.1\r\n")
    assert found >= {b"the-first-1", b"a%2Fsecond-2", b"a/second-2"}


def test_cookies_are_kept_only_if_asked_and_not_checked_by_a_filter() -> None:
    redaction = RecordRedaction(["sid"], keeps_cookies=True)
    masked = redaction.head(b"GET / HTTP/1.1\r\nCookie: sid=abcdefgh; lang=de\r\n\r\n", set())
    assert b"Cookie: sid=***; lang=de\r\n" in masked


def _record(kind: bytes, body: bytes, head: bytes = b"") -> RecordedRequest:
    head = head or b"POST / HTTP/1.1\r\nContent-Type: %b\r\n\r\n" % kind
    call = RecordedCall("u", "t", head, RecordedBody(body, len(body)))
    call.response, call.response_body = head, RecordedBody(body, len(body))
    bodies = RecordedBody(body, len(body)), RecordedBody(body, len(body))
    return RecordedRequest(
        *(
            0.0,
            0.0,
            "main",
            b"http",
            "127.0.0.1",
            1,
            80,
            False,
            "127.0.0.1",
            11,
            head,
            bodies[0],
            (),
            RecordedIdentity(),
        ),
        *("r", 200, head, bodies[1], (), "", "", "", "", "", (call,)),
    )


@for_each(
    ("kind", "body", "masked"),
    [
        (
            b"application/json",
            b'{"a":{"password":"S"},"code":5,"pin":"S"}',
            b'{"a":{"password":"***"},"code":5,"pin":"***"}',
        ),
        (b"application/json", b'{"access_token":"S', b'{"access_token":"***"'),
        (b"text/html", b"a:\\/\\/u:S@h", b"a:\\/\\/***@h"),
        (b"application/json", b'{"X-Auth":"S","userPwd":"S","auth":1}', b'{"X-Auth":"***","userPwd":"***","auth":1}'),
        (
            b"application/x-www-form-urlencoded",
            b"password=S&key=b&client_secret=S&pass%77ord=S",
            b"password=***&key=b&client_secret=***&pass%77ord=***",
        ),
        (b"application/x-www-form-urlencoded", b"a%5Bpass%77ord%5D=S&b=%20c", b"a%5Bpass%77ord%5D=***&b=%20c"),
        (
            b"multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; name="new_password"\r\n\r\nS\r\n--B--\r\n',
            b'--B\r\nContent-Disposition: form-data; name="new_password"\r\n\r\n***\r\n--B--\r\n',
        ),
        (b"image/png", b'"password":"x"', b'"password":"x"'),
        (b"multipart/form-data", b"password=x", b"password=x"),
        (b"text/plain", b"", b""),
    ],
)
def test_credentials_in_bodies_are_masked_by_name(kind: bytes, body: bytes, masked: bytes) -> None:
    record = _record(kind, body)
    RecordRedaction(["pin"]).request(record, set())
    (call,) = record.calls
    for each in (record.request_body, record.response_body, call.request_body, call.response_body):
        assert (each.content, each.length) == (masked, len(masked))


def _masked(head: bytes, body: bytes = b"", claims: bytes = b"") -> RecordedRequest:
    """The record of a request whose heads are all this one, and its bodies this one."""
    redaction, found = RecordRedaction(()), set[bytes]()
    record = _record(b"", body, head)
    record.identity.claims = claims
    record.request = redaction.head(head, found)
    redaction.request(record, found)
    return record


@for_each(
    "head",
    [
        b"GET /orders/7?orders=1 HTTP/1.1\r\nHost: a\r\nCookie: lasttab=orders\r\n\r\n",
        b"GET /sku-12345 HTTP/1.1\r\nHost: a\r\nCookie: last=sku-12345; day=2026-11-26\r\n\r\n",
        b"GET /shop.example HTTP/1.1\r\nHost: shop.example\r\nCookie: site=shop.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nAccept: b\r\nCookie: mode=Accept\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: shop-24-of-many.example\r\nCookie: token=shop-24-of-many.example\r\n\r\n",
        b"GET http://shop-24-of-many.example/ HTTP/1.1\r\nX-Api-Key: shop-24-of-many.example\r\n\r\n",
        b"GET /a HTTP/1.1\r\nOrigin: https://shop-24.example\r\nCookie: token=shop-24.example\r\n\r\n",
        b"CONNECT shop-24.example:443 HTTP/1.1\r\nX-Api-Key: shop-24.example:443\r\n\r\n",
        b"A-METHOD-OF-MY-OWN-1 / HTTP/1.1\r\nX-Api-Key: A-METHOD-OF-MY-OWN-1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Of-My-Own-123: a\r\nX-Api-Key: X-Of-My-Own-123\r\n\r\n",
        b"GET /7 HTTP/1.1\r\nContent-Length: 123456789\r\nX-Api-Key: 123456789\r\n\r\n",
        b"GET /status HTTP/1.1\r\nAccept: application/json\r\nX-Api-Key: application/json\r\n\r\n",
    ],
)
def test_a_value_that_a_client_chooses_leaves_the_request_as_it_is(head: bytes) -> None:
    """Only the value itself is masked, so the record can be replayed."""
    lines = _masked(head).request.split(b"\r\n")
    assert lines[:-3] == head.split(b"\r\n")[:-3]
    assert MASK in lines[-3]


@pytest.mark.parametrize(
    ("target", "masked"),
    [
        (b"/a/T0ken-of-alice-7/b", b"/a/***/b"),
        (b"/a/T0ken-of-alice-7.json?b=T0ken-of-alice-7&c=1", b"/a/***.json?b=***&c=1"),
        (b"http://a/?T0ken-of-alice-7#c", b"http://a/?***#c"),
        (b"/?u=%2Fa%2FT0ken-of-alice-7", b"/?u=%2Fa%2F***"),
    ],
)
@pytest.mark.parametrize("line", [b"Authorization: Bearer T0ken-of-alice-7", b"Cookie: a=T0ken-of-alice-7"])
def test_a_secret_is_masked_in_paths_and_queries(target: bytes, masked: bytes, line: bytes) -> None:
    record = _masked(b"GET %b HTTP/1.1\r\nX-A: <T0ken-of-alice-7>\r\n%b\r\n\r\n" % (target, line))
    for each in (record.request, record.calls[0].request):
        assert each.startswith(b"GET %b HTTP/1.1\r\nX-A: <***>\r\n" % masked)


def test_the_separators_of_a_target_stay_whatever_the_secret_is() -> None:
    """Secrets in base64 may have slashes, and are sent as they are or encoded."""
    head = b"GET /a/b1/c2+d3==/e?f=b1%2Fc2%2Bd3%3D%3D HTTP/1.1\r\nX-Api-Key: b1/c2+d3==\r\n\r\n"
    assert _masked(head).request.startswith(b"GET /a/***/***==/e?f=*** HTTP/1.1\r\n")
    head = b"GET /orders/7?page=2 HTTP/1.1\r\nX-Api-Key: /orders/7?page=2\r\n\r\n"
    assert _masked(head).request.startswith(b"GET /***/***?***=*** HTTP/1.1\r\n")


PIECES = st.sampled_from(
    [
        b"/",
        b"?",
        b"&",
        b"=",
        b"%41",
        b"%2f",
        b"%25",
        b"a1B2c3D4",
        b"orders",
        b"http://",
        b"a.example:80",
        b";",
        b"*",
        b"#",
    ]
)


@given(st.lists(PIECES, max_size=8).map(b"".join), st.integers(0, 60), st.integers(6, 40))
@example(b"/%20aB3%2fxyz", 8, 10)
def test_a_request_stays_one_whatever_part_of_it_a_client_calls_a_secret(target: bytes, at: int, length: int) -> None:
    """A record that cannot be read would end the replay of all others."""
    head = b"POST %b HTTP/1.1\r\nHost: a1B2c3D4.example:80\r\nContent-Length: 123456\r\n" % target
    secret = head[at : at + length].replace(b"\r\n", b"").strip()
    head += b"X-Api-Key: %b\r\n\r\n" % secret
    try:
        before = parse_request(head)
    except Malformed:
        return
    after = parse_request(_masked(head).request)
    assert (after.method, after.authority) == (before.method, before.authority)


@pytest.mark.parametrize(
    ("line", "body", "masked"),
    [
        (b"X-Api-Key: geheim", b"you are geheim", b"you are ***"),
        (b"X-Api-Key: ge/heim", b'"ge\\/heim ge%2Fheim"', b'"*** ***"'),
        (b"Authorization: Basic Ym9iOmdlaGVpbQ==", b"bob:geheim, geheim", b"***, ***"),
        (b"Cookie: lasttab=orders", b'{"orders":[]}', b'{"orders":[]}'),
        (b"Cookie: token=orders", b'{"orders":[]}', b'{"orders":[]}'),
        (b"Cookie: token=orders-5", b'{"orders-5":[]}', b'{"***":[]}'),
        (b"Cookie: a=Abcdefgh-ijklmno", b"Abcdefgh-ijklmno", b"***"),
    ],
)
def test_a_body_that_repeats_a_secret_is_masked(line: bytes, body: bytes, masked: bytes) -> None:
    record = _masked(b"GET / HTTP/1.1\r\n%b\r\n\r\n" % line, body)
    assert (record.response_body.content, record.response_body.length) == (masked, len(masked))


def test_the_host_is_recorded_even_if_its_name_is_listed() -> None:
    head = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"
    assert RecordRedaction(["host"]).head(head, set()) == head


def test_claims_remain_json_whatever_the_secret_is() -> None:
    head = b'GET / HTTP/1.1\r\nX-Api-Key: geheim\r\nProxy-Authorization: "sub":"\r\n\r\n'
    claims = b'{"sub":"a geheim","n":[12345678901234567890123,"geheim"],"geheim":{"a":null}}'
    cleaned = b'{"sub":"a ***","n":[12345678901234567890123,"***"],"geheim":{"a":null}}'
    assert _masked(head, claims=claims).identity.claims == cleaned


def test_a_compressed_body_stays_as_it_is() -> None:
    record = _record(b"text/plain\r\nContent-Encoding: gzip", b"password=x")
    RecordRedaction([]).request(record, set())
    assert record.request_body.content == b"password=x"


def test_the_password_of_basic_is_known_too() -> None:
    found: set[bytes] = set()
    pair = base64.b64encode(b"bob:long-password")
    RecordRedaction([]).head(b"GET / HTTP/1.1\r\nAuthorization: Basic %b\r\n\r\n" % pair, found)
    assert found >= {pair, b"bob:long-password", b"long-password"}


def test_a_url_that_is_too_long_to_mask_is_refused() -> None:
    with pytest.raises(TooLongToMask):
        RecordRedaction([]).head(b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 5000), set())
