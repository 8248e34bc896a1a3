"""Trailers of both versions of HTTP: what they may be."""

from __future__ import annotations

from fastgw.http.http1.trailers import LONGEST_TRAILERS, MOST_TRAILERS, TRAILERS_TOO_LARGE, parse_trailers
from fastgw.http.malformed import Malformed
from tests.support.table import for_each

NOT_ALLOWED = "A trailer has a header that is not allowed in trailers."
LONGEST_LINE = b"x: " + b"a" * (LONGEST_TRAILERS - 9) + b"\r\n"

READ = [
    (b"", ()),
    (b"grpc-status: 0\r\ngrpc-message: \r\n", ((b"grpc-status", b"0"), (b"grpc-message", b""))),
    (b"x: a b\r\n", ((b"x", b"a b"),)),
    (b"x:  padded \t\r\n", ((b"x", b"padded"),)),
    (b"x:\r\n", ((b"x", b""),)),
    (b"x:   \r\n", ((b"x", b""),)),
    (b"x: tab\tinside\r\n", ((b"x", b"tab\tinside"),)),
    (b"x: caf\xe9\r\n", ((b"x", b"caf\xe9"),)),
    (b"x: a:b\r\n", ((b"x", b"a:b"),)),
    (b"X-Upper: 1\r\nx_y: 1\r\n", ((b"X-Upper", b"1"), (b"x_y", b"1"))),
    (b"content-digest: sha-256=:AA==:\r\n", ((b"content-digest", b"sha-256=:AA==:"),)),
    (b"x: 1\r\n" * MOST_TRAILERS, ((b"x", b"1"),) * MOST_TRAILERS),
    (LONGEST_LINE, ((b"x", LONGEST_LINE[3:-2]),)),
]
REFUSED = [
    *(
        (line + b"\r\n", NOT_ALLOWED)
        for line in (
            b"content-length: 3",
            b"content-type: text/html",
            b"Content_Type: text/html",
            b"x-request-id: 1",
            b"x_request_id: 1",
            b"set-cookie: a=b",
            b"te: trailers",
        )
    ),
    (b": empty\r\n", "A header has an empty name."),
    (b"no colon\r\n", "A header name has an invalid character."),
    (b"x : 1\r\n", "There is whitespace between a header name and its colon."),
    (b"x: \x00\r\n", "A header value has a control character."),
    (b"x: \x7f\r\n", "A header value has a control character."),
    (b"x: a\rb\r\n", "A line contains a bare CR."),
    (b"x: a\nb\r\n", "A line ends with a bare LF."),
    (b"x: 1\r\n\r\n", "The headers do not end with an empty line."),
    (b"x: 1", "The headers do not end with an empty line."),
    (b"x: 1\r", "A line contains a bare CR."),
    (b"\r\n", "The headers do not end with an empty line."),
    (b"x: 1\r\n" * (MOST_TRAILERS + 1), TRAILERS_TOO_LARGE),
    (b"a" + LONGEST_LINE, TRAILERS_TOO_LARGE),
]


def judged(lines: bytes) -> tuple[tuple[bytes, bytes], ...] | str:
    try:
        return parse_trailers(b"\r\n" + lines + b"\r\n")
    except Malformed as malformed:
        return malformed.reason


@for_each(("lines", "trailers"), READ)
def test_trailers_are_read(lines: bytes, trailers: tuple[tuple[bytes, bytes], ...]) -> None:
    assert judged(lines) == trailers


@for_each(("lines", "reason"), REFUSED)
def test_trailers_are_refused(lines: bytes, reason: str) -> None:
    """RFC 9110 section 6.5.1. One that is refused makes all of them refused, also behind others."""
    assert judged(lines) == reason
    if reason != TRAILERS_TOO_LARGE:
        assert judged(b"x: 1\r\n" + lines) == reason
