"""Credentials are masked where they stand, and wherever their values occur again."""

from __future__ import annotations

import base64

import pytest

from fastgw.capture.redaction import SECRET_HEADERS
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


def test_the_password_of_basic_is_known_too() -> None:
    found: set[bytes] = set()
    pair = base64.b64encode(b"bob:long-password")
    RecordRedaction([]).head(b"GET / HTTP/1.1\r\nAuthorization: Basic %b\r\n\r\n" % pair, found)
    assert found >= {pair, b"bob:long-password", b"long-password"}


def test_a_url_that_is_too_long_to_mask_is_refused() -> None:
    with pytest.raises(TooLongToMask):
        RecordRedaction([]).head(b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 5000), set())
