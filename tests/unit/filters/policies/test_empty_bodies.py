"""An empty body that is received with its head, or has the declared length 0, is no body for the filters."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.http2 import frames
from tests.support.memory import SERVICE, Plane
from tests.unit.downstream.http2.test_tunnels import HTTP2, begins
from tests.unit.filters.policies.test_hmac import CONSUMERS, signed

HEAD = b"%b HTTP/1.1\r\nHost: a.test\r\n%b"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
VALIDATE: dict[str, Any] = {"body": {"inline": {"type": "object"}}}
OPTIONAL: dict[str, Any] = {"body": {"inline": {"type": "object"}, "required": False}}
POST, QUERY = b"POST /", b"GET /?query=%7Ba%7D"
TEXT, JSON, CODED = (
    b"Content-Type: text/plain\r\n",
    b"Content-Type: application/json\r\n",
    b"Content-Encoding: gzip\r\n",
)

PASSES = {
    "validate": ({"validate": OPTIONAL}, POST, TEXT),
    "transform": ({"transform": {"request": {"json": {"deny": ["a"]}, "other_types": "refuse"}}}, POST, TEXT),
    "graphql": ({"graphql": {"max_depth": 3}}, QUERY, b""),
    "waf": ({"waf": {}}, POST, CODED),
}


@pytest.mark.parametrize(("filters", "request_line", "fields"), PASSES.values(), ids=PASSES)
def test_it_passes_where_a_request_without_a_body_does(
    filters: dict[str, Any], request_line: bytes, fields: bytes
) -> None:
    plane = Plane({**SERVICE, "filters": filters})
    client = plane.client()
    client.sends(HEAD % (request_line, fields) + CHUNKED + b"0\r\n\r\n")
    plane.connects().sends(OK)
    assert client.received.startswith(b"HTTP/1.1 200 ")
    plane.assert_quiet()


REFUSED = {
    "validate": ({"validate": VALIDATE}, "expected a body"),
    "graphql": ({"graphql": {"max_depth": 3}}, "The request has no body."),
}


@pytest.mark.parametrize(("filters", "why"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_where_a_body_is_required(filters: dict[str, Any], why: str) -> None:
    plane = Plane({**SERVICE, "filters": filters})
    client = plane.client()
    client.sends(HEAD % (POST, JSON) + CHUNKED + b"0\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 400 ")
    assert why.encode() in client.received


@pytest.mark.parametrize(("filters", "request_line", "fields"), PASSES.values(), ids=PASSES)
def test_a_body_of_undeclared_length_that_is_not_empty_is_judged(
    filters: dict[str, Any], request_line: bytes, fields: bytes
) -> None:
    plane = Plane({**SERVICE, "filters": filters})
    client = plane.client()
    client.sends(HEAD % (request_line, fields) + CHUNKED + b"1\r\na\r\n0\r\n\r\n")
    assert client.received.startswith(b"HTTP/1.1 4")


ENDS = {
    "data": frames.data(),
    "trailers": frames.headers(frames.block((b"x-sum", b"1"))),
}


def ask(plane: Plane, method: bytes, fields: list[tuple[bytes, bytes]], end: bytes, *, at_once: bool) -> None:
    """Send a request over HTTP/2 with the declared length 0, which ends after its head."""
    client = begins(plane)
    length = (b"content-length", b"0")
    head = frames.headers(frames.block(*frames.pseudo(method, b"/a?x=1"), *fields, length), end=False)
    for piece in (head + end,) if at_once else (head, end):
        client.sends(piece)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(("body", "status"), [(b'{"amount": 1000}', 401), (b"", 200), (None, 200)])
def test_the_digest_of_a_body_of_length_0_is_that_of_no_bytes(
    body: bytes | None, status: int, end: bytes, at_once: bool
) -> None:
    """So a signed request whose body was removed is refused."""
    route = {"name": "all", "upstream": "u", "filters": {"hmac": {}}}
    plane = Plane({**HTTP2, "routes": [route], "consumers": CONSUMERS})
    lines = [line.split(": ", 1) for line in signed(method="POST", **({} if body is None else {"body": body}))]
    fields = [(name.lower().encode(), value.encode()) for name, value in lines]
    ask(plane, b"POST", fields, end, at_once=at_once)
    if status == 200:
        plane.connects().sends(OK)
    assert [record.status for record in plane.records] == [status]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(("filters", "status"), [({"validate": OPTIONAL}, 200), ({"validate": VALIDATE}, 400)])
def test_a_body_of_length_0_is_none_whenever_its_end_comes(
    filters: dict[str, Any], status: int, end: bytes, at_once: bool
) -> None:
    plane = Plane({**HTTP2, "filters": filters})
    kind = b"text/plain" if status == 200 else b"application/json"
    ask(plane, b"POST", [(b"content-type", kind)], end, at_once=at_once)
    if status == 200:
        plane.connects().sends(OK)
    assert [record.status for record in plane.records] == [status]
