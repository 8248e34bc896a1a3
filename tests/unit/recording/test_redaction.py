"""Credentials are masked where they stand, and wherever their values occur again."""

from __future__ import annotations

import base64

import pytest

from fastgw.capture.redaction import SECRET_HEADERS
from fastgw.recording.records import RecordedBody, RecordedCall, RecordedIdentity, RecordedRequest
from fastgw.recording.redaction import RecordRedaction, TooLongToMask


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        (b"Authorization: Bearer abcdefgh", b"Authorization: Bearer ***"),
        (b"authorization: abcdefgh", b"authorization: ***"),
        (b"X-Key: abcdefgh", b"X-Key: ***"),
        (b"Cookie: sid=abcdefgh; lang=de", b"Cookie: sid=***; lang=***"),
        (b"Set-Cookie: sid=abcdefgh; Path=/; HttpOnly", b"Set-Cookie: sid=***; Path=/; HttpOnly"),
        (b"Referer: http://a/?access_token=abcdefgh&page=2", b"Referer: http://a/?access_token=***&page=2"),
        (b"Accept: */*", b"Accept: */*"),
    ],
)
def test_a_header_is_masked(line: bytes, masked: bytes) -> None:
    found: set[bytes] = set()
    head = b"GET / HTTP/1.1\r\n%b\r\n\r\n"
    assert RecordRedaction(["x-key"]).head(head % line, found) == head % masked
    assert (b"abcdefgh" in found) == (line != masked)


def test_what_a_tap_hides_is_not_recorded() -> None:
    """But for the key of a handshake, which could not be replayed without it."""
    for name in sorted(SECRET_HEADERS):
        found = set[bytes]()
        head = RecordRedaction(()).head(b"GET / HTTP/1.1\r\n%b: geheim-7\r\n" % name, found)
        assert (b"geheim-7" in head, b"geheim-7" in found) == (
            (True, False) if name == b"sec-websocket-key" else (False, True)
        )


def test_parameters_are_masked_as_in_the_log_and_by_name() -> None:
    found: set[bytes] = set()
    head = b"GET /a?token=first&mine=sec%2Fond&page=2 HTTP/1.1\r\nHost: a\r\n\r\n"
    masked = RecordRedaction(["mine"]).head(head, found)
    assert masked.startswith(b"GET /a?token=***&mine=***&page=2 HTTP/1.1\r\n")
    assert found >= {b"first", b"sec/ond"}


def test_cookies_are_kept_only_if_asked_and_not_checked_by_a_filter() -> None:
    redaction = RecordRedaction(["sid"], keeps_cookies=True)
    masked = redaction.head(b"GET / HTTP/1.1\r\nCookie: sid=abcdefgh; lang=de\r\n\r\n", set())
    assert b"Cookie: sid=***; lang=de\r\n" in masked


def _record(kind: bytes, body: bytes) -> RecordedRequest:
    head = b"POST / HTTP/1.1\r\nContent-Type: %b\r\n\r\n" % kind
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


@pytest.mark.parametrize(
    ("kind", "body", "masked"),
    [
        (
            b"application/json",
            b'{"a":{"password":"S"},"code":5,"pin":"S"}',
            b'{"a":{"password":"***"},"code":5,"pin":"***"}',
        ),
        (b"application/json", b'{"access_token":"S', b'{"access_token":"***"'),
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
