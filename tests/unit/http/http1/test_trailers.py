"""Trailers of both versions of HTTP: what they may be, beside others and alone."""

from __future__ import annotations

from fastgw.http.http1.trailers import LONGEST_TRAILERS, MOST_TRAILERS, parse_trailers
from fastgw.http.malformed import Malformed
from tests.support.table import for_each

LINES = (
    b"grpc-status: 0\r\ngrpc-message: \r\n",
    b"grpc-status: 13\r\ngrpc-message: it%20broke\r\ngrpc-status-details-bin: CAMSBQ==\r\n",
    b"x: a b\r\n",
    b"x:  padded \t\r\n",
    b"x:\r\n",
    b"x: \r\n",
    b"x:   \r\n",
    b"x: tab\tinside\r\n",
    b"x: caf\xe9\r\n",
    b"x: a:b\r\n",
    b"X-Upper: 1\r\n",
    b"x_y: 1\r\n",
    b"content-digest: sha-256=:AA==:\r\n",
    b"content-length: 3\r\n",
    b"content-type: text/html\r\n",
    b"x-request-id: 1\r\n",
    b"x_request_id: 1\r\n",
    b"set-cookie: a=b\r\n",
    b"te: trailers\r\n",
    b": empty\r\n",
    b"no colon\r\n",
    b"x : 1\r\n",
    b"x: \x00\r\n",
    b"x: \x7f\r\n",
    b"x: a\rb\r\n",
    b"x: a\nb\r\n",
    b"x: 1\r\n\r\n",
    b"x: 1",
    b"x: 1\r",
    b"\r\n",
    b"x: 1\r\n" * MOST_TRAILERS,
    b"x: 1\r\n" * (MOST_TRAILERS + 1),
    b"x: " + b"a" * (LONGEST_TRAILERS - 9) + b"\r\n",
    b"x: " + b"a" * (LONGEST_TRAILERS - 8) + b"\r\n",
)


def judged(lines: bytes, longest: int, most: int) -> tuple[tuple[bytes, bytes], ...] | str:
    try:
        return parse_trailers(b"\r\n" + lines + b"\r\n", longest, most)
    except Malformed as malformed:
        return malformed.reason


@for_each("lines", LINES)
def test_trailers_are_the_same_behind_one_that_is_not_plain(lines: bytes) -> None:
    """RFC 9110 section 6.5. Plain ones are read faster, unless one of all is not."""
    odd = b"X-Odd_Name: \xe9\r\n"
    behind = judged(odd + lines, LONGEST_TRAILERS + len(odd), MOST_TRAILERS + 1)
    alone = judged(lines, LONGEST_TRAILERS, MOST_TRAILERS)
    assert behind == (alone if isinstance(alone, str) else ((b"X-Odd_Name", b"\xe9"), *alone))
