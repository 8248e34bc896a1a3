"""What the log tells of requests that could not be read."""

from __future__ import annotations

import pytest

from fastgw.downstream.http1.rejected_head import rejected_head
from tests.support.memory import Plane
from tests.support.secrecy import reported
from tests.support.table import for_each


@for_each(
    ("target", "shown"),
    [
        ("http://user:planted@a/x?b", ("http://***@a/x", "b")),
        ("HTTP://user:planted@a", ("HTTP://***@a", None)),
        ("//user:planted@a/x", ("//***@a/x", None)),
        ("user:planted@a:443", ("***@a:443", None)),
        ("http://user:planted/planted?planted@a/x", ("http://***@a/x", None)),
        ("http://a/x", ("http://a/x", None)),
        ("/a@b?c=d@e", ("/a@b", "c=d@e")),
        ("/?a=http://b@c", ("/", "a=http://b@c")),
        ("/a?", ("/a", "")),
    ],
)
def test_who_asks_is_not_told_with_a_password(target: str, shown: tuple[str, str | None]) -> None:
    head = rejected_head(f"GET {target} HTTP/1.1\r\n".encode())
    query = None if head.query is None else head.query.decode()
    assert (head.raw_path.decode(), query) == shown


@for_each(
    ("lines", "shown"),
    [
        (b"User-Agent: a\r\nReferer: b\r\n", b"a"),
        (b"User-Agent: a", b"a"),  # what has come in time
        (b"Bad Name: x\nUser-Agent: a\nOther: b\n\n", b"a"),
        (b"User-Agent: a\x01b\r\n", b"a?b"),
        (b"Cookie: c\r\nX: y\r\n", None),
    ],
)
def test_fields_that_can_be_told_are_shown(lines: bytes, shown: bytes | None) -> None:
    assert rejected_head(b"GET / HTTP/1.1\r\n" + lines).first(b"user-agent") == shown


@pytest.mark.parametrize(
    "line", ["GET http://user:planted@a/x", "CONNECT user:planted@a:443", "GET //user:planted@a x"]
)
def test_no_log_shows_a_password_of_a_target(line: str) -> None:
    plane = Plane()
    client = plane.client()
    client.sends(f"{line} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert client.received.startswith(b"HTTP/1.1 4")
    told = reported(plane.records, plane.gateway)
    assert "***@a" in told
    assert "planted" not in told
    assert b"planted" not in client.received
