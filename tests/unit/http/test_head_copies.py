"""Copies of heads, as filters in shadow mode get them: equal, and changed apart."""

from __future__ import annotations

import pytest

from fastgw.http.http1.parser import (
    copy_of_request,
    copy_of_response,
    make_request,
    parse_request,
    parse_response,
    read_http2_request,
    stand_in_head,
)
from fastgw.http.messages import RequestHead, ResponseHead
from tests.support.head_lines import lines_found

BOTH = ["body_length", "close", "connection_named", "http2", "length", "minor", "raw", "upgrade", "version"]
OF_REQUESTS = [
    "accepts_trailers",
    "authority",
    "connect_protocol",
    "expects_continue",
    "forwarded",
    "host",
    "host_as_sent",
    "method",
    "path",
    "path_as_sent",
    "plain",
    "query",
    "raw_path",
    "received_s",
    "request_target",
    "scheme",
    "sized",
]
OF_RESPONSES = ["has_body", "payload", "reason", "status", "until_close"]

FIELDS = (
    b"Host: A.test:80\r\nUser-Agent: u\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: x-own, close\r\nX-Own: 1\r\n\r\n"
)
BODY = b"Host: a\r\nExpect: 100-continue\r\nTE: trailers\r\nContent-Length: 5\r\n\r\n"


def by_connect() -> RequestHead:
    head = read_http2_request(b"GET /chat HTTP/1.1\r\nHost: a\r\n\r\n", 100, None)
    head.came_by_connect(b"websocket")
    return head


@pytest.mark.parametrize(
    "head",
    [
        parse_request(b"GET /a//b/../c%2f?d=e HTTP/1.1\r\n" + FIELDS),
        parse_request(b"POST /a HTTP/1.1\r\n" + BODY),
        parse_request(b"GET http://a/x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n"),
        parse_request(b"GET / HTTP/1.0\r\n\r\n"),
        read_http2_request(b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 2\r\n\r\n", 100, b"ab"),
        by_connect(),
        make_request(b"GET", b"/made", b"", b"A: b\r\n"),
        stand_in_head(b"G@T", b"", b"//***@a/x", b"", b"A: b\r\n", 20),
        stand_in_head(b"tcp", b"name.test", version=1),
    ],
    ids=repr,
)
def test_a_copy_of_a_request_is_equal_and_changed_apart(head: RequestHead) -> None:
    head.received_s = 1.5
    copy = copy_of_request(head)
    for name in BOTH + OF_REQUESTS:
        assert getattr(copy, name) == getattr(head, name), name
    assert lines_found(copy) == lines_found(head)
    assert [*copy.fields()] == [*head.fields()]
    copy.fields().set(b"A", b"changed")
    assert (head.edited(), copy.first(b"a")) == (None, b"changed")
    assert [*copy_of_request(copy).fields()] == [*copy.fields()]


@pytest.mark.parametrize(
    "head",
    [
        parse_response(b"HTTP/1.1 200 Fine\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"GET"),
        parse_response(b"HTTP/1.1 299 \r\nTransfer-Encoding: chunked\r\n\r\n", b"GET"),
        parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"HEAD"),
        parse_response(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n", b"GET"),
        parse_response(b"HTTP/1.1 101 \r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n", b"GET"),
    ],
    ids=repr,
)
def test_a_copy_of_a_response_is_equal_and_changed_apart(head: ResponseHead) -> None:
    copy = copy_of_response(head)
    for name in BOTH + OF_RESPONSES:
        assert getattr(copy, name) == getattr(head, name), name
    assert lines_found(copy) == lines_found(head)
    copy.fields().set(b"A", b"changed")
    assert (head.edited(), copy.first(b"a")) == (None, b"changed")
